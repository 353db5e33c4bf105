//! The servers behind Sluice.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// A named group of servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The name that routes use.
    pub name: String,
    /// Addresses and ports, taken in turn.
    pub servers: Vec<SocketAddr>,
    /// Connections to a server that plain HTTP requests have used are kept for the next ones for this long. 4 s: less
    /// than the 5 s after which Node.js closes them, perhaps at the very moment at which a request is sent.
    #[serde(default = "defaults::keep_alive", with = "duration")]
    pub keep_alive: Duration,
    /// With it, TLS is spoken to every server, and its certificate is verified: there is no way around that.
    #[serde(default)]
    pub tls: Option<BackendTls>,
}

/// TLS towards a backend. `tls = {}` trusts the system's root certificates. Relative paths start at the configuration
/// file's folder; the keeper opens the files: the gate's user need not be able to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendTls {
    /// PEM file with the certificates that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
    /// The name, or the IP address, that the servers' certificate must be for; a name is also sent to them (SNI).
    /// None: each server's certificate must be for its own IP address.
    pub server_name: Option<String>,
    /// PEM file with a certificate and its chain, leaf first, for servers that ask for one.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
}

pub(super) mod defaults {
    use std::time::Duration;

    pub(in crate::config) fn keep_alive() -> Duration {
        Duration::from_secs(4)
    }
}
