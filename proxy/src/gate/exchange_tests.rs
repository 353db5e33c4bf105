#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use http_body_util::{BodyExt as _, Empty};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::Duration;

use super::*;

fn later() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn asked(stream: DuplexStream) -> Exchange<DuplexStream> {
    let Ok((exchange, _)) = Exchange::new(stream, Bytes::new(), &Limits::default()).read_head(later()).await else {
        panic!("the request must be read")
    };
    exchange
}

/// The one thing that the hand-over relies on: the answer has left hyper's buffers when [`Exchange::answer`] is done.
#[tokio::test]
async fn the_answer_is_flushed_first() {
    // A pipe of 16 bytes each way: every write is cut many times.
    let (mut client, server) = duplex(16);
    let talk = tokio::spawn(async move {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nahead")
            .await
            .unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    });
    let exchange = asked(server).await;
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("x-long", "x".repeat(5000).parse().unwrap());
    let mut finished = exchange.answer(response, later()).await.unwrap();
    let mut ahead = finished.read_ahead.to_vec();
    finished.io.write_all(b"first frame").await.unwrap();
    finished.io.shutdown().await.unwrap();
    finished.io.read_to_end(&mut ahead).await.unwrap();
    assert_eq!(ahead, b"ahead");
    let answer = talk.await.unwrap();
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(&"x".repeat(5000)), "{answer}");
    assert_eq!(rest, "first frame");
}

#[tokio::test]
async fn hyper_writes_nothing_by_itself() {
    let (mut client, server) = duplex(1024);
    client.write_all(b"\x16\x03\x01 nonsense\r\n\r\n").await.unwrap();
    let Err(NoRequest::Refused(server, refusal)) =
        Exchange::new(server, Bytes::new(), &Limits::default()).read_head(later()).await
    else {
        panic!("nonsense must be refused")
    };
    assert_eq!(refusal, Refusal::Malformed);
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"", "hyper's own answer has none of our headers");
}

#[tokio::test]
async fn a_client_that_leaves_ends_what_is_done_for_it() {
    let (mut client, server) = duplex(1024);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut exchange = asked(server).await;
    drop(client);
    assert!(exchange.while_there(std::future::pending::<()>()).await.is_err());
}
