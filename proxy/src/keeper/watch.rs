//! A watch over the keeper's threads: none may wait for anybody but `epoll`.
//!
//! What a gate hands over can be made to wait: a socket with SO_LINGER holds up whoever closes it last, also one that
//! lies inside of a message that is thrown away (SCM_RIGHTS). Such waits can be interrupted by a signal, so a thread that
//! has been at one thing for too long gets one. While nobody works the watch sleeps and wakes nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::clock::now_ns;
use crate::sys::threads::Thread;

/// How long a thread may be at one thing. 100 ms: a turn takes well below a millisecond, and a pair that waits for it
/// does not notice much less.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// How often to say that a turn took too long.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Since when each watched thread has been at what it does, in nanoseconds of the monotonic clock; 0: it waits for work.
#[derive(Debug, Default)]
struct Shared {
    since: [AtomicU64; 2],
    /// The watch sleeps until it is woken.
    asleep: AtomicBool,
    /// Threads that are still to be watched.
    left: AtomicUsize,
}

/// One watched thread's own end.
#[derive(Debug)]
pub(super) struct Watched {
    place: usize,
    shared: Arc<Shared>,
    watch: thread::Thread,
}

impl Watched {
    /// The thread begins something.
    pub(super) fn begin(&self) {
        self.store(now_ns().max(1));
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.watch.unpark();
        }
    }

    /// It is done. Returns how long it took.
    pub(super) fn end(&self) -> Duration {
        let since = self.shared.since.get(self.place).map_or(0, |since| since.load(Ordering::SeqCst));
        self.store(0);
        Duration::from_nanos(if since == 0 { 0 } else { now_ns().saturating_sub(since) })
    }

    fn store(&self, since: u64) {
        if let Some(cell) = self.shared.since.get(self.place) {
            cell.store(since, Ordering::SeqCst);
        }
    }
}

/// Starts the watch over two threads.
///
/// # Errors
/// There is no room for a thread.
pub(super) fn over(threads: [Thread; 2]) -> std::io::Result<[Watched; 2]> {
    let shared = Arc::new(Shared { left: AtomicUsize::new(threads.len()), ..Shared::default() });
    let watched = Arc::clone(&shared);
    let watch = thread::Builder::new().name("sluice-watch".into()).spawn(move || {
        while watched.left.load(Ordering::SeqCst) > 0 {
            // Whoever begins after this wakes the watch; whoever began before it is seen here.
            watched.asleep.store(true, Ordering::SeqCst);
            if watched.since.iter().all(|since| since.load(Ordering::SeqCst) == 0) {
                thread::park();
            } else {
                watched.asleep.store(false, Ordering::SeqCst);
                thread::sleep(PATIENCE);
                look(&watched, threads);
            }
        }
    })?;
    let end = |place| Watched { place, shared: Arc::clone(&shared), watch: watch.thread().clone() };
    Ok([end(0), end(1)])
}

/// Interrupts whoever has been at one thing for too long.
fn look(shared: &Shared, threads: [Thread; 2]) {
    for (since, thread) in shared.since.iter().zip(threads) {
        let since = since.load(Ordering::SeqCst);
        if since != 0 && now_ns().saturating_sub(since) >= PATIENCE.as_nanos() as u64 {
            thread.interrupt();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.store(0);
        self.shared.left.fetch_sub(1, Ordering::SeqCst);
        self.watch.unpark();
    }
}

/// Counts turns of the keeper's loop that took too long.
#[derive(Debug, Default)]
pub(super) struct SlowTurns {
    pub(super) count: u64,
    said: Option<(Instant, u64)>,
}

impl SlowTurns {
    /// A turn took so long. Returns whether it was too long.
    pub(super) fn note(&mut self, took: Duration, now: Instant) -> bool {
        if took < PATIENCE {
            return false;
        }
        self.count += 1;
        if self.said.is_none_or(|(at, _)| now.saturating_duration_since(at) >= SAY_AGAIN) {
            let since_said = self.count - self.said.map_or(0, |(_, count)| count);
            self.said = Some((now, self.count));
            let took = took.as_millis() as u64;
            tracing::warn!(took_ms = took, slow_turns = since_said, "a turn of the keeper's loop took too long");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn slow_turns_are_counted_and_told_now_and_then() {
        let (mut slow, start) = (SlowTurns::default(), Instant::now());
        assert!(!slow.note(PATIENCE / 2, start));
        assert!(slow.note(PATIENCE, start) && slow.note(PATIENCE * 2, start + PATIENCE));
        assert_eq!((slow.count, slow.said), (2, Some((start, 1))));
        slow.note(PATIENCE, start + SAY_AGAIN);
        assert_eq!((slow.count, slow.said), (3, Some((start + SAY_AGAIN, 3))));
    }
}
