#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;

use super::*;
use crate::config::Limits;
use crate::gate::spelling::Spelling;
use crate::gate::stream::Stream;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nits";
const UNASKED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nanother";

/// A connection that has had one request, and the server's end of it. Nothing but a test reads and writes there, and the
/// event loop learns of what it has written only when the test waits.
async fn used_once() -> (Sender, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut server = listener.accept().unwrap().0;
    let mut connection = Sender::to_server(Stream::Plain(stream), &Limits::default(), Spelling::LOWER).await.unwrap();
    let request = connection.send(get());
    let serve = tokio::task::spawn_blocking(move || {
        read_head(&mut server);
        server.write_all(ANSWER).unwrap();
        server
    });
    let (response, server) = tokio::join!(request, serve);
    assert_eq!(body(response.unwrap()).await, "its");
    poll_fn(|cx| connection.poll_ready(cx)).await.unwrap();
    connection.rest();
    (connection, server.unwrap())
}

fn get() -> Request<RequestBody> {
    Request::get("/").header("host", "a").body(RequestBody::new(Empty::new().map_err(|never| match never {}))).unwrap()
}

fn read_head(server: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        server.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}

async fn body(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Whether a request was given back unsent.
async fn comes_back(connection: &mut Sender) -> bool {
    match connection.send(get()).await {
        Ok(response) => panic!("somebody else's answer: {}", body(response).await),
        Err(mut error) => error.take_message().is_some(),
    }
}

#[tokio::test]
async fn a_request_does_not_get_what_the_server_has_just_said_unasked() {
    let (mut connection, mut server) = used_once().await;
    // The kernel has it when this returns, on loopback, and the event loop has not looked yet.
    server.write_all(UNASKED).unwrap();
    assert!(comes_back(&mut connection).await);
}

#[tokio::test]
async fn a_request_is_not_sent_to_a_server_that_has_just_closed() {
    let (mut connection, server) = used_once().await;
    drop(server);
    assert!(comes_back(&mut connection).await);
}

#[tokio::test]
async fn a_connection_that_is_quiet_takes_the_next_request() {
    let (mut connection, mut server) = used_once().await;
    let pool = Pool::default();
    let place = |purpose| (purpose, 0, "127.0.0.1:1".parse::<Address>().unwrap());
    pool.put(place(Purpose::Clients), connection, Duration::from_secs(60));
    assert!(pool.take(&place(Purpose::Authentication)).is_none(), "it is not for that");
    connection = pool.take(&place(Purpose::Clients)).unwrap();
    let serve = tokio::task::spawn_blocking(move || {
        read_head(&mut server);
        server.write_all(UNASKED).unwrap();
        server
    });
    let (response, _server) = tokio::join!(connection.send(get()), serve);
    assert_eq!(body(response.unwrap()).await, "another");
}
