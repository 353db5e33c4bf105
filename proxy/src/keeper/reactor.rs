//! The keeper's `epoll`: what each event is about.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What a descriptor in the `epoll` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The control socket of the gate.
    Gate,
    /// What tells of the end of the gate's process.
    GateEnded,
    /// A listener, by its index in the configuration; the last is the admin listener's.
    Listener(u16),
    /// The kernel program's events.
    Events,
    /// The kernel program's log lines.
    Log,
    /// SIGTERM or SIGINT.
    Signal,
    /// A pair's socket, by `layout::index`, and its pair's generation.
    Socket {
        /// The index.
        index: u32,
        /// The generation, of which 24 bits are kept.
        generation: u32,
    },
}

const LISTENERS: u64 = 1 << 62;

const GENERATION: u32 = 0x00ff_ffff;

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Gate => 0,
            Self::Events => 1,
            Self::Log => 2,
            Self::Signal => 3,
            Self::GateEnded => 4,
            Self::Listener(index) => LISTENERS | u64::from(index),
            Self::Socket { index, generation } => 1 << 63 | u64::from(generation & GENERATION) << 32 | u64::from(index),
        }
    }

    fn from_token(token: u64) -> Self {
        match token {
            0 => Self::Gate,
            1 => Self::Events,
            2 => Self::Log,
            3 => Self::Signal,
            4 => Self::GateEnded,
            _ if token >> 62 == 1 => Self::Listener(token as u16),
            _ => Self::Socket { index: token as u32, generation: (token >> 32) as u32 & GENERATION },
        }
    }

    /// Whether a socket's event belongs to the pair of this generation.
    pub(super) fn is_of(generation_seen: u32, generation: u32) -> bool {
        generation_seen == generation & GENERATION
    }
}

/// How many events one turn takes: enough that a turn's fixed cost does not matter, few enough that the last of them
/// does not wait long.
const BATCH: usize = 256;

/// The `epoll` instance.
pub(super) struct Reactor {
    epoll: OwnedFd,
    ready: Vec<Event>,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, ready: Vec::with_capacity(BATCH) })
    }

    pub(super) fn add(&self, fd: impl AsFd, source: Source, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(source.token()), flags)?)
    }

    pub(super) fn modify(&self, fd: impl AsFd, source: Source, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(source.token()), flags)?)
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits, at most `timeout`; hands the ready ones over.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Vec<(Source, EventFlags)>> {
        self.ready.clear();
        let timeout = timeout.and_then(|timeout| rustix::event::Timespec::try_from(timeout).ok());
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.ready), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.ready.iter().map(|event| (Source::from_token({ event.data }.u64()), event.flags)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let socket = Source::Socket { index: 0xdead_beef, generation: 0x12_3456 };
        let listener = Source::Listener(u16::MAX);
        for source in [Source::Gate, Source::GateEnded, listener, Source::Events, Source::Log, Source::Signal, socket] {
            assert_eq!(Source::from_token(source.token()), source);
        }
        let (Source::Socket { generation, .. }, 0xff12_3456) = (socket, 0xff12_3456_u32) else { unreachable!() };
        assert!(Source::is_of(generation, 0xff12_3456));
    }
}
