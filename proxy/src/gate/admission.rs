//! How many connections there may be.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limit::Denied;
use super::pool::MOST_IN_ALL;
use super::seats::{Seat, Seats};
use crate::handoff::Peer;

/// Files of the gate that belong to no connection: listeners, the control socket, epoll, admin connections, and idle
/// connections to backends.
const RESERVE: u64 = 64 + MOST_IN_ALL as u64;

/// Counts connections: those of this gate, which cost it files, and all, which cost the keeper slots.
pub(super) struct Admission {
    /// Connections in any state, those that the keeper holds included.
    all: Arc<Semaphore>,
    /// Connections that this gate holds.
    here: Arc<Semaphore>,
    /// Pairs from earlier gates beyond the limit: their ends make no room yet.
    over: Mutex<usize>,
    /// Clients that are being told that they were refused.
    refused: Arc<AtomicUsize>,
}

/// The right of a client to be told that it was refused when it connected.
pub(super) struct Refused {
    _permit: Permit,
    count: Arc<AtomicUsize>,
}

impl Drop for Refused {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right of one connection to exist. Dropped, it makes room for another.
pub(super) struct Permit {
    all: OwnedSemaphorePermit,
    _here: OwnedSemaphorePermit,
    /// Once it is known whose it is. Boxed: a permit is part of every way out of a session.
    seat: Option<Box<Seat>>,
}

impl Permit {
    /// The keeper has the pair now: this gate has room again, the whole has not until the keeper says so.
    pub(super) fn hand_over(self) {
        self.all.forget();
        if let Some(seat) = self.seat {
            seat.hand_over();
        }
    }

    /// The connection is this client's now, and no other's that it was before. With `token`, that is for a request that
    /// counts in the rate.
    ///
    /// # Errors
    /// A limit.
    pub(super) fn sit(&mut self, seats: &Arc<Seats>, client: Peer, token: bool) -> Result<(), Denied> {
        let had = self.seat.take().map(|seat| *seat);
        self.seat = Some(Box::new(seats.take(client.ip(), token, had)?));
        Ok(())
    }

    /// Its client's request is on this route now, and on none that it was on before.
    ///
    /// # Errors
    /// A limit.
    pub(super) fn go(&mut self, route: u16) -> Result<(), Denied> {
        self.seat.as_mut().map_or(Ok(()), |seat| seat.go(route))
    }

    /// Its request was refused. The client that reads its answer slowly, or not at all, takes nobody's place on the route.
    pub(super) fn leave_route(mut self) -> Self {
        if let Some(seat) = &mut self.seat {
            seat.leave_route();
        }
        self
    }

    /// What the connection has for its client: until the next request nobody knows whose it is. Dropped, it makes room
    /// for another.
    pub(super) fn stand(&mut self) -> impl Send + use<> {
        self.seat.take()
    }
}

impl Admission {
    /// `most` connections at one time, of which `live` exist already, and `here` in this process.
    pub(super) fn new(most: usize, live: usize, here: usize) -> Self {
        let free = most.saturating_sub(live).min(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(free)),
            here: Arc::new(Semaphore::new(here.max(1))),
            over: Mutex::new(live.saturating_sub(most)),
            refused: Arc::default(),
        }
    }

    /// Waits until there is room. Cancel safe.
    pub(super) async fn permit(&self) -> Option<Permit> {
        // The semaphores are never closed.
        let here = self.here.clone().acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Permit { all, _here: here, seat: None })
    }

    /// The same, if there is room now.
    pub(super) fn try_permit(&self) -> Option<Permit> {
        let here = self.here.clone().try_acquire_owned().ok()?;
        let all = self.all.clone().try_acquire_owned().ok()?;
        Some(Permit { all, _here: here, seat: None })
    }

    /// Turns the permit of a client that was refused into the right to be told so. There are no more of these than there
    /// is room left for others, so that whoever is beyond a limit keeps no places from them by being slow to go.
    pub(super) fn refuse(&self, permit: Permit) -> Option<Refused> {
        let refused = Refused { _permit: permit, count: self.refused.clone() };
        let others = self.refused.fetch_add(1, Ordering::Relaxed);
        (others < self.here.available_permits().min(self.all.available_permits())).then_some(refused)
    }

    /// So many pairs of the keeper have ended.
    pub(super) fn closed(&self, count: usize) {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = count.min(*over);
        *over -= paid;
        self.all.add_permits(count - paid);
    }
}

/// How many connections, of two files each, the limit on open files lets this process hold.
pub(super) fn room_for_files() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(RESERVE) / 2).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn room(admission: &Admission) -> usize {
        admission.all.available_permits()
    }

    #[tokio::test]
    async fn a_handed_over_pair_makes_room_when_the_keeper_says_so() {
        let admission = Admission::new(2, 0, 5);
        let permit = admission.permit().await.unwrap();
        assert_eq!(room(&admission), 1);
        permit.hand_over();
        assert_eq!((room(&admission), admission.here.available_permits()), (1, 5));
        admission.closed(1);
        assert_eq!(room(&admission), 2);
    }

    #[tokio::test]
    async fn a_dropped_permit_makes_room_at_once() {
        let admission = Admission::new(1, 0, 1);
        drop(admission.permit().await.unwrap());
        assert_eq!(room(&admission), 1);
    }

    #[tokio::test]
    async fn who_is_refused_leaves_as_much_room_as_it_takes() {
        let admission = Admission::new(100, 40, 99);
        let mut told = Vec::new();
        while let Some(refused) = admission.refuse(admission.permit().await.unwrap()) {
            told.push(refused);
        }
        assert_eq!((told.len(), room(&admission)), (30, 30));
        drop(told);
        assert_eq!((room(&admission), admission.refused.load(Ordering::Relaxed)), (60, 0));
    }

    #[test]
    fn pairs_beyond_the_limit_must_end_first() {
        let admission = Admission::new(2, 5, 9);
        assert_eq!(room(&admission), 0);
        admission.closed(2);
        assert_eq!(room(&admission), 0);
        admission.closed(2);
        assert_eq!(room(&admission), 1);
    }
}
