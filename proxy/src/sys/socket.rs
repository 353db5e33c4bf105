//! Socket options and queries that no safe library offers.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, sockopt};

/// Whether this is a Unix socket.
pub fn is_unix(socket: impl AsFd) -> bool {
    sockopt::socket_domain(socket).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

/// Makes a TCP socket fit for messages that are relayed: small ones leave at once (TCP_NODELAY), and urgent data stays in
/// the stream (SO_OOBINLINE; RFC 6093 §4), where the kernel takes its last byte out of it otherwise.
///
/// # Errors
/// The socket is no TCP socket.
pub fn prepare_for_messages(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    Ok(sockopt::set_socket_oobinline(socket, true)?)
}

/// Bytes that the peer of this TCP socket has acknowledged since the connection began (`tcpi_bytes_acked`).
///
/// # Errors
/// The socket is no TCP socket.
pub fn bytes_acked(socket: impl AsFd) -> io::Result<u64> {
    Ok(info(socket)?.tcpi_bytes_acked)
}

/// Whether bytes wait in this socket's send queue because its peer's window is closed: a peer that is alive, as far
/// as is known, and does not read.
///
/// TCP_USER_TIMEOUT takes such a peer for dead (`tcp_probe_timer` of the kernel), although RFC 1122 §4.2.2.17 asks
/// to wait for it as long as it answers the probes, which the kernel without that option does.
///
/// # Errors
/// The socket is no TCP socket.
pub fn peer_takes_nothing(socket: impl AsFd) -> io::Result<bool> {
    let info = info(socket)?;
    let waiting = info.tcpi_notsent_bytes > 0 || info.tcpi_unacked > 0;
    Ok(waiting && (info.tcpi_unacked == 0 || info.tcpi_snd_wnd == 0))
}

fn info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is writable for `len` bytes, and the kernel writes at most those.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    check(result)?;
    // SAFETY: it was zeroed, all of its fields are integers, and the kernel has overwritten some of them.
    Ok(unsafe { info.assume_init() })
}

/// Bytes in this socket's send queue (`SIOCOUTQ`): of TCP, sent and not acknowledged or not yet sent; of a Unix socket, the
/// memory of what the peer has not read.
///
/// # Errors
/// The socket has no such queue.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    check(result)?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Whether nothing that this socket has sent is still to arrive: its peer has acknowledged everything, or the connection is
/// over, of which the kernel goes on counting what never arrived.
pub fn is_acknowledged(socket: impl AsFd) -> bool {
    match unacknowledged(&socket) {
        Ok(0) => true,
        Ok(_) => info(&socket).is_ok_and(|info| info.tcpi_state == TCP_CLOSE),
        Err(_) => false,
    }
}

/// The state of a TCP socket without a connection (`include/net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;

/// What this TCP socket has accepted for sending since the connection began, in bytes.
///
/// Two queries that the kernel answers one after the other: acknowledgements that arrive between them are not
/// counted, so `exact` is false and the number may be too small, never too large.
///
/// # Errors
/// The socket is no TCP socket.
pub fn accepted(socket: BorrowedFd<'_>) -> io::Result<Accepted> {
    let before = bytes_acked(socket)?;
    let queued = unacknowledged(socket)?;
    let after = bytes_acked(socket)?;
    Ok(Accepted { bytes: before + u64::from(queued), exact: before == after })
}

/// As [`accepted`], asked until the number is exact; `None` while acknowledgements keep coming in.
#[must_use]
pub fn accepted_exactly(socket: BorrowedFd<'_>) -> Option<u64> {
    (0..TRIES).find_map(|_| accepted(socket).ok().filter(|accepted| accepted.exact)).map(|accepted| accepted.bytes)
}

/// What a reader of this TCP socket has taken out of it since the connection began, in bytes; `None` while so many bytes
/// come in that it cannot be told.
///
/// # Errors
/// The socket is no TCP socket.
pub fn consumed(socket: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    for _ in 0..TRIES {
        let before = info(socket)?;
        let queued = unread(socket)?;
        let after = info(socket)?;
        if before.tcpi_bytes_received == after.tcpi_bytes_received && before.tcpi_state == after.tcpi_state {
            // A FIN that has been received counts as one byte, and is never among the unread.
            let fin = u64::from(AFTER_FIN.contains(&after.tcpi_state));
            return Ok(Some(after.tcpi_bytes_received.wrapping_sub(fin + u64::from(queued))));
        }
    }
    Ok(None)
}

/// How many bytes the peer has sent in all on this TCP connection; `None` as long as it has not sent its FIN.
///
/// # Errors
/// The socket is no TCP socket.
pub fn received_in_all(socket: impl AsFd) -> io::Result<Option<u64>> {
    let info = info(socket)?;
    // The FIN counts as one byte.
    Ok(AFTER_FIN.contains(&info.tcpi_state).then(|| info.tcpi_bytes_received.wrapping_sub(1)))
}

/// How often a number is asked for that changes meanwhile. Each try takes microseconds.
const TRIES: usize = 16;

/// `TCP_CLOSE` of `enum tcp_state` in `include/net/tcp_states.h`.
const CLOSED: u8 = 7;

/// The states in which the peer's FIN has been received: TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING.
const AFTER_FIN: [u8; 4] = [6, 8, 9, 11];

/// Whether this TCP connection is over: it was reset, or timed out, or both sides have sent FIN.
///
/// # Errors
/// The socket is no TCP socket.
pub fn is_closed(socket: impl AsFd) -> io::Result<bool> {
    Ok(info(socket)?.tcpi_state == CLOSED)
}

/// Bytes in this TCP socket's receive queue (SIOCINQ, which is FIONREAD). What a sockmap keeps of the socket does not
/// count, or alone counts, by the kernel's version: to be asked outside of one.
fn unread(socket: impl AsFd) -> io::Result<u32> {
    Ok(u32::try_from(rustix::io::ioctl_fionread(socket)?).unwrap_or(u32::MAX))
}

/// See [`accepted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Bytes, perhaps too few.
    pub bytes: u64,
    /// Whether it is the exact number.
    pub exact: bool,
}

/// What TCP_KEEPIDLE and TCP_KEEPINTVL take (tcp(7)).
const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// What TCP_USER_TIMEOUT takes: an `int` of milliseconds.
#[must_use]
pub fn user_timeout_ms(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).min(i32::MAX as u32)
}

/// Lets the kernel find out when the other end is dead: keepalive after this much silence, and TCP_USER_TIMEOUT, of which
/// zero means none. Values beyond what the options take are cut to it.
///
/// # Errors
/// The socket is no TCP socket.
pub fn watch_for_death(socket: impl AsFd, keepalive: Duration, user_timeout: Duration) -> io::Result<()> {
    let socket = socket.as_fd();
    let clamp = |time: Duration| time.clamp(*KEEPALIVE.start(), *KEEPALIVE.end());
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, clamp(keepalive))?;
    // A third of the silence that is allowed, so that TCP_USER_TIMEOUT sees several probes go unanswered.
    sockopt::set_tcp_keepintvl(socket, clamp(keepalive / 3))?;
    Ok(sockopt::set_tcp_user_timeout(socket, user_timeout_ms(user_timeout))?)
}

/// Keeps segments with data away from a TCP socket until [`let_data_in`]: the kernel drops them before it acknowledges them,
/// so that the peer sends them again. Those that are being processed have been when this returns, but for one that has
/// passed the filter and does not have the socket's lock yet.
///
/// # Errors
/// The kernel takes no filter: whoever gave the socket away has locked that (SO_LOCK_FILTER).
pub fn keep_data_out(socket: impl AsFd) -> io::Result<()> {
    use libc::{BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LEN, BPF_LSH, BPF_MISC, BPF_RET};
    use libc::{BPF_RSH, BPF_TAX, BPF_W, BPF_X};
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // TCP asks the filter with the segment from its TCP header on (`tcp_filter`). The upper half of byte 12 is the header's
    // length in words (RFC 9293 §3.1).
    let mut steps = [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 12),
        step(BPF_ALU | BPF_RSH | BPF_K, 0, 0, 4),
        step(BPF_ALU | BPF_LSH | BPF_K, 0, 0, 2),
        step(BPF_MISC | BPF_TAX, 0, 0, 0),
        step(BPF_LD | BPF_W | BPF_LEN, 0, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_X, 1, 0, 0),
        step(BPF_RET | BPF_K, 0, 0, 0),
        step(BPF_RET | BPF_K, 0, 0, u32::MAX),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the option takes a `sock_fprog`, whose filter has `len` steps; the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    check(result)
}

/// Ends [`keep_data_out`].
///
/// # Errors
/// There is no filter, or it is locked.
pub fn let_data_in(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

/// Bytes that may wait on a socket after [`hold_back`]: a quarter of the default receive buffer, so that it need not grow.
const HELD_BACK: libc::c_int = 32 * 1024;

/// Lets what arrives on a TCP socket wait in its receive queue, without a call of its data-ready callback, until [`kick`].
///
/// The callback is not called for less than SO_RCVLOWAT (`tcp_data_ready`), but for urgent data, behind a FIN, and when the
/// window is used up or memory is short (`tcp_epollin_ready`). Setting it takes the socket's lock: a callback that has been
/// running is over when this returns.
///
/// # Errors
/// The socket is no TCP socket.
pub fn hold_back(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, HELD_BACK)
}

/// Makes the kernel look at bytes that have been queued on the socket before it entered a sockmap, or since [`hold_back`].
///
/// Setting SO_RCVLOWAT calls the socket's data-ready callback (`tcp_set_rcvlowat`); reading instead would leave
/// `copied_seq` wrong.
///
/// # Errors
/// The socket is no TCP socket.
pub fn kick(socket: impl AsFd) -> io::Result<()> {
    set_one(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT)
}

/// Has a bind(2) without a port leave its choice to connect(2), which takes any that is free towards that peer
/// (IP_BIND_ADDRESS_NO_PORT; IPv6 sockets take it too).
///
/// # Errors
/// This is no socket of IP.
pub fn choose_port_late(socket: impl AsFd) -> io::Result<()> {
    set_one(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

/// asm-generic/socket.h; `libc` does not have it yet.
pub(super) const SO_PASSRIGHTS: libc::c_int = 83;

/// Has a Unix socket take no descriptors from its peer (SO_PASSRIGHTS, Linux 6.16): whoever reads without asking for them
/// closes them, which can be made to wait (SO_LINGER). Sockets that a listener accepts are as it is.
pub fn take_no_descriptors(socket: impl AsFd) {
    // Kernels that do not know it take descriptors.
    let _ = set_int(socket, libc::SOL_SOCKET, SO_PASSRIGHTS, 0);
}

/// Sets an option that is an int to 1.
fn set_one(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    set_int(socket, level, option, 1)
}

fn set_int(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is readable for the length that is told, whatever the option is, and no pointer of it is kept.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result)
}

/// Asks for an upper-layer protocol, such as `tls`, on this TCP socket (TCP_ULP).
///
/// # Errors
/// The kernel does not have it (`ENOENT`), or the socket is not established.
pub fn set_ulp(socket: impl AsFd, name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: the option takes a string of that length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_ULP,
            name.as_ptr().cast(),
            name.to_bytes().len() as libc::socklen_t,
        )
    };
    check(result)
}

/// How long a trial waits for bytes that the kernel should deliver at once.
pub const TRIAL_PATIENCE: Duration = Duration::from_secs(5);

/// Two ends of one loopback connection, to try something on. Reads and writes give up after [`TRIAL_PATIENCE`].
///
/// # Errors
/// There is no loopback interface, or no free port or descriptor.
pub fn loopback_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(TRIAL_PATIENCE))?;
        end.set_write_timeout(Some(TRIAL_PATIENCE))?;
    }
    Ok((near, far))
}

/// Whether the peer has sent its FIN or an RST, whatever is unread before it.
pub fn peer_has_ended(socket: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&socket, PollFlags::RDHUP)];
    let asked = rustix::event::poll(&mut polled, Some(&Timespec::default()));
    // Errors are told too, unasked: they may be of this end's own making.
    asked.is_ok() && polled.iter().any(|polled| polled.revents().intersects(PollFlags::RDHUP | PollFlags::HUP))
}

/// Waits until there is something to read.
///
/// # Errors
/// Nothing came in time.
pub fn wait_readable(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    match rustix::event::poll(&mut polled, Some(&patience))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_a_dead_peer_has_not_read_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        assert!(is_acknowledged(&near));
        near.set_nonblocking(true).unwrap();
        while near.write(&[0; 65536]).is_ok() {}
        assert!(!is_acknowledged(&near), "the peer's buffer is full");
        sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
        drop(far);
        near.set_nonblocking(false).unwrap();
        assert!(near.read(&mut [0]).is_err(), "an RST came");
        assert!(unacknowledged(&near).unwrap() > 0 && is_acknowledged(&near));
    }
}
