//! `cargo xtask bench tls`: the plan, and what a run consists of.

use std::fmt::{self, Display};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use sluice_tests::certificate::Certificate;

use super::control::Handshakes;
use super::guest::GuestArgs;
use super::handshakes;
use super::memory;
use super::paths::Paths;
use super::targets::Target;
use super::tls_report::{self, Results};
use super::vm;

/// `cargo xtask bench tls …`
#[derive(Args)]
pub(super) struct TlsArgs {
    /// A smoke run of less than a minute: too short for numbers to be quoted.
    #[arg(long)]
    quick: bool,
    /// How often everything is measured [default: 5, quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each measurement of handshakes takes [default: 2, quick: 0.5].
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
    /// Leaves out the handshakes.
    #[arg(long)]
    no_handshakes: bool,
    /// Instead of all that: `ktls` beside `copy` on these kernels, in an emulated machine [default: 6.12.117 7.2].
    #[arg(long, value_name = "SERIES", num_args = 0.., conflicts_with_all = ["targets", "no_handshakes"])]
    vm: Option<Vec<String>>,
}

/// What is going to be measured.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) targets: Vec<Target>,
    pub(super) rounds: usize,
    /// Visitors that are under way at any time.
    pub(super) at_once: usize,
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
    pub(super) memory: memory::Plan,
}

impl Plan {
    fn new(args: &TlsArgs) -> Result<Self> {
        let targets = Target::tls(&args.targets)?;
        let (rounds, seconds, warm_up, idle) =
            if args.quick { (1, 0.5, 200, (200, 1_000)) } else { (5, 2.0, 500, (1_000, 5_000)) };
        let rounds = args.rounds.unwrap_or(rounds).max(1);
        let measured = Duration::try_from_secs_f64(args.seconds.unwrap_or(seconds)).context("--seconds")?;
        Ok(Self {
            memory: memory::Plan { targets: targets.clone(), rounds: if args.no_memory { 0 } else { rounds }, idle },
            rounds: if args.no_handshakes { 0 } else { rounds },
            targets,
            at_once: 32,
            warm_up: Duration::from_millis(warm_up),
            measured,
        })
    }
}

/// The certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Key {
    /// ECDSA on P-256.
    Ecdsa,
    /// RSA of 2048 bits.
    Rsa,
}

impl Key {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Ecdsa, Self::Rsa];

    /// Makes a certificate in a folder of its own.
    pub(super) fn certificate(self, paths: &Paths) -> Result<Certificate> {
        let folder = paths.work.join(if self == Self::Ecdsa { "ecdsa" } else { "rsa" });
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let made = if self == Self::Ecdsa { Certificate::make(&folder) } else { Certificate::make_rsa(&folder) }?;
        // HAProxy looks for the key of cert.pem in cert.pem.key.
        fs::copy(&made.key, made.certificate.with_extension("pem.key")).context("cannot copy the key")?;
        Ok(made)
    }
}

/// One kind of handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Kind {
    pub(super) key: Key,
    pub(super) resume: bool,
}

/// All kinds, in the order of the tables.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    Key::ALL.into_iter().flat_map(|key| [false, true].map(|resume| Kind { key, resume }))
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key == Key::Ecdsa { "ECDSA P-256" } else { "RSA 2048" };
        write!(f, "{key}, {}", if self.resume { "resumed" } else { "full" })
    }
}

/// One measurement of handshakes.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) target: Target,
    pub(super) kind: Kind,
    pub(super) found: Handshakes,
}

/// Runs the benchmark and prints its tables; ends well also when an expectation is missed.
pub(super) fn run(args: &TlsArgs) -> Result<()> {
    if let Some(kernels) = &args.vm {
        let guest = GuestArgs::new(args.quick, args.rounds, args.seconds, args.no_memory)?;
        return vm::tls(kernels, &guest, args.sluice.as_deref());
    }
    let plan = Plan::new(args)?;
    let paths = Paths::prepare(args.sluice.as_deref())?;
    let began = Instant::now();
    let mut failures = Vec::new();
    let certificate = Key::Ecdsa.certificate(&paths)?;
    let passes = memory::measure(&plan.memory, &paths, Some(&certificate), began, &mut failures);
    let (records, background) = handshakes::measure(&plan, &paths, began, &mut failures)?;
    let results = Results::new(plan, records, passes, background, failures, began.elapsed());
    print!("{}", tls_report::markdown(&results));
    let file = paths.work.join("tls.json");
    fs::write(&file, serde_json::to_vec_pretty(&results)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("every measurement is in {}", file.display());
    Ok(())
}
