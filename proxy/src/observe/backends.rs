//! The servers behind Sluice, as the gate sees them.

use std::sync::Arc;

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRow {
    /// Its name.
    pub name: String,
    /// How many requests wait for a place on a server.
    pub waiting: u64,
    /// Too few servers are up: some are used that are not.
    pub panic: bool,
    /// Those in the configuration, and those that names stand for or that somebody is still on.
    pub servers: Vec<ServerRow>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// Where it is.
    pub address: String,
    /// `up`, `new`, `down`, `ejected`, `draining` or `gone`.
    pub state: &'static str,
    /// Connections and requests on it.
    pub connections: u64,
    /// How often this gate has sent a request there.
    pub picks: u64,
    /// How often it failed whoever was sent there.
    pub failures: u64,
}

/// Gives all backends as they are now.
pub type Backends = Arc<dyn Fn() -> Vec<BackendRow> + Send + Sync>;
