//! When the next gate is started: pure rules, `now` passed in.

use std::time::{Duration, Instant};

/// The wait behind the first gate that did not become ready; it doubles with each in a row.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Gates that were ready and ended may be replaced at once so often in a row: a client that finds a way to end one must
/// do so again and again to be noticed by others.
const AT_ONCE: u32 = 10;
/// One more of these comes back after so long. 1 s: a start takes about 100 ms of a processor.
const COMES_BACK: Duration = Duration::from_secs(1);

/// What has become of the gates so far.
#[derive(Debug)]
pub(super) struct Restarts {
    /// Gates in a row that did not become ready.
    failed: u32,
    /// Of [`AT_ONCE`], those used up; and since when none has come back.
    used: u32,
    since: Instant,
}

impl Restarts {
    pub(super) fn new(now: Instant) -> Self {
        Self { failed: 0, used: 0, since: now }
    }

    /// How long to wait with the next gate behind one that has ended now.
    pub(super) fn after(&mut self, was_ready: bool, now: Instant) -> Duration {
        if !was_ready {
            self.failed = self.failed.saturating_add(1);
            let doublings = self.failed.saturating_sub(1).min(16);
            return (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT);
        }
        self.failed = 0;
        self.come_back(now);
        if self.used < AT_ONCE {
            self.used += 1;
            return Duration::ZERO;
        }
        // The one that comes back next is taken now.
        let wait = (self.since + COMES_BACK).saturating_duration_since(now);
        self.since += COMES_BACK;
        wait
    }

    fn come_back(&mut self, now: Instant) {
        while self.used > 0 && now.saturating_duration_since(self.since) >= COMES_BACK {
            self.used -= 1;
            self.since += COMES_BACK;
        }
        if self.used == 0 {
            self.since = self.since.max(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_was_ready_is_replaced_at_once() {
        let start = Instant::now();
        let mut restarts = Restarts::new(start);
        for round in 0..100 {
            let now = start + COMES_BACK * round;
            assert_eq!(restarts.after(true, now), Duration::ZERO, "round {round}");
        }
    }

    #[test]
    fn a_crash_loop_of_ready_gates_is_held_to_one_a_second() {
        let start = Instant::now();
        let (mut restarts, mut now, mut starts) = (Restarts::new(start), start, 0);
        while now < start + Duration::from_secs(100) {
            // Each is ready after a moment, and ends right behind that.
            now += restarts.after(true, now) + Duration::from_millis(60);
            starts += 1;
        }
        assert!((100..=115).contains(&starts), "{starts} starts in 100 s");
        assert_eq!(restarts.after(true, now + AT_ONCE * COMES_BACK * 2), Duration::ZERO);
    }

    #[test]
    fn the_wait_doubles_behind_gates_that_never_become_ready() {
        let now = Instant::now();
        let mut restarts = Restarts::new(now);
        let waits: Vec<u128> = (0..9).map(|_| restarts.after(false, now).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(restarts.after(true, now), Duration::ZERO);
        assert_eq!(restarts.after(false, now), FIRST_WAIT);
        for _ in 0..100 {
            restarts.after(false, now);
        }
        assert_eq!(restarts.after(false, now), LONGEST_WAIT);
    }
}
