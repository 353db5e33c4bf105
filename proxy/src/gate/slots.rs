//! Places for the pairs that the gate carries itself.

use std::sync::{Mutex, PoisonError};

use crate::sys::mapped::Slot;

/// The free places of the shared counters. Those used before are taken first, so that the counters of few pairs lie
/// on few pages.
pub(super) struct Slots {
    inner: Mutex<Inner>,
    count: u32,
}

#[derive(Default)]
struct Inner {
    /// Places from here on have never been used.
    fresh: u32,
    used: Vec<u32>,
}

impl Slots {
    /// So many, all free.
    pub(super) fn new(count: u32) -> Self {
        Self { inner: Mutex::default(), count }
    }

    /// Takes a place; `None` if all are taken.
    pub(super) fn take(&self) -> Option<Slot> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = inner.used.pop() {
            return Some(Slot::new(used));
        }
        let fresh = inner.fresh;
        inner.fresh = fresh.saturating_add(1).min(self.count);
        (fresh < self.count).then(|| Slot::new(fresh))
    }

    /// Gives a place back.
    pub(super) fn give_back(&self, slot: &Slot) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).used.push(slot.index());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_place_has_one_tenant_at_a_time() {
        let slots = Slots::new(3);
        let taken: Vec<Slot> = (0..3).map(|_| slots.take().unwrap()).collect();
        assert_eq!(taken.iter().map(Slot::index).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(slots.take().is_none());
        slots.give_back(&taken[1]);
        assert_eq!(slots.take().unwrap().index(), 1);
        assert!(slots.take().is_none());
    }
}
