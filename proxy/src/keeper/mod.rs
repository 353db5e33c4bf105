//! The keeper: owns the listeners, the kernel program and every relayed pair, and parses nothing but frame headers.
//!
//! One thread, one `epoll`. A pair that the kernel relays costs a slot of the table and two descriptors; its sockets
//! are watched for their end only, so its messages wake nobody.

mod carried;
mod files;
mod gate_process;
mod listeners;
mod pair;
mod pump;
mod reactor;
mod relay;
mod snapshot;
mod table;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::epoll::EventFlags;

use crate::config::{Config, EngineChoice, TlsEngineChoice};
use crate::handoff::stats::{Process, Stats};
use crate::handoff::wire::{self, Packet, Received};
use crate::handoff::{
    self, CookieKey, Facts, Found, Held, Hello, MAX_LEFTOVER, MAX_MESSAGE, NewPair, Snapshot, Tally, ToGate, ToKeeper,
    WhyNot, memory,
};
use crate::kernel::{Kernel, probe};
use crate::ktls::Ability;
use crate::logging;
use crate::sys::signals::{Asked, Signals};
use crate::sys::{privileges, socket};
use carried::Carried;
use files::Files;
pub use files::read_files;
use gate_process::GateProcess;
use listeners::Listeners;
use reactor::{Reactor, Source};
use relay::Relay;

/// How long pairs may take to deliver what is in flight when Sluice is told to stop.
const FAREWELL: Duration = Duration::from_secs(6);

/// Messages of the gate that are read before the pairs get their turn.
const GATE_TURN: usize = 64;

/// When to try again to tell the gate what it had no room for.
const GATE_RETRY: Duration = Duration::from_millis(50);

/// Descriptors that are not pairs', files' or listeners': maps, the program, control sockets, logs, and some to spare.
const RESERVED_FILES: u64 = 96;

/// How many pairs a process with this limit on open files can hold.
#[must_use]
pub fn pairs_for(files: u64) -> u32 {
    u32::try_from(files.saturating_sub(RESERVED_FILES) / 2).unwrap_or(u32::MAX).clamp(1, 1 << 20)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// A listener cannot be bound, a file not be read, the engine that the configuration demands not be had, or
/// a system call fails that must not.
pub fn run(config: Config) -> anyhow::Result<()> {
    let signals = Signals::block().context("cannot take over SIGTERM, SIGINT and SIGHUP")?;
    let open_files = privileges::raise_open_files().context("cannot raise the limit on open files")?;
    // Those in use and those on trial.
    let named = 2 * handoff::files::named(&config).len() + config.listeners.len();
    let mut capacity = pairs_for(open_files.saturating_sub(named as u64));
    if config.limits.connections > 0 {
        capacity = capacity.min(config.limits.connections);
    }
    let listeners = Listeners::open(&config)?;
    let (kernel, why_not) = choose_engine(&config, capacity)?;
    let ktls = choose_tls_engine(&config)?;
    privileges::keep_for_keeper().context("cannot give up capabilities")?;
    // Not before: what could be read only with more rights could not be read again when it has changed.
    let files = Files::open(&config)?;
    let (stats_file, stats) = Stats::create().context("cannot make the shared counters")?;
    let stats = Arc::new(stats);
    let counted = stats.clone();
    logging::count_into(move |lines| counted.count_lost_lines(Process::Keeper, lines));
    let reactor = Reactor::new().context("cannot make an epoll instance")?;
    reactor.add(&signals, Source::Signal, EventFlags::IN)?;
    if let Some(kernel) = &kernel {
        reactor.add(kernel.events_fd(), Source::Events, EventFlags::IN)?;
        if let Some(log) = kernel.log_fd() {
            reactor.add(log, Source::Log, EventFlags::IN)?;
        }
    }
    let relay = Relay::new(&config, capacity, kernel, why_not, reactor).context("cannot set up the relay")?;
    let keeper = Keeper {
        gate: GateProcess::new(),
        carried: Carried::new(stats),
        found: BTreeMap::new(),
        down: BTreeSet::new(),
        config,
        capacity,
        ktls,
        secret: CookieKey(rand::random()),
        files,
        listeners,
        stats_file,
        relay,
        buffer: vec![0; MAX_MESSAGE + 1],
    };
    keeper.serve(&signals)
}

/// The kernel relay, if it can be had and is wanted; else why not.
fn choose_engine(config: &Config, capacity: u32) -> anyhow::Result<(Option<Kernel>, Option<WhyNot>)> {
    match probe::kernel(config.relay.engine, capacity, config.relay.backlog_limit) {
        Ok(kernel) => {
            tracing::info!(engine = "sockmap", capacity, "the kernel relays plain pairs");
            Ok((Some(kernel), None))
        }
        Err(refusal) if config.relay.engine == EngineChoice::Sockmap => Err(anyhow::anyhow!(
            "relay.engine is \"sockmap\", which cannot be had ({}): {}",
            refusal.why_not.label(),
            refusal.detail
        )),
        Err(refusal) => {
            let why = refusal.why_not.label();
            tracing::info!(engine = "copy", why, detail = refusal.detail, capacity, "userspace relays plain pairs");
            Ok((None, Some(refusal.why_not)))
        }
    }
}

/// What the kernel may do with TLS.
fn choose_tls_engine(config: &Config) -> anyhow::Result<Ability> {
    let speaks_tls = config.listeners.iter().any(|listener| listener.tls.is_some())
        || config.backends.iter().any(|backend| backend.tls.is_some());
    if config.relay.tls_engine == TlsEngineChoice::Copy || !speaks_tls {
        return Ok(Ability::default());
    }
    let ability = Ability::find();
    match ability.why_none() {
        None => tracing::info!(engine = "ktls", rekey = ability.rekey, "the kernel takes over TLS"),
        Some(why) if config.relay.tls_engine == TlsEngineChoice::Ktls => {
            anyhow::bail!("relay.tls_engine is \"ktls\", which cannot be had: {why}");
        }
        Some(why) => {
            tracing::info!(engine = "copy", why = WhyNot::NoKtls.label(), detail = why, "userspace keeps TLS keys");
        }
    }
    Ok(ability)
}

struct Keeper {
    config: Config,
    capacity: u32,
    ktls: Ability,
    secret: CookieKey,
    files: Files,
    listeners: Listeners,
    stats_file: OwnedFd,
    carried: Carried,
    /// By backend and server.
    found: BTreeMap<(u16, u16), Found>,
    /// The same, of those that are down by their checks: what a gate has found out, the next one knows.
    down: BTreeSet<(u16, u16)>,
    gate: GateProcess,
    relay: Relay,
    buffer: Vec<u8>,
}

impl Keeper {
    fn serve(mut self, signals: &Signals) -> anyhow::Result<()> {
        let mut until = None;
        loop {
            let now = Instant::now();
            if until.is_some_and(|until| now >= until || self.relay.table.live() == 0) {
                return Ok(());
            }
            if self.gate.starts > 0 && !self.gate.ever_ready && self.gate.control().is_none() {
                // A configuration that no gate can start with: trying again would not help.
                anyhow::bail!("the gate could not start; its own message is above");
            }
            if self.gate.next_start(now) == Some(Duration::ZERO) {
                self.start_gate()?;
            }
            let retry =
                (!self.relay.ended.unreported.is_empty() && self.gate.control().is_some()).then_some(GATE_RETRY);
            let look = self.files.next(now).filter(|_| self.gate.control().is_some());
            let sleep = [self.relay.sleep(now), self.gate.next_start(now), until.map(|until| until - now), retry, look];
            let ready = self.relay.reactor.wait(sleep.into_iter().flatten().min()).context("epoll failed")?;
            for (source, flags) in ready {
                match source {
                    Source::Gate => self.read_gate(),
                    Source::Events => self.read_events(),
                    Source::Log => self.flush_log(),
                    Source::Signal => match signals.next() {
                        Some(Asked::Stop) if until.is_none() => {
                            self.stop();
                            until = Some(Instant::now() + FAREWELL);
                        }
                        Some(Asked::Reload) => self.files.at_once(),
                        Some(Asked::Stop) | None => {}
                    },
                    Source::Socket { index, generation } => self.relay.on_socket(index, generation, flags),
                }
            }
            self.relay.turn(Instant::now());
            self.files.look(Instant::now(), self.gate.control());
            if let Some(control) = self.gate.control() {
                self.relay.ended.report(control);
            }
        }
    }

    fn stop(&mut self) {
        tracing::info!(pairs = self.relay.table.live(), "told to stop");
        self.gate.stop();
        self.relay.farewell_all(Instant::now());
    }

    fn read_events(&mut self) {
        while let Some(event) = self.relay.kernel.as_mut().and_then(Kernel::next_event) {
            self.relay.on_event(event.index, event.cookie);
        }
    }

    fn flush_log(&mut self) {
        if let Some(kernel) = &mut self.relay.kernel {
            kernel.flush_log();
        }
    }

    /// Starts a gate and tells it everything. A failure at the very first start is fatal, a later one is tried again.
    fn start_gate(&mut self) -> anyhow::Result<()> {
        let result =
            self.gate.start(&self.config.process.user).map_err(anyhow::Error::from).and_then(|()| self.brief());
        match result {
            Ok(()) => Ok(()),
            Err(error) if self.gate.ever_ready => {
                tracing::error!(error = format!("{error:#}"), "cannot start a gate; trying again");
                self.gate.reap();
                Ok(())
            }
            Err(error) => Err(error.context("cannot start the gate")),
        }
    }

    fn brief(&mut self) -> anyhow::Result<()> {
        let control = self.gate.control().context("there is no gate")?;
        self.relay.reactor.add(control, Source::Gate, EventFlags::IN | EventFlags::RDHUP)?;
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
            wire::send(control, &ToGate::Admin, &[admin.as_fd()])?;
        }
        let pairs = self.relay.table.iter().map(|(_, pair)| Tally::from(&pair.facts)).collect();
        let (found, down) = (self.found.values().cloned().collect(), self.down.iter().copied().collect());
        let held = Held { pairs, found, down };
        wire::send(control, &ToGate::Held, &[memory::write("sluice-held", &held)?.as_fd()])?;
        wire::send(control, &ToGate::Start, &[])?;
        Ok(())
    }

    fn read_gate(&mut self) {
        // The socket stays readable, so that what is left comes with the next turn.
        for _ in 0..GATE_TURN {
            let Some(control) = self.gate.control() else { return };
            match wire::receive::<ToKeeper>(control, &mut self.buffer) {
                Ok(Received::Packet(packet)) => self.on_message(packet),
                Ok(Received::Garbage) => tracing::error!("the gate sent a message that cannot be understood"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(Received::Closed) | Err(_) => {
                    self.lose_gate();
                    return;
                }
            }
        }
    }

    fn lose_gate(&mut self) {
        if let Some(control) = self.gate.control() {
            self.relay.reactor.remove(control);
        }
        self.carried.close_all(&mut self.relay.ended);
        self.files.gate_lost();
        self.gate.reap();
    }

    fn on_message(&mut self, packet: Packet<ToKeeper>) {
        let Packet { message, fds } = packet;
        match message {
            ToKeeper::Ready => {
                self.gate.ever_ready = true;
                let addresses = self.listeners.clients.iter().map(|listener| listener.address.to_string());
                let addresses = addresses.collect::<Vec<_>>().join(" ");
                tracing::info!(listening = addresses, starts = self.gate.starts, "ready");
            }
            ToKeeper::Pair(pair) => self.on_pair(*pair, fds),
            ToKeeper::CarriedOpen { slot, facts, why_not } if self.known(&facts) => {
                self.carried.open(slot, facts, why_not);
            }
            ToKeeper::CarriedOpen { .. } => tracing::error!("the gate named a route that does not exist"),
            ToKeeper::CarriedClosed { slot, counters, reason } => {
                self.carried.close(slot, &counters, reason, &mut self.relay.ended);
            }
            ToKeeper::Reloaded { reload, ok } => self.files.answered(reload, ok),
            ToKeeper::Found(found) if found.is_sane(&self.config) => {
                let (index, address) = ((found.backend, found.server), found.address);
                let before = self.found.insert(index, found);
                // Another server has its place.
                if before.is_some_and(|before| before.address != address) {
                    self.down.remove(&index);
                }
            }
            ToKeeper::Found(_) => tracing::error!("the gate found a server for a backend that does not exist"),
            ToKeeper::Checked { backend, server, up } if self.has_server(backend, server) => {
                match up {
                    true => self.down.remove(&(backend, server)),
                    false => self.down.insert((backend, server)),
                };
            }
            ToKeeper::Checked { .. } => tracing::error!("the gate checked a server that does not exist"),
            ToKeeper::Snapshot { request } => self.answer_snapshot(request),
        }
    }

    fn on_pair(&mut self, pair: NewPair, fds: Vec<OwnedFd>) {
        let sane = self.known(&pair.facts)
            && pair.to_backend.len() <= MAX_LEFTOVER
            && pair.to_client.len() <= MAX_LEFTOVER
            && fds.iter().all(|fd| is_stream(fd.as_fd()));
        match <[OwnedFd; 2]>::try_from(fds) {
            Ok(sockets) if sane => self.relay.open(pair, sockets, Instant::now()),
            _ => {
                self.relay.ended.left(Tally::from(&pair.facts));
                tracing::error!(conn = %pair.facts.id, "the gate handed over a pair that makes no sense");
            }
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

    fn answer_snapshot(&mut self, request: u64) {
        let Some(control) = self.gate.control() else { return };
        let found = self.found.values().cloned().collect();
        let snapshot = snapshot::take(&self.relay, &self.carried, self.gate.starts, self.files.reloads);
        let snapshot = Snapshot { found, ..snapshot };
        let sent = memory::write("sluice-snapshot", &snapshot)
            .and_then(|file| wire::send(control, &ToGate::Snapshot { request }, &[file.as_fd()]));
        if let Err(error) = sent {
            tracing::warn!(%error, "cannot answer the gate's question for the live pairs");
        }
    }
}

/// Whether a descriptor that the gate sent is a stream socket of a kind that pairs have: anything else could block the
/// keeper.
fn is_stream(fd: BorrowedFd<'_>) -> bool {
    use rustix::net::{SocketType, ipproto, sockopt};
    let kind = sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM);
    let tcp = || sockopt::socket_protocol(fd).is_ok_and(|protocol| protocol == Some(ipproto::TCP));
    kind && (tcp() || socket::is_unix(fd))
}
