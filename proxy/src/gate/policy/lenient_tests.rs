#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::config::{Config, Forwarded};
use crate::gate::handshake::{Scheme, Visitor};
use crate::gate::judge::Verdict;

/// Routes that take plain HTTP, in this order, with these settings.
struct Site(Routes);

impl Site {
    fn new(routes: &[&str]) -> Self {
        let routes: Vec<String> =
            routes.iter().map(|one| format!("[[route]]\nbackend = \"a\"\nhttp = \"forward\"\n{one}\n")).collect();
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:1\"]\n{}\
             [[auth]]\nname = \"users\"\nbasic = {{ users = \"u\" }}\n[[auth]]\nname = \"robots\"\n\
             api_key = {{ keys = \"k\" }}\n",
            routes.concat()
        );
        Self(Routes::new(&Config::parse(&text, "test").unwrap()).unwrap())
    }

    /// Which route serves a request.
    fn asks(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Result<u16, Refusal> {
        let mut request = http::Request::builder().method(method).uri(target);
        if !fields.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "a.test");
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let Ok(request) = request.body(()) else { return Err(Refusal::Malformed) };
        let head = request.into_parts().0;
        let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let visitor = Visitor::judge(&Forwarded::default(), peer.into(), Scheme::Plain, &head.headers);
        Verdict::judge(&self.0, &head, &visitor).map(|verdict| verdict.rule.way.route)
    }

    fn gets(&self, target: &str) -> Result<u16, Refusal> {
        self.asks("GET", target, &[])
    }
}

const REFUSED: Result<u16, Refusal> = Err(Refusal::Path);

#[test]
fn no_spelling_of_a_protected_path_takes_an_open_route() {
    let site = Site::new(&["", "path = \"/admin\"\nauth = [\"users\"]"]);
    for path in ["/admin", "/admin/x", "/%61dmin", "//admin", "/admin%2fx", "/admin/x;y=1", "/admin/%5c"] {
        assert_eq!(site.gets(path), Ok(1), "{path}");
    }
    for path in [
        "/ADMIN",
        "/aDmin/x",
        "/admin;x",
        "/admin;x/y",
        "/;/admin",
        "/x;/../admin",
        "/admin%5cx",
        "/%5cadmin",
        "/\\admin",
        "/%2561dmin",
        "/%252561dmin",
        "/%c0%afadmin",
        "/%c1%a1dmin",
        "/x%c0%afy",
        "/%ef%bd%81dmin",
        "/admin.",
        "/admin%20",
        "/admin%3fx",
        "/a/%252e%252e/admin",
        "/a%255c..%255cadmin",
    ] {
        assert_eq!(site.gets(path), REFUSED, "{path}");
    }
    for path in ["/", "/app;jsessionid=1", "/administrator", "/x/admin", "/a%252Fb", "/A/B", "/admin.json", "/a%5cb"] {
        assert_eq!(site.gets(path), Ok(0), "{path}");
    }
}

#[test]
fn where_nothing_is_protected_every_spelling_passes() {
    let site = Site::new(&["", "path = \"/app\"", "path = { exact = \"/one\" }"]);
    for path in ["/app;jsessionid=1", "/APP", "/;/app", "/%2561pp", "/app%5cx", "/x%c0%afy", "/one/", "/a/%252e%252e/b"]
    {
        assert_eq!(site.gets(path), Ok(0), "{path}");
    }
}

#[test]
fn what_an_operator_opens_inside_is_open() {
    let site = Site::new(&["auth = [\"users\"]", "path = \"/public\"", "path = \"/public/Own\"\nauth = [\"robots\"]"]);
    for path in ["/public", "/public/x", "/public/x;v=1", "/public/X", "/public/x%5cy", "/public/a%252Fb"] {
        assert_eq!(site.gets(path), Ok(1), "{path}");
    }
    assert_eq!(site.gets("/Public/x"), Ok(0));
    // A backend that looks for its routes before it decodes has one name here, below /.
    assert_eq!(site.gets("/public%2fx"), REFUSED);
    assert_eq!(site.gets("/%70ublic/x"), REFUSED);
    // To the same backend, or to one that keeps empty segments, this is another path, too.
    for path in ["/%70ublic", "/publi%63", "//public", "//public/x"] {
        assert_eq!(site.gets(path), REFUSED, "{path}");
    }
    for path in ["/public//x", "/public/%78", "/public/", "/public//"] {
        assert_eq!(site.gets(path), Ok(1), "{path}");
    }
    assert_eq!(site.gets("/public/%252e%252e/x"), REFUSED);
    assert_eq!(site.gets("/public/own"), REFUSED);
    assert_eq!(site.gets("/public/Own"), Ok(2));
}

#[test]
fn an_open_route_inside_a_protected_one_serves_its_own_spelling_only() {
    let site = Site::new(&["", "path = \"/admin\"\nauth = [\"users\"]", "path = \"/admin/public\""]);
    for path in ["/admin/public", "/admin/public/x", "/admin/public//x", "/admin/public/%78"] {
        assert_eq!(site.gets(path), Ok(2), "{path}");
    }
    for path in [
        "/admin/%70ublic",
        "/admin//public",
        "/admin//public/x",
        "/admin/%2fpublic",
        "/admin/;/public",
        "/admin/%2570ublic",
        "/admin/publi%63",
    ] {
        assert!([REFUSED, Ok(1)].contains(&site.gets(path)), "{path}: {:?}", site.gets(path));
    }
    assert_eq!((site.gets("/admin/%70ublic"), site.gets("/admin//public")), (REFUSED, REFUSED));
    // Without decoding, it lies below / and not below /admin.
    assert_eq!(site.gets("/admin%2fpublic"), Ok(2));
    let exact = Site::new(&["auth = [\"users\"]", "path = { exact = \"/p/caf%C3%A9%20x\" }"]);
    assert_eq!((exact.gets("/p/caf%C3%A9%20x"), exact.gets("/p//caf%c3%a9%20x")), (Ok(1), REFUSED));
    assert_eq!((exact.gets("/%70/caf%C3%A9%20x"), exact.gets("/p/caf%c3%a9%20x")), (REFUSED, Ok(1)));
}

#[test]
fn an_exact_path_and_a_pattern_are_protected_too() {
    let site = Site::new(&[
        "",
        "path = { exact = \"/one\" }\nauth = [\"users\"]",
        "path = { pattern = \"/r/[a-z]+\" }\nauth = [\"users\"]",
    ]);
    for path in ["/one/", "/One", "/one;x", "/one%3f", "/r/ABC", "/r/abc/", "/r/%2561", "/r;/abc"] {
        assert_eq!(site.gets(path), REFUSED, "{path}");
    }
    for path in ["/one/x", "/ones", "/r/1", "/r/abc/d"] {
        assert_eq!(site.gets(path), Ok(0), "{path}");
    }
}

#[test]
fn the_case_of_letters_can_be_decided() {
    let same = Site::new(&[
        "",
        "path = \"/admin\"\nauth = [\"users\"]\ncase_insensitive = true\nrewrite = { strip_prefix = true }",
        "path = { pattern = \"/r/([a-z]+)\" }\ncase_insensitive = true\nrewrite = { replace = \"/x/$1\" }",
    ]);
    assert_eq!((same.gets("/ADMIN/x"), same.gets("/Admin;x"), same.gets("/R/Abc")), (Ok(1), REFUSED, Ok(2)));
    let differs = Site::new(&["", "path = \"/admin\"\nauth = [\"users\"]\ncase_insensitive = false"]);
    assert_eq!((differs.gets("/ADMIN"), differs.gets("/admin;x"), differs.gets("/ADMIN;x")), (Ok(0), REFUSED, Ok(0)));
    // What is written so is meant so.
    let both = Site::new(&["path = \"/Admin\"", "path = \"/admin\"\nauth = [\"users\"]"]);
    assert_eq!(
        (both.gets("/Admin/x"), both.gets("/admin/x"), both.gets("/aDmin")),
        (Ok(0), Ok(1), Err(Refusal::NoRoute))
    );
    let open = Site::new(&["", "path = { exact = \"/Admin\" }", "path = \"/admin\"\nauth = [\"users\"]"]);
    assert_eq!((open.gets("/Admin"), open.gets("/Admin/x"), open.gets("/ADMIN")), (Ok(1), REFUSED, REFUSED));
}

#[test]
fn who_shows_enough_for_both_routes_may_go_on() {
    let site = Site::new(&[
        "path = \"/a\"\nauth = [\"users\"]",
        "path = \"/a/both\"\nauth = [\"users\", \"robots\"]",
        "auth = [\"users\"]",
    ]);
    assert_eq!(site.gets("/A"), Ok(2));
    // A robot may not enter /a.
    assert_eq!(site.gets("/a/both/%252e%252e"), REFUSED);
    assert_eq!(site.gets("/A/both"), Ok(2));
}

#[test]
fn addresses_and_origins_hold_for_other_spellings_too() {
    let site = Site::new(&["", "path = \"/in\"\nallow = [\"10.0.0.0/8\"]", "path = \"/out\"\ndeny = [\"10.0.0.0/8\"]"]);
    assert_eq!(site.gets("/IN"), Err(Refusal::AddressDenied));
    assert_eq!(site.gets("/OUT"), Ok(0));
    let site = Site::new(&["origins = [\"https://a.test\"]", "path = \"/own\""]);
    let from = |path: &str, origin: &str| site.asks("POST", path, &[("origin", origin)]);
    assert_eq!(from("/x", "https://a.test"), Ok(0));
    assert_eq!(from("/OWN", "https://a.test"), Err(Refusal::OriginDenied));
    assert_eq!(from("/own;x", "https://a.test"), Err(Refusal::OriginDenied));
}

#[test]
fn a_head_is_a_get_and_no_field_changes_a_method() {
    let site = Site::new(&["", "path = \"/a\"\nmethods = [\"GET\"]\nauth = [\"users\"]"]);
    assert_eq!(site.asks("HEAD", "/a", &[]), REFUSED);
    assert_eq!((site.asks("POST", "/a", &[]), site.asks("HEAD", "/b", &[])), (Ok(0), Ok(0)));
    let mut headers = HeaderMap::new();
    for name in ["x-http-method-override", "x-http-method", "x-method-override", "x-method"] {
        headers.insert(name, http::HeaderValue::from_static("GET"));
    }
    Site::new(&["", "path = \"/a\"\nauth = [\"users\"]"]).0.keep_method(&mut headers);
    assert_eq!(headers.len(), 4, "no route is chosen by its method");
    site.0.keep_method(&mut headers);
    assert_eq!(headers.len(), 1);
}

#[test]
fn a_known_method_has_one_case() {
    let site = Site::new(&["", "path = \"/a\"\nmethods = [\"POST\", \"PURGE\"]\nauth = [\"users\"]"]);
    for method in ["post", "Post", "get", "hEAD", "put", "delete", "options", "patch", "trace", "connect", "purge"] {
        assert_eq!(site.asks(method, "/a", &[]), Err(Refusal::Malformed), "{method}");
    }
    let upgrade = [("upgrade", "websocket"), ("connection", "upgrade")];
    assert_eq!(site.asks("get", "/", &upgrade), Err(Refusal::Malformed));
    for (method, route) in [("POST", 1), ("PURGE", 1), ("GET", 0), ("PATCH", 0), ("propfind", 0), ("Move", 0)] {
        assert_eq!(site.asks(method, "/a", &[]), Ok(route), "{method}");
    }
    assert_eq!(Site::new(&[""]).asks("purge", "/a", &[]), Ok(0), "nobody names it");
}

#[test]
fn no_spelling_of_a_protected_host_takes_an_open_route() {
    let site = Site::new(&["", "host = [\"admin.example\", \"*.in.example\"]\nauth = [\"users\"]"]);
    let at = |host: &str| site.asks("GET", "/", &[("host", host)]);
    for host in
        ["admin.example", "ADMIN.example:80", "admin.example.", "admin.example.:80", "a.in.example", "a.IN.example."]
    {
        assert_eq!(at(host), Ok(1), "{host}");
    }
    for host in [
        "adm%69n.example",
        "%61dmin.example",
        "a%C2%ADdmin.example",
        "a.i%6e.example",
        "adm\u{131}n.example",
        "\u{ff41}dmin.example",
        "a\u{ad}dmin.example",
        "user@admin.example",
        "admin.example\\",
        "admin\t.example",
        "admin.example, a.test",
        "admin.example..",
        "[admin.example]",
    ] {
        assert_eq!(at(host), Err(Refusal::Host), "{host}");
    }
    assert_eq!((at("a.test"), at("in.example"), at("xadmin.example")), (Ok(0), Ok(0), Ok(0)));
}

proptest! {
    /// Whatever is asked for: the open route serves nothing that is the protected path by the plain rules of a backend
    /// that decodes until nothing is left to decode, takes `\` and `;` for slashes, and knows no case.
    #[test]
    fn an_open_route_serves_no_protected_path(path in "/(a|A|%61|%2561|;|%3b|\\\\|%5c|%255c|/|\\.|x|%c0%af| |\\?){0,8}") {
        let path = path.replace(' ', "%20").replace('?', "%3f");
        let site = Site::new(&["", "path = \"/a\"\nauth = [\"users\"]"]);
        if site.gets(&path) == Ok(0) {
            let mut lenient = path.to_ascii_lowercase();
            while lenient.contains('%') && lenient != String::from_utf8_lossy(&decode(&lenient)) {
                lenient = String::from_utf8_lossy(&decode(&lenient)).into_owned();
            }
            let path_of = lenient.split('?').next().unwrap_or_default();
            let first = path_of.split(['/', '\\', ';']).find(|part| !part.is_empty()).unwrap_or_default();
            prop_assert!(first.trim_end_matches(['.', ' ']) != "a", "{}", path);
        }
    }
}

proptest! {
    /// An open route inside a protected site serves nothing that a backend takes for another path which decodes or does not,
    /// and merges slashes or does not.
    #[test]
    fn an_open_route_inside_serves_nothing_else(path in "(/|//|%2f)(o|%6f|O)(/|//|%2F)(p|%70|P)((/|//|%2f|;|x|%78){0,4})") {
        let site = Site::new(&["auth = [\"users\"]", "path = \"/o/p\""]);
        if site.gets(&path) == Ok(1) {
            let merged = |text: &str| text.replace("///", "/").replace("//", "/");
            let decoded = String::from_utf8(decode(&path)).unwrap();
            for read in [path.clone(), merged(&path), merged(&decoded), decoded] {
                let rest = read.strip_prefix("/o/p");
                prop_assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')), "{}: {}", path, read);
            }
        }
    }
}

fn decode(text: &str) -> Vec<u8> {
    crate::gate::handshake::decode_leniently(text.as_bytes())
}
