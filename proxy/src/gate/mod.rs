//! The gate: reads what strangers wrote, and holds no privilege.
//!
//! It accepts, speaks TLS, judges the WebSocket handshake, finds and asks a backend, and hands the finished pair to
//! the keeper. What it carries itself (a side speaks TLS, with its keys in userspace) ends with it; nothing else does.

mod admission;
mod auth;
mod balance;
mod begun;
mod boot;
mod carrier;
mod carry;
mod client_io;
mod conclude;
mod control;
mod cookies;
mod dial;
mod exchange;
mod files;
mod fleet;
mod forward;
mod fragment;
mod front;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod handshake;
mod http2;
mod idle_check;
mod interim;
mod judge;
mod kept;
mod limit;
mod linger;
mod listen;
mod pages;
mod patience;
mod phase;
mod policy;
mod pool;
mod proxy_header;
mod proxy_in;
mod refusal;
mod resolve;
mod seats;
mod sender;
mod session;
mod shortage;
mod slots;
mod source;
mod spelling;
mod sticky;
mod stream;
mod tls;
mod unix;
mod upload;
mod upstream;
mod wire;

#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use self::admission::Admission;
use self::boot::Equipment;
use self::carry::Patrol;
use self::control::{Control, Receiver};
use self::files::{Files, InUse, Loaded};
use self::fleet::{Fleet, check, names};
use self::listen::Port;
use self::pages::Pages;
use self::policy::Routes;
use self::pool::Pool;
use self::seats::Seats;
use self::shortage::Shortages;
use self::slots::Slots;
use self::source::Sources;
use self::spelling::Spelling;
use self::tls::Arming;
use crate::config::{Config, Relay, TlsEngineChoice};
use crate::handoff::files::FileRole;
use crate::handoff::stats::{CARRIED, Process, Stats};
use crate::handoff::{ConnId, CookieKey, Engine, Held, MAX_MESSAGE, Tally, ToGate, ToKeeper, WhyNot};
use crate::ktls::Ability;
use crate::logging;
use crate::observe::{self, Admin, Backends, Certificates, OfGate, Snapshots};

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
    fleets: Vec<Arc<Fleet>>,
    /// By the index of the backend.
    sources: Vec<Sources>,
    /// By the index of the backend.
    spellings: Vec<Spelling>,
    secret: CookieKey,
    loaded: InUse,
    /// What the admin listener shows of what is loaded.
    certificates: Certificates,
    stats: Arc<Stats>,
    control: Arc<Control>,
    slots: Slots,
    patrol: Patrol,
    arming: Arming,
    admission: Admission,
    shortages: Shortages,
    pool: Pool,
    seats: Arc<Seats>,
    /// As many passwords as may be verified at one time.
    passwords: Arc<Semaphore>,
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
    auth::check(config)?;
    let length = postcard::to_stdvec(config).context("the configuration cannot be sent to the gate")?.len();
    let most = MAX_MESSAGE - BESIDE_CONFIG;
    anyhow::ensure!(
        length <= most,
        "the configuration takes {length} bytes; {most} is the most that the gate can be sent"
    );
    Ok(())
}

/// What can be meant by the routes, and probably is not: sentences for a person.
///
/// # Errors
/// As [`check`].
pub fn doubts(config: &Config) -> anyhow::Result<Vec<String>> {
    policy::doubts(config)
}

/// Checks what a gate would make of the files that a configuration names. Returns what is probably not meant.
///
/// # Errors
/// What is wrong with the first one that cannot be used.
pub fn check_files(config: &Config, files: Vec<(FileRole, OwnedFd)>) -> anyhow::Result<Vec<String>> {
    let (roles, copies) = files.into_iter().unzip();
    let mut files = Files::default();
    files.take(roles, copies)?;
    Loaded::make(config, &files, None)?;
    Ok(files.doubts(config))
}

/// The gate inside its runtime.
async fn serve(control: OwnedFd) -> anyhow::Result<()> {
    let control = Arc::new(Control::new(control).context("cannot watch the control socket")?);
    let mut receiver = Receiver::new(&control);
    let Some(equipment) = boot::receive(&mut receiver).await? else { return Ok(()) };
    let Equipment { hello, stats, listeners, files, held, admin } = equipment;
    let stats = Arc::new(stats);
    let counted = stats.clone();
    logging::count_into(move |lines| counted.count_lost_lines(Process::Gate, lines));
    let loaded = Loaded::make(&hello.config, &files, None)?;
    files.doubts(&hello.config).iter().for_each(|doubt| tracing::warn!("{doubt}"));
    let certificates = Certificates::default();
    certificates.set(loaded.certificates(&hello.config));
    let admission = {
        let limit = match hello.config.limits.connections {
            0 => hello.capacity,
            most => most.min(hello.capacity),
        };
        Admission::new(limit as usize, held.pairs.len(), admission::room_for_files())
    };
    let gate = Arc::new(Gate {
        routes: Routes::new(&hello.config)?,
        pages: Pages::new(&hello.config)?,
        fleets: fleets(&hello.config, &held, &loaded, &hello.secret)?,
        sources: hello.config.backends.iter().map(|backend| Sources::new(&backend.source)).collect(),
        spellings: hello.config.backends.iter().map(Spelling::new).collect::<anyhow::Result<_>>()?,
        secret: hello.secret,
        loaded: InUse::new(loaded),
        certificates: certificates.clone(),
        engine: hello.engine,
        stats: stats.clone(),
        control: control.clone(),
        slots: Slots::new(CARRIED),
        patrol: Patrol::new(hello.config.relay.user_timeout),
        arming: arming(hello.ktls, &hello.config.relay),
        admission,
        shortages: Shortages::default(),
        pool: Pool::default(),
        seats: Seats::new(&hello.config, &held.pairs, stats),
        passwords: Arc::new(Semaphore::new(passwords_at_once())),
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
        let (stats, handshakes, of) = (gate.stats.clone(), refusal::labels(), gate.clone());
        let backends: Backends = Arc::new(move || of.fleets.iter().map(|fleet| fleet.row()).collect());
        let of_gate = OfGate { stats, handshakes, certificates, backends };
        let admin = Admin::new(snapshots.clone(), of_gate, gate.config.clone());
        tasks.spawn(observe::serve(TcpListener::from(socket), admin));
    }
    for name in names::first(&gate).await {
        tasks.spawn(names::watch(gate.clone(), name));
    }
    for (backend, _) in (0..).zip(&gate.fleets) {
        tasks.spawn(check::watch(gate.clone(), backend));
    }
    control.send(&ToKeeper::Ready, &[]).await.context("cannot tell the keeper that the gate is ready")?;
    tracing::debug!("the gate is ready");
    listen_to_keeper(&mut receiver, &gate, &snapshots).await
}

/// By the index of the backend: its servers, with the pairs that earlier gates' clients have on them.
fn fleets(config: &Config, held: &Held, loaded: &Loaded, secret: &CookieKey) -> anyhow::Result<Vec<Arc<Fleet>>> {
    let fleets: Vec<_> = (0..)
        .zip(&config.backends)
        .map(|(backend, settings)| {
            let found = held.found.iter().filter(|found| found.backend == backend);
            Fleet::new(settings, found, loaded.cookie_keys(backend, secret)).map(Arc::new)
        })
        .collect::<anyhow::Result<_>>()?;
    for pair in &held.pairs {
        if let Some(fleet) = fleets.get(usize::from(pair.backend)) {
            fleet.found_on(pair.server);
        }
    }
    for (backend, server) in &held.down {
        if let Some(fleet) = fleets.get(usize::from(*backend)) {
            fleet.was_down(*server);
        }
    }
    Ok(fleets)
}

/// Half of the processors: the others go on with the handshakes that need no password.
fn passwords_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
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
            ToGate::Ping { number } => answer(gate.control.clone(), number),
            ToGate::Snapshot { request } => snapshots.arrived(request, packet.fds),
            ToGate::Files { roles } => changed.take(roles, packet.fds)?,
            ToGate::Reload { reload } => files::reload(gate, std::mem::take(&mut changed), reload).await?,
            other => tracing::warn!(sent = other.name(), "the keeper sent what a running gate does not expect"),
        }
    }
    tracing::debug!("the keeper has closed the control socket: the gate ends");
    Ok(())
}

/// Answers the keeper from one of the threads that serve clients: it is they who must live.
fn answer(control: Arc<Control>, number: u64) {
    tokio::spawn(async move {
        // A keeper that is gone needs no answer.
        let _ = control.send(&ToKeeper::Pong { number }, &[]).await;
    });
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

    /// Pairs of the keeper have ended: what they have held is free.
    fn closed(&self, pairs: &[Tally]) {
        self.admission.closed(pairs.len());
        self.seats.closed(pairs);
        for pair in pairs {
            if let Some(fleet) = self.fleet(pair.backend) {
                fleet.left(pair.server);
            }
        }
    }
}
