//! The files that the configuration names: read, watched, and sent to every gate.
//!
//! A gate starts with the last files that a gate has found good. Changed ones are sent to the gate that runs, as a
//! candidate: if it can use all of them, they are the good ones from then on.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::config::Config;
use crate::handoff::ToGate;
use crate::handoff::files::{self, FileRole};
use crate::handoff::wire::{self, MAX_FDS};

/// Between two looks. A change counts once it has been the same for two, so that a certificate and a key that are
/// written one after the other are taken together.
const LOOK: Duration = Duration::from_secs(1);

/// What of a file shows that it has changed. `None`: it cannot be looked at.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

fn stamp(seen: &Metadata) -> Stamp {
    Some((seen.dev(), seen.ino(), seen.mtime(), seen.mtime_nsec(), seen.size()))
}

/// When the files have changed.
#[derive(Debug, Default)]
struct Watch {
    /// What was last taken, for better or worse.
    taken: Vec<Stamp>,
    /// What was last seen.
    seen: Vec<Stamp>,
}

impl Watch {
    /// Whether what is seen now is to be taken: it is new, and as it was at the last look, or somebody says so.
    fn changed(&mut self, now: Vec<Stamp>, at_once: bool) -> bool {
        let steady = now == self.seen;
        self.seen = now;
        if !at_once && (!steady || self.seen == self.taken) {
            return false;
        }
        self.taken.clone_from(&self.seen);
        true
    }
}

/// A set of files on trial.
struct Candidate {
    number: u64,
    memory: Vec<OwnedFd>,
}

/// All files.
pub(super) struct Files {
    named: Vec<(FileRole, PathBuf)>,
    /// The good ones, in the order of their names.
    good: Vec<OwnedFd>,
    watch: Watch,
    due: Instant,
    /// SIGHUP has come.
    at_once: bool,
    candidate: Option<Candidate>,
    /// What was taken when a gate ended with a candidate, which is tried on one more.
    lost: Vec<Stamp>,
    last: u64,
    /// Reloads that went well, and that did not.
    pub(super) reloads: [u64; 2],
}

impl Files {
    /// Reads every file.
    ///
    /// # Errors
    /// One cannot be read; the message says which.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let named = files::named(config);
        let (good, taken) = read(&named)?;
        let watch = Watch { seen: taken.clone(), taken };
        let due = Instant::now() + LOOK;
        let (candidate, reloads) = (None, [0; 2]);
        Ok(Self { named, good, watch, due, at_once: false, candidate, lost: Vec::new(), last: 0, reloads })
    }

    /// How long until the next look.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        (!self.named.is_empty()).then(|| self.due.saturating_duration_since(now))
    }

    /// SIGHUP: reads them as soon as possible, whatever they look like.
    pub(super) fn at_once(&mut self) {
        (self.at_once, self.due) = (true, Instant::now());
    }

    /// Sends the good ones to a new gate.
    ///
    /// # Errors
    /// The gate is gone, or takes no more.
    pub(super) fn send(&self, control: &OwnedFd) -> io::Result<()> {
        send(control, &self.named, &self.good)
    }

    /// Looks, when it is time to, and sends what has changed to the gate that runs.
    pub(super) fn look(&mut self, now: Instant, control: Option<&OwnedFd>) {
        let Some(control) = control.filter(|_| now >= self.due && !self.named.is_empty()) else { return };
        self.due = now + LOOK;
        if self.candidate.is_some() {
            return;
        }
        let stamps = self.named.iter().map(|(_, path)| path.metadata().ok().as_ref().and_then(stamp)).collect();
        if !self.watch.changed(stamps, std::mem::take(&mut self.at_once)) {
            return;
        }
        match read(&self.named) {
            Ok((memory, taken)) => {
                self.watch.taken = taken;
                self.try_on(memory, control);
            }
            Err(error) => self.failed(&format!("{error:#}")),
        }
    }

    fn try_on(&mut self, memory: Vec<OwnedFd>, control: &OwnedFd) {
        self.last += 1;
        let sent = send(control, &self.named, &memory)
            .and_then(|()| wire::send(control, &ToGate::Reload { reload: self.last }, &[]));
        match sent {
            Ok(()) => self.candidate = Some(Candidate { number: self.last, memory }),
            Err(error) => {
                // The gate has no room, or ends. What is sent again takes the place of what has been sent.
                tracing::debug!(%error, "cannot send the changed files yet");
                self.watch.taken.clear();
            }
        }
    }

    fn failed(&mut self, why: &str) {
        self.reloads[1] += 1;
        tracing::error!(why, "the files cannot be used; those before them stay in use");
    }

    /// A gate says what has become of a candidate. (If it was not good, the gate's own message says why.)
    pub(super) fn answered(&mut self, number: u64, ok: bool) {
        let Some(candidate) = self.candidate.take_if(|candidate| candidate.number == number) else { return };
        self.reloads[usize::from(!ok)] += 1;
        if ok {
            self.good = candidate.memory;
            tracing::info!(files = self.named.len(), "the files have been read again and are in use");
        }
    }

    /// The gate has ended. Another may try its candidate once more, in case it was not the candidate's fault.
    pub(super) fn gate_lost(&mut self) {
        if self.candidate.take().is_none() {
            return;
        }
        if self.lost == self.watch.taken {
            self.failed("two gates have ended with them");
        } else {
            self.lost = std::mem::take(&mut self.watch.taken);
        }
    }
}

fn send(control: &OwnedFd, named: &[(FileRole, PathBuf)], memory: &[OwnedFd]) -> io::Result<()> {
    for (named, memory) in named.chunks(MAX_FDS).zip(memory.chunks(MAX_FDS)) {
        let roles = named.iter().map(|(role, _)| *role).collect();
        wire::send(control, &ToGate::Files { roles }, &memory.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Copies every file that a configuration names, as a start does.
///
/// # Errors
/// Some cannot be read; the message has all of them.
pub fn read_files(config: &Config) -> anyhow::Result<Vec<(FileRole, OwnedFd)>> {
    let named = files::named(config);
    let (copies, _) = read(&named)?;
    Ok(named.into_iter().map(|(role, _)| role).zip(copies).collect())
}

/// Copies every file, with the stamps of what was copied.
fn read(named: &[(FileRole, PathBuf)]) -> anyhow::Result<(Vec<OwnedFd>, Vec<Stamp>)> {
    let copied: Vec<_> = named.iter().map(|(_, path)| copy(path)).collect();
    let wrong: Vec<String> = copied.iter().filter_map(|copy| Some(format!("{:#}", copy.as_ref().err()?))).collect();
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(copied.into_iter().flatten().unzip())
}

fn copy(path: &Path) -> anyhow::Result<(OwnedFd, Stamp)> {
    let name = path.display();
    // No name is repeated that is a key.
    let text = path.as_os_str().as_encoded_bytes();
    let inline = text.contains(&b'\n') || text.windows(5).any(|window| window == b"-----");
    anyhow::ensure!(!inline, "a setting that names a file holds a key or certificate itself: put it into a file");
    // A pipe that nobody writes to must not hold the keeper up.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file: File = file.with_context(|| match owned_by_others(path) {
        true => format!("cannot open {name}, which is another user's: Sluice reads as its own user, root or not"),
        false => format!("cannot open {name}"),
    })?;
    let seen = file.metadata().with_context(|| format!("cannot look at {name}"))?;
    anyhow::ensure!(seen.is_file(), "{name} is no regular file");
    Ok((files::seal(file).with_context(|| format!("cannot read {name}"))?, stamp(&seen)))
}

/// Root's right to read every file is among those that the keeper gives up.
fn owned_by_others(path: &Path) -> bool {
    path.metadata().is_ok_and(|seen| seen.uid() != rustix::process::geteuid().as_raw())
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
