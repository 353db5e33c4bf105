//! One relayed pair, as the keeper's table holds it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use proxy_common::layout::Direction;
use proxy_common::scan::Scanner;
use rustix::event::epoll::EventFlags;

use super::connections::Connection;
use super::pump::{End, Spill};
use crate::handoff::{EndReason, Engine, Facts, WhyNot};
use crate::ktls::Leg;
use crate::sys::patience::Patience;

/// One direction of a pair. Its source is the socket with the same index, its target the other.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// What the target has refused so far.
    pub(super) spill: Spill,
    /// What the target's TCP had accepted when the pair entered the sockmap.
    pub(super) base: u64,
    /// The count of redirected bytes for which the target was last found to have accepted all. (Before the first
    /// look: 0, which needs none.)
    pub(super) drained_for: u64,
    /// How often the target has been found not drained in a row.
    pub(super) drain_polls: u8,
    /// A drain timer is running.
    pub(super) drain_timer: bool,
    /// What the reader of the source had taken when the pair entered the sockmap, in bytes.
    pub(super) consumed: u64,
    /// The verdict's count of flips when userspace last took the scanner over.
    pub(super) flips: u32,
    /// Bytes at the front of what is passed that the verdict has counted.
    pub(super) counted: u32,
    /// It waits in the queue of those that have more to do.
    pub(super) queued: bool,
    /// It had more than its turn when it was last driven, and has not been found without any since.
    pub(super) heavy: bool,
    /// All before the source's end has been accepted by the target, which gets its FIN once it may.
    pub(super) fin_waits: bool,
    /// The source's socket has told of its end; reading will show it.
    pub(super) ending: bool,
    /// The source's end has been read.
    pub(super) ended: bool,
    /// The target has got its FIN.
    pub(super) shut: bool,
    /// Everything that the source has sent so far has been carried over.
    pub(super) idle: bool,
    /// Userspace waits for bytes of the source.
    pub(super) want_read: bool,
    /// With the source's peer, when it does not read.
    pub(super) patience: Patience,
    /// Userspace waits for room in the target.
    pub(super) want_write: bool,
    /// Sluice ends the pair: at the next boundary between two frames the target gets a Close frame of ours.
    pub(super) parting: bool,
}

/// How a pair is being brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// One side is gone. The other gets what is under way to it, then an RST.
    Reset {
        /// The direction that still delivers.
        delivers: Direction,
        /// When the RST is sent at the latest.
        deadline: Instant,
    },
    /// Both sides get what is under way to them, then a FIN.
    Farewell {
        /// When the sockets are closed at the latest.
        deadline: Instant,
    },
}

/// One relayed pair.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) facts: Facts,
    /// The client's socket, then the backend's: by `Direction` as their source.
    pub(super) sockets: [OwnedFd; 2],
    /// What goes with those sockets whose TLS keys the kernel has.
    pub(super) legs: [Option<Box<Leg>>; 2],
    pub(super) cookies: [u64; 2],
    pub(super) connections: [Connection; 2],
    pub(super) flows: [Flow; 2],
    /// Where in a frame each direction stands, while userspace counts.
    pub(super) scanners: Option<Box<[Scanner; 2]>>,
    pub(super) generation: u32,
    pub(super) engine: Engine,
    /// Bytes of each direction that `copy` carried before the engine took the pair over.
    pub(super) copied: [u64; 2],
    pub(super) why_not: Option<WhyNot>,
    /// Both sockets are in the sockmaps, so that the kernel carries them or passes their bytes up. A pair of the `sockmap`
    /// engine has left them once one side has ended.
    pub(super) in_maps: bool,
    /// It is to enter the sockmap as soon as both directions are idle.
    pub(super) promote: bool,
    pub(super) closing: Option<Closing>,
    pub(super) reason: EndReason,
    pub(super) opened: Instant,
    /// How often it was found not to be through with its end.
    pub(super) closing_polls: u8,
    /// What the `epoll` watches on each socket now.
    pub(super) watched: [EventFlags; 2],
}

// What a pair that the kernel relays costs on the heap, beside its counters (576 bytes, once they are looked at): with
// both under 1 KiB, and no buffer.
const _: () = assert!(size_of::<Pair>() <= 360);

/// What userspace watches on each socket of a pair that the kernel relays: its end only.
const END: EventFlags = EventFlags::RDHUP.union(EventFlags::ET);

/// The source and the target of a direction. For when the rest of the pair is borrowed too.
pub(super) fn ends<'a>(
    sockets: &'a [OwnedFd; 2],
    legs: &'a mut [Option<Box<Leg>>; 2],
    direction: Direction,
) -> (End<'a>, End<'a>) {
    let [client, backend] = legs;
    let client = End { socket: sockets[0].as_fd(), leg: client.as_deref_mut() };
    let backend = End { socket: sockets[1].as_fd(), leg: backend.as_deref_mut() };
    match direction {
        Direction::ClientToBackend => (client, backend),
        Direction::BackendToClient => (backend, client),
    }
}

impl Pair {
    pub(super) fn flow(&self, direction: Direction) -> &Flow {
        &self.flows[direction as usize]
    }

    pub(super) fn flow_mut(&mut self, direction: Direction) -> &mut Flow {
        &mut self.flows[direction as usize]
    }

    /// The socket that a direction comes from.
    pub(super) fn source(&self, direction: Direction) -> BorrowedFd<'_> {
        self.sockets[direction as usize].as_fd()
    }

    /// The socket that a direction goes to.
    pub(super) fn target(&self, direction: Direction) -> BorrowedFd<'_> {
        self.source(direction.reverse())
    }

    /// What must be watched on the socket that `side` comes from.
    pub(super) fn wanted(&self, side: Direction) -> EventFlags {
        if !self.in_maps {
            return END | EventFlags::IN | EventFlags::OUT;
        }
        let mut flags = END;
        flags.set(EventFlags::IN, self.flow(side).want_read);
        flags.set(EventFlags::OUT, self.flow(side.reverse()).want_write);
        flags
    }

    /// Both targets have got their FIN.
    pub(super) fn both_shut(&self) -> bool {
        self.flows.iter().all(|flow| flow.shut)
    }
}
