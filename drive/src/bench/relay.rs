//! `cargo xtask bench relay`: the plan, and what a run consists of.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::control::Sample;
use super::memory;
use super::paths::Paths;
use super::report::{self, Results};
use super::rounds;
use super::targets::Target;

const CONNECTIONS: [usize; 3] = [1, 100, 1_000];
pub(super) const PAYLOADS: [usize; 2] = [128, 16 * 1024];

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
    pub(super) memory: memory::Plan,
}

impl Plan {
    fn new(args: &RelayArgs) -> Result<Self> {
        let targets = Target::plain(&args.targets)?;
        let (rounds, seconds, warm_up, memory_rounds, idle) =
            if args.quick { (2, 0.25, 80, 1, (200, 1_000)) } else { (5, 1.5, 250, 5, (1_000, 5_000)) };
        let measured = Duration::try_from_secs_f64(args.seconds.unwrap_or(seconds)).context("--seconds")?;
        Ok(Self {
            memory: memory::Plan {
                targets: targets.clone(),
                rounds: if args.no_memory { 0 } else { memory_rounds },
                idle,
            },
            targets,
            rounds: args.rounds.unwrap_or(rounds).max(1),
            warm_up: Duration::from_millis(warm_up),
            measured,
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
    /// The visit; what has the same number was measured side by side.
    pub(super) visit: usize,
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
    let (records, background) = rounds::measure(&plan, &paths, began, &mut failures)?;
    let passes = memory::measure(&plan.memory, &paths, None, began, &mut failures);
    let results = Results::new(plan, records, passes, background, failures, began.elapsed());
    print!("{}", report::markdown(&results));
    let file = paths.work.join("relay.json");
    fs::write(&file, serde_json::to_vec_pretty(&results)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("every measurement is in {}", file.display());
    Ok(())
}
