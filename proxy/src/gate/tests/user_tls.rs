//! TLS whose keys the gate keeps, against rustls at the other end: every suite, both ways round.

use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::Poll;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, cipher_suite};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ProtocolVersion, SupportedCipherSuite};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::bench::{IDENTITY, NEVER, read_all, read_exact};
use super::identity::{Identity, file};
use crate::config;
use crate::gate::files::Files;
use crate::gate::stream::Stream;
use crate::gate::tls::{self, Acceptor, Arming, Connector, Secured, end_reason};
use crate::handoff::files::FileRole;
use crate::handoff::{EndReason, WhyNot};
use crate::ktls::Ability;

const SUITE: SupportedCipherSuite = cipher_suite::TLS13_AES_128_GCM_SHA256;
const TLS_1_2: SupportedCipherSuite = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
const NO_LIMIT: u64 = u64::MAX;

/// Both ends of a connection: the gate's, with its keys in this process, and rustls's.
struct Ends {
    ours: Stream,
    theirs: TlsStream<TcpStream>,
}

/// Makes one. The gate is the client of the handshake, or its server. `cut`: the bytes come in pieces of random sizes.
async fn ends(identity: &Identity, suite: SupportedCipherSuite, client: bool, limit: u64, cut: bool) -> Ends {
    let arming = Arming::new(Ability::default(), WhyNot::Configured, limit);
    let (connector, acceptor) = identity.ends(suite);
    let (near, far) = sockets(cut).await;
    let mut files = Files::default();
    let (ours, theirs) = if client {
        let settings: config::BackendTls = toml::from_str("ca = \"ca.pem\"\nserver_name = \"app.test\"").unwrap();
        files.take(vec![FileRole::BackendCa { backend: 0 }], vec![file(identity.certificate())]).unwrap();
        let ours = Connector::new(0, &settings, &files, &mut Default::default()).unwrap();
        let server = Some(Ipv4Addr::LOCALHOST.into());
        let (ours, theirs) = tokio::join!(tls::connect(near, &ours, (None, server), &arming), acceptor.accept(far));
        (ours.unwrap(), theirs.unwrap().into())
    } else {
        let settings: config::Tls = toml::from_str("certificate = \"cert.pem\"\nkey = \"key.pem\"").unwrap();
        files.take(IDENTITY.to_vec(), identity.files().into()).unwrap();
        let ours = Acceptor::new(0, &settings, false, &files, None).unwrap();
        let name = ServerName::try_from("app.test").unwrap();
        let (ours, theirs) = tokio::join!(tls::accept(near, &ours, &arming), connector.connect(name, far));
        let Ok(Secured { stream: ours, person: None, .. }) = ours else { panic!("{suite:?}: no session") };
        (ours, theirs.unwrap().into())
    };
    let Stream::User(..) = &ours else { panic!("the kernel has the keys") };
    Ends { ours, theirs }
}

async fn sockets(cut: bool) -> (TcpStream, TcpStream) {
    let (near, middle) = connected().await;
    if !cut {
        return (near, middle);
    }
    let (other, far) = connected().await;
    let ((a, b), (c, d)) = (middle.into_split(), other.into_split());
    tokio::spawn(in_pieces(a, d, 1));
    tokio::spawn(in_pieces(c, b, 2));
    (near, far)
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    for socket in [&dialled, &accepted] {
        socket.set_nodelay(true).unwrap();
    }
    (dialled, accepted)
}

async fn in_pieces(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    seed: u64,
) -> io::Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut space = vec![0; 40_000];
    loop {
        let most = if random.random() { random.random_range(1..64) } else { random.random_range(1..space.len()) };
        let got = from.read(&mut space[..most]).await?;
        if got == 0 {
            return to.shutdown().await;
        }
        to.write_all(&space[..got]).await?;
        if random.random_range(0..8) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (seed..seed + length).map(|at| (at % 251) as u8).collect()
}

/// Writes all of a pattern in pieces of random sizes, and ends.
async fn write_pattern<S: tokio::io::AsyncWrite>(mut to: WriteHalf<S>, length: usize, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let bytes = pattern(length, seed as usize);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(random.random_range(1..100_000).min(rest.len()));
        to.write_all(piece).await.unwrap();
        if random.random() {
            to.flush().await.unwrap();
        }
        rest = behind;
    }
    to.shutdown().await.unwrap();
}

/// Reads such a pattern to its end, in reads of random sizes, with stalls.
async fn read_pattern<S: tokio::io::AsyncRead>(mut from: ReadHalf<S>, length: usize, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let (expected, mut at) = (pattern(length, seed as usize), 0);
    let mut space = vec![0; 70_000];
    loop {
        let most = if random.random_range(0..4) == 0 { 7 } else { random.random_range(1..=space.len()) };
        let got = from.read(&mut space[..most]).await.unwrap();
        assert_eq!(&space[..got], &expected[at..at + got], "at {at}");
        at += got;
        if got == 0 {
            return assert_eq!(at, length);
        }
        for _ in 0..random.random_range(0..4) {
            tokio::task::yield_now().await;
        }
    }
}

/// A megabyte each way at once, and both ends end.
async fn megabytes(ends: Ends) {
    const SIZE: usize = 1_000_000;
    let ((ours_in, ours_out), (theirs_in, theirs_out)) = (tokio::io::split(ends.ours), tokio::io::split(ends.theirs));
    let all = async {
        tokio::join!(
            write_pattern(ours_out, SIZE, 1),
            write_pattern(theirs_out, SIZE, 2),
            read_pattern(theirs_in, SIZE, 1),
            read_pattern(ours_in, SIZE, 2),
        )
    };
    timeout(NEVER, all).await.expect("it hangs");
}

#[tokio::test]
async fn every_suite_carries_both_ways_with_keys_that_change_where_they_can() {
    let (ecdsa, rsa) = (Identity::new(), Identity::rsa());
    let mut tasks = JoinSet::new();
    let mut seen = 0;
    for suite in ALL_CIPHER_SUITES {
        let name = format!("{:?}", suite.suite());
        for (identity, label) in [(&ecdsa, "_ECDSA_"), (&rsa, "_RSA_")] {
            let tls13 = suite.version().version == ProtocolVersion::TLSv1_3;
            if !tls13 && !name.contains(label) {
                continue;
            }
            for client in [false, true] {
                let limit = if tls13 { 64 } else { NO_LIMIT };
                let ends = ends(identity, *suite, client, limit, seen % 2 == 0).await;
                assert_eq!(ends.theirs.get_ref().1.negotiated_cipher_suite(), Some(*suite));
                tasks.spawn(megabytes(ends));
                seen += 1;
            }
        }
    }
    // TLS 1.3 with either certificate, TLS 1.2 with the one that its suite names.
    assert_eq!(seen, 2 * (3 * 2 + 3 + 3));
    tasks.join_all().await;
}

#[tokio::test]
async fn each_end_may_change_its_keys_at_any_time() {
    for client in [false, true] {
        let identity = Identity::new();
        let Ends { mut ours, mut theirs } = ends(&identity, SUITE, client, 64, true).await;
        for turn in 0..200 {
            if turn % 7 == 0 {
                // It asks for ours to be changed, too.
                match &mut theirs {
                    TlsStream::Client(tls) => tls.get_mut().1.refresh_traffic_keys().unwrap(),
                    TlsStream::Server(tls) => tls.get_mut().1.refresh_traffic_keys().unwrap(),
                }
            }
            let message = pattern(100 + turn * 50, turn);
            theirs.write_all(&message).await.unwrap();
            theirs.flush().await.unwrap();
            assert_eq!(read_exact(&mut ours, message.len()).await, message);
            ours.write_all(&message).await.unwrap();
            ours.flush().await.unwrap();
            assert_eq!(read_exact(&mut theirs, message.len()).await, message);
        }
    }
}

#[tokio::test]
async fn an_end_that_says_close_notify_still_receives() {
    for suite in [SUITE, TLS_1_2] {
        let identity = Identity::new();
        let Ends { mut ours, mut theirs } = ends(&identity, suite, false, NO_LIMIT, false).await;
        theirs.write_all(b"last words").await.unwrap();
        theirs.shutdown().await.unwrap();
        assert_eq!(read_all(&mut ours).await, "last words");
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0, "an end stays one");
        ours.write_all(b"answer").await.unwrap();
        ours.shutdown().await.unwrap();
        // Fails on an end without close_notify.
        assert_eq!(read_all(&mut theirs).await, "answer");

        let Ends { mut ours, mut theirs } = ends(&identity, suite, true, NO_LIMIT, false).await;
        ours.write_all(b"bye").await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(read_all(&mut theirs).await, "bye");
        let error = ours.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        theirs.write_all(b"and bye").await.unwrap();
        theirs.shutdown().await.unwrap();
        assert_eq!(read_all(&mut ours).await, "and bye");
    }
}

#[tokio::test]
async fn a_fin_is_an_end_also_in_a_record() {
    for part in [&b""[..], &[23, 3], &[23, 3, 3, 0, 100, 1, 2, 3]] {
        let Ends { mut ours, mut theirs } = ends(&Identity::new(), SUITE, false, NO_LIMIT, false).await;
        theirs.write_all(b"data").await.unwrap();
        theirs.flush().await.unwrap();
        let (socket, _) = theirs.get_mut();
        socket.write_all(part).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(read_all(&mut ours).await, "data");
    }
}

#[tokio::test]
async fn a_broken_record_is_answered_with_an_alert() {
    for (bytes, alert) in [
        (
            &[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0][..],
            AlertDescription::BadRecordMac,
        ),
        (&[23, 3, 3, 0x50, 0], AlertDescription::RecordOverflow),
        (b"HTTP/1.1", AlertDescription::UnexpectedMessage),
    ] {
        let Ends { mut ours, mut theirs } = ends(&Identity::new(), SUITE, false, NO_LIMIT, false).await;
        theirs.get_mut().0.write_all(bytes).await.unwrap();
        for _ in 0..2 {
            let error = ours.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(end_reason(&error), Some(EndReason::TlsProtocol), "{error}");
        }
        let error = ours.write(b"more").await.unwrap_err();
        assert_eq!(end_reason(&error), Some(EndReason::TlsProtocol));
        let error = theirs.read(&mut [0; 10]).await.unwrap_err();
        let said = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        assert_eq!(said, Some(&rustls::Error::AlertReceived(alert)));
    }
}

#[tokio::test]
async fn an_alert_is_an_error_of_the_peers() {
    let Ends { mut ours, mut theirs } = ends(&Identity::new(), SUITE, true, NO_LIMIT, false).await;
    // Bytes that rustls cannot open: it says so.
    let mut garbage = vec![9; 40];
    garbage[..5].copy_from_slice(&[23, 3, 3, 0, 35]);
    let mut raw = ours.tcp().unwrap();
    poll_fn(|cx| raw.poll_write_ready(cx)).await.unwrap();
    assert_eq!(raw.try_write(&garbage).unwrap(), garbage.len());
    raw = theirs.get_ref().0;
    raw.readable().await.unwrap();
    theirs.read(&mut [0; 10]).await.unwrap_err();
    let error = timeout(NEVER, ours.read(&mut [0; 10])).await.unwrap().unwrap_err();
    assert_eq!(end_reason(&error), Some(EndReason::TlsAlert), "{error}");
    assert!(error.to_string().contains("alert 20"), "{error}");
}

#[tokio::test]
async fn what_a_stalled_peer_does_not_take_is_bounded_and_not_lost() {
    const MOST: usize = 64 << 20;
    let Ends { mut ours, theirs } = ends(&Identity::new(), SUITE, false, NO_LIMIT, false).await;
    let (mut from, _to) = tokio::io::split(theirs);
    let piece = pattern(65_536, 0);
    let mut taken = 0;
    // Only when what was taken before can go does it take more.
    while let Poll::Ready(count) = poll_fn(|cx| Poll::Ready(Pin::new(&mut ours).poll_write(cx, &piece))).await {
        taken += count.unwrap();
        assert!(taken < MOST, "nobody stalls");
    }
    let waiting = taken;
    let reader = async {
        let (mut at, mut space) = (0, vec![0; 65_536]);
        while at < waiting {
            let got = from.read(&mut space).await.unwrap();
            assert!(got > 0 && (0..got).all(|step| space[step] == piece[(at + step) % piece.len()]), "at {at}");
            at += got;
        }
    };
    timeout(NEVER, async { tokio::join!(ours.flush(), reader) }).await.expect("it hangs").0.unwrap();
}
