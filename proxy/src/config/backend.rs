//! The servers behind Sluice.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::tls::{max_version, min_version};
use super::{Address, SendProxy, TlsPolicy, TlsVersion};

/// A named group of servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The name that routes use.
    pub name: String,
    /// Addresses and ports, or `unix:` and the path of a socket file; taken in turn. The gate's user must be able to
    /// connect to a socket file.
    pub servers: Vec<Address>,
    /// With it, TLS is spoken to every server, and its certificate is verified: there is no way around that.
    #[serde(default)]
    pub tls: Option<BackendTls>,
    /// The PROXY header, `"v1"` or `"v2"`, that every connection to a server begins with: the client's address, and the
    /// one that it came to. None: the server would take it for a malformed request.
    #[serde(default)]
    pub send_proxy: Option<SendProxy>,
}

/// TLS towards a backend. `tls = {}` trusts the system's root certificates. Relative paths start at the configuration
/// file's folder. The keeper reads the files, so the gate's user need not be able to; it looks once a second whether they
/// have changed, and on SIGHUP.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// The lowest TLS version, `"1.2"` or `"1.3"`. `"1.2"`.
    pub min_version: TlsVersion,
    /// The highest TLS version. `"1.3"`.
    pub max_version: TlsVersion,
    /// The cipher suites, by their names in IANA's registry, the preferred first. None: all that are built in.
    pub cipher_suites: Vec<String>,
}

impl Default for BackendTls {
    fn default() -> Self {
        Self {
            ca: None,
            server_name: None,
            certificate: None,
            key: None,
            min_version: min_version(),
            max_version: max_version(),
            cipher_suites: Vec::new(),
        }
    }
}

impl BackendTls {
    /// Its versions and cipher suites.
    #[must_use]
    pub fn policy(&self) -> TlsPolicy<'_> {
        TlsPolicy { min: self.min_version, max: self.max_version, suites: &self.cipher_suites }
    }
}
