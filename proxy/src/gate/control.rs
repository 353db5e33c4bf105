//! The gate's end of the socket pair to the keeper.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::handoff::wire::{self, Packet, Received};
use crate::handoff::{MAX_MESSAGE, ToGate, ToKeeper};
use crate::sys::watch::watch;

/// The socket pair's end.
pub(super) struct Control {
    socket: AsyncFd<OwnedFd>,
}

impl Control {
    /// Takes the end over. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: watch(socket, Interest::READABLE | Interest::WRITABLE)? })
    }

    /// Sends a message. Cancel safe: it has been sent whole or not at all.
    ///
    /// # Errors
    /// The keeper is gone, or the message is too long.
    pub(super) async fn send(&self, message: &ToKeeper, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, |socket| wire::send(socket, message, fds)).await
    }
}

/// Reads what the keeper sends, with the space for it.
pub(super) struct Receiver<'a> {
    control: &'a Control,
    buffer: Vec<u8>,
}

impl<'a> Receiver<'a> {
    /// The only reader.
    pub(super) fn new(control: &'a Control) -> Self {
        Self { control, buffer: vec![0; MAX_MESSAGE] }
    }

    /// The next message; `None` once the keeper is gone. Cancel safe.
    ///
    /// # Errors
    /// The socket fails, or the keeper sent what is no message: keeper and gate do not belong together.
    pub(super) async fn next(&mut self) -> io::Result<Option<Packet<ToGate>>> {
        let (control, buffer) = (self.control, &mut self.buffer);
        let received = control.socket.async_io(Interest::READABLE, |socket| wire::receive(socket, buffer)).await;
        match received {
            Ok(Received::Packet(packet)) => Ok(Some(packet)),
            Ok(Received::Short(_)) => Err(io::Error::other("no file descriptors are left for what the keeper sent")),
            Ok(Received::Garbage(_)) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the keeper sent a message that this gate cannot read"))
            }
            Ok(Received::Closed) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}
