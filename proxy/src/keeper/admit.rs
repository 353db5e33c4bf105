//! Which pairs the keeper takes from a gate: rules on sockets and what was said of them.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketAddrAny, SocketType, getpeername, getsockname, ipproto, sockopt};

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
pub(super) fn pair(pair: &NewPair, fds: &[OwnedFd], living: &Table) -> Result<(), Violation> {
    let short = pair.to_backend.len() <= MAX_LEFTOVER && pair.to_client.len() <= MAX_LEFTOVER;
    must(short, "a pair with too much read ahead")?;
    let [client, backend] = fds else { return Err(Violation("a pair without two sockets")) };
    for (fd, leg) in fds.iter().zip(&pair.tls) {
        must(is_stream(fd.as_fd()), "a pair of what are no stream sockets")?;
        must(!sockopt::socket_acceptconn(fd).unwrap_or(true), "a pair with a listening socket")?;
        must(leg.as_ref().is_none_or(|leg| leg.is_sane() && !socket::is_unix(fd)), "a pair with TLS that cannot be")?;
    }
    let cookies = [client, backend].map(|fd| sockopt::socket_cookie(fd).unwrap_or(0));
    must(!cookies.contains(&0), "a pair of sockets without a cookie")?;
    must(cookies[0] != cookies[1] && !are_ends_of_one(client.as_fd(), backend.as_fd()), "a pair of one connection")?;
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

/// Whether what one socket sends is what the other receives: what was read of one would go round for ever. (Of Unix sockets
/// without addresses, nothing tells.)
fn are_ends_of_one(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let crossed = |from: rustix::io::Result<SocketAddrAny>, to: rustix::io::Result<Option<SocketAddrAny>>| {
        let address = |any: SocketAddrAny| std::net::SocketAddr::try_from(any).ok().map(crate::handoff::canonical);
        let to = to.ok().flatten().and_then(address);
        to.is_some() && from.ok().and_then(address) == to
    };
    let peer = |fd| getpeername(fd);
    crossed(getsockname(one), peer(other)) && crossed(getsockname(other), peer(one))
}
