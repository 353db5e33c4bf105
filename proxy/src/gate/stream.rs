//! A connection to a client or to a backend: plain, behind TLS, or a part of one that is shared.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::handshake::Scheme;
use super::http2::Tunnel;
use super::tls::{KernelTls, UserTls};
use crate::handoff::WhyNot;
use crate::ktls::Leg;
use crate::sys::socket;

/// One side of a pair, from its handshake on.
pub(super) enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// A Unix socket: [`unix`](super::unix).
    Unix(TcpStream),
    /// TLS whose keys the kernel has.
    Kernel(Box<KernelTls>),
    /// TLS whose keys are in this process, and why.
    User(Box<UserTls>, WhyNot),
    /// One stream of a client's HTTP/2 connection.
    Http2(Box<Tunnel>),
}

/// Who holds a connection's keys, which says who can carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// There are none: the connection is plain.
    None,
    /// There are none, and it is a Unix socket.
    Unix,
    /// The kernel.
    Kernel,
    /// This process, for this reason.
    User(WhyNot),
}

impl Keys {
    /// What a request that came over such a connection is called.
    pub(super) const fn scheme(self) -> Scheme {
        match self {
            Self::None | Self::Unix => Scheme::Plain,
            Self::Kernel | Self::User(_) => Scheme::Tls,
        }
    }
}

impl Stream {
    /// Who holds its keys.
    pub(super) const fn keys(&self) -> Keys {
        match self {
            Self::Plain(_) => Keys::None,
            Self::Unix(_) => Keys::Unix,
            Self::Kernel(_) => Keys::Kernel,
            Self::User(_, why) => Keys::User(*why),
            Self::Http2(_) => Keys::User(WhyNot::Http2),
        }
    }

    /// Whether the connection below is one of TCP and this stream's alone.
    pub(super) const fn is_tcp(&self) -> bool {
        !matches!(self, Self::Unix(_) | Self::User(_, WhyNot::UnixSocket) | Self::Http2(_))
    }

    /// The connection below, if it is this stream's alone.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) | Self::Unix(tcp) => Some(tcp),
            Self::Kernel(tls) => Some(tls.tcp()),
            Self::User(tls, _) => Some(tls.tcp()),
            Self::Http2(_) => None,
        }
    }

    /// The same, without what is above it.
    pub(super) fn into_tcp(self) -> Option<TcpStream> {
        match self {
            Self::Plain(tcp) | Self::Unix(tcp) => Some(tcp),
            Self::Kernel(tls) => Some(tls.into_tcp()),
            Self::User(tls, _) => Some(tls.into_tcp()),
            Self::Http2(_) => None,
        }
    }

    /// Lets the kernel find out when the other end is dead, of a connection of TCP that is this stream's alone:
    /// [`socket::watch_for_death`].
    ///
    /// # Errors
    /// The other end is gone already.
    pub(super) fn watch_for_death(&self, keepalive: Duration, user_timeout: Duration) -> io::Result<()> {
        let tcp = self.tcp().filter(|_| self.is_tcp());
        tcp.map_or(Ok(()), |tcp| socket::watch_for_death(tcp, keepalive, user_timeout))
    }

    /// Waits until the other end has reset, while nothing is read or written. Cancel safe.
    pub(super) async fn failed(&mut self) {
        if let Self::Http2(tunnel) = self {
            return poll_fn(|cx| tunnel.poll_reset(cx)).await;
        }
        if let Some(tcp) = self.tcp() {
            // An error of the event loop's own is one of the socket as well.
            let _ = tcp.ready(Interest::ERROR).await;
        }
    }

    /// The connection is about to be ended: a worn TLS key is still good for the last frames.
    pub(super) fn allow_last_words(&mut self) {
        match self {
            Self::Plain(_) | Self::Unix(_) | Self::Http2(_) => {}
            Self::Kernel(tls) => tls.allow_last_words(),
            Self::User(tls, _) => tls.allow_last_words(),
        }
    }

    /// Takes the socket out of this process's event loop, for the keeper, with what goes along if it has TLS keys.
    ///
    /// # Errors
    /// Its keys are in this process and would be lost; or the event loop does not let it go.
    pub(super) fn into_socket(self) -> io::Result<(std::net::TcpStream, Option<Leg>)> {
        match self {
            Self::Plain(tcp) | Self::Unix(tcp) => Ok((tcp.into_std()?, None)),
            Self::Kernel(tls) => tls.into_parts().map(|(tcp, leg)| (tcp, Some(leg))),
            Self::User(..) | Self::Http2(_) => {
                Err(io::Error::other("what this process must carry cannot be handed over"))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Unix(tcp) => poll_receive(tcp, cx, buffer),
            Self::Kernel(tls) => Pin::new(tls).poll_read(cx, buffer),
            Self::User(tls, _) => Pin::new(tls).poll_read(cx, buffer),
            Self::Http2(tunnel) => Pin::new(tunnel).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Unix(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Kernel(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::User(tls, _) => Pin::new(tls).poll_write(cx, bytes),
            Self::Http2(tunnel) => Pin::new(tunnel).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Unix(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Kernel(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
            Self::User(tls, _) => Pin::new(tls).poll_write_vectored(cx, slices),
            Self::Http2(tunnel) => Pin::new(tunnel).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) | Self::Unix(tcp) => tcp.is_write_vectored(),
            Self::Kernel(tls) => tls.is_write_vectored(),
            Self::User(tls, _) => tls.is_write_vectored(),
            Self::Http2(tunnel) => tunnel.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Unix(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Kernel(tls) => Pin::new(tls).poll_flush(cx),
            Self::User(tls, _) => Pin::new(tls).poll_flush(cx),
            Self::Http2(tunnel) => Pin::new(tunnel).poll_flush(cx),
        }
    }

    /// Ends the sending direction: a FIN, behind a close_notify where there is TLS.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Unix(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Kernel(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::User(tls, _) => Pin::new(tls).poll_shutdown(cx),
            Self::Http2(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}

/// Reads what has come, and looks again before it waits.
///
/// tokio's own `poll_read` takes a short read for an empty socket and waits for the next edge. But a read is also cut short
/// by TCP's urgent mark (RFC 9293 §3.8.5) and by descriptors that came along (unix(7)), and of the bytes behind those no
/// edge tells: they would wait until the peer sends more, which may be never.
fn poll_receive(tcp: &TcpStream, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        match tcp.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return Poll::Ready(read.map(drop)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

    use std::io::Write as _;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd as _;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use tokio::io::AsyncReadExt as _;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Reads with room for more than there is, until `all` has come.
    async fn reads(mut stream: Stream, all: &[u8]) {
        let (mut got, mut space) = (Vec::new(), [0; 64]);
        while got.len() < all.len() {
            let more = timeout(PATIENCE, stream.read(&mut space)).await.expect("what is there is not read");
            got.extend_from_slice(&space[..more.unwrap()]);
        }
        assert_eq!(got, all);
    }

    #[tokio::test]
    async fn what_is_behind_an_urgent_byte_is_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        peer.write_all(b"before").unwrap();
        socket2::SockRef::from(&peer).send_out_of_band(b"!").unwrap();
        peer.write_all(b"behind").unwrap();
        // The urgent byte itself is not in the stream unless SO_OOBINLINE is set.
        reads(Stream::Plain(TcpStream::from_std(accepted).unwrap()), b"beforebehind").await;
    }

    #[tokio::test]
    async fn what_is_behind_descriptors_is_read() {
        let (mut peer, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (fds, mut space) = ([peer.as_fd()], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
        let mut along = SendAncillaryBuffer::new(&mut space);
        assert!(along.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&peer, &[IoSlice::new(b"before")], &mut along, SendFlags::empty()).unwrap();
        peer.write_all(b"behind").unwrap();
        reads(Stream::Unix(super::super::unix::stream(ours.into()).unwrap()), b"beforebehind").await;
    }
}
