#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::super::Place;
use super::super::prefix::Prefixes;
use super::*;
use crate::config::PerClient;

fn key(address: impl Into<IpAddr>) -> Key {
    Prefixes::new(&PerClient::default()).client(address.into(), Place::All)
}

fn key4(address: u32) -> Key {
    key(Ipv4Addr::from(address))
}

/// What the table has allocated, in bytes.
fn bytes(table: &Table) -> usize {
    table.first.capacity() * size_of::<u32>() + table.entries.capacity() * size_of::<Entry>()
}

/// Where the chain from `place` on leads.
fn chain(table: &Table, place: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(place), |place| table.entry(*place).map(|entry| entry.next)).filter(|at| *at != NONE)
}

/// Whether both kinds of lists say the same.
fn check(table: &Table) {
    let (mut seen, mut at, mut before) = (0, table.oldest, NONE);
    while let Some(entry) = table.entry(at) {
        assert_eq!((entry.older, entry.client.live, table.find(&entry.key)), (before, 0, Some(at)));
        (before, at, seen) = (at, entry.newer, seen + 1);
        assert!(seen <= table.idle, "the list has a ring");
    }
    assert_eq!((seen, table.newest), (table.idle, before));
    let known: Vec<u32> = table.first.iter().flat_map(|first| chain(table, *first)).collect();
    let live = known.iter().filter(|place| table.entry(**place).unwrap().client.live > 0).count();
    assert_eq!((known.len(), live + table.idle), (table.len(), table.len()));
    assert_eq!(table.len() + chain(table, table.free).count(), table.entries.len());
    assert!(table.idle <= table.most && table.first.len() >= table.len());
}

#[test]
fn who_was_seen_longest_ago_is_forgotten_first() {
    let mut table = Table::new(3);
    let rated = Client { full: 1_000, live: 0 };
    (1..=3).for_each(|address| table.put(key4(address), rated, 0));
    table.put(key4(1), rated, 0);
    table.put(key4(4), rated, 0);
    let known = |table: &Table, address| table.get(&key4(address)) != Client::default();
    assert_eq!([1, 2, 3, 4].map(|address| known(&table, address)), [true, false, true, true]);
    assert_eq!((table.len(), table.evicted), (3, 1));
    check(&table);
}

#[test]
fn who_has_a_connection_is_never_forgotten() {
    let mut table = Table::new(2);
    for address in 0..1_000 {
        table.put(key4(address), Client { full: 0, live: 1 }, 0);
    }
    for address in 10_000..20_000 {
        table.put(key4(address), Client { full: 1_000, live: 0 }, 0);
    }
    assert!((0..1_000).all(|address| table.get(&key4(address)).live == 1));
    assert_eq!((table.len(), table.evicted), (1_002, 9_998));
    // They go with their last connection: the last two stay, if there is something to remember.
    for address in 0..1_000 {
        table.put(key4(address), Client { full: 1_000, live: 0 }, 0);
        check(&table);
    }
    assert_eq!((table.len(), table.evicted), (2, 9_998 + 1_000));
}

#[test]
fn of_whom_there_is_nothing_to_remember_nothing_is_kept() {
    let mut table = Table::new(1_000);
    for address in 0..1_000 {
        table.put(key4(address), Client { full: 500, live: 0 }, 0);
    }
    table.put(key4(5), Client { full: 500, live: 0 }, 500);
    assert_eq!(table.len(), 999);
    // Each that comes takes two along whose buckets are full again.
    for address in 5_000..5_499 {
        table.put(key4(address), Client { full: 9_999, live: 0 }, 600);
    }
    assert_eq!((table.len(), table.evicted), (500, 0));
    check(&table);
}

#[test]
fn a_flood_costs_no_more_than_the_table_may_hold() {
    let most = PerClient::default().addresses as usize;
    let mut table = Table::new(most);
    assert_eq!(bytes(&table), 0, "an empty table costs nothing");
    let connected = 10_000;
    for address in 0..connected {
        table.put(key4(address), Client { full: 0, live: 1 }, 0);
    }
    // Networks of IPv6, of which one subscriber of a careless provider has four thousand million.
    let rated = |now| Client { full: now + 1_000_000_000, live: 0 };
    for now in 0..2_000_000_u64 {
        table.put(key(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (u128::from(now) << 64))), rated(now), now);
    }
    check(&table);
    assert_eq!(table.len(), most + connected as usize);
    assert_eq!(table.evicted, 2_000_000 - most as u64);
    assert!((0..connected).all(|address| table.get(&key4(address)).live == 1));
    // What docs/limits.md says.
    let each = bytes(&table) / table.len();
    assert!(each <= 64, "{} bytes, {each} for each client", bytes(&table));
    println!("{} clients, {} bytes, {each} for each", table.len(), bytes(&table));
}

/// The same rules, written down without thought for time.
#[derive(Default)]
struct Naive {
    live: HashMap<u32, Client>,
    idle: VecDeque<(u32, Client)>,
    evicted: u64,
}

impl Naive {
    fn get(&self, address: u32) -> Client {
        let idle = self.idle.iter().find(|(other, _)| *other == address).map(|(_, client)| *client);
        self.live.get(&address).copied().or(idle).unwrap_or_default()
    }

    fn put(&mut self, address: u32, client: Client, now: Moment, most: usize) {
        let known = self.live.remove(&address).is_some() | self.idle.iter().any(|(other, _)| *other == address);
        self.idle.retain(|(other, _)| *other != address);
        if client.is_new(now) {
            return;
        }
        for _ in 0..if known { 0 } else { 2 } {
            if self.idle.front().is_some_and(|(_, client)| client.is_new(now)) {
                self.idle.pop_front();
            }
        }
        if client.live > 0 {
            self.live.insert(address, client);
        } else {
            self.idle.push_back((address, client));
        }
        while self.idle.len() > most {
            self.idle.pop_front();
            self.evicted += 1;
        }
    }
}

proptest! {
    #[test]
    fn it_remembers_what_a_naive_one_does(
        most in 1_usize..8,
        steps in prop::collection::vec((0_u32..24, 0_u64..40, 0_u32..3, 0_u64..6), 1..400),
    ) {
        let (mut table, mut naive, mut now) = (Table::new(most), Naive::default(), 0);
        for (address, ahead, live, later) in steps {
            now += later;
            let client = Client { full: (now + ahead).saturating_sub(10), live: live.saturating_sub(1) };
            table.put(key4(address), client, now);
            naive.put(address, client, now, most);
            check(&table);
            for address in 0..24 {
                prop_assert_eq!(table.get(&key4(address)), naive.get(address), "{}", address);
            }
            prop_assert_eq!(table.evicted, naive.evicted);
        }
    }
}
