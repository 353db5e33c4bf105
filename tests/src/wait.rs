//! Waiting for conditions.

use std::time::{Duration, Instant};

use crate::variables;

/// How long anything may take that is expected to happen: far more than it takes on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until there is something to see, and returns it.
///
/// # Panics
/// There is nothing after [`PATIENCE`]; the message has `what`.
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        if start.elapsed() > PATIENCE {
            panic!("waited {PATIENCE:?} in vain until {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until a number stops growing: until `window` has passed without a change. Returns it.
///
/// # Panics
/// It grows for longer than [`PATIENCE`].
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn until_still(what: &str, window: Duration, mut look: impl FnMut() -> u64) -> u64 {
    let start = Instant::now();
    let mut last = (look(), Instant::now());
    while last.1.elapsed() < window {
        if start.elapsed() > PATIENCE + window {
            panic!("{what} still grows after {PATIENCE:?}: {}", last.0);
        }
        std::thread::sleep(PAUSE);
        let now = look();
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

/// An amount of bytes to send, or the share of it that this machine sends in a like time.
#[must_use]
pub fn amount(bytes: u64) -> u64 {
    let share = std::env::var(variables::SHARE).ok().and_then(|share| share.parse().ok());
    bytes / share.unwrap_or(1).max(1)
}
