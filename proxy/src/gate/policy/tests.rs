#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use http::header::HeaderValue;

use super::super::handshake::{Opening, Scheme, Visitor};
use super::*;
use crate::config::Forwarded;

fn routes(text: &str) -> Routes {
    let more = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:1\"]\n\
                [[backend]]\nname = \"b\"\nservers = [\"127.0.0.1:1\"]\n";
    Routes::new(&Config::parse(&format!("{text}\n{more}"), "test").unwrap()).unwrap()
}

/// Which way a WebSocket handshake goes.
fn admit(routes: &Routes, host: &str, path: &str, origin: Option<&str>, scheme: Scheme) -> Result<Way, Refusal> {
    let request = http::Request::get(path)
        .header("host", host)
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13");
    let mut head = request.body(()).unwrap().into_parts().0;
    if let Some(origin) = origin {
        head.headers.insert("origin", HeaderValue::from_str(origin).unwrap());
    }
    let visitor = Visitor::judge(
        &Forwarded::default(),
        "192.0.2.1:1".parse::<std::net::SocketAddr>().unwrap().into(),
        scheme,
        &head.headers,
    );
    let opening = Opening::check(&head, &visitor).unwrap();
    let target = &opening.target;
    let rule = routes.find(&Subject::new(&head, target))?;
    rule.admit_page(&opening.caller, &target.own_origin, true)?;
    Ok(rule.way)
}

#[test]
fn the_most_specific_route_wins_in_whatever_order_they_are_written() {
    let routes = routes(
        "[[route]]\nbackend = \"a\"\n\
         [[route]]\npath = \"/chat\"\nbackend = \"a\"\n\
         [[route]]\nhost = \"*.example.com\"\nbackend = \"a\"\n\
         [[route]]\nhost = \"*.eu.example.com\"\nbackend = \"a\"\n\
         [[route]]\nhost = \"Chat.example.com\"\nbackend = \"b\"\n\
         [[route]]\nhost = \"chat.example.com\"\npath = \"/v2\"\nbackend = \"b\"\n\
         [[route]]\nhost = \"chat.example.com\"\npath = \"/v2/beta\"\nbackend = \"a\"\n",
    );
    let goes = |host: &str, path: &str| admit(&routes, host, path, None, Scheme::Plain).map(|way| way.route);
    assert_eq!(goes("other.test", "/"), Ok(0));
    assert_eq!(goes("other.test", "/chat/x"), Ok(1));
    assert_eq!(goes("other.test", "/chatter"), Ok(0));
    assert_eq!(goes("a.example.com", "/chat"), Ok(2));
    assert_eq!(goes("a.b.example.com", "/"), Ok(2));
    assert_eq!(goes("a.eu.example.com", "/"), Ok(3));
    assert_eq!(goes("chat.example.com:8080", "/"), Ok(4));
    assert_eq!(goes("CHAT.example.com.", "/v2x"), Ok(4));
    assert_eq!(goes("chat.example.com", "/v2/x"), Ok(5));
    assert_eq!(goes("chat.example.com", "/v2/beta/x"), Ok(6));
    assert_eq!(goes("example.com", "/"), Ok(0));
}

#[test]
fn no_route_and_the_right_backend() {
    let routes = routes("[[route]]\nhost = \"a.test\"\npath = \"/x\"\nbackend = \"b\"\n");
    let goes = |host: &str, path: &str| admit(&routes, host, path, None, Scheme::Plain);
    assert_eq!(goes("a.test", "/x"), Ok(Way { route: 0, backend: 1 }));
    assert_eq!(goes("a.test", "/"), Err(Refusal::NoRoute));
    assert_eq!(goes("b.test", "/x"), Err(Refusal::NoRoute));
}

#[test]
fn a_route_path_with_a_way_up_stops_the_start() {
    let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\npath = \"/a/../b\"\nbackend = \"a\"\n\
                [[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:1\"]\n";
    assert!(Routes::new(&Config::parse(text, "test").unwrap()).is_err());
}

/// Whether a page may enter: the route's settings, Host, Origin, scheme.
fn enters(settings: &str, host: &str, origin: Option<&str>, scheme: Scheme) -> Result<(), Refusal> {
    let routes = routes(&format!("[[route]]\nbackend = \"a\"\n{settings}\n"));
    admit(&routes, host, "/", origin, scheme).map(|_| ())
}

#[test]
fn without_a_setting_only_the_same_origin_enters() {
    let denied = Err(Refusal::OriginDenied);
    let try_it = |host: &str, origin: &str, scheme| enters("", host, Some(origin), scheme);
    assert_eq!(try_it("a.test", "http://a.test", Scheme::Plain), Ok(()));
    assert_eq!(try_it("a.test:80", "http://A.test", Scheme::Plain), Ok(()));
    assert_eq!(try_it("a.test:8443", "https://a.test:8443", Scheme::Tls), Ok(()));
    assert_eq!(try_it("a.test", "https://a.test:443", Scheme::Tls), Ok(()));
    assert_eq!(try_it("a.test", "https://a.test", Scheme::Plain), denied);
    assert_eq!(try_it("a.test", "http://a.test", Scheme::Tls), denied);
    assert_eq!(try_it("a.test", "http://a.test:81", Scheme::Plain), denied);
    assert_eq!(try_it("a.test", "http://evil.test", Scheme::Plain), denied);
    assert_eq!(try_it("a.test", "http://a.test.evil.test", Scheme::Plain), denied);
    assert_eq!(try_it("a.test", "null", Scheme::Plain), denied);
    assert_eq!(try_it("a.test", "http://a.test/path", Scheme::Plain), denied);
    assert_eq!(try_it("a.test", "a.test", Scheme::Plain), denied);
}

#[test]
fn exact_and_wildcard_origins() {
    let settings = "origins = [\"https://app.example.com\", \"https://*.example.org\", \"http://*.dev.test:3000\"]";
    let try_it = |origin: &str| enters(settings, "b.test", Some(origin), Scheme::Plain).is_ok();
    assert!(try_it("https://app.example.com") && try_it("https://APP.example.com:443"));
    assert!(!try_it("http://app.example.com") && !try_it("https://app.example.com:8443"));
    assert!(try_it("https://a.example.org") && try_it("https://a.b.example.org"));
    assert!(!try_it("https://example.org") && !try_it("https://evilexample.org"));
    assert!(!try_it("https://.example.org") && !try_it("http://a.example.org"));
    assert!(try_it("http://x.dev.test:3000") && !try_it("http://x.dev.test"));
    assert!(!try_it("http://b.test"), "same-origin is not among them");
}

#[test]
fn extensions_any_port_and_everybody() {
    let try_it = |origins: &str, origin: &str| {
        enters(&format!("origins = [{origins}]"), "b.test", Some(origin), Scheme::Plain).is_ok()
    };
    assert!(try_it("\"chrome-extension://abc\"", "chrome-extension://abc"));
    assert!(!try_it("\"chrome-extension://abc\"", "chrome-extension://abd"));
    assert!(try_it("\"moz-extension://*\"", "moz-extension://7f1c-11"));
    assert!(!try_it("\"moz-extension://*\"", "chrome-extension://7f1c-11"));
    for (origin, enters) in [
        ("http://localhost", true),
        ("http://localhost:5173", true),
        ("https://localhost:5173", false),
        ("http://localhost.evil.test:5173", false),
        ("http://a.localhost:5173", false),
    ] {
        assert_eq!(try_it("\"http://localhost:*\"", origin), enters, "{origin}");
    }
    assert!(try_it("\"http://*.dev.test:*\"", "http://a.dev.test:3000") && !try_it("\"http://*.dev.test:*\"", "null"));
    for origin in ["https://evil.test", "null", "nonsense", "file:///x"] {
        assert!(try_it("\"any\"", origin), "{origin}");
        assert_eq!(try_it("\"null\"", origin), origin == "null", "{origin}");
    }
}

#[test]
fn the_browser_may_say_that_a_page_without_origin_is_our_own() {
    let routes = |settings: &str| routes(&format!("[[route]]\nbackend = \"a\"\nhttp = \"forward\"\n{settings}\n"));
    let posts = |settings: &str, sites: &[&'static str]| {
        let mut head = http::Request::post("/").header("host", "a.test").header("origin", "null");
        for site in sites {
            head = head.header("sec-fetch-site", *site);
        }
        let head = head.body(()).unwrap().into_parts().0;
        let peer = "192.0.2.1:1".parse::<std::net::SocketAddr>().unwrap();
        let visitor = Visitor::judge(&Forwarded::default(), peer.into(), Scheme::Tls, &head.headers);
        crate::gate::judge::Verdict::judge(&routes(settings), &head, &visitor).map(|_| ())
    };
    let denied = Err(Refusal::OriginDenied);
    assert_eq!(posts("", &["same-origin"]), Ok(()));
    for sites in
        [&[][..], &["same-site"], &["cross-site"], &["none"], &["same-origin", "same-origin"], &["Same-Origin"]]
    {
        assert_eq!(posts("", sites), denied, "{sites:?}");
    }
    // What is not for the server's own pages is not for these.
    assert_eq!(posts("origins = [\"https://b.test\"]", &["same-origin"]), denied);
    assert_eq!(posts("origins = [\"https://a.test\"]", &["same-origin"]), Ok(()));
    assert_eq!(posts("origins = [\"null\"]", &["cross-site"]), Ok(()));
    assert_eq!(posts("http_origins = [\"null\"]", &["cross-site"]), Ok(()));
    assert_eq!(posts("http_origins = []", &["same-origin"]), denied);
}

#[test]
fn plain_requests_may_have_origins_of_their_own() {
    let settings = "origins = [\"same-origin\"]\nhttp_origins = [\"https://id.test\"]";
    assert_eq!(enters(settings, "a.test", Some("https://id.test"), Scheme::Tls), Err(Refusal::OriginDenied));
    assert_eq!(enters(settings, "a.test", Some("https://a.test"), Scheme::Tls), Ok(()));
}

#[test]
fn clients_without_origin_have_their_own_setting() {
    assert_eq!(enters("", "a.test", None, Scheme::Plain), Ok(()));
    assert_eq!(enters("no_origin = \"deny\"", "a.test", None, Scheme::Plain), Err(Refusal::OriginMissing));
}

/// Which of several routes serves a request, by its index.
struct Router(Routes);

impl Router {
    /// Routes with these settings, in this order.
    fn new(settings: &[&str]) -> Self {
        let tables: Vec<String> = settings.iter().map(|one| format!("[[route]]\nbackend = \"a\"\n{one}\n")).collect();
        Self(routes(&tables.concat()))
    }

    fn goes(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let (method, headers, query) = (&head.method, &head.headers, head.uri.query());
        let path = PlainPath::read(head.uri.path()).unwrap();
        let subject = Subject { method, host: "a.test", path: &path, query, headers };
        self.0.find(&subject).ok().map(|rule| rule.way.route)
    }
}

#[test]
fn exact_before_pattern_before_longer_prefix() {
    let router = Router::new(&[
        "path = \"/rooms/1\"",
        "path = \"/rooms\"",
        "path = { pattern = \"/rooms/[0-9]+\" }",
        "path = { exact = \"/rooms/7\" }",
        "path = { pattern = \"/rooms/1?[0-9]\" }",
    ]);
    let goes = |path: &str| router.goes("GET", path, &[]);
    assert_eq!(goes("/rooms/7"), Some(3));
    assert_eq!(goes("//rooms/%37"), Some(3), "in its plain form");
    assert_eq!(goes("/rooms/1"), Some(2), "of two patterns the first");
    assert_eq!(goes("/rooms/7/x"), Some(1));
    assert_eq!(goes("/rooms/1/x"), Some(0));
    assert_eq!(goes("/room"), None);
}

#[test]
fn priority_goes_before_everything() {
    let router =
        Router::new(&["host = \"a.test\"\npath = { exact = \"/a\" }", "priority = 1", "priority = -1\npath = \"/b\""]);
    assert_eq!(router.goes("GET", "/a", &[]), Some(1));
    assert_eq!(router.goes("GET", "/b", &[]), Some(1));
}

#[test]
fn conditions_on_headers_query_and_method() {
    let router = Router::new(&[
        "",
        "headers = [{ name = \"X-Client\", value = \"app\" }]",
        "headers = [{ name = \"x-client\", prefix = \"app/\" }, { name = \"x-beta\", present = true }]",
        "query = [{ name = \"v\", pattern = \"2(\\\\.[0-9]+)?\" }]",
        "methods = [\"POST\", \"PUT\"]",
        "query = [{ name = \"a b\", value = \"c d\" }, { name = \"v\", present = false }]",
        "headers = [{ name = \"cookie\", pattern = \".*beta=1.*\" }]\npath = \"/x\"",
    ]);
    let goes = |target: &str, headers: &[(&str, &str)]| router.goes("GET", target, headers);
    assert_eq!(goes("/", &[]), Some(0));
    assert_eq!(goes("/", &[("x-client", "app")]), Some(1));
    assert_eq!(goes("/", &[("x-client", "App")]), Some(0));
    assert_eq!(goes("/", &[("x-client", "other"), ("x-client", "app")]), Some(1), "one of several");
    assert_eq!(goes("/", &[("x-client", "app/2")]), Some(0));
    assert_eq!(goes("/", &[("x-client", "app/2"), ("x-beta", "")]), Some(2));
    assert_eq!(goes("/?v=2.1", &[]), Some(3));
    assert_eq!(goes("/?v=1&v=2", &[]), Some(3));
    assert_eq!(goes("/?v=21", &[]), Some(0));
    assert_eq!(router.goes("PUT", "/", &[]), Some(4));
    assert_eq!(router.goes("DELETE", "/", &[]), Some(0));
    assert_eq!(goes("/?a+b=c%20d", &[]), Some(5));
    assert_eq!(goes("/?a+b=c%20d&v", &[]), Some(0));
    assert_eq!(goes("/x?a+b=c+d", &[("cookie", "a=1; beta=1")]), Some(6), "the path goes before conditions");
    assert_eq!(goes("/", &[("cookie", "a=1; beta=1")]), Some(0));
}

#[test]
fn a_route_may_have_several_hosts() {
    let routes = routes("[[route]]\nhost = [\"a.test\", \"*.b.test\"]\nbackend = \"b\"\n[[route]]\nbackend = \"a\"\n");
    let goes = |host: &str| admit(&routes, host, "/", None, Scheme::Plain).unwrap().route;
    assert_eq!([goes("a.test"), goes("x.b.test"), goes("b.test")], [0, 0, 1]);
}

#[test]
fn routes_that_cannot_be_told_apart_or_cannot_work_stop_the_start() {
    let wrong = |tables: &[&str]| {
        let tables: Vec<String> = tables.iter().map(|one| format!("[[route]]\nbackend = \"a\"\n{one}\n")).collect();
        let more = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:1\"]\n";
        let config = Config::parse(&format!("{}{more}", tables.concat()), "test").map_err(anyhow::Error::from);
        config.and_then(|config| Routes::new(&config)).err().map(|error| format!("{error:#}"))
    };
    let header = "headers = [{ name = \"x\", value = \"1\" }]";
    for (tables, says) in [
        (vec!["", ""], "two routes"),
        (vec!["path = \"/a\"", "path = \"//%61\""], "two routes"),
        (vec!["host = \"a.test\"", "host = [\"b.test\", \"A.test.\"]"], "two routes"),
        (vec!["", "priority = 5"], "two routes"),
        (vec![header, "headers = [{ name = \"X\", value = \"1\" }]"], "two routes"),
        (vec!["methods = [\"GET\", \"PUT\"]", "methods = [\"PUT\", \"GET\"]"], "two routes"),
        (vec!["host = [\"a.test\", \"a.test\"]"], "a host twice"),
        (vec!["host = \"a.test:80\""], "no host name"),
        (vec!["host = \"\""], "leave `host` out"),
        (vec!["path = \"a\""], "does not begin with /"),
        (vec!["path = { exact = \"a\" }"], "does not begin with /"),
        (vec!["path = { exact = \"/a%00\" }"], "control byte"),
        (vec!["path = { pattern = \"/(\" }"], "unclosed group"),
        (vec!["path = { suffix = \"/a\" }"], "unknown value `suffix`"),
        (vec!["path = 5"], "a text in quotes"),
        (vec!["headers = [{ name = \"a b\", value = \"1\" }]"], "no header name"),
        (vec!["headers = [{ name = \"x\" }]"], "exactly one of"),
        (vec!["query = [{ name = \"x\", value = \"1\", present = true }]"], "exactly one of"),
        (vec!["query = [{ name = \"x\", is = \"1\" }]"], "unknown field `is`"),
        (vec!["methods = [\"get\"]"], "no method"),
        (vec!["methods = [\"G T\"]"], "no method"),
        (vec!["path = { exact = \"/a\" }\nrewrite = { strip_prefix = true }"], "rewrite takes"),
        (vec!["rewrite = { replace = \"/a\" }"], "rewrite takes"),
        (vec!["rewrite = { strip_prefix = false }"], "leave it out"),
        (vec!["request_headers = { set = { connection = \"x\" } }"], "cannot be changed"),
        (vec!["response_headers = { add = { \"x y\" = \"x\" } }"], "no header name"),
    ] {
        let error = wrong(&tables).unwrap_or_else(|| panic!("{tables:?} is taken"));
        assert!(error.contains(says), "{tables:?}: {error}");
    }
    for fine in [vec!["", header], vec!["host = \"a.test\"", ""], vec!["path = \"/a\"", "path = { exact = \"/a\" }"]] {
        assert_eq!(wrong(&fine), None, "{fine:?}");
    }
}

#[test]
fn a_configuration_survives_the_way_to_the_gate() {
    let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:1\"]\n\
        [forwarded]\ntrusted = [\"10.0.0.0/8\"]\nread = \"forwarded\"\n\
        [[route]]\nbackend = \"a\"\nhost = [\"a.test\", \"*.b.test\"]\npath = { pattern = \"/(x|y)\" }\n\
        headers = [{ name = \"x\", pattern = \"a+\" }]\nquery = [{ name = \"q\", present = false }]\n\
        rewrite = { replace = \"/$1\" }\ntimeouts = { dial = \"1s\" }\nlimits = { connections = 5 }\n\
        relay = { idle_timeout = \"off\" }\nrequest_headers = { set = { host = \"b\" } }\n";
    let config = Config::parse(text, "test").unwrap();
    let bytes = postcard::to_stdvec(&config).unwrap();
    let arrived: Config = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(format!("{config:?}"), format!("{arrived:?}"));
    assert!(Routes::new(&arrived).is_ok());
}

/// A configuration around these tables.
fn whole(tables: &str) -> anyhow::Result<()> {
    let route = if tables.contains("[[route]]") { "" } else { "[[route]]\nbackend = \"app\"\n" };
    let listener = "[[listener]]\nbind = \"127.0.0.1:0\"\n";
    let app = "[[backend]]\nname = \"app\"\n";
    let backend = if tables.contains(app) { String::new() } else { format!("{app}servers = [\"127.0.0.1:1\"]\n") };
    crate::gate::check(&Config::parse(&format!("{listener}{backend}{route}{tables}"), "test")?)
}

#[test]
fn the_examples_in_the_documentation_are_taken() {
    for file in ["routes.md", "answers.md", "auth.md", "balancing.md"] {
        let text = std::fs::read_to_string(format!("{}/../docs/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let examples: Vec<&str> =
            text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!examples.is_empty(), "{file}");
        for example in examples {
            whole(example).unwrap_or_else(|error| panic!("{file}: {example}\n{error:#}"));
        }
    }
}

#[test]
fn a_configuration_that_does_not_fit_a_message_is_refused() {
    let routes = |count: usize| (0..count).map(|at| format!("[[route]]\nbackend = \"app\"\npath = \"/a/{at}\"\n"));
    assert!(whole(&routes(1000).collect::<String>()).is_ok());
    let error = whole(&routes(20_000).collect::<String>()).unwrap_err().to_string();
    assert!(error.contains("the most that the gate can be sent"), "{error}");
}
