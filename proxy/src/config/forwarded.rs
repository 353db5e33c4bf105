//! Proxies in front of Sluice, and what backends are told of clients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Peers;

/// Who a client is, when other proxies stand before Sluice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Forwarded {
    /// The networks of the proxies in front, as `"10.0.0.0/8"` or `"2001:db8::1"`, and `"unix"` for those that connect
    /// to a Unix socket. What they say of a client's address, scheme and host is believed; what anybody else says is
    /// removed. None: whoever connects is the client.
    pub trusted: Vec<Peers>,
    /// Which header those proxies write. The other one is then a stranger's claim, and removed. `"x-forwarded"`: it is
    /// what nearly all proxies write by default.
    pub read: ForwardedHeader,
    /// Which headers backends get. `["x-forwarded"]`: it is what nearly all applications read; `[]`: none.
    pub send: Vec<ForwardedHeader>,
    /// Header fields of requests that pass though they are removed by default: `Proxy`, `X-Original-URL` and
    /// `X-Rewrite-URL`, which some backends believe instead of what Sluice has judged; and all whose names have `_`, which
    /// some read as `-`. Fields that tell who a client is never pass this way. None: all of them are removed.
    pub keep: Vec<String>,
}

/// A way to write down whom a proxy serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host.
    #[default]
    XForwarded,
    /// Forwarded (RFC 7239).
    Forwarded,
}

impl Default for Forwarded {
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            read: ForwardedHeader::default(),
            send: vec![ForwardedHeader::default()],
            keep: Vec::new(),
        }
    }
}
