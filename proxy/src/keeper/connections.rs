//! Which pairs are joined by a connection of which each has one end, and whether one more pair would close a ring.
//!
//! In a ring of pairs nothing comes in and nothing goes out: what is in it goes round until somebody ends it. Only a gate
//! that means harm makes one. A chain of two is a route whose server is another listener of this configuration.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rustix::net::{SocketAddrAny, getpeername, getsockname};

use crate::handoff::canonical;

/// One TCP connection, whichever of its ends is looked at: a hash of both addresses. Two may have the same number once in
/// 2^64. None: a Unix socket, or one without a peer.
pub(super) type Connection = Option<std::num::NonZeroU64>;

/// The most pairs that may hang together: no configuration leads through itself that often.
const LONGEST_CHAIN: usize = 16;

/// The connections of all pairs.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Of each connection, the other connections of the pairs that have an end of it: one pair, or two.
    others: HashMap<std::num::NonZeroU64, [Connection; 2]>,
    hasher: RandomState,
}

impl Connections {
    /// The connection that a socket is an end of.
    pub(super) fn of(&self, socket: BorrowedFd<'_>) -> Connection {
        let address = |any: SocketAddrAny| SocketAddr::try_from(any).ok().map(canonical);
        let (own, peer) = (address(getsockname(socket).ok()?)?, address(getpeername(socket).ok()??)?);
        std::num::NonZeroU64::new(self.hasher.hash_one((own.min(peer), own.max(peer))))
    }

    /// Whether a pair of these two would carry its own bytes round, by itself or through others.
    pub(super) fn closes_ring(&self, [from, to]: [Connection; 2]) -> bool {
        let (Some(mut at), Some(to)) = (from, to) else { return false };
        let mut came_by = None;
        for _ in 0..LONGEST_CHAIN {
            if at == to {
                return true;
            }
            // The pair at the other end of the connection, which is not the one that led here.
            let Some(others) = self.others.get(&at) else { return false };
            let mut ways = others.iter().flatten().filter(|other| Some(**other) != came_by);
            let Some(next) = ways.next() else { return false };
            came_by = Some(at);
            at = *next;
        }
        true
    }

    pub(super) fn add(&mut self, [one, other]: [Connection; 2]) {
        for (of, other) in [(one, other), (other, one)] {
            if let (Some(of), Some(_)) = (of, other) {
                let others = self.others.entry(of).or_default();
                // Of a third, nothing is known: its socket's cookie would be that of another pair.
                if let Some(free) = others.iter_mut().find(|place| place.is_none()) {
                    *free = other;
                }
            }
        }
    }

    pub(super) fn remove(&mut self, [one, other]: [Connection; 2]) {
        for (of, other) in [(one, other), (other, one)] {
            let (Some(of), Some(_)) = (of, other) else { continue };
            let Some(others) = self.others.get_mut(&of) else { continue };
            if let Some(mine) = others.iter_mut().find(|place| **place == other) {
                *mine = None;
            }
            if *others == [None; 2] {
                self.others.remove(&of);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn pair(one: u64, other: u64) -> [Connection; 2] {
        [one, other].map(std::num::NonZeroU64::new)
    }

    #[test]
    fn a_ring_is_found_however_many_pairs_it_has() {
        for length in 1..=20 {
            let mut all = Connections::default();
            // Every order in which its pairs can come: the last closes it, none before.
            for first in 0..length {
                let pairs = |at: u64| pair(1 + (first + at) % length, 1 + (first + at + 1) % length);
                for at in 0..length - 1 {
                    assert_eq!(all.closes_ring(pairs(at)), at as usize >= LONGEST_CHAIN, "{at} of {length}");
                    all.add(pairs(at));
                }
                assert!(all.closes_ring(pairs(length - 1)), "{length}");
                let [one, other] = pairs(length - 1);
                assert!(all.closes_ring([other, one]), "{length}");
                (0..length - 1).for_each(|at| all.remove(pairs(at)));
                assert!(all.is_empty());
            }
        }
    }

    #[test]
    fn what_is_no_tcp_connection_is_of_no_ring() {
        let mut all = Connections::default();
        assert!(!all.closes_ring([None, None]));
        all.add(pair(0, 1));
        assert!(all.is_empty() && !all.closes_ring(pair(1, 0)));
    }
}
