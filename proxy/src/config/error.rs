//! Why a configuration is refused, in words that need no Rust.

use std::path::PathBuf;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {reason}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// It is not TOML, or a key or value is not known.
    #[error("{name}: {what}")]
    Parse {
        /// The file.
        name: String,
        /// The reason, with its line.
        what: String,
    },
    /// A file with an error body cannot be used.
    #[error("cannot read the error body {path}: {reason}", path = path.display())]
    ErrorBody {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// It contradicts itself.
    #[error("{name}: {what}")]
    Contradiction {
        /// The file.
        name: String,
        /// What, and what to do.
        what: String,
    },
}

/// What serde says in Rust's words, and in those of TOML.
const WORDS: [(&str, &str); 13] = [
    ("unknown field `include`", "`include` belongs in front of the first table, so it is an unknown field"),
    ("expected a sequence", "expected a list: [..], or for tables [[..]]"),
    ("wanted exactly 1 element, more than 1 element", "there may be one key only"),
    ("wanted string or table", "expected a text in quotes"),
    ("expected a string", "expected a text in quotes"),
    ("expected a map", "expected a table"),
    ("expected u16", "expected a whole number from 0 to 65535"),
    ("expected u32", "expected a whole number from 0 to 4294967295"),
    ("expected u64", "expected a whole number, 0 or more"),
    ("expected usize", "expected a whole number, 0 or more"),
    ("expected i32", "expected a whole number"),
    ("unknown variant", "unknown value"),
    ("invalid socket address syntax", "it is no address and port, such as \"127.0.0.1:9900\""),
];

/// The line and what is wrong there. `put_in`: how a value was written that `${…}` is in; no more of it is told than that.
pub(super) fn readable(error: &toml::de::Error, put_in: Option<&str>) -> String {
    let (whole, message) = (error.to_string(), error.message());
    let told = match put_in {
        None => message.to_owned(),
        Some(written) => {
            let expected = message.rsplit_once(", expected ").map(|(_, expected)| format!(", expected {expected}"));
            format!("this setting does not take what {written} stands for{}", expected.unwrap_or_default())
        }
    };
    let said = match told.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected a table"),
        None => WORDS.iter().fold(told, |said, (rust, toml)| said.replace(rust, toml)),
    };
    let place = whole.trim_end().strip_suffix(message.trim_end()).unwrap_or_default();
    format!("{}{said}", place.replacen("TOML parse error at ", "", 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::config::Config;

    fn message(lines: &str) -> String {
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:1\"]\n\
             [[route]]\nbackend = \"app\"\n{lines}\n"
        );
        Config::parse(&text, "test.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_message_has_the_place_and_says_it_once() {
        assert_eq!(
            message("http = \"pass\""),
            "test.toml: line 8, column 8\n  |\n8 | http = \"pass\"\n  |        ^^^^^^\n\
             unknown value `pass`, expected `reject` or `forward`"
        );
    }

    #[test]
    fn messages_say_what_to_write() {
        for (wrong, says) in [
            ("pathh = \"/\"", "unknown field `pathh`"),
            ("http = true", "expected a text in quotes"),
            ("host = 1", "expected a text in quotes"),
            ("origins = \"same-origin\"", "expected a list: [..]"),
            ("origins = [\"*\"]", "name those that may"),
            ("origins = [\"https://a.test/\"]", "no / at its end"),
            ("limits = 5", "expected a table"),
            ("limits = { connections = \"5\" }", "expected a whole number from 0 to 4294967295"),
            ("timeouts = { dial = 5 }", "expected a text in quotes"),
            ("timeouts = { dial = \"0s\" }", "no time at all"),
            ("relay = { idle_timeout = \"5\" }", "or \"off\""),
            ("path = { exact = \"/a\", pattern = \"/b\" }", "one key only"),
            ("rewrite = { prefix = \"/a\", replace = \"/b\" }", "one key only"),
            ("[admin]\nlisten = \":9900\"", "such as \"127.0.0.1:9900\""),
            (
                "[[route]]\nhost = \"a.test\"\nbackend = \"b\"",
                "[[route]] 2 (host a.test, path \"/\"): there is no backend",
            ),
        ] {
            assert!(message(wrong).contains(says), "{wrong}: {}", message(wrong));
        }
    }
}
