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

use crate::sys::socket::take_no_descriptors;

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
    take_no_descriptors(&socket);
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return stream(socket),
            Err(Errno::AGAIN) => sleep(AGAIN).await,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use socket2::{Domain, SockAddr, Socket, Type};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_server_whose_backlog_is_full_is_waited_for() {
        let path = std::env::temp_dir().join(format!("sluice-unit-full-{}.sock", std::process::id()));
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let _first = connect(&path).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(50), connect(&path)).await;
        assert!(waiting.is_err(), "the backlog has room for more than it should");

        let second = tokio::spawn({
            let path = path.clone();
            async move { connect(&path).await }
        });
        let (_taken, _) = listener.accept().unwrap();
        let mut second = second.await.unwrap().unwrap();
        let (taken, _) = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        taken.set_nonblocking(true).unwrap();
        let mut taken = stream(taken.into()).unwrap();
        second.write_all(b"over tokio").await.unwrap();
        second.shutdown().await.unwrap();
        let mut seen = String::new();
        taken.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "over tokio");
    }
}
