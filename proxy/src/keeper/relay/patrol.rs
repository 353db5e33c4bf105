//! The round over all pairs that finds peers which are alive and only do not read: [`patience`].

use std::time::{Duration, Instant};

use proxy_common::layout::Direction;

use super::Relay;
use crate::sys::patience;

/// When the next round is due.
#[derive(Debug)]
pub(super) struct Patrol {
    due: Instant,
    every: Duration,
}

impl Patrol {
    pub(super) fn new(user_timeout: Duration, now: Instant) -> Self {
        let every = patience::interval(user_timeout);
        Self { due: now + every, every }
    }

    pub(super) fn next(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }
}

impl Relay {
    /// Looks at every socket that has something to send, when it is time to.
    pub(super) fn patrol(&mut self, now: Instant) {
        if now < self.patrol.due {
            return;
        }
        self.patrol.due = now + self.patrol.every;
        for (_, pair) in self.table.iter_mut() {
            for side in Direction::ALL {
                let socket = &pair.sockets[side as usize];
                patience::look(socket, self.limits.user_timeout, &mut pair.flows[side as usize].patience);
            }
        }
    }
}
