//! Packets with file descriptors over the socket pair.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::MAX_MESSAGE;

/// The most descriptors that go with one message. What is reserved for them lives on the stack.
pub const MAX_FDS: usize = 64;

/// The most that somebody can send with one (SCM_MAX_FD of the kernel). There is room for all: the kernel itself would
/// close those for which there is none, in this thread, and may be made to wait in that.
const MOST_FDS: usize = 253;

/// A message and the descriptors that came with it.
#[derive(Debug)]
pub struct Packet<M> {
    /// The message.
    pub message: M,
    /// Its descriptors, in the order in which they were sent. All are close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// What came of a [`receive`].
#[derive(Debug)]
pub enum Received<M> {
    /// A packet.
    Packet(Packet<M>),
    /// A packet without some of its descriptors, since this process can have no more.
    Short(Packet<M>),
    /// Bytes that are no message, or cut, and what came with them: to be closed.
    Garbage(Vec<OwnedFd>),
    /// The other side is gone.
    Closed,
}

/// Makes the socket pair, both ends non-blocking and close-on-exec.
///
/// # Errors
/// File descriptors are short.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    Ok((ours, theirs))
}

/// Sends one message with its descriptors, whole or not at all.
///
/// # Errors
/// `WouldBlock` when the other side's queue is full; `BrokenPipe` when it is gone; `InvalidInput` when the message
/// is longer than [`MAX_MESSAGE`].
pub fn send<M: Serialize>(socket: impl AsFd, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long for one packet"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Receives one message. `buffer` is scratch space; [`MAX_MESSAGE`] bytes suffice.
///
/// # Errors
/// `WouldBlock` when there is none; whatever else `recvmsg` says.
pub fn receive<M: DeserializeOwned>(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received<M>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None })
        .flatten()
        .collect();
    if got.bytes == 0 {
        return Ok(Received::Closed);
    }
    // What is left of a cut packet means something else.
    let cut = got.flags.contains(ReturnFlags::TRUNC) || fds.len() > MAX_FDS;
    let short = got.flags.contains(ReturnFlags::CTRUNC);
    Ok(match buffer.get(..got.bytes).map(postcard::from_bytes) {
        Some(Ok(message)) if !cut && short => Received::Short(Packet { message, fds }),
        Some(Ok(message)) if !cut => Received::Packet(Packet { message, fds }),
        _ => Received::Garbage(fds),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests {
    use std::os::fd::AsFd as _;

    use proptest::prelude::*;

    use super::*;
    use crate::handoff::{ToGate, ToKeeper};

    /// What the other side receives of one packet.
    fn received<M: DeserializeOwned>(put: impl FnOnce(BorrowedFd<'_>)) -> Received<M> {
        let (near, far) = pair().unwrap();
        put(near.as_fd());
        receive(&far, &mut vec![0; MAX_MESSAGE + 1]).unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let got = received::<ToGate>(|socket| {
            send(socket, &ToGate::Reload { reload: 7 }, &[file.as_fd(); MAX_FDS]).unwrap();
        });
        let Received::Packet(Packet { message: ToGate::Reload { reload: 7 }, fds }) = got else { panic!("{got:?}") };
        assert_eq!(fds.len(), MAX_FDS);
    }

    #[test]
    fn a_packet_longer_than_a_message_is_garbage() {
        let got = received::<ToKeeper>(|socket| {
            rustix::net::send(socket, &vec![0; MAX_MESSAGE + 9], SendFlags::empty()).unwrap();
        });
        assert!(matches!(got, Received::Garbage(_)), "{got:?}");
    }

    #[test]
    fn the_end_of_the_other_side_is_told() {
        let (near, far) = pair().unwrap();
        drop(near);
        assert!(matches!(receive::<ToKeeper>(&far, &mut [0; 16]).unwrap(), Received::Closed));
    }

    proptest! {
        #[test]
        fn any_packet_is_a_message_or_garbage(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let got = received::<ToKeeper>(|socket| {
                rustix::net::send(socket, &bytes, SendFlags::empty()).unwrap();
            });
            prop_assert!(!matches!(got, Received::Closed));
        }
    }
}
