//! Tells peers that are dead from peers that only do not read.
//!
//! TCP_USER_TIMEOUT ends a connection whose peer acknowledges nothing, which is right; it also ends one whose peer
//! keeps its window closed, which is wrong: it lives, and will read again. So the option is taken off a socket while
//! its peer's window is closed, and the kernel's own rule holds: the connection lives as long as probes are answered.

use std::time::{Duration, Instant};

use proxy_common::layout::Direction;
use rustix::net::sockopt;

use super::Relay;
use crate::sys::socket;

/// How often the round is made within the time after which a peer would be taken for dead.
const ROUNDS: u32 = 3;

/// When the next round is due.
#[derive(Debug)]
pub(super) struct Patrol {
    due: Instant,
    every: Duration,
}

impl Patrol {
    pub(super) fn new(user_timeout: Duration, now: Instant) -> Self {
        // An hour is often enough for timeouts beyond what the option can say.
        let every = (user_timeout / ROUNDS).min(Duration::from_secs(3600));
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
        let timeout = socket::user_timeout_ms(self.limits.user_timeout);
        for (_, pair) in self.table.iter_mut() {
            for side in Direction::ALL {
                let known = pair.flow(side).patient;
                let socket = pair.source(side);
                let queued = socket::unacknowledged(socket).unwrap_or(0);
                let patient = queued > 0 && socket::peer_takes_nothing(socket).unwrap_or(false);
                if patient != known && sockopt::set_tcp_user_timeout(socket, if patient { 0 } else { timeout }).is_ok()
                {
                    pair.flow_mut(side).patient = patient;
                }
            }
        }
    }
}
