//! What a route changes in the requests and answers that pass.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Another path for the backend. The query is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rewrite {
    /// `true`: without the route's prefix: with `path = "/app"`, `/app/x` becomes `/x`. Only with a prefix.
    StripPrefix(bool),
    /// With this in the place of the route's prefix: with `path = "/app"` and `/v2`, `/app/x` becomes `/v2/x`. Only
    /// with a prefix.
    Prefix(String),
    /// This path. With a pattern, `$1` or `${1}` is what its first group has matched, `${name}` a named one, `$$` a
    /// dollar. Only with an exact path or a pattern.
    Replace(String),
}

/// Changes of header fields, made last: first `remove`, then `set`, then `add`. What HTTP itself or the WebSocket
/// handshake needs cannot be changed: hop-by-hop fields, Content-Length, Expect, Sec-WebSocket-*, Proxy-Status.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Fields that get this value, whatever they had. In a request also `host`, for backends that want their own.
    /// None: what passes is what was sent.
    pub set: BTreeMap<String, String>,
    /// Fields that are added to what there is of the same name. None.
    pub add: BTreeMap<String, String>,
    /// Names of fields that are taken away, however many there are. None.
    pub remove: Vec<String>,
}

impl fmt::Debug for HeaderEdits {
    /// Without the values, which may be passwords for a backend.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [set, add] = [&self.set, &self.add].map(|fields| fields.keys().collect::<Vec<_>>());
        f.debug_struct("HeaderEdits").field("set", &set).field("add", &add).field("remove", &self.remove).finish()
    }
}
