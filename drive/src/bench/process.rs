//! Starting processes that end with the benchmark, and talking to the helpers among them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Signal};

use super::control::{Answer, Order};
use super::paths::Paths;
use super::procfs;

/// How long a proxy may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// How often a condition is looked at again.
pub(super) const POLL_EVERY: Duration = Duration::from_millis(20);

/// What a helper process does first: end with its parent, and take all the file descriptors that it may have.
pub(super) fn prepare_helper() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    raise_open_files()
}

fn raise_open_files() -> Result<()> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// Replaces this process by a command that gets SIGTERM when the benchmark dies; returns only what went wrong.
/// The signal survives execve (prctl(2)).
pub(super) fn become_command(command: &[String]) -> Result<()> {
    let [program, args @ ..] = command else { bail!("no command given") };
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    raise_open_files()?;
    Err(Command::new(program).args(args).exec()).context(format!("cannot start {program}"))
}

/// A proxy: ended, with all of its processes, when this is dropped.
pub(super) struct Proxy {
    child: Child,
}

impl Proxy {
    /// Starts a command in the foreground; what it prints goes to `log`.
    pub(super) fn start(paths: &Paths, command: &[String], log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(&paths.drive)
            .args(["bench", "die-with-parent", "--"])
            .args(command)
            .current_dir(&paths.work)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start a process")?;
        Ok(Self { child })
    }

    /// Its processes.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        procfs::family(self.child.id())
    }

    /// Fails when it has ended.
    pub(super) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it has ended: {status}"),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let family = self.pids().unwrap_or_else(|_| vec![self.child.id()]);
        kill(self.child.id(), Signal::TERM);
        let end = Instant::now() + GRACE;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(POLL_EVERY);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            family.into_iter().for_each(|pid| kill(pid, Signal::KILL));
            let _ended = self.child.wait();
        }
    }
}

fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A process that is gone already is what was wanted.
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// The echo backend or a load generator: killed when this is dropped.
pub(super) struct Helper {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    name: &'static str,
}

impl Helper {
    /// Starts `sluice-drive bench NAME`.
    pub(super) fn start(paths: &Paths, name: &'static str) -> Result<Self> {
        let mut child = Command::new(&paths.drive)
            .args(["bench", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", paths.drive.display()))?;
        let orders = child.stdin.take().context("a helper has no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("a helper has no standard output")?);
        Ok(Self { child, orders, answers, name })
    }

    /// Gives one order and waits for its answer.
    pub(super) fn ask(&mut self, order: &Order, patience: Duration) -> Result<Answer> {
        self.tell(order)?;
        self.answer(patience)
    }

    /// Gives one order.
    pub(super) fn tell(&mut self, order: &Order) -> Result<()> {
        let name = self.name;
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).with_context(|| format!("the {name} process has ended"))
    }

    /// Waits for an answer; fails when it tells of a failure.
    pub(super) fn answer(&mut self, patience: Duration) -> Result<Answer> {
        let name = self.name;
        if self.answers.buffer().is_empty() {
            let limit = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
            let ready = poll(&mut [PollFd::new(self.answers.get_ref(), PollFlags::IN)], Some(&limit))?;
            ensure!(ready > 0, "the {name} process said nothing for {patience:?}");
        }
        let mut line = String::new();
        let count = self.answers.read_line(&mut line)?;
        ensure!(count > 0, "the {name} process has ended; what it printed above says why");
        match serde_json::from_str(&line)? {
            Answer::Failed(why) => bail!("{why}"),
            done => Ok(done),
        }
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        kill(self.child.id(), Signal::KILL);
        let _ended = self.child.wait();
    }
}
