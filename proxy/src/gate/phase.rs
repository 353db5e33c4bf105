//! How far a request over HTTP/1 and its answer are.

use std::sync::atomic::{AtomicU8, Ordering};

/// A moment between two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// There is no request, or it has been answered to the last byte: what hyper writes is its own.
    None = 0,
    /// It has come.
    Asked,
    /// Its answer is under way.
    Answering,
    /// hyper has taken all of the answer.
    Answered,
}

/// The [`Phase`] that hyper's connection and its driver are in: one task polls both.
#[derive(Default)]
pub(super) struct Phases(AtomicU8);

impl Phases {
    pub(super) fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn is(&self, phase: Phase) -> bool {
        self.0.load(Ordering::Relaxed) == phase as u8
    }
}
