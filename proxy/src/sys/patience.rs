//! Tells peers that are dead from peers that only do not read.
//!
//! TCP_USER_TIMEOUT ends a connection whose peer acknowledges nothing, which is right; it also ends one whose peer
//! keeps its window closed, which is wrong: it lives, and will read again. So the option is taken off a socket while
//! its peer's window is closed, and the kernel's own rule holds: the connection lives as long as probes are answered.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

use super::socket;

/// How often a socket is looked at within the time after which its peer would be taken for dead.
const ROUNDS: u32 = 3;

/// The longest interval: often enough for timeouts beyond what the option can say.
const SELDOM: Duration = Duration::from_secs(3600);

/// The shortest: the option's own unit.
const OFTEN: Duration = Duration::from_millis(1);

/// How often to call [`look`] for a socket whose TCP_USER_TIMEOUT is this.
#[must_use]
pub fn interval(user_timeout: Duration) -> Duration {
    (user_timeout / ROUNDS).clamp(OFTEN, SELDOM)
}

/// What is known of a socket's TCP_USER_TIMEOUT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patience {
    /// It holds.
    #[default]
    Short,
    /// It is off: the peer takes nothing at present.
    Long,
    /// There is none: it is a Unix socket, whose peer is on this machine and cannot die unseen.
    Endless,
}

impl Patience {
    /// At the beginning, with the option set on a TCP socket.
    #[must_use]
    pub const fn of(is_tcp: bool) -> Self {
        if is_tcp { Self::Short } else { Self::Endless }
    }
}

/// Takes TCP_USER_TIMEOUT off a TCP socket whose peer takes nothing at present, and sets it again when it does.
///
/// Returns whether bytes wait in the socket. While none do there is nothing to be patient about.
pub fn look(socket: impl AsFd, user_timeout: Duration, patience: &mut Patience) -> bool {
    let socket = socket.as_fd();
    let waits = socket::unacknowledged(socket).unwrap_or(0) > 0;
    if *patience == Patience::Endless {
        return waits;
    }
    let long = waits && socket::peer_takes_nothing(socket).unwrap_or(false);
    let wanted = if long { Patience::Long } else { Patience::Short };
    if wanted != *patience {
        let timeout = if long { 0 } else { socket::user_timeout_ms(user_timeout) };
        if sockopt::set_tcp_user_timeout(socket, timeout).is_ok() {
            *patience = wanted;
        }
    }
    waits
}
