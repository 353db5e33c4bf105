//! The stream under HTTP/1.1 with a client, for what the HTTP library above it does not do.
//!
//! * A client that ends its direction right behind its request is answered. The library takes a FIN for a client that has
//!   gone, and a FIN that comes later mostly means that: so one that comes at once is held back.
//! * Interim answers (1xx) are written between the library's own messages.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::front::Front;

/// How late behind a request a FIN still belongs to it. 1 s: it is sent with the last segment of the request, or right
/// behind it; who leaves a page has looked at it for longer.
pub(super) const RIGHT_BEHIND: Duration = Duration::from_secs(1);

/// What the stream and the exchange on it both know.
#[derive(Clone, Default)]
pub(super) struct ClientSide(Arc<Known>);

#[derive(Default)]
struct Known {
    state: Mutex<State>,
    /// The rest of an interim answer that is being written.
    interim: Mutex<Bytes>,
    /// Of the task that drives the connection.
    connection: AtomicWaker,
    /// Of whoever reads the request's body.
    reader: AtomicWaker,
}

#[derive(Default)]
struct State {
    /// Of the requests on this connection.
    number: u64,
    request: Request,
}

/// How far the request is that is being answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Request {
    /// There is none, or a FIN in it is the client's leave.
    #[default]
    None,
    /// Its body is still to come.
    Coming,
    /// A FIN has come, and whoever reads the body will see whether that was its end.
    Ended,
    /// All of it is there since then.
    Whole(Instant),
    /// It was followed by a FIN at once.
    Last,
}

impl ClientSide {
    /// A request has come, with a body or without.
    pub(super) fn begin(&self, body: bool) {
        let mut state = self.state();
        state.number += 1;
        state.request = if body { Request::Coming } else { Request::Whole(Instant::now()) };
    }

    /// The end of this request's body has been read, or will not be.
    fn whole(&self, number: u64) {
        let mut state = self.state();
        match state.request {
            Request::Coming if state.number == number => state.request = Request::Whole(Instant::now()),
            Request::Ended if state.number == number => state.request = Request::Last,
            _ => return,
        }
        drop(state);
        self.0.connection.wake();
    }

    /// Whether a FIN has come where the end of this request's body has not been read.
    fn has_ended(&self, number: u64) -> bool {
        let state = self.state();
        state.number == number && state.request == Request::Ended
    }

    /// There is no more of the body: it has no end.
    fn broken(&self) {
        self.end();
        self.0.connection.wake();
    }

    /// Whether somebody still reads the request's body. The task that drives the connection is woken when nobody does any
    /// more.
    pub(super) fn is_coming(&self, cx: &Context<'_>) -> bool {
        self.0.connection.register(cx.waker());
        matches!(self.state().request, Request::Coming | Request::Ended)
    }

    /// From here on a FIN is the client's leave.
    pub(super) fn end(&self) {
        self.state().request = Request::None;
    }

    /// The request has been answered.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        if let Request::Whole(_) = state.request {
            state.request = Request::None;
        }
    }

    /// Whether the client has said that this was its last request, by a FIN behind it.
    pub(super) fn is_last(&self) -> bool {
        self.state().request == Request::Last
    }

    /// Whether the stream can take an interim answer now.
    pub(super) fn is_quiet(&self) -> bool {
        self.interim().is_empty()
    }

    /// Has an interim answer written as soon as the HTTP library has nothing to write.
    pub(super) fn interject(&self, head: Vec<u8>) {
        *self.interim() = head.into();
    }

    /// The body of the request that has begun.
    pub(super) fn body(&self, body: Incoming) -> Arriving {
        Arriving { body, number: self.state().number, side: self.clone() }
    }

    /// A FIN has come. Whether it is to be held back; the task that drives the connection is woken when it is no more.
    fn holds_back(&self, cx: &Context<'_>) -> bool {
        self.0.connection.register(cx.waker());
        let mut state = self.state();
        match state.request {
            Request::Whole(since) if since.elapsed() < RIGHT_BEHIND => state.request = Request::Last,
            // The library has given out all that came before.
            Request::Coming => state.request = Request::Ended,
            Request::Ended | Request::Last => {}
            _ => return false,
        }
        drop(state);
        self.0.reader.wake();
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interim(&self) -> MutexGuard<'_, Bytes> {
        self.0.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream.
pub(super) struct ClientIo<S> {
    io: Front<S>,
    side: ClientSide,
    /// Some of the interim answer has been written: nothing else may come between.
    begun: bool,
}

impl<S> ClientIo<S> {
    pub(super) fn new(io: Front<S>, side: ClientSide) -> Self {
        Self { io, side, begun: false }
    }

    /// The stream below.
    pub(super) fn into_inner(self) -> S {
        self.io.into_inner()
    }
}

impl<S: AsyncWrite + Unpin> ClientIo<S> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.side.interim();
        while !interim.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.advance(written);
            self.begun = !interim.is_empty();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        if ended && self.side.holds_back(cx) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.begun {
            ready!(self.poll_interim(cx))?;
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    /// The HTTP library flushes when it has written all that it had: between two messages, unless one is under way.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A request's body, as it comes from the client.
pub(super) struct Arriving {
    body: Incoming,
    /// Of its request.
    number: u64,
    side: ClientSide,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.side.0.reader.register(cx.waker());
        // Looked at first: what came before the FIN is there then.
        let ended = self.side.has_ended(self.number);
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            if ended {
                self.side.broken();
            }
            return Poll::Pending;
        };
        if frame.is_none() || self.body.is_end_stream() {
            self.side.whole(self.number);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.side.whole(self.number);
    }
}
