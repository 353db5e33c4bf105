//! The relay: every pair that the keeper holds, whatever carries it.
//!
//! A pair begins in the [`copy`] engine, which delivers what was read ahead during the handshakes. Once nothing is
//! under way in either direction it enters the [`sockmap`] engine, if there is one. A pair with TLS keys in the kernel
//! on either side stays: its sockets can never enter a sockmap. Its engine is called `ktls`. So does a pair with a Unix
//! socket on either side.

mod closing;
mod copy;
mod leave;
mod linger;
mod parting;
mod patrol;
mod sockmap;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use proxy_common::layout::{DirCounters, Direction, PairCounters, index};
use proxy_common::scan::Scanner;
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt;

use super::closer::Closer;
use super::pair::{Closing, Flow, Pair, ends};
use super::pump::Spill;
use super::reactor::{Reactor, Source};
use super::snapshot::Taking;
use super::table::{Round, Table};
use super::timers::{Reason, Timers};
use crate::config::{Ages, Config};
use crate::handoff::close::{self, CloseCounts};
use crate::handoff::{ByEngine, EndReason, Engine, NewPair, TALLIES, Tally, ToGate, WhyNot, add_to_engine, wire};
use crate::kernel::Kernel;
use crate::ktls::Progress;
use crate::sys::clock::now_coarse_ns;
use crate::sys::mapped::{MappedArray, Slot};
use crate::sys::patience::Patience;
use crate::sys::socket;
use linger::Lingering;
use patrol::Patrol;

/// The buffer that all pairs share, in bytes: what one system call moves at most, and so what one congested direction
/// may hold in userspace.
const BUFFER: usize = 64 * 1024;

/// Bytes that one direction may move when something has happened to it, before the others get their turn: more than
/// quiet connections ever have at once.
const FIRST_TURN: usize = BUFFER / 4;

/// Bytes that a direction that has more may move each further time.
const TURN: usize = BUFFER;

/// Directions that have more which get a turn before new events are looked at, so that these wait for 512 KiB at most.
const TURNS: usize = 8;

/// Timers that are looked at before new events are.
const TIMERS: usize = 256;

/// How long to wait before a socket is offered to the `epoll` again that it has refused.
const WATCH_RETRY: Duration = Duration::from_millis(100);

/// Every pair, and what carries them.
pub(super) struct Relay {
    pub(super) table: Table,
    pub(super) reactor: Reactor,
    pub(super) kernel: Option<Kernel>,
    /// The counters' place where there is no kernel program.
    own_counters: Option<MappedArray<DirCounters>>,
    pub(super) why_not: Option<WhyNot>,
    timers: Timers,
    /// Directions that have more to do: slot, generation, direction.
    again: VecDeque<(u32, u32, Direction)>,
    buffer: Vec<u8>,
    limits: Limits,
    patrol: Patrol,
    /// All pairs are being told to end.
    farewells: Option<Round>,
    /// The snapshot that is being taken.
    pub(super) snapshot: Option<Taking>,
    lingering: Lingering,
    pub(super) closer: Closer,
    pub(super) ended: Ended,
}

struct Limits {
    /// By the index of the route.
    ages: Vec<Ages>,
    keepalive: Duration,
    user_timeout: Duration,
}

/// What the pairs that have ended had counted.
#[derive(Default)]
pub(super) struct Ended {
    /// By engine, in the order of [`Engine::ALL`].
    pub(super) counters: ByEngine,
    /// By reason, in the order of [`EndReason::ALL`].
    pub(super) reasons: [u64; EndReason::ALL.len()],
    /// The last Close frame of each direction. Not those of live pairs: another one may follow with another code.
    pub(super) close_codes: CloseCounts,
    /// Moves of directions to user mode.
    pub(super) flips: u64,
    /// Pairs that have ended and that the gate has not been told of.
    pub(super) unreported: Vec<Tally>,
    /// The most of them. A gate opens no pair in the place of another before it is told that the other has ended.
    most: usize,
}

impl Ended {
    /// A pair is no more, which the gate must be told.
    pub(super) fn left(&mut self, tally: Tally) {
        if self.unreported.len() < self.most {
            self.unreported.push(tally);
        }
    }

    /// Tells the gate as much of what it has not been told as it takes now.
    pub(super) fn report(&mut self, control: &OwnedFd) {
        while !self.unreported.is_empty() {
            let rest = self.unreported.len().saturating_sub(TALLIES);
            let pairs = self.unreported.get(rest..).unwrap_or_default().to_vec();
            if wire::send(control, &ToGate::Closed { pairs }, &[]).is_err() {
                return;
            }
            self.unreported.truncate(rest);
        }
        self.unreported.shrink_to_fit();
    }

    /// Adds what one pair counted, of which `copied` bytes by `copy` before its engine.
    pub(super) fn add(&mut self, engine: Engine, reason: EndReason, counted: &[DirCounters; 2], copied: [u64; 2]) {
        if let Some(count) = self.reasons.get_mut(reason as usize) {
            *count += 1;
        }
        add_to_engine(&mut self.counters, engine, counted, copied);
        for (mine, direction) in counted.iter().zip(Direction::ALL) {
            if let Some(place) = close::place(mine.close_code) {
                self.close_codes[direction as usize][place] += 1;
            }
        }
    }
}

impl Relay {
    pub(super) fn new(
        config: &Config,
        capacity: u32,
        kernel: Option<Kernel>,
        why_not: Option<WhyNot>,
        reactor: Reactor,
        closer: Closer,
    ) -> io::Result<Self> {
        let own_counters = match kernel {
            Some(_) => None,
            None => Some(MappedArray::anonymous(capacity as usize * 2)?),
        };
        Ok(Self {
            table: Table::new(capacity),
            reactor,
            kernel,
            own_counters,
            why_not,
            timers: Timers::default(),
            again: VecDeque::new(),
            buffer: vec![0; BUFFER],
            limits: Limits {
                ages: (0..).take(config.routes.len()).map(|route| config.ages(route)).collect(),
                keepalive: config.relay.keepalive,
                user_timeout: config.relay.user_timeout,
            },
            patrol: Patrol::new(config.relay.user_timeout, Instant::now()),
            farewells: None,
            snapshot: None,
            lingering: Lingering::default(),
            closer,
            ended: Ended { most: capacity as usize, ..Ended::default() },
        })
    }

    /// The engine that a new pair is meant for.
    pub(super) fn engine(&self) -> Engine {
        if self.kernel.is_some() { Engine::Sockmap } else { Engine::Copy }
    }

    pub(super) fn counters(&self) -> Option<&MappedArray<DirCounters>> {
        self.kernel.as_ref().map(|kernel| &kernel.counters).or(self.own_counters.as_ref())
    }

    /// Takes a pair over. If it cannot, both sockets are closed, which both sides see.
    pub(super) fn open(&mut self, new: NewPair, sockets: [OwnedFd; 2], now: Instant) {
        let cookies = [0, 1].map(|side: usize| sockopt::socket_cookie(&sockets[side]).unwrap_or(0));
        let connections = [0, 1].map(|side: usize| self.table.connections.of(sockets[side].as_fd()));
        let unix = [0, 1].map(|side: usize| socket::is_unix(&sockets[side]));
        let mut flows = unix.map(|unix| Flow { patience: Patience::of(!unix), ..Flow::default() });
        for (socket, unix) in sockets.iter().zip(unix) {
            if let Err(error) = self.prepare(socket, unix) {
                tracing::warn!(conn = %new.facts.id, %error, "cannot set keepalive on a relayed socket");
            }
        }
        let mut scanners = Box::new([Scanner::START; 2]);
        let leftovers = [new.to_backend, new.to_client];
        let (id, tally) = (new.facts.id, Tally::from(&new.facts));
        let generation = self.table.next_generation();
        let mut counted = PairCounters::ZERO;
        let halves = flows.iter_mut().zip(scanners.iter_mut()).zip(leftovers).zip(&mut counted.dirs);
        for (((flow, scanner), bytes), counters) in halves {
            scanner.feed(&bytes, counters);
            flow.spill = Spill::of(bytes);
        }
        let legs = new.tls.map(|leg| leg.map(Box::new));
        let (tls, unix) = (legs.iter().any(Option::is_some), unix.contains(&true));
        let why_not = if unix { Some(WhyNot::UnixSocket) } else { self.why_not };
        let pair = Pair {
            facts: new.facts,
            sockets,
            legs,
            cookies,
            connections,
            flows,
            scanners: Some(scanners),
            generation,
            engine: if tls { Engine::Ktls } else { Engine::Copy },
            copied: [0; 2],
            why_not: why_not.filter(|_| !tls),
            promote: self.kernel.is_some() && !tls && !unix,
            in_maps: false,
            closing: None,
            reason: EndReason::Finished,
            opened: now,
            closing_polls: 0,
            watched: [EventFlags::empty(); 2],
        };
        let Some(slot) = self.table.insert(Box::new(pair)) else {
            self.ended.left(tally);
            tracing::error!(conn = %id, "the table of pairs is full; a pair was dropped");
            return;
        };
        self.count_leftovers(slot, &counted);
        self.set_limit_timer(slot, now);
        self.set_expiry_timer(slot, now);
        self.settle(slot);
        for direction in Direction::ALL {
            self.drive(slot, direction);
        }
    }

    fn prepare(&self, socket: &OwnedFd, unix: bool) -> io::Result<()> {
        rustix::io::ioctl_fionbio(socket, true)?;
        if unix {
            socket::take_no_descriptors(socket);
            // What follows is TCP's. The peer of a Unix socket cannot die without the kernel's telling.
            return Ok(());
        }
        socket::prepare_for_messages(socket)?;
        socket::watch_for_death(socket, self.limits.keepalive, self.limits.user_timeout)
    }

    fn count_leftovers(&self, slot: u32, counted: &PairCounters) {
        if let Some(counters) = self.counters() {
            for (direction, add) in Direction::ALL.into_iter().zip(&counted.dirs) {
                if add.bytes > 0 {
                    counters.update(&mut Slot::new(index(slot, direction)), |mine| mine.add(add));
                }
            }
        }
    }

    /// What happened on a socket.
    pub(super) fn on_socket(&mut self, at: u32, generation: u32, flags: EventFlags) {
        let (slot, side) = (at / 2, Direction::from_index(at & 1));
        let Some(pair) = self.table.get_mut(slot) else { return };
        if !Source::is_of(generation, pair.generation) {
            return;
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            pair.flow_mut(side).ending = true;
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.visit(slot, side);
        }
        if flags.intersects(EventFlags::OUT) {
            self.visit(slot, side.reverse());
        }
        let Some(pair) = self.table.get(slot) else { return };
        if flags.contains(EventFlags::ERR) && Source::is_of(generation, pair.generation) && pair.closing.is_none() {
            // Reading has not shown the failure, because the other side takes nothing at present.
            self.fail(slot, side);
        }
    }

    /// Something has happened to a direction: drives it, unless it gets its turn anyway. One that always has much to move
    /// waits for that, so that hundreds of them do not hold up what comes with the same events.
    fn visit(&mut self, slot: u32, direction: Direction) {
        let Some(pair) = self.table.get(slot) else { return };
        let flow = pair.flow(direction);
        if flow.heavy {
            self.again(slot, direction);
        } else if !flow.queued {
            self.drive(slot, direction);
        }
    }

    /// Moves some of what there is to move in one direction, and takes note of ends.
    pub(super) fn drive(&mut self, slot: u32, direction: Direction) {
        self.drive_for(slot, direction, FIRST_TURN);
    }

    fn drive_for(&mut self, slot: u32, direction: Direction, most: usize) {
        let Some(pair) = self.table.get(slot) else { return };
        if pair.in_maps {
            self.drive_sockmap(slot, direction, most);
        } else {
            self.drive_copy(slot, direction, most);
        }
    }

    /// A direction has more to do, after the others.
    fn again(&mut self, slot: u32, direction: Direction) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        let generation = pair.generation;
        let flow = pair.flow_mut(direction);
        flow.heavy = true;
        if !std::mem::replace(&mut flow.queued, true) {
            self.again.push_back((slot, generation, direction));
        }
    }

    /// Gives some of the directions that have more to do a turn.
    fn go_on(&mut self) {
        for _ in 0..self.again.len().min(TURNS) {
            let Some((slot, generation, direction)) = self.again.pop_front() else { return };
            let Some(pair) = self.table.get_mut(slot).filter(|pair| pair.generation == generation) else { continue };
            pair.flow_mut(direction).queued = false;
            self.drive_for(slot, direction, TURN);
        }
    }

    /// A direction's source has ended and all before its end has been accepted by the target: FIN.
    fn shut(&mut self, slot: u32, direction: Direction) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        // A side that is to get an RST gets no FIN before it.
        if pair.flow(direction).shut || matches!(pair.closing, Some(Closing::Reset { .. })) {
            return;
        }
        if !self.may_shut(slot, direction) {
            return;
        }
        let Some(pair) = self.table.get_mut(slot) else { return };
        let (_, target) = ends(&pair.sockets, &mut pair.legs, direction);
        if let Some(leg) = target.leg {
            match leg.finish(target.socket) {
                Ok(Progress::Full) => return,
                Ok(Progress::Draining) => return self.poll_drain(slot, direction),
                // A target that fails has its own event.
                Ok(Progress::Done) | Err(_) => {}
            }
        }
        pair.flow_mut(direction).shut = true;
        // It fails if the target is gone already, which its own event tells.
        let _ = rustix::net::shutdown(pair.target(direction), rustix::net::Shutdown::Write);
        if pair.both_shut() && pair.closing.is_none() {
            self.finish(slot);
        } else {
            self.shut_at_last(slot, direction.reverse());
        }
    }

    /// Tells the `epoll` what to watch now, if it has changed.
    fn settle(&mut self, slot: u32) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        for side in Direction::ALL {
            let (wanted, watched) = (pair.wanted(side), pair.watched[side as usize]);
            if wanted == watched {
                continue;
            }
            let source = Source::Socket { index: index(slot, side), generation: pair.generation };
            let result = if watched.is_empty() {
                self.reactor.add(pair.source(side), source, wanted)
            } else {
                self.reactor.modify(pair.source(side), source, wanted)
            };
            match result {
                Ok(()) => pair.watched[side as usize] = wanted,
                Err(error) => {
                    tracing::warn!(conn = %pair.facts.id, %error, "cannot watch a relayed socket; trying again");
                    let timer = (slot, Reason::Watch);
                    self.timers.set(Instant::now() + WATCH_RETRY, timer);
                }
            }
        }
    }

    /// How long the keeper may sleep.
    pub(super) fn sleep(&self, now: Instant) -> Option<Duration> {
        if !self.again.is_empty() || self.farewells.is_some() || self.snapshot.is_some() {
            return Some(Duration::ZERO);
        }
        let patrol = (self.table.live() > 0).then(|| self.patrol.next(now));
        [self.timers.next(now), patrol, self.lingering.next()].into_iter().flatten().min()
    }

    /// Gives every direction that has more to do one turn, and looks at every timer that is due.
    pub(super) fn turn(&mut self, now: Instant) {
        self.go_on();
        self.patrol(now);
        self.go_on_with_farewells(now);
        self.lingering.look(now, &self.closer);
        for _ in 0..TIMERS {
            let Some((slot, reason)) = self.timers.due(now) else { return };
            match reason {
                Reason::Drain => self.on_drain_timer(slot),
                Reason::Closing => self.on_closing_timer(slot, now),
                Reason::Limit => self.on_limit(slot, now),
                Reason::Expiry => self.farewell(slot, EndReason::TokenExpired, now),
                Reason::Watch => self.settle(slot),
            }
        }
    }

    fn set_timer(&mut self, slot: u32, at: Instant, reason: Reason) {
        if self.table.get(slot).is_some() {
            self.timers.set(at, (slot, reason));
        }
    }

    fn set_limit_timer(&mut self, slot: u32, now: Instant) {
        let Ages { idle, lifetime } = self.ages(slot);
        let next = [idle, lifetime].into_iter().flatten().min();
        if let Some(after) = next {
            self.set_limit(slot, now, after);
        }
    }

    fn set_expiry_timer(&mut self, slot: u32, now: Instant) {
        let left = self.table.get(slot).and_then(|pair| pair.facts.time_left(SystemTime::now()));
        // An end beyond what the clock can say is none.
        if let Some(at) = left.and_then(|left| now.checked_add(left)) {
            self.set_timer(slot, at, Reason::Expiry);
        }
    }

    /// The limits on a pair's silence and age.
    fn ages(&self, slot: u32) -> Ages {
        let route = self.table.get(slot).map(|pair| usize::from(pair.facts.route));
        route.and_then(|route| self.limits.ages.get(route)).copied().unwrap_or_default()
    }

    /// A limit beyond what the clock can say is none.
    fn set_limit(&mut self, slot: u32, now: Instant, after: Duration) {
        if let Some(at) = now.checked_add(after) {
            self.set_timer(slot, at, Reason::Limit);
        }
    }

    /// The idle or the lifetime limit may have been reached.
    fn on_limit(&mut self, slot: u32, now: Instant) {
        let Some(pair) = self.table.get(slot) else { return };
        if pair.closing.is_some() {
            return;
        }
        let age = now.saturating_duration_since(pair.opened);
        let (ages, idle) = (self.ages(slot), self.idle_for(slot).map_or(age, |idle| idle.min(age)));
        let left = |limit: Option<Duration>, used: Duration| limit.map(|limit| limit.saturating_sub(used));
        let (idle_left, life_left) = (left(ages.idle, idle), left(ages.lifetime, age));
        let reason = if life_left == Some(Duration::ZERO) {
            EndReason::Lifetime
        } else if idle_left == Some(Duration::ZERO) {
            EndReason::Idle
        } else {
            if let Some(after) = [idle_left, life_left].into_iter().flatten().min() {
                self.set_limit(slot, now, after);
            }
            return;
        };
        self.farewell(slot, reason, now);
    }

    /// Since when no byte has come in either direction; `None` when none has come at all.
    fn idle_for(&self, slot: u32) -> Option<Duration> {
        let counters = self.counters()?;
        let last = Direction::ALL.map(|direction| counters.read(index(slot, direction)).last_activity_ns);
        let last = last.into_iter().max().filter(|last| *last > 0)?;
        Some(Duration::from_nanos(now_coarse_ns().saturating_sub(last)))
    }
}
