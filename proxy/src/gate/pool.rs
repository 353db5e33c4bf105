//! Connections to backend servers that plain HTTP requests use one after the other.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::{Instant, sleep};

use super::sender::Sender;
use crate::config::Address;

/// A request's body on its way to a backend.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// What a connection is for. A server that answers one request twice lies about the next one: whose requests strangers
/// choose must not be able to answer for the service that says who may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// The requests of clients.
    Clients,
    /// The questions to an authentication service.
    Authentication,
}

/// A server: the index of its backend, and its address. (Its own index may be another server's by the time that a
/// connection comes back.)
pub(super) type Place = (Purpose, u16, Address);

/// How many idle connections there may be to one server. 32: as many requests at the same time begin without a
/// handshake; more would hold files that WebSockets need.
const MOST: usize = 32;

/// How many there may be to all servers together.
pub(super) const MOST_IN_ALL: usize = 256;

/// How often the idle ones are looked at.
const ROUND: Duration = Duration::from_secs(1);

/// The connections that no request is on.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<Place, Vec<Idle>>>,
}

struct Idle {
    sender: Sender,
    until: Instant,
}

impl Idle {
    fn is_good(&self, now: Instant) -> bool {
        self.sender.is_ready() && self.until > now
    }
}

impl Pool {
    /// One to this server that can take a request, the one that was used last.
    pub(super) fn take(&self, place: &Place) -> Option<Sender> {
        let (mut idle, now) = (self.idle(), Instant::now());
        let idle = idle.get_mut(place)?;
        std::iter::from_fn(|| idle.pop()).find(|idle| idle.is_good(now)).map(|idle| idle.sender)
    }

    /// Keeps one for so long, if there is room.
    pub(super) fn put(&self, place: Place, sender: Sender, keep: Duration) {
        let Some(until) = Instant::now().checked_add(keep) else { return };
        let mut idle = self.idle();
        let all: usize = idle.values().map(Vec::len).sum();
        let idle = idle.entry(place).or_default();
        if idle.len() < MOST && all < MOST_IN_ALL {
            idle.push(Idle { sender, until });
        }
    }

    /// Closes what has been idle for too long, for ever.
    pub(super) async fn walk(&self) {
        loop {
            sleep(ROUND).await;
            let now = Instant::now();
            self.idle().retain(|_, idle| {
                idle.retain(|idle| idle.is_good(now));
                !idle.is_empty()
            });
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Place, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
