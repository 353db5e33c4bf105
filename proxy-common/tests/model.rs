//! Explores the flow-control rules exhaustively: every interleaving of a small world.
//!
//! The world is one direction of one pair: a source that sends numbered bytes, the verdict, the kernel worker's queue
//! in front of the target's TCP, the target's TCP with little room, its reader, and userspace with its sleeping,
//! draining, reading and partial writing. Every step that another actor can see in between is a step of its own: the
//! verdict reads `forwarded` long before it acts, and looks again after it has counted; userspace reads its look at
//! the verdict's state in one step and acts on it in later ones.
//!
//! What must hold in every state: the target takes byte 0, 1, 2, … and no other; the kernel queue stays within its
//! limit. And from every state the world can reach the end with every byte delivered: nothing wedges. The last needs
//! no fairness, for a state from which no path leads to the end is a deadlock or a livelock.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{HashMap, HashSet, VecDeque};

use proxy_common::flow::{self, Decision, Target};
use proxy_common::layout::{MODE_KERNEL, MODE_USER};

/// What userspace is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum User {
    /// Waits for a wake-up.
    Asleep,
    /// About to look at the verdict's state.
    Awake,
    /// Looked: `redirected` and `passed` as they were.
    Looked { redirected: u8, passed: u8 },
    /// Found the target drained for this look: may move up to `passed - forwarded`.
    Drained { redirected: u8, passed: u8 },
}

/// What the verdict is doing with the segment that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Verdict {
    Idle,
    /// Read `forwarded` and the target's state; has not acted.
    Read {
        forwarded: u8,
        room: bool,
    },
    /// Counted the segment as passed; has not looked whether to wake.
    Counted {
        before: u8,
    },
    /// Looked; the segment itself is not queued yet (the kernel does that when the program has returned).
    Queue,
    /// Decided to redirect; the segment is not queued yet.
    Redirect,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// The next byte that the source sends.
    next: u8,
    verdict: Verdict,
    mode: u32,
    redirected: u8,
    passed: u8,
    forwarded: u8,
    wake: bool,
    user: User,
    /// Redirected bytes that the kernel worker has not written yet.
    queue: VecDeque<u8>,
    /// Passed bytes that userspace has not read yet.
    ingress: VecDeque<u8>,
    /// A byte that userspace has read and the target has refused.
    spill: Option<u8>,
    /// Bytes in the target's TCP that its reader has not taken.
    tcp: VecDeque<u8>,
    /// All that the target's TCP has accepted.
    accepted: u8,
}

/// The world's sizes: few bytes, a small backlog, a smaller target.
#[derive(Clone, Copy)]
struct Size {
    bytes: u8,
    backlog: u8,
    tcp: u8,
}

/// Rules that can be broken on purpose, to see that the exploration would notice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Userspace does not wait until the target has accepted what was redirected.
    NoDrain,
    /// The verdict returns to kernel mode as soon as there is room.
    EagerReturn,
    /// The verdict decides on waking with the `forwarded` that it read at its start.
    StaleWake,
    /// Userspace sleeps when it has moved what it knew of, without looking again after it has published that.
    NoSecondLook,
    /// Userspace reads whatever is there, not only what it knew to be passed when it found the target drained.
    ReadBeyond,
}

impl World {
    fn new() -> Self {
        Self {
            next: 0,
            verdict: Verdict::Idle,
            mode: MODE_KERNEL,
            redirected: 0,
            passed: 0,
            forwarded: 0,
            wake: false,
            user: User::Asleep,
            queue: VecDeque::new(),
            ingress: VecDeque::new(),
            spill: None,
            tcp: VecDeque::new(),
            accepted: 0,
        }
    }

    fn done(&self, size: Size) -> bool {
        self.next == size.bytes && self.accepted == size.bytes && self.tcp.is_empty() && self.verdict == Verdict::Idle
    }

    /// Every world that one step of one actor leads to.
    fn steps(&self, size: Size, broken: Broken) -> Vec<Self> {
        let mut next = Vec::new();
        self.verdict_steps(size, broken, &mut next);
        self.user_steps(size, broken, &mut next);
        self.target_steps(size, &mut next);
        next
    }

    /// Each "segment" is one byte: sizes do not matter to the order of events.
    fn verdict_steps(&self, size: Size, broken: Broken, next: &mut Vec<Self>) {
        match self.verdict {
            Verdict::Idle if self.next < size.bytes => {
                let mut w = self.clone();
                w.verdict = Verdict::Read { forwarded: self.forwarded, room: self.room(size) };
                next.push(w);
            }
            Verdict::Idle => {}
            Verdict::Read { forwarded, room } => next.push(self.decided(forwarded, room, broken)),
            Verdict::Counted { before } => {
                let mut w = self.clone();
                if flow::must_wake(before.into(), self.forwarded.into()) {
                    w.wake = true;
                }
                w.verdict = Verdict::Queue;
                next.push(w);
            }
            Verdict::Queue => {
                let mut w = self.clone();
                w.ingress.push_back(self.next);
                w.next += 1;
                w.verdict = Verdict::Idle;
                next.push(w);
            }
            Verdict::Redirect => {
                let mut w = self.clone();
                w.queue.push_back(self.next);
                w.next += 1;
                w.verdict = Verdict::Idle;
                next.push(w);
            }
        }
    }

    fn decided(&self, forwarded: u8, room: bool, broken: Broken) -> Self {
        let mut w = self.clone();
        let seen = if broken == Broken::EagerReturn { self.passed } else { forwarded };
        match flow::decide(self.mode, self.passed.into(), seen.into(), false, room) {
            Decision::Redirect => {
                w.mode = MODE_KERNEL;
                w.redirected += 1;
                w.verdict = Verdict::Redirect;
            }
            Decision::Pass => {
                w.mode = MODE_USER;
                w.passed += 1;
                w.verdict = Verdict::Counted { before: self.passed };
                if broken == Broken::StaleWake {
                    w.wake |= flow::must_wake(self.passed.into(), forwarded.into());
                    w.verdict = Verdict::Queue;
                }
            }
        }
        w
    }

    /// The verdict's view of the target. The rule's byte costs are scaled away: a segment is one `PIECE` here.
    fn room(&self, size: Size) -> bool {
        let backlog = flow::backlog(self.redirected.into(), self.forwarded.into(), 7, 7 + u32::from(self.accepted));
        let scale = flow::PIECE + 1;
        let target =
            Target { backlog, queued: self.tcp.len() as u32 * scale, limit: u32::from(size.tcp) * scale, in_flight: 0 };
        flow::room(&target, backlog, 1, size.backlog.into())
    }

    fn user_steps(&self, size: Size, broken: Broken, next: &mut Vec<Self>) {
        match self.user {
            User::Asleep if self.wake => {
                let mut w = self.clone();
                (w.wake, w.user) = (false, User::Awake);
                next.push(w);
            }
            User::Asleep => {}
            User::Awake => {
                let mut w = self.clone();
                w.user = User::Looked { redirected: self.redirected, passed: self.passed };
                next.push(w);
            }
            User::Looked { redirected, passed } => next.push(self.looked(redirected, passed, broken)),
            User::Drained { redirected, passed } => self.move_one(redirected, passed, size, broken, next),
        }
    }

    fn looked(&self, redirected: u8, passed: u8, broken: Broken) -> Self {
        let mut w = self.clone();
        w.user = if passed == self.forwarded {
            User::Asleep
        } else if broken == Broken::NoDrain
            || flow::may_forward(redirected.into(), self.forwarded.into(), self.accepted.into())
        {
            User::Drained { redirected, passed }
        } else {
            // The drain timer: look again.
            User::Awake
        };
        w
    }

    /// Reads one byte if there is one, and writes it if the target takes it.
    fn move_one(&self, redirected: u8, passed: u8, size: Size, broken: Broken, next: &mut Vec<Self>) {
        let mut w = self.clone();
        let beyond = broken == Broken::ReadBeyond && !self.ingress.is_empty();
        if self.forwarded >= passed && !beyond && self.spill.is_none() {
            w.user = if broken == Broken::NoSecondLook { User::Asleep } else { User::Awake };
            next.push(w);
            return;
        }
        let Some(byte) = self.spill.or_else(|| w.ingress.pop_front()) else {
            // Counted, but not queued yet: readable soon.
            w.user = User::Awake;
            next.push(w);
            return;
        };
        if self.tcp.len() < usize::from(size.tcp) {
            w.spill = None;
            w.accept(byte);
            w.forwarded += 1;
            w.user = User::Drained { redirected, passed };
        } else {
            w.spill = Some(byte);
        }
        next.push(w);
    }

    fn target_steps(&self, size: Size, next: &mut Vec<Self>) {
        if let Some(byte) = self.queue.front()
            && self.tcp.len() < usize::from(size.tcp)
        {
            let mut w = self.clone();
            w.queue.pop_front();
            w.accept(*byte);
            next.push(w);
        }
        if !self.tcp.is_empty() {
            let mut w = self.clone();
            w.tcp.pop_front();
            next.push(w);
        }
    }

    fn accept(&mut self, byte: u8) {
        assert_eq!(byte, self.accepted, "the target got a byte out of order, twice, or not at all: {self:?}");
        self.accepted += 1;
        self.tcp.push_back(byte);
    }
}

/// Visits every reachable world. Returns how many there are, and panics where a rule does not hold.
fn explore(size: Size, broken: Broken) -> usize {
    let mut ids: HashMap<World, usize> = HashMap::from([(World::new(), 0)]);
    let mut worlds = vec![World::new()];
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let mut at = 0;
    while at < worlds.len() {
        let world = worlds[at].clone();
        assert!(world.queue.len() <= usize::from(size.backlog), "the backlog is over its limit: {world:?}");
        for next in world.steps(size, broken) {
            let id = *ids.entry(next.clone()).or_insert_with(|| {
                worlds.push(next);
                before.push(Vec::new());
                worlds.len() - 1
            });
            before[id].push(at);
        }
        at += 1;
    }
    all_reach_the_end(&worlds, &before, size);
    worlds.len()
}

fn all_reach_the_end(worlds: &[World], before: &[Vec<usize>], size: Size) {
    let mut good: HashSet<usize> = (0..worlds.len()).filter(|id| worlds[*id].done(size)).collect();
    let mut todo: Vec<usize> = good.iter().copied().collect();
    while let Some(id) = todo.pop() {
        for earlier in &before[id] {
            if good.insert(*earlier) {
                todo.push(*earlier);
            }
        }
    }
    if let Some(stuck) = (0..worlds.len()).find(|id| !good.contains(id)) {
        panic!("no path leads from here to the end: {:?}", worlds[stuck]);
    }
}

const SIZES: [Size; 4] = [
    Size { bytes: 4, backlog: 1, tcp: 1 },
    Size { bytes: 5, backlog: 2, tcp: 1 },
    Size { bytes: 5, backlog: 2, tcp: 3 },
    Size { bytes: 6, backlog: 3, tcp: 2 },
];

#[test]
fn every_interleaving_keeps_order_and_reaches_the_end() {
    for size in SIZES {
        let worlds = explore(size, Broken::Nothing);
        assert!(worlds > 100, "only {worlds} worlds were reached: the exploration is not one");
    }
}

/// The exploration notices each rule's absence: else its silence would mean nothing.
fn noticed(broken: Broken) -> bool {
    SIZES.iter().any(|size| std::panic::catch_unwind(|| explore(*size, broken)).is_err())
}

#[test]
fn without_the_drain_the_order_breaks() {
    assert!(noticed(Broken::NoDrain));
}

#[test]
fn without_the_wait_for_forwarded_the_order_breaks() {
    assert!(noticed(Broken::EagerReturn));
}

#[test]
fn waking_by_an_old_look_loses_a_wake_up() {
    assert!(noticed(Broken::StaleWake));
}

#[test]
fn sleeping_without_a_second_look_loses_a_wake_up() {
    assert!(noticed(Broken::NoSecondLook));
}

#[test]
fn reading_beyond_what_was_known_breaks_the_order() {
    assert!(noticed(Broken::ReadBeyond));
}
