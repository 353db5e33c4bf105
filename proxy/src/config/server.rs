//! One entry in a backend's list of servers.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::matching::short_or_whole;
use super::{Address, AddressError};

/// What the name of a service begins with.
const SRV: &str = "srv:";

/// The longest name of a host in characters (RFC 1035 §2.3.4, without the root's dot).
const LONGEST: usize = 253;

/// The longest part of one.
const LONGEST_PART: usize = 63;

/// A server, or a name under which servers are found. A text alone is its `address`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where it is.
    pub address: ServerAddress,
    /// Its share, next to the other servers' weights. 0: it is draining, and gets nothing new; a client whose cookie
    /// names it goes elsewhere. 1: all get the same.
    #[serde(default = "defaults::weight")]
    #[schemars(range(max = 1000))]
    pub weight: u32,
    /// `true`: it gets requests only while none of the others is up, and those that could reach none of the others. If
    /// they are up and full, clients wait for them or are answered with 503. `false`: it takes part.
    #[serde(default)]
    pub backup: bool,
    /// Connections and requests at one time; what comes beyond waits in the backend's `queue`. Of a name: for each of the
    /// servers that it stands for. 0: as many as come.
    #[serde(default)]
    #[schemars(extend("x-unit" = "connections"))]
    pub max_connections: u32,
}

/// Where a server is, or how servers are found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ServerAddress {
    /// At this address.
    At(Address),
    /// At all addresses of this name (A and AAAA records), on this port.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
    /// At the names and ports of this service (SRV records, RFC 2782).
    Service(String),
}

impl From<Address> for Server {
    fn from(address: Address) -> Self {
        Self::new(ServerAddress::At(address))
    }
}

impl Server {
    fn new(address: ServerAddress) -> Self {
        Self { address, weight: defaults::weight(), backup: false, max_connections: 0 }
    }

    /// A relative path starts at this folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        if let ServerAddress::At(address) = &mut self.address {
            address.resolve(folder);
        }
    }
}

/// An entry of the list: a text, or a table.
#[derive(Deserialize)]
#[serde(transparent)]
struct Entry(#[serde(deserialize_with = "short_or_whole")] Server);

/// Reads the list.
pub(super) fn list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Server>, D::Error> {
    Ok(Vec::<Entry>::deserialize(from)?.into_iter().map(|Entry(server)| server).collect())
}

impl TryFrom<String> for Server {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse().map(Self::new)
    }
}

impl ServerAddress {
    /// Where it is, if that is known without asking.
    #[must_use]
    pub const fn fixed(&self) -> Option<&Address> {
        match self {
            Self::At(address) => Some(address),
            Self::Name { .. } | Self::Service(_) => None,
        }
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = |why| AddressError::server(text, why);
        if let Some(name) = text.strip_prefix(SRV) {
            return match is_name(name) {
                true => Ok(Self::Service(name.to_owned())),
                false => Err(fail("what stands behind srv: is no name")),
            };
        }
        let reason = match text.parse::<Address>() {
            Ok(address) => return Ok(Self::At(address)),
            Err(reason) => reason,
        };
        let Some((host, port)) = text.rsplit_once(':').filter(|_| !text.starts_with("unix:")) else {
            return Err(AddressError::server(text, reason.why()));
        };
        let Ok(port) = port.parse::<u16>() else { return Err(fail("it has no port")) };
        // All in digits and dots, it is an address that went wrong.
        let is_address = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match is_name(host) && !is_address {
            true => Ok(Self::Name { host: host.to_owned(), port }),
            false => Err(fail("what stands before the port is neither an IP address nor a name")),
        }
    }
}

/// Whether this can be the name of a host or service (RFC 1123 §2.1, with the underscores of RFC 2782).
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let part = |part: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        !part.is_empty() && part.len() <= LONGEST_PART && part.bytes().all(fits) && !part.starts_with('-')
    };
    text.len() <= LONGEST && text.split('.').all(part)
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Service(name) => write!(f, "{SRV}{name}"),
        }
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

mod defaults {
    pub(super) fn weight() -> u32 {
        1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were_written() {
        for text in
            ["127.0.0.1:80", "[::1]:443", "unix:/run/a.sock", "app.internal:80", "a_b:1", "srv:_ws._tcp.app.test"]
        {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_server_is_told_so() {
        for (text, why) in [
            ("app.internal", "no IP address"),
            ("app.internal:http", "no port"),
            ("127.0.0.1", "no IP address"),
            ("127.0.0.256:80", "neither"),
            ("a b:80", "neither"),
            ("-a:80", "neither"),
            (":80", "neither"),
            ("unix:", "no path"),
            ("srv:", "no name"),
            ("srv:_ws._tcp.app.test:80", "no name"),
        ] {
            let error = text.parse::<ServerAddress>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
