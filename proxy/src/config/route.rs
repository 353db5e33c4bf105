//! Which requests may enter, and where they go.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::{self, Bound};
use super::matching::short_or_whole;
use super::schema::{ShortOr, Span};
use super::{Condition, HandshakeRate, HeaderEdits, OriginRule, PathRule, Peers, Rewrite, RoutePerClient, Texts};

/// One route. Of the routes that a request fits, the first in this order serves it: the higher `priority`; the exact
/// host before the wildcard (a longer one first) before none; the exact path before the pattern before the prefix (a
/// longer one first); more conditions (`headers`, `query`, `methods`) before fewer; the one that is written first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The Host that it serves: a name, `*.example.com` for every name below, or a list of such; none: every host.
    #[serde(default, deserialize_with = "short_or_whole")]
    #[schemars(with = "ShortOr<Texts>")]
    pub host: Texts,
    /// The path that it serves: a prefix, cut at `/`, as in `"/chat"`; `{ exact = "/chat" }`; or
    /// `{ pattern = "/rooms/[0-9]+" }`. `/`: every path.
    #[serde(default = "defaults::path", deserialize_with = "short_or_whole")]
    #[schemars(with = "ShortOr<PathRule>")]
    pub path: PathRule,
    /// Whether its backend takes letters of either case in a path for the same, as Express does. `true`: so does this
    /// route. `false`: the backend does not, so `/Admin` is no way to `/admin`. None: it is not known. Then a request that
    /// differs from this path by case only goes to whatever route serves it as it is written, but is refused if this
    /// route asks more of a client.
    #[serde(default)]
    pub case_insensitive: Option<bool>,
    /// Conditions on header fields, as `{ name = "x-client", value = "app" }`; all must hold. None: any header will do.
    #[serde(default)]
    pub headers: Vec<Condition>,
    /// Conditions on the query's parameters, as `{ name = "v", prefix = "2." }`; all must hold. None: any query will
    /// do.
    #[serde(default)]
    pub query: Vec<Condition>,
    /// The request methods that it serves; none: all. A WebSocket handshake is a GET.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Routes with a higher number are tried first, however specific the others are. 0: most configurations need none,
    /// since the more specific route wins.
    #[serde(default)]
    pub priority: i32,
    /// Another path for the backend. None: it gets the path as the client sent it.
    #[serde(default)]
    pub rewrite: Option<Rewrite>,
    /// Changes of the request's header fields, after everything else. None: it passes as docs/routes.md says.
    #[serde(default)]
    pub request_headers: HeaderEdits,
    /// Changes of the header fields of the backend's answers, after everything else. Sluice's own answers (errors) are
    /// not changed: what they say of themselves must be true. None: they pass as they are.
    #[serde(default)]
    pub response_headers: HeaderEdits,
    /// Which values of Origin may enter. `["same-origin"]`: no page of another site can use a visitor's cookies.
    #[serde(default = "defaults::origins")]
    pub origins: Vec<OriginRule>,
    /// The same for plain HTTP (`http = "forward"`) alone: a sign-in (OpenID Connect, SAML) may come back as a form from
    /// another site's page. None: `origins`.
    #[serde(default)]
    pub http_origins: Option<Vec<OriginRule>>,
    /// What becomes of clients that send no Origin: programs, not browsers.
    #[serde(default)]
    pub no_origin: NoOrigin,
    /// The only clients that it serves, written as in `access.allow`; others are refused with 403. None: everybody who is
    /// not in `deny`.
    #[serde(default)]
    pub allow: Vec<Peers>,
    /// Clients that it does not serve, also if they are in `allow`. None: nobody.
    #[serde(default)]
    pub deny: Vec<Peers>,
    /// The `name`s of the [[auth]] by which clients may enter: any one of them is enough. They are tried in this order,
    /// and who shows nothing is told what the first one wants. It holds for WebSocket handshakes and plain HTTP alike.
    /// None: every client may enter.
    #[serde(default)]
    pub auth: Vec<String>,
    /// What becomes of requests that are no WebSocket handshake.
    #[serde(default)]
    pub http: HttpMode,
    /// The `name` of the backend that gets the requests.
    pub backend: String,
    /// Time limits of the handshake, instead of those in `[timeouts]`.
    #[serde(default)]
    pub timeouts: RouteTimeouts,
    /// How much of Sluice this route may take.
    #[serde(default)]
    pub limits: RouteLimits,
    /// Time limits of established connections, instead of those in `[relay]`.
    #[serde(default)]
    pub relay: RouteRelay,
}

impl Route {
    /// What messages call it; `index` is its place in the list.
    #[must_use]
    pub fn label(&self, index: usize) -> String {
        let (number, path) = (index + 1, self.path.to_string());
        match self.host.0.as_slice() {
            [] => format!("[[route]] {number} (path {path:?})"),
            hosts => format!("[[route]] {number} (host {}, path {path:?})", hosts.join(", ")),
        }
    }
}

impl Default for Route {
    /// Everything, to the backend called `default`.
    fn default() -> Self {
        Self {
            host: Texts::default(),
            path: defaults::path(),
            case_insensitive: None,
            headers: Vec::new(),
            query: Vec::new(),
            methods: Vec::new(),
            priority: 0,
            rewrite: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            origins: defaults::origins(),
            http_origins: None,
            no_origin: NoOrigin::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            auth: Vec::new(),
            http: HttpMode::default(),
            backend: "default".into(),
            timeouts: RouteTimeouts::default(),
            limits: RouteLimits::default(),
            relay: RouteRelay::default(),
        }
    }
}

/// What becomes of requests that are no WebSocket handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoOrigin {
    /// They enter. The default: browsers always send Origin with a WebSocket handshake (RFC 6455 §4.1), so
    /// nothing is gained against cross-site hijacking by refusing programs.
    #[default]
    Allow,
    /// They are refused.
    Deny,
}

/// Time limits of one route's handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeouts {
    /// One TCP connect to one backend server, and as much again for its TLS handshake. None: `timeouts.dial`.
    #[serde(with = "duration::maybe")]
    #[schemars(with = "Option<Span>")]
    pub dial: Option<Duration>,
    /// From the request sent to the backend to its complete response head. None: `timeouts.response`. It ends with
    /// `handshake` at the latest.
    #[serde(with = "duration::maybe")]
    #[schemars(with = "Option<Span>")]
    pub response: Option<Duration>,
    /// From accept to the end of the handshake. None: `timeouts.handshake`. (The request head's own limit,
    /// `timeouts.head`, cannot depend on the route, which is chosen by the head.)
    #[serde(with = "duration::maybe")]
    #[schemars(with = "Option<Span>")]
    pub handshake: Option<Duration>,
    /// From the last byte of a plain HTTP request to the head of the answer. None: `timeouts.http_response`.
    #[serde(with = "duration::maybe")]
    #[schemars(with = "Option<Span>")]
    pub http_response: Option<Duration>,
}

/// How much of Sluice one route may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteLimits {
    /// Connections at one time, those in their handshake included; one more is answered with 503 and Retry-After. 0:
    /// as many as `limits.connections` allows.
    #[schemars(extend("x-unit" = "connections"))]
    pub connections: u32,
    /// The rate of this route's handshakes; what is beyond it is refused with 503 and Retry-After. None: any rate.
    pub handshakes: Option<HandshakeRate>,
    /// What one client may take of this route.
    pub per_client: RoutePerClient,
}

/// Time limits of one route's established connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteRelay {
    /// A pair with no byte in either direction for this long is closed; `"off"`: never. None: `relay.idle_timeout`.
    pub idle_timeout: Option<Bound>,
    /// A pair this old is closed; `"off"`: never. None: `relay.max_lifetime`.
    pub max_lifetime: Option<Bound>,
}

pub(super) mod defaults {
    use crate::config::{OriginRule, PathRule};

    pub(in crate::config) fn path() -> PathRule {
        PathRule::Prefix("/".into())
    }

    pub(in crate::config) fn origins() -> Vec<OriginRule> {
        vec![OriginRule::SameOrigin]
    }
}
