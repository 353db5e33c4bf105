#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::Request;
use proptest::prelude::*;

use super::super::{Scheme, settle};
use super::*;
use crate::config::Forwarded;

fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target).header("host", "a.test");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn check(head: &Parts) -> Result<Plain, Refusal> {
    let mut head = head.clone();
    settle(&mut head, None)?;
    let head = &head;
    let peer = "192.0.2.1:1".parse::<std::net::SocketAddr>().unwrap().into();
    Plain::check(head, &Visitor::judge(&Forwarded::default(), peer, Scheme::Plain, &head.headers))
}

#[test]
fn what_passes_and_what_does_not() {
    for (method, target, fields, refusal) in [
        ("GET", "/", &[][..], None),
        ("POST", "/x?y", &[("content-length", "12")], None),
        ("DELETE", "/x", &[("content-length", "0")], None),
        ("PUT", "/x", &[("transfer-encoding", "chunked")], None),
        ("OPTIONS", "/x", &[("connection", "keep-alive, upgrade"), ("upgrade", "h2c")], None),
        ("GET", "http://a.test/x", &[], None),
        ("GET", "http://b.test/x", &[], None),
        ("GET", "ftp://a.test/x", &[], Some(Refusal::Path)),
        ("GET", "a.test:80", &[], Some(Refusal::Path)),
        ("GET", "/x", &[("host", "a.test")], Some(Refusal::Host)),
        ("OPTIONS", "*", &[], None),
        ("GET", "*", &[], Some(Refusal::Path)),
        ("GET", "/a/%2e%2E/b", &[], Some(Refusal::Path)),
        ("TRACE", "/", &[], Some(Refusal::Method)),
        ("CONNECT", "a.test:80", &[], Some(Refusal::Method)),
        ("GET", "/", &[("connection", "a b")], Some(Refusal::Connection)),
        ("GET", "/", &[("origin", "http://a"), ("origin", "http://b")], Some(Refusal::Origins)),
        ("POST", "/", &[("content-length", "1"), ("content-length", "1")], Some(Refusal::Framing)),
        ("POST", "/", &[("content-length", "+1")], Some(Refusal::Framing)),
        ("POST", "/", &[("content-length", "")], Some(Refusal::Framing)),
        ("POST", "/", &[("content-length", "1"), ("transfer-encoding", "chunked")], Some(Refusal::Framing)),
        ("POST", "/", &[("transfer-encoding", "gzip, chunked")], Some(Refusal::Framing)),
        ("POST", "/", &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Some(Refusal::Framing)),
        ("POST", "/", &[("transfer-encoding", "identity")], Some(Refusal::Framing)),
    ] {
        assert_eq!(check(&head(method, target, fields)).err(), refusal, "{method} {target} {fields:?}");
    }
    let mut old = head("GET", "/", &[]);
    old.version = Version::HTTP_10;
    assert_eq!(check(&old).err(), None);
    old.version = Version::HTTP_09;
    assert_eq!(check(&old).err(), Some(Refusal::HttpVersion));
}

#[test]
fn the_connection_ends_behind_a_body_that_might_have_two_ends() {
    assert!(check(&head("POST", "/", &[("transfer-encoding", "chunked")])).unwrap().last);
    assert!(!check(&head("POST", "/", &[("content-length", "3")])).unwrap().last);
    assert!(!check(&head("GET", "/", &[])).unwrap().last);
}

#[test]
fn a_websocket_is_asked_for_by_its_upgrade_alone() {
    for (value, asked) in [("websocket", true), ("h2c, WebSocket", true), ("h2c", false), ("websocket2", false)] {
        assert_eq!(asks_for_websocket(&head("GET", "/", &[("upgrade", value)])), asked, "{value}");
    }
    assert!(!asks_for_websocket(&head("GET", "/", &[("sec-websocket-key", "x"), ("connection", "upgrade")])));
}

proptest! {
    /// One length at most, or chunked and nothing else: whatever else a head says of its body is refused.
    #[test]
    fn what_passes_has_one_end(
        lengths in prop::collection::vec("[0-9]{0,3}|[ -~]{0,4}", 0..3),
        codings in prop::collection::vec("chunked|gzip|chunked, gzip|CHUNKED| chunked|identity", 0..3),
    ) {
        let fields: Vec<(&str, &str)> = lengths
            .iter()
            .map(|length| ("content-length", length.as_str()))
            .chain(codings.iter().map(|coding| ("transfer-encoding", coding.as_str())))
            .collect();
        let head = head("POST", "/", &fields);
        if check(&head).is_ok() {
            let of = |name| head.headers.get_all(name).iter().collect::<Vec<_>>();
            let (lengths, codings) = (of(CONTENT_LENGTH), of(TRANSFER_ENCODING));
            prop_assert!(lengths.len() + codings.len() <= 1);
            prop_assert!(lengths.iter().all(|length| length.to_str().unwrap().parse::<u64>().is_ok()));
            prop_assert!(codings.iter().all(|coding| coding.to_str().unwrap().trim().eq_ignore_ascii_case("chunked")));
        }
    }
}
