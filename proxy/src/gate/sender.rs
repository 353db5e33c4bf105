//! A connection to a backend that requests use one after the other.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, yield_now};

use super::idle_check::{IdleChecked, IdleFlag};
use super::pool::RequestBody;
use super::spelling::Spelling;
use super::stream::Stream;
use super::upstream::{self, Failure};
use super::wire::Heard;
use crate::config::Limits;

/// The sending half of a connection that hyper drives in a task of its own. The task ends with the connection, which ends
/// when its sender and its answer are dropped and nothing is left to write.
pub(super) struct Sender {
    requests: SendRequest<RequestBody>,
    heard: Heard,
    /// The task is at it: it may be reading.
    busy: Arc<AtomicBool>,
    task: AbortHandle,
    /// Set while no request is on it.
    idle: IdleFlag,
}

impl Sender {
    /// Begins to speak HTTP/1.1 on a connection.
    ///
    /// # Errors
    /// hyper's own; none is known.
    pub(super) async fn begin<S>(io: S, limits: &Limits, spelling: &Spelling) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection, heard) = upstream::begin::<S, RequestBody>(io, limits, spelling).await?;
        let busy = Arc::new(AtomicBool::new(false));
        let of_task = busy.clone();
        let drive = async move {
            let mut connection = pin!(connection);
            poll_fn(|cx| {
                of_task.store(true, Ordering::Release);
                let polled = connection.as_mut().poll(cx);
                of_task.store(false, Ordering::Release);
                polled
            })
            .await
        };
        let task = tokio::spawn(async move {
            if let Err(error) = drive.await {
                tracing::debug!(%error, "a connection to a backend failed");
            }
        });
        Ok(Self { requests, heard, busy, task: task.abort_handle(), idle: IdleFlag::default() })
    }

    /// As [`Sender::begin`], on a connection to a server, which may be kept for other requests.
    ///
    /// # Errors
    /// As [`Sender::begin`].
    pub(super) async fn to_server(stream: Stream, limits: &Limits, spelling: &Spelling) -> Result<Self, Failure> {
        let idle = IdleFlag::default();
        let sender = Self::begin(IdleChecked::new(stream, idle.clone()), limits, spelling).await?;
        Ok(Self { idle, ..sender })
    }

    /// No request is on it: what comes from now on nobody has asked for.
    pub(super) fn rest(&self) {
        self.idle.set();
    }

    /// Whether it can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.requests.is_ready()
    }

    /// Ready when it can take a request. An error: it never will.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.requests.poll_ready(cx)
    }

    /// Sends a request, and waits for the head of its answer.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<> {
        self.requests.try_send_request(request)
    }

    /// How many bytes have come from the server.
    pub(super) fn heard(&self) -> u64 {
        self.heard.bytes()
    }

    /// Waits until everything that came with what has been given out is read as well. Cancel safe.
    pub(super) async fn settle(&self) {
        while self.busy.load(Ordering::Acquire) {
            yield_now().await;
        }
    }

    /// Closes the connection, whatever is under way on it.
    pub(super) fn close(self) {
        self.task.abort();
    }
}
