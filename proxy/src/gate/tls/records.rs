//! A TCP connection that is read record by record while a TLS handshake goes on.
//!
//! The kernel takes over at a record boundary, so nothing behind the last record of the handshake may have been read.
//! Reading stops at the end of every record, for one poll, so that the TLS library looks whether it is done.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Type, version and length (RFC 8446 §5.1).
const HEADER: usize = 5;

/// The connection.
pub(in crate::gate) struct Records {
    tcp: TcpStream,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So much of a record's header has come.
    Header { have: usize, bytes: [u8; HEADER] },
    /// So much of its body is still to come, at least one byte.
    Body { left: usize },
    /// A record has come, and the next may not be read in this poll.
    Pause,
}

const START: State = State::Header { have: 0, bytes: [0; HEADER] };

impl State {
    /// How many bytes may be read now. `None`: none in this poll.
    fn room(self) -> Option<usize> {
        match self {
            Self::Header { have, .. } => Some(HEADER - have),
            Self::Body { left } => Some(left),
            Self::Pause => None,
        }
    }

    /// These bytes have been read, no more than there was room for.
    fn read(self, got: &[u8]) -> Self {
        match self {
            Self::Header { mut have, mut bytes } => {
                for (place, byte) in bytes.iter_mut().skip(have).zip(got) {
                    *place = *byte;
                    have += 1;
                }
                match usize::from(u16::from_be_bytes([bytes[3], bytes[4]])) {
                    _ if have < HEADER => Self::Header { have, bytes },
                    0 => Self::Pause,
                    left => Self::Body { left },
                }
            }
            Self::Body { left } if got.len() < left => Self::Body { left: left - got.len() },
            Self::Body { .. } | Self::Pause => Self::Pause,
        }
    }

    fn between_records(self) -> bool {
        matches!(self, Self::Pause | Self::Header { have: 0, .. })
    }
}

impl Records {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, state: START }
    }

    /// Whether nothing of a record has been read without the rest of it.
    pub(super) fn between_records(&self) -> bool {
        self.state.between_records()
    }

    pub(super) fn into_tcp(self) -> TcpStream {
        self.tcp
    }
}

impl AsyncRead for Records {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(room) = self.state.room() else {
            self.state = START;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        let mut part = buffer.take(room);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut part))?;
        self.state = self.state.read(part.filled());
        let got = part.filled().len();
        // `part` has filled this much of the same memory.
        buffer.initialize_unfilled_to(got);
        buffer.advance(got);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    /// Reads a stream in pieces no larger than these, and says where it paused.
    fn pauses(stream: &[u8], pieces: &[usize]) -> Vec<usize> {
        let (mut state, mut at, mut paused) = (START, 0, Vec::new());
        for piece in pieces.iter().cycle() {
            if at == stream.len() {
                break;
            }
            let Some(room) = state.room() else {
                paused.push(at);
                state = START;
                continue;
            };
            let got = room.min(*piece).min(stream.len() - at);
            state = state.read(&stream[at..at + got]);
            at += got;
        }
        if state.room().is_none() {
            paused.push(at);
        }
        paused
    }

    proptest! {
        #[test]
        fn it_stops_behind_every_record_and_nowhere_else(
            lengths in proptest::collection::vec(0_usize..600, 1..8),
            pieces in proptest::collection::vec(1_usize..700, 1..8),
        ) {
            let (mut stream, mut ends) = (Vec::new(), Vec::new());
            for length in lengths {
                stream.extend([22, 3, 3]);
                stream.extend(u16::try_from(length).unwrap().to_be_bytes());
                stream.extend(vec![9; length]);
                ends.push(stream.len());
            }
            prop_assert_eq!(pauses(&stream, &pieces), ends);
        }
    }

    #[test]
    fn a_boundary_is_known() {
        assert!(START.between_records());
        let begun = START.read(&[22, 3]);
        assert!(!begun.between_records());
        let body = begun.read(&[3, 0, 2]);
        assert!(!body.between_records());
        assert!(!body.read(&[1]).between_records());
        assert!(body.read(&[1, 2]).between_records());
    }
}
