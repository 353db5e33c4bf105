//! The round over all pairs that finds peers which are alive and only do not read: [`patience`].

use std::time::{Duration, Instant};

use proxy_common::layout::Direction;

use super::super::table::Round;
use super::Relay;
use crate::sys::patience;

/// When the next round is due, and the one that is on its way.
#[derive(Debug)]
pub(super) struct Patrol {
    due: Instant,
    every: Duration,
    round: Option<Round>,
}

impl Patrol {
    pub(super) fn new(user_timeout: Duration, now: Instant) -> Self {
        let every = patience::interval(user_timeout);
        Self { due: now + every, every, round: None }
    }

    pub(super) fn next(&self, now: Instant) -> Duration {
        if self.round.is_some() { Duration::ZERO } else { self.due.saturating_duration_since(now) }
    }
}

impl Relay {
    /// Looks at every socket that has something to send, when it is time to: some of them in each turn.
    pub(super) fn patrol(&mut self, now: Instant) {
        if self.patrol.round.is_none() && now >= self.patrol.due {
            self.patrol.due = now + self.patrol.every;
            self.patrol.round = Some(Round::default());
        }
        let Some(round) = &mut self.patrol.round else { return };
        let Some(slots) = round.step(&self.table) else {
            self.patrol.round = None;
            return;
        };
        for slot in slots {
            let Some(pair) = self.table.get_mut(slot) else { continue };
            for side in Direction::ALL {
                let socket = &pair.sockets[side as usize];
                patience::look(socket, self.limits.user_timeout, &mut pair.flows[side as usize].patience);
            }
        }
    }
}
