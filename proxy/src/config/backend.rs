//! The servers behind Sluice.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration;
use super::schema::{Span, WatchedFile};
use super::tls::{max_version, min_version};
use super::{Address, Balance, Check, Ejection, SendProxy, TlsPolicy, TlsVersion};

/// A named group of servers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The name that routes use, any text; no two backends have the same.
    pub name: String,
    /// Addresses and ports, or `unix:` and the path of a socket file; `balance` says which is next. The gate's user must be able to
    /// connect to a socket file.
    #[schemars(length(min = 1))]
    pub servers: Vec<Address>,
    /// Which server is next. `"round-robin"`: docs/balancing.md says when another is better.
    #[serde(default)]
    pub balance: Balance,
    /// How servers are asked whether they are well. None: what they do with clients' connections says it (`ejection`);
    /// what a check may ask of an application, only its owner knows.
    #[serde(default)]
    pub check: Option<Check>,
    /// When a server is left out for what it does with clients' connections.
    #[serde(default)]
    pub ejection: Ejection,
    /// A server that comes up, or back, begins with a tenth of its weight, and has all of it after this time. The hashes
    /// (`source-ip`, `maglev`) go by the whole weight at once. None: most servers are ready when they say so.
    #[serde(default, with = "duration::maybe")]
    #[schemars(with = "Option<Span>")]
    pub slow_start: Option<Duration>,
    /// Connections to a server that plain HTTP requests have used are kept for the next ones for this long. 4 s: less
    /// than the 5 s after which Node.js closes them, perhaps at the very moment at which a request is sent.
    #[serde(default = "defaults::keep_alive", with = "duration")]
    #[schemars(with = "Span")]
    pub keep_alive: Duration,
    /// With it, a client comes back to the server that it was on, by a cookie. None: a WebSocket stays on its server
    /// anyway, and who needs no cookie should get none.
    #[serde(default)]
    pub sticky: Option<Sticky>,
    /// With it, TLS is spoken to every server, and its certificate is verified: there is no way around that. None: most
    /// servers stand in the same network, and the kernel can only carry plain pairs.
    #[serde(default)]
    pub tls: Option<BackendTls>,
    /// The PROXY header, `"v1"` or `"v2"`, that every connection to a server begins with: the client's address, and the
    /// one that it came to. None: the server would take it for a malformed request.
    #[serde(default)]
    pub send_proxy: Option<SendProxy>,
}

/// The cookie that brings a client back to its server: for backends that keep something of a client from one connection
/// to the next (Socket.IO's polling, for one). `sticky = {}` takes all defaults. A server that is gone is replaced by
/// another, and the cookie with it. Backends do not see it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sticky {
    /// The cookie's name, a token (RFC 6265 §4.1.1). `sluice`: it says where it comes from. Two backends under one host
    /// need different names.
    pub cookie: String,
    /// How long it is good for; a client that comes in the second half of that gets a new one. 24 h: a working day with
    /// its night.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
/// file's folder. The keeper reads the files, so the gate's user need not be able to; it looks once a second whether
/// they have changed, and on SIGHUP.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackendTls {
    /// PEM file with the certificates that are trusted. None: the system's, or those that `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` name; they are read when the gate starts, and again when
    /// a file here has changed.
    #[schemars(with = "Option<WatchedFile>")]
    pub ca: Option<PathBuf>,
    /// The name, or the IP address, that the servers' certificate must be for; a name is also sent to them (SNI).
    /// None: each server's certificate must be for its own IP address.
    pub server_name: Option<String>,
    /// PEM file with a certificate and its chain, leaf first, for servers that ask for one. None: such servers get
    /// none, and most do not ask.
    #[schemars(with = "Option<WatchedFile>")]
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key, not encrypted; it comes with `certificate`.
    #[schemars(with = "Option<WatchedFile>")]
    pub key: Option<PathBuf>,
    /// The lowest TLS version. `"1.2"`: servers of some age speak no other.
    pub min_version: TlsVersion,
    /// The highest TLS version. `"1.3"`: the newest there is.
    pub max_version: TlsVersion,
    /// The cipher suites, by their names in IANA's registry, the preferred first. None: all that are built in, of which
    /// none is weak.
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

pub(super) mod defaults {
    use std::time::Duration;

    pub(in crate::config) fn keep_alive() -> Duration {
        Duration::from_secs(4)
    }
}
