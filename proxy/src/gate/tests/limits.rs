//! Time and size.

use tokio::io::AsyncWriteExt;

use super::bench::{Setup, asked, backend, handshake, nobody, read_all, silent, switching};
use crate::gate::refusal::{Outcome, Refusal};
use crate::handoff::{Tally, ToGate};

fn is(answer: &str, refusal: Refusal) -> bool {
    answer.starts_with(&format!("HTTP/1.1 {} ", refusal.status().as_str()))
        && answer.contains(&format!("reason={};", refusal.reason()))
}

#[tokio::test]
async fn a_slow_head_is_answered_and_the_slot_comes_back() {
    let (server, listener) = backend().await;
    let mut setup = Setup::plain(&[server], "[timeouts]\nhead = \"150ms\"\n");
    setup.capacity = 1;
    let bench = setup.ready().await;
    let mut slow = bench.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await.unwrap();
    let answer = read_all(&mut slow).await;
    assert!(is(&answer, Refusal::HeadTimeout), "{answer}");
    drop(slow);
    // The only slot is free again.
    let mut next = bench.connect().await;
    next.write_all(handshake("/", "").as_bytes()).await.unwrap();
    asked(&listener).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed() {
    let bench = Setup::plain(&[nobody().await], "[timeouts]\nhead = \"100ms\"\n").ready().await;
    let answer = bench.ask("").await;
    assert!(is(&answer, Refusal::HeadTimeout), "{answer}");
}

#[tokio::test]
async fn a_client_that_only_connects_is_no_refusal() {
    let bench = Setup::plain(&[nobody().await], "").ready().await;
    drop(bench.connect().await);
    bench.counted(Outcome::ClientGone, 1).await;
}

#[tokio::test]
async fn heads_beyond_the_limits() {
    let bench = Setup::plain(&[nobody().await], "[limits]\nhead_bytes = 8192\nheader_count = 12\n").ready().await;
    let long = bench.ask(&handshake("/", &format!("X: {}\r\n", "x".repeat(9000)))).await;
    assert!(is(&long, Refusal::HeadTooLarge), "{long}");
    let many = bench.ask(&handshake("/", &"X: 1\r\n".repeat(20))).await;
    assert!(is(&many, Refusal::HeadTooLarge), "{many}");
    let line = bench.ask(&handshake(&format!("/{}", "x".repeat(9000)), "")).await;
    assert!(is(&line, Refusal::UriTooLong), "{line}");
    let fits = bench.ask(&handshake("/", &format!("X: {}\r\n", "x".repeat(7000)))).await;
    assert!(is(&fits, Refusal::BackendRefused), "{fits}");
}

#[tokio::test]
async fn a_backend_that_does_not_answer() {
    let (server, listener) = backend().await;
    let bench = Setup::plain(&[server], "[timeouts]\nresponse = \"150ms\"\n").ready().await;
    let silent = tokio::spawn(async move {
        let (mut stream, _) = asked(&listener).await;
        read_all(&mut stream).await
    });
    let answer = bench.ask(&handshake("/", "")).await;
    assert!(is(&answer, Refusal::ResponseTimeout), "{answer}");
    silent.await.unwrap();
}

#[tokio::test]
async fn a_backend_head_beyond_the_limits() {
    let (server, listener) = backend().await;
    let bench = Setup::plain(&[server], "[limits]\nhead_bytes = 8192\n").ready().await;
    let task = tokio::spawn(async move {
        let (mut stream, _) = asked(&listener).await;
        // The gate may close before all of it is written.
        let _ = stream.write_all(switching(&format!("X: {}\r\n", "x".repeat(20_000))).as_bytes()).await;
    });
    let answer = bench.ask(&handshake("/", "")).await;
    assert!(is(&answer, Refusal::BackendHeadTooLarge), "{answer}");
    task.await.unwrap();
}

#[tokio::test]
async fn a_dial_that_nobody_answers_times_out() {
    let (server, _full) = silent().await;
    let bench = Setup::plain(&[server], "[timeouts]\ndial = \"100ms\"\n").ready().await;
    let answer = bench.ask(&handshake("/", "")).await;
    assert!(is(&answer, Refusal::BackendTimeout), "{answer}");
}

#[tokio::test]
async fn the_whole_handshake_has_an_end() {
    let (server, listener) = backend().await;
    let bench = Setup::plain(&[server], "[timeouts]\nhandshake = \"200ms\"\n").ready().await;
    let silent = tokio::spawn(async move { asked(&listener).await });
    let answer = bench.ask(&handshake("/", "")).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    drop(silent.await.unwrap());
}

#[tokio::test]
async fn the_gate_ends_with_its_keeper() {
    let bench = Setup::plain(&[nobody().await], "").ready().await;
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_full_route_refuses_and_others_serve() {
    let (server, listener) = backend().await;
    let routes = "[[route]]\npath = \"/few\"\nbackend = \"app\"\nlimits = { connections = 2 }\n\
                  [[route]]\nbackend = \"app\"\n";
    let mut setup = Setup::plain(&[server], routes);
    let tally = Tally { route: 0, backend: 0, server: 0, client: None };
    setup.held.pairs = vec![tally];
    let mut bench = setup.ready().await;
    // One lives from an earlier gate; one more goes to the keeper.
    let mut first = bench.connect().await;
    first.write_all(handshake("/few", "").as_bytes()).await.unwrap();
    let (mut stream, _) = asked(&listener).await;
    stream.write_all(switching("").as_bytes()).await.unwrap();
    let held = bench.pair().await;
    let full = bench.ask(&handshake("/few", "")).await;
    assert!(is(&full, Refusal::RouteFull) && full.contains("\r\nretry-after: "), "{full}");
    let mut other = bench.connect().await;
    other.write_all(handshake("/", "").as_bytes()).await.unwrap();
    drop(asked(&listener).await);
    // The keeper says that one has ended.
    drop(held);
    bench.send(&ToGate::Closed { pairs: vec![tally] }, &[]).await;
    let mut next = loop {
        // The message takes its time.
        let mut next = bench.connect().await;
        next.write_all(handshake("/few", "").as_bytes()).await.unwrap();
        tokio::select! {
            (stream, _) = asked(&listener) => break (next, stream),
            answer = read_all(&mut next) => assert!(is(&answer, Refusal::RouteFull), "{answer}"),
        }
    };
    // A handshake holds a place, and gives it back when it fails.
    let full = bench.ask(&handshake("/few", "")).await;
    assert!(is(&full, Refusal::RouteFull), "{full}");
    next.1.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(read_all(&mut next.0).await.starts_with("HTTP/1.1 404 "));
    bench.counted(Outcome::BackendAnswer, 1).await;
}

#[tokio::test]
async fn a_routes_own_time_limits() {
    let (server, listener) = backend().await;
    let routes = "[timeouts]\nhandshake = \"30s\"\n\
                  [[route]]\npath = \"/quick\"\nbackend = \"app\"\ntimeouts = { response = \"100ms\" }\n\
                  [[route]]\npath = \"/short\"\nbackend = \"app\"\ntimeouts = { handshake = \"100ms\" }\n";
    let bench = Setup::plain(&[server], routes).ready().await;
    for (path, refusal) in [("/quick", Refusal::ResponseTimeout), ("/short", Refusal::HandshakeTimeout)] {
        let silent = async {
            let (mut stream, _) = asked(&listener).await;
            read_all(&mut stream).await
        };
        let request = handshake(path, "");
        let (answer, _) = tokio::join!(bench.ask(&request), silent);
        assert!(is(&answer, refusal), "{path}: {answer}");
    }
}
