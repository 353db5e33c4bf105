//! Which server of a backend is next. Pure: facts and random numbers in, a verdict out.

pub(in crate::gate) mod health;
pub(in crate::gate) mod key;
mod maglev;
pub(in crate::gate) mod pace;
mod rendezvous;
mod smooth;
pub(in crate::gate) mod tiers;

use aws_lc_rs::digest::{SHA256, digest};

use self::maglev::Maglev;
use self::rendezvous::Rendezvous;
use self::smooth::Smooth;
use crate::config;

/// A server that may be picked at all: in the configuration (or found by name), up, not draining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gate) struct Member {
    /// Its place in the caller's table. The hashes do not look at it.
    pub(in crate::gate) server: u16,
    /// `10.0.0.1:80`: the same on every node.
    pub(in crate::gate) name: String,
    /// As configured; 1 at least.
    pub(in crate::gate) weight: u32,
}

/// One that may be picked now: a member that has not been tried and is not full.
#[derive(Clone, Copy, Debug)]
pub(in crate::gate) struct Candidate {
    pub(in crate::gate) server: u16,
    /// The configured weight times its share during a slow start; above 0.
    pub(in crate::gate) weight: f64,
    /// Connections that it has now.
    pub(in crate::gate) live: u32,
}

/// What is known of the request.
#[derive(Clone, Copy, Debug)]
pub(in crate::gate) struct Ask {
    /// Of what the hashes look at. None: the request has no such thing, and is served in turn.
    pub(in crate::gate) key: Option<u64>,
    /// Two random numbers, for those that draw lots.
    pub(in crate::gate) random: [u64; 2],
}

/// A backend's way to choose, with what it must remember for it.
#[derive(Debug)]
pub(in crate::gate) struct Balancer {
    way: Way,
    /// Whose turn it is, for requests that nothing else decides.
    turns: Smooth,
}

#[derive(Debug)]
enum Way {
    InTurn,
    LeastConnections,
    PowerOfTwo,
    SourceIp(Rendezvous),
    Maglev(Maglev),
}

impl Balancer {
    /// Without members yet.
    pub(in crate::gate) fn new(settings: &config::Balance) -> Self {
        let way = match settings {
            config::Balance::RoundRobin => Way::InTurn,
            config::Balance::LeastConnections => Way::LeastConnections,
            config::Balance::PowerOfTwo => Way::PowerOfTwo,
            config::Balance::SourceIp => Way::SourceIp(Rendezvous::default()),
            config::Balance::Maglev(_) => Way::Maglev(Maglev::default()),
        };
        Self { way, turns: Smooth::default() }
    }

    /// The members have changed; they may be in any order. What is remembered of those that stay is kept. With Maglev
    /// this builds a table: some milliseconds.
    pub(in crate::gate) fn set_members(&mut self, members: &[Member]) {
        self.turns.keep(|server| members.iter().any(|member| member.server == server));
        match &mut self.way {
            Way::InTurn | Way::LeastConnections | Way::PowerOfTwo => {}
            Way::SourceIp(hash) => *hash = Rendezvous::new(members),
            Way::Maglev(table) => *table = Maglev::new(members),
        }
    }

    /// The server for a request. `None` only without candidates.
    ///
    /// The hashes go by the members' configured weights: a slow start would move clients to and fro, and on several
    /// nodes not at the same time.
    pub(in crate::gate) fn pick(&mut self, candidates: &[Candidate], ask: &Ask) -> Option<u16> {
        let decided = match (&self.way, ask.key) {
            (Way::LeastConnections, _) => return self.turns.pick(&least_loaded(candidates)),
            (Way::PowerOfTwo, _) => power_of_two(candidates, ask.random),
            (Way::SourceIp(hash), Some(key)) => hash.pick(candidates, key),
            (Way::Maglev(table), Some(key)) => table.pick(candidates, key),
            (Way::InTurn | Way::SourceIp(_) | Way::Maglev(_), _) => None,
        };
        decided.or_else(|| self.turns.pick(candidates))
    }
}

impl Candidate {
    /// How loaded it would be with one connection more.
    fn load(&self) -> f64 {
        (f64::from(self.live) + 1.0) / self.weight
    }
}

/// All that are the least loaded: of an idle fleet every one, and then they take turns.
fn least_loaded(candidates: &[Candidate]) -> Vec<Candidate> {
    let least = candidates.iter().map(Candidate::load).fold(f64::INFINITY, f64::min);
    candidates.iter().copied().filter(|candidate| candidate.load() <= least).collect()
}

/// The less loaded of two different ones, each drawn by lot with its weight (Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing", 2001).
fn power_of_two(candidates: &[Candidate], random: [u64; 2]) -> Option<u16> {
    let [first, second] = random;
    let one = draw(candidates.iter(), first)?;
    let other = draw(candidates.iter().filter(|candidate| candidate.server != one.server), second);
    let better = other.filter(|other| other.load() < one.load()).unwrap_or(one);
    Some(better.server)
}

fn draw<'a>(candidates: impl Iterator<Item = &'a Candidate> + Clone, random: u64) -> Option<&'a Candidate> {
    let all: f64 = candidates.clone().map(|candidate| candidate.weight).sum();
    let mut left = unit(random) * all;
    let mut last = None;
    for candidate in candidates {
        last = Some(candidate);
        left -= candidate.weight;
        if left < 0.0 {
            break;
        }
    }
    // Rounding may leave a little behind the last one.
    last
}

/// A number of 64 random bits as one from 0 to below 1.
fn unit(random: u64) -> f64 {
    // The 53 bits that a double holds.
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// The key of any bytes, as [`key::KeyOf`] makes it for [`Ask::key`]: the first eight bytes of their SHA-256, big-endian. The same on every node and
/// in every version, and nobody can aim at a server with it more cheaply than by trying.
pub(in crate::gate) fn key(bytes: &[u8]) -> u64 {
    let [key, _] = keys(bytes);
    key
}

/// Two independent keys: the first and the second eight bytes of the SHA-256.
fn keys(bytes: &[u8]) -> [u64; 2] {
    let hash = digest(&SHA256, bytes);
    let (words, _) = hash.as_ref().as_chunks::<8>();
    // SHA-256 has four words; none is missing.
    [0, 1].map(|place| words.get(place).copied().map_or(0, u64::from_be_bytes))
}

#[cfg(test)]
mod tests;
