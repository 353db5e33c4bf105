//! TLS listeners, and the pairs behind them that the gate carries itself.

use proxy_common::layout::{DirCounters, Direction};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::bench::{
    Bench, NEVER, Setup, asked, backend, handshake, nobody, read_all, read_exact, read_head, switching, until,
};
use super::identity::{Identity, file};
use crate::gate::refusal::Outcome;
use crate::handoff::{EndReason, Facts, ToKeeper};

/// A carried pair.
struct Pair {
    bench: Bench,
    client: TlsStream<TcpStream>,
    backend: TcpStream,
    slot: u32,
    facts: Facts,
}

/// Makes one: what both sides send behind their handshakes, and TOML.
async fn pair(from_client: &[u8], from_backend: &[u8], more: &str) -> Pair {
    pair_over(rustls::ALL_VERSIONS, from_client, from_backend, more).await
}

/// Makes one whose client speaks only these versions of TLS.
async fn pair_over(
    versions: &[&'static rustls::SupportedProtocolVersion],
    from_client: &[u8],
    from_backend: &[u8],
    more: &str,
) -> Pair {
    let identity = Identity::new();
    let (server, listener) = backend().await;
    let mut bench = identity.listener(&[server], more).ready().await;
    let name = ServerName::try_from("app.test").unwrap();
    let mut client = identity.client(versions, &[]).connect(name, bench.connect().await).await.unwrap();
    let request = handshake("/", "Origin: https://app.test\r\n");
    client.write_all(&[request.as_bytes(), from_client].concat()).await.unwrap();
    client.flush().await.unwrap();
    let (mut backend, head) = asked(&listener).await;
    assert!(head.contains("x-forwarded-proto: https\r\n"), "{head}");
    backend.write_all(&[switching("").as_bytes(), from_backend].concat()).await.unwrap();
    let answer = read_head(&mut client).await;
    assert!(answer.contains("proxy-websocket-status: upgraded; relay=copy; conn=\""), "{answer}");
    let (message, fds) = bench.next().await;
    let ToKeeper::CarriedOpen { slot, facts, .. } = message else { panic!("{message:?}") };
    assert!(fds.is_empty());
    Pair { bench, client, backend, slot, facts }
}

impl Pair {
    fn counters(&self, direction: Direction) -> DirCounters {
        self.bench.stats.carried(self.slot).dirs[direction as usize]
    }

    /// Waits for the gate to say that the pair has ended, and why.
    async fn ended(mut self) -> EndReason {
        let (message, _) = self.bench.next().await;
        let ToKeeper::CarriedClosed { slot, counters, reason } = message else { panic!("{message:?}") };
        assert_eq!((slot, *counters), (self.slot, self.bench.stats.carried(slot)));
        reason
    }
}

/// A text frame of a client's, masked with zeros.
fn masked(text: &[u8]) -> Vec<u8> {
    [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text].concat()
}

/// A text frame of a backend's.
fn unmasked(text: &[u8]) -> Vec<u8> {
    [&[0x81, text.len() as u8], text].concat()
}

#[tokio::test]
async fn a_pair_behind_tls_is_carried_and_counted() {
    let mut pair = pair(&masked(b"one"), &unmasked(b"uno"), "").await;
    assert_eq!(read_exact(&mut pair.backend, 9).await, masked(b"one"));
    assert_eq!(read_exact(&mut pair.client, 5).await, unmasked(b"uno"));
    assert_eq!((pair.facts.listener, pair.facts.server), (0, 0));
    pair.client.write_all(&masked(b"two")).await.unwrap();
    assert_eq!(read_exact(&mut pair.backend, 9).await, masked(b"two"));
    pair.backend.write_all(&unmasked(b"dos")).await.unwrap();
    assert_eq!(read_exact(&mut pair.client, 5).await, unmasked(b"dos"));

    let up = pair.counters(Direction::ClientToBackend);
    assert_eq!((up.bytes, up.messages, up.frames[1]), (18, 2, 2));
    let down = pair.counters(Direction::BackendToClient);
    assert_eq!((down.bytes, down.messages, down.frames[1]), (10, 2, 2));
    assert!(up.last_activity_ns > 0 && down.last_activity_ns > 0);
    pair.bench.counted(Outcome::Upgraded, 1).await;
}

#[tokio::test]
async fn a_client_that_ends_first_still_receives() {
    let mut pair = pair(b"", b"", "").await;
    pair.client.write_all(b"last words").await.unwrap();
    pair.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut pair.backend).await, "last words");
    pair.backend.write_all(b"answer to the last words").await.unwrap();
    pair.backend.shutdown().await.unwrap();
    // `read_all` fails on an end without close_notify.
    assert_eq!(read_all(&mut pair.client).await, "answer to the last words");
    assert_eq!(pair.ended().await, EndReason::Finished);
}

#[tokio::test]
async fn a_backend_that_ends_first_still_receives() {
    let mut pair = pair(b"", b"", "").await;
    pair.backend.write_all(b"bye").await.unwrap();
    pair.backend.shutdown().await.unwrap();
    assert_eq!(read_all(&mut pair.client).await, "bye");
    pair.client.write_all(b"and bye").await.unwrap();
    pair.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut pair.backend).await, "and bye");
    assert_eq!(pair.ended().await, EndReason::Finished);
}

#[tokio::test]
async fn a_fin_without_close_notify_is_a_fin() {
    let mut pair = pair(b"", b"", "").await;
    let (socket, _) = pair.client.get_ref();
    rustix::net::shutdown(socket, rustix::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut pair.backend).await, "");
    pair.backend.shutdown().await.unwrap();
    assert_eq!(read_all(&mut pair.client).await, "");
    assert_eq!(pair.ended().await, EndReason::Finished);
}

#[tokio::test]
async fn a_backend_that_breaks_breaks_the_client() {
    let mut pair = pair(b"", b"", "").await;
    pair.backend.set_zero_linger().unwrap();
    drop(pair.backend);
    let error = pair.client.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_breaks_breaks_the_backend_behind_its_last_bytes() {
    // More than the backend's receive buffer takes, so that some of it is in the gate's socket at the RST.
    const SIZE: usize = 512 * 1024;
    let mut pair = pair(b"", b"", "").await;
    pair.client.write_all(&vec![b'x'; SIZE]).await.unwrap();
    pair.client.flush().await.unwrap();
    let stats = pair.bench.stats.clone();
    until(|| stats.carried(pair.slot).dirs[0].bytes == SIZE as u64).await;
    pair.client.get_ref().0.set_zero_linger().unwrap();
    drop(pair.client);
    assert_eq!(read_exact(&mut pair.backend, SIZE).await, vec![b'x'; SIZE]);
    let error = pair.backend.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stalled_receiver_stalls_its_source_and_nothing_is_lost() {
    const SIZE: usize = 24 * 1024 * 1024;
    let Pair { bench, client, mut backend, slot, .. } = pair(b"", b"", "").await;
    let (mut reader, mut writer) = tokio::io::split(client);
    let pattern = |at: usize| (at % 251) as u8;
    let flood = tokio::spawn(async move {
        let mut sent = 0;
        while sent < SIZE {
            let chunk: Vec<u8> = (sent..sent + 65_536).map(pattern).collect();
            writer.write_all(&chunk).await.unwrap();
            sent += chunk.len();
        }
        writer.flush().await.unwrap();
        writer
    });
    // The other direction goes on while this one stands.
    backend.write_all(b"meanwhile").await.unwrap();
    assert_eq!(read_exact(&mut reader, 9).await, b"meanwhile");
    let mut at = 0;
    while at < SIZE {
        let mut buffer = vec![0; 65_536];
        let read = tokio::time::timeout(NEVER, backend.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "the stream ends after {at} bytes");
        assert!(buffer[..read].iter().enumerate().all(|(step, byte)| *byte == pattern(at + step)), "at {at}");
        at += read;
    }
    drop(flood.await.unwrap());
    assert_eq!(bench.stats.carried(slot).dirs[0].bytes, SIZE as u64);
}

#[tokio::test]
async fn a_client_that_forgets_its_tls_is_told_so_and_breaks_the_backend() {
    let mut pair = pair(b"", b"", "").await;
    let (socket, _) = pair.client.get_mut();
    socket.write_all(b"this is no record").await.unwrap();
    let error = pair.client.read(&mut [0; 16]).await.unwrap_err();
    let said = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert_eq!(said, Some(&rustls::Error::AlertReceived(rustls::AlertDescription::UnexpectedMessage)));
    let error = pair.backend.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(pair.ended().await, EndReason::TlsProtocol);
}

#[tokio::test]
async fn a_client_that_gives_up_breaks_the_backend() {
    let mut pair = pair(b"", b"", "").await;
    // A record that the client's own TLS cannot open, as if it came from the gate.
    let (socket, session) = pair.client.get_mut();
    session.read_tls(&mut &[23, 3, 3, 0, 17, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7][..]).unwrap();
    session.process_new_packets().unwrap_err();
    let mut alert = Vec::new();
    session.write_tls(&mut alert).unwrap();
    socket.write_all(&alert).await.unwrap();
    let error = pair.backend.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(pair.ended().await, EndReason::TlsAlert);
}

/// TLS 1.2 cannot change its keys: both sides are told to come again, behind the frames that are under way.
#[tokio::test]
async fn a_key_that_is_worn_out_ends_the_pair_between_two_frames() {
    const PIECES: usize = 100;
    let limit = "[relay]\ntls_key_records = 64\n";
    let mut pair = pair_over(&[&rustls::version::TLS12], b"", b"", limit).await;
    // One frame, of which each piece has its record: the key wears out in its midst.
    let header = [0x82, 126, 3, 0xe8];
    pair.backend.write_all(&header).await.unwrap();
    assert_eq!(read_exact(&mut pair.client, 4).await, header);
    for piece in 0..PIECES {
        pair.backend.write_all(&[piece as u8; 10]).await.unwrap();
        assert_eq!(read_exact(&mut pair.client, 10).await, [piece as u8; 10]);
    }
    let mut last = Vec::new();
    pair.client.read_to_end(&mut last).await.unwrap();
    assert_eq!(last, [0x88, 2, 3, 0xf4], "Close 1012, and an end with close_notify");
    let close = read_exact(&mut pair.backend, 8).await;
    assert_eq!(close[..2], [0x88, 0x82]);
    assert_eq!([close[6] ^ close[2], close[7] ^ close[3]], [3, 0xf4]);
    assert_eq!(pair.backend.read(&mut [0; 16]).await.unwrap(), 0);
    assert_eq!(pair.counters(Direction::BackendToClient).close_code, 1012);
    assert_eq!(pair.ended().await, EndReason::TlsKeyLimit);
}

#[tokio::test]
async fn a_silent_pair_ends_where_that_is_configured() {
    let mut pair = pair(b"", b"", "[relay]\nidle_timeout = \"100ms\"\n").await;
    assert_eq!(read_all(&mut pair.backend).await, "");
    assert_eq!(read_all(&mut pair.client).await, "");
    assert_eq!(pair.ended().await, EndReason::Idle);
}

#[tokio::test]
async fn both_versions_of_tls_and_of_http() {
    let identity = Identity::new();
    let bench = identity.listener(&[nobody().await], "").ready().await;
    let name = || ServerName::try_from("app.test").unwrap();
    let agreed = async |bench: &Bench, version: &'static rustls::SupportedProtocolVersion, offered: &[&[u8]]| {
        let connector = identity.client(&[version], offered);
        let client = connector.connect(name(), bench.connect().await).await.unwrap();
        client.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    };
    for version in rustls::ALL_VERSIONS {
        assert_eq!(agreed(&bench, version, &[b"http/1.1", b"h2"]).await, Some(b"h2".to_vec()));
        assert_eq!(agreed(&bench, version, &[b"http/1.1"]).await, Some(b"http/1.1".to_vec()));
        assert_eq!(agreed(&bench, version, &[]).await, None);
    }
    let mut setup = identity.listener(&[nobody().await], "");
    setup.config = setup.config.replacen("[[listener]]\n", "[[listener]]\nhttp2 = false\n", 1);
    let bench = setup.ready().await;
    assert_eq!(agreed(&bench, rustls::ALL_VERSIONS[0], &[b"h2", b"http/1.1"]).await, Some(b"http/1.1".to_vec()));
    identity.client(rustls::ALL_VERSIONS, &[b"h2"]).connect(name(), bench.connect().await).await.unwrap_err();
    bench.counted(Outcome::TlsFailed, 1).await;
}

#[tokio::test]
async fn refusals_behind_tls_end_properly() {
    let identity = Identity::new();
    let bench = identity.listener(&[nobody().await], "").ready().await;
    let mut client = identity.connect(&bench).await;
    client.write_all(handshake("/", "Origin: http://app.test\r\n").as_bytes()).await.unwrap();
    let answer = read_all(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("reason=origin-denied;"), "{answer}");
    let mut client = identity.connect(&bench).await;
    client.write_all(b"nonsense\r\n\r\n").await.unwrap();
    let answer = read_all(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("reason=malformed-request;"), "{answer}");
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_so() {
    let bench = Identity::new().listener(&[nobody().await], "").ready().await;
    let answer = bench.ask(&handshake("/", "")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("reason=plain-http-on-tls;"), "{answer}");
}

#[tokio::test]
async fn a_wrong_first_message_gets_an_alert() {
    let bench = Identity::new().listener(&[nobody().await], "").ready().await;
    let mut client = bench.connect().await;
    // A record (RFC 8446 §5.1) with a ServerHello, which is not a client's to send.
    client.write_all(&[0x16, 0x03, 0x01, 0x00, 0x04, 0x02, 0, 0, 0]).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(NEVER, client.read_to_end(&mut answer)).await.unwrap().unwrap();
    // Content type 21 is an alert.
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    bench.counted(Outcome::TlsFailed, 1).await;
}

#[tokio::test]
async fn bytes_that_are_no_records_are_closed_on() {
    let bench = Identity::new().listener(&[nobody().await], "").ready().await;
    for (count, garbage) in (1..).zip([b"\0\0\0\0\0\0\0\0", b"\x80\x2e\x01\0\x02\0\x15\0", b"ssh-2.0\n"]) {
        let mut client = bench.connect().await;
        client.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(NEVER, client.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(matches!(answer.first(), None | Some(21)), "neither silence nor an alert: {answer:?}");
        bench.counted(Outcome::TlsFailed, count).await;
    }
}

#[tokio::test]
async fn a_client_that_never_speaks_tls_is_closed() {
    let bench = Identity::new().listener(&[nobody().await], "[timeouts]\nhead = \"100ms\"\n").ready().await;
    let mut client = bench.connect().await;
    client.write_all(&[0x16, 0x03]).await.unwrap();
    // With the rest of its bytes unread, the close may be an RST.
    let _ = tokio::time::timeout(NEVER, client.read_to_end(&mut Vec::new())).await.unwrap();
    bench.counted(Outcome::TlsFailed, 1).await;
}

#[tokio::test]
async fn a_certificate_that_is_none_stops_the_start_and_is_named() {
    let (good, other) = (Identity::new(), Identity::new());
    let cases = [
        ("no PEM at all", good.key.as_str(), "cert.pem: there is no certificate"),
        (good.certificate(), "no PEM at all", "key.pem: cannot read the private key"),
        (good.certificate(), other.key.as_str(), "cert.pem and key.pem"),
    ];
    for (certificate, key, says) in cases {
        let setup = Setup::tls(&[nobody().await], "", file(certificate), file(key));
        let error = setup.refused().await;
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
}
