//! How many connections there may be.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::limit::Denied;
use super::pool::MOST_IN_ALL;
use super::seats::{Seat, Seats};
use crate::handoff::Peer;

/// Files of the gate that belong to no connection: listeners, the control socket, epoll, admin connections, and idle
/// connections to backends; and the spare places.
const RESERVE: u64 = 64 + MOST_IN_ALL as u64 + SPARE as u64;

/// How many clients can be told at one time that there is no room for them. 16: each takes some milliseconds, unless it is
/// slow.
const SPARE: usize = 16;

/// How long the first client that finds no room waits for some. 1 s: connections end all the time, and a client that has
/// waited for as long as for one lost packet is better served than one that is sent away.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

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
    /// Places for clients that are told that there is no room.
    spare: Arc<Semaphore>,
    /// A descriptor that makes room for one.
    file: Arc<SpareFile>,
    /// Somebody has waited for room in vain, and there has been none to spare since.
    full: AtomicBool,
    /// What there may be of [`Self::all`] and [`Self::here`].
    most: [usize; 2],
}

/// A descriptor of nothing in particular. Closed, it lets one client be accepted, and told, that there is none for.
struct SpareFile(Mutex<Option<OwnedFd>>);

impl SpareFile {
    fn open() -> Option<OwnedFd> {
        eventfd(0, EventfdFlags::CLOEXEC).ok()
    }

    /// Closes it until what is returned is dropped. `None`: it is closed already.
    fn lend(self: &Arc<Self>) -> Option<LentFile> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.take().or_else(Self::open)?;
        Some(LentFile(self.clone()))
    }
}

struct LentFile(Arc<SpareFile>);

impl Drop for LentFile {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = SpareFile::open();
    }
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
    right: Right,
    /// Once it is known whose it is. Boxed: a permit is part of every way out of a session.
    seat: Option<Box<Seat>>,
}

/// What a connection may do.
enum Right {
    /// Exist.
    Place { all: OwnedSemaphorePermit, _here: OwnedSemaphorePermit },
    /// Be told that there is no room for it, in the place of this.
    Told { _instead: Box<dyn Send + Sync> },
}

impl Permit {
    fn told(instead: impl Send + Sync + 'static) -> Self {
        Self { right: Right::Told { _instead: Box::new(instead) }, seat: None }
    }

    /// Whether there is no room for the connection, and its client is only to be told so.
    pub(super) const fn is_spare(&self) -> bool {
        matches!(self.right, Right::Told { .. })
    }

    /// The keeper has the pair now: this gate has room again, the whole has not until the keeper says so.
    pub(super) fn hand_over(self) {
        if let Right::Place { all, _here } = self.right {
            all.forget();
        }
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
            spare: Arc::new(Semaphore::new(SPARE)),
            file: Arc::new(SpareFile(Mutex::new(SpareFile::open()))),
            full: AtomicBool::new(false),
            most: [most, here.max(1)],
        }
    }

    /// The limit that is reached, if one is: connections in all, or those that this gate has files for.
    pub(super) fn limit(&self) -> usize {
        let [all, here] = self.most;
        if self.all.available_permits() == 0 { all } else { here }
    }

    /// A right for the next client: a place, or, when there has been none for a while, to be told so. Cancel safe.
    pub(super) async fn entry(&self) -> Option<Permit> {
        if let Some(permit) = self.try_permit() {
            // One that goes makes room for one that comes: that is full still.
            if self.here.available_permits() > 0 && self.all.available_permits() > 0 {
                self.full.store(false, Ordering::Relaxed);
            }
            return Some(permit);
        }
        if !self.full.load(Ordering::Relaxed) {
            if let Ok(permit) = timeout(ROOM_PATIENCE, self.permit()).await {
                return permit;
            }
            self.full.store(true, Ordering::Relaxed);
        }
        tokio::select! {
            biased;
            permit = self.permit() => permit,
            spare = self.spare.clone().acquire_owned() => Some(Permit::told(spare.ok()?)),
        }
    }

    /// The right to be told that there is no file, and the room for one. `None`: it is somebody else's now.
    pub(super) fn lend_file(&self) -> Option<Permit> {
        Some(Permit::told(self.file.lend()?))
    }

    /// Waits until there is room. Cancel safe.
    pub(super) async fn permit(&self) -> Option<Permit> {
        // The semaphores are never closed.
        let here = self.here.clone().acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Permit { right: Right::Place { all, _here: here }, seat: None })
    }

    /// The same, if there is room now.
    pub(super) fn try_permit(&self) -> Option<Permit> {
        let here = self.here.clone().try_acquire_owned().ok()?;
        let all = self.all.clone().try_acquire_owned().ok()?;
        Some(Permit { right: Right::Place { all, _here: here }, seat: None })
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

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_a_second_and_those_behind_it_do_not() {
        let admission = Admission::new(1, 0, 5);
        let place = admission.entry().await.unwrap();
        assert!(!place.is_spare());
        let begun = tokio::time::Instant::now();
        let first = admission.entry().await.unwrap();
        assert!(first.is_spare() && begun.elapsed() == ROOM_PATIENCE);
        let mut told: Vec<_> = vec![first];
        for _ in 1..SPARE {
            told.push(admission.entry().await.unwrap());
        }
        assert!(told.iter().all(Permit::is_spare) && begun.elapsed() == ROOM_PATIENCE);
        // No more of them than that: the next one waits in the kernel.
        assert!(timeout(ROOM_PATIENCE, admission.entry()).await.is_err());
        // Whoever goes makes room for one, and it is as full as before.
        drop(place);
        let place = admission.entry().await.unwrap();
        assert!(!place.is_spare());
        drop(told.pop());
        let begun = tokio::time::Instant::now();
        assert!(admission.entry().await.unwrap().is_spare() && begun.elapsed() == Duration::ZERO);
    }

    #[test]
    fn the_file_in_reserve_comes_back() {
        let admission = Admission::new(1, 0, 5);
        for _ in 0..3 {
            let lent = admission.lend_file().unwrap();
            assert!(lent.is_spare() && admission.file.0.lock().unwrap().is_none());
            drop(lent);
            assert!(admission.file.0.lock().unwrap().is_some());
        }
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
