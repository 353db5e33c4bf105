//! Memory of an established, idle connection: the slope between two counts of connections.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sluice_tests::certificate::Certificate;

use super::control::{Answer, Door, Order};
use super::paths::Paths;
use super::process::Helper;
use super::procfs;
use super::relay::Failure;
use super::targets::{self, Running, Target};

/// No round begins after this much of the whole run.
const TIME_LIMIT: Duration = Duration::from_secs(12 * 60);
/// What thousands of handshakes may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a proxy may take to close its side after the clients left.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// Until freed pages and what RCU still holds are back: the kernel has no signal for it.
const SETTLE: Duration = Duration::from_secs(1);
/// Connections that come and go first, so that the proxy has set up what it sets up once.
const WARM_UP: usize = 50;

/// What one target held at one count of connections.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reading {
    /// Idle connections.
    pub(super) connections: usize,
    /// The proxy's processes.
    pub(super) proxy: procfs::UserMemory,
    /// The load generator and the echo backend, in bytes (Pss).
    pub(super) helpers: u64,
    /// The whole machine.
    pub(super) machine: procfs::MachineMemory,
    /// Threads of the proxy.
    pub(super) threads: usize,
}

/// One pass over one target.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pass {
    pub(super) target: Target,
    /// Without connections after the warm-up, with few, with many.
    pub(super) readings: Vec<Reading>,
}

/// Bytes for each connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slope {
    /// In the proxy's processes.
    pub(super) user: f64,
    /// Taken from MemAvailable, without what the processes hold.
    pub(super) kernel: f64,
    /// The part of it that is slab.
    pub(super) slab: f64,
}

impl Pass {
    /// From the first count of idle connections to the second.
    pub(super) fn slope(&self) -> Option<Slope> {
        let [_, few, many] = self.readings.as_slice() else { return None };
        let count = many.connections.checked_sub(few.connections)? as f64;
        let user = many.proxy.pss as f64 - few.proxy.pss as f64;
        let helpers = many.helpers as f64 - few.helpers as f64;
        let taken = few.machine.available as f64 - many.machine.available as f64;
        let slab = many.machine.slab as f64 - few.machine.slab as f64;
        Some(Slope { user: user / count, kernel: (taken - user - helpers) / count, slab: slab / count })
    }
}

/// What is going to be measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    pub(super) targets: Vec<Target>,
    pub(super) rounds: usize,
    /// The two counts of idle connections: two file descriptors each in a proxy, and few may have 20,000.
    pub(super) idle: (usize, usize),
}

/// Measures all targets, as often as planned, each with processes of its own. With a certificate, their clients
/// speak TLS.
pub(super) fn measure(
    plan: &Plan,
    paths: &Paths,
    tls: Option<&Certificate>,
    began: Instant,
    failures: &mut Vec<Failure>,
) -> Vec<Pass> {
    let mut passes = Vec::new();
    for round in 0..plan.rounds {
        if began.elapsed() > TIME_LIMIT {
            eprintln!("stopping before memory round {}: {TIME_LIMIT:?} are over", round + 1);
            break;
        }
        eprintln!("memory, round {} of {}", round + 1, plan.rounds);
        for &target in &plan.targets {
            if failures.iter().any(|failure| failure.target == target && failure.cell.is_none()) {
                continue;
            }
            match pass(target, plan, paths, tls) {
                Ok(pass) => passes.push(pass),
                Err(error) => {
                    failures.push(Failure { target, cell: Some("memory".to_owned()), why: format!("{error:#}") })
                }
            }
        }
    }
    passes
}

fn pass(target: Target, plan: &Plan, paths: &Paths, tls: Option<&Certificate>) -> Result<Pass> {
    let (mut echo, backend) = start_echo(paths)?;
    let running = targets::start(target, paths, backend, None, tls)?;
    let mut client = Helper::start(paths, "client")?;
    connect(&mut client, &running.door, WARM_UP)?;
    drop(client);
    wait_until_closed(&mut echo)?;
    // What the target before this one held comes back now, not between two readings.
    thread::sleep(SETTLE);

    let mut client = Helper::start(paths, "client")?;
    let mut readings = Vec::new();
    let mut open = 0;
    for wanted in [0, plan.idle.0, plan.idle.1] {
        connect(&mut client, &running.door, wanted - open)?;
        open = wanted;
        running.check_engine(wanted)?;
        thread::sleep(SETTLE);
        readings.push(reading(wanted, &running, &[echo.pid(), client.pid()])?);
    }
    drop(client);
    wait_until_closed(&mut echo)?;
    Ok(Pass { target, readings })
}

fn reading(connections: usize, running: &Running, helpers: &[u32]) -> Result<Reading> {
    let pids = running.pids()?;
    Ok(Reading {
        connections,
        proxy: procfs::user_memory(&pids)?,
        helpers: procfs::user_memory(helpers)?.pss,
        machine: procfs::machine_memory()?,
        threads: procfs::threads(&pids).0,
    })
}

/// Starts an echo backend and returns where it listens.
pub(super) fn start_echo(paths: &Paths) -> Result<(Helper, SocketAddr)> {
    let mut echo = Helper::start(paths, "echo")?;
    match echo.answer(PATIENCE)? {
        Answer::Listening(address) => Ok((echo, address)),
        other => bail!("the echo backend began with {other:?}"),
    }
}

/// Opens more connections to a target.
pub(super) fn connect(client: &mut Helper, door: &Door, connections: usize) -> Result<()> {
    let order = Order::Connect { door: door.clone(), connections };
    client.ask(&order, PATIENCE).with_context(|| format!("opening {connections} connections"))?;
    Ok(())
}

/// Waits until the echo backend has no connection left, so that targets do not disturb each other.
pub(super) fn wait_until_closed(echo: &mut Helper) -> Result<()> {
    let end = Instant::now() + CLOSE_PATIENCE;
    loop {
        match echo.ask(&Order::Count, PATIENCE)? {
            Answer::Open { connections: 0, .. } => return Ok(()),
            Answer::Open { connections, .. } if Instant::now() > end => {
                bail!(
                    "{connections} connections to the backend are still open {CLOSE_PATIENCE:?} after the clients left"
                )
            }
            Answer::Open { .. } => thread::sleep(super::process::POLL_EVERY),
            other => bail!("the echo backend counted with {other:?}"),
        }
    }
}
