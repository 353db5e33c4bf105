//! Which certificate clients get, which they must have, and how files take the place of others.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::DnType;
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bench::{Bench, IDENTITY, Setup, asked, backend, handshake, nobody, read_head, switching};
use super::identity::{Identity, file};
use crate::gate::refusal::Outcome;
use crate::handoff::files::FileRole;
use crate::handoff::{ToGate, ToKeeper};

const ORIGIN: &str = "Origin: https://app.test\r\n";
const CLIENTS: FileRole = FileRole::ClientCa { listener: 0 };

fn named(identity: &Identity, settings: &str, more: [Option<&Identity>; 1]) -> Setup {
    let [certificate, key] = identity.files();
    let setup = Setup::plain(&[], "").listener(&format!("tls = {{ certificate = \"c\", key = \"k\", {settings} }}"));
    let mut setup = setup.file(IDENTITY[0], certificate).file(IDENTITY[1], key);
    for (place, more) in (1..).zip(more.into_iter().flatten()) {
        let [certificate, key] = more.files();
        setup = setup.file(FileRole::Certificate { listener: 0, place }, certificate);
        setup = setup.file(FileRole::Key { listener: 0, place }, key);
    }
    setup
}

/// With one server.
fn to(mut setup: Setup, server: std::net::SocketAddr) -> Setup {
    setup.config = setup.config.replace("servers = []", &format!("servers = [\"{server}\"]"));
    setup
}

async fn connect(bench: &Bench, name: &str, client: TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    client.connect(ServerName::try_from(name.to_owned()).unwrap(), bench.connect().await).await
}

fn shown(client: &TlsStream<TcpStream>) -> &[u8] {
    client.get_ref().1.peer_certificates().unwrap()[0].as_ref()
}

#[tokio::test]
async fn a_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let (default, other) = (Identity::new(), Identity::of("*.other.test", |_| ()));
    for settings in [
        "certificates = [{ certificate = \"d\", key = \"l\" }]",
        "certificates = [{ certificate = \"d\", key = \"l\", names = [\"*.OTHER.test\"] }]",
    ] {
        let bench = to(named(&default, settings, [Some(&other)]), nobody().await).ready().await;
        let seen = connect(&bench, "app.test", default.client(rustls::ALL_VERSIONS, &[])).await.unwrap();
        assert_eq!(shown(&seen), default.der().as_ref());
        let seen = connect(&bench, "a.other.test", other.client(rustls::ALL_VERSIONS, &[])).await.unwrap();
        assert_eq!(shown(&seen), other.der().as_ref());
    }
}

#[tokio::test]
async fn a_certificate_without_a_name_stops_the_start() {
    let nameless = Identity::of("192.0.2.1", |_| ());
    let settings = "certificates = [{ certificate = \"d.pem\", key = \"l\" }]";
    let setup = to(named(&Identity::new(), settings, [Some(&nameless)]), nobody().await);
    let error = format!("{:#}", setup.refused().await);
    assert!(error.contains("d.pem") && error.contains("names"), "{error}");
}

#[tokio::test]
async fn changed_files_are_used_and_bad_ones_are_not() {
    let (first, second) = (Identity::new(), Identity::new());
    let mut bench = to(named(&first, "", [None]), nobody().await).ready().await;
    let before = first.connect(&bench).await;
    let files = |identity: &Identity| IDENTITY.into_iter().zip(identity.files()).collect::<Vec<_>>();
    let mut mixed = files(&second);
    mixed[1].1 = file(&first.key);
    let broken = vec![(IDENTITY[0], file("no PEM")), (IDENTITY[1], file(&first.key))];
    for bad in [mixed, broken, Vec::new(), vec![(IDENTITY[0], file(first.certificate()))]] {
        assert!(!bench.reload(&bad).await);
        assert_eq!(shown(&first.connect(&bench).await), first.der().as_ref());
    }
    assert!(bench.reload(&files(&second)).await);
    assert_eq!(shown(&second.connect(&bench).await), second.der().as_ref());
    // What was there before goes on.
    drop(before);
}

/// One handshake through the gate: what the backend is told.
async fn told(bench: &mut Bench, listener: &tokio::net::TcpListener, client: &mut TlsStream<TcpStream>) -> String {
    let claims =
        "Client-Cert: :AAAA:\r\nClient_Cert: :AAAA:\r\nX-Client_Cert-Subject: CN=root\r\nClient-Cert-Chain: :AA==:\r\n";
    let claims = format!("{ORIGIN}{claims}");
    client.write_all(handshake("/", &claims).as_bytes()).await.unwrap();
    let (mut backend, head) = asked(listener).await;
    backend.write_all(switching("").as_bytes()).await.unwrap();
    assert!(read_head(client).await.starts_with("HTTP/1.1 101 "));
    // The one before may end meanwhile.
    while !matches!(bench.next().await.0, ToKeeper::CarriedOpen { .. }) {}
    head.to_lowercase()
}

#[tokio::test]
async fn clients_with_a_certificate_are_told_to_the_backend_and_others_are_not() {
    let server = Identity::new();
    let ann = Identity::of("ann.test", |params| params.distinguished_name.push(DnType::CommonName, "Ann"));
    let (address, listener) = backend().await;
    for settings in ["client_auth = { ca = \"a\" }", "client_auth = { ca = \"a\", mode = \"optional\" }"] {
        let optional = settings.contains("optional");
        let setup = to(named(&server, settings, [None]), address).file(CLIENTS, file(ann.certificate()));
        let mut bench = setup.ready().await;
        // The second resumes the session of the first: its certificate is in the ticket.
        let connector = server.client_showing(Some(&ann));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut client = connect(&bench, "app.test", connector.clone()).await.unwrap();
            let head = told(&mut bench, &listener, &mut client).await;
            let cert = format!("client-cert: :{}:\r\n", STANDARD.encode(ann.der())).to_lowercase();
            assert!(head.contains(&cert) && head.contains("x-client-cert-subject: cn=ann\r\n"), "{head}");
            assert_eq!(head.matches("client-cert").count() + head.matches("client_cert").count(), 2, "{head}");
            assert_eq!(client.get_ref().1.handshake_kind(), Some(kind));
        }
        let without = connect(&bench, "app.test", server.client_showing(None)).await;
        let stranger = Identity::of("eve.test", |_| ());
        let mut eve = connect(&bench, "app.test", server.client_showing(Some(&stranger))).await.unwrap();
        assert!(eve.read(&mut [0; 1]).await.is_err(), "a stranger's certificate is as bad as none");
        let mut without = without.unwrap();
        if optional {
            let head = told(&mut bench, &listener, &mut without).await;
            assert!(!head.contains("cert"), "{head}");
            bench.counted(Outcome::TlsFailed, 1).await;
        } else {
            assert!(without.read(&mut [0; 1]).await.is_err());
            bench.counted(Outcome::TlsFailed, 2).await;
        }
    }
}

#[tokio::test]
async fn a_ticket_is_good_only_while_the_same_clients_are_trusted() {
    let (server, ann, bob) = (Identity::new(), Identity::of("ann.test", |_| ()), Identity::of("bob.test", |_| ()));
    let (address, listener) = backend().await;
    let settings = "client_auth = { ca = \"a\" }";
    let setup = to(named(&server, settings, [None]), address).file(CLIENTS, file(ann.certificate()));
    let mut bench = setup.ready().await;
    let connector = server.client_showing(Some(&ann));
    let mut client = connect(&bench, "app.test", connector.clone()).await.unwrap();
    told(&mut bench, &listener, &mut client).await;
    let files = |clients: &Identity| {
        let mut files: Vec<_> = IDENTITY.into_iter().zip(server.files()).collect();
        files.push((CLIENTS, file(clients.certificate())));
        files
    };
    assert!(bench.reload(&files(&ann)).await);
    let mut client = connect(&bench, "app.test", connector.clone()).await.unwrap();
    told(&mut bench, &listener, &mut client).await;
    assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "other files are no reason");
    assert!(bench.reload(&files(&bob)).await);
    let mut client = connect(&bench, "app.test", connector).await.unwrap();
    assert!(client.read(&mut [0; 1]).await.is_err(), "nobody vouches for this client any more");
}

#[tokio::test]
async fn versions_suites_and_tickets_are_what_is_set() {
    let identity = Identity::new();
    let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
    for (settings, with_old, with_new) in [
        ("min_version = \"1.3\"", false, true),
        ("max_version = \"1.2\"", true, false),
        ("min_version = \"1.3\", cipher_suites = [\"TLS_CHACHA20_POLY1305_SHA256\"]", false, true),
    ] {
        let bench = to(named(&identity, settings, [None]), nobody().await).ready().await;
        for (version, goes) in [(old, with_old), (new, with_new)] {
            let client = connect(&bench, "app.test", identity.client(&[version], &[])).await;
            assert_eq!(client.is_ok(), goes, "{settings}");
            let suite = client.ok().and_then(|client| client.get_ref().1.negotiated_cipher_suite());
            assert!(!goes || !settings.contains("CHACHA20") || format!("{suite:?}").contains("CHACHA20"), "{suite:?}");
        }
    }
    let (address, listener) = backend().await;
    for version in [old, new] {
        let mut bench = to(named(&identity, "session_tickets = false", [None]), address).ready().await;
        let connector = identity.client(&[version], &[]);
        for _ in 0..2 {
            let mut client = connect(&bench, "app.test", connector.clone()).await.unwrap();
            told(&mut bench, &listener, &mut client).await;
            assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn files_that_are_not_all_there_stop_the_start() {
    let bench = to(Setup::plain(&[], "").listener("tls = { certificate = \"c\", key = \"k\" }"), nobody().await);
    let error = format!("{:#}", bench.refused().await);
    assert!(error.contains("Certificate"), "{error}");
    // More descriptors than roles.
    let bench = to(named(&Identity::new(), "", [None]), nobody().await).ready().await;
    let memory = file("x");
    bench.send(&ToGate::Files { roles: vec![] }, &[std::os::fd::AsFd::as_fd(&memory)]).await;
    assert!(bench.end().await.is_err());
}
