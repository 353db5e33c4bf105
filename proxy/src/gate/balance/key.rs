//! What a hash looks at in a request. Pure.

use std::net::IpAddr;

use anyhow::Context as _;
use http::header::{HeaderMap, HeaderName};

use super::key;
use crate::config::{Balance, HashOn};
use crate::gate::cookies;
use crate::gate::policy::{Subject, parameters};

/// Where a backend finds the key of a request.
#[derive(Debug)]
pub(in crate::gate) enum KeyOf {
    /// Nowhere: it does not ask for any.
    Nothing,
    /// The client's address.
    Address,
    /// The path in its plain form.
    Path,
    /// A header field.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A parameter of the query.
    Query(Vec<u8>),
}

impl KeyOf {
    /// # Errors
    /// The name of the header is none.
    pub(in crate::gate) fn new(balance: &Balance) -> anyhow::Result<Self> {
        Ok(match balance {
            Balance::RoundRobin | Balance::LeastConnections | Balance::PowerOfTwo => Self::Nothing,
            Balance::SourceIp | Balance::Maglev(HashOn::Address) => Self::Address,
            Balance::Maglev(HashOn::Path) => Self::Path,
            Balance::Maglev(HashOn::Header(name)) => {
                Self::Header(name.parse().with_context(|| format!("balance: {name:?} is no header name"))?)
            }
            Balance::Maglev(HashOn::Cookie(name)) => Self::Cookie(name.clone()),
            Balance::Maglev(HashOn::Query(name)) => Self::Query(name.clone().into_bytes()),
        })
    }

    /// The key of a request. `client`: the address that it comes from, past the proxies that are trusted; none behind a
    /// Unix socket.
    ///
    /// `None` if it has no such thing, or has it empty: all of those would meet on one server.
    pub(in crate::gate) fn of(&self, client: Option<IpAddr>, subject: &Subject<'_>) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Address => client.map(address),
            Self::Path => Some(key(subject.path.bytes())),
            Self::Header(name) => subject.headers.get(name).and_then(|value| filled(value.as_bytes())),
            Self::Cookie(name) => cookie(subject.headers, name),
            Self::Query(name) => {
                let parameters = parameters(subject.query.unwrap_or_default());
                let value = parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value);
                value.and_then(|value| filled(value))
            }
        }
    }
}

fn filled(value: &[u8]) -> Option<u64> {
    (!value.is_empty()).then(|| key(value))
}

/// An IPv4 address is the same one inside of IPv6 (`::ffff:192.0.2.1`). Of IPv6 the whole address counts: who has a
/// network of it may be at several servers, as several clients may.
fn address(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(four) => key(&four.octets()),
        IpAddr::V6(six) => key(&six.octets()),
    }
}

/// That of the first cookie of this name that is not empty.
fn cookie(headers: &HeaderMap, name: &str) -> Option<u64> {
    cookies::values(headers, name.as_bytes()).find_map(filled)
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
