//! Requests as clients, proxies and backends of all ages write them.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::bench::{Bench, Setup, asked, backend, handshake, read_all, read_exact, read_head};
use super::refusals::expect;
use crate::gate::refusal::{Outcome, Refusal};

const FORWARD: &str = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n";

async fn bench(more: &str) -> (Bench, TcpListener) {
    let (server, listener) = backend().await;
    (Setup::plain(&[server], &format!("{FORWARD}{more}")).ready().await, listener)
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Sends a request on a connection of its own, and answers it: what the backend got, and all that the client got.
async fn passed(bench: &Bench, listener: &TcpListener, request: &str, answer: &str) -> (String, String) {
    let mut client = bench.connect().await;
    say(&mut client, request).await;
    let (mut server, head) = asked(listener).await;
    say(&mut server, answer).await;
    drop(server);
    (head, read_all(&mut client).await)
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

#[tokio::test]
async fn http_1_0_is_answered_without_chunks_and_needs_no_host() {
    let (bench, listener) = bench("").await;
    let (head, answer) = passed(&bench, &listener, "GET /health HTTP/1.0\r\n\r\n", CHUNKED).await;
    let own = format!("host: {}\r\n", bench.ports[0]);
    assert!(head.starts_with("GET /health HTTP/1.1\r\n") && head.contains(&own), "{head}");
    assert!(head.contains(&format!("x-forwarded-{own}")), "{head}");
    let (told, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(told.starts_with("HTTP/1.0 200 OK\r\n") && body == "abc", "{answer}");
    assert!(!told.contains("transfer-encoding") && !told.contains("keep-alive"), "{answer}");
    // An answer without a length ends with its connection, whatever is asked for.
    let kept = "GET /health HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n";
    let (head, answer) = passed(&bench, &listener, kept, CHUNKED).await;
    assert!(head.contains("host: a.test\r\n") && !head.contains("keep-alive"), "{head}");
    assert!(answer.ends_with("\r\n\r\nabc") && !answer.contains("keep-alive"), "{answer}");
    let refused = bench.ask(&kept.replace("/health", "/a/../b")).await;
    assert!(refused.starts_with("HTTP/1.0 400 ") && refused.contains("reason=path"), "{refused}");
    assert_eq!(refused.matches("connection: ").count(), 1, "{refused}");
    assert!(!refused.contains("keep-alive"), "{refused}");
}

#[tokio::test]
async fn http_1_0_keeps_its_connection_if_it_asks_for_that() {
    let (bench, listener) = bench("").await;
    let mut client = bench.connect().await;
    for round in 0..3 {
        say(&mut client, &format!("GET /{round} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")).await;
        let (mut server, head) = asked(&listener).await;
        assert!(head.starts_with(&format!("GET /{round} ")), "{head}");
        say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.0 200 ") && head.contains("connection: keep-alive\r\n"), "{head}");
        assert_eq!(read_exact(&mut client, 2).await, b"ok");
    }
    bench.counted(Outcome::Forwarded, 3).await;
}

#[tokio::test]
async fn the_target_decides_over_host() {
    let (bench, listener) = bench("").await;
    let ok = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    for (target, host, line, told) in [
        ("http://a.test:80/x?y", "a.test", "GET /x?y ", "host: a.test:80\r\n"),
        ("http://a.test/x", "b.test", "GET /x ", "host: a.test\r\n"),
        ("/x", "b.test", "GET /x ", "host: b.test\r\n"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (head, answer) = passed(&bench, &listener, &request, ok).await;
        assert!(head.starts_with(line) && head.matches("\r\nhost: ").count() == 1 && head.contains(told), "{head}");
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    }
}

#[tokio::test]
async fn options_for_the_whole_server_reach_it() {
    let (bench, listener) = bench("").await;
    let ok = "HTTP/1.1 204 No Content\r\nAllow: GET\r\nConnection: close\r\n\r\n";
    let request = "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let (head, answer) = passed(&bench, &listener, request, ok).await;
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    assert!(answer.starts_with("HTTP/1.1 204 ") && answer.contains("allow: GET"), "{answer}");
    expect(&bench.ask("GET * HTTP/1.1\r\nHost: a.test\r\n\r\n").await, Refusal::Path);
}

#[tokio::test]
async fn a_fragment_is_refused_wherever_its_request_stands() {
    let (bench, listener) = bench("").await;
    let with = "GET /a#/b HTTP/1.1\r\nHost: a.test\r\n\r\n";
    expect(&bench.ask(with).await, Refusal::Path);
    expect(&bench.ask(&handshake("/a?b#c", "")).await, Refusal::Path);
    let first = "POST /first HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8\r\nX-#: #\r\n\r\nGET /# H";
    let mut client = bench.connect().await;
    say(&mut client, &(first.to_owned() + with)).await;
    let (mut server, head) = asked(&listener).await;
    assert!(head.starts_with("POST /first ") && head.contains("x-#: #"), "{head}");
    assert_eq!(read_exact(&mut server, 8).await, b"GET /# H");
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let answers = read_all(&mut client).await;
    expect(answers.split_once("\r\n\r\nok").unwrap().1, Refusal::Path);
}

#[tokio::test]
async fn a_backends_answer_has_a_limit_of_its_own() {
    let (bench, listener) = bench("[limits]\nheader_count = 20\nresponse_header_count = 150\n").await;
    let answer = |fields| {
        let fields: String = (0..fields).map(|place| format!("X-{place}: y\r\n")).collect();
        format!("HTTP/1.1 204 No Content\r\nConnection: close\r\n{fields}\r\n")
    };
    for (request, refusal) in [
        ("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".to_owned(), Refusal::BackendHeadTooLarge),
        (handshake("/", ""), Refusal::BackendHeadTooLarge),
    ] {
        let (_, told) = passed(&bench, &listener, &request, &answer(120)).await;
        assert!(told.starts_with("HTTP/1.1 204 ") && told.contains("x-119: y"), "{told}");
        let (_, told) = passed(&bench, &listener, &request, &answer(160)).await;
        expect(&told, refusal);
    }
}

#[tokio::test]
async fn names_are_written_as_a_backend_wants_them() {
    for (settings, names) in [
        ("", ["host", "x-forwarded-for", "soapaction", "x-id", "sec-websocket-key", "connection"]),
        (
            "header_case = \"title\"",
            ["Host", "X-Forwarded-For", "Soapaction", "X-Id", "Sec-WebSocket-Key", "Connection"],
        ),
        (
            "header_names = [\"SOAPAction\", \"X-ID\"]",
            ["host", "x-forwarded-for", "SOAPAction", "X-ID", "sec-websocket-key", "connection"],
        ),
        (
            "header_case = \"title\"\nheader_names = [\"SOAPAction\", \"HOST\"]",
            ["HOST", "X-Forwarded-For", "SOAPAction", "X-Id", "Sec-WebSocket-Key", "Connection"],
        ),
    ] {
        let (server, listener) = backend().await;
        let mut setup = Setup::plain(&[server], FORWARD);
        setup.config = setup.config.replacen("[[backend]]\n", &format!("[[backend]]\n{settings}\n"), 1);
        let bench = setup.ready().await;
        let more = "SoapAction: x\r\nX-Id: 1\r\nX-Id: 2\r\nConnection: close\r\n";
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{more}\r\n");
        let ok = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        let (plain, _) = passed(&bench, &listener, &request, ok).await;
        let (websocket, _) = passed(&bench, &listener, &handshake("/", more), ok).await;
        let [host, for_, soap, id, key, connection] = names;
        for name in [host, for_, soap, id] {
            assert!(plain.contains(&format!("\r\n{name}: ")), "{name}: {plain}");
        }
        for name in names {
            assert!(websocket.contains(&format!("\r\n{name}: ")), "{name}: {websocket}");
        }
        assert_eq!(plain.matches(&format!("\r\n{id}: ")).count(), 2, "{plain}");
        assert!(websocket.contains(&format!("\r\n{key}: dGhl")) && websocket.contains(&format!("{connection}: ")));
    }
}
