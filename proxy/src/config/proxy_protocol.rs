//! The PROXY protocol of HAProxy (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Peers;

/// PROXY headers of clients' connections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The peers whose connections begin with a PROXY header, version 1 or 2: networks such as `10.0.0.0/8`, single
    /// addresses, and `unix` for whoever may connect to a Unix socket. Their connections must have one, and it is
    /// believed; from others none is read.
    /// Whoever is named here says who clients are.
    #[schemars(length(min = 1))]
    pub from: Vec<Peers>,
}

impl ProxyProtocol {
    /// Whether the connection of such a peer begins with a header. `None`: a peer without an address.
    #[must_use]
    pub fn expects(&self, peer: Option<IpAddr>) -> bool {
        self.from.iter().any(|source| source.is(peer))
    }
}

/// The PROXY header that a backend's connections begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SendProxy {
    /// A line of text, for servers that read no other.
    V1,
    /// Binary, for all others.
    V2,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn peers_are_found_in_their_networks() {
        let from = ["10.0.0.0/8", "2001:db8::1", "::1/128"].map(|text| Peers::try_from(text.to_owned()).unwrap());
        let setting = ProxyProtocol { from: from.to_vec() };
        for (peer, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
            ("::1", true),
        ] {
            assert_eq!(setting.expects(Some(peer.parse().unwrap())), expected, "{peer}");
        }
        assert!(!setting.expects(None));
        let unix = ProxyProtocol { from: vec![Peers::Unix] };
        assert!(unix.expects(None) && !unix.expects(Some([127, 0, 0, 1].into())));
    }
}
