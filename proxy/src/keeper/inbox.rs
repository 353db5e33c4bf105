//! What the gate says. Nothing of it is believed before it has been looked at: a gate that says what none of ours would
//! is ended, and replaced.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::admit::{self, Violation};
use super::serve::Keeper;
use crate::handoff::wire::{self, Packet, Received};
use crate::handoff::{Facts, Found, NewPair, Snapshot, Tally, ToGate, ToKeeper};
use crate::sys::socket;

/// Messages of the gate that are read before the pairs get their turn.
const GATE_TURN: usize = 64;

/// Of the keeper's time, snapshots may take one part in so many.
const SNAPSHOT_SHARE: u32 = 10;

/// How often to say that pairs are dropped.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How far the gate's messages have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// There may be more.
    More,
    /// There is nothing more now.
    Empty,
    /// There will be nothing more.
    Closed,
}

/// What the gate waits for: the last snapshot that it has asked for.
#[derive(Debug)]
pub(super) struct Asked {
    request: Option<u64>,
    /// Not before this.
    due: Instant,
    /// What the snapshot that is being taken has cost so far.
    spent: Duration,
}

impl Asked {
    pub(super) fn new(now: Instant) -> Self {
        Self { request: None, due: now, spent: Duration::ZERO }
    }

    /// How long until a snapshot may be taken, if one is wanted.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.request.map(|_| self.due.saturating_duration_since(now))
    }

    pub(super) fn forget(&mut self) {
        self.request = None;
    }
}

impl Keeper {
    /// Reads what the gate has sent, so much that pairs need not wait.
    pub(super) fn read_gate(&mut self) -> Drained {
        // The socket stays readable, so that what is left comes with the next turn.
        for _ in 0..GATE_TURN {
            let Some(control) = self.gate.control() else { return Drained::Closed };
            if !self.gate.is_trusted() {
                return Drained::Closed;
            }
            if !self.relay.closer.has_room() {
                self.pause();
                return Drained::More;
            }
            let received = match wire::receive::<ToKeeper>(control, &mut self.buffer) {
                Ok(Received::Packet(packet)) => self.on_message(packet),
                Ok(Received::Short(packet)) => self.on_short(packet),
                Ok(Received::Garbage(fds)) => {
                    self.close_all(fds);
                    Err(Violation("what is no message"))
                }
                Ok(Received::Closed) => return Drained::Closed,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Drained::Empty,
                    // Told once, ahead of what a gate that has ended had sent, if it ended with something unread.
                    io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => Ok(()),
                    _ => return Drained::Closed,
                },
            };
            if let Err(Violation(what)) = received {
                tracing::error!(what, "the gate sent what no gate of ours sends; it is ended, and another started");
                self.gate.distrust(Instant::now());
                return Drained::Closed;
            }
        }
        Drained::More
    }

    fn close_all(&self, fds: Vec<OwnedFd>) {
        fds.into_iter().for_each(|fd| self.relay.closer.close(fd));
    }

    fn on_message(&mut self, packet: Packet<ToKeeper>) -> Result<(), Violation> {
        let Packet { message, fds } = packet;
        if let ToKeeper::Pair(pair) = message {
            return self.on_pair(*pair, fds);
        }
        if !fds.is_empty() {
            self.close_all(fds);
            return Err(Violation("descriptors with a message that has none"));
        }
        match message {
            ToKeeper::Pair(_) => Ok(()),
            ToKeeper::Ready => self.on_ready(),
            ToKeeper::CarriedOpen { slot, facts, why_not } => {
                admit::must(self.known(&facts), "a route or server that does not exist")?;
                admit::must(self.carried.open(slot, facts, why_not), "a pair of its own in a place that it has not")
            }
            ToKeeper::CarriedClosed { slot, counters, reason } => {
                self.carried.close(slot, &counters, reason, &mut self.relay.ended);
                Ok(())
            }
            ToKeeper::Reloaded { reload, ok } => {
                self.files.answered(reload, ok);
                Ok(())
            }
            ToKeeper::Found(found) => self.on_found(found),
            ToKeeper::Checked { backend, server, up } => {
                admit::must(self.has_server(backend, server), "a check of a server that does not exist")?;
                match up {
                    true => self.down.remove(&(backend, server)),
                    false => self.down.insert((backend, server)),
                };
                Ok(())
            }
            ToKeeper::Snapshot { request } => {
                self.asked.request = Some(request);
                Ok(())
            }
            ToKeeper::Pong { number } => {
                let answers = self.gate.heartbeat().is_none_or(|(_, heartbeat)| heartbeat.answered(number));
                admit::must(answers, "an answer to what it was not asked")
            }
        }
    }

    fn on_ready(&mut self) -> Result<(), Violation> {
        admit::must(self.gate.is_ready(), "that it is ready, again")?;
        let addresses = self.listeners.clients.iter().map(|listener| listener.address.to_string());
        let addresses = addresses.collect::<Vec<_>>().join(" ");
        tracing::info!(listening = addresses, starts = self.gate.starts, "ready");
        Ok(())
    }

    fn on_found(&mut self, found: Found) -> Result<(), Violation> {
        admit::must(found.is_sane(&self.config), "a server of a backend that does not exist")?;
        let (index, address) = ((found.backend, found.server), found.address);
        let before = self.found.insert(index, found);
        // Another server has its place.
        if before.is_some_and(|before| before.address != address) {
            self.down.remove(&index);
        }
        Ok(())
    }

    fn on_pair(&mut self, pair: NewPair, fds: Vec<OwnedFd>) -> Result<(), Violation> {
        let checked = admit::must(self.known(&pair.facts), "a pair of a route or server that does not exist")
            .and_then(|()| admit::pair(&pair, &fds, &self.relay.table, &self.listeners));
        if checked.is_err() {
            self.close_all(fds);
            return checked;
        }
        match <[OwnedFd; 2]>::try_from(fds) {
            Ok(sockets) if admit::leads_back(&sockets[1], &self.listeners) => {
                let why =
                    "its server is a Unix listener of this configuration: let the route name the backend behind it";
                self.turn_away(&pair, sockets.into(), why);
            }
            Ok(sockets) if self.relay.table.has_room() => self.relay.open(pair, sockets, Instant::now()),
            Ok(sockets) => self.turn_away(&pair, sockets.into(), "the table of pairs is full"),
            Err(_) => {}
        }
        Ok(())
    }

    /// The keeper had no room for descriptors that came with a message: it is as if the pair had ended at once.
    fn on_short(&mut self, packet: Packet<ToKeeper>) -> Result<(), Violation> {
        let ToKeeper::Pair(pair) = packet.message else {
            self.close_all(packet.fds);
            return Err(Violation("descriptors with a message that has none"));
        };
        self.turn_away(&pair, packet.fds, "no file descriptors are left: raise the limit on open files");
        Ok(())
    }

    /// A pair cannot be taken through no fault of the gate's. Its place is free again.
    fn turn_away(&mut self, pair: &NewPair, fds: Vec<OwnedFd>, why: &'static str) {
        self.close_all(fds);
        self.relay.ended.left(Tally::from(&pair.facts));
        let now = Instant::now();
        if self.said_dropped.is_none_or(|at| now.saturating_duration_since(at) >= SAY_AGAIN) {
            self.said_dropped = Some(now);
            tracing::error!(conn = %pair.facts.id, why, "a new pair was dropped");
        }
    }

    /// Whether the indices are of things that exist.
    fn known(&self, facts: &Facts) -> bool {
        usize::from(facts.listener) < self.config.listeners.len()
            && usize::from(facts.route) < self.config.routes.len()
            && self.has_server(facts.backend, facts.server)
    }

    fn has_server(&self, backend: u16, server: u16) -> bool {
        let settings = self.config.backends.get(usize::from(backend));
        settings.is_some_and(|settings| usize::from(server) < settings.servers.len())
            || self.found.contains_key(&(backend, server))
    }

    /// Goes on with the snapshot that the gate has asked for, and sends it when it is complete. One is on its way at a time:
    /// it is memory, and whoever asks for many and reads none would have all of it.
    pub(super) fn answer_snapshot(&mut self, now: Instant) {
        let begun = self.begin_snapshot(now);
        if begun.is_ok() && self.relay.snapshot.is_none() {
            return;
        }
        let taken = begun.and_then(|()| self.relay.go_on_with_snapshot());
        let after = Instant::now();
        self.asked.spent += after.saturating_duration_since(now);
        if matches!(taken, Ok(None)) && self.relay.snapshot.is_some() {
            return;
        }
        self.asked.due = after + std::mem::take(&mut self.asked.spent) * (SNAPSHOT_SHARE - 1);
        let sent = taken.and_then(|taken| match (taken, self.gate.listening()) {
            (Some((request, file)), Some(control)) => {
                wire::send(control, &ToGate::Snapshot { request }, &[file.as_fd()])
            }
            _ => Ok(()),
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "cannot answer the gate's question for the live pairs");
        }
    }

    /// Begins with the snapshot that the gate has asked for, if none is being taken and it is time to.
    fn begin_snapshot(&mut self, now: Instant) -> io::Result<()> {
        let (None, Some(control)) = (&self.relay.snapshot, self.gate.listening()) else { return Ok(()) };
        if now < self.asked.due || socket::unacknowledged(control).unwrap_or(0) > 0 {
            return Ok(());
        }
        let Some(request) = self.asked.request.take() else { return Ok(()) };
        let rest = Snapshot {
            found: self.found.values().cloned().collect(),
            gate_starts: self.gate.starts,
            reloads: self.files.reloads,
            slow_turns: self.slow.count,
            ..Snapshot::default()
        };
        self.relay.begin_snapshot(request, &self.carried, rest)
    }
}
