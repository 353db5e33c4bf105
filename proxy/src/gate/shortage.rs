//! What the gate is short of: said once in a while, however often it happens, and counted each time.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Gate;
use crate::handoff::stats::Short;

/// How often to say so.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// When what was last said.
#[derive(Default)]
pub(super) struct Shortages(Mutex<[Said; Short::ALL.len()]>);

#[derive(Clone, Copy, Default)]
struct Said {
    at: Option<Instant>,
    /// How often it has happened since.
    since: u64,
}

impl Shortages {
    /// It has happened once more. If it is to be said: how often since it was last said.
    fn note(&self, what: Short, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = said.get_mut(what as usize)?;
        said.since += 1;
        if said.at.is_some_and(|at| now.saturating_duration_since(at) < SAY_AGAIN) {
            return None;
        }
        said.at = Some(now);
        Some(std::mem::take(&mut said.since))
    }
}

impl Gate {
    /// Counts that something was short, and says so if it is time to.
    pub(super) fn short(&self, what: Short, error: Option<&(dyn Error + 'static)>) {
        self.stats.count_shortage(what);
        let Some(times) = self.shortages.note(what, Instant::now()) else { return };
        match what {
            Short::Connections => {
                let limit = self.admission.limit();
                tracing::warn!(times, limit, "there is no room for another connection: clients are answered with 503");
            }
            Short::AcceptFiles => {
                tracing::warn!(times, error, "cannot accept for want of open files: raise their limit; clients wait");
            }
            Short::Dial => {
                tracing::warn!(times, error, "no open files or ports are left for connections to backends");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shortage_is_said_once_in_ten_seconds_with_how_often_it_was() {
        let (shortages, start) = (Shortages::default(), Instant::now());
        assert_eq!(shortages.note(Short::Dial, start), Some(1));
        assert_eq!(shortages.note(Short::Connections, start), Some(1));
        for _ in 0..100 {
            assert_eq!(shortages.note(Short::Dial, start + SAY_AGAIN / 2), None);
        }
        assert_eq!(shortages.note(Short::Dial, start + SAY_AGAIN), Some(101));
    }
}
