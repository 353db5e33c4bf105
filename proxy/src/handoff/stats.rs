//! Counters that outlive a gate: a memfd of the keeper's that every gate maps.
//!
//! The gate counts in it; the keeper reads it and believes nothing but that they are numbers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use proxy_common::layout::PairCounters;
use rustix::fs::{MemfdFlags, SealFlags};

use crate::sys::mapped::{MappedArray, Slot};

/// How many handshake results can be told apart: [`Stats::count_handshake`].
pub const RESULTS: usize = 128;

/// How many pairs a gate can carry itself: half the usual hard limit of 20,000 open files, two files each.
pub const CARRIED: u32 = 10_000;

/// The counters' place: one page of handshake results and what is behind them, then the carried pairs' counters.
const PAGE: u64 = 4096;

/// Behind the results of handshakes: how many clients the gate remembers for their limits, and how many it forgot too
/// early.
const CLIENTS: u32 = RESULTS as u32;
const FORGOTTEN: u32 = CLIENTS + 1;

/// Behind them: log lines that were lost, by [`Process`].
const LOST_LINES: u32 = FORGOTTEN + 1;

/// Behind them: what befalls HTTP/2 connections, by [`Http2Event`].
const HTTP2: u32 = LOST_LINES + Process::ALL.len() as u32;

/// Behind them: how often something was short, by [`Short`].
const SHORTAGES: u32 = HTTP2 + Http2Event::ALL.len() as u32;

/// How many numbers there are in all.
const NUMBERS: usize = SHORTAGES as usize + Short::ALL.len();

/// What a gate can be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// Room for another connection.
    Connections,
    /// Open files, at accept(2).
    AcceptFiles,
    /// Open files or ports, at connect(2).
    Dial,
}

impl Short {
    /// All, in the order of their values.
    pub const ALL: [Self; 3] = [Self::Connections, Self::AcceptFiles, Self::Dial];

    /// The value of the `of` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::AcceptFiles => "accept-files",
            Self::Dial => "dial-files-or-ports",
        }
    }
}

/// The processes that Sluice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// The one that relays.
    Keeper,
    /// The one that strangers speak to.
    Gate,
}

impl Process {
    /// Both, in the order of their values.
    pub const ALL: [Self; 2] = [Self::Keeper, Self::Gate];

    /// The value of the `process` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Gate => "gate",
        }
    }
}

/// What befalls HTTP/2 connections beside the ends of handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Event {
    /// A client took a request back before it was answered.
    Reset,
    /// A connection was ended with ENHANCE_YOUR_CALM: for too many of these, or something else that the library bounds.
    Flood,
    /// A connection had as many streams as it may have.
    Full,
}

impl Http2Event {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 3] = [Self::Reset, Self::Flood, Self::Full];
}

/// The mapped counters.
pub struct Stats {
    /// Results of handshakes, and what is behind them.
    handshakes: MappedArray<u64>,
    carried: MappedArray<PairCounters>,
}

impl Stats {
    /// Makes the memfd and maps it.
    ///
    /// # Errors
    /// Memory or file descriptors are short.
    pub fn create() -> io::Result<(OwnedFd, Self)> {
        let file = rustix::fs::memfd_create("sluice-stats", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let bytes = PAGE + u64::from(CARRIED) * size_of::<PairCounters>() as u64;
        rustix::fs::ftruncate(&file, bytes.next_multiple_of(PAGE))?;
        // A gate that shrank the file would kill the keeper with SIGBUS at its next read.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let stats = Self::open(&file)?;
        Ok((file, stats))
    }

    /// Maps the memfd that [`Stats::create`] made.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn open(file: impl AsFd) -> io::Result<Self> {
        Ok(Self {
            handshakes: MappedArray::map(&file, 0, NUMBERS)?,
            carried: MappedArray::map(&file, PAGE, CARRIED as usize)?,
        })
    }

    /// Counts one handshake with this result (an index below [`RESULTS`]).
    pub fn count_handshake(&self, result: usize) {
        self.handshakes.atomic(result as u32, 0).fetch_add(1, Ordering::Relaxed);
    }

    /// All handshakes by result.
    #[must_use]
    pub fn handshakes(&self) -> [u64; RESULTS] {
        std::array::from_fn(|result| self.handshakes.read(result as u32))
    }

    /// How many clients are remembered now, and how many more have been forgotten.
    pub fn note_clients(&self, remembered: u64, forgotten: u64) {
        self.handshakes.atomic(CLIENTS, 0).store(remembered, Ordering::Relaxed);
        if forgotten > 0 {
            self.handshakes.atomic(FORGOTTEN, 0).fetch_add(forgotten, Ordering::Relaxed);
        }
    }

    /// How many clients are remembered, and how many have been forgotten in all.
    #[must_use]
    pub fn clients(&self) -> [u64; 2] {
        [self.handshakes.read(CLIENTS), self.handshakes.read(FORGOTTEN)]
    }

    /// Log lines of a process were lost.
    pub fn count_lost_lines(&self, process: Process, lines: u64) {
        self.handshakes.atomic(LOST_LINES + process as u32, 0).fetch_add(lines, Ordering::Relaxed);
    }

    /// Log lines that were lost, by [`Process::ALL`].
    #[must_use]
    pub fn lost_lines(&self) -> [u64; Process::ALL.len()] {
        Process::ALL.map(|process| self.handshakes.read(LOST_LINES + process as u32))
    }

    /// Counts an event of an HTTP/2 connection.
    pub fn count_http2(&self, event: Http2Event) {
        self.handshakes.atomic(HTTP2 + event as u32, 0).fetch_add(1, Ordering::Relaxed);
    }

    /// How many of these events there were, by [`Http2Event::ALL`].
    #[must_use]
    pub fn http2(&self) -> [u64; Http2Event::ALL.len()] {
        Http2Event::ALL.map(|event| self.handshakes.read(HTTP2 + event as u32))
    }

    /// The gate was short of something once more.
    pub fn count_shortage(&self, what: Short) {
        self.handshakes.atomic(SHORTAGES + what as u32, 0).fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was, by [`Short::ALL`].
    #[must_use]
    pub fn shortages(&self) -> [u64; Short::ALL.len()] {
        Short::ALL.map(|what| self.handshakes.read(SHORTAGES + what as u32))
    }

    /// The counters of a carried pair.
    #[must_use]
    pub fn carried(&self, slot: u32) -> PairCounters {
        self.carried.read(slot)
    }

    /// Changes the counters of a carried pair.
    pub fn update_carried(&self, slot: &mut Slot, change: impl FnOnce(&mut PairCounters)) {
        self.carried.update(slot, change);
    }
}
