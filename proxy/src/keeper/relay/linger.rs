//! Sockets whose peers are still to read why they were given up.
//!
//! Closing a socket that holds unread bytes, or gets more, sends an RST, which may overtake the alert or the Close frame
//! that was sent before it. So such a socket gets a FIN and is kept until its peer has closed as well.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::Shutdown;

use super::super::closer::Closer;
use crate::sys::socket;

/// How long a peer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to look.
const POLL: Duration = Duration::from_millis(20);

/// The most that are kept; of more, the oldest is closed.
const MOST: usize = 32;

/// The sockets, and when each is closed at the latest.
#[derive(Default)]
pub(super) struct Lingering(VecDeque<(OwnedFd, Instant)>);

impl Lingering {
    pub(super) fn add(&mut self, socket: OwnedFd, now: Instant, closer: &Closer) {
        // It fails if the peer is gone already.
        let _ = rustix::net::shutdown(&socket, Shutdown::Write);
        self.0.push_back((socket, now + PATIENCE));
        if self.0.len() > MOST
            && let Some((oldest, _)) = self.0.pop_front()
        {
            closer.close(oldest);
        }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Duration> {
        (!self.0.is_empty()).then_some(POLL)
    }

    /// Closes those that need not wait any longer.
    pub(super) fn look(&mut self, now: Instant, closer: &Closer) {
        for _ in 0..self.0.len() {
            match self.0.pop_front() {
                Some((socket, until)) if now < until && !socket::peer_has_ended(&socket) => {
                    self.0.push_back((socket, until));
                }
                gone => gone.into_iter().for_each(|(socket, _)| closer.close(socket)),
            }
        }
    }
}
