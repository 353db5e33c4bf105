//! The servers behind Sluice.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::is_token;
use super::schema::{ShortOr, Span, WatchedFile};
use super::tls::{max_version, min_version};
use super::{Address, Balance, Bound, Check, Ejection, SendProxy, Server, TlsPolicy, TlsVersion, duration, server};

/// A named group of servers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The name that routes use, any text; no two backends have the same.
    pub name: String,
    /// Where its servers are. The gate's user must be able to connect to a socket file.
    #[serde(deserialize_with = "server::list")]
    #[schemars(length(min = 1), with = "Vec<ShortOr<Server>>")]
    pub servers: Vec<Server>,
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
    /// Where requests wait while every server has as many connections as its `max_connections` allows. None wait by
    /// default: most servers have no such limit.
    #[serde(default)]
    pub queue: Queue,
    /// How many other servers are tried when one cannot be reached. 3: more servers than that are seldom gone at one time,
    /// and a client that has waited for four connects has waited long. Once the request may have been written to a
    /// server it is not sent again, but for one case (docs/servers.md): that server may have acted on it.
    #[serde(default = "defaults::retries")]
    #[schemars(extend("x-unit" = "servers"))]
    pub retries: u32,
    /// IP addresses of this machine to connect from, in turn. One address has about 28,000 ports for connections to one
    /// server; several have as many each. None: the one that the system chooses.
    #[serde(default)]
    pub source: Vec<IpAddr>,
    /// Connections to a server that plain HTTP requests have used are kept for the next ones for this long; `"off"`: each
    /// request has a connection of its own, and says so to the server. 4 s: less than the 5 s after which Node.js closes
    /// them, perhaps at the very moment at which a request is sent.
    #[serde(default = "defaults::keep_alive", with = "duration::optional")]
    #[schemars(with = "Bound")]
    pub keep_alive: Option<Duration>,
    /// How the names of header fields are written in requests, of WebSockets too. `"lower"`: case means nothing in HTTP
    /// (RFC 9110 §5.1), and only servers of some age do not know that.
    #[serde(default)]
    pub header_case: HeaderCase,
    /// Names of header fields as these servers want them, for those that neither `header_case` writes so:
    /// `["SOAPAction"]`. None: case means nothing.
    #[serde(default)]
    pub header_names: Vec<String>,
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

impl Backend {
    /// One with these servers, everything else by default.
    pub(super) fn new(name: String, servers: Vec<Address>) -> Self {
        Self {
            name,
            servers: servers.into_iter().map(Server::from).collect(),
            balance: Balance::default(),
            check: None,
            ejection: Ejection::default(),
            slow_start: None,
            queue: Queue::default(),
            retries: defaults::retries(),
            source: Vec::new(),
            keep_alive: defaults::keep_alive(),
            header_case: HeaderCase::default(),
            header_names: Vec::new(),
            sticky: None,
            tls: None,
            send_proxy: None,
        }
    }

    /// What is wrong with its `header_names`, if something is.
    pub(super) fn header_names_wrong(&self) -> Option<String> {
        let mut seen = HashSet::new();
        self.header_names.iter().find_map(|name| {
            if !is_token(name) {
                return Some(format!("header_names: {name:?} is no name of a header field (RFC 9110 section 5.1)"));
            }
            (!seen.insert(name.to_ascii_lowercase())).then(|| format!("header_names has {name:?} twice"))
        })
    }
}

/// The case of the names of header fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeaderCase {
    /// As HTTP/2 has them: `content-length`.
    #[default]
    Lower,
    /// With a capital letter at the start of every word, and as their standards write them: `Content-Length`,
    /// `Sec-WebSocket-Key`, `DNT`.
    Title,
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
    /// How long it is good for, 2 s at least; a client that comes in the second half of that gets a new one. 24 h: a
    /// working day with its night.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub lifetime: Duration,
    /// Whether browsers send it with requests that other sites' pages make. `lax`: only when a link is followed.
    pub same_site: SameSite,
    /// Files with keys, each of 32 bytes at least: the first one signs, all are believed. Several Sluices with the same
    /// ones understand each other's cookies. To change keys, put the new one last on every Sluice, then first, and take
    /// the old one out when `lifetime` is over. None: a random key that is made when Sluice starts; after a restart its
    /// clients get other servers and new cookies.
    #[schemars(with = "Vec<WatchedFile>")]
    pub keys: Vec<PathBuf>,
}

impl Default for Sticky {
    fn default() -> Self {
        Self {
            cookie: "sluice".into(),
            lifetime: Duration::from_secs(86_400),
            same_site: SameSite::Lax,
            keys: Vec::new(),
        }
    }
}

/// The shortest [`Sticky::lifetime`]: cookies count in whole seconds (RFC 6265 §5.2.2), and it has two halves.
const SHORTEST: Duration = Duration::from_secs(2);

impl Sticky {
    /// What is wrong with it, if something is.
    pub(super) fn wrong(&self) -> Option<String> {
        let Self { cookie, lifetime, .. } = self;
        if !is_token(cookie) {
            return Some(format!("sticky.cookie {cookie:?} is no cookie's name: use letters, digits, - and _"));
        }
        (*lifetime < SHORTEST)
            .then(|| "sticky.lifetime is below 2s, the shortest that a cookie can be renewed in".into())
    }
}

/// Where requests wait while all servers are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// How many may wait; one more is answered with 503 and Retry-After. First come, first served. 0: none.
    #[schemars(extend("x-unit" = "requests"))]
    pub length: u32,
    /// How long one may wait before it is answered with 503 and Retry-After. 5 s: longer, and the person behind it has
    /// tried again.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub timeout: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self { length: 0, timeout: Duration::from_secs(5) }
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
    /// None: each server's certificate must be for the name that it is configured by, or for its own IP address. Those
    /// of a service (`srv:`) are known by the names that the DNS gives: then a `ca` that signs nobody else's
    /// certificates, or a name here, keeps out servers that a forged answer names.
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

mod defaults {
    use std::time::Duration;

    #[expect(clippy::unnecessary_wraps, reason = "it is the setting's type")]
    pub(super) fn keep_alive() -> Option<Duration> {
        Some(Duration::from_secs(4))
    }

    pub(super) fn retries() -> u32 {
        3
    }
}
