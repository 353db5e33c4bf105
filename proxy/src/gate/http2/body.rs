//! Bodies of HTTP/2 messages.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::broken;
use crate::gate::exchange::AnswerBody;

/// How long the rest of a body is still read, and thrown away, that nobody wants. Then the stream is reset, without an error
/// (RFC 9113 §8.1): some clients (curl 7.88) lose an answer whose end comes together with that. 1 s: they have read it then.
const REST: Duration = Duration::from_secs(1);

/// A request's body, as it comes.
pub(in crate::gate) struct Received {
    /// Until it is taken.
    stream: Option<RecvStream>,
    /// What Content-Length says, if it does. The HTTP/2 library sees to it that it is true.
    length: Option<u64>,
}

impl Received {
    pub(super) fn new(stream: RecvStream, headers: &http::HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { stream: Some(stream), length }
    }

    pub(super) fn into_stream(mut self) -> Option<RecvStream> {
        self.stream.take()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take().filter(|stream| !stream.is_end_stream()) else { return };
        // There is no runtime when the gate ends, and with it the connection.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { drop(timeout(REST, discard(&mut stream)).await) });
        }
    }
}

async fn discard(stream: &mut RecvStream) -> Result<(), h2::Error> {
    while let Some(data) = stream.data().await {
        stream.flow_control().release_capacity(data?.len())?;
    }
    Ok(())
}

impl Body for Received {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let Some(data) = ready!(stream.poll_data(cx)) else { return Poll::Ready(None) };
        let data = data.map_err(broken)?;
        // What hyper has taken it writes before it asks for more: the window moves with the backend's reading.
        stream.flow_control().release_capacity(data.len()).map_err(broken)?;
        self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Sends an answer's body, as fast as the client takes it. `patience`: how long it may take nothing.
///
/// # Errors
/// The client has given the stream up or has taken nothing for too long, or the body broke: then the stream is reset.
pub(super) async fn send(mut stream: SendStream<Bytes>, mut body: AnswerBody, patience: Duration) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        // Trailers end at this hop.
        let Ok(mut data) = frame?.into_data() else { continue };
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            if stream.capacity() == 0 {
                let granted = timeout(patience, poll_fn(|cx| stream.poll_capacity(cx))).await?;
                granted.ok_or(io::ErrorKind::BrokenPipe)?.map_err(broken)?;
                continue;
            }
            let part = data.split_to(stream.capacity().min(data.len()));
            stream.send_data(part, false).map_err(broken)?;
        }
    }
    stream.send_data(Bytes::new(), true).map_err(broken)
}
