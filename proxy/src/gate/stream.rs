//! A connection to a client or to a backend: plain, behind TLS, or a part of one that is shared.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
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
            Self::Plain(tcp) | Self::Unix(tcp) => Pin::new(tcp).poll_read(cx, buffer),
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
