//! Weighted rendezvous hashing (Thaler and Ravishankar, 1998; weights as Schindelhauer and Schomaker, 2005).

use super::{Candidate, Member, key, unit};

/// What the hash looks at of each member.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rendezvous {
    /// Sorted by the server's number.
    members: Vec<Drawn>,
}

#[derive(Debug, PartialEq)]
struct Drawn {
    server: u16,
    name: u64,
    weight: f64,
}

impl Rendezvous {
    pub(super) fn new(members: &[Member]) -> Self {
        let drawn = |member: &Member| Drawn {
            server: member.server,
            name: key(member.name.as_bytes()),
            weight: f64::from(member.weight),
        };
        let mut members: Vec<Drawn> = members.iter().map(drawn).collect();
        members.sort_by_key(|drawn| drawn.server);
        Self { members }
    }

    /// The candidate that this key draws the highest score for. Each score hangs on the key and one server alone, so if a
    /// server goes, or is full, only its own keys move, to whom each of them had second.
    pub(super) fn pick(&self, candidates: &[Candidate], key: u64) -> Option<u16> {
        let known = |candidate: &Candidate| {
            let place = self.members.binary_search_by_key(&candidate.server, |drawn| drawn.server).ok()?;
            self.members.get(place)
        };
        let better = |a: &&Drawn, b: &&Drawn| a.score(key).total_cmp(&b.score(key)).then(a.name.cmp(&b.name));
        candidates.iter().filter_map(known).max_by(better).map(|drawn| drawn.server)
    }
}

impl Drawn {
    /// -weight / ln(u) with u evenly from 0 to 1: the highest with a probability that is the weight's share.
    fn score(&self, key: u64) -> f64 {
        // Two platforms may compute a logarithm differently in its last bit. That decides about one key in 10^15.
        -self.weight / unit(mix(key ^ self.name)).ln()
    }
}

/// Every bit of the result hangs on every bit of the number (the finalizer of MurmurHash3).
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let number = (number ^ number >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ number >> 33
}
