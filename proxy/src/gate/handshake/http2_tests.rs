#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use http::{Request, Response};
use proptest::prelude::*;

use super::super::{Opening, Scheme, Visitor, forward, key};
use super::*;
use crate::config::Forwarded;

/// A request as the HTTP/2 library gives it: method, target, header fields.
fn over_http2(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target).version(Version::HTTP_2);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn key_of_zeros() -> HeaderValue {
    key([0; 16])
}

fn opening(head: &Parts) -> Result<Opening, Refusal> {
    let peer = "192.0.2.1:1".parse::<std::net::SocketAddr>().unwrap().into();
    Opening::check(head, &Visitor::judge(&Forwarded::default(), peer, Scheme::Tls, &head.headers))
}

#[test]
fn an_extended_connect_is_a_handshake() {
    let fields = [
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
        ("origin", "https://a.test"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let head = over_http2("CONNECT", "https://a.test/chat?x=1", &fields);
    let head = as_http1(head, Some("websocket"), key_of_zeros(), &Limits::default()).unwrap();
    let opening = opening(&head).unwrap();
    assert_eq!((head.method.as_str(), head.version), ("GET", Version::HTTP_11));
    assert_eq!((opening.key, opening.protocols), (key_of_zeros(), vec!["chat".to_owned()]));
    assert_eq!((opening.target.host.as_str(), head.uri.query()), ("a.test", Some("x=1")));
    assert_eq!(head.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

#[test]
fn what_is_no_request_here() {
    let good = [("sec-websocket-version", "13")];
    for (method, target, fields, protocol, refusal) in [
        ("CONNECT", "https://a.test/", &good[..], Some("connect-udp"), Some(Refusal::Protocol)),
        ("CONNECT", "https://a.test/", &good[..], Some("WebSocket"), None),
        ("CONNECT", "a.test:443", &[], None, Some(Refusal::Method)),
        ("GET", "/", &[], None, Some(Refusal::Host)),
        ("GET", "/", &[("host", "a.test")], None, None),
        ("GET", "https://a.test/", &[], None, None),
        ("GET", "https://a.test/", &[("host", "A.test:443")], None, None),
        ("GET", "https://a.test/", &[("host", "a.test:80")], None, Some(Refusal::Host)),
        ("GET", "https://a.test/", &[("host", "b.test")], None, Some(Refusal::Host)),
        ("GET", "https://a.test/", &[("host", "a.test"), ("host", "a.test")], None, Some(Refusal::Host)),
    ] {
        let made = as_http1(over_http2(method, target, fields), protocol, key_of_zeros(), &Limits::default());
        assert_eq!(made.as_ref().err(), refusal.as_ref(), "{method} {target} {protocol:?}");
        assert!(made.is_err() || made.unwrap().headers.get_all(HOST).iter().eq(["a.test"]));
    }
}

#[test]
fn a_host_beside_another_authority_is_refused() {
    let fields = [("sec-websocket-version", "13"), ("host", "other.test")];
    let head = over_http2("CONNECT", "https://a.test/", &fields);
    let made = as_http1(head, Some("websocket"), key_of_zeros(), &Limits::default());
    assert_eq!(made.err(), Some(Refusal::Host));
}

#[test]
fn a_key_or_an_upgrade_of_the_clients_means_nothing() {
    let fields = [("sec-websocket-version", "13"), ("sec-websocket-key", "none"), ("upgrade", "h2c")];
    let head = as_http1(
        over_http2("CONNECT", "https://a.test/", &fields),
        Some("websocket"),
        key_of_zeros(),
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(opening(&head).unwrap().key, key_of_zeros());
    let head = as_http1(
        over_http2("GET", "https://a.test/", &[("upgrade", "websocket")]),
        None,
        key_of_zeros(),
        &Limits::default(),
    );
    assert!(!head.unwrap().headers.contains_key(UPGRADE), "a GET over HTTP/2 asks for no Upgrade (RFC 9113 §8.6)");
}

#[test]
fn the_answer_to_it_speaks_of_no_connection() {
    let mut head = Response::builder().status(101).header("x-a", "b").body(()).unwrap().into_parts().0;
    head.headers = forward::response(&head, HeaderValue::from_static("upgraded"));
    head.headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("x"));
    answer(&mut head);
    assert_eq!((head.status, head.version), (StatusCode::OK, Version::HTTP_2));
    assert_eq!(
        head.headers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(),
        ["x-a", "proxy-websocket-status"]
    );
}

#[test]
fn the_limits_of_a_head() {
    let limits = Limits { header_count: 10, head_bytes: 1000, ..Limits::default() };
    let asked = |fields: &[(&str, &str)]| {
        as_http1(over_http2("GET", "https://a.test/", fields), None, key_of_zeros(), &limits).err()
    };
    assert_eq!(asked(&[("x", "y"); 10]), None);
    assert_eq!(asked(&[("x", "y"); 11]), Some(Refusal::HeadTooLarge));
    // Crumbs of a cookie are one field (RFC 9113 section 8.2.3).
    assert_eq!(asked(&[("cookie", "a=b"); 20]), None);
    assert_eq!(asked(&[("x", &"y".repeat(700))]), None);
    assert_eq!(asked(&[("x", &"y".repeat(900))]), Some(Refusal::HeadTooLarge));
    assert_eq!(asked(&[("cookie", "a=b"); 30]), Some(Refusal::HeadTooLarge));
}

proptest! {
    /// Whatever comes, what is made of it is HTTP/1.1 with one Host and one Cookie, or nothing is.
    #[test]
    fn every_request_is_one_of_http_1_1_or_refused(
        method in "GET|POST|CONNECT|OPTIONS|X",
        target in prop_oneof!["/[a-z/.%]{0,9}", "https://[a-z.]{1,9}/[a-z]{0,5}", "[a-z]{1,5}:[0-9]{1,3}"],
        names in prop::collection::vec("host|cookie|upgrade|te|x-y|sec-websocket-key", 0..6),
        values in prop::collection::vec("[ -~]{0,12}", 6),
        protocol in prop::option::of("websocket|WEBSOCKET|other"),
    ) {
        let fields: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(values.iter().map(String::as_str)).collect();
        prop_assume!(target.parse::<Uri>().is_ok());
        if let Ok(head) = as_http1(over_http2(&method, &target, &fields), protocol.as_deref(), key_of_zeros(), &Limits::default()) {
            prop_assert_eq!(head.version, Version::HTTP_11);
            prop_assert!(head.method != Method::CONNECT);
            prop_assert!(head.headers.contains_key(HOST));
            prop_assert!(head.headers.get_all(COOKIE).iter().count() <= 1);
            let _ = opening(&head);
        }
    }
}
