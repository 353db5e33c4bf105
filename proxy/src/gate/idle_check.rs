//! A connection to a server while no request is on it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// Whether no request is on a connection.
#[derive(Clone, Default)]
pub(super) struct IdleFlag(Arc<AtomicBool>);

impl IdleFlag {
    /// The last answer is over.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection that may be kept for another request.
///
/// What comes while it idle nobody has asked for, and would be taken for the answer to the next request. hyper looks
/// for that before it writes a request (`require_empty_read`); but what the kernel has only just got, the event loop does
/// not know of yet, and the look finds nothing. So the kernel is asked.
pub(super) struct IdleChecked {
    io: Stream,
    idle: IdleFlag,
}

impl IdleChecked {
    pub(super) fn new(io: Stream, idle: IdleFlag) -> Self {
        Self { io, idle }
    }

    /// Whether the server has spoken or closed while it was asked for nothing.
    fn is_spoilt(&self) -> bool {
        if !self.idle.0.load(Ordering::Relaxed) {
            return false;
        }
        let looked = self.io.tcp().map(|tcp| recv(tcp, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT));
        !matches!(looked, None | Some(Err(Errno::AGAIN)))
    }
}

impl AsyncRead for IdleChecked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_spoilt() {
            return Poll::Ready(Err(io::Error::other("the server spoke or closed without being asked")));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for IdleChecked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.idle.0.store(false, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.idle.0.store(false, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
