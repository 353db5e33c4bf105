//! What the keeper tells the gate of its pairs, and the file in which it does.
//!
//! The file is a sequence of values: `Some` of each pair's [`PairRow`], `None`, and the rest of the [`Snapshot`]. So the
//! keeper can write it while it goes from pair to pair.

use std::io;
use std::os::fd::OwnedFd;

use proxy_common::layout::{DirCounters, PairCounters};
use serde::{Deserialize, Serialize};

use super::close::CloseCounts;
use super::{Engine, Facts, Found, WhyNot, memory};

/// Everything that the admin listener shows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Every live pair. In the file they come before all else, one by one.
    #[serde(skip)]
    pub pairs: Vec<PairRow>,
    /// What the pairs that have ended had counted, by [`Engine`] in the order of [`Engine::ALL`].
    pub ended: ByEngine,
    /// Ended pairs by reason: the reason's label and how many.
    pub ends: Vec<(String, u64)>,
    /// Close frames of the pairs that have ended.
    pub close_codes: CloseCounts,
    /// Moves of directions from kernel to user mode because the receiver was congested, ended pairs included.
    pub flips: u64,
    /// Gates started, the first included.
    pub gate_starts: u64,
    /// Turns of the keeper's loop that took too long.
    pub slow_turns: u64,
    /// Times that changed files were to be taken into use: with success, and without.
    pub reloads: [u64; 2],
    /// Servers that were found by names.
    pub found: Vec<Found>,
    /// CLOCK_MONOTONIC_COARSE when this was made, in nanoseconds.
    pub now_ns: u64,
}

/// One live pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PairRow {
    /// What is known of it.
    pub facts: Facts,
    /// What carries it now.
    pub engine: Engine,
    /// Why nothing better.
    pub why_not: Option<WhyNot>,
    /// Its counters.
    pub counters: PairCounters,
    /// Of the bytes of each direction, those that `copy` carried before the pair's engine took it over.
    pub copied: [u64; 2],
    /// Per direction: whether userspace carries it at this moment.
    pub user_mode: [bool; 2],
}

/// What pairs have counted, by [`Engine`] in the order of [`Engine::ALL`].
pub type ByEngine = [PairCounters; Engine::ALL.len()];

/// Adds what one pair has counted to the sums of its engine, but for the bytes that `copy` carried before, which stay with
/// `copy`: no sum goes down when a pair changes its engine.
pub fn add_to_engine(sums: &mut ByEngine, engine: Engine, counted: &[DirCounters; 2], copied: [u64; 2]) {
    for ((sum, mine), copied) in sums[engine.place()].dirs.iter_mut().zip(counted).zip(copied) {
        sum.add(mine);
        sum.bytes = sum.bytes.wrapping_sub(copied);
    }
    for (sum, copied) in sums[Engine::Copy.place()].dirs.iter_mut().zip(copied) {
        sum.bytes = sum.bytes.wrapping_add(copied);
    }
}

/// A snapshot's file while it is being written.
pub struct SnapshotWriter(memory::Writer);

impl SnapshotWriter {
    /// A file without a pair.
    ///
    /// # Errors
    /// Memory or file descriptors are short.
    pub fn new() -> io::Result<Self> {
        Ok(Self(memory::Writer::new("sluice-snapshot")?))
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// Memory is short.
    pub fn add(&mut self, row: &PairRow) -> io::Result<()> {
        self.0.put(&Some(row))
    }

    /// Adds what is not about one pair: the end. The rows of `rest` are not looked at.
    ///
    /// # Errors
    /// Memory is short.
    pub fn finish(mut self, rest: &Snapshot) -> io::Result<OwnedFd> {
        self.0.put(&None::<PairRow>)?;
        self.0.put(rest)?;
        self.0.finish()
    }
}

impl Snapshot {
    /// Reads a snapshot from the descriptors that came with a message.
    ///
    /// # Errors
    /// There is no descriptor, or what is in it is no snapshot.
    pub fn read(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let mut values = memory::Reader::new(fds)?;
        let mut pairs = Vec::new();
        while let Some(row) = values.next_value::<Option<PairRow>>()? {
            pairs.push(row);
        }
        Ok(Self { pairs, ..values.next_value()? })
    }

    /// Writes it all at once.
    ///
    /// # Errors
    /// Memory or file descriptors are short.
    #[cfg(test)]
    pub(crate) fn write(&self) -> io::Result<OwnedFd> {
        let mut writer = SnapshotWriter::new()?;
        self.pairs.iter().try_for_each(|row| writer.add(row))?;
        writer.finish(self)
    }
}
