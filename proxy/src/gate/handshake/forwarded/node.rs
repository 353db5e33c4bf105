//! Nodes: how a proxy names whom it got a request from (RFC 7239 §6).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::handoff::Peer;

/// A client, or a proxy on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gate) enum Node {
    /// An address, and the port if it is known.
    Address(IpAddr, Option<u16>),
    /// The proxy did not know it.
    Unknown,
    /// The proxy does not tell (RFC 7239 §6.3): a name that begins with `_`.
    Hidden(String),
}

impl Node {
    /// Reads `nodename [":" node-port]` (RFC 7239 §6). `None` if it is none.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.starts_with('[') {
            let (address, port) = text.strip_prefix('[')?.split_once(']')?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            return Some(Self::Address(IpAddr::V6(address.parse().ok()?).to_canonical(), read_port(port)?));
        }
        let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
        let port = read_port(port)?;
        if name.eq_ignore_ascii_case("unknown") {
            return Some(Self::Unknown);
        }
        if is_hidden(name) {
            return Some(Self::Hidden(name.to_owned()));
        }
        Some(Self::Address(IpAddr::V4(name.parse().ok()?), port))
    }

    /// Reads an element of X-Forwarded-For, where IPv6 addresses usually stand without brackets.
    pub(super) fn read_bare(text: &str) -> Option<Self> {
        let bare = text.parse::<Ipv6Addr>().ok();
        bare.map(|address| Self::Address(IpAddr::V6(address).to_canonical(), None)).or_else(|| Self::read(text))
    }

    /// A peer of this machine's.
    pub(super) fn of(peer: Peer) -> Self {
        match peer {
            Peer::Inet(peer) => Self::Address(peer.ip().to_canonical(), Some(peer.port()).filter(|port| *port != 0)),
            Peer::Unix => Self::Unknown,
        }
    }

    /// The value of `for=`: in quotes where it is no token.
    pub(super) fn quoted(&self) -> String {
        match self {
            Self::Address(IpAddr::V4(address), None) => address.to_string(),
            Self::Address(IpAddr::V4(address), Some(port)) => format!("\"{address}:{port}\""),
            Self::Address(IpAddr::V6(address), None) => format!("\"[{address}]\""),
            Self::Address(IpAddr::V6(address), Some(port)) => format!("\"[{address}]:{port}\""),
            other => other.to_string(),
        }
    }
}

/// As an element of X-Forwarded-For: without the port.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, _) => write!(f, "{address}"),
            Self::Unknown => f.write_str("unknown"),
            Self::Hidden(name) => f.write_str(name),
        }
    }
}

/// `node-port`: a number of one to five digits, or a hidden one. `None` if it is neither.
fn read_port(port: Option<&str>) -> Option<Option<u16>> {
    match port {
        None => Some(None),
        Some(port) if is_hidden(port) => Some(None),
        Some(port) if (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().ok().map(Some)
        }
        Some(_) => None,
    }
}

/// `obfnode` and `obfport` (RFC 7239 §6.3).
fn is_hidden(text: &str) -> bool {
    let rest = text.strip_prefix('_');
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)))
}
