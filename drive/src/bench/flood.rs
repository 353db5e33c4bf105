//! `cargo xtask bench flood`: what clients that do not read, while their backend floods them, do to other connections.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sluice_tests::certificate::Certificate;

use super::control::{Answer, Door, Order, Sample, Window};
use super::flood_report::{self, Results};
use super::guest::MARK;
use super::memory::{connect, start_echo};
use super::paths::Paths;
use super::process::Helper;
use super::procfs;
use super::relay::Failure;
use super::rounds::busy_share;
use super::stats::{Summary, summary};
use super::targets::{self, Running, Target};
use super::tls::Key;
use super::vm;

/// The healthy connections: each sends one message in each interval.
const CONNECTIONS: usize = 100;
const PAYLOAD: usize = 128;
const EVERY: Duration = Duration::from_millis(100);
/// The most floods in an emulated machine: handshakes take long there, and it may open 4,096 files.
const FLOODS_IN_GUEST: usize = 200;
/// No visit begins after this; what was measured by then is reported. A visit to a proxy that hangs takes two minutes.
const TIME_LIMIT: Duration = Duration::from_secs(10 * 60);
/// What opening all the floods may take.
const FLOOD_PATIENCE: Duration = Duration::from_secs(30);
/// What a window may take beyond its time: the load generator waits 10 s for the last echoes.
const WINDOW_PATIENCE: Duration = Duration::from_secs(20);

/// `cargo xtask bench flood …`
#[derive(Args)]
pub(super) struct FloodArgs {
    /// A smoke run of one round: too few for numbers to be quoted.
    #[arg(long)]
    quick: bool,
    /// How often every target is measured [default: 3, quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// How many clients are flooded and do not read.
    #[arg(long, default_value_t = 500)]
    floods: usize,
    /// The Sluice to measure, instead of building it.
    #[arg(long)]
    sluice: Option<PathBuf>,
    /// What to measure, instead of everything.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<Target>,
    /// All clients speak TLS.
    #[arg(long)]
    tls: bool,
    /// Instead of all that: `ktls` beside `copy` on these kernels, in an emulated machine [default: 6.12.117 7.2].
    #[arg(long, value_name = "SERIES", num_args = 0.., conflicts_with_all = ["targets", "tls", "rounds", "quick"])]
    vm: Option<Vec<String>>,
    /// This is that machine.
    #[arg(long, hide = true)]
    in_guest: bool,
}

/// What is going to be measured.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) targets: Vec<Target>,
    /// All clients speak TLS.
    pub(super) tls: bool,
    pub(super) rounds: usize,
    /// Healthy connections, the bytes of their messages, and how often each sends one.
    pub(super) connections: usize,
    pub(super) payload: usize,
    pub(super) every: Duration,
    /// Clients that do not read.
    pub(super) floods: usize,
    /// Without floods; from before the first flood; after that.
    pub(super) quiet: Duration,
    pub(super) filling: Duration,
    pub(super) full: Duration,
}

impl Plan {
    fn new(args: &FloodArgs) -> Result<Self> {
        Ok(Self {
            targets: if args.tls { Target::tls(&args.targets) } else { Target::plain(&args.targets) }?,
            tls: args.tls,
            rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
            connections: CONNECTIONS,
            payload: PAYLOAD,
            every: EVERY,
            floods: args.floods,
            quiet: Duration::from_secs(2),
            filling: Duration::from_secs(5),
            full: Duration::from_secs(2),
        })
    }
}

/// What one visit to one target found.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    /// The healthy connections without floods.
    pub(super) quiet: Sample,
    /// From before the first flood opened.
    pub(super) filling: Sample,
    /// Afterwards.
    pub(super) full: Sample,
    /// What it took to open all floods, in seconds.
    pub(super) opening_seconds: f64,
    /// Bytes that the backend had sent at the end of `filling`, and at the end of `full`.
    pub(super) flooded: [u64; 2],
    /// Memory of all TCP sockets at the end, as a share of what the kernel allows them.
    pub(super) tcp_memory: f64,
    /// For Sluice: pairs that the wanted engine carried at the end, healthy and flooded.
    pub(super) carried: Option<f64>,
}

/// One visit.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) round: usize,
    pub(super) target: Target,
    pub(super) found: Found,
}

/// Runs the benchmark and prints its table; ends well also when an expectation is missed.
pub(super) fn run(args: &FloodArgs) -> Result<()> {
    if let Some(kernels) = &args.vm {
        return vm::flood(kernels, args.floods.min(FLOODS_IN_GUEST), args.sluice.as_deref());
    }
    let plan = Plan::new(args)?;
    let paths = if args.in_guest { Paths::of_guest() } else { Paths::prepare(args.sluice.as_deref()) }?;
    let certificate = plan.tls.then(|| Key::Ecdsa.certificate(&paths)).transpose()?;
    let began = Instant::now();
    let mut failures = Vec::new();
    let (records, background) = measure(&plan, &paths, certificate.as_ref(), began, &mut failures)?;
    let results = Results::new(plan, records, background, failures, began.elapsed());
    if args.in_guest {
        println!("{MARK}{}", serde_json::json!({ "markdown": flood_report::markdown(&results), "results": results }));
        return Ok(());
    }
    print!("{}", flood_report::markdown(&results));
    let file = paths.work.join("flood.json");
    fs::write(&file, serde_json::to_vec_pretty(&results)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("every measurement is in {}", file.display());
    Ok(())
}

/// Measures all rounds; also returns the share (0–1) of the machine that was busy without us.
fn measure(
    plan: &Plan,
    paths: &Paths,
    tls: Option<&Certificate>,
    began: Instant,
    failures: &mut Vec<Failure>,
) -> Result<(Vec<Record>, Option<Summary>)> {
    let (mut records, mut background) = (Vec::new(), Vec::new());
    let mut targets = plan.targets.clone();
    for round in 0..plan.rounds {
        for &target in &targets {
            if began.elapsed() > TIME_LIMIT {
                eprintln!("stopping in round {}: {TIME_LIMIT:?} are over", round + 1);
                return Ok((records, summary(background)));
            }
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, target.name());
            background.push(busy_share()?);
            match visit(plan, paths, tls, target) {
                Ok(found) => records.push(Record { round, target, found }),
                Err(error) => failures.push(Failure {
                    target,
                    cell: Some(format!("round {}", round + 1)),
                    why: format!("{error:#}"),
                }),
            }
        }
        // Whoever comes first now comes later the next time, so that drift hits everyone alike.
        targets.rotate_left(1);
    }
    Ok((records, summary(background)))
}

/// Measures one target with processes of its own. They end with this function, however it ends: those that are
/// flooded first, then the proxy, then the backends.
fn visit(plan: &Plan, paths: &Paths, tls: Option<&Certificate>, target: Target) -> Result<Found> {
    let (_echo, backend) = start_echo(paths)?;
    let (mut flooding, flood) = start_echo(paths)?;
    let running = targets::start(target, paths, backend, Some(flood), tls)?;
    let mut healthy = Helper::start(paths, "client")?;
    connect(&mut healthy, &running.door, plan.connections)?;
    running.check_engine(plan.connections)?;
    let quiet = begin(&mut healthy, plan, plan.quiet, &running).and_then(|()| end(&mut healthy, plan.quiet));
    let quiet = quiet.context("quiet")?;

    let mut flooded = Helper::start(paths, "client")?;
    begin(&mut healthy, plan, plan.filling, &running)?;
    let began = Instant::now();
    let order = Order::Flood { door: flood_door(target, &running, flood), connections: plan.floods };
    flooded.ask(&order, FLOOD_PATIENCE).context("opening the floods")?;
    let opening_seconds = began.elapsed().as_secs_f64();
    let filling = end(&mut healthy, plan.filling).context("filling")?;
    let before = flooded_bytes(&mut flooding, plan.floods)?;

    begin(&mut healthy, plan, plan.full, &running)?;
    let full = end(&mut healthy, plan.full).context("full")?;
    let after = flooded_bytes(&mut flooding, plan.floods)?;
    let (tcp_memory, carried) = (procfs::tcp_memory_share()?, running.carried()?);
    Ok(Found { quiet, filling, full, opening_seconds, flooded: [before, after], tcp_memory, carried })
}

/// Where floods are to be had. Without a proxy, nobody else would send them to their backend.
fn flood_door(target: Target, running: &Running, flood: SocketAddr) -> Door {
    if target == Target::Direct { Door { to: flood, certificate: None } } else { running.door.clone() }
}

/// Lets the healthy connections send.
fn begin(healthy: &mut Helper, plan: &Plan, measured: Duration, running: &Running) -> Result<()> {
    let Plan { payload, every, .. } = *plan;
    let proxy = running.pids()?;
    healthy.tell(&Order::Measure(Window { payload, every: Some(every), warm_up: Duration::ZERO, measured, proxy }))
}

/// Waits for what they have measured.
fn end(healthy: &mut Helper, measured: Duration) -> Result<Sample> {
    match healthy.answer(measured + WINDOW_PATIENCE)? {
        Answer::Measured(sample) => Ok(sample),
        other => bail!("the load generator measured {other:?}"),
    }
}

/// What the backend has sent to those who do not read. Fails unless it has all their connections.
fn flooded_bytes(flooding: &mut Helper, floods: usize) -> Result<u64> {
    match flooding.ask(&Order::Count, WINDOW_PATIENCE)? {
        Answer::Open { connections, flooded } => {
            ensure!(connections == floods, "{connections} of {floods} floods are open at their backend");
            Ok(flooded)
        }
        other => bail!("the flooding backend counted with {other:?}"),
    }
}
