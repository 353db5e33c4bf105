#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use http::header::HeaderValue;

use super::super::handshake::Scheme;
use super::*;

fn routes(text: &str) -> Routes {
    let more = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:1\"]\n\
                [[backend]]\nname = \"b\"\nservers = [\"127.0.0.1:1\"]\n";
    Routes::new(&Config::parse(&format!("{text}\n{more}"), "test").unwrap()).unwrap()
}

fn opening(host: &str, path: &str, origin: Option<&str>, scheme: Scheme) -> Opening {
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
    Opening::check(&head, scheme).unwrap()
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
    let goes = |host: &str, path: &str| routes.admit(&opening(host, path, None, Scheme::Plain)).map(|way| way.route);
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
    let goes = |host: &str, path: &str| routes.admit(&opening(host, path, None, Scheme::Plain));
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
    routes.admit(&opening(host, "/", origin, scheme)).map(|_| ())
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
fn clients_without_origin_have_their_own_setting() {
    assert_eq!(enters("", "a.test", None, Scheme::Plain), Ok(()));
    assert_eq!(enters("no_origin = \"deny\"", "a.test", None, Scheme::Plain), Err(Refusal::OriginMissing));
}
