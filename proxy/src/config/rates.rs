//! How many may come, and how fast.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration;
use super::schema::Span;

/// A rate of handshakes: on average no more than `rate` in each `per`, `burst` of them at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HandshakeRate {
    /// So many handshakes, and requests that are none, in each `per`.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "handshakes"))]
    pub rate: u32,
    /// The span of time for `rate`. 1 s: what rates are usually told for; `"1m"` for those below one in a second.
    #[serde(default = "defaults::per", with = "duration")]
    #[schemars(with = "Span")]
    pub per: Duration,
    /// How many may come at once after a quiet time. None: as many as `rate`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "handshakes"))]
    pub burst: Option<u32>,
}

impl HandshakeRate {
    /// What is wrong with it, if something is.
    pub(super) fn wrong(&self) -> Option<String> {
        if !(1..=MOST).contains(&self.rate) || !(1..=MOST).contains(&self.burst.unwrap_or(1)) {
            return Some(format!("handshakes.rate and handshakes.burst are numbers from 1 to {MOST}"));
        }
        let span = Duration::from_millis(1)..=Duration::from_secs(3600);
        (!span.contains(&self.per)).then(|| "handshakes.per is a time from 1ms to 1h".into())
    }
}

/// The highest rate and burst.
const MOST: u32 = 1_000_000;

/// What one client may take. A client is one address, or all addresses of a network: see the prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PerClient {
    /// Connections of one client at one time, those in their handshake included; one more is refused with 429. 0: any
    /// number. No limit is right for all: behind one address there may be one person, a company or a country's phones.
    #[schemars(extend("x-unit" = "connections"))]
    pub connections: u32,
    /// The rate of one client's handshakes; what is beyond it is refused with 429. None: any rate, for the same reason.
    pub handshakes: Option<HandshakeRate>,
    /// The leading bits of an IPv4 address that tell one client from another. 32: each address is a client.
    #[schemars(range(max = 32), extend("x-unit" = "bits"))]
    pub ipv4_prefix: u8,
    /// The leading bits of an IPv6 address that tell one client from another. 64: whoever has one such address usually
    /// has the whole network of 2^64 (RFC 6177).
    #[schemars(range(max = 128), extend("x-unit" = "bits"))]
    pub ipv6_prefix: u8,
    /// Clients without a connection whose rate is remembered; of more, who was seen longest ago is forgotten. 65536: a
    /// flood from more addresses than that costs 4 MB, and `limits.handshakes` holds for all of them together.
    #[schemars(range(min = 1, max = 4_194_304), extend("x-unit" = "clients"))]
    pub addresses: u32,
}

impl Default for PerClient {
    fn default() -> Self {
        Self { connections: 0, handshakes: None, ipv4_prefix: 32, ipv6_prefix: 64, addresses: 65_536 }
    }
}

impl PerClient {
    /// What is wrong with it, if something is.
    pub(super) fn wrong(&self) -> Option<String> {
        if self.ipv4_prefix > 32 || self.ipv6_prefix > 128 {
            return Some("ipv4_prefix is at most 32, ipv6_prefix at most 128".into());
        }
        if !(1..=1 << 22).contains(&self.addresses) {
            return Some("addresses is a number from 1 to 4194304".into());
        }
        self.handshakes.as_ref().and_then(HandshakeRate::wrong)
    }
}

/// What one client may take of one route, beside what it may take in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoutePerClient {
    /// Connections of one client on this route at one time; one more is refused with 429. 0: any number.
    #[schemars(extend("x-unit" = "connections"))]
    pub connections: u32,
    /// The rate of one client's handshakes on this route; what is beyond it is refused with 429. None: any rate.
    pub handshakes: Option<HandshakeRate>,
}

mod defaults {
    use std::time::Duration;

    pub(super) fn per() -> Duration {
        Duration::from_secs(1)
    }
}
