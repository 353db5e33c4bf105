//! What a service is asked, and what its answers mean.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use super::super::{Forward, Ruling, Subject};
use super::*;
use crate::config::Forwarded;
use crate::gate::handshake::{Scheme, Visitor};

fn service(more: &str) -> Forward {
    let config = config(&format!("forward = {{ backend = \"app\", path = \"/verify?x=1\", {more} }}"));
    Forward::new(&config, config.auth[0].forward.as_ref().unwrap()).unwrap()
}

/// What is asked about a request with these headers, as text.
fn asked(service: &Forward, headers: &[(&str, &str)]) -> Vec<String> {
    let mut request = Request::post("/chat?token=a%20b").header("host", "chat.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let client = SocketAddr::from(([192, 0, 2, 1], 7)).into();
    let visitor = Visitor::judge(&Forwarded::default(), client, Scheme::Tls, &head.headers);
    let question = service.question(Subject { head: &head, visitor: &visitor }, ());
    let line = format!("{} {}", question.method(), question.uri());
    let headers = question.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
    std::iter::once(line).chain(headers).collect()
}

fn answer(status: u16, headers: &[(&str, &str)]) -> http::response::Parts {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap().into_parts().0
}

#[test]
fn the_question_tells_what_was_asked_and_no_more_than_it_may() {
    let sent = [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("authorization", "Bearer x"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-method", "GET"),
        ("x-secret", "1"),
        ("content-length", "9"),
    ];
    assert_eq!(
        asked(&service(""), &sent),
        [
            "GET /verify?x=1",
            "host: 127.0.0.1:9",
            "user-agent: sluice",
            "accept: */*",
            "authorization: Bearer x",
            "cookie: a=1",
            "cookie: b=2",
            "x-forwarded-method: POST",
            "x-forwarded-proto: https",
            "x-forwarded-uri: /chat?token=a%20b",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: chat.test",
        ]
    );
    let asked = asked(&service("host = \"id.test\", request_headers = [\"x-secret\"]"), &sent);
    assert!(asked.contains(&"host: id.test".into()) && asked.contains(&"x-secret: 1".into()), "{asked:?}");
    assert!(!asked.iter().any(|line| line.starts_with("cookie") || line.starts_with("authorization")), "{asked:?}");
}

#[test]
fn answers_are_yes_no_or_nonsense() {
    let service = service("response_headers = [\"x-user\", \"x-role\"]");
    match service.ruling(&answer(204, &[("x-role", "a"), ("x-role", "b"), ("x-user", "jane"), ("x-more", "1")])) {
        Ruling::Enter(entry) => {
            let told = told(&entry);
            assert_eq!(told, [("x-user", "jane".as_bytes()), ("x-role", b"a"), ("x-role", b"b")]);
        }
        other => panic!("{other:?}"),
    }
    let there = [("location", "/login")];
    for (status, headers, denied) in [
        (401, &[][..], true),
        (403, &[], true),
        (302, &there, true),
        (307, &there, true),
        (302, &[], false),
        (304, &[], false),
        (400, &[], false),
        (404, &[], false),
        (429, &[], false),
        (500, &[], false),
        (503, &there, false),
    ] {
        let ruling = service.ruling(&answer(status, headers));
        assert!(!matches!(ruling, Ruling::Enter(_)), "{status}");
        assert_eq!(matches!(ruling, Ruling::Deny), denied, "{status}");
    }
}

#[test]
fn a_no_goes_to_the_client_with_what_it_may_have() {
    let service = service("");
    let ours = || Response::builder().header("proxy-status", "ours").body(Bytes::from_static(b"ours\n")).unwrap();
    let theirs = answer(
        401,
        &[
            ("www-authenticate", "A"),
            ("www-authenticate", "B"),
            ("set-cookie", "a=1"),
            ("proxy-status", "theirs"),
            ("content-type", "text/html"),
            ("x-inside", "1"),
        ],
    );
    let denial = service.denial(ours(), &theirs, Bytes::from_static(b"<p>no"));
    assert_eq!((denial.status(), denial.body().as_ref()), (StatusCode::UNAUTHORIZED, &b"<p>no"[..]));
    let all = |name: &str| denial.headers().get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((all("www-authenticate"), all("set-cookie")), (vec!["A", "B"], vec!["a=1"]));
    assert_eq!((all("proxy-status"), all("content-type")), (vec!["ours"], vec!["text/html"]));
    assert_eq!((all("content-length"), all("x-inside")), (vec!["5"], vec![]));
    let denial = service.denial(ours(), &answer(302, &[("location", "/login"), ("content-type", "x/y")]), Bytes::new());
    assert_eq!((denial.status(), denial.body().as_ref()), (StatusCode::FOUND, &b"ours\n"[..]));
    assert_eq!(denial.headers()["location"], "/login");
    assert!(!denial.headers().contains_key("content-type"), "ours is not theirs");
}
