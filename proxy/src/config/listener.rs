//! Where clients connect.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One listening socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port.
    pub bind: SocketAddr,
    /// With it, the listener speaks TLS.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Whether clients may speak HTTP/2: over TLS those that offer `h2` (ALPN), else those that begin with its preface
    /// (RFC 9113 §3.3). On: browsers that have an HTTP/2 connection open their WebSockets on it (RFC 8441). A WebSocket
    /// over HTTP/2 is carried in userspace; with `false`, every one has a connection of its own, which the kernel
    /// can carry.
    #[serde(default = "defaults::http2")]
    pub http2: bool,
}

pub(super) mod defaults {
    pub(in crate::config) fn http2() -> bool {
        true
    }
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
