//! Every refusal has its status and says who refused and why; curl and hand-made peers see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::process::Command;

use sluice_tests::backend::{Echo, RawBackend, switching};
use sluice_tests::http::{self, Head, Response};
use sluice_tests::process::Refusing;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::{Via, needs};

/// What curl sends to upgrade.
const UPGRADE: [&str; 8] = [
    "-H",
    "Connection: Upgrade",
    "-H",
    "Upgrade: websocket",
    "-H",
    "Sec-WebSocket-Version: 13",
    "-H",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// Runs curl; `None` if there is none here, which has then been reported.
fn curl(url: &str, args: &[&str]) -> Option<Response> {
    let curl = needs::program("curl").map_err(|reason| needs::skip(&reason)).ok()?;
    let output = Command::new(curl)
        .args(["--silent", "--show-error", "--include", "--http1.1", "--insecure", "--max-time", "30"])
        .args(args)
        .arg(url)
        .output()
        .unwrap();
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    Some(http::respond(&mut output.stdout.as_slice()).unwrap())
}

/// Checks that an answer is a refusal of ours.
fn refused(answer: &Response, status: u16, proxy_status: Option<&str>) {
    let head = &answer.head;
    assert_eq!(head.status(), status, "{answer:?}");
    let told = head.field("proxy-status").unwrap_or_default();
    assert!(told.starts_with("sluice"), "Proxy-Status: {told:?} in {answer:?}");
    if let Some(error) = proxy_status {
        assert!(told.contains(&format!("error={error}")), "Proxy-Status: {told}");
    }
    let told = head.field("proxy-websocket-status").unwrap_or_default();
    assert!(told.starts_with("rejected; reason="), "Proxy-WebSocket-Status: {told:?}");
    assert!(told.contains("conn=\""), "Proxy-WebSocket-Status: {told:?}");
}

fn echo() -> (Echo, Sluice) {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    (echo, sluice)
}

#[test]
fn curl_is_told_what_its_request_lacks() {
    let (_echo, sluice) = echo();
    for url in [format!("http://{}/", sluice.ws), format!("https://{}/", sluice.wss)] {
        let Some(answer) = curl(&url, &[]) else { return };
        refused(&answer, 426, None);
        assert_eq!(answer.head.field("upgrade").map(str::to_lowercase).as_deref(), Some("websocket"));
        let old = [&UPGRADE[..4], &["-H", "Sec-WebSocket-Version: 8"], &UPGRADE[6..]].concat();
        let answer = curl(&url, &old).unwrap();
        refused(&answer, 426, None);
        assert_eq!(answer.head.field("sec-websocket-version"), Some("13"));
        refused(&curl(&url, &UPGRADE[..6]).unwrap(), 400, Some("http_request_error"));
        let post = [&UPGRADE[..], &["-X", "POST"]].concat();
        let answer = curl(&url, &post).unwrap();
        refused(&answer, 405, None);
        assert_eq!(answer.head.field("allow"), Some("GET"));
    }
    assert!(sluice.metrics().unwrap().sum("sluice_handshakes_total", &[("result", "refused")]) >= 8);
}

#[test]
fn a_foreign_origin_is_refused_by_default() {
    let (_echo, sluice) = echo();
    let url = format!("http://{}/", sluice.ws);
    let origin = |origin: &str| curl(&url, &[&UPGRADE[..], &["-H", &format!("Origin: {origin}")]].concat());
    for foreign in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        let Some(answer) = origin(foreign) else { return };
        refused(&answer, 403, Some("http_request_denied"));
        assert!(answer.head.field("proxy-websocket-status").unwrap().contains("origin-denied"), "{answer:?}");
    }
    for (own, status) in [(format!("http://{}", sluice.ws), 101), (format!("https://{}", sluice.ws), 403)] {
        assert_eq!(upgrade_status(&sluice, &format!("Origin: {own}\r\n"), "/"), status, "{own}");
    }
    assert_eq!(upgrade_status(&sluice, "", "/"), 101, "programs send no Origin");
}

/// The status of an upgrade over ws:// with these header lines.
fn upgrade_status(sluice: &Sluice, more: &str, path: &str) -> u16 {
    let mut stream = sluice.connect(Via::Copy).unwrap();
    stream.write_all(http::upgrade(&sluice.ws.to_string(), path, more).as_bytes()).unwrap();
    Head::read(&mut stream).unwrap().status()
}

#[test]
fn a_route_admits_the_origins_and_paths_that_it_names() {
    let echo = Echo::start().unwrap();
    let routes = "[[route]]\npath = \"/chat\"\nbackend = \"app\"\nno_origin = \"deny\"\n\
                  origins = [\"https://app.example.com\", \"https://*.example.org\", \"same-origin\"]\n";
    let sluice = Sluice::start(&Setup::new(echo.address).routes(routes)).unwrap();
    let own = format!("http://{}", sluice.ws);
    for (origin, status) in [
        ("https://app.example.com", 101),
        ("HTTPS://APP.example.com:443", 101),
        ("http://app.example.com", 403),
        ("https://a.b.example.org", 101),
        ("https://example.org", 403),
        ("https://example.org.evil.example", 403),
        (own.as_str(), 101),
    ] {
        assert_eq!(upgrade_status(&sluice, &format!("Origin: {origin}\r\n"), "/chat/room?x=1"), status, "{origin}");
    }
    assert_eq!(upgrade_status(&sluice, "", "/chat"), 403, "no Origin is denied here");
    let Some(answer) = curl(&format!("http://{}/chatter", sluice.ws), &UPGRADE) else { return };
    refused(&answer, 404, Some("destination_not_found"));
}

#[test]
fn a_backend_that_refuses_or_is_silent_is_named_in_the_answer() {
    let nobody = Refusing::start().unwrap();
    let sluice = Sluice::start(&Setup::new(nobody.address)).unwrap();
    let Some(answer) = curl(&format!("http://{}/", sluice.ws), &UPGRADE) else { return };
    refused(&answer, 502, Some("connection_refused"));
    assert!(!format!("{answer:?}").contains(&nobody.address.to_string()), "a backend's address was told: {answer:?}");
    let silent = RawBackend::start().unwrap();
    let setup = Setup::new(silent.address).more("[timeouts]\nresponse = \"300ms\"");
    let sluice = Sluice::start(&setup).unwrap();
    let answer = curl(&format!("http://{}/", sluice.ws), &UPGRADE).unwrap();
    refused(&answer, 504, Some("http_response_timeout"));
}

/// Answers one upgrade with these bytes and returns what the client gets.
fn answered(with: impl FnOnce(&Head) -> String) -> Response {
    let backend = RawBackend::start().unwrap();
    let sluice = Sluice::start(&Setup::new(backend.address)).unwrap();
    let mut client = sluice.ask(Via::Copy, b"").unwrap();
    let (mut server, request) = backend.accept_request().unwrap();
    server.write_all(with(&request).as_bytes()).unwrap();
    server.shutdown_write().unwrap();
    let answer = http::respond(&mut client).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the connection was not closed behind the answer");
    answer
}

#[test]
fn an_upgrade_that_breaks_the_rules_is_a_bad_gateway() {
    let wrong_key = |_: &Head| switching(&Head::default(), "");
    refused(&answered(wrong_key), 502, Some("http_upgrade_failed"));
    let protocol = |request: &Head| switching(request, "Sec-WebSocket-Protocol: never-offered\r\n");
    refused(&answered(protocol), 502, Some("http_upgrade_failed"));
    let extension = |request: &Head| switching(request, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    refused(&answered(extension), 502, Some("http_upgrade_failed"));
    refused(&answered(|_| "this is no HTTP\r\n\r\n".into()), 502, None);
    refused(&answered(|_| String::new()), 502, None);
}

#[test]
fn another_answer_passes_as_it_is_and_is_never_tunnelled() {
    let answer = answered(|_| {
        "HTTP/1.1 401 Who are you\r\nWWW-Authenticate: Bearer\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\
         Proxy-Status: liar; error=dns_error\r\nProxy-WebSocket-Status: upgraded\r\nX-App: yes\r\n\r\nno!\nand more"
            .into()
    });
    assert_eq!((answer.head.status(), answer.body.as_str()), (401, "no!\n"));
    assert_eq!(answer.head.field("www-authenticate"), Some("Bearer"));
    assert_eq!(answer.head.field("x-app"), Some("yes"));
    assert_ne!(answer.head.field("connection"), Some("keep-alive"));
    let fields = |name: &str| answer.head.fields.iter().filter(|(field, _)| field == name).count();
    assert_eq!(fields("proxy-status"), 0, "{answer:?}");
    assert_eq!(fields("proxy-websocket-status"), 1, "{answer:?}");
    assert!(answer.head.field("proxy-websocket-status").unwrap().contains("backend-answer"), "{answer:?}");
}

#[test]
fn the_backend_is_told_who_the_client_is_and_not_what_it_claims() {
    let backend = RawBackend::start().unwrap();
    let sluice = Sluice::start(&Setup::new(backend.address)).unwrap();
    for (via, proto) in [(Via::Copy, "http"), (Via::Tls, "https")] {
        let mut client = sluice.connect(via).unwrap();
        let claims = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Host: bank.example\r\n\
                      Proxy-Status: liar\r\nCookie: a=1\r\nSec-WebSocket-Protocol: v2, v1\r\nTE: trailers\r\n";
        let host = sluice.address(via).to_string();
        client.write_all(http::upgrade(&host, "/path?query", claims).as_bytes()).unwrap();
        let (mut server, request) = backend.accept_request().unwrap();
        assert_eq!(request.line, "GET /path?query HTTP/1.1");
        for (name, value) in [
            ("host", Some(host.as_str())),
            ("x-forwarded-for", Some("127.0.0.1")),
            ("x-forwarded-proto", Some(proto)),
            ("x-forwarded-host", Some(host.as_str())),
            ("cookie", Some("a=1")),
            ("sec-websocket-protocol", Some("v2, v1")),
            ("proxy-status", None),
            ("te", None),
        ] {
            assert_eq!(request.field(name), value, "{name}");
            assert!(request.fields.iter().filter(|(field, _)| field == name).count() <= 1, "{name} twice");
        }
        let answer = switching(&request, "Sec-WebSocket-Protocol: v1\r\nSet-Cookie: b=2\r\n");
        server.write_all(answer.as_bytes()).unwrap();
        let head = Head::read(&mut client).unwrap();
        assert_eq!(head.status(), 101);
        assert_eq!(head.field("sec-websocket-protocol"), Some("v1"));
        assert_eq!(head.field("set-cookie"), Some("b=2"));
    }
}

#[test]
fn a_server_that_refuses_is_passed_over() {
    let nobody = Refusing::start().unwrap();
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(nobody.address).server(echo.address)).unwrap();
    for attempt in 0..4 {
        assert_eq!(upgrade_status(&sluice, "", "/"), 101, "attempt {attempt}");
    }
}

#[test]
fn servers_take_turns() {
    let backends = [RawBackend::start().unwrap(), RawBackend::start().unwrap()];
    let sluice = Sluice::start(&Setup::new(backends[0].address).server(backends[1].address)).unwrap();
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        // In whichever order: one connection reaches each.
        let clients = [sluice.ask(Via::Copy, b"").unwrap(), sluice.ask(Via::Copy, b"").unwrap()];
        let servers = backends.each_ref().map(|backend| backend.accept_upgrade(b"").unwrap());
        tunnels.push((clients, servers));
    }
}
