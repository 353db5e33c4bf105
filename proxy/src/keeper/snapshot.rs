//! What the admin listener shows, as the keeper sees it.

use proxy_common::layout::{Direction, MODE_USER, PairCounters, index};

use super::carried::Carried;
use super::pair::Pair;
use super::relay::Relay;
use crate::handoff::{EndReason, Engine, PairRow, Snapshot};
use crate::sys::clock::now_coarse_ns;

/// Everything, at this moment.
pub(super) fn take(relay: &Relay, carried: &Carried, gate_starts: u64, reloads: [u64; 2]) -> Snapshot {
    let mut flips = relay.ended.flips;
    let mut pairs: Vec<PairRow> = Vec::with_capacity(relay.table.live() as usize);
    for (slot, pair) in relay.table.iter() {
        let row = row(relay, slot, pair);
        flips += live_flips(relay, slot);
        pairs.push(row);
    }
    for (facts, why_not, counters) in carried.iter() {
        pairs.push(PairRow {
            facts: facts.clone(),
            engine: Engine::Copy,
            why_not: Some(why_not),
            counters,
            user_mode: [true; 2],
        });
    }
    Snapshot {
        pairs,
        ended: relay.ended.counters,
        ends: EndReason::ALL
            .iter()
            .map(|reason| (reason.label().to_owned(), relay.ended.reasons[*reason as usize]))
            .collect(),
        close_codes: relay.ended.close_codes,
        flips,
        gate_starts,
        reloads,
        found: Vec::new(),
        now_ns: now_coarse_ns(),
    }
}

fn row(relay: &Relay, slot: u32, pair: &Pair) -> PairRow {
    let counters = relay.counters().map_or(PairCounters::ZERO, |counters| PairCounters {
        dirs: Direction::ALL.map(|direction| counters.read(index(slot, direction))),
    });
    let user_mode = Direction::ALL.map(|direction| match (&relay.kernel, pair.engine) {
        (Some(kernel), Engine::Sockmap) => kernel.verdicts.read(index(slot, direction)).mode == MODE_USER,
        _ => true,
    });
    PairRow { facts: pair.facts.clone(), engine: pair.engine, why_not: pair.why_not, counters, user_mode }
}

fn live_flips(relay: &Relay, slot: u32) -> u64 {
    let Some(kernel) = &relay.kernel else { return 0 };
    Direction::ALL.iter().map(|direction| u64::from(kernel.verdicts.read(index(slot, *direction)).flips)).sum()
}
