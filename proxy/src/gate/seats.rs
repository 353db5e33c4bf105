//! How many connections each route may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::refusal::Refusal;
use crate::config::Config;

/// The connections of the routes that have a limit: in their handshake, carried by this gate, or with the keeper.
pub(super) struct Seats {
    /// By the index of the route.
    rooms: Vec<Option<Arc<Room>>>,
}

struct Room {
    limit: u32,
    taken: AtomicU32,
}

/// The right of one connection to be on its route. Dropped, it makes room for another.
pub(super) struct Seat(Option<Arc<Room>>);

impl Seats {
    /// None taken but by the pairs that the keeper holds: routes and how many.
    pub(super) fn new(config: &Config, live: &[(u16, u32)]) -> Self {
        let rooms = config.routes.iter().map(|route| route.limits.connections);
        let room = |limit| Arc::new(Room { limit, taken: AtomicU32::new(0) });
        let seats = Self { rooms: rooms.map(|limit| (limit > 0).then(|| room(limit))).collect() };
        for (route, count) in live {
            if let Some(room) = seats.room(*route) {
                room.taken.store(*count, Ordering::Relaxed);
            }
        }
        seats
    }

    /// Takes a seat on a route.
    ///
    /// # Errors
    /// [`Refusal::RouteFull`].
    pub(super) fn take(&self, route: u16) -> Result<Seat, Refusal> {
        let Some(room) = self.room(route) else { return Ok(Seat(None)) };
        let more = |taken: u32| (taken < room.limit).then_some(taken + 1);
        let taken = room.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map_err(|_| Refusal::RouteFull)?;
        Ok(Seat(Some(room.clone())))
    }

    /// So many pairs of the keeper's have ended, by route.
    pub(super) fn closed(&self, routes: &[(u16, u32)]) {
        for (route, count) in routes {
            if let Some(room) = self.room(*route) {
                room.leave(*count);
            }
        }
    }

    fn room(&self, route: u16) -> Option<&Arc<Room>> {
        self.rooms.get(usize::from(route))?.as_ref()
    }
}

impl Room {
    fn leave(&self, count: u32) {
        let fewer = |taken: u32| Some(taken.saturating_sub(count));
        // Never fails: there is always a number.
        let _ = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }
}

impl Seat {
    /// The keeper has the pair now: the seat is taken until the keeper says that the pair has ended.
    pub(super) fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(room) = &self.0 {
            room.leave(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Route;

    fn seats(live: &[(u16, u32)]) -> Seats {
        let mut limited = Route::default();
        limited.limits.connections = 2;
        Seats::new(&Config { routes: vec![Route::default(), limited], ..Config::default() }, live)
    }

    fn full(seats: &Seats) -> bool {
        seats.take(1).err() == Some(Refusal::RouteFull)
    }

    #[test]
    fn a_route_takes_as_many_as_it_may() {
        let seats = seats(&[]);
        let both = [seats.take(1).unwrap(), seats.take(1).unwrap()];
        assert!(full(&seats));
        drop(both);
        assert!(!full(&seats));
        let _unlimited: Vec<Seat> = (0..99).map(|_| seats.take(0).unwrap()).collect();
        assert!(seats.take(7).is_ok(), "a route that does not exist has no limit");
    }

    #[test]
    fn a_pair_with_the_keeper_keeps_its_seat_until_it_ends() {
        let seats = seats(&[]);
        seats.take(1).unwrap().hand_over();
        seats.take(1).unwrap().hand_over();
        assert!(full(&seats));
        seats.closed(&[(0, 5), (1, 1), (9, 1)]);
        assert!(!full(&seats));
    }

    #[test]
    fn a_new_gate_counts_the_pairs_from_earlier_ones() {
        let seats = seats(&[(0, 4), (1, 3), (8, 1)]);
        assert!(full(&seats), "there may be more than the limit");
        seats.closed(&[(1, 1)]);
        assert!(full(&seats));
        seats.closed(&[(1, 9)]);
        assert!(!full(&seats));
    }
}
