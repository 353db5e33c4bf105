//! A level-triggered epoll, and writing to sockets that may be full.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Events taken from the kernel at once.
const BATCH: usize = 256;

/// An epoll instance with the buffer for its events.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(BATCH) })
    }

    /// Watches a descriptor for input; its events carry `token`.
    pub(super) fn watch(&self, source: impl AsFd, token: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(token as u64), epoll::EventFlags::IN)?)
    }

    /// From now on: wait for room to write (`true`) instead of input.
    pub(super) fn wait_for_room(&self, source: impl AsFd, token: usize, room: bool) -> io::Result<()> {
        let interest = if room { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        Ok(epoll::modify(&self.epoll, source, epoll::EventData::new_u64(token as u64), interest)?)
    }

    /// Fills `tokens` with what is ready, after at most `timeout` (`None`: however long it takes).
    pub(super) fn ready(&mut self, timeout: Option<Duration>, tokens: &mut Vec<usize>) -> io::Result<()> {
        let timeout =
            timeout.map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) });
        self.events.clear();
        tokens.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        tokens.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }
}

/// One read; `None` when there is nothing to read now, 0 at the end of the stream.
pub(super) fn read(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes as much of `bytes` as the socket takes and returns how much that was.
pub(super) fn write(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        done => done,
    }
}

/// Whether all that a stream took is in its socket. A TLS session may hold some of it back.
pub(super) fn flush(stream: &mut impl Write) -> io::Result<bool> {
    match stream.flush() {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
        Err(error) => Err(error),
    }
}
