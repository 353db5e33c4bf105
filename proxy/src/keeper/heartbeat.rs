//! Whether the gate still lives: pure rules, `now` passed in.
//!
//! The keeper asks every [`EVERY`], and the gate answers from the threads that serve clients. What is counted is questions
//! without an answer, not time: a machine that was asleep, or a keeper that was, has not asked meanwhile.
//!
//! A gate that is only slow must not be ended, since that ends what it carries. So a gate that has something to run, or
//! waits for a disk, gets longer: it is the machine that is busy, or the gate, and either may pass. One whose every thread
//! sleeps, or was stopped, and that has not answered [`SLEEPING`] times, will not answer any more.

use std::time::{Duration, Instant};

/// How often the gate is asked: often enough that clients do not wait for minutes, too seldom to be seen in the load of an idle
/// machine.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Questions without an answer after which a gate that does not even try to run is hung: 15 s.
const SLEEPING: u32 = 3;

/// And one that runs: a minute.
const RUNNING: u32 = 12;

/// What is to be done at a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// It is not time yet.
    Early,
    /// Ask the gate, with this number.
    Ask(u64),
    /// The gate is hung if no thread of it has anything to run; else ask it, with this number.
    Doubt(u64),
    /// The gate is hung.
    Hung,
}

/// The questions to one gate.
#[derive(Debug)]
pub(super) struct Heartbeat {
    due: Instant,
    asked: u64,
    answered: u64,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + EVERY, asked: 0, answered: 0 }
    }

    /// How long until the next beat.
    pub(super) fn next(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// What is due now.
    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        if now < self.due {
            return Beat::Early;
        }
        self.due = now + EVERY;
        let missed = self.asked - self.answered;
        self.asked += 1;
        match missed {
            0 => Beat::Ask(self.asked),
            missed if missed >= u64::from(RUNNING) => Beat::Hung,
            missed if missed >= u64::from(SLEEPING) => Beat::Doubt(self.asked),
            _ => Beat::Ask(self.asked),
        }
    }

    /// The gate has answered the question of this number. Returns whether it was asked.
    pub(super) fn answered(&mut self, number: u64) -> bool {
        let asked = number > self.answered && number <= self.asked;
        if asked {
            // A later answer stands for those before it.
            self.answered = number;
        }
        asked
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Beats at every due moment for so long; answers those that `answer` says. When it is hung, and why.
    fn live(beats: u32, mut answer: impl FnMut(u32) -> bool, runs: bool) -> Option<u32> {
        let mut now = Instant::now();
        let mut heart = Heartbeat::new(now);
        assert_eq!(heart.beat(now), Beat::Early);
        for beat in 0..beats {
            now += heart.next(now);
            match heart.beat(now) {
                Beat::Early => panic!("it was due"),
                Beat::Hung => return Some(beat),
                Beat::Doubt(_) if !runs => return Some(beat),
                Beat::Ask(number) | Beat::Doubt(number) => {
                    if answer(beat) {
                        assert!(heart.answered(number));
                    }
                }
            }
        }
        None
    }

    #[test]
    fn a_gate_that_answers_lives() {
        assert_eq!(live(1000, |_| true, false), None);
        assert_eq!(live(1000, |beat| beat % 3 == 0, false), None, "a late answer is one");
    }

    #[test]
    fn a_gate_that_sleeps_and_does_not_answer_is_hung() {
        assert_eq!(live(1000, |_| false, false), Some(SLEEPING));
        assert_eq!(live(1000, |beat| beat < 50, false), Some(50 + SLEEPING));
    }

    #[test]
    fn a_gate_that_runs_gets_longer() {
        assert_eq!(live(1000, |_| false, true), Some(RUNNING));
        assert_eq!(live(1000, |beat| beat % (RUNNING - 1) == 0, true), None);
    }

    #[test]
    fn sleep_of_the_whole_machine_is_no_silence_of_the_gate() {
        let mut now = Instant::now();
        let mut heart = Heartbeat::new(now);
        now += EVERY;
        assert_eq!(heart.beat(now), Beat::Ask(1));
        now += Duration::from_secs(3600);
        assert_eq!(heart.beat(now), Beat::Ask(2));
        assert!(heart.answered(2) && !heart.answered(2) && !heart.answered(1) && !heart.answered(9));
    }
}
