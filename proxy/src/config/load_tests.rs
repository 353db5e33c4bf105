#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use super::*;

/// A folder of a test's own, removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let folder = Self(std::env::temp_dir().join(format!("sluice-load-{}-{name}", std::process::id())));
        for (file, text) in files {
            let path = folder.0.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn load(&self) -> Result<Config, String> {
        Config::load(&self.0.join("sluice.toml")).map_err(|error| {
            let folder = format!("{}/", self.0.display());
            error.to_string().replace(&folder, "")
        })
    }

    fn error(&self) -> String {
        self.load().unwrap_err()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

const MAIN: &str = "include = [\"conf.d/*.toml\"]\n[[listener]]\nbind = \"127.0.0.1:0\"\n[timeouts]\ndial = \"2s\"\n";
const APP: &str = "[[route]]\npath = \"/a\"\nbackend = \"app\"\n\
                   [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:1\"]\ntls = { ca = \"ca.pem\" }\n";

#[test]
fn included_files_add_to_the_first_one() {
    let other = "[[route]]\npath = \"/b\"\nbackend = \"app\"\n[relay]\nidle_timeout = \"9s\"\n";
    let folder = Folder::new(
        "adds",
        &[
            ("sluice.toml", MAIN),
            ("conf.d/20.toml", other),
            ("conf.d/10.toml", APP),
            ("conf.d/notes.txt", "no TOML"),
            ("conf.d/.hidden.toml", "no TOML"),
        ],
    );
    let config = folder.load().unwrap();
    let paths: Vec<String> = config.routes.iter().map(|route| route.path.to_string()).collect();
    assert_eq!(paths, ["/a", "/b"], "by name");
    assert_eq!(
        config.backends[0].tls.as_ref().unwrap().ca,
        Some(folder.0.join("ca.pem")),
        "from the first one's folder"
    );
    assert_eq!((config.timeouts.dial.as_secs(), config.relay.idle_timeout.unwrap().as_secs()), (2, 9));
}

#[test]
fn errors_name_the_file_and_the_line() {
    let error = |text: &str| Folder::new("errors", &[("sluice.toml", MAIN), ("conf.d/a.toml", text)]).error();
    for (text, says) in [
        ("\n[[route]]\npathh = 1", "conf.d/a.toml: line 3, column 1"),
        ("[[route]", "conf.d/a.toml: line 1"),
        ("\n[timeouts]\ndial = \"1s\"", "conf.d/a.toml, line 2: [timeouts] is in sluice.toml, line 4 as well"),
        ("include = [\"b\"]", "conf.d/a.toml, line 1: an included file cannot include others"),
        ("[[route]]\nbackend = \"gone\"", "sluice.toml with what it includes: [[route]] 1"),
        ("[[route]]\ninclude = [\"b\"]", "`include` belongs in front of the first table"),
        ("[[route]]\nbackend = \"${NOT_SET}\"", "conf.d/a.toml: line 2: the environment has no variable NOT_SET"),
    ] {
        assert!(error(text).contains(says), "{text}: {}", error(text));
    }
    for (main, says) in [
        ("include = [\"gone.toml\"]", "cannot read the configuration gone.toml"),
        ("include = [\"gone/*.toml\"]", "sluice.toml: include has \"gone/*.toml\": cannot read gone"),
    ] {
        let error = Folder::new("gone", &[("sluice.toml", main)]).error().replace("gone: No", "gone No");
        assert!(error.contains(says), "{main}: {error}");
    }
}

#[test]
fn values_come_from_elsewhere() {
    let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"${file:name}\"\n\
                path = { pattern = \"/(?P<A>x)\" }\nrewrite = { replace = \"/${A}\" }\n\
                request_headers.set = { authorization = \"Bearer ${file:token}\", x-a = \"$${A}\" }\n\
                [[backend]]\nname = \"app\"\nservers = [\"${file:server}\"]\n[relay]\nengine = \"${file:engine}\"\n";
    let files = [("name", "app\r\n"), ("token", "hunter2\n"), ("server", "127.0.0.1:1"), ("engine", "copy\n")];
    let folder = Folder::new("values", &[&files[..], &[("sluice.toml", text)]].concat());
    let config = folder.load().unwrap();
    let set = &config.routes[0].request_headers.set;
    assert_eq!((set["authorization"].as_str(), set["x-a"].as_str()), ("Bearer hunter2", "${A}"));
    assert_eq!(config.backends[0].servers.len(), 1);
    assert!(!format!("{config:?}").contains("hidden: Hidden([") && config.hide("a hunter2") == "a ${file:token}");
}

#[test]
fn no_error_shows_what_was_put_in() {
    let whole = |lines: &str| {
        format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:1\"]\n{lines}\n"
        )
    };
    for (lines, says) in [
        ("[relay]\nengine = \"${file:secret}\"", "what \"${file:secret}\" stands for, expected one of `auto`"),
        ("[relay]\nidle_timeout = \"${file:secret}\"", "line 7, column 16"),
        ("[[route]]\nbackend = \"${file:secret}\"", "there is no backend \"${file:secret}\""),
        ("[[route]]\nbackend = \"app\"\norigins = [\"https://${file:secret}/\"]", "line 8, column 11"),
        ("[[route]]\nbackend = \"app\"\n[limits]\nhead_bytes = \"${file:secret}\"", "whole number"),
        ("[[route]]\nbackend = \"app\"\nhost = 1\n[admin]\nlisten = \"${file:secret}\"", "line 10, column 10"),
    ] {
        let error = Folder::new("hides", &[("secret", "hunter2 \"q\"\n"), ("sluice.toml", &whole(lines))]).error();
        assert!(error.contains(says) && !error.contains("hunter2"), "{lines}: {error}");
    }
}
