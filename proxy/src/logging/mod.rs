//! Log lines, and whatever else goes to standard error.
//!
//! A line is put into a bounded queue, from which a thread of its own writes ([`queue`]). So standard error that is
//! full, closed, or read by nobody holds nothing up and fails nothing: the lines are lost, counted ([`count_into`]),
//! and told as soon as standard error takes lines again. Lines about one connection are those that strangers cause;
//! when they come too often, some are left out ([`limit`]).

mod limit;
mod queue;
mod text;

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use queue::Queue;
pub use text::{Shown, shown};

/// How long the end of the process waits for its last lines to be written. 1 s: they take microseconds, unless nobody
/// reads them.
const PATIENCE: Duration = Duration::from_secs(1);

/// The lines of this process.
static QUEUE: Queue = Queue::new();

/// Counts lines that are lost.
type Counter = Box<dyn Fn(u64) + Send + Sync>;
static COUNTER: OnceLock<Counter> = OnceLock::new();
/// Those that were lost before there was a counter.
static EARLY: AtomicU64 = AtomicU64::new(0);

/// Sends the lines that the filter lets pass to standard error, and what the panic of a thread says. Call once.
pub fn init(filter: EnvFilter) {
    let color = io::stderr().is_terminal();
    QUEUE.set_colored(color);
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Line)
        .with_ansi(color)
        // Its own words for that go to standard error by a macro that panics.
        .log_internal_errors(false);
    // Fails only when it is called twice.
    let _ = format.finish().with(limit::Limit::new(&QUEUE)).try_init();
    QUEUE.set_limited(!tracing::enabled!(tracing::Level::DEBUG));
    std::panic::set_hook(Box::new(|panic| {
        let said = text::own("ERROR", &format!("a thread panicked: {panic}"));
        QUEUE.push(&text::one_line(said.as_bytes(), false));
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            QUEUE.push(&text::lines(&backtrace.to_string()));
        }
    }));
}

/// Writes text to standard error as it is, behind the lines before it.
pub fn print(said: &str) {
    QUEUE.push(&text::lines(said));
}

/// Has lines that are lost counted by this. Call once.
pub fn count_into(counter: impl Fn(u64) + Send + Sync + 'static) {
    // Tests have several gates in one process.
    let _ = COUNTER.set(Box::new(counter));
    lost(EARLY.swap(0, Ordering::Relaxed));
}

fn lost(lines: u64) {
    match COUNTER.get() {
        Some(count) if lines > 0 => count(lines),
        Some(_) => {}
        None => drop(EARLY.fetch_add(lines, Ordering::Relaxed)),
    }
}

/// Waits until every line has been written, or for a second.
pub fn flush() {
    QUEUE.flush(Instant::now() + PATIENCE);
}

/// Flushes when it is dropped, which `main` does last, whether it returns or panics.
#[derive(Debug, Default)]
pub struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush();
    }
}

/// What the subscriber writes a line to: the whole line in one call.
struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.push(&text::one_line(line, QUEUE.is_colored()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
