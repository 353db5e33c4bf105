//! Answers of plain requests that nobody sends or reads.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use bytes::Bytes;
use http::Request;
use rustix::net::Shutdown;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::bench::{Bench, NEVER, Setup, asked, backend, read_exact, read_head, until};

const FORWARD: &str = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
const BEGUN: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

async fn bench(more: &str) -> (Bench, TcpListener) {
    let (server, listener) = backend().await;
    (Setup::plain(&[server], &format!("{FORWARD}{more}")).ready().await, listener)
}

/// The timer of the socket at `near` whose peer is at `far`, both on 127.0.0.1 (`tr` of proc_net_tcp(5)).
fn timer(near: SocketAddr, far: SocketAddr) -> Option<String> {
    let end = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let found = fields.get(1..3)? == [end(near), end(far)];
        found.then(|| fields[5].split(':').next().unwrap().to_owned())
    })
}

#[tokio::test]
async fn keepalive_watches_both_ends_of_an_answer_that_is_silent() {
    /// Keepalive, and nothing that waits for an acknowledgement.
    const KEEPALIVE: &str = "02";
    let (bench, listener) = bench("").await;
    let mut client = bench.connect().await;
    client.write_all(GET).await.unwrap();
    let (mut server, _) = asked(&listener).await;
    server.write_all(BEGUN).await.unwrap();
    read_head(&mut client).await;
    for far in [&client, &server] {
        let (near, far) = (far.peer_addr().unwrap(), far.local_addr().unwrap());
        until(|| timer(near, far).as_deref() == Some(KEEPALIVE)).await;
    }
}

/// Sends an answer until its connection is closed, which only happens when its client is given up.
async fn flood(mut server: TcpStream) {
    server.write_all(BEGUN).await.unwrap();
    let piece = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let flood = async { while server.write_all(&piece).await.is_ok() {} };
    timeout(NEVER, flood).await.expect("its client keeps its place for ever");
}

const IMPATIENT: &str = "[relay]\nkeepalive = \"1s\"\nuser_timeout = \"300ms\"\n";

#[tokio::test]
async fn a_client_that_reads_nothing_of_its_answer_is_given_up() {
    let (bench, listener) = bench(IMPATIENT).await;
    let mut client = bench.connect().await;
    client.write_all(GET).await.unwrap();
    let (server, _) = asked(&listener).await;
    flood(server).await;
}

#[tokio::test]
async fn so_is_one_with_http_2_whose_connection_lives_on() {
    let (bench, listener) = bench(IMPATIENT).await;
    let (send, connection) = h2::client::handshake(bench.connect().await).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut send: h2::client::SendRequest<Bytes> = timeout(NEVER, send.ready()).await.unwrap().unwrap();
    let (answer, _) = send.send_request(Request::get("http://app.test/").body(()).unwrap(), true).unwrap();
    let (server, _) = asked(&listener).await;
    let (answer, ()) = tokio::join!(timeout(NEVER, answer), flood(server));
    // The window is not given back, and in the end there is a reset.
    let mut body = answer.unwrap().unwrap().into_body();
    let end = async {
        loop {
            if let Err(error) = body.data().await.expect("an end in the middle") {
                return error;
            }
        }
    };
    assert!(timeout(NEVER, end).await.expect("no end").is_reset());
    assert!(!connection.is_finished());
}

/// The server's FIN is there when its connection is taken for the next request, and has not been seen.
#[tokio::test]
async fn a_request_stays_with_its_server_when_its_connection_has_ended() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (one, two) = (backend().await, backend().await);
    let bench = Setup::plain(&[one.0, two.0], FORWARD).ready().await;
    let mut client = bench.connect().await;
    let mut connections = Vec::new();
    for _ in 0..2 {
        client.write_all(GET).await.unwrap();
        let (mut server, which) = tokio::select! {
            (server, _) = asked(&one.1) => (server, 1),
            (server, _) = asked(&two.1) => (server, 2),
        };
        server.write_all(OK).await.unwrap();
        read_head(&mut client).await;
        read_exact(&mut client, 2).await;
        connections.push((server, which));
    }
    assert_ne!(connections[0].1, connections[1].1, "they take turns");
    // Both at once, as the gate sees it: nothing is awaited between them.
    assert_eq!(client.try_write(GET).unwrap(), GET.len());
    rustix::net::shutdown(connections[0].0.as_fd(), Shutdown::Both).unwrap();
    let listener = if connections[0].1 == 1 { &one.1 } else { &two.1 };
    let (mut server, _) = asked(listener).await;
    server.write_all(OK).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
}
