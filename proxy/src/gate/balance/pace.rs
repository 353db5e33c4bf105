//! When things happen: checks, and how much a server gets that has just come up.

use std::time::{Duration, Instant};

use super::unit;

/// What a server begins with of its weight: enough to be tried by somebody.
const BEGINNING: f64 = 0.1;

/// Later than all that matters, and never an overflow: no duration that can be written is an error here.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

/// That much later.
pub(super) fn after(now: Instant, span: Duration) -> Instant {
    now.checked_add(span.min(FAR)).unwrap_or(now)
}

/// The share of its weight that a server has which came up at `up_since`: from a tenth, evenly, to all of it after
/// `slow_start`. All of it for one that is up since the start, or without a slow start.
pub(in crate::gate) fn share(up_since: Option<Instant>, now: Instant, slow_start: Option<Duration>) -> f64 {
    let (Some(since), Some(span)) = (up_since, slow_start) else { return 1.0 };
    let done = now.saturating_duration_since(since).as_secs_f64() / span.as_secs_f64();
    // Of 0 by 0, too.
    if done < 1.0 { BEGINNING + (1.0 - BEGINNING) * done } else { 1.0 }
}

/// When a server is checked first: at any moment of one interval, so that not all are at once. One that has been found
/// while running is checked at once instead: it is of no use before.
pub(in crate::gate) fn first_check(now: Instant, interval: Duration, random: u64) -> Instant {
    after(now, interval.min(FAR).mul_f64(unit(random)))
}

/// When a server is checked next, whose check began `now`: after an interval that is up to `jitter` (a share) of itself
/// shorter or longer.
pub(in crate::gate) fn next_check(now: Instant, interval: Duration, jitter: f64, random: u64) -> Instant {
    let factor = 1.0 + jitter * (2.0 * unit(random) - 1.0);
    after(now, interval.min(FAR).mul_f64(factor.max(0.0)))
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
