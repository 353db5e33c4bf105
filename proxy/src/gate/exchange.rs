//! HTTP/1.1 with a client: a request and its answer, and perhaps the next.
//!
//! hyper reads and writes the heads. Its connection is driven by hand instead of by a task, so that the socket and
//! what was read ahead come back by value ([`Finished`]) for the hand-over, and so that a request that hyper refuses
//! by itself can be answered with our headers instead of its bare status ([`Muted`]).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::request::Parts;
use http::{Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::client_io::{Arriving, ClientIo, ClientSide};
use super::fragment::Watch;
use super::front::Front;
use super::handshake::Fragment;
use super::interim::{Interim, Interims};
use super::patience::{Patience, Wait};
use super::phase::{Phase, Phases};
use super::refusal::{Refusal, head_bytes};
use super::session::after;
use crate::config::Limits;

/// The body of an answer.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// A client whose request may come, has come, or is being answered.
pub(super) struct Exchange<S: AsyncRead + AsyncWrite + Unpin> {
    /// Boxed: it moves with every change of state.
    connection: Box<http1::Connection<TokioIo<Muted<S>>, Hook>>,
    shared: Arc<Shared>,
    /// The request's body, until somebody takes it.
    body: Option<Incoming>,
    /// The interim answers to the request; none over HTTP/1.0, which does not know them (RFC 9110 §15.2).
    interims: Option<Interims>,
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
    /// Not one byte has come in time.
    Unused(S),
    /// hyper has answered it by itself, behind an answer of ours that the client did not take in time.
    Answered(S, Refusal),
    /// The client is done, or has been silent for longer than an idle connection is kept.
    Done(S),
    /// The client closed or broke.
    Gone,
}

/// The client closed or broke while it was owed an answer.
#[derive(Debug)]
pub(super) struct Gone;

type Asked = (Request<Incoming>, oneshot::Sender<Response<AnswerBody>>);

/// What hyper's connection and its driver both know.
#[derive(Default)]
struct Shared {
    inbox: Mutex<Option<Asked>>,
    phase: Phases,
    client: ClientSide,
    /// What the HTTP library does not tell of a request.
    watch: Mutex<Watch>,
    /// Bytes that have been read.
    read: AtomicU64,
    /// The longest head, in bytes.
    longest: usize,
}

impl Shared {
    fn take(&self) -> Option<Asked> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    /// Begins to read a request. `front` has been read from the stream already.
    pub(super) fn new(io: S, front: Bytes, limits: &Limits) -> Self {
        let shared = Arc::new(Shared { longest: limits.head_bytes, ..Shared::default() });
        let connection = http1::Builder::new()
            .max_headers(limits.header_count)
            .max_header_size(limits.head_bytes)
            .max_buf_size(limits.head_bytes)
            // The head's deadline runs from accept, TLS included: `read_head` holds it.
            .header_read_timeout(None)
            .serve_connection(
                TokioIo::new(Muted {
                    io: ClientIo::new(Front::new(front, io), shared.client.clone()),
                    shared: shared.clone(),
                }),
                Hook(shared.clone()),
            );
        let connection = Box::new(connection);
        Self { connection, shared, body: None, interims: None, answer: None }
    }

    /// Reads the first request. Not cancel safe: what was read is lost with `self`.
    ///
    /// # Errors
    /// [`NoRequest`].
    pub(super) async fn read_head(mut self, deadline: Instant) -> Result<(Self, Parts), NoRequest<S>> {
        let read = poll_fn(|cx| self.poll_head(cx));
        match timeout_at(deadline, read).await {
            Ok(Ok(asked)) => Ok(self.asked(asked)),
            Ok(Err(None)) => Err(NoRequest::Gone),
            Ok(Err(Some(error))) => Err(self.unread(&error)),
            Err(_) if self.shared.read.load(Ordering::Relaxed) == 0 => Err(NoRequest::Unused(self.into_stream())),
            Err(_) => Err(NoRequest::Refused(self.into_stream(), Refusal::HeadTimeout)),
        }
    }

    /// Answers, and reads the next request behind it. The answer may take as long as its body does.
    /// Not cancel safe: what was read is lost with `self`.
    ///
    /// # Errors
    /// [`NoRequest`].
    pub(super) async fn answer_and_read(
        mut self,
        response: Response<AnswerBody>,
        patience: Patience,
    ) -> Result<(Self, Parts), NoRequest<S>> {
        if self.say_interims().await.is_err() || !self.send(response) {
            return Err(NoRequest::Gone);
        }
        let mut wait = Wait::Answer;
        let mut timer = pin!(sleep(Duration::MAX));
        let shared = self.shared.clone();
        let next = poll_fn(|cx| {
            if let Poll::Ready(asked) = self.poll_next_head(cx) {
                return Poll::Ready(Some(asked));
            }
            // The rest of a body, behind its answer, may take as long as the server takes it.
            let answering = shared.phase.is(Phase::Answering) || shared.client.is_coming(cx);
            let read = shared.read.load(Ordering::Relaxed);
            if let Some(limit) = wait.advance(read, answering, patience) {
                timer.as_mut().reset(after(limit));
            }
            if wait == Wait::Answer {
                return Poll::Pending;
            }
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await;
        match next {
            Some(Ok(asked)) => Ok(self.asked(asked)),
            Some(Err(None)) => Err(NoRequest::Done(self.into_stream())),
            Some(Err(Some(error))) => {
                let muted = shared.phase.is(Phase::None);
                Err(match self.unread(&error) {
                    NoRequest::Refused(stream, refusal) if !muted => NoRequest::Answered(stream, refusal),
                    other => other,
                })
            }
            None if matches!(wait, Wait::Idle(_)) => Err(NoRequest::Done(self.into_stream())),
            None => Err(NoRequest::Refused(self.into_stream(), Refusal::HeadTimeout)),
        }
    }

    fn asked(mut self, (request, answer): Asked) -> (Self, Parts) {
        let (head, body) = request.into_parts();
        (self.answer, self.body) = (Some(answer), Some(body));
        self.interims = (head.version >= Version::HTTP_11).then(Interims::default);
        (self, head)
    }

    /// The body of the request that has come. What is not taken by the time of the answer is not read.
    pub(super) fn take_body(&mut self) -> Option<Arriving> {
        self.body.take().map(|body| self.shared.client.body(body))
    }

    /// Where interim answers to the request may come, if the client knows such: it is given them while something is done on its behalf.
    pub(super) fn interims(&self) -> Option<Interims> {
        self.interims.clone()
    }

    /// From here on a client that ends its direction is of no use: it has gone.
    pub(super) fn needs_both_directions(&mut self) {
        self.shared.client.end();
    }

    fn into_stream(self) -> S {
        self.connection.into_parts().io.into_inner().io.into_inner()
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Asked, Option<hyper::Error>>> {
        let done = self.connection.poll_without_shutdown(cx);
        if let Some(asked) = self.shared.take() {
            return Poll::Ready(Ok(asked));
        }
        Poll::Ready(Err(ready!(done).err()))
    }

    /// As [`Self::poll_head`], behind an answer: a client that has ended its direction sends no other request.
    fn poll_next_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Asked, Option<hyper::Error>>> {
        let polled = self.poll_head(cx);
        if polled.is_ready() || !self.shared.client.is_last() {
            return polled;
        }
        Pin::new(&mut *self.connection).graceful_shutdown();
        self.poll_head(cx)
    }

    fn unread(self, error: &hyper::Error) -> NoRequest<S> {
        let parts = self.connection.into_parts();
        let refusal = if error.is_parse_too_large() {
            // Without the end of even one line, it is the line that is too long. But what does not fill the buffer was
            // no line: the head has been taken from it, and its Content-Length is larger than any body.
            let line_complete = parts.read_buf.contains(&b'\n');
            match parts.read_buf.len() < self.shared.longest {
                _ if line_complete => Refusal::HeadTooLarge,
                true => Refusal::Malformed,
                false => Refusal::UriTooLong,
            }
        } else if error.is_parse() {
            Refusal::Malformed
        } else {
            return NoRequest::Gone;
        };
        NoRequest::Refused(parts.io.into_inner().io.into_inner(), refusal)
    }

    /// Gives hyper the answer. Whether it still waits for one.
    fn send(&mut self, response: Response<AnswerBody>) -> bool {
        // What nobody has taken nobody reads.
        drop(self.take_body());
        if self.shared.client.is_last() {
            Pin::new(&mut *self.connection).graceful_shutdown();
        }
        self.shared.phase.enter(Phase::Answering);
        let response = if self.interims.is_none() { for_old(response) } else { response };
        let response = response.map(|body| UnsyncBoxBody::new(Watched { body, shared: self.shared.clone() }));
        self.answer.take().is_some_and(|answer| answer.send(response).is_ok())
    }

    /// Does something on the client's behalf for as long as the client is there.
    ///
    /// # Errors
    /// The client closed or broke; `work` is dropped.
    pub(super) async fn while_there<F: Future>(&mut self, work: F) -> Result<F::Output, Gone> {
        let mut work = pin!(work);
        poll_fn(|cx| match self.poll_interims(cx) {
            Poll::Ready(Err(gone)) => Poll::Ready(Err(gone)),
            _ => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// Gives the client the interim answers that have come.
    async fn say_interims(&mut self) -> Result<(), Gone> {
        poll_fn(|cx| self.poll_interims(cx)).await
    }

    /// Drives the connection. Ready when no interim answer waits.
    fn poll_interims(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        loop {
            if self.connection.poll_without_shutdown(cx).is_ready() {
                return Poll::Ready(Err(Gone));
            }
            if !self.shared.client.is_quiet() {
                return Poll::Pending;
            }
            let next = self.interims.as_ref().map(|interims| interims.poll_next(cx));
            let Some(Poll::Ready(Interim { status, headers })) = next else { return Poll::Ready(Ok(())) };
            let reason = status.canonical_reason().unwrap_or_default();
            self.shared.client.interject(head_bytes(status, reason, &headers));
        }
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
        timeout_at(deadline, self.say_interims()).await.map_err(|_| Gone)??;
        if !self.send(response) {
            return Err(Gone);
        }
        // hyper is done with a message only once its buffer is flushed: `tests::the_answer_is_flushed_first`.
        let done = poll_fn(|cx| self.connection.poll_without_shutdown(cx));
        match timeout_at(deadline, done).await {
            Ok(Ok(())) => {
                let parts = self.connection.into_parts();
                Ok(Finished { io: parts.io.into_inner().io.into_inner(), read_ahead: parts.read_buf })
            }
            _ => Err(Gone),
        }
    }
}

/// For a client that speaks HTTP/1.0: hyper says `keep-alive` to those that ask for it, unless the answer is of their
/// version. It must be where the connection closes behind the answer: as it says, or since its body has no length.
fn for_old(mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    if response.headers().contains_key(CONNECTION) || response.body().size_hint().exact().is_none() {
        *response.version_mut() = Version::HTTP_10;
    }
    response
}

/// An answer's body that tells when hyper is done with it.
struct Watched {
    body: AnswerBody,
    shared: Arc<Shared>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.phase.enter(Phase::Answered);
        self.shared.client.answered();
    }
}

/// The service that hyper calls: it only passes the request out and waits for the answer.
struct Hook(Arc<Shared>);

impl Service<Request<Incoming>> for Hook {
    type Response = Response<AnswerBody>;
    type Error = Unanswered;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        self.0.phase.enter(Phase::Asked);
        let length = request.body().size_hint().exact();
        if self.0.watch.lock().unwrap_or_else(PoisonError::into_inner).taken(length) {
            request.extensions_mut().insert(Fragment);
        }
        self.0.client.begin(!request.body().is_end_stream());
        let (sender, receiver) = oneshot::channel();
        *self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Some((request, sender));
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

/// A client's stream that looks at what is read, and swallows what is written while there is no request: hyper's own
/// answers to heads that it cannot read, which have none of our headers.
struct Muted<S> {
    io: ClientIo<S>,
    shared: Arc<Shared>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Muted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let new = buf.filled().get(before..).unwrap_or_default();
        self.shared.read.fetch_add(new.len() as u64, Ordering::Relaxed);
        self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner).read(new);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Muted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.shared.phase.is(Phase::None) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        // hyper flushes when it has written all that it had, and reads the next head behind that.
        if self.shared.phase.is(Phase::Answered) {
            self.shared.phase.enter(Phase::None);
        }
        Poll::Ready(Ok(()))
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
