//! The configuration: what a person writes in TOML, checked as a whole before anything starts.
//!
//! Unknown keys are refused with their line. Every default says why it is what it is.

mod access;
mod address;
mod auth;
mod backend;
mod balance;
mod change;
mod check;
mod dns;
mod doubts;
mod duration;
mod error;
mod error_page;
mod expand;
mod forwarded;
mod health;
mod include;
mod limits;
mod listener;
mod load;
mod matching;
mod origin;
mod proxy_protocol;
mod rates;
#[cfg(test)]
mod reference;
mod relay;
mod route;
mod schema;
#[cfg(test)]
mod schema_check;
#[cfg(test)]
mod schema_tests;
mod server;
mod text;
mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use access::{Access, Peers};
pub use address::{Address, AddressError};
pub use auth::{Auth, AuthApiKey, AuthBasic, AuthForward, AuthJwt, AuthSource, JwtAlgorithm};
pub use backend::{Backend, BackendTls, HeaderCase, Queue, SameSite, Sticky};
pub use balance::{Balance, HashOn};
pub use change::{HeaderEdits, Rewrite};
pub use dns::Dns;
pub use duration::Bound;
pub use error::ConfigError;
pub use error_page::{ERROR_BODIES, ErrorPage};
pub use expand::Hidden;
pub use forwarded::{Forwarded, ForwardedHeader};
pub use health::{Check, CheckKind, Ejection, Share, Statuses};
pub use limits::{Limits, Timeouts};
pub use listener::{ClientAuth, ClientAuthMode, Listener, NamedCertificate, SocketMode, Tls};
pub use matching::{Condition, PathRule, Pattern, Texts};
pub use origin::{HostOf, Origin, OriginRule, OriginRuleError, PortOf, split as split_origin, split_authority};
pub use proxy_protocol::{ProxyProtocol, SendProxy};
pub use rates::{HandshakeRate, PerClient, RoutePerClient};
pub use relay::{EngineChoice, Relay, TlsEngineChoice};
pub use route::{HttpMode, NoOrigin, Route, RouteLimits, RouteRelay, RouteTimeouts};
pub use server::{Server, ServerAddress};
pub use tls::{TlsChoice, TlsPolicy, TlsVersion};

/// The whole configuration.
// The schema asks for the three lists whose absence `check` would tell.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Configuration of Sluice", extend("required" = ["listener", "route", "backend"]))]
pub struct Config {
    /// Files that are read as if they stood behind this one, such as `conf.d/*.toml`: a `*` stands for a part of a
    /// file's name, and the files that fit come in the order of their names. Tables with `[[…]]` add to those that there
    /// are; one with `[…]` can be in one file only. Relative paths in all of them begin at this file's folder.
    #[serde(default)]
    pub include: Vec<String>,
    /// The address for `/metrics` and `/connections`. None: they are not served.
    #[serde(default)]
    pub admin: Option<Admin>,
    /// Where clients connect.
    #[serde(default, rename = "listener")]
    #[schemars(length(min = 1), extend("default" = null))]
    pub listeners: Vec<Listener>,
    /// Which requests go to which backend; the most specific route wins.
    #[serde(default, rename = "route")]
    #[schemars(length(min = 1), extend("default" = null))]
    pub routes: Vec<Route>,
    /// How clients show who they are, for the routes that ask for it. None: every client may use every route.
    #[serde(default)]
    pub auth: Vec<Auth>,
    /// Who is behind Sluice.
    #[serde(default, rename = "backend")]
    #[schemars(length(min = 1), extend("default" = null))]
    pub backends: Vec<Backend>,
    /// Proxies in front of Sluice, and what backends are told of clients.
    #[serde(default)]
    pub forwarded: Forwarded,
    /// How established connections are carried.
    #[serde(default)]
    pub relay: Relay,
    /// Time limits of everything before a connection is established.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What everything before an established connection may take.
    #[serde(default)]
    pub limits: Limits,
    /// Which clients may connect.
    #[serde(default)]
    pub access: Access,
    /// What Sluice says when it refuses. None: a line of plain text.
    #[serde(default, rename = "error")]
    pub errors: Vec<ErrorPage>,
    /// How names of servers are looked up.
    #[serde(default)]
    pub dns: Dns,
    /// The processes that Sluice is.
    #[serde(default)]
    pub process: Process,
    /// What `${…}` stands for in it.
    #[serde(skip)]
    pub hidden: Hidden,
}

/// The admin listener, in plain HTTP.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens. They show clients' addresses: let only operators reach it.
    #[schemars(with = "schema::SocketAddress")]
    pub listen: SocketAddr,
    /// The names by which it may be asked, as in `"sluice.internal"`, beside IP addresses and `localhost`. A Host with
    /// another name is refused with 421: else the page of a stranger, whose name's address is changed to this one, could
    /// read here with the browser of an operator (DNS rebinding). None: addresses and `localhost` only.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// The processes that Sluice is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    /// The user that the gate runs as when Sluice is started as root; else it keeps the user that started it. None:
    /// `sluice-gate`, if there is such a user, which whoever packages Sluice should make; else `nobody`, which owns nothing,
    /// but may be the user of other programs too.
    pub user: Option<String>,
}

/// The limits on an established pair's silence and age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// No byte in either direction for this long.
    pub idle: Option<Duration>,
    /// Established for this long.
    pub lifetime: Option<Duration>,
}

impl Config {
    /// The short form: one listener, one backend server, everything else by default.
    #[must_use]
    pub fn short(listen: Vec<Address>, servers: Vec<Address>) -> Self {
        Self {
            listeners: listen.into_iter().map(Listener::at).collect(),
            routes: vec![Route::default()],
            backends: vec![Backend::new("default".into(), servers)],
            ..Self::default()
        }
    }

    /// The time limits of a handshake on this route.
    #[must_use]
    pub fn timeouts(&self, route: u16) -> Timeouts {
        let (own, general) = (self.routes.get(usize::from(route)).map(|route| &route.timeouts), &self.timeouts);
        Timeouts {
            head: general.head,
            dial: own.and_then(|own| own.dial).unwrap_or(general.dial),
            response: own.and_then(|own| own.response).unwrap_or(general.response),
            handshake: own.and_then(|own| own.handshake).unwrap_or(general.handshake),
            http_response: own.and_then(|own| own.http_response).unwrap_or(general.http_response),
            keep_alive: general.keep_alive,
        }
    }

    /// The limits on silence and on age of an established pair of this route.
    #[must_use]
    pub fn ages(&self, route: u16) -> Ages {
        let own = self.routes.get(usize::from(route)).map(|route| &route.relay);
        let pick = |own: Option<Bound>, general| own.map_or(general, |Bound(limit)| limit);
        Ages {
            idle: pick(own.and_then(|own| own.idle_timeout), self.relay.idle_timeout),
            lifetime: pick(own.and_then(|own| own.max_lifetime), self.relay.max_lifetime),
        }
    }

    /// A server that the configuration lists with its address.
    #[must_use]
    pub fn server(&self, backend: u16, server: u16) -> Option<&Address> {
        self.backends.get(usize::from(backend))?.servers.get(usize::from(server))?.address.fixed()
    }

    fn resolve_paths(&mut self, folder: &Path) {
        for listener in &mut self.listeners {
            listener.bind.resolve(folder);
            for file in listener.tls.iter_mut().flat_map(Tls::files_mut) {
                *file = folder.join(&*file);
            }
        }
        for file in self.auth.iter_mut().flat_map(Auth::files_mut) {
            *file = folder.join(&*file);
        }
        for backend in &mut self.backends {
            backend.servers.iter_mut().for_each(|server| server.resolve(folder));
            for key in backend.sticky.iter_mut().flat_map(|sticky| &mut sticky.keys) {
                *key = folder.join(&*key);
            }
            let tls = backend.tls.iter_mut();
            for file in tls.flat_map(|tls| [&mut tls.ca, &mut tls.certificate, &mut tls.key]).flatten() {
                *file = folder.join(&*file);
            }
        }
    }
}
