//! Plain HTTP that passes through.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bench::{Bench, Setup, asked, backend, handshake, read_all, read_exact, read_head, switching};
use super::refusals::expect;
use crate::gate::refusal::{Outcome, Refusal};

const FORWARD: &str = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n";

async fn bench(more: &str) -> (Bench, TcpListener) {
    let (server, listener) = backend().await;
    (Setup::plain(&[server], &format!("{FORWARD}{more}")).ready().await, listener)
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{more}\r\n")
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// An answer with this body, as a client gets it that knows how long it is.
async fn answer(client: &mut TcpStream, body: &str) -> String {
    let head = read_head(client).await;
    assert_eq!(read_exact(client, body.len()).await, body.as_bytes(), "{head}");
    head
}

#[tokio::test]
async fn requests_follow_each_other_on_both_connections() {
    let (bench, listener) = bench("").await;
    let mut client = bench.connect().await;
    say(&mut client, &get("/a?x=1", "Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n")).await;
    let (mut server, head) = asked(&listener).await;
    assert!(head.starts_with("GET /a?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n") && head.contains("host: app.test\r\n"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("secret") && !head.contains("keep-alive"), "{head}");
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=9\r\nX-A: b\r\n\r\nfirst").await;
    let head = answer(&mut client, "first").await;
    assert!(head.contains("x-a: b") && !head.contains("close") && !head.contains("timeout=9"), "{head}");
    for round in 0..3 {
        say(&mut client, &get(&format!("/{round}"), "")).await;
        let head = tokio::select! {
            head = read_head(&mut server) => head,
            (other, head) = asked(&listener) => {
                server = other;
                head
            }
        };
        assert!(head.starts_with(&format!("GET /{round} ")), "{head}");
        say(&mut server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
        assert!(read_head(&mut client).await.contains("transfer-encoding: chunked"));
        assert_eq!(read_exact(&mut client, 13).await, b"3\r\nabc\r\n0\r\n\r\n");
    }
    bench.counted(Outcome::Forwarded, 4).await;
    drop(client);
    assert_eq!(bench.stats.handshakes()[Outcome::ClientGone.index()], 0);
}

#[tokio::test]
async fn a_connection_to_the_backend_is_used_again() {
    const REQUESTS: usize = 20;
    let (bench, listener) = bench("").await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut server, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                loop {
                    read_head(&mut server).await;
                    say(&mut server, "HTTP/1.1 204 No Content\r\n\r\n").await;
                }
            });
        }
    });
    for _ in 0..REQUESTS {
        let mut client = bench.connect().await;
        say(&mut client, &get("/", "")).await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 204 "));
    }
    // The answer may be out before its connection is back.
    let connections = connections.load(Ordering::Relaxed);
    assert!(connections < REQUESTS / 2, "{connections} connections for {REQUESTS} requests");
}

#[tokio::test]
async fn bodies_pass_both_ways_with_either_framing() {
    let (bench, listener) = bench("").await;
    let mut client = bench.connect().await;
    say(&mut client, "POST /in HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\nbody").await;
    let (mut server, head) = asked(&listener).await;
    assert!(head.contains("content-length: 4\r\n"), "{head}");
    assert_eq!(read_exact(&mut server, 4).await, b"body");
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    answer(&mut client, "").await;
    // And an empty one that says so.
    say(&mut client, "POST /none HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n").await;
    let head = tokio::select! {
        head = read_head(&mut server) => head,
        (other, head) = asked(&listener) => { server = other; head }
    };
    assert!(head.starts_with("POST /none ") && head.contains("content-length: 0\r\n"), "{head}");
    // An answer that ends with its connection.
    say(&mut server, "HTTP/1.1 200 OK\r\n\r\nto the end").await;
    drop(server);
    assert!(read_head(&mut client).await.contains("transfer-encoding: chunked"));
    assert_eq!(read_exact(&mut client, 20).await, b"A\r\nto the end\r\n0\r\n\r\n");
    // A chunked one. The connection ends behind it: there may have been a length beside it.
    say(&mut client, "PUT /c HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    let (mut server, head) = asked(&listener).await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert_eq!(read_exact(&mut server, 13).await, b"3\r\nabc\r\n0\r\n\r\n");
    say(&mut server, "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").await;
    let rest = read_all(&mut client).await;
    assert!(rest.starts_with("HTTP/1.1 201 ") && rest.contains("connection: close") && rest.ends_with("ok"), "{rest}");
}

#[tokio::test]
async fn a_websocket_may_follow_plain_requests_on_its_connection() {
    let (mut bench, listener) = bench("").await;
    let mut client = bench.connect().await;
    say(&mut client, &get("/poll", "")).await;
    let (mut server, _) = asked(&listener).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    answer(&mut client, "hi").await;
    say(&mut client, &(handshake("/ws", "") + "early")).await;
    // Not over a connection that plain requests use.
    let (mut server, head) = asked(&listener).await;
    assert!(head.starts_with("GET /ws ") && head.contains("upgrade: websocket"), "{head}");
    say(&mut server, &switching("")).await;
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
    let (pair, ..) = bench.pair().await;
    assert_eq!(pair.to_backend, b"early");
    bench.counted(Outcome::Upgraded, 1).await;
}

#[tokio::test]
async fn routes_that_do_not_take_plain_http_say_426() {
    let (server, _listener) = backend().await;
    let routes = "[[route]]\nbackend = \"app\"\n[[route]]\npath = \"/io\"\nhttp = \"forward\"\nbackend = \"app\"\n";
    let bench = Setup::plain(&[server], routes).ready().await;
    expect(&bench.ask(&get("/", "")).await, Refusal::NotWebSocket);
    expect(&bench.ask("POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n").await, Refusal::Method);
}

#[tokio::test]
async fn foreign_pages_cannot_poll_either() {
    let (bench, _listener) = bench("").await;
    expect(&bench.ask(&get("/", "Origin: https://evil.test\r\n")).await, Refusal::OriginDenied);
    expect(&bench.ask(&get("/", "Origin: null\r\n")).await, Refusal::OriginDenied);
    bench.counted(Outcome::Refused(Refusal::OriginDenied), 2).await;
}

#[tokio::test]
async fn what_is_no_request_to_pass_on() {
    let (bench, listener) = bench("").await;
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: app.test\r\n{headers}\r\n{body}");
    for (request, refusal) in [
        (get("/a/../b", ""), Refusal::Path),
        (get("/", "Connection: a b\r\n"), Refusal::Connection),
        (get("/", "").replace("GET", "TRACE"), Refusal::Method),
        (get("/", "").replace("GET /", "CONNECT app.test:1"), Refusal::Method),
        (get("/", "").replace("GET", "trace"), Refusal::Malformed),
        (get("/", "").replace("GET", "Post"), Refusal::Malformed),
        (get("/", "Upgrade: websocket\r\nConnection: upgrade\r\n").replace("GET", "get"), Refusal::Malformed),
        (get("/", "").replace("Host: app.test\r\n", ""), Refusal::Host),
        (post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), Refusal::Framing),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refusal::Framing),
        (post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), Refusal::Malformed),
        (post("Content-Length: +3\r\n", "abc"), Refusal::Malformed),
        (post("Content-Length: 3, 3\r\n", "abc"), Refusal::Malformed),
        (post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), Refusal::Malformed),
    ] {
        let answer = bench.ask(&request).await;
        expect(&answer, refusal);
    }
    assert!(tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await.is_err(), "a backend was asked");
}

#[tokio::test]
async fn nonsense_behind_a_request_ends_the_connection() {
    let (bench, listener) = bench("").await;
    let mut client = bench.connect().await;
    say(&mut client, &(get("/", "") + "NONSENSE\r\n\r\n" + &get("/smuggled", ""))).await;
    let (mut server, head) = asked(&listener).await;
    assert!(head.starts_with("GET / "), "{head}");
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let answers = read_all(&mut client).await;
    let second = answers.split("ok").nth(1).unwrap_or_default();
    expect(second, Refusal::Malformed);
    assert_eq!(answers.matches("\ncontent-length: ").count(), 2, "{answers}");
    bench.counted(Outcome::Refused(Refusal::Malformed), 1).await;
    // Whatever the backend still gets on that connection, it is no request.
    drop(bench);
    let mut rest = Vec::new();
    let _ = server.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn silence_between_requests_ends_the_connection_and_half_a_head_is_told_so() {
    let (bench, listener) = bench("[timeouts]\nkeep_alive = \"200ms\"\nhead = \"100ms\"\n").await;
    for (begin, end) in [("", ""), ("GET / HT", "HTTP/1.1 408 ")] {
        let mut client = bench.connect().await;
        say(&mut client, &get("/", "")).await;
        let (mut server, _) = asked(&listener).await;
        say(&mut server, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        drop(server);
        answer(&mut client, "ok").await;
        say(&mut client, begin).await;
        let rest = read_all(&mut client).await;
        assert!(rest.starts_with(end) && rest.is_empty() == end.is_empty(), "{rest}");
    }
}

#[tokio::test]
async fn a_backend_that_fails() {
    let (bench, listener) = bench("[timeouts]\nhttp_response = \"150ms\"\n").await;
    let mut client = bench.connect().await;
    say(&mut client, &get("/", "")).await;
    let (server, _) = asked(&listener).await;
    expect(&read_all(&mut client).await, Refusal::ResponseTimeout);
    drop(server);
    // Nor does one answer that waits for the rest of a request.
    let mut client = bench.connect().await;
    say(&mut client, "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100\r\n\r\nabc").await;
    let (server, _) = asked(&listener).await;
    expect(&read_all(&mut client).await, Refusal::BodyTimeout);
    drop(server);
    for (said, refusal) in [
        ("", Refusal::BackendClosed),
        ("HTTP/1.1 200", Refusal::BackendClosed),
        ("nonsense\r\n\r\n", Refusal::BackendProtocol),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Refusal::BackendUpgrade),
    ] {
        let mut client = bench.connect().await;
        say(&mut client, &get("/", "")).await;
        let (mut server, _) = asked(&listener).await;
        say(&mut server, said).await;
        drop(server);
        expect(&read_all(&mut client).await, refusal);
    }
    // In the middle of a body: the client must not take what it has for the whole.
    let mut client = bench.connect().await;
    say(&mut client, &get("/", "")).await;
    let (mut server, _) = asked(&listener).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    drop(server);
    let answer = read_all(&mut client).await;
    assert!(answer.ends_with("3\r\nabc\r\n"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_has_closed_is_not_asked() {
    let (bench, listener) = bench("").await;
    for _ in 0..20 {
        let mut client = bench.connect().await;
        say(&mut client, &get("/", "")).await;
        let (mut server, _) = asked(&listener).await;
        say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        answer(&mut client, "ok").await;
        // Its FIN is there before the next request: this socket has seen the gate's.
        server.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_client_with_our_cookie_comes_back_to_its_server() {
    let (one, two) = (backend().await, backend().await);
    let mut setup = Setup::plain(&[one.0, two.0], FORWARD);
    setup.config = setup.config.replace("name = \"app\"\n", "name = \"app\"\nsticky = {}\n");
    let bench = setup.ready().await;
    let cookie_of = |head: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).map(str::to_owned);
        line.map(|line| line.split(';').next().unwrap().to_owned())
    };
    let served = async |request: String, answer: &str| {
        let mut client = bench.connect().await;
        say(&mut client, &request).await;
        let ((mut server, head), which) = tokio::select! {
            asked = asked(&one.1) => (asked, 1),
            asked = asked(&two.1) => (asked, 2),
        };
        say(&mut server, answer).await;
        (read_head(&mut client).await, which, head)
    };
    const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\nSet-Cookie: app=1\r\n\r\n";
    let (head, first, _) = served(get("/", ""), OK).await;
    let cookie = cookie_of(&head.replace("set-cookie: app=1\r\n", "")).expect("a cookie");
    assert!(head.contains("set-cookie: app=1\r\n"), "{head}");
    for _ in 0..3 {
        let (head, again, asked) = served(get("/", &format!("Cookie: app=1; {cookie}\r\n")), OK).await;
        assert_eq!(again, first);
        assert!(asked.contains("cookie: app=1\r\n"), "the backend sees its own cookie only: {asked}");
        assert_eq!(head.matches("set-cookie").count(), 1, "the cookie is good still: {head}");
    }
    let upgrade = handshake("/", &format!("Cookie: {cookie}\r\n"));
    let (head, again, request) = served(upgrade, &switching("")).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && again == first && !request.contains("cookie:"), "{head}");
    let (head, ..) = served(handshake("/", "Cookie: sluice=forged\r\n"), &switching("")).await;
    assert!(cookie_of(&head).is_some_and(|new| new != "sluice=forged"), "{head}");
    // Its server is gone: another one, with another cookie.
    let (gone, left) = if first == 1 { (one, two) } else { (two, one) };
    drop(gone);
    let mut client = bench.connect().await;
    say(&mut client, &handshake("/", &format!("Cookie: {cookie}\r\n"))).await;
    let (mut server, _) = asked(&left.1).await;
    say(&mut server, &switching("")).await;
    let head = read_head(&mut client).await;
    assert!(cookie_of(&head).is_some_and(|new| new != cookie), "{head}");
}
