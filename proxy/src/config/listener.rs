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
