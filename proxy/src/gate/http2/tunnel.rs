//! A WebSocket's bytes on a stream of HTTP/2 (RFC 8441 §5).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::broken;
use super::calls::Counted;

/// Both directions of a stream. END_STREAM is what FIN is on a connection of one's own, and RST_STREAM what RST is.
/// Dropped before both have ended, it is reset, behind what has been written.
pub(in crate::gate) struct Tunnel {
    receive: RecvStream,
    send: SendStream<Bytes>,
    /// What has come and was not asked for yet: it fills the stream's window until it is taken.
    front: Bytes,
    _counted: Counted,
}

impl Tunnel {
    pub(super) fn new(receive: RecvStream, send: SendStream<Bytes>, counted: Counted) -> Self {
        Self { receive, send, front: Bytes::new(), _counted: counted }
    }

    /// Ready when the client has reset the stream, or its connection is gone.
    pub(in crate::gate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(|_| ())
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.front.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.front = data.map_err(broken)?,
            }
        }
        let taken = this.front.split_to(this.front.remaining().min(buffer.remaining()));
        buffer.put_slice(&taken);
        // Fails only for more than has come.
        this.receive.flow_control().release_capacity(taken.len()).map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(bytes.len());
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(granted) => drop(granted.map_err(broken)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let fits = bytes.get(..this.send.capacity()).unwrap_or(bytes);
        this.send.send_data(Bytes::copy_from_slice(fits), false).map_err(broken)?;
        Poll::Ready(Ok(fits.len()))
    }

    /// The connection sends what it has been given. What was reserved for more goes to other streams.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().send.reserve_capacity(0);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().send.send_data(Bytes::new(), true).map_err(broken))
    }
}
