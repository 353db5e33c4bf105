//! The schema and the settings reference are what the code says, and what people copy from the documentation is good.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use serde_json::Value;

use super::schema_check::{faults, inconsistent};
use super::{Config, reference};

/// Where the generated part of docs/settings.md begins.
const MARK: &str =
    "<!-- From here on generated from the code: UPDATE_DOCS=1 cargo test -p sluice settings_are_documented -->\n";

/// What an example that shows one thing leaves out.
const REST: [(&str, &str); 3] = [
    ("[[listener]]", "[[listener]]\nbind = \"127.0.0.1:0\"\n"),
    ("[[route]]", "[[route]]\nbackend = \"app\"\n"),
    ("[[backend]]", "[[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:1\"]\n"),
];

fn schema() -> Value {
    Config::schema().to_value()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(file)).expect(file)
}

/// Compares a file with what it should be, or makes it that.
fn same(file: &str, is: &str, should: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(file);
        return std::fs::write(path, should).unwrap();
    }
    assert!(is == should, "{file} is not what the code does: run this test with UPDATE_DOCS=1");
}

/// An example with what it leaves out.
fn whole(example: &str) -> String {
    let rest = REST.iter().filter(|(table, _)| !example.contains(table)).map(|(_, text)| *text);
    rest.chain([example]).collect()
}

fn wrong(text: &str) -> Vec<String> {
    toml::from_str::<Value>(text).map_or_else(|error| vec![error.to_string()], |value| faults(&schema(), &value))
}

#[test]
fn settings_are_documented() {
    let text = read("docs/settings.md");
    let (written, _) = text.split_once(MARK).expect("docs/settings.md has lost its mark");
    same("docs/settings.md", &text, &format!("{written}{MARK}{}", reference::write(&schema())));
}

#[test]
fn the_schema_is_in_the_documentation() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sluice.schema.json"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    same("docs/sluice.schema.json", &text, &format!("{:#}\n", schema()));
}

#[test]
fn the_schema_allows_its_own_defaults_and_examples() {
    assert_eq!(inconsistent(&schema()), Vec::<String>::new());
}

#[test]
fn what_the_documentation_shows_is_taken() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut texts = vec![("README.md".into(), read("README.md"))];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            texts.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    let mut count = 0;
    for (file, text) in texts {
        for example in text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let example = whole(example);
            assert_eq!(wrong(&example), Vec::<String>::new(), "{file}: {example}");
            Config::parse(&example, &file).unwrap_or_else(|error| panic!("{error}\n{example}"));
            count += 1;
        }
    }
    assert!(count >= 13, "{count}");
}

#[test]
fn the_examples_are_what_the_schema_allows() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"));
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(wrong(&text), Vec::<String>::new(), "{}", file.display());
        let config = Config::parse(&text, "example").unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        crate::gate::check(&config).unwrap_or_else(|error| panic!("{}: {error:#}", file.display()));
    }
}

/// Settings that both the schema and Sluice refuse. The schema says so before anything is started.
#[test]
fn what_the_schema_refuses_is_refused() {
    let listener = |line: &str| format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{line}");
    let route = |line: &str| format!("[[route]]\nbackend = \"app\"\n{line}");
    let backend = |line: &str| format!("[[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:1\"]\n{line}");
    for bad in [
        "colour = 1".into(),
        "[relay]\nidle = \"1s\"".into(),
        "[relay]\nidle_timeout = 60".into(),
        "[relay]\nidle_timeout = \"never\"".into(),
        "[relay]\nengine = \"fast\"".into(),
        "[relay]\nbacklog_limit = 1024".into(),
        "[timeouts]\ndial = \"3\"".into(),
        "[timeouts]\ndial = \"off\"".into(),
        "[limits]\nhead_bytes = 4096".into(),
        "[limits]\nhead_bytes = 65537".into(),
        "[limits]\nhttp2_streams = 0".into(),
        "[limits]\nhttp2_resets = 0".into(),
        "[limits]\nresponse_header_count = 0".into(),
        backend("header_case = \"camel\""),
        "[limits]\nconnections = -1".into(),
        "[limits]\nconnections = \"many\"".into(),
        "[admin]".into(),
        "[admin]\nlisten = \"localhost:9900\"".into(),
        "[forwarded]\ntrusted = \"10.0.0.0/8\"".into(),
        "[forwarded]\nread = \"x-real-ip\"".into(),
        "[process]\nuser = 65534".into(),
        "[[error]]\nstatus = 502\nbody = \"\"".into(),
        "[[listener]]\nbind = \"example.com:80\"".into(),
        "[[listener]]\nport = 80".into(),
        listener("tls = { certificate = \"cert.pem\" }"),
        listener("tls = { certificate = \"c\", key = \"k\", min_version = 1.2 }"),
        listener("tls = { certificate = \"c\", key = \"k\", min_version = \"1.1\" }"),
        listener("mode = 0o660"),
        listener("backlog = 0"),
        listener("http2 = \"no\""),
        listener("proxy_protocol = true"),
        listener("proxy_protocol = { from = [] }"),
        route("origin = \"https://a.example\""),
        route("origins = [\"a.example\"]"),
        route("origins = [\"https://a.*.example\"]"),
        route("no_origin = true"),
        route("http = \"pass\""),
        route("host = 1"),
        route("path = { glob = \"/*\" }"),
        route("path = { exact = \"/a\", pattern = \"/b\" }"),
        route("rewrite = \"/x\""),
        route("methods = \"GET\""),
        route("headers = [{ value = \"x\" }]"),
        route("request_headers = { set = [\"a: b\"] }"),
        "[[route]]\npath = \"/\"".into(),
        backend("tls = true"),
        backend("tls = { verify = false }"),
        backend("sticky = true"),
        backend("send_proxy = 2"),
        backend("check = \"tcp\""),
        backend("check = { path = \"/\" }"),
        backend("check = { kind = \"http\", status = [200] }"),
        backend("check = { kind = \"http\", status = [\"2xx\"] }"),
        backend("check = { kind = \"tcp\", rise = 0 }"),
        backend("check = { kind = \"tcp\", jitter = 1.5 }"),
        backend("ejection = \"off\""),
        backend("ejection = { min_up = 50 }"),
        backend("slow_start = 30"),
        backend("balance = \"random\""),
        backend("balance = { maglev = \"header\" }"),
        backend("balance = { maglev = { body = \"x\" } }"),
        "[[backend]]\nname = \"app\"\nservers = []".into(),
        "[[backend]]\nname = \"app\"\nservers = \"127.0.0.1:1\"".into(),
    ] {
        // What stands before the first table is a setting of its own.
        let text = if bad.starts_with('[') { whole(&bad) } else { format!("{bad}\n{}", whole("")) };
        assert!(!wrong(&text).is_empty(), "the schema allows {bad}");
        assert!(Config::parse(&text, "test").is_err(), "Sluice takes {bad}");
    }
    let good = toml::from_str::<Value>(&whole("")).unwrap();
    assert_eq!(faults(&schema(), &good), Vec::<String>::new(), "all of these were wrong for another reason");
}
