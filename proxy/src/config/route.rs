//! Which requests may enter, and where they go.

use serde::{Deserialize, Serialize};

use super::OriginRule;

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
    /// What becomes of requests that are no WebSocket handshake.
    #[serde(default)]
    pub http: HttpMode,
    /// The name of the backend.
    pub backend: String,
}

/// What becomes of requests that are no WebSocket handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpMode {
    /// They are refused with 426. The default: what a backend serves beside its WebSockets is not published unasked.
    #[default]
    Reject,
    /// They go to the same backend: for libraries that begin with, or fall back to, plain requests (Socket.IO, SignalR,
    /// Phoenix). `origins` holds for them too, or it could be gone around; `no_origin` does not, since browsers send
    /// no Origin with most requests to the same origin.
    Forward,
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

pub(super) mod defaults {
    use crate::config::OriginRule;

    pub(in crate::config) fn path() -> String {
        "/".into()
    }

    pub(in crate::config) fn origins() -> Vec<OriginRule> {
        vec![OriginRule::SameOrigin]
    }
}
