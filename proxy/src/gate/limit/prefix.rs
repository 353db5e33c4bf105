//! Which addresses are one client.

use std::net::{IpAddr, Ipv6Addr};

use super::Place;
use crate::config::PerClient;

/// A client on one place: the network that it is, written in IPv6 (RFC 4291 §2.5.5.2 for IPv4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Key {
    network: [u8; 16],
    place: Place,
}

/// How many leading bits of an address tell one client from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefixes {
    ipv4: u8,
    ipv6: u8,
}

/// Bits of an IPv4 address in IPv6 that stand before the address itself.
const MAPPED: u8 = 96;

impl Prefixes {
    pub(super) fn new(settings: &PerClient) -> Self {
        Self { ipv4: settings.ipv4_prefix.min(32), ipv6: settings.ipv6_prefix.min(128) }
    }

    /// Who has this address.
    pub(super) fn client(self, address: IpAddr, place: Place) -> Key {
        let (bits, kept) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), MAPPED + self.ipv4),
            IpAddr::V6(address) => (address.to_bits(), self.ipv6),
        };
        let mask = u128::MAX.checked_shl(u32::from(128 - kept)).unwrap_or(0);
        Key { network: Ipv6Addr::from_bits(bits & mask).octets(), place }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn same(prefixes: Prefixes, one: &str, other: &str) -> bool {
        let [one, other] = [one, other].map(|text| prefixes.client(text.parse().unwrap(), Place::All));
        one == other
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let usual = Prefixes::new(&PerClient::default());
        let wide = Prefixes { ipv4: 24, ipv6: 48 };
        let (all, single) = (Prefixes { ipv4: 0, ipv6: 0 }, Prefixes { ipv4: 32, ipv6: 128 });
        for (prefixes, one, other, expected) in [
            (usual, "192.0.2.1", "192.0.2.1", true),
            (usual, "192.0.2.1", "192.0.2.2", false),
            (usual, "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            (usual, "2001:db8:0:1::1", "2001:db8:0:2::1", false),
            (usual, "::1", "0.0.0.1", false),
            (usual, "::ffff:192.0.2.1", "192.0.2.1", true),
            (usual, "::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            (wide, "192.0.2.1", "192.0.2.200", true),
            (wide, "192.0.2.1", "192.0.3.1", false),
            (wide, "2001:db8:0:1::1", "2001:db8:0:ffff::1", true),
            (wide, "2001:db8:1::", "2001:db8:2::", false),
            (all, "192.0.2.1", "8.8.8.8", true),
            (all, "::1", "ffff::", true),
            (all, "::1", "8.8.8.8", false),
            (single, "::1", "::2", false),
        ] {
            assert_eq!(same(prefixes, one, other), expected, "{one} and {other} with {prefixes:?}");
        }
    }

    #[test]
    fn a_client_is_counted_by_itself_on_each_place() {
        let (prefixes, address) = (Prefixes { ipv4: 32, ipv6: 64 }, [192, 0, 2, 1].into());
        assert_ne!(prefixes.client(address, Place::All), prefixes.client(address, Place::Route(0)));
        assert_ne!(prefixes.client(address, Place::Route(1)), prefixes.client(address, Place::Route(0)));
    }
}
