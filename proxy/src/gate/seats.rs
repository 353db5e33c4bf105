//! Who is where: the limits of [`limit`](super::limit), for all connections, at this time.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::limit::{Ask, Denied, Limits, Moment, Place};
use crate::config::Config;
use crate::handoff::Tally;
use crate::handoff::stats::Stats;

/// All limits, and who has what of them: connections in their handshake, carried by this gate, or with the keeper.
pub(super) struct Seats {
    limits: Mutex<Limits>,
    begun: Instant,
    stats: Arc<Stats>,
}

/// The right of one connection to be there, and on its route once that is known. Dropped, it makes room for another.
pub(super) struct Seat {
    /// Whose it is; `None`: a client's without an address.
    address: Option<IpAddr>,
    route: Option<u16>,
    /// None: the keeper has the pair.
    seats: Option<Arc<Seats>>,
}

impl Seats {
    /// None taken but by the pairs that the keeper holds.
    pub(super) fn new(config: &Config, live: &[Tally], stats: Arc<Stats>) -> Arc<Self> {
        let seats = Self { limits: Mutex::new(Limits::new(config)), begun: Instant::now(), stats };
        seats.change(|limits, now| live.iter().for_each(|pair| limits.seat(pair, now)));
        Arc::new(seats)
    }

    /// Takes a seat for a client, or keeps the one that the connection `had` if it was the same client's. With `token`,
    /// it is for a request that counts in the rate.
    ///
    /// # Errors
    /// A limit. The seat that it had is lost.
    pub(super) fn take(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        token: bool,
        had: Option<Seat>,
    ) -> Result<Seat, Denied> {
        // Another's is given back before this one is taken: there may be room for one only.
        let had = had.filter(|seat| seat.address == address);
        let ask = Ask { token, connection: had.is_none() };
        self.change(|limits, now| limits.take(Place::All, address, ask, now))?;
        Ok(had.unwrap_or_else(|| Seat { address, route: None, seats: Some(self.clone()) }))
    }

    /// Pairs of the keeper's have ended.
    pub(super) fn closed(&self, pairs: &[Tally]) {
        self.change(|limits, now| pairs.iter().for_each(|pair| limits.closed(pair, now)));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Limits, Moment) -> T) -> T {
        let mut limits = self.limits();
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let result = change(&mut limits, now);
        self.stats.note_clients(limits.clients() as u64, limits.forgotten());
        result
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Moves to a route, for one request more there.
    ///
    /// # Errors
    /// A limit; it is on no route then.
    pub(super) fn go(&mut self, route: u16) -> Result<(), Denied> {
        let Some(seats) = &self.seats else { return Ok(()) };
        let there = self.route == Some(route);
        let before = self.route.take().filter(|_| !there);
        seats.change(|limits, now| {
            if let Some(before) = before {
                limits.leave(Place::Route(before), self.address, now);
            }
            let ask = Ask { token: true, connection: !there };
            let gone = limits.take(Place::Route(route), self.address, ask, now);
            if gone.is_err() && there {
                limits.leave(Place::Route(route), self.address, now);
            }
            gone
        })?;
        self.route = Some(route);
        Ok(())
    }

    /// Leaves its route, but not Sluice: its request was refused.
    pub(super) fn leave_route(&mut self) {
        let Some((seats, route)) = self.seats.as_ref().zip(self.route.take()) else { return };
        seats.change(|limits, now| limits.leave(Place::Route(route), self.address, now));
    }

    /// The keeper has the pair now: the seat is taken until the keeper says that the pair has ended.
    pub(super) fn hand_over(mut self) {
        self.seats = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(seats) = &self.seats else { return };
        let route = self.route.map(Place::Route);
        seats.change(|limits, now| {
            [Some(Place::All), route].into_iter().flatten().for_each(|place| limits.leave(place, self.address, now));
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Route;
    use crate::gate::refusal::Refusal;

    fn on(route: u16) -> Tally {
        Tally { route, backend: 0, server: 0, client: None }
    }

    fn seats(live: &[Tally]) -> Arc<Seats> {
        let mut limited = Route::default();
        limited.limits.connections = 2;
        let config = Config { routes: vec![Route::default(), limited], ..Config::default() };
        Seats::new(&config, live, Arc::new(Stats::create().unwrap().1))
    }

    fn take(seats: &Arc<Seats>, route: u16) -> Result<Seat, Refusal> {
        let go = |mut seat: Seat| seat.go(route).map(|()| seat);
        seats.take(None, true, None).and_then(go).map_err(|denied| denied.refusal)
    }

    fn full(seats: &Arc<Seats>) -> bool {
        take(seats, 1).err() == Some(Refusal::RouteFull)
    }

    #[test]
    fn a_route_takes_as_many_as_it_may() {
        let seats = seats(&[]);
        let both = [take(&seats, 1).unwrap(), take(&seats, 1).unwrap()];
        assert!(full(&seats));
        drop(both);
        assert!(!full(&seats));
        let _unlimited: Vec<Seat> = (0..99).map(|_| take(&seats, 0).unwrap()).collect();
        assert!(take(&seats, 7).is_ok(), "a route that does not exist has no limit");
    }

    #[test]
    fn who_asks_again_keeps_the_seat() {
        let seats = seats(&[on(1)]);
        let mut seat = take(&seats, 1).unwrap();
        seat.go(1).ok().unwrap();
        let mut seat = seats.take(None, true, Some(seat)).ok().unwrap();
        seat.go(1).ok().unwrap();
        assert!(full(&seats));
        seat.go(0).ok().unwrap();
        let other = take(&seats, 1).unwrap();
        assert!(seat.go(1).is_err_and(|denied| denied.refusal == Refusal::RouteFull));
        drop((seat, other));
        let _last = take(&seats, 1).unwrap();
        assert!(full(&seats), "a place was given back twice");
    }

    #[test]
    fn who_was_refused_leaves_the_route_once() {
        let seats = seats(&[]);
        let [mut refused, _other] = [1, 1].map(|route| take(&seats, route).unwrap());
        refused.leave_route();
        let _third = take(&seats, 1).unwrap();
        refused.leave_route();
        drop(refused);
        assert!(full(&seats), "a place was given back twice");
    }

    #[test]
    fn a_connection_is_one_clients_at_a_time() {
        let mut config = Config::default();
        config.limits.per_client.connections = 1;
        let seats = Seats::new(&config, &[], Arc::new(Stats::create().unwrap().1));
        let [one, other] = [1, 2].map(|last| Some([192, 0, 2, last].into()));
        let denied = |address| seats.take(address, true, None).err().map(|denied| denied.refusal);
        let seat = seats.take(one, true, None).ok().unwrap();
        assert_eq!((denied(one), denied(other)), (Some(Refusal::ClientFull), None));
        let seat = seats.take(other, true, Some(seat)).ok().unwrap();
        assert_eq!((denied(one), denied(other)), (None, Some(Refusal::ClientFull)));
        drop(seat);
        assert_eq!((denied(one), denied(other), seats.stats.clients()), (None, None, [0, 0]));
    }

    #[test]
    fn a_pair_with_the_keeper_keeps_its_seat_until_it_ends() {
        let seats = seats(&[]);
        take(&seats, 1).unwrap().hand_over();
        take(&seats, 1).unwrap().hand_over();
        assert!(full(&seats));
        seats.closed(&[0, 1, 9].map(on));
        assert!(!full(&seats));
    }

    #[test]
    fn a_new_gate_counts_the_pairs_from_earlier_ones() {
        let seats = seats(&[0, 1, 0, 1, 8, 1].map(on));
        assert!(full(&seats), "there may be more than the limit");
        seats.closed(&[on(1)]);
        assert!(full(&seats));
        seats.closed(&[on(1)]);
        assert!(!full(&seats));
    }
}
