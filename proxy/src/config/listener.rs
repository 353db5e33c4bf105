//! Where clients connect.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::WatchedFile;
use super::tls::{max_version, min_version};
use super::{Address, ProxyProtocol, TlsPolicy, TlsVersion};

/// One listening socket.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// An address and a port, or `unix:` and the path of a socket file. `[::]:443` takes IPv4 as well.
    pub bind: Address,
    /// With it, the listener speaks TLS, and nothing else. None: it does not; a balancer in front may.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Whether clients may speak HTTP/2: over TLS those that offer `h2` (ALPN), else those that begin with its preface
    /// (RFC 9113 §3.3). true: browsers that have an HTTP/2 connection open their WebSockets on it (RFC 8441). A
    /// WebSocket over HTTP/2 is carried in userspace; with `false`, every one has a connection of its own, which the
    /// kernel can carry.
    #[serde(default = "defaults::http2")]
    pub http2: bool,
    /// Connections that may wait to be accepted. 4096: what Linux allows by default (net.core.somaxconn, to which it
    /// cuts more); a burst of reconnecting clients is to wait and not to be turned away.
    #[serde(default = "defaults::backlog")]
    #[schemars(range(min = 1), extend("x-unit" = "connections"))]
    pub backlog: u32,
    /// Other processes of the same user may listen at the same address, and the kernel spreads connections over all
    /// (SO_REUSEPORT). false: a second Sluice that was started by mistake is told that the address is in use.
    #[serde(default)]
    pub reuse_port: bool,
    /// An IPv6 address takes no IPv4 (IPV6_V6ONLY). false: `[::]:443` is one listener for both.
    #[serde(default)]
    pub ipv6_only: bool,
    /// The permissions of a Unix socket's file, in octal; whoever may write to it may connect. `"0660"`: its owner and
    /// its group.
    #[serde(default)]
    pub mode: SocketMode,
    /// Whose connections begin with a PROXY header, which says who the client is. None: nobody's, since whoever may
    /// send one can claim any address.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Listener {
    /// A plain listener with every setting at its default.
    #[must_use]
    pub fn at(bind: Address) -> Self {
        Self {
            bind,
            tls: None,
            http2: defaults::http2(),
            backlog: defaults::backlog(),
            reuse_port: false,
            ipv6_only: false,
            mode: SocketMode::default(),
            proxy_protocol: None,
        }
    }
}

/// TLS of a listener. Relative paths start at the configuration file's folder. The keeper reads the files, so the
/// gate's user need not be able to; it looks once a second whether they have changed, and on SIGHUP.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain, leaf first: what clients get that ask for no name, or for one that
    /// no certificate is for.
    #[schemars(with = "WatchedFile")]
    pub certificate: PathBuf,
    /// PEM file with its private key, not encrypted.
    #[schemars(with = "WatchedFile")]
    pub key: PathBuf,
    /// More certificates, chosen by the name that the client asks for (SNI). None: every client gets the one above.
    #[serde(default)]
    pub certificates: Vec<NamedCertificate>,
    /// Certificates of clients. None: they are not asked for one, as few clients have any.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// The lowest TLS version. `"1.2"`: clients of some age speak no other.
    #[serde(default = "min_version")]
    pub min_version: TlsVersion,
    /// The highest TLS version. `"1.3"`: the newest there is.
    #[serde(default = "max_version")]
    pub max_version: TlsVersion,
    /// The cipher suites, by their names in IANA's registry; which of them is taken is the client's choice, which knows
    /// what its hardware is good at. None: all that are built in, of which none is weak.
    #[serde(default)]
    pub cipher_suites: Vec<String>,
    /// Clients may resume their session with a ticket instead of a whole handshake. true: a client that comes back
    /// saves a signature of ours and, with TLS 1.2, a round trip.
    #[serde(default = "defaults::session_tickets")]
    pub session_tickets: bool,
}

impl Tls {
    /// Its versions and cipher suites.
    #[must_use]
    pub fn policy(&self) -> TlsPolicy<'_> {
        TlsPolicy { min: self.min_version, max: self.max_version, suites: &self.cipher_suites }
    }

    /// Every certificate with its key and the names that are set for it, the default first.
    pub fn identities(&self) -> impl Iterator<Item = (&PathBuf, &PathBuf, &[String])> {
        let more = self.certificates.iter().map(|more| (&more.certificate, &more.key, more.names.as_slice()));
        std::iter::once((&self.certificate, &self.key, [].as_slice())).chain(more)
    }

    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let more = self.certificates.iter_mut().flat_map(|more| [&mut more.certificate, &mut more.key]);
        let ca = self.client_auth.iter_mut().map(|auth| &mut auth.ca);
        [&mut self.certificate, &mut self.key].into_iter().chain(more).chain(ca)
    }
}

/// One more certificate.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedCertificate {
    /// PEM file with the certificate and its chain, leaf first.
    #[schemars(with = "WatchedFile")]
    pub certificate: PathBuf,
    /// PEM file with its private key, not encrypted.
    #[schemars(with = "WatchedFile")]
    pub key: PathBuf,
    /// The names that it is shown for, `app.example.com` or `*.example.com` (which stands for one label, as in a
    /// certificate). None: the DNS names in the certificate itself. Of several certificates for one name the first is
    /// taken whose key can sign in a way that the client knows, so that an ECDSA and an RSA certificate can stand side
    /// by side.
    #[serde(default)]
    pub names: Vec<String>,
}

/// Certificates of clients.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// PEM file with the authorities whose certificates are taken.
    #[schemars(with = "WatchedFile")]
    pub ca: PathBuf,
    /// Whether a client needs one. `"required"`: who sets an authority means its clients alone.
    #[serde(default)]
    pub mode: ClientAuthMode,
}

/// Whether a client needs a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthMode {
    /// Without one there is no TLS session.
    #[default]
    Required,
    /// One that is shown must be good; the backend is told whether there was one.
    Optional,
}

/// Permissions, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketMode(pub u32);

impl Default for SocketMode {
    fn default() -> Self {
        Self(0o660)
    }
}

impl TryFrom<String> for SocketMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.map(Self).ok_or_else(|| format!("{text:?} are no permissions such as \"0660\""))
    }
}

impl From<SocketMode> for String {
    fn from(mode: SocketMode) -> Self {
        format!("{:04o}", mode.0)
    }
}

mod defaults {
    pub(super) fn http2() -> bool {
        true
    }

    pub(super) const fn backlog() -> u32 {
        4096
    }

    pub(super) const fn session_tickets() -> bool {
        true
    }
}
