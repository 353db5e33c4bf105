//! Explores the wake-ups of a carried pair exhaustively: the real lanes, over the real TLS sessions, in a small world.
//!
//! The world is one pair's task, its two sockets with tokio's rules for readiness (edges of epoll, a bit that a short read
//! or write clears unless an edge came meanwhile, one waker for each direction, a budget that ends a poll early), and
//! two peers that send some records, end, and read whenever they like. Every step that another actor can see in
//! between is a step of its own; inside of a poll, bytes may come and go at every call of a socket.
//!
//! What must hold in every state in which the task sleeps and nothing is about to wake it: polling it would change
//! nothing. And where nobody can do anything more, every byte has been delivered, and both ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "wakes_wire.rs"]
mod wire;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use self::wire::{Broken, ORACLE, Oracle, Wire};
use super::*;
use crate::gate::tls::UserTls;
use crate::ktls::{Cipher, Role, Suite, Version, made_up};

/// An unmasked frame of one byte.
const FRAME: [u8; 3] = [0x82, 1, 7];

/// The sizes of a world.
#[derive(Clone, Copy)]
struct Size {
    /// Frames that the peers send: the client, the backend.
    frames: [usize; 2],
    /// What a peer sends or reads at a time.
    piece: usize,
    /// What a lane reads at a time.
    space: usize,
    /// What a lane moves in one poll.
    budget: usize,
    /// Departures from the usual in one poll: tokio's budget is spent, or a peer is quick.
    oddities: usize,
}

/// One side of the pair: plain, or with TLS.
trait End: AsyncRead + AsyncWrite + Unpin + Clone {
    /// With a peer that sends so many frames and ends.
    fn new(role: Role, frames: usize, piece: usize, broken: Broken) -> Self;
    fn wire(&mut self) -> &mut Wire;
    /// What it keeps.
    fn kept(&self) -> [usize; 3];
    /// What its peer has read, and whether that was all.
    fn heard(&self, role: Role) -> (Vec<u8>, bool);
}

impl End for Wire {
    fn new(_: Role, frames: usize, piece: usize, broken: Broken) -> Self {
        Self::new(FRAME.repeat(frames).into(), piece, broken)
    }

    fn wire(&mut self) -> &mut Wire {
        self
    }

    fn kept(&self) -> [usize; 3] {
        [0; 3]
    }

    fn heard(&self, _: Role) -> (Vec<u8>, bool) {
        (self.taken.iter().copied().collect(), self.fin_written)
    }
}

const SUITE: Suite = Suite { version: Version::Tls13, cipher: Cipher::Aes128Gcm };

/// Polls a peer whose socket has room, until it has done something.
fn now<T>(peer: &mut UserTls<Wire>, mut poll: impl FnMut(Pin<&mut UserTls<Wire>>, &mut Context<'_>) -> Poll<T>) -> T {
    loop {
        ORACLE.set(Oracle::USUAL);
        peer.wire().leave();
        peer.wire().turn();
        if let Poll::Ready(done) = poll(Pin::new(peer), &mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
}

impl End for UserTls<Wire> {
    fn new(role: Role, frames: usize, piece: usize, broken: Broken) -> Self {
        let far = if role == Role::Client { Role::Server } else { Role::Client };
        // Keys change with every second record.
        let mut peer = Self::new(Wire::new(VecDeque::new(), usize::MAX, Broken::Nothing), made_up(SUITE, far), 2);
        for _ in 0..frames {
            assert_eq!(now(&mut peer, |peer, cx| peer.poll_write(cx, &FRAME)).unwrap(), FRAME.len());
            now(&mut peer, |peer, cx| peer.poll_flush(cx)).unwrap();
        }
        now(&mut peer, |peer, cx| peer.poll_shutdown(cx)).unwrap();
        peer.wire().leave();
        let coming = std::mem::take(&mut peer.wire().taken);
        Self::new(Wire::new(coming, piece, broken), made_up(SUITE, role), 2)
    }

    fn wire(&mut self) -> &mut Wire {
        self.tcp_mut()
    }

    fn kept(&self) -> [usize; 3] {
        self.kept()
    }

    fn heard(&self, role: Role) -> (Vec<u8>, bool) {
        let far = if role == Role::Client { Role::Server } else { Role::Client };
        let mut wire = Wire::new(self.tcp().taken.clone(), usize::MAX, Broken::Nothing);
        wire.arrive();
        if self.tcp().fin_written {
            wire.arrive();
        }
        wire.turn();
        let mut peer = Self::new(wire, made_up(SUITE, far), 2);
        let (mut space, mut all) = ([0; 64], Vec::new());
        loop {
            ORACLE.set(Oracle::USUAL);
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut peer).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                Poll::Pending => return (all, false),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return (all, true),
                Poll::Ready(Ok(())) => all.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) => panic!("what the peer got is no TLS: {error}"),
            }
        }
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct World<E> {
    client: E,
    backend: E,
    to_backend: Lane,
    to_client: Lane,
    woken: bool,
    done: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Poll,
    Turn,
    Arrive,
    Leave,
}

/// What tells states apart.
type Sign = ([Vec<usize>; 2], [(usize, bool, u8); 2], bool);

struct Explorer {
    broken: Broken,
    size: Size,
    stats: Stats,
    slot: Slot,
}

impl<E: End> World<E> {
    fn new(size: Size, broken: Broken) -> Self {
        Self {
            client: E::new(Role::Server, size.frames[0], size.piece, broken),
            backend: E::new(Role::Client, size.frames[1], size.piece, broken),
            to_backend: Lane::new(Direction::ClientToBackend),
            to_client: Lane::new(Direction::BackendToClient),
            woken: true,
            done: false,
        }
    }

    fn wire(&mut self, which: usize) -> &mut Wire {
        if which == 0 { self.client.wire() } else { self.backend.wire() }
    }

    /// As `Carry::poll_move` does it.
    fn poll(&mut self, explorer: &mut Explorer) {
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let mut cx = Context::from_waker(&waker);
        let Self { client, backend, to_backend, to_client, .. } = self;
        let Explorer { broken, size, stats, slot } = explorer;
        let (mut up_budget, mut down_budget) = (Budget(size.budget), Budget(size.budget));
        let up = to_backend.poll(&mut cx, client, backend, stats, slot, &mut up_budget);
        let down = to_client.poll(&mut cx, backend, client, stats, slot, &mut down_budget);
        for (lane, poll) in [&*to_backend, to_client].into_iter().zip([&up, &down]) {
            assert!(!matches!(poll, Poll::Ready(Err(_))) && !lane.broken(), "a side failed: {poll:?}");
        }
        let spent = up_budget.0 == 0 || down_budget.0 == 0;
        self.woken = flag.0.load(Ordering::Relaxed) && !(*broken == Broken::NoWakeAtBudget && spent);
        self.done = up.is_ready() && down.is_ready();
    }

    fn sign(&mut self) -> Sign {
        let side = |end: &mut E| {
            let kept = end.kept();
            let wire = end.wire();
            let flags = [wire.fin_arrived, wire.fin_written, wire.full, wire.edges[0], wire.edges[1]];
            let more = [wire.ready[0], wire.ready[1], wire.waiting[0], wire.waiting[1], wire.closed];
            let lengths = [wire.coming.len(), wire.arrived.len(), wire.written.len(), wire.taken.len()];
            let flags = flags.iter().chain(&more).map(|flag| usize::from(*flag));
            lengths.into_iter().chain(kept).chain(flags).collect()
        };
        let lane = |lane: &Lane| {
            let state = match lane.state {
                State::Open => 0,
                State::Parting => 1,
                State::Ending => 2,
                State::Ended => 3,
                State::Broken => 4,
            };
            (lane.kept.rest().len(), lane.unflushed, state)
        };
        let lanes = [lane(&self.to_backend), lane(&self.to_client)];
        ([side(&mut self.client), side(&mut self.backend)], lanes, self.woken)
    }

    /// Panics if the task sleeps although it could do something.
    fn sleeps_well(&self, explorer: &mut Explorer, how: &str) {
        let mut woken = self.clone();
        if self.woken || self.done || (0..2).any(|which| woken.wire(which).is_about_to_wake()) {
            return;
        }
        let before = woken.sign();
        ORACLE.set(Oracle::USUAL);
        woken.poll(explorer);
        let after = woken.sign();
        assert_eq!(before, after, "the task sleeps and could go on, {how}");
    }

    /// Panics if not everything has arrived.
    fn is_whole(&self, size: Size) {
        assert!(self.done, "nobody can do anything more");
        let [up, down] = size.frames.map(|frames| (FRAME.repeat(frames), true));
        assert!(self.client.heard(Role::Server) == down && self.backend.heard(Role::Client) == up, "bytes are missing");
    }

    /// Every state behind this one, each with the step.
    fn next(&self, explorer: &mut Explorer) -> Vec<(Step, Self)> {
        let mut all = Vec::new();
        if self.woken && !self.done {
            let mut oracle = Oracle::USUAL;
            loop {
                ORACLE.set(oracle);
                let mut next = self.clone();
                next.poll(explorer);
                all.push((Step::Poll, next));
                oracle = ORACLE.replace(Oracle::USUAL);
                if !oracle.next(explorer.size.oddities) {
                    break;
                }
            }
        }
        for which in 0..2 {
            let mut try_step = |step, act: &dyn Fn(&mut Wire) -> (bool, bool)| {
                let mut next = self.clone();
                let (did, woke) = act(next.wire(which));
                next.woken |= woke;
                if did {
                    all.push((step, next));
                }
            };
            try_step(Step::Turn, &|wire| (wire.edges != [false; 2], wire.turn()));
            try_step(Step::Arrive, &|wire| (wire.arrive(), false));
            try_step(Step::Leave, &|wire| (wire.leave(), false));
        }
        all
    }
}

/// Explores everything: how many states there are.
fn explore<E: End>(size: Size, broken: Broken) -> usize {
    SPACE.set(vec![0; size.space].into());
    let stats = Stats::create().unwrap().1;
    let mut explorer = Explorer { broken, size, stats, slot: Slot::new(0) };
    let mut seen = HashSet::new();
    let mut todo = vec![World::<E>::new(size, broken)];
    while let Some(world) = todo.pop() {
        let next = world.next(&mut explorer);
        if next.is_empty() {
            world.is_whole(size);
        }
        for (step, mut next) in next {
            if seen.insert(next.sign()) {
                next.sleeps_well(&mut explorer, &format!("behind {step:?}"));
                todo.push(next);
            }
        }
    }
    seen.len()
}

const TLS: Size = Size { frames: [1, 1], piece: 25, space: 64, budget: 64, oddities: 1 };

#[test]
fn a_pair_between_tls_never_sleeps_while_it_could_go_on() {
    for size in [
        TLS,
        Size { frames: [1, 0], piece: 17, budget: 1, ..TLS },
        Size { frames: [0, 1], piece: 30, space: 1, budget: 2, ..TLS },
    ] {
        assert!(explore::<UserTls<Wire>>(size, Broken::Nothing) > 5000);
    }
}

#[test]
fn neither_does_a_plain_one() {
    for (piece, space, budget) in [(2, 64, 1), (3, 2, 3)] {
        let size = Size { frames: [2, 1], piece, space, budget, oddities: 1 };
        assert!(explore::<Wire>(size, Broken::Nothing) > 1000);
    }
}

#[test]
#[should_panic(expected = "the task sleeps and could go on")]
fn a_lane_that_does_not_wake_itself_would_be_noticed() {
    explore::<UserTls<Wire>>(Size { budget: 1, ..TLS }, Broken::NoWakeAtBudget);
}

#[test]
#[should_panic(expected = "nobody can do anything more")]
fn a_socket_that_does_not_say_that_it_has_room_would_be_noticed() {
    explore::<UserTls<Wire>>(TLS, Broken::NoWakeForWriters);
}

#[test]
#[should_panic(expected = "nobody can do anything more")]
fn an_edge_that_is_cleared_would_be_noticed() {
    explore::<UserTls<Wire>>(TLS, Broken::NoTicks);
}
