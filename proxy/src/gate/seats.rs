//! How many connections each route may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::refusal::Refusal;
use crate::config::Config;
use crate::handoff::Tally;

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
    /// None taken but by the pairs that the keeper holds.
    pub(super) fn new(config: &Config, live: &[Tally]) -> Self {
        let rooms = config.routes.iter().map(|route| route.limits.connections);
        let room = |limit| Arc::new(Room { limit, taken: AtomicU32::new(0) });
        let seats = Self { rooms: rooms.map(|limit| (limit > 0).then(|| room(limit))).collect() };
        for room in live.iter().filter_map(|pair| seats.room(pair.route)) {
            room.taken.fetch_add(1, Ordering::Relaxed);
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

    /// A pair of the keeper's has ended.
    pub(super) fn closed(&self, pair: &Tally) {
        if let Some(room) = self.room(pair.route) {
            room.leave();
        }
    }

    fn room(&self, route: u16) -> Option<&Arc<Room>> {
        self.rooms.get(usize::from(route))?.as_ref()
    }
}

impl Room {
    fn leave(&self) {
        let fewer = |taken: u32| Some(taken.saturating_sub(1));
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
            room.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Route;

    fn on(route: u16) -> Tally {
        Tally { route, backend: 0, server: 0, client: None }
    }

    fn seats(live: &[Tally]) -> Seats {
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
        [0, 1, 9].map(on).iter().for_each(|pair| seats.closed(pair));
        assert!(!full(&seats));
    }

    #[test]
    fn a_new_gate_counts_the_pairs_from_earlier_ones() {
        let seats = seats(&[0, 1, 0, 1, 8, 1].map(on));
        assert!(full(&seats), "there may be more than the limit");
        seats.closed(&on(1));
        assert!(full(&seats));
        seats.closed(&on(1));
        assert!(!full(&seats));
    }
}
