//! The system calls of kernel TLS (Documentation/networking/tls.rst). What the bytes mean is `crate::ktls`'s matter.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

/// The record type that each control message of this level carries is one byte.
const CONTROL: usize = {
    // SAFETY: it only computes.
    (unsafe { libc::CMSG_SPACE(1) }) as usize
};

/// Space for one control message, aligned as its header wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// The longest `struct tls12_crypto_info_*` of the ciphers in use: AES-256-GCM and CHACHA20-POLY1305.
pub const CRYPTO_INFO: usize = 56;

/// Which half of a socket's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What this end sends.
    Tx,
    /// What it receives.
    Rx,
}

impl Way {
    const fn option(self) -> libc::c_int {
        match self {
            Self::Tx => libc::TLS_TX,
            Self::Rx => libc::TLS_RX,
        }
    }
}

/// Installs keys: `info` is a `struct tls12_crypto_info_*`. A second call for the same way changes them, on kernels
/// that can (6.14 and later).
///
/// # Errors
/// `EBUSY`: there are keys, and this kernel cannot change them. `ENOENT`: it lacks the cipher. `EINVAL`: the socket
/// has no `tls` ULP, or the kernel does not know the cipher.
pub fn install(socket: BorrowedFd<'_>, way: Way, info: &[u8]) -> io::Result<()> {
    let len = info.len() as libc::socklen_t;
    // SAFETY: `info` is readable for `len` bytes, and the kernel checks the length against the cipher in it.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_TLS, way.option(), info.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads back what [`install`] took into `info`, which must have exactly the cipher's length and begin with version
/// and cipher; its last eight bytes are then the number of the next record.
///
/// # Errors
/// The socket has no such keys.
pub fn installed(socket: BorrowedFd<'_>, way: Way, info: &mut [u8]) -> io::Result<()> {
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: `info` is writable for `len` bytes, and the kernel writes at most those.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_TLS, way.option(), info.as_mut_ptr().cast(), &raw mut len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives without waiting: how many bytes, and the type of the record that they are of. No type: the stream ended
/// without a record. A record longer than the space comes in several calls.
///
/// # Errors
/// `EAGAIN`: no record is complete. `EBADMSG`, `EINVAL`, `EMSGSIZE`: what came is no record of this connection.
/// `EKEYEXPIRED`: the peer has changed its keys, and the new ones are not installed. Else the socket's own.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<(usize, Option<u8>), Errno> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all-zero is a valid `msghdr`: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control.0).cast();
    message.msg_controllen = CONTROL as _;
    let got = loop {
        // SAFETY: the header describes one part and one control space, both writable and alive for the call.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        if got >= 0 {
            break got as usize;
        }
        match last_error() {
            Errno::INTR => message.msg_controllen = CONTROL as _,
            error => return Err(error),
        }
    };
    // SAFETY: the kernel has filled the header in.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if first.is_null() {
        return Ok((got, None));
    }
    // SAFETY: not null, it points to a header inside `control`, which is aligned for it.
    let header = unsafe { *first };
    if header.cmsg_level != libc::SOL_TLS || header.cmsg_type != libc::TLS_GET_RECORD_TYPE {
        return Ok((got, None));
    }
    // SAFETY: a control message of this type has one byte of data, and it is inside `control`.
    Ok((got, Some(unsafe { *libc::CMSG_DATA(first) })))
}

/// Sends one record of this type without waiting, all of it or nothing.
///
/// # Errors
/// `EAGAIN`: no room. Else the socket's own.
pub fn send_record(socket: BorrowedFd<'_>, kind: u8, bytes: &[u8]) -> Result<(), Errno> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: as in `receive`.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control.0).cast();
    message.msg_controllen = CONTROL as _;
    // SAFETY: the control space holds one message with one byte of data, so header and data lie inside it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        *libc::CMSG_DATA(header) = kind;
    }
    loop {
        // SAFETY: the parts are readable and alive for the call; a send does not write to them.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            // A record this short has no half; should a kernel see that differently, the stream is broken.
            Ok(_) => return Err(Errno::IO),
            Err(_) => match last_error() {
                Errno::INTR => {}
                error => return Err(error),
            },
        }
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
