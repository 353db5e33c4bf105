//! Booting kernels, and what becomes of each.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::disk::{self, Task};
use super::findings::{self, Findings, Order};
use super::guest::{Accelerator, End, Limits, Machine};
use super::kernels::{BUSYBOX, Kernel};
use super::packages::Packages;
use super::table::Row;
use super::{folder, programs, ramdisk};
use crate::Outcome;
use crate::test::{Account, tools};

/// Machines at one time. Each has two processors; a test waits for half of its time.
const AT_ONCE: usize = 2;

/// Of the tests on one kernel: several times what they take on two cores that others use as well.
const TEST_LIMITS: Limits = Limits { whole: Duration::from_secs(20 * 60), silence: Duration::from_secs(5 * 60) };

/// Of a command that somebody waits for.
const COMMAND_LIMITS: Limits = Limits { whole: Duration::from_secs(60 * 60), silence: Duration::from_secs(60 * 60) };

/// Kernels that are ready to boot.
pub(super) struct Bench {
    guests: Vec<Guest>,
    disk: PathBuf,
    accelerator: Accelerator,
    /// What each has to do.
    order: Order,
    /// Two runs would write the same files.
    _alone: File,
}

struct Guest {
    series: &'static str,
    image: PathBuf,
    ramdisk: PathBuf,
}

/// What has come of the tests on one kernel.
pub(super) struct Verdict {
    pub(super) series: &'static str,
    pub(super) account: Account,
    release: Option<String>,
    probe: Option<Value>,
    details: Vec<String>,
    took: Duration,
    log: PathBuf,
}

impl Bench {
    /// Builds the programs, fetches the kernels, and makes what they boot into.
    pub(super) fn new(packages: &Packages, kernels: &[Kernel], task: &Task) -> anyhow::Result<Self> {
        let folder = folder();
        for part in ["logs", "ramdisk"] {
            let part = folder.join(part);
            std::fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let alone = File::create(folder.join("lock")).context("cannot make the lock of the virtual machines")?;
        if alone.try_lock().is_err() {
            eprintln!("waiting for another run to end");
            alone.lock().context("cannot take the lock of the virtual machines")?;
        }
        let programs = programs::build()?;
        let busybox = packages.files(&BUSYBOX)?.join("bin/busybox");
        let mut guests = Vec::new();
        for kernel in kernels {
            let unpacked = packages.kernel(kernel)?;
            let ramdisk = folder.join("ramdisk").join(format!("{}.cpio", kernel.series));
            ramdisk::make(&unpacked, &busybox, &folder.join("ramdisk").join(kernel.series), &ramdisk)?;
            guests.push(Guest { series: kernel.series, image: unpacked.image, ramdisk });
        }
        let disk = folder.join("disk.ext4");
        disk::make(&folder.join("disk"), &busybox, &programs, &tools::install(), task, &disk)?;
        let accelerator = guests.first().map_or(Accelerator::Tcg, |guest| {
            Accelerator::find(&guest.image, &guest.ramdisk, &disk, folder.join("logs/trial.log"))
        });
        if accelerator == Accelerator::Tcg {
            eprintln!("note: the processor is emulated, which is about ten times slower than a real one");
        }
        let whole = matches!(task, Task::Tests { filter } if filter.is_empty());
        let order = Order { suites: programs.suites.len(), whole };
        Ok(Self { guests, disk, accelerator, order, _alone: alone })
    }

    fn machine<'a>(&'a self, guest: &'a Guest) -> Machine<'a> {
        Machine {
            kernel: &guest.image,
            ramdisk: &guest.ramdisk,
            disk: &self.disk,
            log: folder().join("logs").join(format!("{}.log", guest.series)),
            accelerator: self.accelerator,
        }
    }

    /// Runs the command in each kernel, one after the other, and shows what it prints.
    pub(super) fn exec(&self) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::Done;
        for guest in &self.guests {
            let machine = self.machine(guest);
            let mut lines = Lines::default();
            let end = machine.run(COMMAND_LIMITS, |piece| {
                lines.each(piece, |line| {
                    if !findings::is_mark(line) {
                        println!("{line}")
                    }
                });
            })?;
            let console = read(&machine.console());
            console.lines().filter(|line| findings::is_complaint(line)).for_each(|line| eprintln!("{line}"));
            let code = findings::exit_code(&read(&machine.log));
            if end != End::Ended || code != Some(0) {
                eprintln!("kernel {}: {end:?}, exit code {code:?}; see {}", guest.series, machine.console().display());
                outcome = Outcome::Failed;
            }
        }
        Ok(outcome)
    }

    /// Runs the tests in all kernels.
    pub(super) fn test(&self) -> anyhow::Result<Vec<Verdict>> {
        let waiting = Mutex::new(self.guests.iter().enumerate());
        let worker = || {
            let mut verdicts = Vec::new();
            loop {
                let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((place, guest)) = next else { return Ok(verdicts) };
                verdicts.push((place, self.test_one(guest)?));
            }
        };
        let verdicts = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
            let ends = workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a run panicked"))));
            ends.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let mut verdicts: Vec<(usize, Verdict)> = verdicts.into_iter().flatten().collect();
        verdicts.sort_by_key(|(place, _)| *place);
        Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
    }

    fn test_one(&self, guest: &Guest) -> anyhow::Result<Verdict> {
        let machine = self.machine(guest);
        let begin = Instant::now();
        let mut lines = Lines::default();
        let end = machine.run(TEST_LIMITS, |piece| {
            lines.each(piece, |line| {
                if is_news(line) {
                    println!("{:<9} {}", guest.series, line.trim())
                }
            });
        })?;
        let (said, console) = (read(&machine.log), read(&machine.console()));
        let Findings { release, probe, account, details } = findings::read(&said, &console, self.order, &end);
        let mut verdict = Verdict {
            series: guest.series,
            account,
            release,
            probe,
            details,
            took: begin.elapsed(),
            log: machine.log.clone(),
        };
        if !verdict.account.holds() {
            for (name, text) in [("the guest", said), ("its kernel", console)] {
                verdict.details.push(format!("the last that {name} printed:"));
                verdict.details.extend(tail(&text));
            }
        }
        Ok(verdict)
    }
}

impl Verdict {
    /// What the documentation should say of this kernel.
    pub(super) fn row(&self) -> Option<Row> {
        Row::new(self.release.as_deref()?, self.probe.as_ref()?)
    }

    /// Shows what failed, if something did.
    pub(super) fn print_details(&self) {
        if !self.account.holds() {
            println!("\nkernel {}, all of it in {}:", self.series, self.log.display());
            self.details.iter().for_each(|line| println!("  {line}"));
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = self.release.as_deref().unwrap_or("did not come up");
        write!(f, "kernel {:<9} {release:<28} {} in {} s", self.series, self.account.sum(), self.took.as_secs())
    }
}

/// Pieces, put together to lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn each(&mut self, piece: &[u8], mut take: impl FnMut(&str)) {
        self.0.extend_from_slice(piece);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            take(String::from_utf8_lossy(&line).trim_end());
        }
        let _what_is_seen_is_no_result = std::io::stdout().flush();
    }
}

/// Whether a line is worth showing while the tests run.
fn is_news(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Running ") || line.starts_with("test result: ") || line.ends_with(" ... FAILED")
}

/// The last lines.
pub(super) fn tail(text: &str) -> Vec<String> {
    const LINES: usize = 40;
    let mut lines: Vec<String> = text.lines().rev().take(LINES).map(str::to_owned).collect();
    lines.reverse();
    lines
}

/// A guest may print anything.
pub(super) fn read(file: &std::path::Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}
