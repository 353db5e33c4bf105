#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, Version, request, response};
use http_body_util::Empty;
use proptest::prelude::*;

use super::*;
use crate::config::Forwarded;
use crate::gate::refusal::{PROXY_STATUS, PROXY_WEBSOCKET_STATUS, Refusal};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The handshake of RFC 6455 §1.3, changed: `None` takes a header away, a value takes the place of what was there, and
/// one that begins with `+ ` is added to it.
fn head(changes: &[(&str, Option<&str>)]) -> request::Parts {
    let mut parts = Request::get("/chat?x=1").version(Version::HTTP_11).body(()).unwrap().into_parts().0;
    let rfc = [
        ("host", "server.example.com"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
    ];
    for (name, value) in rfc {
        parts.headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in changes {
        let name: HeaderName = name.parse().unwrap();
        match value {
            None => drop(parts.headers.remove(&name)),
            Some(value) => match value.strip_prefix("+ ") {
                Some(second) => drop(parts.headers.append(name, HeaderValue::from_str(second).unwrap())),
                None => drop(parts.headers.insert(name, HeaderValue::from_str(value).unwrap())),
            },
        }
    }
    parts
}

fn check(changes: &[(&str, Option<&str>)]) -> Result<Opening, Refusal> {
    checked(&head(changes), Scheme::Plain)
}

fn checked(head: &request::Parts, scheme: Scheme) -> Result<Opening, Refusal> {
    let mut head = head.clone();
    settle(&mut head, None)?;
    Opening::check(&head, &visitor(&head, scheme))
}

/// A client without a proxy.
fn visitor(head: &request::Parts, scheme: Scheme) -> Visitor {
    Visitor::judge(
        &Forwarded::default(),
        "[::ffff:192.0.2.7]:99".parse::<std::net::SocketAddr>().unwrap().into(),
        scheme,
        &head.headers,
    )
}

/// The request to the backend, as it came.
fn sent(
    head: &request::Parts,
    opening: &Opening,
    visitor: &Visitor,
    settings: &Forwarded,
) -> Request<Empty<bytes::Bytes>> {
    forward::request(
        head,
        head.uri.path_and_query().unwrap().clone(),
        &opening.hop_by_hop,
        visitor,
        settings,
        Empty::new(),
    )
}

#[test]
fn the_rfcs_own_example_passes() {
    let changes = [
        ("origin", Some("http://example.com")),
        ("sec-websocket-protocol", Some("chat, superchat")),
        ("sec-websocket-extensions", Some("permessage-deflate; client_max_window_bits, x-other")),
    ];
    let opening = check(&changes).unwrap();
    assert_eq!(opening.protocols, ["chat", "superchat"]);
    assert_eq!(opening.extensions, ["permessage-deflate", "x-other"]);
    assert_eq!(opening.target.host, "server.example.com");
    assert_eq!(opening.target.own_origin.to_string(), "http://server.example.com");
    let Caller::Origin(origin) = opening.caller else { panic!("{:?}", opening.caller) };
    assert_eq!(origin.to_string(), "http://example.com");
}

#[test]
fn verdicts() {
    use Refusal as R;
    let refused: &[(&str, Option<&str>, R)] = &[
        ("host", None, R::Host),
        ("host", Some("+ other.example.com"), R::Host),
        ("host", Some("+ server.example.com"), R::Host),
        ("host", Some(""), R::Host),
        ("host", Some("a b"), R::Host),
        ("host", Some("user@server"), R::Host),
        ("host", Some("server:port"), R::Host),
        ("host", Some("server:99999"), R::Host),
        ("host", Some("[::1"), R::Host),
        ("host", Some("a/b"), R::Host),
        ("upgrade", None, R::NotWebSocket),
        ("upgrade", Some("h2c"), R::NotWebSocket),
        ("upgrade", Some("websockets"), R::NotWebSocket),
        ("connection", None, R::Connection),
        ("connection", Some("keep-alive"), R::Connection),
        ("connection", Some("upgrade; x"), R::Connection),
        ("sec-websocket-key", None, R::Key),
        ("sec-websocket-key", Some("+ dGhlIHNhbXBsZSBub25jZQ=="), R::Key),
        ("sec-websocket-key", Some(""), R::Key),
        ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ"), R::Key),
        ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25j"), R::Key),
        ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZSE="), R::Key),
        ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25j_Q=="), R::Key),
        ("sec-websocket-version", None, R::VersionMissing),
        ("sec-websocket-version", Some("+ 13"), R::VersionMissing),
        ("sec-websocket-version", Some("8"), R::Version),
        ("sec-websocket-version", Some("13, 8"), R::Version),
        ("sec-websocket-version", Some("013"), R::Version),
        ("sec-websocket-protocol", Some(""), R::Subprotocol),
        ("sec-websocket-protocol", Some("a b"), R::Subprotocol),
        ("sec-websocket-protocol", Some("a, b, a"), R::Subprotocol),
        ("sec-websocket-extensions", Some(""), R::Extension),
        ("sec-websocket-extensions", Some("a; =b"), R::Extension),
        ("content-length", Some("5"), R::Body),
        ("content-length", Some("00"), R::Body),
        ("transfer-encoding", Some("chunked"), R::Body),
        ("transfer-encoding", Some("identity"), R::Body),
    ];
    for (name, value, refusal) in refused {
        assert_eq!(check(&[(name, *value)]).err(), Some(*refusal), "{name}: {value:?}");
    }
    let two = [("origin", Some("http://a.test")), ("origin", Some("+ http://b.test"))];
    assert_eq!(check(&two).err(), Some(R::Origins));
}

#[test]
fn what_is_allowed_passes() {
    let allowed: &[(&str, Option<&str>)] = &[
        ("host", Some("SERVER.example.com:8080")),
        ("host", Some("[::1]:80")),
        ("upgrade", Some("h2c, WebSocket")),
        ("connection", Some("keep-alive, UPGRADE")),
        ("connection", Some("+ keep-alive")),
        ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZR==")),
        ("content-length", Some("0")),
        ("sec-websocket-protocol", Some("mqtt,, v1.stomp")),
        ("origin", Some("null")),
        ("x-anything", Some("at all")),
    ];
    for (name, value) in allowed {
        assert!(check(&[(name, *value)]).is_ok(), "{name}: {value:?}");
    }
}

#[test]
fn the_first_line() {
    let mut parts = head(&[]);
    parts.method = http::Method::POST;
    assert_eq!(checked(&parts, Scheme::Plain).err(), Some(Refusal::Method));
    let mut parts = head(&[]);
    parts.version = Version::HTTP_10;
    assert_eq!(checked(&parts, Scheme::Plain).err(), Some(Refusal::HttpVersion));
    for (target, refusal) in [
        ("*", Some(Refusal::Path)),
        ("/a/../b", Some(Refusal::Path)),
        ("http://other.example.com/chat", None),
        ("http://server.example.com/chat", None),
        ("http://user@server.example.com/chat", Some(Refusal::Host)),
    ] {
        let mut parts = head(&[]);
        parts.uri = target.parse().unwrap();
        assert_eq!(checked(&parts, Scheme::Plain).err(), refusal, "{target}");
    }
}

#[test]
fn the_own_origin_has_the_listeners_scheme_and_no_default_port() {
    let own =
        |host: &str, scheme| checked(&head(&[("host", Some(host))]), scheme).unwrap().target.own_origin.to_string();
    assert_eq!(own("a.test:80", Scheme::Plain), "http://a.test");
    assert_eq!(own("a.test:443", Scheme::Tls), "https://a.test");
    assert_eq!(own("A.test:8443", Scheme::Tls), "https://a.test:8443");
}

fn forwarded(changes: &[(&str, Option<&str>)]) -> HeaderMap {
    let head = head(changes);
    let opening = checked(&head, Scheme::Plain).unwrap();
    let request = sent(&head, &opening, &visitor(&head, Scheme::Plain), &Forwarded::default());
    assert_eq!(request.uri(), "/chat?x=1");
    request.headers().clone()
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn end_to_end_headers_pass_in_order_and_hop_by_hop_ones_do_not() {
    let headers = forwarded(&[
        ("connection", Some("upgrade, X-Mine, keep-alive")),
        ("x-mine", Some("1")),
        ("keep-alive", Some("timeout=5")),
        ("te", Some("trailers")),
        ("trailer", Some("x")),
        ("proxy-connection", Some("keep-alive")),
        ("proxy-authorization", Some("Basic x")),
        ("cookie", Some("a=1")),
        ("cookie", Some("+ b=2")),
        ("expect", Some("100-continue")),
        ("content-length", Some("0")),
    ]);
    for name in ["x-mine", "keep-alive", "te", "trailer", "proxy-connection", "proxy-authorization", "expect"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(all(&headers, "cookie"), ["a=1", "b=2"]);
    assert_eq!(all(&headers, "connection"), ["Upgrade"]);
    assert_eq!(all(&headers, "upgrade"), ["websocket"]);
    assert_eq!(all(&headers, "host"), ["server.example.com"]);
    assert_eq!(all(&headers, "sec-websocket-key"), [KEY]);
    assert!(!headers.contains_key("content-length"));
}

#[test]
fn connection_cannot_name_away_what_a_backend_decides_by() {
    let connection =
        "upgrade, Host, Origin, Cookie, Authorization, Sec-WebSocket-Key, Sec-WebSocket-Protocol, X-Forwarded-For";
    let headers = forwarded(&[
        ("connection", Some(connection)),
        ("origin", Some("http://server.example.com")),
        ("cookie", Some("a=1")),
        ("authorization", Some("Bearer x")),
        ("sec-websocket-protocol", Some("chat")),
    ]);
    for name in ["host", "origin", "cookie", "authorization", "sec-websocket-key", "sec-websocket-protocol"] {
        assert_eq!(headers.get_all(name).iter().count(), 1, "{name}");
    }
    assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.7"]);
}

#[test]
fn strangers_do_not_say_where_they_come_from() {
    let headers = forwarded(&[
        ("x-forwarded-for", Some("10.0.0.1")),
        ("x-forwarded-for", Some("+ 10.0.0.2")),
        ("x-forwarded-proto", Some("https")),
        ("x-forwarded-host", Some("admin.test")),
        ("x-forwarded-user", Some("root")),
        ("x_forwarded_for", Some("10.0.0.3")),
        ("forwarded", Some("for=10.0.0.1")),
        ("x-real-ip", Some("10.0.0.1")),
        ("proxy-status", Some("other")),
        ("proxy-websocket-status", Some("upgraded")),
    ]);
    assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&headers, "x-forwarded-host"), ["server.example.com"]);
    for name in ["x-forwarded-user", "x_forwarded_for", "forwarded", "x-real-ip", "proxy-status"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert!(!headers.contains_key(PROXY_WEBSOCKET_STATUS));
}

#[test]
fn a_trusted_proxy_is_believed_and_its_other_headers_pass() {
    let settings = Forwarded { trusted: vec!["192.0.2.0/24".to_owned().try_into().unwrap()], ..Forwarded::default() };
    let head = head(&[
        ("origin", Some("https://app.example.com")),
        ("x-forwarded-for", Some("198.51.100.1")),
        ("x-forwarded-proto", Some("https")),
        ("x-forwarded-host", Some("app.example.com")),
        ("x-forwarded-user", Some("alice")),
        ("x-real-ip", Some("198.51.100.1")),
        ("x_forwarded_for", Some("6.6.6.6")),
        ("x_forwarded_user", Some("root")),
        ("forwarded", Some("for=6.6.6.6")),
    ]);
    let visitor = Visitor::judge(
        &settings,
        "192.0.2.7:99".parse::<std::net::SocketAddr>().unwrap().into(),
        Scheme::Plain,
        &head.headers,
    );
    let opening = Opening::check(&head, &visitor).unwrap();
    assert_eq!(opening.target.own_origin.to_string(), "https://app.example.com");
    assert_eq!(opening.target.host, "server.example.com", "routes are found by Host");
    let sent = sent(&head, &opening, &visitor, &settings);
    assert_eq!(all(sent.headers(), "x-forwarded-for"), ["198.51.100.1, 192.0.2.7"]);
    assert_eq!(all(sent.headers(), "x-forwarded-proto"), ["https"]);
    assert_eq!(all(sent.headers(), "x-forwarded-host"), ["app.example.com"]);
    assert_eq!(all(sent.headers(), "x-forwarded-user"), ["alice"]);
    assert_eq!(all(sent.headers(), "x-real-ip"), ["198.51.100.1"]);
    for name in ["x_forwarded_for", "x_forwarded_user", "forwarded"] {
        assert!(!sent.headers().contains_key(name), "{name}");
    }
}

fn answer(status: u16, changes: &[(&str, &str)]) -> response::Parts {
    let mut parts = Response::builder().status(status).body(()).unwrap().into_parts().0;
    for (name, value) in [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", ACCEPT)] {
        parts.headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in changes {
        let name: HeaderName = name.parse().unwrap();
        parts.headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    parts
}

#[test]
fn the_backends_101() {
    use Refusal as R;
    let opening = check(&[
        ("sec-websocket-protocol", Some("chat, superchat")),
        ("sec-websocket-extensions", Some("permessage-deflate; client_max_window_bits")),
    ])
    .unwrap();
    type Changes<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(Changes<'_>, Option<R>)] = &[
        (&[], None),
        (&[("sec-websocket-protocol", "chat")], None),
        (&[("sec-websocket-extensions", "permessage-deflate; server_no_context_takeover")], None),
        (&[("content-length", "0")], None),
        (&[("sec-websocket-accept", ACCEPT)], Some(R::BackendAccept)),
        (&[("sec-websocket-protocol", "CHAT")], Some(R::BackendSubprotocol)),
        (&[("sec-websocket-protocol", "chat, superchat")], Some(R::BackendSubprotocol)),
        (&[("sec-websocket-protocol", "")], Some(R::BackendSubprotocol)),
        (&[("sec-websocket-extensions", "x-webkit-deflate-frame")], Some(R::BackendExtension)),
        (&[("sec-websocket-extensions", "a b")], Some(R::BackendExtension)),
        (&[("content-length", "1")], Some(R::BackendUpgrade)),
        (&[("transfer-encoding", "chunked")], Some(R::BackendUpgrade)),
    ];
    for (changes, refusal) in cases {
        assert_eq!(check_switch(&answer(101, changes), &opening).err(), *refusal, "{changes:?}");
    }
    assert_eq!(check_switch(&answer(200, &[]), &opening).err(), Some(R::BackendUpgrade));
}

#[test]
fn the_answers_headers_for_the_client() {
    let parts = answer(
        101,
        &[
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("proxy-status", "x"),
            ("content-length", "0"),
            ("keep-alive", "x"),
        ],
    );
    let headers = forward::response(&parts, HeaderValue::from_static("upgraded"));
    assert_eq!(all(&headers, "set-cookie"), ["a=1", "b=2"]);
    assert_eq!(all(&headers, "sec-websocket-accept"), [ACCEPT]);
    assert_eq!(all(&headers, "connection"), ["Upgrade"]);
    assert!(!headers.contains_key(PROXY_STATUS) && !headers.contains_key("content-length"));
    assert!(!headers.contains_key("keep-alive"));
    assert_eq!(all(&headers, "proxy-websocket-status"), ["upgraded"]);

    let parts = answer(403, &[("content-length", "3"), ("transfer-encoding", "chunked")]);
    let headers = forward::response(&parts, HeaderValue::from_static("rejected"));
    assert_eq!(all(&headers, "connection"), ["close"]);
    assert!(!headers.contains_key("upgrade") && !headers.contains_key("transfer-encoding"));
    assert_eq!(all(&headers, "content-length"), ["3"]);
}

fn any_headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let names = prop::sample::select(vec![
        "host",
        "upgrade",
        "connection",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "origin",
        "content-length",
        "transfer-encoding",
        "x-forwarded-for",
        "proxy-status",
        "x-other",
    ]);
    let values = prop_oneof![
        Just(b"websocket".to_vec()),
        Just(b"upgrade".to_vec()),
        Just(b"13".to_vec()),
        Just(KEY.as_bytes().to_vec()),
        Just(b"a.test".to_vec()),
        "[ -~]{0,20}".prop_map(String::into_bytes),
        prop::collection::vec(0x80u8..=0xff, 0..8),
    ];
    prop::collection::vec((names.prop_map(String::from), values), 0..12)
}

proptest! {
    /// Whatever passes has what RFC 6455 asks for, and nothing hop-by-hop or claimed leaves with it.
    #[test]
    fn what_passes_is_a_handshake(headers in any_headers()) {
        let mut head = head(&[]);
        for (name, value) in &headers {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                head.headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
            }
        }
        if let Ok(opening) = checked(&head, Scheme::Tls) {
            for name in ["host", "sec-websocket-key", "sec-websocket-version"] {
                prop_assert_eq!(head.headers.get_all(name).iter().count(), 1);
            }
            prop_assert!(!head.headers.contains_key("transfer-encoding"));
            let sent = sent(&head, &opening, &visitor(&head, Scheme::Tls), &Forwarded::default());
            prop_assert_eq!(all(sent.headers(), "x-forwarded-for"), ["192.0.2.7"]);
            prop_assert!(!sent.headers().contains_key("proxy-status"));
            prop_assert!(!sent.headers().contains_key("content-length"));
            prop_assert_eq!(all(sent.headers(), "connection"), ["Upgrade"]);
        }
    }
}
