//! `cargo xtask bench relay`: the plan and its rounds.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::control::{Answer, Order, Sample, Window};
use super::memory::{self, connect, start_echo, wait_until_closed};
use super::paths::Paths;
use super::process::Helper;
use super::procfs::CpuTime;
use super::report::{self, Results};
use super::stats::{Summary, summary};
use super::targets::{self, Running, Target};

const CONNECTIONS: [usize; 3] = [1, 100, 1_000];
const PAYLOADS: [usize; 2] = [128, 16 * 1024];
/// Rounds stop here, whatever was planned; what was measured by then is reported.
const TIME_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long the machine is watched at the start of a round while the benchmark does nothing.
const QUIET: Duration = Duration::from_millis(300);

/// `cargo xtask bench relay …`
#[derive(Args)]
pub(super) struct RelayArgs {
    /// A smoke run of less than a minute: too short for numbers to be quoted.
    #[arg(long)]
    quick: bool,
    /// How often every cell is measured [default: 5, quick: 2].
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each measurement of a cell takes [default: 1.5, quick: 0.25].
    #[arg(long)]
    seconds: Option<f64>,
    /// The Sluice to measure, instead of building it.
    #[arg(long)]
    sluice: Option<PathBuf>,
    /// What to measure, instead of everything.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<Target>,
    /// Leaves out the memory of idle connections.
    #[arg(long)]
    no_memory: bool,
}

/// What is going to be measured.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) targets: Vec<Target>,
    pub(super) rounds: usize,
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
    pub(super) memory_rounds: usize,
    /// The two counts of idle connections: two file descriptors each in a proxy, and few may have 20,000.
    pub(super) idle: (usize, usize),
}

impl Plan {
    fn new(args: &RelayArgs) -> Result<Self> {
        let mut targets = if args.targets.is_empty() { Target::ALL.to_vec() } else { args.targets.clone() };
        targets.push(Target::Direct); // everything else is told as what it adds to this
        targets.sort_unstable();
        targets.dedup();
        let (rounds, seconds, warm_up, memory_rounds, idle) =
            if args.quick { (2, 0.25, 80, 1, (200, 1_000)) } else { (5, 1.5, 250, 5, (1_000, 5_000)) };
        let measured = Duration::try_from_secs_f64(args.seconds.unwrap_or(seconds)).context("--seconds")?;
        Ok(Self {
            targets,
            rounds: args.rounds.unwrap_or(rounds).max(1),
            warm_up: Duration::from_millis(warm_up),
            measured,
            memory_rounds: if args.no_memory { 0 } else { memory_rounds },
            idle,
        })
    }
}

/// One combination of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Cell {
    pub(super) payload: usize,
    pub(super) connections: usize,
}

/// All cells, in the order of the tables.
pub(super) fn cells() -> impl Iterator<Item = Cell> {
    PAYLOADS
        .into_iter()
        .flat_map(|payload| CONNECTIONS.into_iter().map(move |connections| Cell { payload, connections }))
}

/// One measurement of one cell.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) round: usize,
    pub(super) target: Target,
    pub(super) cell: Cell,
    pub(super) sample: Sample,
}

/// Something that could not be measured.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    pub(super) target: Target,
    /// What failed of it; `None`: the target as a whole.
    pub(super) cell: Option<String>,
    pub(super) why: String,
}

/// Runs the benchmark and prints its tables; ends well also when an expectation is missed.
pub(super) fn run(args: &RelayArgs) -> Result<()> {
    let plan = Plan::new(args)?;
    let paths = Paths::prepare(args.sluice.as_deref())?;
    let began = Instant::now();
    let mut failures = Vec::new();
    let (records, background) = rounds(&plan, &paths, began, &mut failures)?;
    let passes = memory::measure(&plan, &paths, began, &mut failures);
    let results = Results::new(plan, records, passes, background, failures, began.elapsed());
    print!("{}", report::markdown(&results));
    let file = paths.work.join("relay.json");
    fs::write(&file, serde_json::to_vec_pretty(&results)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("every measurement is in {}", file.display());
    Ok(())
}

/// Measures all cells round by round; also returns the share of the machine that was busy without us.
fn rounds(
    plan: &Plan,
    paths: &Paths,
    began: Instant,
    failures: &mut Vec<Failure>,
) -> Result<(Vec<Record>, Option<Summary>)> {
    let (mut echo, backend) = start_echo(paths)?;
    let mut running = Vec::new();
    for &target in &plan.targets {
        match start_checked(target, paths, backend) {
            Ok(started) => running.push((target, started)),
            Err(error) => failures.push(Failure { target, cell: None, why: format!("{error:#}") }),
        }
    }
    let (mut records, mut background) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        background.push(busy_share()?);
        for connections in CONNECTIONS {
            // Whoever came first in one round comes later in the next, so that drift hits everyone alike.
            let count = running.len();
            running.rotate_left(1.min(count));
            let mut stuck = Vec::new();
            for (target, started) in &running {
                if began.elapsed() > TIME_LIMIT {
                    eprintln!("stopping in round {}: {TIME_LIMIT:?} are over", round + 1);
                    return Ok((records, summary(background)));
                }
                let mut measured = |cell, sample| records.push(Record { round, target: *target, cell, sample });
                if let Err(error) = visit(plan, paths, started, connections, &mut measured) {
                    let cell = Some(format!("{connections} connections, round {}", round + 1));
                    failures.push(Failure { target: *target, cell, why: format!("{error:#}") });
                }
                if let Err(error) = wait_until_closed(&mut echo) {
                    let why = format!("given up after {connections} connections: {error:#}");
                    failures.push(Failure { target: *target, cell: None, why });
                    stuck.push(*target);
                    break;
                }
            }
            running.retain(|(target, _)| !stuck.contains(target));
        }
    }
    Ok((records, summary(background)))
}

/// Starts a target and sees one echo go through it.
fn start_checked(target: Target, paths: &Paths, backend: std::net::SocketAddr) -> Result<Running> {
    let running = targets::start(target, paths, backend)?;
    let mut client = Helper::start(paths, "client")?;
    connect(&mut client, running.address, 1)?;
    running.check_engine(1)?;
    Ok(running)
}

/// Opens connections to one target and measures every payload over them.
fn visit(
    plan: &Plan,
    paths: &Paths,
    target: &Running,
    connections: usize,
    measured: &mut impl FnMut(Cell, Sample),
) -> Result<()> {
    let mut client = Helper::start(paths, "client")?;
    connect(&mut client, target.address, connections)?;
    target.check_engine(connections)?;
    for payload in PAYLOADS {
        let window = Window { payload, warm_up: plan.warm_up, measured: plan.measured, proxy: target.pids.clone() };
        let patience = plan.warm_up + plan.measured + Duration::from_secs(20);
        match client.ask(&Order::Measure(window), patience).with_context(|| format!("{payload} B"))? {
            Answer::Measured(sample) => measured(Cell { payload, connections }, sample),
            other => bail!("the load generator measured {other:?}"),
        }
    }
    Ok(())
}

/// The share (0–1) of the machine that is busy while the benchmark waits.
fn busy_share() -> Result<f64> {
    let before = CpuTime::now()?;
    thread::sleep(QUIET);
    let now = CpuTime::now()?;
    let spent = now.since(&before);
    Ok(spent.busy_us / (spent.elapsed.as_secs_f64() * 1e6 * now.cpus() as f64))
}
