//! One HTTP request of a client's, and its answer.
//!
//! hyper reads and writes the heads. Its connection is driven by hand instead of by a task, so that the socket and
//! what was read ahead come back by value ([`Finished`]) for the hand-over, and so that a request that hyper refuses
//! by itself can be answered with our headers instead of its bare status ([`Muted`]).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::refusal::Refusal;
use crate::config::Limits;

/// The body of an answer.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// A client whose request may come, has come, or is being answered.
pub(super) struct Exchange<S: AsyncRead + AsyncWrite + Unpin> {
    /// Boxed: it moves with every change of state.
    connection: Box<http1::Connection<TokioIo<Muted<S>>, Hook>>,
    inbox: Inbox,
    answer: Option<oneshot::Sender<Response<AnswerBody>>>,
}

/// A client whose answer is wholly in its socket.
pub(super) struct Finished<S> {
    /// The stream.
    pub(super) io: S,
    /// What the client sent behind its request head.
    pub(super) read_ahead: Bytes,
}

/// Why no request came.
pub(super) enum NoRequest<S> {
    /// To be answered on the stream, which hyper has not written to.
    Refused(S, Refusal),
    /// The client closed or broke.
    Gone,
}

/// The client closed or broke while it was owed an answer.
#[derive(Debug)]
pub(super) struct Gone;

type Asked = (Parts, oneshot::Sender<Response<AnswerBody>>);
type Inbox = Arc<Mutex<Option<Asked>>>;

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    /// Begins to read a request.
    pub(super) fn new(io: S, limits: &Limits) -> Self {
        let inbox = Inbox::default();
        let open = Arc::new(AtomicBool::new(false));
        let hook = Hook { inbox: inbox.clone(), open: open.clone() };
        let connection = http1::Builder::new()
            .max_headers(limits.header_count)
            .max_header_size(limits.head_bytes)
            .max_buf_size(limits.head_bytes)
            // The head's deadline runs from accept, TLS included: `read_head` holds it.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(Muted { io, open }), hook);
        Self { connection: Box::new(connection), inbox, answer: None }
    }

    /// Reads the request head. Not cancel safe: what was read is lost with `self`.
    ///
    /// # Errors
    /// [`NoRequest`].
    pub(super) async fn read_head(mut self, deadline: Instant) -> Result<(Self, Parts), NoRequest<S>> {
        let read = poll_fn(|cx| self.poll_head(cx));
        match timeout_at(deadline, read).await {
            Ok(Ok((parts, answer))) => {
                self.answer = Some(answer);
                Ok((self, parts))
            }
            Ok(Err(None)) => Err(NoRequest::Gone),
            Ok(Err(Some(error))) => Err(self.unread(&error)),
            Err(_) => Err(NoRequest::Refused(self.connection.into_parts().io.into_inner().io, Refusal::HeadTimeout)),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Asked, Option<hyper::Error>>> {
        let done = self.connection.poll_without_shutdown(cx);
        if let Some(asked) = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Poll::Ready(Ok(asked));
        }
        Poll::Ready(Err(ready!(done).err()))
    }

    fn unread(self, error: &hyper::Error) -> NoRequest<S> {
        let parts = self.connection.into_parts();
        let refusal = if error.is_parse_too_large() {
            // Without the end of even one line, it is the line that is too long.
            let line_complete = parts.read_buf.contains(&b'\n');
            if line_complete { Refusal::HeadTooLarge } else { Refusal::UriTooLong }
        } else if error.is_parse() {
            Refusal::Malformed
        } else {
            return NoRequest::Gone;
        };
        NoRequest::Refused(parts.io.into_inner().io, refusal)
    }

    /// Does something on the client's behalf for as long as the client is there.
    ///
    /// # Errors
    /// The client closed or broke; `work` is dropped.
    pub(super) async fn while_there<F: Future>(&mut self, work: F) -> Result<F::Output, Gone> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if self.connection.poll_without_shutdown(cx).is_ready() {
                return Poll::Ready(Err(Gone));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Answers, and comes back when the last byte of the answer is in the socket.
    ///
    /// # Errors
    /// The client broke, the body broke, or the deadline came: the stream is closed, in the middle of the answer
    /// if some of it had been sent.
    pub(super) async fn answer(
        mut self,
        response: Response<AnswerBody>,
        deadline: Instant,
    ) -> Result<Finished<S>, Gone> {
        let sent = self.answer.take().is_some_and(|answer| answer.send(response).is_ok());
        if !sent {
            return Err(Gone);
        }
        // hyper is done with a message only once its buffer is flushed: `tests::the_answer_is_flushed_first`.
        let done = poll_fn(|cx| self.connection.poll_without_shutdown(cx));
        match timeout_at(deadline, done).await {
            Ok(Ok(())) => {
                let parts = self.connection.into_parts();
                Ok(Finished { io: parts.io.into_inner().io, read_ahead: parts.read_buf })
            }
            _ => Err(Gone),
        }
    }
}

/// The service that hyper calls: it only passes the request out and waits for the answer.
struct Hook {
    inbox: Inbox,
    open: Arc<AtomicBool>,
}

impl Service<Request<Incoming>> for Hook {
    type Response = Response<AnswerBody>;
    type Error = Unanswered;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        self.open.store(true, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        // The body is dropped: a handshake has none, and a request with one is refused unread.
        let asked = (request.into_parts().0, sender);
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        Answering(receiver)
    }
}

/// The connection was dropped before it was answered.
#[derive(Debug, thiserror::Error)]
#[error("the connection was given up")]
struct Unanswered;

struct Answering(oneshot::Receiver<Response<AnswerBody>>);

impl Future for Answering {
    type Output = Result<Response<AnswerBody>, Unanswered>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| Unanswered)
    }
}

/// A stream that swallows what is written before a request has come: hyper's own answers to heads that it cannot
/// read, which have none of our headers.
struct Muted<S> {
    io: S,
    open: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Muted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Muted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.open.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// An answer with a body that is at hand.
pub(super) fn whole(response: Response<Bytes>) -> Response<AnswerBody> {
    response.map(|body| {
        let full = http_body_util::Full::new(body);
        UnsyncBoxBody::new(http_body_util::BodyExt::map_err(full, |never: Infallible| match never {}))
    })
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
