//! Who may come, how often, and how many of one client: by the address that counts.

use h2::client::Builder;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::bench::{
    Bench, NEVER, Setup, asked, backend, handshake, nobody, read_all, read_exact, read_head, switching, until,
};
use super::identity::Identity;
use super::refusals::expect;
use crate::gate::refusal::{Outcome, Refusal};
use crate::handoff::{Tally, ToGate};

const FORWARD: &str = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n";
const TRUSTED: &str = "[forwarded]\ntrusted = [\"127.0.0.1\"]\n";
/// Two handshakes of one client, and then none for as long as a test takes.
const TWO: &str = "handshakes = { rate = 1, per = \"1h\", burst = 2 }\n";

fn per_client(limits: &str) -> String {
    format!("[limits.per_client]\n{limits}")
}

/// A connection from this address of the loopback network.
async fn from(bench: &Bench, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    socket.connect(bench.ports[0]).await.unwrap()
}

/// What such a client is answered.
async fn answer(bench: &Bench, address: &str, request: &str) -> String {
    let mut client = from(bench, address).await;
    client.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut client).await
}

fn get(more: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: app.test\r\n{more}\r\n")
}

fn retry_after(answer: &str) -> u64 {
    answer.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_beyond_its_rate_is_refused_before_it_has_said_anything() {
    let bench = Setup::plain(&[nobody().await], &per_client(TWO)).ready().await;
    for _ in 0..2 {
        expect(&bench.ask(&handshake("/", "")).await, Refusal::BackendRefused);
    }
    let refused = bench.ask("").await;
    expect(&refused, Refusal::ClientRate);
    assert!((3_000..=3_605).contains(&retry_after(&refused)), "{refused}");
    expect(&answer(&bench, "127.0.0.2", &handshake("/", "")).await, Refusal::BackendRefused);
    bench.counted(Outcome::Refused(Refusal::ClientRate), 1).await;
    assert_eq!(bench.stats.clients(), [2, 0]);
}

#[tokio::test]
async fn the_rate_of_all_is_for_all() {
    let bench = Setup::plain(&[nobody().await], &format!("[limits]\n{TWO}")).ready().await;
    for address in ["127.0.0.1", "127.0.0.2"] {
        expect(&answer(&bench, address, &handshake("/", "")).await, Refusal::BackendRefused);
    }
    let refused = answer(&bench, "127.0.0.3", &handshake("/", "")).await;
    expect(&refused, Refusal::Rate);
    assert!(retry_after(&refused) >= 3_000, "{refused}");
}

#[tokio::test]
async fn each_request_counts_once() {
    let (server, listener) = backend().await;
    let bench = Setup::plain(&[server], &format!("{FORWARD}{}", per_client(TWO))).ready().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = asked(&listener).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
        }
    });
    // The first with its connection, the second by itself.
    let mut client = bench.connect().await;
    for _ in 0..2 {
        client.write_all(get("").as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
    }
    client.write_all(get("").as_bytes()).await.unwrap();
    expect(&read_all(&mut client).await, Refusal::ClientRate);
    bench.counted(Outcome::Forwarded, 2).await;
}

#[tokio::test]
async fn each_stream_counts_once() {
    let bench = Setup::plain(&[nobody().await], &format!("{FORWARD}{}", per_client(TWO))).ready().await;
    let (send, connection) = Builder::new().handshake::<_, bytes::Bytes>(bench.connect().await).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let mut ready = timeout(NEVER, send.clone().ready()).await.unwrap().unwrap();
        let request = Request::get("http://app.test/").body(()).unwrap();
        let answer = ready.send_request(request, true).unwrap().0;
        statuses.push(timeout(NEVER, answer).await.unwrap().unwrap().status().as_u16());
    }
    assert_eq!(statuses, [502, 502, 429]);
    drop(send);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_clients_connections_are_counted_wherever_they_are() {
    let (server, listener) = backend().await;
    let mut setup = Setup::plain(&[server], &per_client("connections = 3\n"));
    let tally = |client: &str| Tally { route: 0, backend: 0, server: 0, client: Some(client.parse().unwrap()) };
    // One from an earlier gate.
    setup.held.pairs = vec![tally("127.0.0.1"), tally("10.0.0.1")];
    let mut bench = setup.ready().await;
    // One goes to the keeper, one says nothing.
    let mut client = bench.connect().await;
    client.write_all(handshake("/", "").as_bytes()).await.unwrap();
    asked(&listener).await.0.write_all(switching("").as_bytes()).await.unwrap();
    let _pair = bench.pair().await;
    let silent = bench.connect().await;
    until(|| bench.stats.clients()[0] == 2).await;
    let refused = loop {
        // The silent one may still be on its way.
        let mut next = bench.connect().await;
        let mut byte = [0];
        tokio::select! {
            got = next.read(&mut byte) => {
                assert_eq!(got.unwrap(), 1);
                break String::from("H") + &read_all(&mut next).await;
            }
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
        }
    };
    expect(&refused, Refusal::ClientFull);
    assert!(refused.contains("\r\nretry-after: "), "{refused}");
    // What ends makes room, whoever had it.
    bench.send(&ToGate::Closed { pairs: vec![tally("127.0.0.1")] }, &[]).await;
    drop(silent);
    let mut held = Vec::new();
    while held.len() < 2 {
        let mut next = bench.connect().await;
        next.write_all(handshake("/", "").as_bytes()).await.unwrap();
        tokio::select! {
            (stream, _) = asked(&listener) => held.push((next, stream)),
            answer = read_all(&mut next) => expect(&answer, Refusal::ClientFull),
        }
    }
    expect(&bench.ask("").await, Refusal::ClientFull);
}

#[tokio::test]
async fn behind_a_proxy_each_client_has_its_own_limits() {
    let (server, listener) = backend().await;
    let more = format!("{FORWARD}{TRUSTED}{}", per_client("connections = 1\n"));
    let bench = Setup::plain(&[server], &more).ready().await;
    let of = |client: &str| get(&format!("X-Forwarded-For: {client}\r\n"));
    let (mut one, mut other) = (bench.connect().await, bench.connect().await);
    // An answer that has no end yet holds its client's place.
    one.write_all(of("192.0.2.1").as_bytes()).await.unwrap();
    let (mut stream, _) = asked(&listener).await;
    let begun = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    stream.write_all(begun).await.unwrap();
    read_head(&mut one).await;
    assert_eq!(read_exact(&mut one, 8).await, b"3\r\nabc\r\n");
    expect(&bench.ask(&of("192.0.2.1")).await, Refusal::ClientFull);
    let quick = async {
        let (mut stream, _) = asked(&listener).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    };
    other.write_all(of("192.0.2.2").as_bytes()).await.unwrap();
    quick.await;
    assert!(read_head(&mut other).await.starts_with("HTTP/1.1 200 "));
    // Once it has ended, the connection of the proxy is nobody's, and the client may come on another one.
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read_exact(&mut one, 5).await, b"0\r\n\r\n");
    until(|| bench.stats.clients()[0] == 0).await;
    other.write_all(of("192.0.2.1").as_bytes()).await.unwrap();
    let (mut stream, _) = asked(&listener).await;
    stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(read_head(&mut other).await.starts_with("HTTP/1.1 204 "));
}

#[tokio::test]
async fn the_client_of_a_proxy_header_is_the_one_that_counts() {
    let trust = "proxy_protocol = { from = [\"127.0.0.0/8\"] }";
    let bench = Setup::plain(&[nobody().await], &per_client(TWO)).listener(trust).ready().await;
    let of = |client: &str| format!("PROXY TCP4 {client} 198.51.100.2 8080 443\r\n{}", handshake("/", ""));
    for _ in 0..2 {
        expect(&bench.ask(&of("192.0.2.1")).await, Refusal::BackendRefused);
    }
    expect(&bench.ask(&of("192.0.2.1")).await, Refusal::ClientRate);
    expect(&bench.ask(&of("192.0.2.2")).await, Refusal::BackendRefused);
}

#[tokio::test]
async fn before_tls_there_is_no_answer() {
    let identity = Identity::new();
    let limits = "[limits.per_client]\nhandshakes = { rate = 1, per = \"1h\" }\n[access]\ndeny = [\"127.0.0.9\"]\n";
    let bench = identity.listener(&[nobody().await], limits).ready().await;
    let mut first = bench.connect().await;
    first.write_all(&handshake("/", "").into_bytes()).await.unwrap();
    expect(&read_all(&mut first).await, Refusal::PlainOnTls);
    for (address, refusal) in [("127.0.0.1", Refusal::ClientRate), ("127.0.0.9", Refusal::AddressDenied)] {
        let mut refused = from(&bench, address).await;
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap_or(0), 0);
        bench.counted(Outcome::Refused(refusal), 1).await;
    }
    assert_eq!(bench.stats.handshakes()[Outcome::TlsFailed.index()], 0);
}

#[tokio::test]
async fn addresses_are_denied_everywhere_or_on_a_route() {
    let more = format!(
        "[access]\ndeny = [\"127.0.0.9\", \"203.0.113.0/24\"]\n{TRUSTED}\
         [[route]]\nbackend = \"app\"\ndeny = [\"127.0.0.3\"]\n\
         [[route]]\npath = \"/office\"\nbackend = \"app\"\nallow = [\"127.0.0.2/31\", \"198.51.100.0/24\"]\n"
    );
    let bench = Setup::plain(&[nobody().await], &more).ready().await;
    let of = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    for (address, path, more, refusal) in [
        ("127.0.0.9", "/", String::new(), Refusal::AddressDenied),
        ("127.0.0.2", "/", String::new(), Refusal::BackendRefused),
        ("127.0.0.3", "/", String::new(), Refusal::AddressDenied),
        // Another route's list is another route's.
        ("127.0.0.3", "/office", String::new(), Refusal::BackendRefused),
        ("127.0.0.4", "/office", String::new(), Refusal::AddressDenied),
        // What a stranger says of itself does not count, what the proxy says does.
        ("127.0.0.4", "/office", of("198.51.100.1"), Refusal::AddressDenied),
        ("127.0.0.1", "/office", of("198.51.100.1"), Refusal::BackendRefused),
        ("127.0.0.1", "/", of("203.0.113.7"), Refusal::AddressDenied),
    ] {
        expect(&answer(&bench, address, &handshake(path, &more)).await, refusal);
    }
}

#[tokio::test]
async fn a_routes_own_limits_are_its_own() {
    let more = format!(
        "[[route]]\nbackend = \"app\"\n\
         [[route]]\npath = \"/few\"\nbackend = \"app\"\nlimits = {{ {} }}\n\
         [[route]]\npath = \"/each\"\nbackend = \"app\"\nlimits = {{ per_client = {{ {} }} }}\n",
        TWO.trim(),
        TWO.trim()
    );
    let bench = Setup::plain(&[nobody().await], &more).ready().await;
    let ask = async |address: &str, path: &str| answer(&bench, address, &handshake(path, "")).await;
    for path in ["/few", "/each"] {
        expect(&ask("127.0.0.1", path).await, Refusal::BackendRefused);
        expect(&ask("127.0.0.1", path).await, Refusal::BackendRefused);
    }
    let refused = ask("127.0.0.2", "/few").await;
    expect(&refused, Refusal::RouteRate);
    assert!(retry_after(&refused) >= 3_000, "{refused}");
    expect(&ask("127.0.0.1", "/each").await, Refusal::ClientRate);
    expect(&ask("127.0.0.2", "/each").await, Refusal::BackendRefused);
    expect(&ask("127.0.0.1", "/").await, Refusal::BackendRefused);
}

#[tokio::test]
async fn who_is_refused_and_does_not_go_keeps_no_place_from_others() {
    let mut setup = Setup::plain(&[nobody().await], "[limits.per_client]\nconnections = 1\n");
    setup.capacity = 2;
    let bench = setup.ready().await;
    let first = bench.connect().await;
    until(|| bench.stats.clients()[0] == 1).await;
    // More than there are places to be told in.
    let mut refused = Vec::new();
    for _ in 0..300 {
        refused.push(bench.connect().await);
    }
    bench.counted(Outcome::Refused(Refusal::ClientFull), 300).await;
    expect(&answer(&bench, "127.0.0.2", &handshake("/", "")).await, Refusal::BackendRefused);
    drop(first);
}
