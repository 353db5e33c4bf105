//! `ktls` beside `copy`, measured inside a guest with one emulated processor whose clock counts instructions.
//!
//! With `-icount shift=0` QEMU's clock advances by one nanosecond with each instruction, so times that the guest's
//! kernel measures are numbers of instructions. `docs/benchmarks.md` says what that leaves out.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sluice_tests::certificate::Certificate;

use super::control::{Sample, Window};
use super::guest_report::Results;
use super::memory;
use super::memory::{start_echo, wait_until_closed};
use super::paths::Paths;
use super::procfs;
use super::relay::Cell;
use super::rounds::{busy_share, start_checked, visit_one};
use super::stats::{Summary, summary};
use super::targets::{Running, Target};
use super::tls::Key;

/// What is compared; memory is also compared with that of a direct connection.
const TARGETS: [Target; 2] = [Target::SluiceKtls, Target::SluiceCopy];
/// Alone, and with others to be served in one wake-up.
pub(super) const CONNECTIONS: [usize; 2] = [1, 20];
/// The two counts of idle connections: the guest may open 4,096 files, and handshakes take long there.
const IDLE: (usize, usize) = (50, 400);
/// Begins the line with the results.
pub(super) const MARK: &str = "SLUICE-VM-RESULTS ";

/// How much is measured.
#[derive(Args, Clone, Debug, Serialize)]
pub(super) struct GuestArgs {
    /// How often every cell is measured.
    #[arg(long)]
    pub(super) rounds: usize,
    /// How long each measurement takes, in seconds of the guest's clock.
    #[arg(long)]
    pub(super) seconds: f64,
    /// How often the memory is measured.
    #[arg(long)]
    pub(super) memory_rounds: usize,
}

impl GuestArgs {
    /// As the command line asks for.
    pub(super) fn new(quick: bool, rounds: Option<usize>, seconds: Option<f64>, no_memory: bool) -> Result<Self> {
        let (usual_rounds, usual_seconds, memory_rounds) = if quick { (1, 0.05, 1) } else { (4, 0.1, 2) };
        let seconds = seconds.unwrap_or(usual_seconds);
        Duration::try_from_secs_f64(seconds).context("--seconds")?;
        let rounds = rounds.unwrap_or(usual_rounds).max(1);
        Ok(Self { rounds, seconds, memory_rounds: if no_memory { 0 } else { memory_rounds } })
    }

    /// The arguments that say the same to the program in the guest.
    pub(super) fn words(&self) -> String {
        let Self { rounds, seconds, memory_rounds } = self;
        format!("--rounds {rounds} --seconds {seconds} --memory-rounds {memory_rounds}")
    }
}

/// One measurement.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) round: usize,
    pub(super) target: Target,
    pub(super) cell: Cell,
    pub(super) sample: Sample,
}

/// A loop of always the same instructions, timed again and again, in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Clock {
    pub(super) alone: Summary,
}

/// Measures everything; prints the results as one line.
pub(super) fn run(args: &GuestArgs) -> Result<()> {
    let paths = Paths::of_guest()?;
    let began = Instant::now();
    wait_until_quiet()?;
    let clock = Clock::check()?;
    let certificate = Key::Ecdsa.certificate(&paths)?;
    let records = measure(args, &paths, &certificate)?;
    let plan = memory::Plan {
        targets: [&[Target::Direct], TARGETS.as_slice()].concat(),
        rounds: args.memory_rounds,
        idle: IDLE,
    };
    let mut failures = Vec::new();
    let passes = memory::measure(&plan, &paths, Some(&certificate), began, &mut failures);
    if let Some(failure) = failures.first() {
        bail!("{}: {}", failure.target.name(), failure.why);
    }
    let results = Results::new(args.clone(), clock, procfs::kernel_cipher()?, records, &plan, passes);
    println!("{MARK}{}", serde_json::to_string(&results)?);
    Ok(())
}

/// Waits until the kernel has done what it puts off until after its boot.
fn wait_until_quiet() -> Result<()> {
    /// Of the processor's time: what remains are its timers.
    const BUSY: f64 = 0.05;
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        if busy_share()? < BUSY {
            return Ok(());
        }
    }
    bail!("the guest is still busy with other things after {ATTEMPTS} looks")
}

fn measure(args: &GuestArgs, paths: &Paths, certificate: &Certificate) -> Result<Vec<Record>> {
    let (mut echo, backend) = start_echo(paths)?;
    let mut running = Vec::new();
    for target in TARGETS {
        let started = start_checked(target, paths, backend, Some(certificate));
        running.push((target, started.with_context(|| target.name())?));
        wait_until_closed(&mut echo)?;
    }
    let measured = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let window = Window { payload: 0, every: None, warm_up: measured.mul_f64(0.25), measured, proxy: Vec::new() };
    let mut records = Vec::new();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        for connections in CONNECTIONS {
            for (target, started) in &running {
                let mut keep = |cell, sample| records.push(Record { round, target: *target, cell, sample });
                visit(*target, started, connections, &window, paths, &mut keep)
                    .with_context(|| format!("{}, {connections} connections", target.name()))?;
                wait_until_closed(&mut echo)?;
            }
            // Whoever comes first now comes later the next time.
            running.rotate_left(1);
        }
        running.rotate_left(1);
    }
    Ok(records)
}

/// One visit, with the kernel's own account of whom it got keys from.
fn visit(
    target: Target,
    running: &Running,
    connections: usize,
    window: &Window,
    paths: &Paths,
    keep: &mut impl FnMut(Cell, Sample),
) -> Result<()> {
    let before = procfs::kernel_tls();
    visit_one(paths, running, connections, window.clone(), keep)?;
    let [sending, receiving] = procfs::kernel_tls();
    let keys = [sending - before[0], receiving - before[1]];
    let expected = if target == Target::SluiceKtls { connections as u64 } else { 0 };
    ensure!(keys == [expected; 2], "the kernel got {keys:?} keys for {connections} connections, not {expected} each");
    Ok(())
}

impl Clock {
    /// Times the loop.
    ///
    /// # Errors
    /// It does not always take the same time: this clock does not count instructions.
    fn check() -> Result<Self> {
        /// Some tenths of a second; the timer's interrupts, 250 a second, are then the same in each.
        const TURNS: u64 = 40_000_000;
        /// Greatest less least, as a share of the median.
        const SPREAD: f64 = 0.005;
        let once = || {
            let start = Instant::now();
            let mut number = 1_u64;
            for turn in 0..TURNS {
                number = black_box(number.wrapping_mul(turn | 1));
            }
            start.elapsed().as_secs_f64() * 1e6
        };
        let alone = summary((0..5).map(|_| once())).context("nothing was timed")?;
        let spread = (alone.max - alone.min) / alone.median;
        ensure!(
            spread < SPREAD,
            "a fixed loop takes {:.0} to {:.0} µs: no count of instructions",
            alone.min,
            alone.max
        );
        Ok(Self { alone })
    }
}
