//! The keeper's loop: waits, deals with what has happened, and looks after the gate.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::epoll::EventFlags;

use super::carried::Carried;
use super::closer::Closer;
use super::files::Files;
use super::gate_process::GateProcess;
use super::heartbeat::{Beat, EVERY};
use super::inbox::{Asked, Drained};
use super::listeners::Listeners;
use super::reactor::{Reactor, Source};
use super::relay::Relay;
use super::watch::SlowTurns;
use crate::config::Config;
use crate::handoff::stats::{Process, Stats};
use crate::handoff::wire;
use crate::handoff::{CookieKey, Found, Held, Hello, MAX_MESSAGE, Tally, ToGate, memory};
use crate::kernel::Kernel;
use crate::ktls::Ability;
use crate::logging;
use crate::sys::processes;
use crate::sys::signals::{self, Signals};

/// How long pairs may take to deliver what is in flight when Sluice is told to stop.
const FAREWELL: Duration = Duration::from_secs(6);

/// Events of the kernel program that are read before the others get their turn.
const EVENTS_TURN: usize = 256;

/// When to try again what waits for the gate to read.
const GATE_RETRY: Duration = Duration::from_millis(50);

/// When to look again whether descriptors have been closed, so that the gate can be read on: a close takes microseconds.
const CLOSE_RETRY: Duration = Duration::from_millis(5);

/// Everything that the keeper has.
pub(super) struct Keeper {
    pub(super) config: Config,
    capacity: u32,
    pub(super) ktls: Ability,
    secret: CookieKey,
    pub(super) files: Files,
    pub(super) listeners: Listeners,
    stats_file: OwnedFd,
    pub(super) carried: Carried,
    /// By backend and server.
    pub(super) found: BTreeMap<(u16, u16), Found>,
    /// The same, of those that are down by their checks: what a gate has found out, the next one knows.
    pub(super) down: BTreeSet<(u16, u16)>,
    pub(super) gate: GateProcess,
    /// The gate's messages are not watched, since too many descriptors wait to be closed.
    paused: bool,
    /// The gate's process has ended.
    gate_ended: bool,
    pub(super) asked: Asked,
    /// When it was last said that pairs are dropped.
    pub(super) said_dropped: Option<Instant>,
    pub(super) relay: Relay,
    pub(super) slow: SlowTurns,
    pub(super) buffer: Vec<u8>,
}

impl Keeper {
    /// Everything, before the first gate.
    ///
    /// # Errors
    /// Memory, file descriptors or threads are short.
    pub(super) fn new(
        config: Config,
        capacity: u32,
        files: Files,
        listeners: Listeners,
        closer: Closer,
        kernel: Option<Kernel>,
    ) -> anyhow::Result<Self> {
        let (stats_file, stats) = Stats::create().context("cannot make the shared counters")?;
        let stats = Arc::new(stats);
        let counted = stats.clone();
        logging::count_into(move |lines| counted.count_lost_lines(Process::Keeper, lines));
        let reactor = Reactor::new().context("cannot make an epoll instance")?;
        if let Some(kernel) = &kernel {
            reactor.add(kernel.events_fd(), Source::Events, EventFlags::IN)?;
            if let Some(log) = kernel.log_fd() {
                reactor.add(log, Source::Log, EventFlags::IN)?;
            }
        }
        for (index, listener) in listeners.iter() {
            watch_listener(&reactor, index, listener)?;
        }
        let relay = Relay::new(&config, capacity, kernel, None, reactor, closer).context("cannot set up the relay")?;
        Ok(Self {
            gate: GateProcess::new(),
            paused: false,
            gate_ended: false,
            asked: Asked::new(Instant::now()),
            said_dropped: None,
            carried: Carried::new(stats),
            found: BTreeMap::new(),
            down: BTreeSet::new(),
            files,
            ktls: Ability::default(),
            config,
            capacity,
            secret: CookieKey(rand::random()),
            listeners,
            stats_file,
            relay,
            slow: SlowTurns::default(),
            buffer: vec![0; MAX_MESSAGE + 1],
        })
    }

    /// Runs until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// No gate can start, or a system call fails that must not.
    pub(super) fn serve(mut self, signals: &Signals) -> anyhow::Result<()> {
        self.relay.reactor.add(signals, Source::Signal, EventFlags::IN)?;
        let mut until = None;
        loop {
            let now = Instant::now();
            if until.is_some_and(|until| now >= until || self.relay.table.live() == 0) {
                return Ok(());
            }
            self.look_after_gate(now)?;
            let sleep = [self.sleep(now), until.map(|until| until - now)].into_iter().flatten().min();
            for (source, flags) in self.turn(sleep)? {
                match (source, flags) {
                    (Source::Signal, _) => match signals.next() {
                        Some(signals::Asked::Stop) if until.is_none() => {
                            self.stop();
                            until = Some(Instant::now() + FAREWELL);
                        }
                        Some(signals::Asked::Reload) => self.files.at_once(),
                        Some(signals::Asked::Stop) | None => {}
                    },
                    (source, flags) => self.on_event(source, flags),
                }
            }
            self.finish_turn();
        }
    }

    /// Waits for events; the turn that they make has begun.
    pub(super) fn turn(&mut self, sleep: Option<Duration>) -> anyhow::Result<Vec<(Source, EventFlags)>> {
        let ready = self.relay.reactor.wait(sleep).context("epoll failed")?;
        self.relay.closer.turns().begin();
        Ok(ready)
    }

    /// What follows the events of a turn.
    pub(super) fn finish_turn(&mut self) {
        self.relay.turn(Instant::now());
        self.files.look(Instant::now(), self.gate.listening());
        self.answer_snapshot(Instant::now());
        if let Some(control) = self.gate.listening() {
            self.relay.ended.report(control);
        }
        if self.paused && self.relay.closer.has_room() {
            self.watch_gate();
        }
        if self.gate_ended && !matches!(self.read_gate(), Drained::More) {
            self.lose_gate();
        }
        let took = self.relay.closer.turns().end();
        self.slow.note(took, Instant::now());
    }

    /// How long nothing is due.
    pub(super) fn sleep(&self, now: Instant) -> Option<Duration> {
        let listens = self.gate.listening().is_some();
        let retry = (!self.relay.ended.unreported.is_empty() && listens).then_some(GATE_RETRY);
        let closes = (self.paused || self.gate_ended).then_some(CLOSE_RETRY);
        let look = self.files.next(now).filter(|_| listens);
        let snapshot = self.asked.next(now).map(|wait| wait.max(GATE_RETRY)).filter(|_| listens);
        let sleep = [self.relay.sleep(now), self.gate.next(now), look, snapshot, retry, closes];
        sleep.into_iter().flatten().min()
    }

    pub(super) fn on_event(&mut self, source: Source, flags: EventFlags) {
        match source {
            Source::Gate => {
                if matches!(self.read_gate(), Drained::Closed) {
                    self.gate_is_going();
                }
            }
            Source::GateEnded => {
                if let Some(pidfd) = self.gate.pidfd() {
                    self.relay.reactor.remove(pidfd);
                }
                // All that it has sent is in the queue by now.
                self.gate_ended = self.gate.control().is_some();
            }
            Source::Listener(index) => self.heal_listener(index),
            Source::Events => self.read_events(),
            Source::Log => self.flush_log(),
            Source::Signal => {}
            Source::Socket { index, generation } => self.relay.on_socket(index, generation, flags),
        }
    }

    fn stop(&mut self) {
        self.gate.stop();
        // Pairs that it had handed over say farewell like all others.
        while matches!(self.read_gate(), Drained::More) && !self.paused {}
        if let Some(control) = self.gate.forget() {
            self.relay.reactor.remove(&control);
            self.relay.closer.close(control);
        }
        self.gate_ended = false;
        tracing::info!(pairs = self.relay.table.live(), "told to stop");
        self.relay.farewell_all();
    }

    fn read_events(&mut self) {
        // The ring stays readable, so that what is left comes with the next turn.
        for _ in 0..EVENTS_TURN {
            let Some(event) = self.relay.kernel.as_mut().and_then(Kernel::next_event) else { return };
            self.relay.on_event(event.index, event.cookie);
        }
    }

    fn flush_log(&mut self) {
        if let Some(kernel) = &mut self.relay.kernel {
            kernel.flush_log();
        }
    }

    /// Starts a gate when it is time to, and ends one that is hung.
    ///
    /// # Errors
    /// The first gate could not start.
    pub(super) fn look_after_gate(&mut self, now: Instant) -> anyhow::Result<()> {
        if self.gate.is_stuck(now) {
            self.lose_gate();
        }
        if self.gate.is_late(now) {
            tracing::error!("the gate has not become ready: it is ended, and another started");
            self.gate.kill(now);
        }
        if self.gate.starts > 0 && !self.gate.ever_ready && self.gate.control().is_none() {
            // A configuration that no gate can start with: trying again would not help.
            anyhow::bail!("the gate could not start; its own message is above");
        }
        if self.gate.must_start(now) {
            self.start_gate()?;
        }
        self.beat(now);
        Ok(())
    }

    /// Asks the gate whether it lives.
    fn beat(&mut self, now: Instant) {
        let Some((pid, heartbeat)) = self.gate.heartbeat() else { return };
        let number = match heartbeat.beat(now) {
            Beat::Early => return,
            Beat::Ask(number) => Some(number),
            Beat::Doubt(number) => pid.is_none_or(processes::wants_to_run).then_some(number),
            Beat::Hung => None,
        };
        let (Some(number), Some(control)) = (number, self.gate.listening()) else {
            tracing::error!(pid, asked_every = ?EVERY, "the gate does not answer: it is ended, and another started");
            return self.gate.kill(now);
        };
        // A gate that reads nothing has no room for the question, and does not answer it either.
        let _ = wire::send(control, &ToGate::Ping { number }, &[]);
    }

    /// Starts a gate and tells it everything. A failure at the very first start is fatal, a later one is tried again.
    fn start_gate(&mut self) -> anyhow::Result<()> {
        let result = self
            .gate
            .start(self.config.process.user.as_deref())
            .map_err(anyhow::Error::from)
            .and_then(|()| self.brief());
        match result {
            Ok(()) => Ok(()),
            Err(error) if self.gate.ever_ready => {
                tracing::error!(error = format!("{error:#}"), "cannot start a gate; trying again");
                if self.gate.control().is_some() {
                    self.gate_is_going();
                } else {
                    self.lose_gate();
                }
                Ok(())
            }
            Err(error) => Err(error.context("cannot start the gate")),
        }
    }

    /// Tells a new gate everything.
    ///
    /// # Errors
    /// It has ended, or descriptors are short.
    pub(super) fn brief(&mut self) -> anyhow::Result<()> {
        self.watch_gate();
        if let Some(pidfd) = self.gate.pidfd() {
            self.relay.reactor.add(pidfd, Source::GateEnded, EventFlags::IN)?;
        }
        let control = self.gate.control().context("there is no gate")?;
        self.relay.ended.unreported.clear();
        let hello = Hello {
            config: self.config.clone(),
            engine: self.relay.engine(),
            why_not: self.relay.why_not,
            ktls: self.ktls.clone(),
            capacity: self.capacity,
            secret: self.secret.clone(),
        };
        wire::send(control, &ToGate::Hello(Box::new(hello)), &[self.stats_file.as_fd()])?;
        for (index, listener) in (0..).zip(&self.listeners.clients) {
            wire::send(control, &ToGate::Listener { index }, &[listener.socket.as_fd()])?;
        }
        self.files.send(control)?;
        if let Some(admin) = &self.listeners.admin {
            wire::send(control, &ToGate::Admin, &[admin.socket.as_fd()])?;
        }
        let pairs = self.relay.table.iter().map(|(_, pair)| Tally::from(&pair.facts)).collect();
        let (found, down) = (self.found.values().cloned().collect(), self.down.iter().copied().collect());
        let held = Held { pairs, found, down };
        wire::send(control, &ToGate::Held, &[memory::write("sluice-held", &held)?.as_fd()])?;
        wire::send(control, &ToGate::Start, &[])?;
        Ok(())
    }

    fn watch_gate(&mut self) {
        let Some(control) = self.gate.control() else { return };
        let watched = self.relay.reactor.add(control, Source::Gate, EventFlags::IN | EventFlags::RDHUP);
        // Tried again as long as it fails.
        self.paused = watched.is_err();
    }

    /// Nothing more is read from the gate until descriptors have been closed.
    pub(super) fn pause(&mut self) {
        if let Some(control) = self.gate.control()
            && !self.paused
        {
            self.relay.reactor.remove(control);
            self.paused = true;
        }
    }

    /// The gate has closed its end, or is not to go on: makes sure that it ends.
    pub(super) fn gate_is_going(&mut self) {
        self.gate.kill(Instant::now());
        if let Some(control) = self.gate.control() {
            self.relay.reactor.remove(control);
        }
        // Without a descriptor that tells of its end, this is the end.
        self.gate_ended |= self.gate.pidfd().is_none();
    }

    /// The gate is gone, and all that it had sent has been read.
    fn lose_gate(&mut self) {
        (self.gate_ended, self.paused) = (false, false);
        if let Some(pidfd) = self.gate.pidfd() {
            self.relay.reactor.remove(pidfd);
        }
        self.carried.close_all(&mut self.relay.ended);
        self.files.gate_lost();
        self.asked.forget();
        self.relay.snapshot = None;
        if let Some(control) = self.gate.reap(Instant::now()) {
            self.relay.reactor.remove(&control);
            // What lies in its queue is closed with it.
            self.relay.closer.close(control);
        }
    }

    /// A listener cannot be connected to any more: the gate has shut it down.
    fn heal_listener(&mut self, index: u16) {
        if let Some((_, listener)) = self.listeners.iter().nth(usize::from(index)) {
            self.relay.reactor.remove(listener);
        }
        tracing::error!(
            listener = index,
            "the gate has shut a listener down; it is ended, and the listener opened again"
        );
        self.gate.distrust(Instant::now());
        self.gate_is_going();
        let healed =
            self.listeners.heal(index).and_then(|listener| watch_listener(&self.relay.reactor, index, listener));
        if let Err(error) = healed {
            let error = format!("{error:#}");
            tracing::error!(listener = index, error, "cannot listen again; restart Sluice");
        }
    }
}

/// Watches a listener for its end, and not for clients.
fn watch_listener(reactor: &Reactor, index: u16, listener: &OwnedFd) -> anyhow::Result<()> {
    Ok(reactor.add(listener, Source::Listener(index), EventFlags::RDHUP)?)
}
