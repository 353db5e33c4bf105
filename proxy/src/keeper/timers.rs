//! What must be looked at later.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Why a pair is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// A direction waits until its target has accepted what the kernel redirected.
    Drain,
    /// A pair that is being closed.
    Closing,
    /// The idle or the lifetime limit.
    Limit,
    /// The end that the pair has of its own.
    Expiry,
}

/// A pair and why. `generation` tells it from a later tenant of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) reason: Reason,
}

/// The timers of all pairs. A timer that is no longer wanted is ignored by its receiver when it fires.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Instant, Timer)>>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.0.push(Reverse((at, timer)));
    }

    /// How long until the next.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.0.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
    }

    /// Takes one that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        let Reverse((at, _)) = self.0.peek()?;
        if *at > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, timer))| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_fire_in_order_and_not_early() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let timer = |slot| Timer { slot, generation: 0, reason: Reason::Drain };
        let mut timers = Timers::default();
        timers.set(start + 2 * second, timer(2));
        timers.set(start + second, timer(1));
        assert_eq!(timers.next(start), Some(second));
        assert_eq!(timers.due(start), None);
        assert_eq!(timers.due(start + 3 * second), Some(timer(1)));
        assert_eq!(timers.due(start + 3 * second), Some(timer(2)));
        assert_eq!(timers.due(start + 3 * second), None);
        assert_eq!(timers.next(start), None);
    }
}
