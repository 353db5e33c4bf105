//! The first piece of an answer's body.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A body of an answer whose head came together with nothing that is broken.
///
/// Where it breaks later, the one who passes it on is first given the chance to send what there was before.
pub(super) struct Begun<B> {
    /// With the size of the whole, which the head may tell as well.
    first: Option<(Bytes, SizeHint)>,
    body: B,
    broken: Option<io::Error>,
}

impl<B: Body<Data = Bytes, Error = io::Error> + Unpin> Begun<B> {
    /// Looks at what of a body is there already.
    ///
    /// # Errors
    /// It is broken: another answer can take its place, since nothing of this one has been passed on.
    pub(super) async fn look(mut body: B) -> io::Result<Self> {
        let whole = body.size_hint();
        let first = match poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await {
            Poll::Ready(Some(Err(error))) => return Err(error),
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok().map(|data| (data, whole)),
            Poll::Ready(None) | Poll::Pending => None,
        };
        Ok(Self { first, body, broken: None })
    }

    /// With something done to the body behind.
    pub(super) fn map<C>(self, change: impl FnOnce(B) -> C) -> Begun<C> {
        Begun { first: self.first, body: change(self.body), broken: self.broken }
    }
}

impl<B: Body<Data = Bytes, Error = io::Error> + Unpin> Body for Begun<B> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some((first, _)) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Err(error)) => {
                // The HTTP library drops what it has not flushed when a body breaks.
                this.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.first.as_ref().map_or_else(|| self.body.size_hint(), |(_, whole)| *whole)
    }
}
