//! What the gate counts of the pairs that are not its own.
//!
//! The keeper's pairs outlive a gate, and so must the counts that decide over new connections: of everything, of a
//! route, of a server, of a client. So a new gate is told of every pair that the keeper holds, and every gate of each
//! that ends. What a gate carries itself it counts itself.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Facts;

/// How many go in one message: about a third of what [`super::MAX_MESSAGE`] takes, at their longest.
pub const TALLIES: usize = 2048;

/// One pair, as far as it is counted. Indices are into the configuration's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Which route admitted it.
    pub route: u16,
    /// Which backend.
    pub backend: u16,
    /// Which of the backend's servers.
    pub server: u16,
    /// The client's address, if it has one.
    pub client: Option<IpAddr>,
}

// What a pair that has ended costs the keeper until the gate takes the news.
const _: () = assert!(size_of::<Tally>() == 24);

impl From<&Facts> for Tally {
    fn from(facts: &Facts) -> Self {
        Self { route: facts.route, backend: facts.backend, server: facts.server, client: facts.client.ip() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::handoff::{MAX_MESSAGE, ToGate};

    #[test]
    fn as_many_as_go_in_one_message_fit_it() {
        let longest = Ipv6Addr::from([0xff; 16]).into();
        let longest = Tally { route: u16::MAX, backend: u16::MAX, server: u16::MAX, client: Some(longest) };
        let message = postcard::to_stdvec(&ToGate::Closed { pairs: vec![longest; TALLIES] }).unwrap();
        assert!(message.len() <= MAX_MESSAGE / 2, "{} bytes", message.len());
    }
}
