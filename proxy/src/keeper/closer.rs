//! Closes what came from a gate, on a thread of its own.
//!
//! The close of a socket's last descriptor may wait for as long as whoever had it before likes (SO_LINGER), and a gate
//! that keeps a copy can set that at any moment, so no look at the socket helps. The [`watch`](super::watch) interrupts
//! such a close after [`PATIENCE`](super::watch::PATIENCE), but also that is more than pairs should wait for. What waits here is
//! bounded by the keeper's limit on open files, and nothing more is read from a gate while more than [`MOST`] wait.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use rustix::net::sockopt;

use super::watch::{self, Watched};
use crate::sys::threads::Thread;

/// Descriptors that may wait before nothing more is read from the gate.
pub(super) const MOST: usize = 64;

/// Hands descriptors to the thread.
pub(super) struct Closer {
    queue: Sender<OwnedFd>,
    waiting: Arc<AtomicUsize>,
    /// The thread that made this: it has the turns.
    turns: Watched,
}

impl Closer {
    /// Starts the thread, and the watch over it and the calling thread.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub(super) fn start() -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (tell, told) = mpsc::channel();
        let (hand, watched) = mpsc::channel();
        let count = Arc::clone(&waiting);
        std::thread::Builder::new().name("sluice-closer".into()).spawn(move || {
            let _ = tell.send(Thread::current());
            if let Ok(watched) = watched.recv() {
                work(&jobs, &count, &watched);
            }
        })?;
        let thread = told.recv().map_err(io::Error::other)??;
        let [turns, closes] = watch::over([Thread::current()?, thread])?;
        hand.send(closes).map_err(io::Error::other)?;
        Ok(Self { queue, waiting, turns })
    }

    /// Closes a descriptor, soon.
    pub(super) fn close(&self, descriptor: OwnedFd) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread ends with this only.
        let _ = self.queue.send(descriptor);
    }

    /// Whether there is room for what else a gate may send.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < MOST
    }

    /// How many wait.
    #[cfg(any(fuzzing, test))]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether everything has been closed.
    #[cfg(any(fuzzing, test))]
    pub(super) fn is_idle(&self) -> bool {
        self.waiting() == 0
    }

    /// The watch over the thread that made this.
    pub(super) fn turns(&self) -> &Watched {
        &self.turns
    }
}

fn work(jobs: &Receiver<OwnedFd>, waiting: &AtomicUsize, watched: &Watched) {
    while let Ok(descriptor) = jobs.recv() {
        watched.begin();
        let lingers = |linger: Option<Duration>| linger.is_some_and(|linger| !linger.is_zero());
        if sockopt::socket_linger(&descriptor).is_ok_and(lingers) {
            let _ = sockopt::set_socket_linger(&descriptor, None);
        }
        drop(descriptor);
        watched.end();
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
