//! The rounds in which carried pairs look after peers that are alive and only do not read: [`patience`].
//!
//! One task makes them for all pairs. A pair takes part while bytes of it may wait in its sockets, so an idle one costs
//! nothing; it looks at its sockets in its own task, which alone may close them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::sleep;

use crate::sys::patience;

/// The pairs that want to be woken with the next round.
pub(in crate::gate) struct Patrol {
    user_timeout: Duration,
    /// Changes with every round. Written under the lock on `waiting`.
    round: AtomicU32,
    /// By the pair's slot.
    waiting: Mutex<HashMap<u32, Waker>>,
}

impl Patrol {
    pub(in crate::gate) fn new(user_timeout: Duration) -> Self {
        Self { user_timeout, round: AtomicU32::new(0), waiting: Mutex::default() }
    }

    /// Makes the rounds, for ever.
    pub(in crate::gate) async fn walk(&self) {
        loop {
            sleep(patience::interval(self.user_timeout)).await;
            let woken = {
                let mut waiting = self.waiting();
                self.round.fetch_add(1, Ordering::Relaxed);
                std::mem::take(&mut *waiting)
            };
            woken.into_values().for_each(Waker::wake);
        }
    }

    /// The setting `relay.user_timeout`.
    pub(super) const fn user_timeout(&self) -> Duration {
        self.user_timeout
    }

    /// The number of the current round.
    pub(super) fn round(&self) -> u32 {
        self.round.load(Ordering::Relaxed)
    }

    /// Wakes the pair at this slot with the next round. Returns the number of the current one.
    pub(super) fn enlist(&self, slot: u32, waker: &Waker) -> u32 {
        let mut waiting = self.waiting();
        waiting.insert(slot, waker.clone());
        self.round()
    }

    /// The pair at this slot has ended.
    pub(super) fn leave(&self, slot: u32) {
        self.waiting().remove(&slot);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
