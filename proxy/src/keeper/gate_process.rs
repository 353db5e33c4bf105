//! Starts gates, and starts them again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags};

use super::heartbeat::Heartbeat;
use super::restarts::Restarts;
use crate::handoff::wire;
use crate::sys::socket;

/// How long a killed gate may take to end before another is started beside it: one that waits for a disk cannot be ended.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// How long a gate may take to become ready: names are looked up and files read, on a machine that is busy.
const START: Duration = Duration::from_secs(300);

/// How long the keeper, told to stop, waits for its gate to end.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Variables of the environment that a gate gets, of those that there are: what it logs and where system certificates are.
const ENVIRONMENT: [&str; 5] = ["RUST_LOG", "RUST_BACKTRACE", "NO_COLOR", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// A gate that runs, or ends.
struct Running {
    /// None: a test's.
    child: Option<Child>,
    /// Readable when the process has ended. None: this kernel cannot tell.
    pidfd: Option<OwnedFd>,
    control: OwnedFd,
    started: Instant,
    ready: bool,
    /// Since when it is to end.
    killed: Option<Instant>,
    /// What it still sends is not to be believed.
    distrusted: bool,
    heartbeat: Heartbeat,
}

/// The gate that runs, if one does, and when the next may start.
pub(super) struct GateProcess {
    running: Option<Running>,
    restarts: Restarts,
    /// Those that could not be ended in time.
    left_behind: Vec<Child>,
    /// When to start the next gate.
    due: Option<Instant>,
    pub(super) starts: u64,
    /// A gate has been ready since the keeper started.
    pub(super) ever_ready: bool,
}

impl GateProcess {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let (restarts, left_behind) = (Restarts::new(now), Vec::new());
        Self { running: None, restarts, left_behind, due: Some(now), starts: 0, ever_ready: false }
    }

    /// The control socket of the gate that runs.
    pub(super) fn control(&self) -> Option<&OwnedFd> {
        self.running.as_ref().map(|running| &running.control)
    }

    /// What tells of the end of the gate's process, where the kernel can.
    pub(super) fn pidfd(&self) -> Option<&OwnedFd> {
        self.running.as_ref()?.pidfd.as_ref()
    }

    /// The gate, as long as it is to go on.
    fn healthy(&self) -> Option<&Running> {
        self.running.as_ref().filter(|running| running.killed.is_none())
    }

    /// The control socket of a gate that can be told something.
    pub(super) fn listening(&self) -> Option<&OwnedFd> {
        self.healthy().map(|running| &running.control)
    }

    /// Whether what it sends is to be read.
    pub(super) fn is_trusted(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.distrusted)
    }

    /// Its process id, and its heartbeat if it is to go on and has been ready.
    pub(super) fn heartbeat(&mut self) -> Option<(Option<u32>, &mut Heartbeat)> {
        let running = self.running.as_mut().filter(|running| running.ready && running.killed.is_none())?;
        Some((running.child.as_ref().map(Child::id), &mut running.heartbeat))
    }

    /// How long until something must be done: a gate be started, asked, or given up.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let start = self.due.map(|due| due.saturating_duration_since(now));
        let beat = self.healthy().map(|running| match running.ready {
            true => running.heartbeat.next(now),
            false => (running.started + START).saturating_duration_since(now),
        });
        let killed = self.running.as_ref().and_then(|running| running.killed);
        let given_up = killed.map(|at| (at + LAST_BREATH).saturating_duration_since(now));
        [start, beat, given_up].into_iter().flatten().min()
    }

    /// Whether it is time to start a gate.
    pub(super) fn must_start(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    /// Whether a gate should have been ready for long.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.healthy().is_some_and(|running| !running.ready && now >= running.started + START)
    }

    /// Whether a gate was killed and does not end.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        let killed = self.running.as_ref().and_then(|running| running.killed);
        killed.is_some_and(|at| now >= at + LAST_BREATH)
    }

    /// Starts a gate, a fresh process of this same program. Whatever comes of it, the next is not due before
    /// [`GateProcess::reap`].
    ///
    /// # Errors
    /// The process cannot be started.
    pub(super) fn start(&mut self, user: Option<&str>) -> io::Result<()> {
        self.due = None;
        self.left_behind.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let (ours, theirs) = wire::pair()?;
        // The gate inherits this one descriptor, and no other: all others are close-on-exec.
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
        let kept = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new("/proc/self/exe")
            .arg0("sluice-gate")
            .args(["gate", "--control", &theirs.as_fd().as_raw_fd().to_string()])
            .args(user.into_iter().flat_map(|user| ["--user", user]))
            .env_clear()
            .envs(kept)
            .stdin(Stdio::null())
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        self.adopt(Some(child), pidfd, ours);
        Ok(())
    }

    fn adopt(&mut self, child: Option<Child>, pidfd: Option<OwnedFd>, control: OwnedFd) {
        let started = Instant::now();
        let (ready, killed, distrusted, heartbeat) = (false, None, false, Heartbeat::new(started));
        self.running = Some(Running { child, pidfd, control, started, ready, killed, distrusted, heartbeat });
        self.starts += 1;
    }

    /// Takes the other end of this socket for a gate.
    #[cfg(any(fuzzing, test))]
    pub(super) fn pretend(&mut self, control: OwnedFd) {
        self.due = None;
        self.adopt(None, None, control);
    }

    /// The gate says that it serves. Returns whether it did not before.
    pub(super) fn is_ready(&mut self) -> bool {
        let Some(running) = self.running.as_mut().filter(|running| !running.ready) else { return false };
        running.ready = true;
        running.heartbeat = Heartbeat::new(Instant::now());
        self.ever_ready = true;
        true
    }

    /// Kills the gate. What it has sent until then can still be read; [`GateProcess::reap`] follows once it has been.
    pub(super) fn kill(&mut self, now: Instant) {
        let Some(running) = &mut self.running else { return };
        if running.killed.is_none() {
            running.killed = Some(now);
            if let Some(child) = &mut running.child {
                let _ = child.kill();
            }
        }
    }

    /// Kills the gate, and believes nothing more of what it has sent.
    pub(super) fn distrust(&mut self, now: Instant) {
        self.kill(now);
        if let Some(running) = &mut self.running {
            running.distrusted = true;
        }
    }

    /// The gate has ended, or takes too long to: sets the time for the next. Returns the control socket.
    pub(super) fn reap(&mut self, now: Instant) -> Option<OwnedFd> {
        let running = self.running.take();
        let was_ready = running.as_ref().is_some_and(|running| running.ready);
        let wait = self.restarts.after(was_ready, now);
        self.due = Some(now + wait);
        let mut running = running?;
        if let Some(mut child) = running.child.take() {
            let _ = child.kill();
            let ended = if running.pidfd.is_some() { child.try_wait() } else { child.wait().map(Some) };
            match ended {
                Ok(Some(status)) => tracing::warn!(%status, pid = child.id(), "the gate has ended; pairs go on"),
                Ok(None) => {
                    tracing::error!(pid = child.id(), "the gate cannot be ended; another is started beside it");
                    self.left_behind.push(child);
                }
                Err(error) => tracing::error!(%error, "cannot wait for the gate"),
            }
        }
        Some(running.control)
    }

    /// Kills the gate, gives it a moment to end, and starts no other.
    pub(super) fn stop(&mut self) {
        self.due = None;
        self.kill(Instant::now());
        let Some(running) = &mut self.running else { return };
        if let Some(pidfd) = &running.pidfd {
            let _ = socket::wait_readable(pidfd, LAST_MOMENT);
        }
        if let Some(child) = &mut running.child {
            let _ = child.try_wait();
        }
    }

    /// Forgets the gate that was stopped. Returns the control socket.
    pub(super) fn forget(&mut self) -> Option<OwnedFd> {
        self.running.take().map(|running| running.control)
    }
}
