//! The queue of lines, and the thread that writes them.
//!
//! Whoever has a line holds the lock for as long as it takes to copy it. Writing happens without the lock, so a write
//! that blocks holds up nobody but the thread. When the queue is full the newest lines are lost.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::limit::{Kind, Limits};
use super::text;
use crate::sys::{privileges, signals};

/// The most bytes that wait. 256 KiB: a thousand lines, while the thread writes as many.
const ROOM: usize = 256 * 1024;

/// What the thread may use of its stack, in bytes: it formats a line and no more.
const STACK: usize = 128 * 1024;

/// See the module.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something for the thread to do.
    filled: Condvar,
    /// The thread has done everything.
    emptied: Condvar,
}

struct State {
    waiting: Vec<u8>,
    /// Lines that found no room since the thread last took what waited.
    lost: u64,
    /// The thread is writing.
    busy: bool,
    thread: Thread,
    limits: Limits,
    limited: bool,
    colored: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// It is started with the first line, when a process has given up what it does not need.
    None,
    Runs,
    /// There is none to be had: what waits is written at the end.
    Refused,
}

/// What the thread takes.
struct Batch {
    lines: Vec<u8>,
    /// Lines that are not among them.
    lost: u64,
}

impl Queue {
    pub(super) const fn new() -> Self {
        let state = State {
            waiting: Vec::new(),
            lost: 0,
            busy: false,
            thread: Thread::None,
            limits: Limits::new(),
            limited: false,
            colored: false,
        };
        Self { state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_colored(&self, colored: bool) {
        self.state().colored = colored;
    }

    pub(super) fn is_colored(&self) -> bool {
        self.state().colored
    }

    pub(super) fn set_limited(&self, limited: bool) {
        self.state().limited = limited;
    }

    /// Whether a line of this kind may be written.
    pub(super) fn admits(&self, kind: Kind, message: impl FnOnce() -> String, now: Instant) -> bool {
        let mut state = self.state();
        if !state.limited {
            return true;
        }
        let nothing_before = state.limits.due().is_none();
        let admitted = state.limits.admits(kind, message, now);
        if nothing_before && !admitted {
            // The thread has a time to wake up at.
            self.filled.notify_one();
        }
        admitted
    }

    /// Puts lines into the queue, each with its end. Never blocks.
    pub(super) fn push(&'static self, lines: &[u8]) {
        let mut state = self.state();
        if state.thread == Thread::None {
            state.thread = start(self);
        }
        if state.waiting.len() + lines.len() > ROOM {
            let count = count(lines);
            state.lost += count;
            drop(state);
            return super::lost(count);
        }
        state.waiting.extend_from_slice(lines);
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until all has been written, which also tells what was left out.
    pub(super) fn flush(&self, until: Instant) {
        let mut state = self.state();
        state.tell_left_out();
        if state.thread != Thread::Runs {
            let lines = std::mem::take(&mut state.waiting);
            drop(state);
            let _at_the_end = write_all(io::stderr(), &lines);
            return;
        }
        self.filled.notify_one();
        while state.busy || !state.waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for lines.
    fn next(&self) -> Batch {
        let mut state = self.state();
        state.busy = false;
        loop {
            let now = Instant::now();
            let due = state.limits.due();
            if due.is_some_and(|due| due <= now) {
                state.tell_left_out();
            }
            if !state.waiting.is_empty() {
                state.busy = true;
                return Batch { lines: std::mem::take(&mut state.waiting), lost: std::mem::take(&mut state.lost) };
            }
            self.emptied.notify_all();
            state = match due.map(|due| due.saturating_duration_since(now).max(MOMENT)) {
                Some(left) => self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The shortest sleep of the thread.
const MOMENT: Duration = Duration::from_millis(1);

impl State {
    fn tell_left_out(&mut self) {
        for said in self.limits.report() {
            self.waiting.extend(text::one_line(text::own("INFO", &said).as_bytes(), false));
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn start(queue: &'static Queue) -> Thread {
    let run = move || {
        // Signals are for the other threads; SIGXFSZ, which a file that may not grow raises, for nobody.
        signals::block_all();
        // It only writes to a descriptor that is open. (Without capabilities it has none to give up.)
        let _ = privileges::drop_capabilities_of_thread();
        write_lines(queue, io::stderr());
    };
    match std::thread::Builder::new().name("sluice-log".into()).stack_size(STACK).spawn(run) {
        Ok(_) => Thread::Runs,
        Err(_) => Thread::Refused,
    }
}

/// Writes lines for ever.
fn write_lines(queue: &Queue, to: impl AsFd) {
    let mut writer = Writer { to, untold: 0, cut: false };
    loop {
        super::lost(writer.write(queue.next()));
    }
}

/// What is known of standard error between two batches.
struct Writer<F> {
    to: F,
    /// Lines that were lost and that it has not been told of.
    untold: u64,
    /// The last line that it took has no end.
    cut: bool,
}

impl<F: AsFd> Writer<F> {
    /// Writes a batch, for as long as it takes, with a line before it and one behind it that tell of lost lines. Returns
    /// how many lines of the batch are lost because standard error does not take them.
    fn write(&mut self, Batch { lines, lost }: Batch) -> u64 {
        let mut bytes = if self.cut { b"\n".to_vec() } else { Vec::new() };
        bytes.extend(told(self.untold));
        let begin = bytes.len();
        bytes.extend_from_slice(&lines);
        let end = bytes.len();
        bytes.extend(told(lost));
        let (written, result) = write_all(&self.to, &bytes);
        if let Some(last) = written.checked_sub(1) {
            self.cut = bytes.get(last) != Some(&b'\n');
        }
        let gone = count(bytes.get(written.clamp(begin, end)..end).unwrap_or_default());
        self.untold = match (result, written >= begin) {
            (Ok(()), _) => 0,
            (Err(_), true) => gone + lost,
            (Err(_), false) => self.untold + gone + lost,
        };
        gone
    }
}

/// The line that says that so many were lost; nothing for none.
fn told(lost: u64) -> Vec<u8> {
    if lost == 0 {
        return Vec::new();
    }
    let said = format!("log lines were lost: standard error did not take them lines={lost}");
    text::one_line(text::own("WARN", &said).as_bytes(), false)
}

/// What a pipe takes as a whole or not at all, in bytes (PIPE_BUF of Linux; pipe(7)).
const PIPE_BUF: usize = 4096;

/// As many of the lines at the front as a pipe takes as a whole: the gate and the keeper write to the same one. Of a line
/// that is longer, all.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = |part: &[u8]| part.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
    let fit = bytes.get(..PIPE_BUF).map(end);
    match fit {
        None => bytes,
        Some(Some(end)) => bytes.get(..end).unwrap_or(bytes),
        Some(None) => bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or(bytes),
    }
}

/// Writes all bytes, for as long as it takes. How many were written, and what went wrong.
fn write_all(to: impl AsFd, bytes: &[u8]) -> (usize, Result<(), Errno>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match rustix::io::write(&to, whole_lines(rest)) {
            Ok(0) => return (written, Err(Errno::IO)),
            Ok(some) => written += some,
            Err(Errno::INTR) => {}
            // Somebody with the same pipe or terminal has set O_NONBLOCK, which is a flag of it and not of ours.
            Err(Errno::AGAIN) => {
                let _ready = rustix::event::poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
