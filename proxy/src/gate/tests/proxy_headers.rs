//! PROXY headers before the handshake, on either side.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::bench::{
    Bench, NEVER, Setup, asked, backend, handshake, nobody, read_all, read_exact, read_head, switching,
};
use super::identity::Identity;
use super::refusals::expect;
use crate::gate::refusal::{Outcome, Refusal};

const TRUST: &str = "proxy_protocol = { from = [\"127.0.0.0/8\"] }";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x1f\x90\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A pair whose client sends these bytes, in pieces of this size: what the log calls the client, and the head for the
/// backend.
async fn pair(bench: &mut Bench, listener: &TcpListener, before: &[u8], piece: usize) -> (String, String) {
    let mut client = bench.connect().await;
    let request = [before, handshake("/", "").as_bytes()].concat();
    let own = client.local_addr().unwrap().to_string();
    let send = async {
        for piece in request.chunks(piece) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let ((), (mut backend, head)) = tokio::join!(send, asked(listener));
    backend.write_all(switching("").as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
    let (pair, near, _) = bench.pair().await;
    assert!(pair.to_backend.is_empty());
    drop(near);
    let shown = pair.facts.client.to_string();
    (if shown == own { "its own".into() } else { shown }, head)
}

#[tokio::test]
async fn a_proxy_that_is_believed_says_who_the_client_is() {
    let (server, listener) = backend().await;
    let mut bench = Setup::plain(&[server], "").listener(TRUST).ready().await;
    for (header, client, address) in [
        (V1, "192.0.2.1:8080", "192.0.2.1"),
        (V2, "192.0.2.1:8080", "192.0.2.1"),
        (b"PROXY UNKNOWN\r\n", "its own", "127.0.0.1"),
        (LOCAL, "its own", "127.0.0.1"),
    ] {
        for piece in [1, 7, 1000] {
            let (shown, head) = pair(&mut bench, &listener, header, piece).await;
            assert_eq!(shown, client);
            assert!(head.contains(&format!("x-forwarded-for: {address}\r\n")), "{head}");
        }
    }
}

#[tokio::test]
async fn from_a_stranger_a_header_is_a_malformed_request() {
    let setting = "proxy_protocol = { from = [\"10.0.0.0/8\", \"unix\"] }";
    let bench = Setup::plain(&[nobody().await], "").listener(setting).ready().await;
    let request = String::from_utf8([V1, handshake("/", "").as_bytes()].concat()).unwrap();
    expect(&bench.ask(&request).await, Refusal::Malformed);
}

#[tokio::test]
async fn who_is_believed_must_have_a_header() {
    let late = "[timeouts]\nhead = \"300ms\"\n";
    let bench = Setup::plain(&[nobody().await], late).listener(TRUST).ready().await;
    let cases = [handshake("/", ""), "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n".into(), "PROXY TCP4 1.1.1".into()];
    for (count, request) in (1..).zip(cases) {
        expect(&bench.ask(&request).await, Refusal::ProxyHeader);
        bench.counted(Outcome::Refused(Refusal::ProxyHeader), count).await;
    }
    let mut gone = bench.connect().await;
    gone.write_all(b"PROXY ").await.unwrap();
    drop(gone);
    bench.counted(Outcome::ClientGone, 1).await;
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let identity = Identity::new();
    let (server, listener) = backend().await;
    let mut bench = identity.listener(&[server], "").listener(TRUST).ready().await;
    let mut tcp = bench.connect().await;
    tcp.write_all(V2).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("app.test").unwrap();
    let mut client = identity.client(rustls::ALL_VERSIONS, &[]).connect(name, tcp).await.unwrap();
    client.write_all(handshake("/", "Origin: https://app.test\r\n").as_bytes()).await.unwrap();
    let (mut backend, head) = asked(&listener).await;
    assert!(head.contains("x-forwarded-for: 192.0.2.1\r\n"), "{head}");
    backend.write_all(switching("").as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
    bench.next().await;
    // Without it, nothing is said in clear text.
    let mut bare = bench.connect().await;
    bare.write_all(b"\x16\x03\x01\x02\0").await.unwrap();
    assert_eq!(read_all(&mut bare).await, "");
    bench.counted(Outcome::Refused(Refusal::ProxyHeader), 1).await;
}

#[tokio::test]
async fn a_backend_is_told_before_anything_else() {
    for (version, claimed, local) in [("v1", V1, &b"PROXY UNKNOWN\r\n"[..]), ("v2", V2, LOCAL)] {
        let (server, listener) = backend().await;
        let mut setup = Setup::plain(&[server], "").listener(TRUST);
        setup.config = setup.config.replace("name = \"app\"\n", &format!("name = \"app\"\nsend_proxy = {version:?}\n"));
        let bench = setup.ready().await;
        let mut client = bench.connect().await;
        client.write_all(&[claimed, handshake("/", "").as_bytes()].concat()).await.unwrap();
        let (mut stream, _) = tokio::time::timeout(NEVER, listener.accept()).await.unwrap().unwrap();
        assert_eq!(read_exact(&mut stream, claimed.len()).await, claimed);
        assert!(read_head(&mut stream).await.starts_with("GET / HTTP/1.1\r\n"));
        // Of a client of whom nothing is said, its own addresses are known.
        let mut client = bench.connect().await;
        client.write_all(&[local, handshake("/", "").as_bytes()].concat()).await.unwrap();
        let (mut stream, _) = tokio::time::timeout(NEVER, listener.accept()).await.unwrap().unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"GET") {
            stream.read_exact(&mut byte).await.unwrap();
            seen.push(byte[0]);
        }
        let [from, to] = [client.local_addr().unwrap(), bench.ports[0]].map(|address| address.port());
        if version == "v1" {
            assert_eq!(seen, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nGET").into_bytes());
        } else {
            assert!(seen.windows(4).any(|bytes| bytes == [from.to_be_bytes(), to.to_be_bytes()].concat()));
        }
    }
}
