//! The rounds of echo round trips: every target in turn, again and again.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_tests::certificate::Certificate;

use super::control::{Answer, Order, Sample, Window};
use super::memory::{connect, start_echo, wait_until_closed};
use super::paths::Paths;
use super::process::Helper;
use super::procfs::CpuTime;
use super::relay::{Cell, Failure, PAYLOADS, Plan, Record};
use super::stats::{Summary, summary};
use super::targets::{self, Running, Target};

/// The visits of one round: connections, and the share of the planned time.
///
/// With one connection the cost of a round trip hangs on whether the scheduler keeps its processes on one CPU, and
/// stays so for a while. More and shorter visits see more of its choices.
const VISITS: [(usize, f64); 5] = [(1, 0.5), (100, 1.0), (1, 0.5), (1_000, 1.0), (1, 0.5)];
/// No visit begins after this; what was measured by then is reported.
const TIME_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long the machine is watched at the start of a round while the benchmark does nothing.
const QUIET: Duration = Duration::from_millis(300);

/// Measures all cells; also returns the share (0–1) of the machine that was busy without us.
pub(super) fn measure(
    plan: &Plan,
    paths: &Paths,
    began: Instant,
    failures: &mut Vec<Failure>,
) -> Result<(Vec<Record>, Option<Summary>)> {
    let (echo, backend) = start_echo(paths)?;
    let mut rounds = Rounds { plan, paths, echo, running: Vec::new(), records: Vec::new(), failures };
    rounds.start(backend);
    let mut background = Vec::new();
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        background.push(busy_share()?);
        for (index, (connections, share)) in VISITS.into_iter().enumerate() {
            if began.elapsed() > TIME_LIMIT {
                eprintln!("stopping in round {}: {TIME_LIMIT:?} are over", round + 1);
                return Ok((rounds.records, summary(background)));
            }
            rounds.visit_all(round * VISITS.len() + index, connections, plan.measured.mul_f64(share));
            rounds.rotate(1);
        }
        // Five visits and five targets: without this, the order would be the same in every round.
        rounds.rotate(1);
    }
    Ok((rounds.records, summary(background)))
}

struct Rounds<'run> {
    plan: &'run Plan,
    paths: &'run Paths,
    echo: Helper,
    running: Vec<(Target, Running)>,
    records: Vec<Record>,
    failures: &'run mut Vec<Failure>,
}

impl Rounds<'_> {
    fn start(&mut self, backend: SocketAddr) {
        for &target in &self.plan.targets {
            match start_checked(target, self.paths, backend, None) {
                Ok(started) => self.running.push((target, started)),
                Err(error) => self.failures.push(Failure { target, cell: None, why: format!("{error:#}") }),
            }
        }
    }

    /// Whoever comes first now comes later the next time, so that drift hits everyone alike.
    fn rotate(&mut self, by: usize) {
        let count = self.running.len();
        self.running.rotate_left(by.min(count));
    }

    fn visit_all(&mut self, visit: usize, connections: usize, measured: Duration) {
        let mut stuck = None;
        for (target, running) in &self.running {
            let target = *target;
            let window = Window { payload: 0, every: None, warm_up: self.plan.warm_up, measured, proxy: Vec::new() };
            let mut keep = |cell, sample| self.records.push(Record { visit, target, cell, sample });
            if let Err(error) = visit_one(self.paths, running, connections, window, &mut keep) {
                let cell = Some(format!("{connections} connections, visit {visit}"));
                self.failures.push(Failure { target, cell, why: format!("{error:#}") });
            }
            if let Err(error) = wait_until_closed(&mut self.echo) {
                let why = format!("given up after {connections} connections: {error:#}");
                self.failures.push(Failure { target, cell: None, why });
                stuck = Some(target);
                break;
            }
        }
        // Ending a proxy that does not close its connections closes them.
        self.running.retain(|(target, _)| Some(*target) != stuck);
    }
}

/// Starts a target and sees one echo go through it.
pub(super) fn start_checked(
    target: Target,
    paths: &Paths,
    backend: SocketAddr,
    tls: Option<&Certificate>,
) -> Result<Running> {
    let running = targets::start(target, paths, backend, None, tls)?;
    let mut client = Helper::start(paths, "client")?;
    connect(&mut client, &running.door, 1)?;
    running.check_engine(1)?;
    Ok(running)
}

/// Opens connections to one target and measures every payload over them.
pub(super) fn visit_one(
    paths: &Paths,
    target: &Running,
    connections: usize,
    window: Window,
    keep: &mut impl FnMut(Cell, Sample),
) -> Result<()> {
    let mut client = Helper::start(paths, "client")?;
    connect(&mut client, &target.door, connections)?;
    target.check_engine(connections)?;
    let window = Window { proxy: target.pids()?, ..window };
    let patience = window.warm_up + window.measured + Duration::from_secs(20);
    for payload in PAYLOADS {
        let order = Order::Measure(Window { payload, ..window.clone() });
        match client.ask(&order, patience).with_context(|| format!("{payload} B"))? {
            Answer::Measured(sample) => keep(Cell { payload, connections }, sample),
            other => bail!("the load generator measured {other:?}"),
        }
    }
    Ok(())
}

/// The share (0–1) of the machine that is busy while the benchmark waits.
pub(super) fn busy_share() -> Result<f64> {
    let before = CpuTime::now()?;
    thread::sleep(QUIET);
    let now = CpuTime::now()?;
    let spent = now.since(&before);
    Ok(spent.busy_us / (spent.elapsed.as_secs_f64() * 1e6 * now.cpus() as f64))
}
