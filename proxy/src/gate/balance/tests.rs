//! How even each way is, over many picks. `cargo test -p sluice --lib balance -- --nocapture` prints the tables that
//! docs/balancing.md has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::config::{Balance, HashOn};

/// The ways, and how far the fullest and the emptiest server may be off their shares, in percent: after many picks, and
/// while connections come and go.
const WAYS: [(&str, Balance, f64, f64); 5] = [
    ("round-robin", Balance::RoundRobin, 0.01, 20.0),
    ("least-connections", Balance::LeastConnections, 0.01, 0.5),
    ("power-of-two", Balance::PowerOfTwo, 0.1, 6.0),
    ("source-ip", Balance::SourceIp, 4.0, 25.0),
    ("maglev", Balance::Maglev(HashOn::Address), 4.0, 25.0),
];

/// A backend in a table of its own.
struct Fleet {
    balancer: Balancer,
    members: Vec<Member>,
    live: Vec<u32>,
    random: SmallRng,
}

impl Fleet {
    fn new(way: &Balance, weights: &[u32]) -> Self {
        let random = SmallRng::seed_from_u64(17);
        let mut fleet = Self { balancer: Balancer::new(way), members: Vec::new(), live: Vec::new(), random };
        weights.iter().for_each(|weight| fleet.join(*weight));
        fleet
    }

    fn join(&mut self, weight: u32) {
        let server = self.members.len() as u16;
        self.members.push(Member { server, name: format!("10.0.0.{}:80", server + 1), weight });
        self.live.push(0);
        self.balancer.set_members(&self.members);
    }

    fn candidates(&self) -> Vec<Candidate> {
        let candidate =
            |member: &Member| (member.server, f64::from(member.weight), self.live[usize::from(member.server)]);
        self.members.iter().map(candidate).map(|(server, weight, live)| Candidate { server, weight, live }).collect()
    }

    /// One client more.
    fn open(&mut self, client: u32) -> usize {
        let ask = Ask { key: Some(key(&client.to_be_bytes())), random: self.random.random() };
        let server = usize::from(self.balancer.pick(&self.candidates(), &ask).unwrap());
        self.live[server] += 1;
        server
    }

    fn arrive(&mut self, client: u32) {
        self.open(client);
    }

    /// How far the server that is furthest off has more or less than its share of all connections.
    fn deviation(&self) -> f64 {
        let all: u32 = self.live.iter().sum();
        let weights: u32 = self.members.iter().map(|member| member.weight).sum();
        let off = |(member, live): (&Member, &u32)| {
            let due = f64::from(all) * f64::from(member.weight) / f64::from(weights);
            (f64::from(*live) - due).abs() / due
        };
        self.members.iter().zip(&self.live).map(off).fold(0.0, f64::max)
    }
}

/// 100,000 clients that come and stay.
fn all_stay(way: &Balance, weights: &[u32]) -> f64 {
    let mut fleet = Fleet::new(way, weights);
    (0..100_000).for_each(|client| fleet.arrive(client));
    100.0 * fleet.deviation()
}

/// 1,000 at a time: with every one that comes, another goes, whichever. The mean over 50,000 of them.
fn come_and_go(way: &Balance, weights: &[u32]) -> f64 {
    let mut fleet = Fleet::new(way, weights);
    let mut open: Vec<usize> = (0..1_000).map(|client| fleet.open(client)).collect();
    let mut sum = 0.0;
    for client in 0..60_000 {
        let goes = fleet.random.random_range(0..open.len());
        fleet.live[open.swap_remove(goes)] -= 1;
        open.push(fleet.open(1_000 + client));
        if client >= 10_000 {
            sum += fleet.deviation();
        }
    }
    100.0 * sum / 50_000.0
}

#[test]
fn every_way_is_as_even_as_the_documentation_says() {
    println!("| | equal, stay | weighted, stay | equal, come and go | weighted, come and go |\n|---|---|---|---|---|");
    let (equal, weighted) = ([1; 10], [1, 3, 1, 3, 1, 3, 1, 3, 1, 3]);
    for (name, way, stay, moving) in WAYS {
        let [a, b] = [&equal, &weighted].map(|weights| all_stay(&way, weights));
        let [c, d] = [&equal, &weighted].map(|weights| come_and_go(&way, weights));
        println!("| `{name}` | {a:.2} % | {b:.2} % | {c:.1} % | {d:.1} % |");
        assert!(a <= stay && b <= stay && c <= moving && d <= moving, "{name}: {a} {b} {c} {d}");
    }
}

/// Four servers with 1,000 connections each that stay, a fifth that joins, and 1,000 clients more.
#[test]
fn who_joins_late_is_filled_up_by_those_that_count() {
    for (name, way, least, most) in [
        ("round-robin", Balance::RoundRobin, 200, 200),
        ("least-connections", Balance::LeastConnections, 1000, 1000),
        ("power-of-two", Balance::PowerOfTwo, 360, 440),
        ("source-ip", Balance::SourceIp, 160, 240),
        ("maglev", Balance::Maglev(HashOn::Address), 160, 240),
    ] {
        let mut fleet = Fleet::new(&way, &[1; 4]);
        fleet.live.fill(1_000);
        fleet.join(1);
        (0..1_000).for_each(|client| fleet.arrive(client));
        println!("| `{name}` | {:?} |", fleet.live);
        assert!((least..=most).contains(&fleet.live[4]), "{name}: {:?}", fleet.live);
    }
}

#[test]
fn an_idle_fleet_is_filled_evenly_by_those_that_count() {
    let mut fleet = Fleet::new(&Balance::LeastConnections, &[1; 4]);
    for client in 0..8 {
        let server = fleet.open(client);
        assert_eq!(server, client as usize % 4);
        fleet.live.fill(0);
    }
    let mut fleet = Fleet::new(&Balance::LeastConnections, &[2, 1]);
    (0..6).for_each(|client| fleet.arrive(client));
    assert_eq!(fleet.live, [4, 2]);
}

#[test]
fn two_are_drawn_and_the_less_loaded_is_taken() {
    let candidates = [(0, 5), (1, 4), (2, 3)].map(|(server, live)| Candidate { server, weight: 1.0, live });
    let mut balancer = Balancer::new(&Balance::PowerOfTwo);
    let mut pick = |candidates: &[Candidate], random| balancer.pick(candidates, &Ask { key: None, random });
    // The first draw goes by thirds, the second by halves of what is left.
    assert_eq!(pick(&candidates, [0, 0]), Some(1), "of 0 and 1");
    assert_eq!(pick(&candidates, [0, u64::MAX]), Some(2), "of 0 and 2");
    assert_eq!(pick(&candidates, [u64::MAX, 0]), Some(2), "of 2 and 0");
    assert_eq!(pick(&candidates[..1], [u64::MAX; 2]), Some(0));
    assert_eq!(pick(&[], [0, 0]), None);
}

/// Nothing is shared but the names: what two nodes, that list the servers in another order, make of the same clients.
#[test]
fn hashes_agree_on_every_node() {
    for way in [Balance::SourceIp, Balance::Maglev(HashOn::Path)] {
        let member =
            |(server, name): (u16, u16)| Member { server, name: format!("10.0.0.{name}:80"), weight: u32::from(name) };
        let one: Vec<Member> = (0..).zip([1, 2, 3, 4, 5]).map(member).collect();
        let other: Vec<Member> = (7..).zip([4, 1, 5, 3, 2]).map(member).collect();
        let server = |members: &[Member], key, full: &str| {
            let mut balancer = Balancer::new(&way);
            balancer.set_members(members);
            // The slow start of one, and what is open, are different on each.
            let may = members.iter().filter(|member| member.name != full);
            let may = may.map(|member| Candidate { server: member.server, weight: 0.1, live: member.server.into() });
            let ask = Ask { key: Some(key), random: [0; 2] };
            let server = balancer.pick(&may.collect::<Vec<_>>(), &ask).unwrap();
            members.iter().find(|member| member.server == server).unwrap().name.clone()
        };
        for client in 0..50u64 {
            let key = key(&client.to_be_bytes());
            let own = server(&one, key, "");
            assert_eq!(own, server(&other, key, ""));
            // Where its clients go if it is full is the same, too.
            assert_eq!(server(&one, key, &own), server(&other, key, &own));
        }
    }
}

/// Of the address's hash, only the clients of a server that goes move, and to everybody in proportion.
#[test]
fn a_source_moves_only_when_its_own_server_goes() {
    let mut fleet = Fleet::new(&Balance::SourceIp, &[1, 1, 2, 4]);
    let all = fleet.candidates();
    let left: Vec<Candidate> = all[..3].to_vec();
    let mut moved = [0; 3];
    for client in 0..40_000u32 {
        let ask = Ask { key: Some(key(&client.to_be_bytes())), random: [0; 2] };
        let (before, after) = (fleet.balancer.pick(&all, &ask).unwrap(), fleet.balancer.pick(&left, &ask).unwrap());
        assert!(before == after || before == 3);
        if before == 3 {
            moved[usize::from(after)] += 1;
        }
    }
    let sum: i32 = moved.iter().sum();
    assert!((19_500..20_500).contains(&sum), "half of the weight: {sum}");
    assert!((moved[0] - 5_000).abs() < 300 && (moved[1] - 5_000).abs() < 300, "{moved:?}");
}

#[test]
fn requests_without_a_key_and_servers_without_a_place_take_turns() {
    for way in [Balance::SourceIp, Balance::Maglev(HashOn::Path)] {
        let mut fleet = Fleet::new(&way, &[1; 3]);
        let candidates = fleet.candidates();
        let mut pick = |candidates: &[Candidate], key| fleet.balancer.pick(candidates, &Ask { key, random: [0; 2] });
        assert_eq!([(); 4].map(|()| pick(&candidates, None)), [Some(0), Some(1), Some(2), Some(0)]);
        let strangers = [Candidate { server: 9, weight: 1.0, live: 0 }];
        assert_eq!(pick(&strangers, Some(1)), Some(9));
        assert_eq!(pick(&[], Some(1)), None);
    }
}

#[test]
fn keys_never_change() {
    // sha256sum of the same bytes.
    assert_eq!(key(b"room 17"), 0x4518_c31d_fdda_6665);
}
