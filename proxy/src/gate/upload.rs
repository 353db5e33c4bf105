//! A request's body on its way to a server, which tells who holds it up.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::pool::RequestBody;

/// Who is waited for while a request is sent and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The client: what it has sent is with the server, and its body has no end yet.
    Client,
    /// The server: it has not taken what there is, or has all of it and is to answer.
    Server,
}

/// Who is waited for, and since when.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<(Turn, Instant)>>);

impl Turns {
    /// The server is waited for.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((Turn::Server, Instant::now()))))
    }

    /// The server is waited for from now on, whoever was before.
    pub(super) fn servers(&self) {
        *self.lock() = (Turn::Server, Instant::now());
    }

    /// The client is waited for; if it was already, since then.
    fn clients(&self) {
        let mut now = self.lock();
        if now.0 == Turn::Server {
            *now = (Turn::Client, Instant::now());
        }
    }

    /// Who is waited for, and for how long now.
    pub(super) fn now(&self) -> (Turn, Duration) {
        let (turn, since) = *self.lock();
        (turn, since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, (Turn, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's body. The HTTP library asks it for more only when the server has room for more.
pub(super) struct Upload {
    body: RequestBody,
    turns: Turns,
}

impl Upload {
    pub(super) fn new(body: RequestBody, turns: Turns) -> Self {
        Self { body, turns }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Pending => self.turns.clients(),
            // A piece, or the end: whether it is the last one does not matter to whose turn it is.
            Poll::Ready(_) => self.turns.servers(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
