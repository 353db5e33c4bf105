//! Maglev's consistent hash (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! §3.4), with weights as Envoy has them (`source/extensions/load_balancing_policies/maglev/maglev_lb.cc`).

use super::rendezvous::Rendezvous;
use super::{Candidate, Member, keys};

/// Entries of a table. A prime, the one of the paper's measurements, and of Envoy and Katran: with up to 100 servers
/// the largest share is about 1 % above the smallest.
pub(super) const SIZE: u32 = 65_537;

/// Stands in a table for no member; there are fewer numbers of servers than this.
const FREE: u32 = u32::MAX;

/// The table in which a request's key has its place.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Maglev {
    /// The servers' numbers, by their names in order: all that hangs on this node.
    servers: Vec<u16>,
    /// Places in `servers`. Empty without members.
    table: Vec<u32>,
    /// For keys whose own server cannot be.
    others: Rendezvous,
}

/// A member on its way through the entries, in its own order.
struct Walker {
    next: u32,
    skip: u32,
    weight: u64,
    /// It takes its next entry in the round in which its weights add up to this.
    due: u64,
}

impl Walker {
    fn new(member: &Member) -> Self {
        let [offset, skip] = keys(member.name.as_bytes());
        Self {
            next: (offset % u64::from(SIZE)) as u32,
            skip: (skip % u64::from(SIZE - 1)) as u32 + 1,
            weight: member.weight.into(),
            due: 0,
        }
    }

    /// Takes the next entry of its order that is free.
    fn take(&mut self, table: &mut [u32], place: u32) {
        // It comes by every entry once in SIZE steps, SIZE being a prime.
        for _ in 0..SIZE {
            let entry = table.get_mut(self.next as usize).filter(|entry| **entry == FREE);
            self.next = (self.next + self.skip) % SIZE;
            if let Some(entry) = entry {
                *entry = place;
                return;
            }
        }
    }
}

impl Maglev {
    /// The same table for the same names and weights, whatever their order and numbers.
    pub(super) fn new(members: &[Member]) -> Self {
        let others = Rendezvous::new(members);
        let mut members: Vec<&Member> = members.iter().collect();
        members.sort_by(|a, b| (&a.name, a.weight).cmp(&(&b.name, b.weight)));
        let Some(heaviest) = members.iter().map(|member| u64::from(member.weight)).max() else {
            return Self::default();
        };
        let mut walkers: Vec<Walker> = members.iter().copied().map(Walker::new).collect();
        let (mut table, mut free) = (vec![FREE; SIZE as usize], SIZE);
        // In every round the heaviest takes an entry; one with a third of its weight in every third round.
        for round in 1u64.. {
            for (place, walker) in (0u32..).zip(&mut walkers) {
                if free > 0 && round * walker.weight >= walker.due {
                    walker.due += heaviest;
                    walker.take(&mut table, place);
                    free -= 1;
                }
            }
            if free == 0 {
                break;
            }
        }
        Self { servers: members.iter().map(|member| member.server).collect(), table, others }
    }

    /// The server of the key's entry. If that one is no candidate, another by rendezvous hash: the next entry in the table
    /// would spread a full server's clients badly, since neighbours in it are neighbours in many places.
    pub(super) fn pick(&self, candidates: &[Candidate], key: u64) -> Option<u16> {
        let place = *self.table.get((key % u64::from(SIZE)) as usize)?;
        let own = *self.servers.get(place as usize)?;
        let may = candidates.iter().any(|candidate| candidate.server == own);
        if may { Some(own) } else { self.others.pick(candidates, key) }
    }
}

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
