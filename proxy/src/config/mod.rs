//! The configuration: what a person writes in TOML, checked as a whole before anything starts.
//!
//! Unknown keys are refused with their line. Every default says why it is what it is.

mod check;
mod origin;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::ConfigError;
pub use origin::{Origin, OriginRule, OriginRuleError, split as split_origin, split_authority};

/// The whole configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address for `/metrics` and `/connections`.
    #[serde(default)]
    pub admin: Option<Admin>,
    /// Where clients connect.
    #[serde(default, rename = "listener")]
    pub listeners: Vec<Listener>,
    /// Which requests go to which backend; the most specific host and then the longest path win.
    #[serde(default, rename = "route")]
    pub routes: Vec<Route>,
    /// Named groups of servers.
    #[serde(default, rename = "backend")]
    pub backends: Vec<Backend>,
    /// How established connections are carried.
    #[serde(default)]
    pub relay: Relay,
    /// Time limits of everything before a connection is established.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Size limits of everything before a connection is established.
    #[serde(default)]
    pub limits: Limits,
    /// The processes.
    #[serde(default)]
    pub process: Process,
}

/// The admin listener. It shows clients' addresses: bind it where only operators reach it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Address and port.
    pub listen: SocketAddr,
}

/// One listening socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port.
    pub bind: SocketAddr,
    /// With it, the listener speaks TLS.
    #[serde(default)]
    pub tls: Option<Tls>,
}

/// The certificate of a TLS listener. Relative paths start at the configuration file's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the private key. The keeper opens it: the gate's user need not be able to.
    pub key: PathBuf,
}

/// One route.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The Host that it serves: a name, or `*.example.com` for every name below; none: every host.
    #[serde(default)]
    pub host: Option<String>,
    /// The path prefix that it serves, cut at `/`: `/chat` serves `/chat` and `/chat/x`, not `/chatter`.
    #[serde(default = "defaults::path")]
    pub path: String,
    /// Which values of Origin may enter. Without this setting, only pages of the same origin
    /// (the Origin's host and port are those of Host), so that no foreign page can use a visitor's cookies.
    #[serde(default = "defaults::origins")]
    pub origins: Vec<OriginRule>,
    /// Clients that send no Origin (programs, not browsers).
    #[serde(default)]
    pub no_origin: NoOrigin,
    /// The name of the backend.
    pub backend: String,
}

/// What becomes of clients that send no Origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoOrigin {
    /// They enter. The default: browsers always send Origin with a WebSocket handshake (RFC 6455 §4.1), so
    /// nothing is gained against cross-site hijacking by refusing programs.
    #[default]
    Allow,
    /// They are refused.
    Deny,
}

/// A named group of servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The name that routes use.
    pub name: String,
    /// Addresses and ports, taken in turn.
    pub servers: Vec<SocketAddr>,
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

/// How established connections are carried.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Which engine carries plain pairs.
    pub engine: EngineChoice,
    /// Who keeps the keys of pairs that speak TLS on either side.
    pub tls_engine: TlsEngineChoice,
    /// Records that are sent with one TLS key before it is changed, or the connection closed where it cannot be.
    /// 2^24: as many as AES-GCM is good for (RFC 8446 §5.5), which no setting exceeds; 64 at least.
    pub tls_key_records: u64,
    /// Bytes that one direction may have waiting in the kernel between both sockets (`sockmap` engine).
    /// 256 KiB: enough for one full loopback segment per wake-up of the kernel worker with room to spare, and
    /// small enough that a hundred thousand stalled pairs do not matter beside their socket buffers.
    pub backlog_limit: u32,
    /// A pair with no byte in either direction for this long is closed. Off: a WebSocket may be silent for hours.
    #[serde(with = "optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// A pair this old is closed. Off.
    #[serde(with = "optional_duration")]
    pub max_lifetime: Option<Duration>,
    /// TCP keepalive begins after this much silence. 60 s: below the idle limits of common NATs and load balancers.
    #[serde(with = "duration")]
    pub keepalive: Duration,
    /// A peer that acknowledges nothing for this long is dead (TCP_USER_TIMEOUT; keepalive probes obey it too).
    /// 120 s: two keepalive periods; a phone that changes networks needs less. A peer that is alive and does not read
    /// is not dead, however long.
    #[serde(with = "duration")]
    pub user_timeout: Duration,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            tls_engine: TlsEngineChoice::Auto,
            tls_key_records: 1 << 24,
            backlog_limit: 256 * 1024,
            idle_timeout: None,
            max_lifetime: None,
            keepalive: Duration::from_secs(60),
            user_timeout: Duration::from_secs(120),
        }
    }
}

/// The setting `relay.engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The best that the probe finds.
    #[default]
    Auto,
    /// The kernel relay, or a failed start.
    Sockmap,
    /// Userspace.
    Copy,
}

/// The setting `relay.tls_engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsEngineChoice {
    /// The kernel where it can, else userspace.
    #[default]
    Auto,
    /// The kernel, or a failed start. (A connection whose cipher the kernel lacks is still served.)
    Ktls,
    /// Userspace.
    Copy,
}

/// Time limits of everything before a connection is established.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From accept to the complete request head, the TLS handshake included. 10 s: a phone on a bad network takes
    /// 2–3 s; a client that feeds a head slower than this is holding a slot, not connecting.
    #[serde(with = "duration")]
    pub head: Duration,
    /// One TCP connect to one backend server, and as much again for its TLS handshake if it has TLS. 3 s: one lost
    /// SYN is sent again after 1 s.
    #[serde(with = "duration")]
    pub dial: Duration,
    /// From the request sent to the backend to its complete response head. 10 s: applications that authenticate in
    /// their handshake may ask a database.
    #[serde(with = "duration")]
    pub response: Duration,
    /// From accept to the end of the handshake, all of the above included. 30 s: the sum of the others with one
    /// retried dial.
    #[serde(with = "duration")]
    pub handshake: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            dial: Duration::from_secs(3),
            response: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
        }
    }
}

/// Size limits of everything before a connection is established.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request or response head. 16 KiB: cookies reach 4 KiB each, tokens 8 KiB; NGINX and HAProxy
    /// stop at 32 KiB and 16 KiB. (8 KiB at least.)
    pub head_bytes: usize,
    /// Header fields of a head. 100: browsers send about 20.
    pub header_count: usize,
    /// Bytes of a backend's body that is passed on with an answer other than 101. 64 KiB: an error page.
    pub response_body: usize,
    /// Connections at one time, established or not; 0: as many as the limit on open files allows.
    pub connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 16 * 1024, header_count: 100, response_body: 64 * 1024, connections: 0 }
    }
}

/// The processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    /// The user that the gate runs as when Sluice is started as root. `nobody`: it owns nothing.
    pub user: String,
}

impl Default for Process {
    fn default() -> Self {
        Self { user: "nobody".into() }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, holds an unknown key, or contradicts itself. The message has the
    /// file's name and, for what TOML can place, the line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = Self::parse(&text, &path.display().to_string())?;
        config.resolve_paths(path.parent().unwrap_or(Path::new(".")));
        Ok(config)
    }

    /// Parses and checks a text; `name` stands for the file in messages.
    ///
    /// # Errors
    /// As [`Config::load`], except for reading.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { name: name.into(), source: Box::new(source) })?;
        config.check(name)?;
        Ok(config)
    }

    /// The short form: one listener, one backend server, everything else by default.
    #[must_use]
    pub fn short(listen: Vec<SocketAddr>, servers: Vec<SocketAddr>) -> Self {
        Self {
            listeners: listen.into_iter().map(|bind| Listener { bind, tls: None }).collect(),
            routes: vec![Route {
                host: None,
                path: defaults::path(),
                origins: defaults::origins(),
                no_origin: NoOrigin::default(),
                backend: "default".into(),
            }],
            backends: vec![Backend { name: "default".into(), servers, tls: None }],
            ..Self::default()
        }
    }

    fn resolve_paths(&mut self, folder: &Path) {
        for tls in self.listeners.iter_mut().filter_map(|listener| listener.tls.as_mut()) {
            tls.certificate = folder.join(&tls.certificate);
            tls.key = folder.join(&tls.key);
        }
        for tls in self.backends.iter_mut().filter_map(|backend| backend.tls.as_mut()) {
            for file in [&mut tls.ca, &mut tls.certificate, &mut tls.key].into_iter().flatten() {
                *file = folder.join(&*file);
            }
        }
    }
}

mod defaults {
    use super::OriginRule;

    pub(super) fn path() -> String {
        "/".into()
    }

    pub(super) fn origins() -> Vec<OriginRule> {
        vec![OriginRule::SameOrigin]
    }
}

/// Durations as people write them: `"10s"`, `"1m 30s"`, `"500ms"`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn parse<E: Error>(text: &str) -> Result<Duration, E> {
        let duration = humantime::parse_duration(text)
            .map_err(|error| E::custom(format!("{text:?} is no duration such as \"10s\" or \"2m\": {error}")))?;
        if duration.is_zero() {
            return Err(E::custom("a duration of zero would refuse everything"));
        }
        Ok(duration)
    }

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        parse(&String::deserialize(from)?)
    }
}

/// As [`duration`], and `"off"`.
mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::duration::serialize(value, to),
            None => to.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(from)?;
        if text == "off" { Ok(None) } else { super::duration::parse(&text).map(Some) }
    }
}
