//! What must be looked at later.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Why a pair is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reason {
    /// A direction waits until its target has accepted what the kernel redirected.
    Drain,
    /// A pair that is being closed.
    Closing,
    /// The idle or the lifetime limit.
    Limit,
    /// The end that the pair has of its own.
    Expiry,
    /// A socket that the `epoll` would not take.
    Watch,
}

impl Reason {
    const ALL: [Self; 5] = [Self::Drain, Self::Closing, Self::Limit, Self::Expiry, Self::Watch];
}

/// A pair's slot and why.
pub(super) type Timer = (u32, Reason);

/// The timers of all pairs: for each pair at most one for each reason.
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, Timer)>,
    set: HashMap<Timer, Instant>,
}

impl Timers {
    /// Sets a timer. Where one is set for this pair and reason already, the earlier one stays.
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        if let Some(before) = self.set.get(&timer) {
            if *before <= at {
                return;
            }
            self.order.remove(&(*before, timer));
        }
        self.set.insert(timer, at);
        self.order.insert((at, timer));
    }

    /// Forgets the timers of a pair.
    pub(super) fn cancel(&mut self, slot: u32) {
        for reason in Reason::ALL {
            if let Some(at) = self.set.remove(&(slot, reason)) {
                self.order.remove(&(at, (slot, reason)));
            }
        }
    }

    /// How long until the next.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.order.first().map(|(at, _)| at.saturating_duration_since(now))
    }

    /// Takes one that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        let (_, timer) = *self.order.first().filter(|(at, _)| *at <= now)?;
        self.order.pop_first();
        self.set.remove(&timer);
        Some(timer)
    }

    /// How many are set.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.order.len(), self.set.len());
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn they_fire_in_order_and_not_early() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(start + 2 * SECOND, (2, Reason::Drain));
        timers.set(start + SECOND, (1, Reason::Drain));
        assert_eq!(timers.next(start), Some(SECOND));
        assert_eq!(timers.due(start), None);
        assert_eq!(timers.due(start + 3 * SECOND), Some((1, Reason::Drain)));
        assert_eq!(timers.due(start + 3 * SECOND), Some((2, Reason::Drain)));
        assert_eq!(timers.due(start + 3 * SECOND), None);
        assert_eq!((timers.next(start), timers.len()), (None, 0));
    }

    #[test]
    fn one_for_each_reason_and_the_earlier_stays() {
        let start = Instant::now();
        let mut timers = Timers::default();
        for after in [3, 1, 2] {
            timers.set(start + after * SECOND, (7, Reason::Closing));
        }
        timers.set(start + 2 * SECOND, (7, Reason::Limit));
        assert_eq!(timers.len(), 2);
        assert_eq!(timers.due(start + SECOND), Some((7, Reason::Closing)));
        assert_eq!(timers.due(start + SECOND), None);
        timers.set(start + 4 * SECOND, (7, Reason::Closing));
        assert_eq!(timers.due(start + 2 * SECOND), Some((7, Reason::Limit)));
        assert_eq!(timers.next(start), Some(4 * SECOND));
    }

    #[test]
    fn a_pair_that_is_gone_leaves_none_behind() {
        let start = Instant::now();
        let mut timers = Timers::default();
        for slot in 0..1_000 {
            timers.set(start + 86_400 * SECOND, (slot % 10, Reason::Limit));
            timers.set(start + 86_400 * SECOND, (slot % 10, Reason::Expiry));
            timers.cancel(slot % 10);
        }
        assert_eq!((timers.len(), timers.next(start)), (0, None));
    }
}
