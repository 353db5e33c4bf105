//! The pairs by slot.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use super::connections::Connections;
use super::pair::Pair;

/// The pairs by slot. A slot that has become free is taken again as late as possible, so that nothing that the kernel
/// still does for its last tenant meets the next.
#[derive(Debug)]
pub(super) struct Table {
    pairs: Vec<Option<Box<Pair>>>,
    free: VecDeque<u32>,
    /// The cookies of all sockets.
    cookies: HashSet<u64>,
    /// Which pair each connection is of.
    pub(super) connections: Connections,
    capacity: u32,
    live: u32,
    generation: u32,
}

impl Table {
    pub(super) fn new(capacity: u32) -> Self {
        let (pairs, free, cookies) = (Vec::new(), VecDeque::new(), HashSet::new());
        Self { pairs, free, cookies, connections: Connections::default(), capacity, live: 0, generation: 0 }
    }

    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// Whether there is a slot for one more.
    pub(super) fn has_room(&self) -> bool {
        self.live < self.capacity
    }

    /// Whether the socket with this cookie (SO_COOKIE) is of a pair here.
    pub(super) fn has(&self, cookie: u64) -> bool {
        self.cookies.contains(&cookie)
    }

    /// A number that tells this pair from every other that its slot will hold.
    pub(super) fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Takes a slot; `None` when there is none left.
    pub(super) fn insert(&mut self, pair: Box<Pair>) -> Option<u32> {
        let slot = if (self.pairs.len() as u32) < self.capacity {
            self.pairs.push(None);
            self.pairs.len() as u32 - 1
        } else {
            self.free.pop_front()?
        };
        self.cookies.extend(pair.cookies);
        self.connections.add(pair.connections);
        *self.pairs.get_mut(slot as usize)? = Some(pair);
        self.live += 1;
        Some(slot)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Pair> {
        self.pairs.get(slot as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Pair> {
        self.pairs.get_mut(slot as usize)?.as_deref_mut()
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Pair>> {
        let pair = self.pairs.get_mut(slot as usize)?.take()?;
        for cookie in pair.cookies {
            self.cookies.remove(&cookie);
        }
        self.connections.remove(pair.connections);
        self.free.push_back(slot);
        self.live -= 1;
        Some(pair)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Pair)> {
        self.pairs.iter().enumerate().filter_map(|(slot, pair)| Some((slot as u32, pair.as_deref()?)))
    }

    /// The slots that have ever been used: all below this one.
    fn end(&self) -> u32 {
        self.pairs.len() as u32
    }
}

/// A round over all pairs, a few slots at a time, so that the other pairs do not wait for its end. Pairs that come
/// meanwhile are visited only where the round has not been yet.
#[derive(Debug, Default)]
pub(super) struct Round {
    next: u32,
}

impl Round {
    /// Slots that are looked at without a break: with a few microseconds for each pair, less than a millisecond.
    const STEP: u32 = 128;

    /// The next slots; `None` when the round is over.
    pub(super) fn step(&mut self, table: &Table) -> Option<Range<u32>> {
        let from = self.next;
        self.next = from.saturating_add(Self::STEP).min(table.end());
        (from < self.next).then_some(from..self.next)
    }

    /// Whether it has been at this slot.
    pub(super) fn has_visited(&self, slot: u32) -> bool {
        slot < self.next
    }
}
