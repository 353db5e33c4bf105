//! What the admin listener shows, as the keeper sees it.
//!
//! A snapshot is taken in a round over all pairs, some in each turn of the loop, so that no pair waits for its end. Each
//! pair is counted once: in the totals of those that had ended when the round began, or in a row. A pair that ends before
//! the round has reached it leaves its row behind.

use std::io;
use std::os::fd::OwnedFd;

use proxy_common::layout::{Direction, MODE_USER, PairCounters, index};

use super::carried::Carried;
use super::pair::Pair;
use super::relay::Relay;
use super::table::Round;
use crate::handoff::{EndReason, Engine, PairRow, Snapshot, SnapshotWriter};
use crate::sys::clock::now_coarse_ns;

/// A snapshot that is being taken.
pub(super) struct Taking {
    request: u64,
    round: Round,
    file: SnapshotWriter,
    /// What is not about live pairs, as of the beginning.
    rest: Snapshot,
}

impl Taking {
    fn begin(request: u64, relay: &Relay, carried: &Carried, rest: Snapshot) -> io::Result<Self> {
        let ended = &relay.ended;
        let rest = Snapshot {
            ended: ended.counters,
            ends: EndReason::ALL
                .iter()
                .map(|reason| (reason.label().to_owned(), ended.reasons[*reason as usize]))
                .collect(),
            close_codes: ended.close_codes,
            flips: ended.flips,
            now_ns: now_coarse_ns(),
            ..rest
        };
        let mut taking = Self { request, round: Round::default(), file: SnapshotWriter::new()?, rest };
        for (facts, why_not, counters) in carried.iter() {
            taking.file.add(&PairRow {
                facts: facts.clone(),
                engine: Engine::Copy,
                why_not: Some(why_not),
                counters,
                copied: [0; 2],
                user_mode: [true; 2],
            })?;
        }
        Ok(taking)
    }

    fn add_slot(&mut self, relay: &Relay, slot: u32) -> io::Result<()> {
        let Some(pair) = relay.table.get(slot) else { return Ok(()) };
        self.rest.flips += live_flips(relay, slot);
        self.file.add(&row(relay, slot, pair))
    }

    /// Looks at some more pairs. True: at all of them.
    fn step(&mut self, relay: &Relay) -> io::Result<bool> {
        let Some(slots) = self.round.step(&relay.table) else { return Ok(true) };
        for slot in slots {
            self.add_slot(relay, slot)?;
        }
        Ok(false)
    }

    fn finish(self) -> io::Result<OwnedFd> {
        self.file.finish(&self.rest)
    }
}

impl Relay {
    /// Begins to take a snapshot; one that is being taken already is given up. `rest` has what the relay does not know.
    ///
    /// # Errors
    /// Memory or file descriptors are short.
    pub(super) fn begin_snapshot(&mut self, request: u64, carried: &Carried, rest: Snapshot) -> io::Result<()> {
        self.snapshot = Some(Taking::begin(request, self, carried, rest)?);
        Ok(())
    }

    /// Goes on with the snapshot that is being taken. Returns its request and its file when it is complete.
    ///
    /// # Errors
    /// Memory is short; the snapshot is given up.
    pub(super) fn go_on_with_snapshot(&mut self) -> io::Result<Option<(u64, OwnedFd)>> {
        let Some(mut taking) = self.snapshot.take() else { return Ok(None) };
        if taking.step(self)? {
            let request = taking.request;
            return Ok(Some((request, taking.finish()?)));
        }
        self.snapshot = Some(taking);
        Ok(None)
    }

    /// A pair is about to be forgotten: the snapshot that has not been at it yet takes its row now.
    pub(super) fn keep_for_snapshot(&mut self, slot: u32) {
        let Some(mut taking) = self.snapshot.take() else { return };
        // With a file that lacks a row the snapshot is given up, and nobody is told a wrong sum.
        if taking.round.has_visited(slot) || taking.add_slot(self, slot).is_ok() {
            self.snapshot = Some(taking);
        }
    }
}

fn row(relay: &Relay, slot: u32, pair: &Pair) -> PairRow {
    let counters = relay.counters().map_or(PairCounters::ZERO, |counters| PairCounters {
        dirs: Direction::ALL.map(|direction| counters.read(index(slot, direction))),
    });
    let user_mode = Direction::ALL.map(|direction| match &relay.kernel {
        Some(kernel) if pair.in_maps => kernel.look(index(slot, direction)).mode == MODE_USER,
        _ => true,
    });
    let Pair { ref facts, engine, why_not, copied, .. } = *pair;
    PairRow { facts: facts.clone(), engine, why_not, counters, copied, user_mode }
}

fn live_flips(relay: &Relay, slot: u32) -> u64 {
    let Some(kernel) = &relay.kernel else { return 0 };
    Direction::ALL.iter().map(|direction| u64::from(kernel.look(index(slot, *direction)).flips)).sum()
}
