//! Which pairs the keeper takes, and what becomes of them when their gate ends.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::bench::{Bench, CAPACITY, Made, connected, new_pair, pair, reaching};
use crate::handoff::{MAX_LEFTOVER, Tally, ToGate, ToKeeper};

#[test]
fn pairs_that_a_dying_gate_had_handed_over_are_kept() {
    let mut bench = Bench::new();
    let mut pairs: Vec<Made> = (0..50).map(|_| Made::new()).collect();
    for made in &pairs {
        bench.hand_over(&made.fds()).unwrap();
    }
    // It has not read what it was told at its start: the kernel tells the keeper of a reset, ahead of what was sent.
    bench.gate_ends();
    bench.until("the end of the gate is known", |bench| bench.keeper.gate.control().is_none());
    assert_eq!(bench.live(), 50);
    for Made { near, far } in &mut pairs {
        // The keeper has them now, and nobody else.
        let [client, backend] = far;
        client.write_all(b"hello").unwrap();
        near.iter().for_each(|near| near.set_nonblocking(true).unwrap());
        let mut got = [0; 5];
        backend.set_nonblocking(true).unwrap();
        bench.until("the bytes arrive", |_| backend.read(&mut got).is_ok());
        assert_eq!(&got, b"hello");
    }
}

#[test]
fn a_connection_is_of_one_pair() {
    let mut bench = Bench::new();
    let (made, other) = (Made::new(), Made::new());
    let copy = made.near[0].try_clone().unwrap();
    bench.hand_over(&made.fds()).unwrap();
    bench.hand_over(&[copy.as_fd(), other.near[1].as_fd()]).unwrap();
    bench.gate_is_ended();
    assert_eq!(bench.live(), 1, "the first is not the worse for it");
}

#[test]
fn a_pair_has_two_connections() {
    let (near, far) = connected();
    let copy = near.try_clone().unwrap();
    for fds in [[near.as_fd(), copy.as_fd()], [near.as_fd(), far.as_fd()], [far.as_fd(), near.as_fd()]] {
        let mut bench = Bench::new();
        bench.hand_over(&fds).unwrap();
        bench.gate_is_ended();
        assert_eq!(bench.live(), 0);
    }
}

/// A keeper with a listener by a Unix socket.
fn with_unix_listener() -> (Bench, PathBuf) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("sluice-hand-over-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    (Bench::listening_at(&format!("unix:{}", path.display())), path)
}

/// A connection to that listener: the keeper's end, then the client's.
fn accepted(bench: &Bench, path: &Path) -> (UnixStream, UnixStream) {
    let far = UnixStream::connect(path).unwrap();
    (rustix::net::accept(&bench.keeper.listeners.clients[0].socket).unwrap().into(), far)
}

#[test]
fn pairs_in_a_ring_are_refused() {
    let mut bench = Bench::new();
    let connections: Vec<_> = (0..4).map(|_| connected()).collect();
    let ring: Vec<_> =
        (0..4).map(|at: usize| [connections[at].1.as_fd(), connections[(at + 1) % 4].0.as_fd()]).collect();
    for (at, fds) in ring.iter().enumerate() {
        bench.hand_over(fds).unwrap();
        if at < 3 {
            bench.settle();
            assert_eq!(bench.live(), at as u32 + 1, "a chain is none");
        }
    }
    bench.gate_is_ended();
    assert_eq!(bench.live(), 3);
}

/// Nothing tells which Unix sockets are ends of one connection, so each has to be of the kind that its side has.
#[test]
fn unix_sockets_are_accepted_or_reach_a_server() {
    type Choose = for<'a> fn([&'a UnixStream; 6], [BorrowedFd<'a>; 2]) -> [BorrowedFd<'a>; 2];
    let cases: [(Choose, bool); 8] = [
        (|[client, ..], [_, backend]| [client.as_fd(), backend], true),
        (|[_, _, backend, ..], [client, _]| [client, backend.as_fd()], true),
        (|[client, _, backend, ..], _| [client.as_fd(), backend.as_fd()], true),
        (|[_, far, ..], [_, backend]| [far.as_fd(), backend], false),
        (|[_, _, near, ..], [_, backend]| [near.as_fd(), backend], false),
        (|[.., one, other], _| [one.as_fd(), other.as_fd()], false),
        (|[.., one, _], [client, _]| [client, one.as_fd()], false),
        (|[.., one, _], [_, backend]| [one.as_fd(), backend], false),
    ];
    for (at, (choose, good)) in cases.into_iter().enumerate() {
        let (mut bench, path) = with_unix_listener();
        let ((client, far), (near, server), (one, other)) =
            (accepted(&bench, &path), reaching(), UnixStream::pair().unwrap());
        let made = Made::new();
        bench.hand_over(&choose([&client, &far, &near, &server, &one, &other], made.fds())).unwrap();
        if good {
            bench.settle();
        } else {
            bench.gate_is_ended();
        }
        assert_eq!(bench.live(), u32::from(good), "case {at}");
    }
}

#[test]
fn a_unix_listener_is_no_server_of_its_own_configuration() {
    let (mut bench, path) = with_unix_listener();
    let ((client, far), made) = (accepted(&bench, &path), Made::new());
    for fds in [[client.as_fd(), far.as_fd()], [made.fds()[0], far.as_fd()]] {
        bench.hand_over(&fds).unwrap();
        bench.settle();
        assert_eq!(bench.live(), 0);
        let closed = |told: &ToGate| matches!(told, ToGate::Closed { pairs } if pairs.len() == 1);
        assert!(bench.told().iter().any(closed));
    }
}

#[test]
fn a_pair_has_connected_stream_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let good = Made::new();
    let good = good.fds()[0];
    let wrong = [listener.as_fd(), datagrams.as_fd(), pipe.as_fd(), file.as_fd()];
    let lone = wrong.iter().flat_map(|wrong| [vec![good, *wrong], vec![*wrong, good]]);
    for fds in lone.chain([vec![], vec![good], vec![good; 3], vec![good; 200]]) {
        let mut bench = Bench::new();
        // As a gate could, which is not ours.
        send_many(&bench, &pair(), &fds);
        bench.gate_is_ended();
        assert_eq!(bench.live(), 0, "{} descriptors", fds.len());
    }
}

/// Sends more descriptors than one of ours does.
fn send_many(bench: &Bench, message: &ToKeeper, fds: &[BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    let bytes = postcard::to_stdvec(message).unwrap();
    rustix::net::sendmsg(bench.gate(), &[std::io::IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

#[test]
fn a_pair_is_of_what_exists_and_of_a_bounded_size() {
    type Change = fn(&mut crate::handoff::NewPair);
    let changes: [Change; 7] = [
        |pair| pair.facts.listener = 1,
        |pair| pair.facts.route = 1,
        |pair| pair.facts.backend = 1,
        |pair| pair.facts.server = 1,
        |pair| pair.to_backend = vec![0; MAX_LEFTOVER + 1],
        |pair| pair.to_client = vec![0; MAX_LEFTOVER + 1],
        |_| {},
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let (mut bench, made, mut pair) = (Bench::new(), Made::new(), new_pair());
        change(&mut pair);
        bench.send(&ToKeeper::Pair(Box::new(pair)), &made.fds()).unwrap();
        if at < 6 {
            bench.gate_is_ended();
        } else {
            bench.settle();
        }
        assert_eq!(bench.live(), u32::from(at == 6), "change {at}");
    }
}

#[test]
fn pairs_beyond_the_table_are_turned_away_and_told_of() {
    let mut bench = Bench::new();
    let pairs: Vec<Made> = (0..=CAPACITY).map(|_| Made::new()).collect();
    for made in &pairs {
        bench.until("there is room for the message", |bench| bench.hand_over(&made.fds()).is_ok());
    }
    bench.settle();
    assert_eq!(bench.live(), CAPACITY);
    let closed = |told: &ToGate| matches!(told, ToGate::Closed { pairs } if *pairs == [Tally::from(&new_pair().facts)]);
    assert!(bench.told().iter().any(closed));
}

#[test]
fn unix_sockets_bring_no_descriptors() {
    let (mut bench, path) = with_unix_listener();
    let ((near, client), made) = (accepted(&bench, &path), Made::new());
    bench.hand_over(&[near.as_fd(), made.near[1].as_fd()]).unwrap();
    bench.settle();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let file = std::fs::File::open("/dev/null").unwrap();
    let fds = [file.as_fd()];
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
    let flags = rustix::net::SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(&client, &[std::io::IoSlice::new(b"x")], &mut control, flags);
    // Kernels before 6.16 have no way to say so.
    let newer = rustix::net::sockopt::socket_domain(&near).is_ok() && knows_passrights();
    assert_eq!(sent.is_err(), newer, "{sent:?}");
}

fn knows_passrights() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}
