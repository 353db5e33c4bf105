//! Who is at the other end of a client's connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A client, as logs and the admin listener show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// Its address and port. IPv4 is IPv4, also on a listener of IPv6.
    Inet(SocketAddr),
    /// Somebody who could open the file of a Unix socket.
    Unix,
}

impl Peer {
    /// Its address and port, if it has one.
    #[must_use]
    pub const fn inet(self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(address),
            Self::Unix => None,
        }
    }

    /// Its address, if it has one.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        self.inet().map(|address| address.ip())
    }
}

/// `::ffff:192.0.2.1`, as a listener of IPv6 shows a client of IPv4, becomes `192.0.2.1`.
impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(canonical(address))
    }
}

/// The same address, of IPv4 if it is one.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_what_they_are() {
        for (seen, shown) in [("[::ffff:192.0.2.1]:9", "192.0.2.1:9"), ("[2001:db8::1]:9", "[2001:db8::1]:9")] {
            assert_eq!(Peer::from(seen.parse::<SocketAddr>().unwrap()).to_string(), shown);
        }
        assert_eq!((Peer::Unix.to_string(), Peer::Unix.ip()), ("unix".into(), None));
    }
}
