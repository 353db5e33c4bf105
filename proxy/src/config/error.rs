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

/// Words that stand beside what nobody but the operator may read, in lower case. `headers`: fields that a route sets may be
/// a backend's passwords.
const SECRET: [&str; 10] =
    ["headers", "authorization", "bearer", "cookie", "token", "secret", "passw", "api-key", "apikey", "private key"];

/// Says what is wrong with the text of a file. A line that may hold a secret is shown up to its first `=`. `put_in`: as for
/// [`readable`].
pub(super) fn shown(text: &str, error: &toml::de::Error, put_in: Option<&str>) -> String {
    let said = readable(error, put_in);
    // What is said of a value that something was put in names no value.
    if may_hold_secret(text, error) { veiled(&said, put_in.is_none()) } else { said }
}

/// Whether the wrong place may be a secret, by the line that it is on and the table that it is in.
fn may_hold_secret(text: &str, error: &toml::de::Error) -> bool {
    let span = error.span().unwrap_or(0..text.len());
    let begin = text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let end = text.get(span.end..).and_then(|behind| behind.find('\n')).map_or(text.len(), |at| span.end + at);
    let before = text.get(..begin).unwrap_or_default();
    let table = before.lines().rev().find(|line| line.trim_start().starts_with('[')).unwrap_or_default();
    let place = format!("{table}\n{}", text.get(begin..end).unwrap_or(text)).to_lowercase();
    SECRET.iter().any(|word| place.contains(word))
}

/// A message without the values of its line: neither where the line is shown, nor, if it does, where it names the wrong
/// value, which comes first of what is in quotes.
fn veiled(message: &str, names_value: bool) -> String {
    let mut lines = Vec::new();
    for line in message.lines() {
        let shown = line.split_once(" | ").filter(|(number, _)| number.trim().parse::<u64>().is_ok());
        let line = match shown {
            Some((number, source)) => {
                format!("{number} | {} …", source.split('=').next().unwrap_or_default().trim_end())
            }
            None if names_value => unquoted(line),
            None => line.to_owned(),
        };
        lines.push(line);
    }
    lines.join("\n")
}

/// A line without what its first quotes hold.
fn unquoted(line: &str) -> String {
    let Some((before, quoted)) = line.split_once('"') else { return line.to_owned() };
    let mut escaped = false;
    let end = quoted.char_indices().find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    let behind = end.and_then(|(at, _)| quoted.get(at..)).unwrap_or("\"");
    format!("{before}\"…{behind}")
}

/// The line and what is wrong there. `put_in`: how a value was written that `${…}` is in; no more of it is told than that.
fn readable(error: &toml::de::Error, put_in: Option<&str>) -> String {
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

    #[test]
    fn a_line_that_may_hold_a_secret_is_not_repeated() {
        const SECRET: &str = "c2VjcmV0LXNlY3JldA";
        for wrong in [
            format!("request_headers = {{ set = {{ Authorization = \"Bearer {SECRET} }} }}"),
            format!("request_headers = {{ set = \"Authorization: {SECRET}\" }}"),
            format!("request_headers = {{ set = {{ X-Key = [\"{SECRET}\"] }} }}"),
            format!("[route.request_headers.set]\nX-Key = {{ a = \"{SECRET}\" }}"),
            format!("[route.request_headers.set]\nX-Key = \"{SECRET}"),
            format!("[route.request_headers]\nset = \"\"\"\n{SECRET}\n\"\"\""),
            format!("[[auth]]\nname = \"a\"\njwt = {{ secret = [\"{SECRET}\"] }}"),
            format!("[[auth]]\nname = \"a\"\njwt = {{ secret = \"{SECRET}"),
            format!("token = \"{SECRET}\""),
        ] {
            let said = message(&wrong);
            let windows = SECRET.as_bytes().windows(8).map(|window| std::str::from_utf8(window).unwrap());
            let shown = windows.into_iter().find(|window| said.contains(window));
            assert_eq!(shown, None, "{wrong}\n{said}");
            assert!(said.starts_with("test.toml: line "), "{said}");
        }
    }
}
