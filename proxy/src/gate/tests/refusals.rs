//! Connections that are told no, and backends whose answers are passed on.

use tokio::io::AsyncWriteExt;

use super::bench::{Bench, NEVER, Setup, asked, backend, handshake, nobody, read_all, read_head, switching};
use crate::gate::refusal::{Outcome, Refusal};

/// Checks that an answer is this refusal, with everything that belongs to it.
pub(super) fn expect(answer: &str, refusal: Refusal) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status().as_str())), "{answer}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains(&format!("proxy-status: sluice; error={}; details=\"", refusal.error())), "{answer}");
    let status = format!("proxy-websocket-status: rejected; reason={}; conn=\"", refusal.reason());
    assert!(head.contains(&status), "{answer}");
    assert!(head.contains("close"), "{answer}");
    assert_eq!(body, format!("{}\n", refusal.text()));
}

/// A backend that answers one handshake with these bytes, and closes.
async fn answered(with: &str) -> (Bench, tokio::task::JoinHandle<()>) {
    let (server, listener) = backend().await;
    let with = with.to_owned();
    let task = tokio::spawn(async move {
        let (mut stream, _) = asked(&listener).await;
        stream.write_all(with.as_bytes()).await.unwrap();
    });
    (Setup::plain(&[server], "").ready().await, task)
}

#[tokio::test]
async fn what_is_no_handshake_is_told_so() {
    let bench = Setup::plain(&[nobody().await], "").ready().await;
    let good = handshake("/", "");
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Refusal::NotWebSocket),
        (good.replace("GET", "POST"), Refusal::Method),
        (good.replace("Version: 13", "Version: 8"), Refusal::Version),
        (good.replace("Host: app.test\r\n", ""), Refusal::Host),
        (handshake("/", "Content-Length: 3\r\n") + "abc", Refusal::Body),
        (handshake("/", "Origin: https://evil.test\r\n"), Refusal::OriginDenied),
        ("GARBAGE\r\n\r\n".to_owned(), Refusal::Malformed),
        (handshake("/", "X: \u{1}\r\n"), Refusal::Malformed),
        (handshake("/", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), Refusal::Body),
        (handshake("/", "Content-Length: 3\r\nContent-Length: 4\r\n"), Refusal::Malformed),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_owned(), Refusal::Malformed),
    ];
    for (request, refusal) in cases {
        let answer = bench.ask(&request).await;
        expect(&answer, refusal);
    }
    assert_eq!(bench.stats.handshakes()[Outcome::Refused(Refusal::Malformed).index()], 4);
}

#[tokio::test]
async fn http_1_0_is_answered_in_its_own_version() {
    let bench = Setup::plain(&[nobody().await], "").ready().await;
    let answer = bench.ask(&handshake("/", "").replace("HTTP/1.1", "HTTP/1.0")).await;
    assert!(answer.starts_with("HTTP/1.0 400 "), "{answer}");
    assert!(answer.contains("reason=http-version"), "{answer}");
}

#[tokio::test]
async fn a_request_that_no_route_serves() {
    let routes = "[[route]]\nhost = \"app.test\"\npath = \"/chat\"\nbackend = \"app\"\n";
    let bench = Setup::plain(&[nobody().await], routes).ready().await;
    expect(&bench.ask(&handshake("/other", "")).await, Refusal::NoRoute);
    expect(&bench.ask(&handshake("/chat", "").replace("app.test", "b.test")).await, Refusal::NoRoute);
    expect(&bench.ask(&handshake("/chat/x", "")).await, Refusal::BackendRefused);
}

#[tokio::test]
async fn a_backend_that_refuses_everywhere() {
    let bench = Setup::plain(&[nobody().await, nobody().await], "").ready().await;
    expect(&bench.ask(&handshake("/", "")).await, Refusal::BackendRefused);
    bench.counted(Outcome::Refused(Refusal::BackendRefused), 1).await;
}

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

#[tokio::test]
async fn a_backend_that_closes_before_it_answers() {
    for (with, interim) in [("", ""), ("HTTP/1.1 101 Swi", ""), (CONTINUE, CONTINUE)] {
        let (bench, _) = answered(with).await;
        let answer = bench.ask(&handshake("/", "")).await;
        expect(answer.strip_prefix(interim).unwrap(), Refusal::BackendClosed);
    }
}

#[tokio::test]
async fn a_backend_that_speaks_something_else() {
    let (bench, _) = answered("220 smtp.test ESMTP\r\n\r\n").await;
    expect(&bench.ask(&handshake("/", "")).await, Refusal::BackendProtocol);
}

#[tokio::test]
async fn a_backend_with_a_wrong_101() {
    let good = switching("");
    let offered = "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: x; y=1\r\n";
    let cases = [
        (good.replace("s3p", "s4p"), Refusal::BackendAccept),
        (switching("Sec-WebSocket-Accept: x\r\n"), Refusal::BackendAccept),
        (good.replace("Upgrade: websocket\r\n", ""), Refusal::BackendUpgrade),
        (good.replace("Connection: Upgrade\r\n", ""), Refusal::BackendUpgrade),
        (switching("Content-Length: 5\r\n") + "hello", Refusal::BackendUpgrade),
        (switching("Sec-WebSocket-Protocol: A\r\n"), Refusal::BackendSubprotocol),
        (switching("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n"), Refusal::BackendSubprotocol),
        (switching("Sec-WebSocket-Extensions: z\r\n"), Refusal::BackendExtension),
    ];
    for (with, refusal) in cases {
        let (bench, _) = answered(&with).await;
        expect(&bench.ask(&handshake("/", offered)).await, refusal);
    }
}

#[tokio::test]
async fn an_offered_choice_passes_behind_interim_answers() {
    let with = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned()
        + &switching("Sec-WebSocket-Protocol: b\r\nSec-WebSocket-Extensions: x\r\nProxy-Status: spoofed\r\n");
    let (bench, _) = answered(&with).await;
    let mut client = bench.connect().await;
    let offered = "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: x; y=1\r\n";
    client.write_all(handshake("/", offered).as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut client).await, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    let answer = read_head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("sec-websocket-protocol: b\r\n"), "{answer}");
    assert!(answer.contains("sec-websocket-extensions: x\r\n"), "{answer}");
    assert!(!answer.contains("spoofed") && !answer.contains("link"), "{answer}");
}

#[tokio::test]
async fn another_answer_is_passed_on_as_it_is_and_never_tunnelled() {
    let with = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 4\r\nX-Hop: 1\r\n\
                Connection: keep-alive, X-Hop\r\nProxy-WebSocket-Status: spoofed\r\n\r\nnope and more";
    let (bench, _) = answered(with).await;
    let answer = bench.ask(&handshake("/", "")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{answer}");
    assert!(head.contains("www-authenticate: Basic") && head.contains("connection: close"), "{answer}");
    assert!(head.contains("proxy-websocket-status: rejected; reason=backend-answer; conn=\""), "{answer}");
    assert!(!head.contains("x-hop") && !head.contains("proxy-status: ") && !head.contains("spoofed"), "{answer}");
    assert_eq!(body, "nope");
    bench.counted(Outcome::BackendAnswer, 1).await;
}

#[tokio::test]
async fn a_body_without_a_length_arrives_framed() {
    let (bench, _) = answered("HTTP/1.1 200 OK\r\n\r\nuntil I close").await;
    let answer = bench.ask(&handshake("/", "")).await;
    assert!(answer.contains("transfer-encoding: chunked\r\n"), "{answer}");
    assert!(answer.ends_with("D\r\nuntil I close\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_cut_so_that_the_client_notices() {
    let long = "x".repeat(3000);
    let chunked = format!("HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\nbb8\r\n{long}\r\n0\r\n\r\n");
    let sized = format!("HTTP/1.1 500 Oops\r\nContent-Length: 3000\r\n\r\n{long}");
    for with in [chunked, sized] {
        let (server, listener) = backend().await;
        let bench = Setup::plain(&[server], "[limits]\nresponse_body = 1000\n").ready().await;
        let task = tokio::spawn(async move {
            let (mut stream, _) = asked(&listener).await;
            stream.write_all(with.as_bytes()).await.unwrap();
            read_all(&mut stream).await
        });
        let answer = bench.ask(&handshake("/", "")).await;
        assert!(answer.matches('x').count() >= 900 && answer.matches('x').count() <= 1001, "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "the end of the message must be missing: {answer}");
        // The backend is let go too.
        tokio::time::timeout(NEVER, task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_answer_is_not_lost_to_what_the_client_goes_on_sending() {
    let bench = Setup::plain(&[nobody().await], "").ready().await;
    let mut client = bench.connect().await;
    let request = handshake("/", "Origin: null\r\n") + &"x".repeat(40_000);
    client.write_all(request.as_bytes()).await.unwrap();
    expect(&read_all(&mut client).await, Refusal::OriginDenied);
}
