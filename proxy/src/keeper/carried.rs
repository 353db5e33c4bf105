//! Pairs that a gate carries itself, because their TLS keys are in userspace. They end with it.

use std::collections::HashMap;
use std::sync::Arc;

use proxy_common::layout::PairCounters;

use super::relay::Ended;
use crate::handoff::stats::{CARRIED, Stats};
use crate::handoff::{EndReason, Engine, Facts, WhyNot};

/// The carried pairs by slot of the shared counters.
pub(super) struct Carried {
    stats: Arc<Stats>,
    pairs: HashMap<u32, (Facts, WhyNot)>,
}

impl Carried {
    pub(super) fn new(stats: Arc<Stats>) -> Self {
        Self { stats, pairs: HashMap::new() }
    }

    /// A pair begins. A slot that the gate has no right to is ignored.
    pub(super) fn open(&mut self, slot: u32, facts: Facts, why_not: WhyNot) {
        if slot < CARRIED {
            self.pairs.insert(slot, (facts, why_not));
        }
    }

    /// A pair has ended, with these counts.
    pub(super) fn close(&mut self, slot: u32, counters: &PairCounters, reason: EndReason, ended: &mut Ended) {
        if self.pairs.remove(&slot).is_some() {
            ended.add(Engine::Copy, reason, &counters.dirs);
        }
    }

    /// The gate is gone, and every pair that it carried. (A gate clears a slot when it takes it.)
    pub(super) fn close_all(&mut self, ended: &mut Ended) {
        for (slot, _) in self.pairs.drain() {
            ended.add(Engine::Copy, EndReason::GateLost, &self.stats.carried(slot).dirs);
        }
    }

    /// Every carried pair, why it is one, and its counts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Facts, WhyNot, PairCounters)> {
        self.pairs.iter().map(|(slot, (facts, why_not))| (facts, *why_not, self.stats.carried(*slot)))
    }
}
