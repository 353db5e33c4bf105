//! Unix sockets.
//!
//! Their streams are carried in tokio's `TcpStream`, so that everything above has one kind of stream. That is sound:
//! std makes a `TcpStream` of any descriptor by a safe conversion, and reads, writes, peeks, shuts down and closes it with
//! calls that know no protocol (recv, send, shutdown; epoll). What does know one would fail with an error: the addresses
//! and the TCP options, which are asked for nowhere without looking at [`Stream::is_tcp`](super::stream::Stream::is_tcp)
//! first.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How often to try again while a server's backlog is full, of whose end nothing tells.
const AGAIN: Duration = Duration::from_millis(5);

/// A connected Unix socket, in non-blocking mode, in the event loop.
///
/// # Errors
/// The event loop has no room for it.
pub(super) fn stream(socket: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(socket))
}

/// Connects to a server, and waits as long as its backlog is full. Cancel safe.
///
/// # Errors
/// There is no such file, nobody accepts, or this user may not connect.
pub(super) async fn connect(path: &Path) -> io::Result<TcpStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return stream(socket),
            Err(Errno::AGAIN) => sleep(AGAIN).await,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
