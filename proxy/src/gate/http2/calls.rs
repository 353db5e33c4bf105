//! The streams of one HTTP/2 connection, counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::handoff::stats::{Http2Event, Stats};

/// How long a request that was taken back is remembered: the window of `limits.http2_resets`.
const WINDOW: Duration = Duration::from_secs(10);

/// The streams that are open, and the requests that were taken back before they were answered. Each of those may have
/// cost a connection to a backend, and none of them fills `limits.http2_streams` (CVE-2023-44487).
#[derive(Clone)]
pub(super) struct Calls(Arc<Shared>);

struct Shared {
    open: watch::Sender<usize>,
    /// As many have been open as there may be, and not half as few since then.
    full: AtomicBool,
    resets: Mutex<Resets>,
    /// There were too many resets.
    flood: Notify,
    stats: Arc<Stats>,
}

/// Requests that were taken back, in windows that do not overlap.
#[derive(Debug)]
struct Resets {
    most: u32,
    count: u32,
    since: Option<Instant>,
}

impl Resets {
    /// One more. Whether it is one too many.
    fn add(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.count, self.since) = (0, Some(now));
        }
        self.count = self.count.saturating_add(1);
        self.count > self.most
    }
}

/// One stream that is open.
pub(in crate::gate) struct Counted(Calls);

impl Calls {
    /// `most`: how many requests may be taken back within [`WINDOW`].
    pub(super) fn new(most: u32, stats: Arc<Stats>) -> Self {
        let resets = Mutex::new(Resets { most, count: 0, since: None });
        let (open, full) = (watch::Sender::new(0), AtomicBool::new(false));
        Self(Arc::new(Shared { open, full, resets, flood: Notify::new(), stats }))
    }

    pub(super) fn enter(&self) -> Counted {
        self.0.open.send_modify(|count| *count += 1);
        Counted(self.clone())
    }

    /// Whether as many are open as there may be. It is told once, and again when half of them have been free between.
    pub(super) fn fill(&self, most: usize) -> bool {
        let open = *self.0.open.borrow();
        if open <= most / 2 {
            self.0.full.store(false, Ordering::Relaxed);
        }
        open >= most && !self.0.full.swap(true, Ordering::Relaxed)
    }

    /// Returns when there has been none for so long. Cancelled, it begins anew.
    pub(super) async fn none_for(&self, patience: Duration) {
        let mut count = self.0.open.subscribe();
        loop {
            // The sender is held by `self`.
            let _ = count.wait_for(|count| *count == 0).await;
            if timeout(patience, count.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Returns when too many requests have been taken back. Cancel safe.
    pub(super) async fn flooded(&self) {
        self.0.flood.notified().await;
    }
}

impl Counted {
    /// The client has taken the request back before it was answered.
    pub(super) fn taken_back(&self) {
        let Shared { resets, flood, stats, .. } = &*self.0.0;
        stats.count_http2(Http2Event::Reset);
        if resets.lock().unwrap_or_else(PoisonError::into_inner).add(Instant::now()) {
            flood.notify_one();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.open.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_full_connection_is_told_once_until_half_of_it_is_free() {
        let (_memory, stats) = Stats::create().unwrap();
        let calls = Calls::new(1, Arc::new(stats));
        let mut open = Vec::new();
        let mut enter = |free: usize| {
            open.drain(..free);
            open.push(calls.enter());
            calls.fill(4)
        };
        let told = [0, 0, 0, 0, 1, 1, 3, 0, 0].map(&mut enter);
        assert_eq!(told, [false, false, false, true, false, false, false, false, true]);
    }

    #[test]
    fn more_resets_than_fit_a_window_are_a_flood() {
        let mut resets = Resets { most: 3, count: 0, since: None };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let told: Vec<bool> = [0, 1, 9, 10, 11, 12, 13, 14, 30].map(|second| resets.add(at(second))).into();
        assert_eq!(told, [false, false, false, false, false, false, true, true, false]);
    }
}
