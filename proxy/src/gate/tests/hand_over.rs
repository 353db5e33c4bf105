//! Pairs that come to be.

use tokio::io::AsyncWriteExt;

use super::bench::{Setup, asked, backend, handshake, nobody, read_exact, read_head, switching};
use crate::gate::refusal::Outcome;
use crate::handoff::{MAX_LEFTOVER, Tally, ToGate};

#[tokio::test]
async fn a_pair_is_handed_over_with_what_was_read_ahead() {
    let (server, listener) = backend().await;
    let mut bench = Setup::plain(&[server], "").ready().await;
    let mut client = bench.connect().await;
    let request = handshake("/chat?token=1", "X-App: a\r\nX-App: b\r\n") + "first frames of the client";
    client.write_all(request.as_bytes()).await.unwrap();

    let (mut stream, head) = asked(&listener).await;
    assert!(head.starts_with("GET /chat?token=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("x-app: a\r\nx-app: b\r\n") && head.contains("host: app.test\r\n"), "{head}");
    assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n") && head.contains("x-forwarded-proto: http\r\n"), "{head}");
    let answer = switching("Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n") + "first frames of the backend";
    stream.write_all(answer.as_bytes()).await.unwrap();

    let answer = read_head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("set-cookie: a=1\r\nset-cookie: b=2\r\n"), "{answer}");
    let (pair, mut client_side, mut backend_side) = bench.pair().await;
    let status = format!("proxy-websocket-status: upgraded; relay=sockmap; conn=\"{}\"\r\n", pair.facts.id);
    assert!(answer.contains(&status), "{answer}");
    assert_eq!(pair.to_backend, b"first frames of the client");
    assert_eq!(pair.to_client, b"first frames of the backend");
    assert_eq!(pair.facts.client.inet(), client.local_addr().ok());
    assert_eq!((pair.facts.listener, pair.facts.route, pair.facts.backend, pair.facts.server), (0, 0, 0, 0));

    // The sockets are the two connections, and nothing of either was lost on the way.
    client_side.write_all(b"to the client").await.unwrap();
    assert_eq!(read_exact(&mut client, 13).await, b"to the client");
    backend_side.write_all(b"to the backend").await.unwrap();
    assert_eq!(read_exact(&mut stream, 14).await, b"to the backend");
    bench.counted(Outcome::Upgraded, 1).await;
    bench.end().await.unwrap();
}

#[tokio::test]
async fn bytes_that_come_while_the_backend_thinks_go_with_the_pair() {
    let (server, listener) = backend().await;
    let mut bench = Setup::plain(&[server], "").ready().await;
    let mut client = bench.connect().await;
    client.write_all(handshake("/", "").as_bytes()).await.unwrap();
    let (mut stream, _) = asked(&listener).await;
    client.write_all(b"impatient").await.unwrap();
    stream.write_all(switching("").as_bytes()).await.unwrap();
    read_head(&mut client).await;
    let (pair, client_side, _) = bench.pair().await;
    // Either the gate had read them, or they are still in the socket: never both, never neither.
    let mut got = pair.to_backend.clone();
    let mut client_side = client_side;
    got.extend(read_exact(&mut client_side, b"impatient".len() - got.len()).await);
    assert_eq!(got, b"impatient");
}

#[tokio::test]
async fn servers_are_taken_in_turn_and_dead_ones_passed_over() {
    let ((first, one), (second, two), dead) = (backend().await, backend().await, nobody().await);
    let mut bench = Setup::plain(&[first, dead, second], "").ready().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut client = bench.connect().await;
        client.write_all(handshake("/", "").as_bytes()).await.unwrap();
        let (mut stream, _) = tokio::select! { asked = asked(&one) => asked, asked = asked(&two) => asked };
        stream.write_all(switching("").as_bytes()).await.unwrap();
        seen.push(bench.pair().await.0.facts.server);
    }
    assert_eq!(seen, [0, 2, 2]);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_backend_connection_along() {
    let (server, listener) = backend().await;
    let bench = Setup::plain(&[server], "").ready().await;
    let mut client = bench.connect().await;
    client.write_all(handshake("/", "").as_bytes()).await.unwrap();
    let (mut stream, _) = asked(&listener).await;
    drop(client);
    assert_eq!(super::bench::read_all(&mut stream).await, "");
    bench.counted(Outcome::ClientGone, 1).await;
}

#[tokio::test]
async fn without_room_nobody_is_accepted_until_the_keeper_has_room() {
    let (server, listener) = backend().await;
    let mut setup = Setup::plain(&[server], "");
    let tally = Tally { route: 0, backend: 0, server: 0, client: None };
    (setup.capacity, setup.held.pairs) = (3, vec![tally; 2]);
    let mut bench = setup.ready().await;
    let mut first = bench.connect().await;
    first.write_all(handshake("/", "").as_bytes()).await.unwrap();
    let (mut stream, _) = asked(&listener).await;
    stream.write_all(switching("").as_bytes()).await.unwrap();
    let _held = bench.pair().await;

    // The kernel queues the next one; the gate must not dial for it.
    let mut second = bench.connect().await;
    second.write_all(handshake("/second", "").as_bytes()).await.unwrap();
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), listener.accept()).await;
    assert!(early.is_err(), "a connection was accepted without room");
    bench.send(&ToGate::Closed { pairs: vec![tally] }, &[]).await;
    let (_, head) = asked(&listener).await;
    assert!(head.starts_with("GET /second "), "{head}");
}

/// Whatever the heads' lengths, what is read ahead fits the hand-over, and nothing is lost or reordered around it.
#[tokio::test]
async fn floods_behind_both_heads_are_handed_over_byte_for_byte() {
    const FLOOD: usize = 600_000;
    let flood: Vec<u8> = (0..FLOOD).map(|at| (at % 251) as u8).collect();
    for padding in [1, 7_000, 17_000, 40_000, 56_000, 62_000] {
        let (server, listener) = backend().await;
        let mut bench = Setup::plain(&[server], "[limits]\nhead_bytes = 65536\n").ready().await;
        let mut client = bench.connect().await;
        let padding = format!("X-Padding: {}\r\n", "x".repeat(padding));
        let request = [handshake("/", &padding).as_bytes(), &flood].concat();
        let client_writes = async { client.write_all(&request).await.unwrap() };
        let answer = [switching(&padding).as_bytes(), &flood].concat();
        let backend_writes = async {
            let (mut stream, _) = asked(&listener).await;
            stream.write_all(&answer).await.unwrap();
            stream
        };
        let hand_over = async {
            let (pair, mut client_side, mut backend_side) = bench.pair().await;
            assert!(pair.to_backend.len().max(pair.to_client.len()) <= MAX_LEFTOVER);
            let up = read_exact(&mut client_side, FLOOD - pair.to_backend.len()).await;
            let down = read_exact(&mut backend_side, FLOOD - pair.to_client.len()).await;
            assert!([pair.to_backend, up].concat() == flood, "from the client, behind {} bytes", padding.len());
            assert!([pair.to_client, down].concat() == flood, "from the backend, behind {} bytes", padding.len());
        };
        tokio::join!(client_writes, backend_writes, hand_over);
    }
}
