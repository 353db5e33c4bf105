//! PROXY headers, version 1 and 2: bytes in, verdict out, and back.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, of which the sections here are.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ppp::v2::{Builder, Command, Protocol, Version};
use ppp::{v1, v2};

use crate::config::SendProxy;
use crate::handoff::canonical;

/// What every header of version 2 begins with (§2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What every header of version 1 begins with (§2.1).
const WORD: &[u8] = b"PROXY ";

/// What a header of version 1 begins with whose sender knows nothing of the client, or does not say it (§2.1).
const UNKNOWN: &[u8] = b"PROXY UNKNOWN";

/// As many bytes as every header has: the signature of version 2. The shortest line of version 1 has 15.
const FIRST: usize = SIGNATURE.len();

/// Signature, version and command, family and protocol, length (§2.2).
const FIXED: usize = FIRST + 4;

/// The longest line of version 1 with its end (§2.1).
const LONGEST_V1: usize = 107;

/// The longest header of version 2 that is taken: those that say most, with a certificate's names in them, stay below.
const LONGEST_V2: usize = 4096;

/// The command of version 2 for connections that the sender made for itself (§2.2).
const LOCAL: u8 = 0x20;

/// The addresses of a connection at its first proxy: the client's, and the one that it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// What is known of a header by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many bytes more belong to it at least.
    More(usize),
    /// It ends with the next line feed, which is among so many bytes more.
    Line(usize),
    /// It is complete. `None`: it says nothing of the client.
    Done(Option<Ends>),
    /// It is none.
    Malformed,
}

/// Reads the beginning of a header, or all of it and nothing behind it.
pub(crate) fn read(bytes: &[u8]) -> Progress {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        read_v2(bytes)
    } else if begins(WORD) {
        read_v1(bytes)
    } else {
        Progress::Malformed
    }
}

fn read_v2(bytes: &[u8]) -> Progress {
    if bytes.len() < FIRST {
        return Progress::More(FIRST - bytes.len());
    }
    let Some([command, _, high, low]) = bytes.get(FIRST..FIXED) else { return Progress::More(FIXED - bytes.len()) };
    let whole = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if whole > LONGEST_V2 || bytes.len() > whole {
        return Progress::Malformed;
    }
    if bytes.len() < whole {
        return Progress::More(whole - bytes.len());
    }
    if *command == LOCAL {
        // Whatever it says beside that is to be ignored.
        return Progress::Done(None);
    }
    let Ok(header) = v2::Header::try_from(bytes) else { return Progress::Malformed };
    let ends = |source: IpAddr, source_port, destination: IpAddr, destination_port| {
        Progress::Done(Some(Ends::new((source, source_port).into(), (destination, destination_port).into())))
    };
    match (header.protocol, header.addresses) {
        (Protocol::Stream, v2::Addresses::IPv4(of)) => {
            ends(of.source_address.into(), of.source_port, of.destination_address.into(), of.destination_port)
        }
        (Protocol::Stream, v2::Addresses::IPv6(of)) => {
            ends(of.source_address.into(), of.source_port, of.destination_address.into(), of.destination_port)
        }
        // §2.2: the receiver ignores what it cannot use (a datagram, a Unix socket, an unspecified family) and uses the
        // connection's own addresses. Families that are not assigned have not come this far.
        _ => Progress::Done(None),
    }
}

fn read_v1(bytes: &[u8]) -> Progress {
    if bytes.len() < FIRST {
        return Progress::More(FIRST - bytes.len());
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        None if bytes.len() >= LONGEST_V1 => return Progress::Malformed,
        None => return Progress::Line(LONGEST_V1 - bytes.len()),
        Some(end) if end + 1 != bytes.len() || end >= LONGEST_V1 => return Progress::Malformed,
        // §2.1: whatever stands between UNKNOWN and the end of the line is ignored.
        Some(_) if bytes.starts_with(UNKNOWN) => {
            return if bytes.ends_with(b"\r\n") { Progress::Done(None) } else { Progress::Malformed };
        }
        Some(_) => {}
    }
    match v1::Header::try_from(bytes).map(|header| header.addresses) {
        Ok(v1::Addresses::Tcp4(of)) => Progress::Done(Some(Ends::new(
            (of.source_address, of.source_port).into(),
            (of.destination_address, of.destination_port).into(),
        ))),
        Ok(v1::Addresses::Tcp6(of)) => Progress::Done(Some(Ends::new(
            (of.source_address, of.source_port).into(),
            (of.destination_address, of.destination_port).into(),
        ))),
        Ok(v1::Addresses::Unknown) => Progress::Done(None),
        Err(_) => Progress::Malformed,
    }
}

impl Ends {
    fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source: canonical(source), destination: canonical(destination) }
    }

    /// Both of one family, as both versions want them: IPv4 beside IPv6 is written as IPv6.
    fn alike(self) -> (SocketAddr, SocketAddr) {
        let Self { source, destination } = self;
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        if source.is_ipv4() == destination.is_ipv4() {
            (source, destination)
        } else {
            (mapped(source), mapped(destination))
        }
    }
}

/// The header for a connection with these ends. `None`: nothing is known of them.
///
/// # Errors
/// None that lengths like these can have.
pub(crate) fn write(version: SendProxy, ends: Option<Ends>) -> io::Result<Vec<u8>> {
    let ends = ends.map(Ends::alike);
    match (version, ends) {
        (SendProxy::V1, None) => Ok(b"PROXY UNKNOWN\r\n".to_vec()),
        (SendProxy::V1, Some((source, destination))) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let [from, to] = [source, destination].map(|address| plain(address.ip()));
            Ok(format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes())
        }
        (SendProxy::V2, None) => Builder::new(Version::Two | Command::Local, 0).build(),
        (SendProxy::V2, Some(ends)) => {
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, ends).build()
        }
    }
}

/// An address in the form of §2.1, which knows no IPv4 inside of IPv6.
fn plain(ip: IpAddr) -> String {
    let IpAddr::V6(ip) = ip else { return ip.to_string() };
    if ip.to_ipv4_mapped().is_none() {
        return Ipv6Addr::to_string(&ip);
    }
    let [.., high, low] = ip.segments();
    format!("::ffff:{high:x}:{low:x}")
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
