//! Places for the pairs that the gate carries itself.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::sys::mapped::Slot;

/// Ended places that rest before they are used again: the keeper reads the counters of a place when it hears of its
/// end, which is a little later.
const RESTING: usize = 256;

/// The free places of the shared counters.
pub(super) struct Slots {
    inner: Mutex<Inner>,
    count: u32,
}

struct Inner {
    /// Places from here on have never been used.
    fresh: u32,
    /// Used before, the longest ended first.
    used: VecDeque<u32>,
}

impl Slots {
    /// So many, all free.
    pub(super) fn new(count: u32) -> Self {
        Self { inner: Mutex::new(Inner { fresh: 0, used: VecDeque::new() }), count }
    }

    /// Takes a place; `None` if all are taken.
    pub(super) fn take(&self) -> Option<Slot> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.used.len() <= RESTING && inner.fresh < self.count {
            inner.fresh += 1;
            return Some(Slot::new(inner.fresh - 1));
        }
        inner.used.pop_front().map(Slot::new)
    }

    /// Gives a place back.
    pub(super) fn give_back(&self, slot: &Slot) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).used.push_back(slot.index());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn all_places_are_given_once_and_the_longest_ended_comes_back_first() {
        let slots = Slots::new(3);
        let taken: Vec<Slot> = (0..3).map(|_| slots.take().unwrap()).collect();
        assert!(slots.take().is_none());
        slots.give_back(&taken[1]);
        slots.give_back(&taken[0]);
        assert_eq!(slots.take().unwrap().index(), 1);
        assert_eq!(slots.take().unwrap().index(), 0);
        assert!(slots.take().is_none());
    }

    #[test]
    fn an_ended_place_rests() {
        let slots = Slots::new(1000);
        let first = slots.take().unwrap();
        slots.give_back(&first);
        assert_ne!(slots.take().unwrap().index(), first.index());
    }
}
