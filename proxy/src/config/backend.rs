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
    /// With it, a client comes back to the server that it was on, by a cookie.
    #[serde(default)]
    pub sticky: Option<Sticky>,
    /// With it, TLS is spoken to every server, and its certificate is verified: there is no way around that.
    #[serde(default)]
    pub tls: Option<BackendTls>,
}

/// The cookie that brings a client back to its server: for backends that keep something of a client from one connection
/// to the next (Socket.IO's polling, for one). `sticky = {}` takes all defaults. A server that is gone is replaced by
/// another, and the cookie with it. Backends do not see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sticky {
    /// The cookie's name. Two backends under one host need different names.
    pub cookie: String,
    /// How long it is good for; a client that comes in the second half of that gets a new one. 24 h: a working day with
    /// its night.
    #[serde(with = "duration")]
    pub lifetime: Duration,
    /// Whether browsers send it with requests that other sites' pages make. `lax`: only when a link is followed.
    pub same_site: SameSite,
}

impl Default for Sticky {
    fn default() -> Self {
        Self { cookie: "sluice".into(), lifetime: Duration::from_secs(86_400), same_site: SameSite::Lax }
    }
}

/// The SameSite attribute of a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// With requests of other sites only when a link is followed.
    #[default]
    Lax,
    /// Never with requests of other sites.
    Strict,
    /// Always; then it is Secure too, or browsers refuse it.
    None,
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
