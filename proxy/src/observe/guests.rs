//! Who is on the admin listener, so that those who do nothing keep nobody out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Connections on which no request head is complete. 64: with more, the oldest is closed. Whoever has a request to make
/// sends it in far less time than it takes to open so many.
const SILENT: usize = 64;

/// Answers at one time: a few scrapers and a few people.
const ANSWERS: usize = 16;

/// How long an answer may take while others wait. 2 s: it is some megabytes at most.
const TURN: Duration = Duration::from_secs(2);

/// The connections, each group with the oldest first.
pub(super) struct Guests {
    silent: Mutex<VecDeque<Arc<Notify>>>,
    answered: Mutex<VecDeque<(Instant, Arc<Notify>)>>,
    room: Arc<Semaphore>,
}

/// One connection. Dropping it makes its place free.
pub(super) struct Guest {
    guests: Arc<Guests>,
    /// Told when it must go.
    leave: Arc<Notify>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Guests {
    pub(super) fn new() -> Arc<Self> {
        let room = Arc::new(Semaphore::new(ANSWERS));
        Arc::new(Self { silent: Mutex::default(), answered: Mutex::default(), room })
    }

    /// Takes a new connection in. If there are too many that have said nothing, the oldest of them must go.
    pub(super) fn enter(self: &Arc<Self>) -> Guest {
        let leave = Arc::new(Notify::new());
        let mut silent = lock(&self.silent);
        silent.push_back(leave.clone());
        if silent.len() > SILENT
            && let Some(oldest) = silent.pop_front()
        {
            oldest.notify_one();
        }
        Guest { guests: self.clone(), leave, permit: Mutex::default() }
    }

    /// Waits for room for an answer. While there is none, the oldest that has had its turn must go.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        let oldest = lock(&self.answered).front().map(|(since, _)| *since);
        let mut until = oldest.unwrap_or_else(Instant::now) + TURN;
        loop {
            if let Ok(permit) = timeout_at(until, self.room.clone().acquire_owned()).await {
                // It is never closed.
                return permit.ok();
            }
            let mut answered = lock(&self.answered);
            if answered.front().is_some_and(|(since, _)| *since + TURN <= Instant::now())
                && let Some((_, oldest)) = answered.pop_front()
            {
                oldest.notify_one();
            }
            until = Instant::now() + TURN;
        }
    }
}

impl Guest {
    /// Ends when this connection must go. Cancel safe.
    pub(super) async fn must_leave(&self) {
        self.leave.notified().await;
    }

    /// Its request has come: waits for room for the answer. Cancel safe.
    pub(super) async fn ask(&self) {
        lock(&self.guests.silent).retain(|other| !Arc::ptr_eq(other, &self.leave));
        let permit = self.guests.room().await;
        lock(&self.guests.answered).push_back((Instant::now(), self.leave.clone()));
        *lock(&self.permit) = permit;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        lock(&self.guests.silent).retain(|other| !Arc::ptr_eq(other, &self.leave));
        lock(&self.guests.answered).retain(|(_, other)| !Arc::ptr_eq(other, &self.leave));
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it must go, now.
    async fn goes(guest: &Guest) -> bool {
        timeout_at(Instant::now(), guest.must_leave()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_silent_ones_the_oldest_goes() {
        let guests = Guests::new();
        let first: Vec<Guest> = (0..SILENT).map(|_| guests.enter()).collect();
        assert!(!goes(&first[0]).await);
        let _scraper = guests.enter();
        assert!(goes(&first[0]).await && !goes(&first[1]).await);
        // One that has asked is not silent.
        first[1].ask().await;
        let _another = guests.enter();
        assert!(!goes(&first[1]).await && !goes(&first[2]).await);
        let _third = guests.enter();
        assert!(goes(&first[2]).await && !goes(&first[1]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_an_answer_makes_room_for_the_next() {
        let guests = Guests::new();
        let mut readers = Vec::new();
        for _ in 0..ANSWERS {
            let guest = guests.enter();
            guest.ask().await;
            readers.push(guest);
        }
        let begun = Instant::now();
        let next = guests.enter();
        let first = readers.remove(0);
        tokio::join!(next.ask(), async {
            first.must_leave().await;
            assert_eq!(begun.elapsed(), TURN);
            drop(first);
        });
        assert_eq!(begun.elapsed(), TURN);
        assert!(!goes(&readers[0]).await);
    }
}
