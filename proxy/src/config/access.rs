//! Clients by their addresses: who may enter.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// These lists hold for every route; one may have its own beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// The only clients that may connect: networks such as `10.0.0.0/8`, single addresses, and `unix` for whoever may
    /// connect to a Unix socket. None: everybody who is not in `deny`.
    pub allow: Vec<Peers>,
    /// Clients that may not connect, also if they are in `allow`. They are refused with 403; on a listener with TLS the
    /// connection is closed before its handshake. None: nobody.
    pub deny: Vec<Peers>,
}

impl Access {
    /// Whether a client with this address may enter. `None`: one without an address.
    #[must_use]
    pub fn admits(&self, client: Option<IpAddr>) -> bool {
        let is_in = |list: &[Peers]| list.iter().any(|peers| peers.is(client));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

/// Peers by their address: a network, or Unix sockets, where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Peers {
    /// A network.
    Net(IpNet),
    /// Whoever may connect to a Unix socket.
    Unix,
}

impl Peers {
    /// Whether a peer with this address is one of them. `None`: one without an address.
    #[must_use]
    pub fn is(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer) {
            (Self::Unix, None) => true,
            (Self::Net(net), Some(peer)) => net.contains(&peer.to_canonical()),
            _ => false,
        }
    }
}

impl TryFrom<String> for Peers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let alone = || text.parse().ok().map(|address: IpAddr| IpNet::from(address));
        let net = text.parse().ok().or_else(alone);
        net.map(|net| Self::Net(canonical(net))).ok_or_else(|| {
            format!("{text:?} is no network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"")
        })
    }
}

/// Peers are known by their IPv4 addresses, however their sockets write them (RFC 4291 §2.5.5.2); so are networks.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(six) = net else { return net };
    let four = six.addr().to_ipv4_mapped().zip(six.prefix_len().checked_sub(96));
    four.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(net, IpNet::V4)
}

impl From<Peers> for String {
    fn from(source: Peers) -> Self {
        match source {
            Peers::Net(net) => net.to_string(),
            Peers::Unix => "unix".into(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<Peers> {
        texts.iter().map(|text| Peers::try_from((*text).to_owned()).unwrap()).collect()
    }

    #[test]
    fn a_network_of_mapped_addresses_is_one_of_ipv4() {
        for (text, is) in [
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(String::from(list(&[text])[0]), is, "{text}");
        }
    }

    #[test]
    fn who_is_denied_or_not_allowed_stays_outside() {
        let open = Access::default();
        let few = Access { allow: list(&["10.0.0.0/8", "2001:db8::/32", "unix"]), deny: list(&["10.6.6.0/24"]) };
        let most = Access { allow: vec![], deny: list(&["192.0.2.0/24", "unix"]) };
        for (client, by_few, by_most) in [
            (Some("10.1.2.3"), true, true),
            (Some("::ffff:10.1.2.3"), true, true),
            (Some("10.6.6.6"), false, true),
            (Some("::ffff:10.6.6.6"), false, true),
            (Some("192.0.2.9"), false, false),
            (Some("2001:db8:1::2"), true, true),
            (Some("2001:db9::"), false, true),
            (None, true, false),
        ] {
            let address = client.map(|client| client.parse().unwrap());
            assert!(open.admits(address));
            assert_eq!((few.admits(address), most.admits(address)), (by_few, by_most), "{client:?}");
        }
    }
}
