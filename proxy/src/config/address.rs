//! Where a socket is: an address and a port, or a file.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a Unix socket's address begins with.
const UNIX: &str = "unix:";

/// The longest path of a Unix socket in bytes: `sun_path` holds 108 with the NUL behind it (unix(7)).
const LONGEST: usize = 107;

/// `127.0.0.1:80`, `[::1]:80` or `unix:/run/app.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// The file of a Unix stream socket.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no address: {why}; write {forms}")]
pub struct AddressError {
    text: String,
    why: &'static str,
    forms: &'static str,
}

/// How an address is written.
const FORMS: &str = "\"127.0.0.1:80\", \"[::1]:80\" or \"unix:/run/app.sock\"";

/// How a server is written.
const SERVER_FORMS: &str =
    "\"127.0.0.1:80\", \"[::1]:80\", \"unix:/run/app.sock\", \"app.internal:80\" or \"srv:_ws._tcp.app.internal\"";

impl AddressError {
    /// That of a text where a server may be written.
    pub(super) fn server(text: &str, why: &'static str) -> Self {
        Self { text: text.into(), why, forms: SERVER_FORMS }
    }

    pub(super) const fn why(&self) -> &'static str {
        self.why
    }
}

impl Address {
    /// The IP address and port, if it has one.
    #[must_use]
    pub const fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// A relative path starts at this folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        if let Self::Unix(path) = self {
            *path = folder.join(&*path);
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = |why| AddressError { text: text.into(), why, forms: FORMS };
        let Some(path) = text.strip_prefix(UNIX) else {
            return text.parse().map(Self::Inet).map_err(|_| fail("it has no IP address and port"));
        };
        match path.len() {
            0 => Err(fail("it has no path")),
            _ if path.contains('\0') => Err(fail("its path has a NUL in it")),
            1..=LONGEST => Ok(Self::Unix(path.into())),
            _ => Err(fail("its path is longer than 107 bytes")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were_written() {
        for text in ["127.0.0.1:80", "[::1]:443", "unix:/run/app.sock", "unix:app.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_told_so() {
        for (text, why) in [
            ("localhost:80", "no IP address"),
            ("127.0.0.1", "no IP address"),
            ("unix:", "no path"),
            ("unix:/a\0b", "NUL"),
            (&format!("unix:/{}", "x".repeat(107)), "longer than 107"),
        ] {
            assert!(text.parse::<Address>().unwrap_err().to_string().contains(why), "{text}");
        }
    }
}
