//! Clocks.

use std::time::UNIX_EPOCH;

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC_COARSE in nanoseconds, the clock of `DirCounters::last_activity_ns`.
#[must_use]
pub fn now_coarse_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// CLOCK_MONOTONIC in nanoseconds.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Milliseconds since the Unix epoch; 0 before it.
#[must_use]
pub fn epoch_ms() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64)
}
