//! Whether one server is well, by its checks and by what it does with clients' connections. Pure: results and `now` in.

use std::time::{Duration, Instant};

use super::pace::after;
use crate::config::{Check, Ejection};

/// The settings, as far as they matter here.
#[derive(Clone, Copy, Debug)]
pub(in crate::gate) struct Rules {
    /// Rise and fall.
    checks: Option<(u32, u32)>,
    /// 0: no ejection.
    failures: u32,
    time: Duration,
    max_time: Duration,
}

/// Where a server comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gate) enum Found {
    /// It is there from the start, and counts as up: clients need not wait for checks.
    AtStart,
    /// It has been found while others served (a name has another address). With checks, its first one must be good
    /// before it counts.
    Later,
    /// It is there from the start, and an earlier gate's checks had found it to be down. Without checks it is up.
    Down,
}

/// What a server is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gate) enum Standing {
    /// Found later, and no check has been good yet.
    New,
    /// Its checks say so.
    Down,
    /// Up by its checks, if there are any, but connections failed.
    Ejected,
    Up,
}

/// A server's health.
///
/// Checks: up until `fall` of them in a row are bad, then down until `rise` in a row are good. Connections: after
/// `failures` in a row that fail it asks to be ejected. That takes a time, each further one twice as long as the last.
/// Then it is on probation: the first failure asks again, the first success ends it.
#[derive(Clone, Debug)]
pub(in crate::gate) struct Health {
    rules: Rules,
    checked: Checked,
    /// Results of checks in a row that speak against what it is.
    against: u32,
    /// When checks, or being found, brought it up. None: it was there at the start.
    up_since: Option<Instant>,
    /// Connections in a row that failed.
    failures: u32,
    last: Option<Ejected>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    New,
    Up,
    Down,
}

/// The last ejection.
#[derive(Clone, Copy, Debug)]
struct Ejected {
    until: Instant,
    length: Duration,
    /// How often the first time has been doubled for it.
    doublings: u32,
    /// The first success after it. None: on probation still.
    good_since: Option<Instant>,
}

impl Rules {
    pub(in crate::gate) fn new(check: Option<&Check>, ejection: &Ejection) -> Self {
        Self {
            checks: check.map(|check| (check.rise, check.fall)),
            failures: ejection.failures,
            time: ejection.time,
            max_time: ejection.max_time,
        }
    }
}

impl Health {
    pub(in crate::gate) fn new(rules: Rules, found: Found, now: Instant) -> Self {
        let (checked, up_since) = match (found, rules.checks) {
            (Found::AtStart, _) | (Found::Down, None) => (Checked::Up, None),
            (Found::Down, Some(_)) => (Checked::Down, None),
            (Found::Later, None) => (Checked::Up, Some(now)),
            (Found::Later, Some(_)) => (Checked::New, None),
        };
        Self { rules, checked, against: 0, up_since, failures: 0, last: None }
    }

    /// A check has ended.
    pub(in crate::gate) fn checked(&mut self, ok: bool, now: Instant) {
        let Some((rise, fall)) = self.rules.checks else { return };
        let (up, enough) = match self.checked {
            Checked::New => (false, 1),
            Checked::Down => (false, rise),
            Checked::Up => (true, fall),
        };
        self.against = if ok == up { 0 } else { self.against.saturating_add(1) };
        if self.against < enough || ok == up {
            return;
        }
        self.against = 0;
        self.failures = 0;
        self.checked = if ok { Checked::Up } else { Checked::Down };
        if ok {
            self.up_since = Some(now);
        }
    }

    /// A client's request, which began at `since`, has shown that it is well, or is not. Returns whether it should be
    /// ejected: if [`super::tiers::may_eject`] allows it, [`Health::eject`] follows.
    ///
    /// What began before it came up, or back, says nothing of it: it was on its way already, or went there for lack of
    /// another.
    #[must_use]
    pub(in crate::gate) fn observed(&mut self, ok: bool, since: Instant, now: Instant) -> bool {
        if self.standing(now) != Standing::Up || !self.speaks(since) || self.rules.failures == 0 {
            return false;
        }
        if ok {
            self.failures = 0;
            if let Some(last) = &mut self.last {
                last.good_since.get_or_insert(now);
            }
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.on_probation(now) || self.failures >= self.rules.failures
    }

    /// Leaves it out from now on, for a while.
    pub(in crate::gate) fn eject(&mut self, now: Instant) {
        let doublings = self.last.map_or(0, |last| last.next_doublings(now, self.rules.max_time));
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let length = self.rules.time.saturating_mul(factor).min(self.rules.max_time);
        self.last = Some(Ejected { until: after(now, length), length, doublings, good_since: None });
        self.failures = 0;
    }

    /// What it is good for now.
    pub(in crate::gate) fn standing(&self, now: Instant) -> Standing {
        match self.checked {
            Checked::New => Standing::New,
            Checked::Down => Standing::Down,
            Checked::Up if self.ejected_until().is_some_and(|until| now < until) => Standing::Ejected,
            Checked::Up => Standing::Up,
        }
    }

    /// It is back from an ejection, and nothing has been a success yet.
    pub(in crate::gate) fn on_probation(&self, now: Instant) -> bool {
        self.standing(now) == Standing::Up && self.last.is_some_and(|last| last.good_since.is_none())
    }

    /// Whether what began then says something of it as it is.
    pub(in crate::gate) fn speaks(&self, since: Instant) -> bool {
        self.up_since().is_none_or(|up| since >= up)
    }

    /// When its last ejection ends, or ended; if that is to come, its standing may change by itself then.
    pub(in crate::gate) fn ejected_until(&self) -> Option<Instant> {
        self.last.map(|last| last.until)
    }

    /// Since when one that is up is up. None: since the start.
    pub(in crate::gate) fn up_since(&self) -> Option<Instant> {
        self.up_since.max(self.ejected_until())
    }
}

impl Ejected {
    /// One more than before, and one less for each time that it was good for as long as it had been out.
    fn next_doublings(&self, now: Instant, max_time: Duration) -> u32 {
        let good = self.good_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let forgiven = good.as_nanos() / self.length.as_nanos().max(1);
        // What did not make it longer need not be forgiven either. 31 doublings: beyond any maximum already.
        let more = if self.length < max_time { self.doublings.min(30) + 1 } else { self.doublings };
        more.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
