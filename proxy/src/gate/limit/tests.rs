#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{PerClient, RoutePerClient};

const SECOND: u64 = 1_000_000_000;
const CONNECT: Ask = Ask { token: true, connection: true };
const REQUEST: Ask = Ask { token: true, connection: false };

fn rate(rate: u32, burst: u32) -> Option<HandshakeRate> {
    Some(HandshakeRate { rate, per: Duration::from_secs(1), burst: Some(burst) })
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// Two routes; `change` says what is limited.
fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config { routes: vec![Route::default(), Route::default()], ..Config::default() };
    change(&mut config);
    config
}

fn refused(limits: &mut Limits, place: Place, address: Option<IpAddr>) -> Option<Refusal> {
    limits.take(place, address, CONNECT, 0).err().map(|denied| denied.refusal)
}

#[test]
fn without_settings_nothing_is_limited_or_remembered() {
    let mut limits = Limits::new(&config(|_| {}));
    for address in 0..100_000_u32 {
        for place in [Place::All, Place::Route(0), Place::Route(9)] {
            assert_eq!(refused(&mut limits, place, Some(Ipv4Addr::from(address).into())), None);
        }
    }
    assert_eq!(limits.clients(), 0);
}

#[test]
fn each_limit_has_its_refusal() {
    let change = |config: &mut Config| {
        config.limits.handshakes = rate(1, 6);
        config.limits.per_client = PerClient { connections: 3, handshakes: rate(1, 4), ..PerClient::default() };
        config.routes[1].limits.connections = 5;
        config.routes[1].limits.handshakes = rate(1, 5);
        config.routes[1].limits.per_client = RoutePerClient { connections: 2, handshakes: rate(1, 3) };
    };
    let mut limits = Limits::new(&config(change));
    let [one, other, third] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(ip);
    let mut no = |place, address| refused(&mut limits, place, address);
    assert_eq!([no(Place::All, one), no(Place::All, one), no(Place::All, one)], [None; 3]);
    assert_eq!(no(Place::All, one), Some(Refusal::ClientFull));
    assert_eq!([no(Place::All, other), no(Place::All, other), no(Place::All, third)], [None; 3]);
    assert_eq!(no(Place::All, third), Some(Refusal::Rate));
    // A route by itself.
    let route = Place::Route(1);
    assert_eq!([no(route, one), no(route, one), no(route, one)], [None, None, Some(Refusal::ClientFull)]);
    assert_eq!([no(route, other), no(route, other), no(route, third)], [None; 3]);
    assert_eq!(no(route, third), Some(Refusal::RouteFull));
    limits.leave(route, one, 0);
    assert_eq!(refused(&mut limits, route, one), Some(Refusal::RouteRate));
    let mut again = |place, address| limits.take(place, address, REQUEST, 0).map_err(|denied| denied.refusal);
    assert_eq!([again(Place::All, one), again(route, None)], [Err(Refusal::Rate), Err(Refusal::RouteRate)]);
    let mut limits = Limits::new(&config(|config| config.limits.per_client.handshakes = rate(1, 1)));
    assert_eq!(refused(&mut limits, Place::All, one), None);
    assert_eq!(refused(&mut limits, Place::All, one), Some(Refusal::ClientRate));
    assert_eq!([refused(&mut limits, Place::All, None), refused(&mut limits, Place::All, None)], [None; 2]);
}

#[test]
fn who_is_beyond_its_own_limit_takes_nothing_of_what_is_for_all() {
    let change = |config: &mut Config| {
        config.limits.handshakes = rate(1, 10);
        config.limits.per_client.handshakes = rate(1, 2);
    };
    let mut limits = Limits::new(&config(change));
    let greedy = (0..1_000).filter(|_| refused(&mut limits, Place::All, ip("192.0.2.1")).is_none()).count();
    let others = (0..100_u8).filter(|last| refused(&mut limits, Place::All, Some([10, 0, 0, *last].into())).is_none());
    assert_eq!((greedy, others.count()), (2, 8));
}

#[test]
fn what_is_refused_for_all_costs_a_client_nothing() {
    let change = |config: &mut Config| {
        config.limits.handshakes = rate(1, 1);
        config.limits.per_client = PerClient { connections: 1, handshakes: rate(1, 1), ..PerClient::default() };
    };
    let mut limits = Limits::new(&config(change));
    assert_eq!(refused(&mut limits, Place::All, None), None);
    for _ in 0..9 {
        assert_eq!(refused(&mut limits, Place::All, ip("192.0.2.1")), Some(Refusal::Rate));
    }
    assert_eq!(limits.clients(), 0);
    assert_eq!(limits.take(Place::All, ip("192.0.2.1"), CONNECT, SECOND), Ok(()));
}

#[test]
fn the_wait_is_told_in_whole_seconds() {
    let per_minute = HandshakeRate { rate: 2, per: Duration::from_secs(60), burst: Some(1) };
    let mut limits = Limits::new(&config(|config| config.limits.handshakes = Some(per_minute)));
    assert_eq!(limits.take(Place::All, None, CONNECT, 0), Ok(()));
    for (now, wait) in [(0, 30), (1, 30), (SECOND, 29), (29 * SECOND + 1, 1)] {
        assert_eq!(limits.take(Place::All, None, CONNECT, now), Err(Denied { refusal: Refusal::Rate, wait }));
    }
    assert_eq!(limits.take(Place::All, None, CONNECT, 30 * SECOND), Ok(()));
}

#[test]
fn pairs_of_earlier_gates_are_counted() {
    let change = |config: &mut Config| {
        config.limits.per_client.connections = 2;
        config.routes[0].limits.per_client.connections = 1;
    };
    let mut limits = Limits::new(&config(change));
    // One network of IPv6, and the same IPv4 address in both of its spellings.
    let on = |text: &str, route| Tally { route, backend: 0, server: 0, client: ip(text) };
    let live = [on("2001:db8::1", 0), on("2001:db8::2", 1), on("::ffff:192.0.2.1", 0), on("192.0.2.2", 1)];
    live.iter().for_each(|pair| limits.seat(pair, 0));
    let mut no = |place, address| limits.take(place, ip(address), CONNECT, 0).err().map(|denied| denied.refusal);
    assert_eq!(no(Place::All, "2001:db8::3"), Some(Refusal::ClientFull));
    assert_eq!(no(Place::Route(0), "192.0.2.1"), Some(Refusal::ClientFull));
    assert_eq!([no(Place::All, "192.0.2.1"), no(Place::Route(1), "192.0.2.1")], [None; 2]);
    // The other route limits no clients: two places of three clients with pairs, and one for each.
    assert_eq!(limits.clients(), 5);
    live.iter().for_each(|pair| limits.closed(pair, 0));
    assert_eq!(limits.clients(), 1, "of one client there is a connection left");
    limits.leave(Place::All, ip("192.0.2.1"), 0);
    assert_eq!(limits.clients(), 0);
}

/// Tokens and connections as one would write them down: nothing is ever forgotten, nothing is a moment.
#[derive(Default)]
struct Naive {
    buckets: HashMap<(Place, Option<IpAddr>), (u128, u64)>,
    connections: HashMap<(Place, Option<IpAddr>), u32>,
}

impl Naive {
    fn tokens(&mut self, of: (Place, Option<IpAddr>), rate: &HandshakeRate, now: u64) -> &mut u128 {
        let most = u128::from(rate.burst.unwrap()) * u128::from(SECOND);
        let (tokens, last) = self.buckets.entry(of).or_insert((most, now));
        *tokens = most.min(*tokens + u128::from(now - *last) * u128::from(rate.rate));
        *last = now;
        tokens
    }

    fn lacks(&mut self, of: (Place, Option<IpAddr>), rate: Option<&HandshakeRate>, now: u64) -> Option<u32> {
        let tokens = *self.tokens(of, rate?, now);
        let missing = u128::from(SECOND).checked_sub(tokens).filter(|missing| *missing > 0)?;
        let wait = missing.div_ceil(u128::from(rate?.rate));
        Some(wait.div_ceil(u128::from(SECOND)) as u32)
    }

    fn has(&self, of: (Place, Option<IpAddr>)) -> u32 {
        self.connections.get(&of).copied().unwrap_or(0)
    }

    fn take(
        &mut self,
        config: &Config,
        place: Place,
        address: Option<IpAddr>,
        ask: Ask,
        now: u64,
    ) -> Result<(), Denied> {
        let (full, all, per_client_full, per_client, late) = match place {
            Place::All => {
                let limits = &config.limits;
                let per = &limits.per_client;
                (0, &limits.handshakes, per.connections, &per.handshakes, Refusal::Rate)
            }
            Place::Route(route) => {
                let limits = &config.routes[usize::from(route)].limits;
                let per = &limits.per_client;
                (limits.connections, &limits.handshakes, per.connections, &per.handshakes, Refusal::RouteRate)
            }
        };
        let (client, everybody) = ((place, address), (place, None));
        if address.is_some() {
            if ask.connection && per_client_full > 0 && self.has(client) >= per_client_full {
                return Err(Refusal::ClientFull.into());
            }
            if let Some(wait) = self.lacks(client, per_client.as_ref(), now).filter(|_| ask.token) {
                return Err(Denied { refusal: Refusal::ClientRate, wait });
            }
        }
        if ask.connection && full > 0 && self.has(everybody) >= full {
            return Err(Refusal::RouteFull.into());
        }
        if let Some(wait) = self.lacks(everybody, all.as_ref(), now).filter(|_| ask.token) {
            return Err(Denied { refusal: late, wait });
        }
        let rates = [(everybody, all.as_ref()), (client, per_client.as_ref().filter(|_| address.is_some()))];
        for (of, rate) in rates.into_iter().filter_map(|(of, rate)| Some((of, rate.filter(|_| ask.token)?))) {
            *self.tokens(of, rate, now) -= u128::from(SECOND);
        }
        self.count(place, address, if ask.connection { 1 } else { 0 });
        Ok(())
    }

    fn count(&mut self, place: Place, address: Option<IpAddr>, more: i32) {
        for of in [Some((place, None)), address.map(|_| (place, address))].into_iter().flatten() {
            let count = self.connections.entry(of).or_default();
            *count = count.checked_add_signed(more).unwrap();
        }
    }
}

/// An address, and the one that stands for its client.
fn address(number: u8) -> (Option<IpAddr>, Option<IpAddr>) {
    let client = u32::from(number / 3);
    match number % 3 {
        0 => (Some(Ipv4Addr::from(client).into()), Some(Ipv4Addr::from(client).into())),
        1 => {
            let mapped = Ipv4Addr::from(client).to_ipv6_mapped();
            (Some(mapped.into()), Some(Ipv4Addr::from(client).into()))
        }
        _ => {
            let network = (0x2001_0db8_u128 << 96) | (u128::from(client / 2) << 64);
            let host = Ipv6Addr::from_bits(network | u128::from(number));
            (Some(host.into()), Some(Ipv6Addr::from_bits(network).into()))
        }
    }
}

fn any_rate() -> impl Strategy<Value = Option<HandshakeRate>> {
    // Rates that divide a second: nothing is rounded.
    let some = (prop::sample::select(vec![1_u32, 2, 5, 10]), 1_u32..6).prop_map(|(each, burst)| rate(each, burst));
    prop_oneof![Just(None), some]
}

proptest! {
    #[test]
    fn it_decides_as_a_naive_one_does(
        all in any_rate(), of_client in any_rate(), of_route in any_rate(), of_both in any_rate(),
        connections in (0_u32..4, 0_u32..6, 0_u32..3),
        steps in prop::collection::vec((0_u8..12, 0_u8..3, 0_u8..4, 0_u64..SECOND / 3), 1..200),
    ) {
        let config = config(|config| {
            config.limits.handshakes = all;
            config.limits.per_client =
                PerClient { connections: connections.0, handshakes: of_client, ..PerClient::default() };
            let route = &mut config.routes[1].limits;
            (route.connections, route.handshakes) = (connections.1, of_route);
            route.per_client = RoutePerClient { connections: connections.2, handshakes: of_both };
        });
        let (mut limits, mut naive, mut held, mut now) = (Limits::new(&config), Naive::default(), vec![], 0);
        for (who, place, what, later) in steps {
            now += later;
            let place = if place == 0 { Place::All } else { Place::Route(u16::from(place - 1)) };
            let (sent, client) = address(who);
            let (sent, client) = if who == 11 { (None, None) } else { (sent, client) };
            match what {
                0 if !held.is_empty() => {
                    let (place, sent, client) = held.swap_remove(usize::from(who) % held.len());
                    limits.leave(place, sent, now);
                    naive.count(place, client, -1);
                }
                1 => prop_assert_eq!(
                    limits.take(place, sent, REQUEST, now),
                    naive.take(&config, place, client, REQUEST, now)
                ),
                _ => {
                    let taken = limits.take(place, sent, CONNECT, now);
                    prop_assert_eq!(taken, naive.take(&config, place, client, CONNECT, now));
                    held.extend(taken.is_ok().then_some((place, sent, client)));
                }
            }
        }
        // When everybody has left and every bucket is full, nothing is remembered, once somebody comes by.
        for (place, sent, _) in held {
            limits.leave(place, sent, now);
        }
        for last in 0..40 {
            let _ = limits.take(Place::All, Some([203, 0, 113, last].into()), CONNECT, now + 60 * SECOND);
            limits.leave(Place::All, Some([203, 0, 113, last].into()), now + 3600 * SECOND);
        }
        prop_assert!(limits.clients() <= 40);
    }
}
