//! Starts gates, and starts them again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;

use crate::handoff::wire;

/// The wait before the first restart; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A gate that has lived this long has not failed at its start.
const STABLE: Duration = Duration::from_secs(10);

/// The gate that runs, if one does, and when the next may start.
pub(super) struct GateProcess {
    running: Option<(Child, OwnedFd, Instant)>,
    wait: Duration,
    /// When to start the next gate.
    due: Option<Instant>,
    pub(super) starts: u64,
    /// A gate has been ready since the keeper started.
    pub(super) ever_ready: bool,
}

impl GateProcess {
    pub(super) fn new() -> Self {
        Self { running: None, wait: FIRST_WAIT, due: Some(Instant::now()), starts: 0, ever_ready: false }
    }

    /// The control socket of the gate that runs.
    pub(super) fn control(&self) -> Option<&OwnedFd> {
        self.running.as_ref().map(|(_, control, _)| control)
    }

    /// How long until a gate must be started.
    pub(super) fn next_start(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Starts a gate, a fresh process of this same program. Whatever comes of it, the next is not due before
    /// [`GateProcess::reap`].
    ///
    /// # Errors
    /// The process cannot be started.
    pub(super) fn start(&mut self, user: &str) -> io::Result<()> {
        self.due = None;
        let (ours, theirs) = wire::pair()?;
        // The gate inherits this one descriptor, and no other: all others are close-on-exec.
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
        let child = Command::new("/proc/self/exe")
            .arg0("sluice-gate")
            .args(["gate", "--user", user, "--control", &theirs.as_fd().as_raw_fd().to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        self.running = Some((child, ours, Instant::now()));
        self.starts += 1;
        Ok(())
    }

    /// The gate is gone, or useless: makes sure of it, and sets the time for the next.
    pub(super) fn reap(&mut self) {
        if let Some((mut child, _, since)) = self.running.take() {
            let _ = child.kill();
            match child.wait() {
                Ok(status) => tracing::warn!(%status, pid = child.id(), "the gate has ended; pairs go on"),
                Err(error) => tracing::error!(%error, "cannot wait for the gate"),
            }
            if since.elapsed() >= STABLE {
                self.wait = FIRST_WAIT;
            }
        }
        self.due = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Ends the gate, and starts no other.
    pub(super) fn stop(&mut self) {
        if let Some((mut child, control, _)) = self.running.take() {
            drop(control);
            let _ = child.kill();
            let _ = child.wait();
        }
        self.due = None;
    }
}
