//! Backends that speak TLS: pairs of which one side or both are TLS, and servers that cannot be trusted or understood.

use std::net::SocketAddr;

use proxy_common::layout::Direction;
use rcgen::DnType;
use rustls::{HandshakeKind, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::bench::{Bench, NEVER, Setup, backend, handshake, nobody, read_all, read_exact, read_head, switching};
use super::identity::{Identity, file};
use super::refusals::expect;
use crate::gate::refusal::{Outcome, Refusal};
use crate::handoff::{EndReason, ToKeeper};

const NAMED: &str = "{ ca = \"ca.pem\", server_name = \"app.test\" }";
const WITH_CERTIFICATE: &str =
    "{ ca = \"ca.pem\", server_name = \"app.test\", certificate = \"client.pem\", key = \"client.key\" }";

/// A client's connection, whatever it is made of.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// The next connection of a backend, its TLS handshake done, its request read and answered with 101.
async fn upgraded(listener: &TcpListener, acceptor: &TlsAcceptor, behind: &[u8]) -> (TlsStream<TcpStream>, String) {
    let (stream, _) = timeout(NEVER, listener.accept()).await.expect("nobody dials").unwrap();
    let mut stream = timeout(NEVER, acceptor.accept(stream)).await.expect("the handshake hangs").unwrap();
    let head = read_head(&mut stream).await;
    stream.write_all(&[switching("").as_bytes(), behind].concat()).await.unwrap();
    stream.flush().await.unwrap();
    (stream, head)
}

/// A carried pair whose backend speaks TLS.
struct Pair {
    bench: Bench,
    client: Box<dyn Duplex>,
    backend: TlsStream<TcpStream>,
    slot: u32,
}

impl Pair {
    /// Waits for the gate to say that the pair has ended, and why.
    async fn ended(&mut self) -> EndReason {
        let (message, _) = self.bench.next().await;
        let ToKeeper::CarriedClosed { slot, reason, .. } = message else { panic!("{message:?}") };
        assert_eq!(slot, self.slot);
        reason
    }

    fn counted(&self, direction: Direction) -> u64 {
        self.bench.stats.carried(self.slot).dirs[direction as usize].bytes
    }
}

/// Makes one, with frames behind both heads; with TLS on the client's side too, the backend demands our certificate.
async fn pair(client_tls: bool, versions: &[&'static rustls::SupportedProtocolVersion]) -> Pair {
    let (shown, ours) = (Identity::new(), Identity::new());
    let (server, listener) = backend().await;
    let (mut bench, mut client): (Bench, Box<dyn Duplex>) = if client_tls {
        let setup = ours.listener(&[server], "");
        let setup = setup.backend_tls(WITH_CERTIFICATE, Some(file(shown.certificate())), Some(ours.files()));
        let bench = setup.ready().await;
        let client = ours.connect(&bench).await;
        (bench, Box::new(client))
    } else {
        let setup = Setup::plain(&[server], "").backend_tls(NAMED, Some(file(shown.certificate())), None);
        let bench = setup.ready().await;
        let client = bench.connect().await;
        (bench, Box::new(client))
    };
    let scheme = if client_tls { "https" } else { "http" };
    let request = handshake("/", &format!("Origin: {scheme}://app.test\r\n")) + "first";
    client.write_all(request.as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    let acceptor = shown.server(versions, client_tls.then_some(&ours));
    let (mut stream, head) = upgraded(&listener, &acceptor, b"primo").await;
    assert!(
        head.contains(&format!("x-forwarded-proto: {scheme}\r\n")) && head.contains("host: app.test\r\n"),
        "{head}"
    );
    let answer = read_head(&mut client).await;
    assert!(answer.contains("proxy-websocket-status: upgraded; relay=copy; conn=\""), "{answer}");
    let (message, _) = bench.next().await;
    let ToKeeper::CarriedOpen { slot, .. } = message else { panic!("{message:?}") };
    assert_eq!(read_exact(&mut stream, 5).await, b"first");
    assert_eq!(read_exact(&mut client, 5).await, b"primo");
    Pair { bench, client, backend: stream, slot }
}

fn session(stream: &TlsStream<TcpStream>) -> &ServerConnection {
    stream.get_ref().1
}

#[tokio::test]
async fn a_pair_to_tls_is_carried_whatever_its_client_speaks() {
    for version in rustls::ALL_VERSIONS {
        for client_tls in [false, true] {
            let mut pair = pair(client_tls, &[*version]).await;
            assert_eq!(session(&pair.backend).protocol_version(), Some(version.version));
            assert_eq!(session(&pair.backend).server_name(), Some("app.test"));
            assert_eq!(session(&pair.backend).alpn_protocol(), Some(b"http/1.1".as_slice()));
            assert_eq!(session(&pair.backend).peer_certificates().is_some(), client_tls);
            pair.client.write_all(b"second").await.unwrap();
            pair.client.flush().await.unwrap();
            assert_eq!(read_exact(&mut pair.backend, 6).await, b"second");
            pair.backend.write_all(b"secondo").await.unwrap();
            pair.backend.flush().await.unwrap();
            assert_eq!(read_exact(&mut pair.client, 7).await, b"secondo");
            assert_eq!([pair.counted(Direction::ClientToBackend), pair.counted(Direction::BackendToClient)], [11, 12]);
            pair.bench.counted(Outcome::Upgraded, 1).await;
        }
    }
}

#[tokio::test]
async fn each_side_may_end_first_and_still_receives() {
    for client_tls in [false, true] {
        let mut first = pair(client_tls, rustls::ALL_VERSIONS).await;
        first.client.write_all(b"last words").await.unwrap();
        first.client.shutdown().await.unwrap();
        // `read_all` fails on an end without close_notify.
        assert_eq!(read_all(&mut first.backend).await, "last words");
        first.backend.write_all(b"answer").await.unwrap();
        first.backend.shutdown().await.unwrap();
        assert_eq!(read_all(&mut first.client).await, "answer");
        assert_eq!(first.ended().await, EndReason::Finished);

        let mut second = pair(client_tls, rustls::ALL_VERSIONS).await;
        second.backend.write_all(b"bye").await.unwrap();
        second.backend.shutdown().await.unwrap();
        assert_eq!(read_all(&mut second.client).await, "bye");
        second.client.write_all(b"and bye").await.unwrap();
        second.client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut second.backend).await, "and bye");
        assert_eq!(second.ended().await, EndReason::Finished);
    }
}

/// close_notify ends a direction (RFC 8446 §6.1) also where no FIN follows it.
#[tokio::test]
async fn a_close_notify_alone_is_an_end() {
    let mut pair = pair(false, rustls::ALL_VERSIONS).await;
    let (socket, tls) = pair.backend.get_mut();
    tls.send_close_notify();
    let mut alert = Vec::new();
    tls.write_tls(&mut alert).unwrap();
    socket.write_all(&alert).await.unwrap();
    assert_eq!(read_all(&mut pair.client).await, "");
    pair.client.write_all(b"still there").await.unwrap();
    pair.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut pair.backend).await, "still there");
    assert_eq!(pair.ended().await, EndReason::Finished);
}

#[tokio::test]
async fn a_tls_backend_that_breaks_breaks_the_client() {
    for client_tls in [false, true] {
        let mut pair = pair(client_tls, rustls::ALL_VERSIONS).await;
        pair.backend.get_ref().0.set_zero_linger().unwrap();
        drop(pair.backend);
        let error = pair.client.read(&mut [0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// Bytes that are no record: not a stream that has ended.
#[tokio::test]
async fn a_backend_that_forgets_its_tls_breaks_the_pair() {
    let mut pair = pair(false, rustls::ALL_VERSIONS).await;
    pair.backend.get_mut().0.write_all(b"this is no record").await.unwrap();
    let error = pair.client.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(pair.ended().await, EndReason::TlsProtocol);
}

/// In TLS 1.2, whose tickets are part of the handshake.
#[tokio::test]
async fn the_second_session_resumes_the_first() {
    let identity = Identity::new();
    let (server, listener) = backend().await;
    let bench = Setup::plain(&[server], "").backend_tls(NAMED, Some(file(identity.certificate())), None).ready().await;
    let acceptor = identity.server(&[&rustls::version::TLS12], None);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut client = bench.connect().await;
        client.write_all(handshake("/", "").as_bytes()).await.unwrap();
        let (stream, _) = upgraded(&listener, &acceptor, b"").await;
        read_head(&mut client).await;
        assert_eq!(session(&stream).handshake_kind(), Some(kind));
    }
}

/// A backend with a certificate for its address, and a gate without `server_name`.
#[tokio::test]
async fn without_a_name_the_servers_address_is_verified() {
    for (name, good) in [("127.0.0.1", true), ("127.0.0.2", false), ("app.test", false)] {
        let identity = Identity::of(name, |_| ());
        let (server, task) = serve(identity.server(rustls::ALL_VERSIONS, None)).await;
        let setup = Setup::plain(&[server], "");
        let bench = setup.backend_tls("{ ca = \"ca.pem\" }", Some(file(identity.certificate())), None).ready().await;
        let mut client = bench.connect().await;
        client.write_all(handshake("/", "").as_bytes()).await.unwrap();
        let answer = read_head(&mut client).await;
        assert_eq!(answer.starts_with("HTTP/1.1 101 "), good, "{name}: {answer}");
        assert_eq!(answer.contains("reason=backend-certificate;"), !good, "{name}: {answer}");
        task.abort();
    }
}

/// A backend that upgrades every connection with which it comes to a TLS session.
async fn serve(acceptor: TlsAcceptor) -> (SocketAddr, JoinHandle<()>) {
    let (server, listener) = backend().await;
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            // A client that has been refused meanwhile does not take it.
            let _ = stream.write_all(switching("").as_bytes()).await;
            let _ = stream.flush().await;
            open.push(stream);
        }
    });
    (server, task)
}

/// Checks that a backend which shows `shown` to a gate that trusts `trusted` is refused like this.
async fn refused(shown: TlsAcceptor, trusted: &Identity, refusal: Refusal) {
    let (server, task) = serve(shown).await;
    let bench = Setup::plain(&[server], "").backend_tls(NAMED, Some(file(trusted.certificate())), None).ready().await;
    expect(&bench.ask(&handshake("/", "")).await, refusal);
    bench.counted(Outcome::Refused(refusal), 1).await;
    task.abort();
}

#[tokio::test]
async fn a_certificate_that_cannot_be_trusted_is_refused() {
    let all = rustls::ALL_VERSIONS;
    let expired = Identity::expired();
    refused(expired.server(all, None), &expired, Refusal::BackendCertificate).await;
    let stranger = Identity::of("app.test", |params| params.distinguished_name.push(DnType::CommonName, "stranger"));
    refused(stranger.server(all, None), &Identity::new(), Refusal::BackendCertificate).await;
    refused(Identity::new().server(all, None), &Identity::new(), Refusal::BackendCertificate).await;
    let other = Identity::of("other.test", |_| ());
    refused(other.server(all, None), &other, Refusal::BackendCertificate).await;
}

/// With TLS 1.3 the demand is only refused behind the handshake, in the place of an answer.
#[tokio::test]
async fn a_backend_that_demands_a_certificate_which_we_have_not() {
    for version in rustls::ALL_VERSIONS {
        let identity = Identity::new();
        refused(identity.server(&[*version], Some(&Identity::new())), &identity, Refusal::BackendAlert).await;
    }
}

/// A backend that does this to its first connection, and the answer that a client gets.
async fn answer_of<F>(more: &str, behave: impl FnOnce(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send,
{
    let (server, listener) = backend().await;
    let task = tokio::spawn(async move { behave(listener.accept().await.unwrap().0).await });
    let ca = Some(file(Identity::new().certificate()));
    let bench = Setup::plain(&[server], more).backend_tls(NAMED, ca, None).ready().await;
    let answer = bench.ask(&handshake("/", "")).await;
    timeout(NEVER, task).await.expect("the backend is not let go").unwrap();
    answer
}

#[tokio::test]
async fn a_backend_that_speaks_plain_http() {
    let answer = answer_of("", |mut stream| async move {
        assert_eq!(read_exact(&mut stream, 1).await, [0x16], "a ClientHello");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        // Until the gate gives up. With the alert unread, that may be an RST.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    expect(&answer.await, Refusal::BackendTls);
}

#[tokio::test]
async fn a_backend_that_hangs_in_its_tls_handshake() {
    let answer = answer_of("[timeouts]\ndial = \"150ms\"\n", |mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    });
    expect(&answer.await, Refusal::BackendTimeout);
}

#[tokio::test]
async fn a_backend_that_breaks_off_its_tls_handshake() {
    let reset = answer_of("", |mut stream| async move {
        read_exact(&mut stream, 1).await;
        // The header of a ServerHello's record, and the beginning of it.
        stream.write_all(&[0x16, 3, 3, 0, 90, 2, 0, 0, 86, 3, 3]).await.unwrap();
        stream.set_zero_linger().unwrap();
    });
    expect(&reset.await, Refusal::BackendTls);
    let closed = answer_of("", |mut stream| async move {
        let mut hello = vec![0; 4096];
        assert!(stream.read(&mut hello).await.unwrap() > 0);
    });
    expect(&closed.await, Refusal::BackendTls);
}

#[tokio::test]
async fn a_server_without_a_tls_session_is_passed_over() {
    let (good, bad) = (Identity::new(), Identity::new());
    let (untrusted, one) = serve(bad.server(rustls::ALL_VERSIONS, None)).await;
    let (trusted, other) = serve(good.server(rustls::ALL_VERSIONS, None)).await;
    let setup = Setup::plain(&[nobody().await, untrusted, trusted], "");
    let mut bench = setup.backend_tls(NAMED, Some(file(good.certificate())), None).ready().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = bench.connect().await;
        client.write_all(handshake("/", "").as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
        let ToKeeper::CarriedOpen { facts, .. } = bench.next().await.0 else { panic!("no pair") };
        assert_eq!(facts.server, 2);
        clients.push(client);
    }
    one.abort();
    other.abort();
}

#[tokio::test]
async fn files_that_are_none_stop_the_start_and_are_named() {
    let (good, other) = (Identity::new(), Identity::new());
    let cases = [
        ("no PEM at all", good.files(), "ca.pem: there is no certificate"),
        (good.certificate(), [file("no PEM at all"), file(&good.key)], "client.pem: there is no certificate"),
        (good.certificate(), [file(good.certificate()), file("no PEM")], "client.key: cannot read the private key"),
        (good.certificate(), [file(good.certificate()), file(&other.key)], "client.pem and client.key"),
    ];
    for (ca, identity, says) in cases {
        let setup = Setup::plain(&[nobody().await], "");
        let error = setup.backend_tls(WITH_CERTIFICATE, Some(file(ca)), Some(identity)).refused().await;
        let text = format!("{error:#}");
        assert!(text.contains(says) && text.contains("backend \"app\""), "{text}");
    }
}
