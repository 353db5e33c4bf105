//! How many may be where, and how fast they may come: in all, on each route, and of one client. Pure.
//!
//! All limits of one place are asked before any of them gives something: a client that is beyond its own takes nothing
//! of what is for all.

mod prefix;
mod rate;
mod table;

use std::net::IpAddr;

pub(super) use self::rate::Moment;

use self::prefix::{Key, Prefixes};
use self::rate::Rate;
use self::table::{Client, Table};
use super::refusal::Refusal;
use crate::config::{Config, HandshakeRate, Route};
use crate::handoff::Tally;

/// Where limits hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Everywhere.
    #[default]
    All,
    /// On the route with this index.
    Route(u16),
}

/// All limits, and how far they are used.
pub(super) struct Limits {
    all: Scope,
    /// By the index of the route.
    routes: Vec<Scope>,
    prefixes: Prefixes,
    clients: Table,
}

/// The limits of one place. A limit of 0 connections is none.
#[derive(Default)]
struct Scope {
    connections: u32,
    taken: u32,
    rate: Option<Rate>,
    full: Moment,
    client_connections: u32,
    client_rate: Option<Rate>,
}

/// A no, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) refusal: Refusal,
    /// Whole seconds until a token comes, rounded up; 0: nobody knows when a connection ends.
    pub(super) wait: u32,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, wait: 0 }
    }
}

impl Denied {
    fn late(refusal: Refusal, wait: u64) -> Self {
        Self { refusal, wait: u32::try_from(wait.div_ceil(1_000_000_000)).unwrap_or(u32::MAX) }
    }
}

/// What was asked of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// A token of the rates.
    pub(super) token: bool,
    /// A connection's place.
    pub(super) connection: bool,
}

impl Scope {
    fn new(connections: u32, rate: Option<&HandshakeRate>, client: (u32, Option<&HandshakeRate>)) -> Self {
        let (client_connections, client_rate) = (client.0, client.1.map(Rate::new));
        Self { connections, rate: rate.map(Rate::new), client_connections, client_rate, ..Self::default() }
    }

    fn limits_clients(&self) -> bool {
        self.client_connections > 0 || self.client_rate.is_some()
    }

    /// What becomes of the place, and of a client on it, with one more. Nothing is changed.
    fn with(&self, place: Place, mut client: Client, ask: Ask, now: Moment) -> Result<(Moment, Client), Denied> {
        let mut full = self.full;
        if ask.connection && self.client_connections > 0 {
            if client.live >= self.client_connections {
                return Err(Refusal::ClientFull.into());
            }
            client.live += 1;
        }
        if let (true, Some(rate)) = (ask.token, self.client_rate) {
            client.full = rate.take(client.full, now).map_err(|wait| Denied::late(Refusal::ClientRate, wait))?;
        }
        if ask.connection && self.connections > 0 && self.taken >= self.connections {
            return Err(Refusal::RouteFull.into());
        }
        if let (true, Some(rate)) = (ask.token, self.rate) {
            let refusal = if place == Place::All { Refusal::Rate } else { Refusal::RouteRate };
            full = rate.take(full, now).map_err(|wait| Denied::late(refusal, wait))?;
        }
        Ok((full, client))
    }
}

impl Limits {
    /// Those of a configuration, used by nobody.
    pub(super) fn new(config: &Config) -> Self {
        let (limits, per) = (&config.limits, &config.limits.per_client);
        // `limits.connections` is the admission's: it waits for room, where this refuses.
        let all = Scope::new(0, limits.handshakes.as_ref(), (per.connections, per.handshakes.as_ref()));
        let route = |route: &Route| {
            let (limits, per) = (&route.limits, &route.limits.per_client);
            Scope::new(limits.connections, limits.handshakes.as_ref(), (per.connections, per.handshakes.as_ref()))
        };
        Self {
            all,
            routes: config.routes.iter().map(route).collect(),
            prefixes: Prefixes::new(per),
            clients: Table::new(per.addresses as usize),
        }
    }

    /// How many clients are remembered.
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many clients have been forgotten, since this was last asked, of whom something was to be remembered.
    pub(super) fn forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.clients.evicted)
    }

    /// Somebody comes, or asks once more from where it is. `None`: a client without an address.
    ///
    /// # Errors
    /// A limit is reached; nothing has been taken.
    pub(super) fn take(&mut self, place: Place, address: Option<IpAddr>, ask: Ask, now: Moment) -> Result<(), Denied> {
        let Some((scope, key, clients)) = self.at(place, address) else { return Ok(()) };
        let client = key.map(|key| clients.get(&key)).unwrap_or_default();
        let with = scope.with(place, client, ask, now);
        if let Ok((full, _)) = with {
            scope.full = full;
            scope.taken += u32::from(ask.connection);
        }
        if let Some(key) = key {
            // Who is refused has been seen too: a client that goes on asking is not forgotten.
            clients.put(key, with.map_or(client, |(_, client)| client), now);
        }
        with.map(|_| ())
    }

    /// Counts a pair that the keeper holds, whatever the limits.
    pub(super) fn seat(&mut self, pair: &Tally, now: Moment) {
        for place in [Place::All, Place::Route(pair.route)] {
            self.recount(place, pair.client, now, |count| count.saturating_add(1));
        }
    }

    /// A pair of the keeper's has ended.
    pub(super) fn closed(&mut self, pair: &Tally, now: Moment) {
        for place in [Place::All, Place::Route(pair.route)] {
            self.leave(place, pair.client, now);
        }
    }

    /// A connection of this client's is no longer there.
    pub(super) fn leave(&mut self, place: Place, address: Option<IpAddr>, now: Moment) {
        self.recount(place, address, now, |count| count.saturating_sub(1));
    }

    fn recount(&mut self, place: Place, address: Option<IpAddr>, now: Moment, count: fn(u32) -> u32) {
        let Some((scope, key, clients)) = self.at(place, address) else { return };
        scope.taken = count(scope.taken);
        if let Some(key) = key.filter(|_| scope.client_connections > 0) {
            let client = clients.get(&key);
            clients.put(key, Client { live: count(client.live), ..client }, now);
        }
    }

    /// A place, and who has this address there, if that matters.
    fn at(&mut self, place: Place, address: Option<IpAddr>) -> Option<(&mut Scope, Option<Key>, &mut Table)> {
        let scope = match place {
            Place::All => &mut self.all,
            Place::Route(route) => self.routes.get_mut(usize::from(route))?,
        };
        let key = address.filter(|_| scope.limits_clients()).map(|address| self.prefixes.client(address, place));
        Some((scope, key, &mut self.clients))
    }
}

#[cfg(test)]
mod tests;
