//! Sockets that make whoever closes them wait.

use std::io::{IoSlice, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sockopt};

use super::bench::{Bench, CAPACITY, Made, connected, pair, reaching};
use crate::handoff::ToKeeper;
use crate::keeper::closer::MOST;

/// As long as a close waits that nobody interrupts.
const LONG: Duration = Duration::from_secs(30);

/// A socket whose close waits: its peer reads nothing, and more was sent than it takes. The peer.
pub(in crate::keeper) fn make_linger(socket: &TcpStream) {
    socket.set_nonblocking(true).unwrap();
    while (&*socket).write(&[0; 65536]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    sockopt::set_socket_linger(socket, Some(LONG)).unwrap();
}

/// Lets the keeper work until `done` says so, which takes no close that waits to its end.
fn never_waits(bench: &mut Bench, mut done: impl FnMut(&mut Bench) -> bool) {
    let start = Instant::now();
    while !done(bench) {
        bench.step();
        assert!(start.elapsed() < LONG / 2, "the keeper waited");
    }
}

#[test]
fn a_socket_that_lingers_does_not_hold_the_keeper_up() {
    let mut bench = Bench::new();
    let made = Made::new();
    made.near.iter().for_each(make_linger);
    bench.hand_over(&made.fds()).unwrap();
    bench.settle();
    assert_eq!(bench.live(), 1);
    let Made { near, far } = made;
    // The gate keeps copies, sets the option again, and goes.
    near.iter().for_each(|near| sockopt::set_socket_linger(near, Some(LONG)).unwrap());
    drop(near);
    far.iter().for_each(|far| sockopt::set_socket_linger(far, Some(Duration::ZERO)).unwrap());
    drop(far);
    never_waits(&mut bench, |bench| bench.live() == 0);
}

#[test]
fn sockets_of_refused_messages_do_not_hold_the_keeper_up() {
    for message in [pair(), ToKeeper::Ready] {
        let mut bench = Bench::new();
        let pairs: Vec<Made> = (0..4).map(|_| Made::new()).collect();
        let all = || pairs.iter().flat_map(|made| &made.near);
        all().for_each(make_linger);
        bench.send(&message, &all().map(|socket| socket.as_fd()).collect::<Vec<_>>()).unwrap();
        let far: Vec<_> = pairs.into_iter().map(|made| made.far).collect();
        never_waits(&mut bench, |bench| bench.keeper.gate.control().is_none());
        never_waits(&mut bench, |bench| bench.keeper.relay.closer.is_idle());
        drop(far);
    }
}

#[test]
fn sockets_inside_of_sockets_do_not_hold_the_keeper_up() {
    let mut bench = Bench::new();
    let (near, far) = connected();
    make_linger(&near);
    let (outer, other) = UnixStream::pair().unwrap();
    send_inside(&other, near.into());
    drop(other);
    bench.hand_over(&[outer.as_fd(), outer.as_fd()]).unwrap();
    drop(outer);
    never_waits(&mut bench, |bench| bench.keeper.gate.control().is_none());
    never_waits(&mut bench, |bench| bench.keeper.relay.closer.is_idle());
    drop(far);
}

/// Puts a descriptor into a socket's queue.
pub(in crate::keeper) fn send_inside(socket: &UnixStream, inner: OwnedFd) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [inner.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// A gate that keeps copies and sets the option over and over, and so wins against any look at the socket.
#[test]
fn a_gate_that_sets_the_option_again_and_again_holds_nobody_up() {
    let mut bench = Bench::new();
    let made = Made::new();
    made.near.iter().for_each(make_linger);
    let copies = made.near.each_ref().map(|near| near.try_clone().unwrap());
    let enough = Arc::new(AtomicBool::new(false));
    let setter = std::thread::spawn({
        let enough = Arc::clone(&enough);
        move || {
            while !enough.load(Ordering::Relaxed) {
                copies.iter().for_each(|copy| sockopt::set_socket_linger(copy, Some(LONG)).unwrap());
            }
        }
    });
    bench.hand_over(&made.fds()).unwrap();
    drop(made.near);
    bench.settle();
    drop(made.far);
    never_waits(&mut bench, |bench| bench.live() == 0);
    enough.store(true, Ordering::Relaxed);
    setter.join().unwrap();
}

/// What waits to be closed is bounded: the keeper reads no more of the gate until some of it is closed.
#[test]
fn a_gate_cannot_make_the_keeper_gather_descriptors() {
    let mut bench = Bench::new();
    let held: Vec<Made> = (0..CAPACITY).map(|_| Made::new()).collect();
    for made in &held {
        bench.until("there is room for the message", |bench| bench.hand_over(&made.fds()).is_ok());
    }
    bench.settle();
    // There is no place for these, through no fault of the gate's; and each makes its close wait.
    let mut far = Vec::new();
    for _ in 0..2 * MOST {
        let ((near, peer), (outer, other), client) = (connected(), reaching(), connected());
        make_linger(&near);
        send_inside(&other, near.into());
        if bench.hand_over(&[client.0.as_fd(), outer.as_fd()]).is_err() {
            break;
        }
        far.push((peer, client.1));
    }
    assert!(far.len() > MOST, "{} fit into the control socket", far.len());
    let mut most = 0;
    let unread = |bench: &Bench| rustix::io::ioctl_fionread(bench.keeper.gate.control().unwrap()).unwrap();
    for _ in 0..50 {
        bench.step();
        most = most.max(bench.keeper.relay.closer.waiting());
    }
    assert!(most <= MOST + 1 && unread(&bench) > 0, "{most} wait to be closed");
    // Now the closes need not wait any longer, and the gate is read on.
    drop(far);
    never_waits(&mut bench, |bench| unread(bench) == 0 && bench.keeper.relay.closer.is_idle());
    assert_eq!(bench.live(), CAPACITY);
}
