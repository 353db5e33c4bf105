//! The PROXY protocol of HAProxy (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// PROXY headers of clients' connections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The peers whose connections begin with a PROXY header, version 1 or 2: networks such as `10.0.0.0/8`, single
    /// addresses, and `unix` for whoever may connect to a Unix socket. Their connections must have one, and it is
    /// believed; from others none is read.
    /// Whoever is named here says who clients are.
    #[schemars(length(min = 1))]
    pub from: Vec<TrustedPeer>,
}

impl ProxyProtocol {
    /// Whether the connection of such a peer begins with a header. `None`: a peer without an address.
    #[must_use]
    pub fn expects(&self, peer: Option<IpAddr>) -> bool {
        self.from.iter().any(|source| source.is(peer))
    }
}

/// A network whose proxies are believed, or Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TrustedPeer {
    /// A network.
    Net(IpNet),
    /// Whoever may connect to a Unix socket.
    Unix,
}

impl TrustedPeer {
    /// Whether it is such a peer. `None`: one without an address.
    #[must_use]
    pub fn is(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer) {
            (Self::Unix, None) => true,
            (Self::Net(net), Some(peer)) => net.contains(&peer.to_canonical()),
            _ => false,
        }
    }
}

impl TryFrom<String> for TrustedPeer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let alone = || text.parse().ok().map(|address: IpAddr| IpNet::from(address));
        let net = text.parse().ok().or_else(alone);
        net.map(Self::Net).ok_or_else(|| {
            format!("{text:?} is no network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"")
        })
    }
}

impl From<TrustedPeer> for String {
    fn from(source: TrustedPeer) -> Self {
        match source {
            TrustedPeer::Net(net) => net.to_string(),
            TrustedPeer::Unix => "unix".into(),
        }
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
        let from = ["10.0.0.0/8", "2001:db8::1", "::1/128"].map(|text| TrustedPeer::try_from(text.to_owned()).unwrap());
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
        let unix = ProxyProtocol { from: vec![TrustedPeer::Unix] };
        assert!(unix.expects(None) && !unix.expects(Some([127, 0, 0, 1].into())));
    }
}
