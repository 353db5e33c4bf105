#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use http_body_util::{BodyExt as _, Empty};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::Duration;

use super::*;
use crate::gate::client_io::RIGHT_BEHIND;

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

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_what_is_done_for_it() {
    let (mut client, server) = duplex(1024);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut exchange = asked(server).await;
    sleep(RIGHT_BEHIND).await;
    drop(client);
    assert!(exchange.while_there(std::future::pending::<()>()).await.is_err());
}

/// What a client gets that ends its direction behind this request, answered after a moment.
async fn half_closed(request: &'static [u8], take: bool) -> String {
    let (mut client, server) = duplex(1024);
    client.write_all(request).await.unwrap();
    client.shutdown().await.unwrap();
    let mut exchange = asked(server).await;
    let body = take.then(|| exchange.take_body().unwrap());
    let work = async {
        let read = match body {
            Some(body) => body.collect().await.map_or(0, |body| body.to_bytes().len()),
            None => 0,
        };
        sleep(RIGHT_BEHIND * 3).await;
        whole(Response::new(Bytes::from(format!("read {read}"))))
    };
    let answer = exchange.while_there(work).await.unwrap();
    let patience = Patience { idle: Duration::from_secs(3600), head: Duration::from_secs(3600) };
    assert!(matches!(exchange.answer_and_read(answer, patience).await, Err(NoRequest::Done(_))));
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_its_direction_behind_its_request_is_answered() {
    let begin = Instant::now();
    let get = half_closed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", false).await;
    assert!(
        get.starts_with("HTTP/1.1 200 OK\r\n") && get.contains("connection: close") && get.ends_with("read 0"),
        "{get}"
    );
    for take in [true, false] {
        let answer = half_closed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", take).await;
        assert!(answer.ends_with(if take { "read 4" } else { "read 0" }), "{answer}");
        let chunks = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        let answer = half_closed(chunks, take).await;
        assert!(answer.ends_with(if take { "read 2" } else { "read 0" }), "{answer}");
    }
    assert_eq!(begin.elapsed().as_secs(), 15, "nobody waits for the next request");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_lacks_its_end_is_broken_by_the_end_of_the_clients_direction() {
    let (mut client, server) = duplex(1024);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbody").await.unwrap();
    client.shutdown().await.unwrap();
    let mut exchange = asked(server).await;
    let body = exchange.take_body().unwrap();
    assert!(exchange.while_there(body.collect()).await.unwrap().is_err());
}

#[tokio::test]
async fn interim_answers_come_before_the_answer_and_whole() {
    // A pipe of 16 bytes each way: every write is cut many times.
    let (mut client, server) = duplex(16);
    let talk = tokio::spawn(async move {
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            .await
            .unwrap();
        let mut answer = vec![0; 25];
        client.read_exact(&mut answer).await.unwrap();
        client.write_all(b"body").await.unwrap();
        let _end = client.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    });
    let mut exchange = asked(server).await;
    let interims = exchange.interims().unwrap();
    let body = exchange.take_body().unwrap();
    exchange.while_there(body.collect()).await.unwrap().unwrap();
    let early = |link: &'static str| {
        let headers = [(http::header::LINK, http::HeaderValue::from_static(link))].into_iter().collect();
        interims.push(Interim { status: http::StatusCode::EARLY_HINTS, headers });
    };
    early("one");
    exchange.while_there(tokio::task::yield_now()).await.unwrap();
    early("two");
    early("three");
    let mut answer = whole(Response::new(Bytes::from_static(b"the body")));
    answer.headers_mut().insert("connection", "close".parse().unwrap());
    answer.headers_mut().insert("date", "today".parse().unwrap());
    drop(exchange.answer(answer, later()).await.unwrap());
    assert_eq!(
        talk.await.unwrap(),
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: one\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: two\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nlink: three\r\n\r\nHTTP/1.1 200 OK\r\nconnection: close\r\ndate: today\r\ncontent-length: 8\r\n\r\nthe body"
    );
}

#[tokio::test]
async fn http_1_0_knows_no_interim_answers() {
    let (mut client, server) = duplex(1024);
    client.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(asked(server).await.interims().is_none());
}
