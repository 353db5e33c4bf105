//! Servers that names stood for: the keeper remembers for the gate which index means which.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Tally;
use crate::config::Config;

/// What the keeper holds from earlier gates.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// Every pair.
    pub pairs: Vec<Tally>,
    /// What names stood for.
    pub found: Vec<Found>,
    /// By backend and server: those that checks had found to be down.
    pub down: Vec<(u16, u16)>,
}

/// How many of a backend's servers may be found by names. 1,000: a name with more addresses is somebody's mistake.
pub const MOST_FOUND: u16 = 1000;

/// The longest name, in bytes: RFC 1035 §2.3.4.
const LONGEST_NAME: usize = 255;

/// A server that was found by a name. Indices are as in [`Facts`](super::Facts).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Which backend.
    pub backend: u16,
    /// Its index, behind those of the backend's servers in the configuration.
    pub server: u16,
    /// Which of those named it.
    pub entry: u16,
    /// Where it is.
    pub address: SocketAddr,
    /// The name that it has.
    pub host: String,
    /// Its share.
    pub weight: u32,
    /// It is to get something only when the others cannot.
    pub backup: bool,
    /// The connections that it may have; 0: as many as come.
    pub most: u32,
    /// The name stands for it now; else connections to it live on.
    pub listed: bool,
}

impl Found {
    /// Whether its indices are of things that may exist, and its name is no longer than names are.
    #[must_use]
    pub fn is_sane(&self, config: &Config) -> bool {
        let entries = config.backends.get(usize::from(self.backend)).map_or(0, |backend| backend.servers.len());
        let own = usize::from(self.server);
        let exists = usize::from(self.entry) < entries && own >= entries && own < entries + usize::from(MOST_FOUND);
        exists && self.host.len() <= LONGEST_NAME
    }
}
