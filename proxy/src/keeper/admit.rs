//! Which pairs the keeper takes from a gate: rules on sockets and what was said of them.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use proxy_common::layout::Direction;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketType, getpeername, getsockname, ipproto, sockopt,
};

use super::listeners::Listeners;
use super::table::Table;
use crate::handoff::{MAX_LEFTOVER, NewPair};
use crate::sys::socket;

/// What a gate of ours never does, or sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// That this is so.
///
/// # Errors
/// It is not, which is a violation.
pub(super) fn must(so: bool, what: &'static str) -> Result<(), Violation> {
    if so { Ok(()) } else { Err(Violation(what)) }
}

/// Whether a pair can be taken. Its sockets will not make a close wait as they are (a copy that the gate keeps may change
/// that).
///
/// # Errors
/// What is wrong with it.
pub(super) fn pair(pair: &NewPair, fds: &[OwnedFd], living: &Table, listeners: &Listeners) -> Result<(), Violation> {
    let short = pair.to_backend.len() <= MAX_LEFTOVER && pair.to_client.len() <= MAX_LEFTOVER;
    must(short, "a pair with too much read ahead")?;
    let [client, backend] = fds else { return Err(Violation("a pair without two sockets")) };
    for ((fd, leg), side) in fds.iter().zip(&pair.tls).zip(Direction::ALL) {
        must(is_stream(fd.as_fd()), "a pair of what are no stream sockets")?;
        must(!sockopt::socket_acceptconn(fd).unwrap_or(true), "a pair with a listening socket")?;
        let has_side = !socket::is_unix(fd) || is_of_side(fd, side, listeners);
        must(has_side, "a pair with a Unix socket that is neither a client's nor a backend's")?;
        must(leg.as_ref().is_none_or(|leg| leg.is_sane() && !socket::is_unix(fd)), "a pair with TLS that cannot be")?;
    }
    let cookies = [client, backend].map(|fd| sockopt::socket_cookie(fd).unwrap_or(0));
    must(!cookies.contains(&0), "a pair of sockets without a cookie")?;
    must(cookies[0] != cookies[1], "a pair of one connection")?;
    let connections = [client, backend].map(|fd| living.connections.of(fd.as_fd()));
    must(!living.connections.closes_ring(connections), "a pair that leads back to itself")?;
    must(!cookies.iter().any(|cookie| living.has(*cookie)), "a socket that is of a pair already")?;
    for fd in fds {
        let _ = sockopt::set_socket_linger(fd, None);
    }
    Ok(())
}

/// Whether a descriptor that the gate sent is a stream socket of a kind that pairs have: anything else could block the
/// keeper.
fn is_stream(fd: BorrowedFd<'_>) -> bool {
    let kind = sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM);
    let tcp = || sockopt::socket_protocol(fd).is_ok_and(|protocol| protocol == Some(ipproto::TCP));
    kind && match sockopt::socket_domain(fd) {
        Ok(AddressFamily::INET | AddressFamily::INET6) => tcp(),
        Ok(AddressFamily::UNIX) => true,
        _ => false,
    }
}

/// Whether a Unix socket can be of a client's connection, which one of the keeper's listeners has accepted, or of a
/// backend's, whose server has a name. Of two without names, nothing tells whether they are ends of one connection: what was
/// read of one could go round for ever.
fn is_of_side(unix: &OwnedFd, side: Direction, listeners: &Listeners) -> bool {
    match side {
        Direction::ClientToBackend => getsockname(unix).is_ok_and(|name| is_listener(name, listeners)),
        Direction::BackendToClient => {
            let name = getpeername(unix).ok().flatten().and_then(|name| SocketAddrUnix::try_from(name).ok());
            name.is_some_and(|name| name.path_bytes().or(name.abstract_name()).is_some_and(|name| !name.is_empty()))
        }
    }
}

/// Whether a backend's connection leads by a Unix socket to one of the keeper's listeners. It may be one end of a ring, which
/// nothing tells; of TCP, the table knows.
pub(super) fn leads_back(backend: &OwnedFd, listeners: &Listeners) -> bool {
    socket::is_unix(backend)
        && getpeername(backend).is_ok_and(|name| name.is_some_and(|name| is_listener(name, listeners)))
}

fn is_listener(name: SocketAddrAny, listeners: &Listeners) -> bool {
    let name = SocketAddrUnix::try_from(name).ok();
    name.is_some_and(|name| name.path_bytes().is_some_and(|path| listeners.is_file(OsStr::from_bytes(path))))
}
