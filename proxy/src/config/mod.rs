//! The configuration: what a person writes in TOML, checked as a whole before anything starts.
//!
//! Unknown keys are refused with their line. Every default says why it is what it is.

mod address;
mod backend;
mod check;
mod duration;
mod limits;
mod listener;
mod origin;
mod proxy_protocol;
mod relay;
mod route;
mod tls;

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use address::{Address, AddressError};
pub use backend::{Backend, BackendTls};
pub use check::ConfigError;
pub use limits::{Limits, Timeouts};
pub use listener::{ClientAuth, ClientAuthMode, Listener, NamedCertificate, SocketMode, Tls};
pub use origin::{Origin, OriginRule, OriginRuleError, split as split_origin, split_authority};
pub use proxy_protocol::{ProxyProtocol, ProxySource, SendProxy};
pub use relay::{EngineChoice, Relay, TlsEngineChoice};
pub use route::{NoOrigin, Route};
pub use tls::{TlsChoice, TlsPolicy, TlsVersion};

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
    pub fn short(listen: Vec<Address>, servers: Vec<Address>) -> Self {
        Self {
            listeners: listen.into_iter().map(Listener::at).collect(),
            routes: vec![Route {
                host: None,
                path: route::defaults::path(),
                origins: route::defaults::origins(),
                no_origin: NoOrigin::default(),
                backend: "default".into(),
            }],
            backends: vec![Backend { name: "default".into(), servers, tls: None, send_proxy: None }],
            ..Self::default()
        }
    }

    fn resolve_paths(&mut self, folder: &Path) {
        for listener in &mut self.listeners {
            listener.bind.resolve(folder);
            for file in listener.tls.iter_mut().flat_map(Tls::files_mut) {
                *file = folder.join(&*file);
            }
        }
        for backend in &mut self.backends {
            for server in &mut backend.servers {
                server.resolve(folder);
            }
            let tls = backend.tls.iter_mut();
            for file in tls.flat_map(|tls| [&mut tls.ca, &mut tls.certificate, &mut tls.key]).flatten() {
                *file = folder.join(&*file);
            }
        }
    }
}
