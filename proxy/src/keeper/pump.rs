//! Moves bytes of one direction from socket to socket, through a buffer that all pairs share.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::ktls::{Failure, Leg, Received};

/// What the target has refused so far. Costs nothing while there is nothing.
#[derive(Debug, Default)]
pub(super) struct Spill(Option<Box<(Vec<u8>, usize)>>);

impl Spill {
    /// Bytes that wait already.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Self(None) } else { Self(Some(Box::new((bytes, 0)))) }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |spill| spill.0.len() - spill.1)
    }

    /// Adds bytes behind those that wait.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Some(spill) => spill.0.extend_from_slice(bytes),
            None => *self = Self::of(bytes.to_vec()),
        }
    }

    fn waiting(&self) -> &[u8] {
        self.0.as_ref().and_then(|spill| spill.0.get(spill.1..)).unwrap_or_default()
    }

    fn consume(&mut self, bytes: usize) {
        if let Some(spill) = &mut self.0 {
            spill.1 += bytes;
            if spill.1 >= spill.0.len() {
                self.0 = None;
            }
        }
    }
}

/// Why a pump stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The source has nothing more for now; nothing waits for the target.
    Idle,
    /// The target takes no more for now; what it refused waits in the spill.
    Blocked,
    /// As much as was asked for has been read, and accepted by the target.
    Enough,
    /// The source has ended; everything before its end has been accepted by the target.
    End,
    /// The source's socket failed.
    SourceFailed(Failure),
    /// The target's socket failed.
    TargetFailed(Failure),
}

/// A socket, with what goes with it if the kernel keeps its TLS keys.
pub(super) struct End<'a> {
    pub(super) socket: BorrowedFd<'a>,
    pub(super) leg: Option<&'a mut Leg>,
}

impl<'a> End<'a> {
    /// A socket without TLS.
    pub(super) fn plain(socket: BorrowedFd<'a>) -> Self {
        Self { socket, leg: None }
    }

    /// Receives what is there without waiting; 0 is the end.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        if let Some(leg) = &mut self.leg {
            return match leg.receive(self.socket, into)? {
                Received::Data(got) => Ok(got),
                Received::End => Ok(0),
            };
        }
        loop {
            match rustix::net::recv(self.socket, &mut *into, RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                Ok((got, _)) => return Ok(got),
                Err(error) => return Err(Failure::Socket(error)),
            }
        }
    }

    /// Sends what the socket takes, without waiting and without SIGPIPE.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        if let Some(leg) = &mut self.leg {
            return leg.send(self.socket, bytes);
        }
        loop {
            match rustix::net::send(self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return other.map_err(Failure::Socket),
            }
        }
    }
}

/// One direction's sockets and what waits between them.
pub(super) struct Pump<'a> {
    pub(super) source: End<'a>,
    pub(super) target: End<'a>,
    pub(super) spill: &'a mut Spill,
    /// Shared by all pairs; empty of meaning between calls.
    pub(super) buffer: &'a mut [u8],
}

impl Pump<'_> {
    /// Sends what waits, then reads and sends up to `most` bytes.
    ///
    /// `read` sees bytes as they are read, `sent` how many the target's TCP has accepted. A source is read until it says
    /// that it has nothing: a read that gives less than was asked for does not mean that, because the kernel also cuts reads
    /// at urgent data, at a Unix socket's ancillary data and between TLS records.
    pub(super) fn run(&mut self, most: usize, mut read: impl FnMut(&[u8]), mut sent: impl FnMut(usize)) -> Stopped {
        let mut left = most;
        loop {
            if let Err(stopped) = self.flush(&mut sent) {
                return stopped;
            }
            if left == 0 {
                return Stopped::Enough;
            }
            let room = left.min(self.buffer.len());
            let got = match self.source.receive(self.buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => return Stopped::End,
                Ok(got) => got,
                Err(Failure::Socket(Errno::AGAIN)) => return Stopped::Idle,
                Err(error) => return Stopped::SourceFailed(error),
            };
            left -= got;
            let bytes = self.buffer.get(..got).unwrap_or_default();
            read(bytes);
            let accepted = self.target.send(bytes);
            sent(*accepted.as_ref().unwrap_or(&0));
            let rest = bytes.get(*accepted.as_ref().unwrap_or(&0)..).unwrap_or_default();
            *self.spill = Spill::of(rest.to_vec());
            match accepted {
                Ok(accepted) if accepted < got => return Stopped::Blocked,
                Err(Failure::Socket(Errno::AGAIN)) => return Stopped::Blocked,
                Err(error) => return Stopped::TargetFailed(error),
                Ok(_) => {}
            }
        }
    }

    /// Sends what waits.
    fn flush(&mut self, sent: &mut impl FnMut(usize)) -> Result<(), Stopped> {
        while !self.spill.is_empty() {
            match self.target.send(self.spill.waiting()) {
                Ok(accepted) => {
                    self.spill.consume(accepted);
                    sent(accepted);
                }
                Err(Failure::Socket(Errno::AGAIN)) => return Err(Stopped::Blocked),
                Err(error) => return Err(Stopped::TargetFailed(error)),
            }
        }
        Ok(())
    }
}

/// What a look at the source without reading shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peeked {
    /// Nothing yet.
    Nothing,
    /// Bytes.
    Bytes,
    /// Its end.
    End,
    /// Its failure.
    Failed(Errno),
}

/// Looks at the source without reading.
pub(super) fn peek(source: BorrowedFd<'_>) -> Peeked {
    let mut byte = [0];
    match rustix::net::recv(source, &mut byte[..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
        Ok((0, _)) => Peeked::End,
        Ok(_) => Peeked::Bytes,
        Err(Errno::AGAIN | Errno::INTR) => Peeked::Nothing,
        Err(error) => Peeked::Failed(error),
    }
}
