//! The gate: reads what strangers wrote, and holds no privilege.
//!
//! It accepts, speaks TLS, judges the WebSocket handshake, finds and asks a backend, and hands the finished pair to
//! the keeper. What it carries itself (a side speaks TLS, with its keys in userspace) ends with it; nothing else does.

mod admission;
mod balance;
mod boot;
mod carrier;
mod carry;
mod control;
mod exchange;
mod files;
mod forward;
mod front;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod handshake;
mod http2;
mod judge;
mod kept;
mod limit;
mod linger;
mod listen;
mod pages;
mod policy;
mod pool;
mod proxy_header;
mod proxy_in;
mod refusal;
mod seats;
mod session;
mod slots;
mod sticky;
mod stream;
mod tls;
mod unix;
mod upstream;

#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use http::HeaderValue;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::admission::Admission;
use self::balance::RoundRobin;
use self::boot::Equipment;
use self::carry::Patrol;
use self::control::{Control, Receiver};
use self::files::{Files, InUse, Loaded};
use self::handshake::Scheme;
use self::listen::Port;
use self::pages::Pages;
use self::policy::{Routes, Way};
use self::pool::Pool;
use self::proxy_header::Ends;
use self::refusal::{Outcome, Refusal};
use self::seats::Seats;
use self::session::{Note, now_ms};
use self::slots::Slots;
use self::sticky::{Kept, Sticky};
use self::stream::Stream;
use self::tls::Arming;
use self::upstream::{Dialling, Failure};
use crate::config::{Address, Backend, Config, Relay, TlsEngineChoice};
use crate::handoff::stats::{CARRIED, Stats};
use crate::handoff::{ConnId, Engine, Hello, MAX_MESSAGE, Tally, ToGate, ToKeeper, WhyNot};
use crate::ktls::Ability;
use crate::observe::{self, Admin, Certificates, Snapshots};

/// Threads that move handshakes and TLS bytes. Two: handshakes are rare, and plain frames never come here.
const WORKERS: usize = 2;

/// What [`crate::handoff::Hello`] has beside the configuration, in bytes: a few numbers, and to spare.
const BESIDE_CONFIG: usize = 32 * 1024;

/// What all connections share.
struct Gate {
    config: Config,
    /// What the keeper gives plain pairs.
    engine: Engine,
    routes: Routes,
    pages: Pages,
    /// By the index of the backend.
    turns: Vec<RoundRobin>,
    stickies: Vec<Option<Sticky>>,
    loaded: InUse,
    /// What the admin listener shows of what is loaded.
    certificates: Certificates,
    stats: Arc<Stats>,
    control: Arc<Control>,
    slots: Slots,
    patrol: Patrol,
    arming: Arming,
    admission: Admission,
    pool: Pool,
    seats: Arc<Seats>,
    last_id: AtomicU64,
}

/// Runs a gate until the keeper closes its end of `control`.
///
/// The caller has named the process, dropped its privileges and installed a tracing subscriber.
///
/// # Errors
/// The keeper sent what this gate cannot use (a certificate, for one), or the system is out of something at start.
/// What strangers do is never an error of the gate's.
pub fn run(control: OwnedFd) -> anyhow::Result<()> {
    let held = control.try_clone().context("cannot copy the control socket's descriptor")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("sluice-gate")
        .enable_all()
        .build()
        .context("cannot start the gate's threads")?;
    let served = runtime.block_on(async {
        // The keeper decides when the gate ends; a Ctrl-C goes to both.
        let ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let served = serve(control).await;
        drop(ignored);
        served
    });
    runtime.shutdown_background();
    if served.is_err() {
        // The keeper kills a gate whose end of the socket is closed: not before the error has been printed.
        let _until_exit = held.into_raw_fd();
    }
    served
}

/// Checks what only the gate can: that it could run with this configuration.
///
/// # Errors
/// What is wrong with which route or error body.
pub fn check(config: &Config) -> anyhow::Result<()> {
    Routes::new(config)?;
    Pages::new(config)?;
    let length = postcard::to_stdvec(config).context("the configuration cannot be sent to the gate")?.len();
    let most = MAX_MESSAGE - BESIDE_CONFIG;
    anyhow::ensure!(
        length <= most,
        "the configuration takes {length} bytes; {most} is the most that the gate can be sent"
    );
    Ok(())
}

/// The gate inside its runtime.
async fn serve(control: OwnedFd) -> anyhow::Result<()> {
    let control = Arc::new(Control::new(control).context("cannot watch the control socket")?);
    let mut receiver = Receiver::new(&control);
    let Some(equipment) = boot::receive(&mut receiver).await? else { return Ok(()) };
    let Equipment { hello, stats, listeners, files, live, admin } = equipment;
    let stats = Arc::new(stats);
    let loaded = Loaded::make(&hello.config, &files, None)?;
    let certificates = Certificates::default();
    certificates.set(loaded.certificates(&hello.config));
    let admission = {
        let limit = match hello.config.limits.connections {
            0 => hello.capacity,
            most => most.min(hello.capacity),
        };
        Admission::new(limit as usize, live.len(), admission::room_for_files())
    };
    let gate = Arc::new(Gate {
        routes: Routes::new(&hello.config)?,
        pages: Pages::new(&hello.config)?,
        stickies: stickies(&hello),
        turns: hello.config.backends.iter().map(|backend| RoundRobin::new(backend.servers.len())).collect(),
        loaded: InUse::new(loaded),
        certificates: certificates.clone(),
        engine: hello.engine,
        stats: stats.clone(),
        control: control.clone(),
        slots: Slots::new(CARRIED),
        patrol: Patrol::new(hello.config.relay.user_timeout),
        arming: arming(hello.ktls, &hello.config.relay),
        admission,
        pool: Pool::default(),
        seats: Seats::new(&hello.config, &live, stats),
        // A random start: ids differ over restarts, so that logs can be joined on them.
        last_id: AtomicU64::new(rand::random()),
        config: hello.config,
    });
    // Dropped with this function, which ends them.
    let mut tasks = JoinSet::new();
    for listening in listeners {
        let port = Port::new(listening.index, listening.socket).context("cannot watch a listener")?;
        tasks.spawn(port.serve(gate.clone()));
    }
    let patrolled = gate.clone();
    tasks.spawn(async move { patrolled.patrol.walk().await });
    let pooled = gate.clone();
    tasks.spawn(async move { pooled.pool.walk().await });
    let (snapshots, requests) = Snapshots::new();
    tasks.spawn(ask_for_snapshots(control.clone(), requests));
    if let Some(socket) = admin {
        let admin =
            Admin::new(snapshots.clone(), gate.stats.clone(), refusal::labels(), certificates, gate.config.clone());
        tasks.spawn(observe::serve(TcpListener::from(socket), admin));
    }
    control.send(&ToKeeper::Ready, &[]).await.context("cannot tell the keeper that the gate is ready")?;
    tracing::debug!("the gate is ready");
    listen_to_keeper(&mut receiver, &gate, &snapshots).await
}

/// By the index of the backend: those that have a cookie for their clients.
fn stickies(hello: &Hello) -> Vec<Option<Sticky>> {
    let sticky = |backend: &Backend| {
        let servers: Vec<String> = backend.servers.iter().map(ToString::to_string).collect();
        let settings = backend.sticky.as_ref()?;
        Some(Sticky::new(settings, &backend.name, &servers, &[hello.secret.0.to_vec()]))
    };
    hello.config.backends.iter().map(sticky).collect()
}

fn arming(ability: Ability, relay: &Relay) -> Arming {
    let configured = relay.tls_engine == TlsEngineChoice::Copy;
    Arming::new(ability, if configured { WhyNot::Configured } else { WhyNot::NoKtls }, relay.tls_key_records)
}

async fn listen_to_keeper(receiver: &mut Receiver<'_>, gate: &Arc<Gate>, snapshots: &Snapshots) -> anyhow::Result<()> {
    let mut changed = Files::default();
    while let Some(packet) = receiver.next().await? {
        match packet.message {
            ToGate::Closed { pairs } => gate.closed(&pairs),
            ToGate::Snapshot { request } => snapshots.arrived(request, packet.fds),
            ToGate::Files { roles } => changed.take(roles, packet.fds)?,
            ToGate::Reload { reload } => files::reload(gate, std::mem::take(&mut changed), reload).await?,
            other => tracing::warn!(?other, "the keeper sent what a running gate does not expect"),
        }
    }
    tracing::debug!("the keeper has closed the control socket: the gate ends");
    Ok(())
}

async fn ask_for_snapshots(control: Arc<Control>, mut requests: mpsc::Receiver<u64>) {
    while let Some(request) = requests.recv().await {
        if let Err(error) = control.send(&ToKeeper::Snapshot { request }, &[]).await {
            tracing::warn!(%error, "cannot ask the keeper for a snapshot");
        }
    }
}

impl Gate {
    fn next_id(&self) -> ConnId {
        ConnId(self.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// Counts and logs how a handshake ended.
    fn conclude(&self, note: &Note, outcome: Outcome) {
        self.stats.count_handshake(outcome.index());
        let (conn, client, listener) = (note.id, note.client, note.listener);
        match outcome {
            Outcome::Refused(refusal) => {
                let status = refusal.status();
                let (status, reason, why) = (status.as_u16(), refusal.reason(), refusal.text());
                tracing::info!(%conn, %client, listener, status, reason, why, "refused");
            }
            other => tracing::debug!(%conn, %client, listener, outcome = ?other, "handshake over"),
        }
    }

    /// Pairs of the keeper have ended: what they have held is free.
    fn closed(&self, pairs: &[Tally]) {
        self.admission.closed(pairs.len());
        self.seats.closed(pairs);
    }

    /// The address of a server, for the log.
    fn server(&self, backend: u16, server: u16) -> Option<&Address> {
        self.config.backends.get(usize::from(backend))?.servers.get(usize::from(server))
    }

    /// The order in which a request tries a backend's servers: the client's own first, if it has one.
    fn turn(&self, backend: u16, kept: Option<Kept>) -> impl Iterator<Item = u16> + use<> {
        let own = kept.map(|kept| kept.server);
        let turn = self.turns.get(usize::from(backend)).map(RoundRobin::turn);
        let others = turn.into_iter().flatten().filter_map(|server| u16::try_from(server).ok());
        own.into_iter().chain(others.filter(move |server| Some(*server) != own))
    }

    /// The cookie of a backend's clients, if they have one.
    fn sticky(&self, backend: u16) -> Option<&Sticky> {
        self.stickies.get(usize::from(backend))?.as_ref()
    }

    /// The Set-Cookie for a client that has been answered by this server, if it needs one.
    fn stick(&self, backend: u16, server: u16, kept: Option<Kept>, scheme: Scheme) -> Option<HeaderValue> {
        let good = kept.is_some_and(|kept| kept.server == server && !kept.renew);
        self.sticky(backend).filter(|_| !good)?.issue(server, scheme == Scheme::Tls, now_ms() / 1000)
    }

    /// Logs that a server is passed over. Returns what it would mean if it was the last.
    fn passed_over(&self, backend: u16, server: u16, id: ConnId, failure: &Failure) -> Refusal {
        let name = self.config.backends.get(usize::from(backend)).map(|backend| &backend.name);
        let server = self.server(backend, server).map(tracing::field::display);
        tracing::info!(conn = %id, backend = name, server, %failure, "dial failed");
        failure.refusal
    }

    /// Connects to a server. One that wants to know is told the client's `ends` in a PROXY header.
    ///
    /// # Errors
    /// It cannot be reached.
    async fn connect(&self, way: Way, server: u16, ends: Option<Ends>) -> Result<Stream, Failure> {
        let (Some(address), Some(configured)) =
            (self.server(way.backend, server), self.config.backends.get(usize::from(way.backend)))
        else {
            return Err(Refusal::Internal.into());
        };
        let tls = self.loaded.connector(way.backend);
        let hello = configured.send_proxy.map(|version| proxy_header::write(version, ends)).transpose();
        let hello = hello.map_err(|_| Refusal::Internal)?.unwrap_or_default();
        let patience = self.config.timeouts(way.route).dial;
        Dialling { hello: &hello, tls: tls.as_deref(), arming: &self.arming, patience }.dial(address).await
    }

    /// Connects to a server of a backend.
    ///
    /// # Errors
    /// What the last dial said.
    async fn dial(
        &self,
        way: Way,
        kept: Option<Kept>,
        ends: Option<Ends>,
        id: ConnId,
    ) -> Result<(u16, Stream), Refusal> {
        let mut last = Refusal::BackendUnreachable;
        for server in self.turn(way.backend, kept) {
            match self.connect(way, server, ends).await {
                Ok(stream) => return Ok((server, stream)),
                Err(failure) => last = self.passed_over(way.backend, server, id, &failure),
            }
        }
        Err(last)
    }
}
