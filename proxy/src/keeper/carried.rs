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

    /// A pair begins. Returns whether the gate has such a slot.
    pub(super) fn open(&mut self, slot: u32, facts: Facts, why_not: WhyNot) -> bool {
        if slot < CARRIED {
            self.pairs.insert(slot, (facts, why_not));
        }
        slot < CARRIED
    }

    /// A pair has ended, with these counts.
    pub(super) fn close(&mut self, slot: u32, counters: &PairCounters, reason: EndReason, ended: &mut Ended) {
        if self.pairs.remove(&slot).is_some() {
            ended.add(Engine::Copy, reason, &believable(counters).dirs, [0; 2]);
        }
    }

    /// The gate is gone, and every pair that it carried. (A gate clears a slot when it takes it.)
    pub(super) fn close_all(&mut self, ended: &mut Ended) {
        for (slot, _) in self.pairs.drain() {
            ended.add(Engine::Copy, EndReason::GateLost, &believable(&self.stats.carried(slot)).dirs, [0; 2]);
        }
    }

    /// Every carried pair, why it is one, and its counts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Facts, WhyNot, PairCounters)> {
        self.pairs.iter().map(|(slot, (facts, why_not))| (facts, *why_not, self.stats.carried(*slot)))
    }
}

/// The same, without close codes that are none (RFC 6455 §5.5.1 gives them two bytes): each would be remembered for ever.
fn believable(counters: &PairCounters) -> PairCounters {
    let mut counters = *counters;
    for direction in &mut counters.dirs {
        direction.close_code = u16::try_from(direction.close_code).map_or(0, u32::from);
    }
    counters
}
