//! Who may go where: which route serves a request, and which origins it admits. Pure.

mod condition;
mod doubts;
mod edits;
mod host;
mod lenient;
mod origin;
mod path;
mod readings;
mod rewrite;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

use self::condition::{OnHeader, OnQuery};
pub(super) use self::condition::{form, parameters};
pub(super) use self::doubts::doubts;
use self::edits::Of;
pub(super) use self::edits::{Edits, free_name};
use self::host::HostRule;
pub(super) use self::lenient::Asker;
use self::path::PathRule;
use self::rewrite::Rewrite;
use super::handshake::{Caller, PlainPath, Target, is_below};
use super::refusal::Refusal;
use crate::config::{Access, Condition, Config, HttpMode, NoOrigin, Origin, OriginRule, Route};

/// The routes, in the order in which they are tried.
pub(super) struct Routes {
    /// A route with several hosts is here once for each.
    entries: Vec<(HostRule, Arc<Rule>)>,
    /// Whether a route has conditions on the query, which else need not be read.
    queried: bool,
    /// Whether a route takes plain HTTP.
    take_plain: bool,
    /// Whether it depends on its method who may send a request.
    by_method: bool,
    /// Those that routes name.
    methods: Vec<Method>,
}

/// What routes look at: the same for a WebSocket handshake and for any other request.
pub(super) struct Subject<'a> {
    pub(super) method: &'a Method,
    /// In lower case, without its port.
    pub(super) host: &'a str,
    pub(super) path: &'a PlainPath,
    /// As it was sent.
    pub(super) query: Option<&'a str>,
    /// As they were sent.
    pub(super) headers: &'a HeaderMap,
}

/// A route, ready for use.
pub(super) struct Rule {
    pub(super) way: Way,
    /// The ways to enter it, as indices into the configuration; none: it is open.
    pub(super) auth: Vec<u16>,
    /// Changes of the request for the backend.
    pub(super) request_edits: Edits,
    /// Changes of what the backend answers.
    pub(super) response_edits: Edits,
    priority: i32,
    methods: Vec<Method>,
    path: PathRule,
    headers: Vec<OnHeader>,
    query: Vec<OnQuery>,
    rewrite: Option<Rewrite>,
    origins: Vec<OriginRule>,
    http_origins: Option<Vec<OriginRule>>,
    no_origin: NoOrigin,
    access: Access,
    http: HttpMode,
}

/// A route and its backend: indices into the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) route: u16,
    pub(super) backend: u16,
}

impl<'a> Subject<'a> {
    /// That of a request whose target has been read.
    pub(super) fn new(head: &'a Parts, target: &'a Target) -> Self {
        let (method, headers, query) = (&head.method, &head.headers, head.uri.query());
        Self { method, host: &target.host, path: &target.path, query, headers }
    }
}

impl Routes {
    /// Sorts the configured routes by the order in which they are tried ([`Route`] says which).
    ///
    /// # Errors
    /// A route that cannot work: a host, path, header name or rewrite that is none, or two routes for the same requests.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let mut entries = Vec::new();
        for (index, route) in config.routes.iter().enumerate() {
            let what = || route.label(index);
            let rule = Arc::new(rule(config, index, route).with_context(what)?);
            for host in hosts(route).with_context(what)? {
                entries.push((host, rule.clone()));
            }
        }
        all_different(config, &entries)?;
        // Stable: of two that are equally specific, the one that is written first.
        entries.sort_by_key(|(host, rule)| Reverse((rule.priority, host.rank(), rule.path.rank(), rule.conditions())));
        let queried = entries.iter().any(|(_, rule)| !rule.query.is_empty());
        let take_plain = entries.iter().any(|(_, rule)| rule.http == HttpMode::Forward);
        let rules = || entries.iter().map(|(_, rule)| rule);
        let by_method = rules().any(|rule| rule.guards()) && rules().any(|rule| !rule.methods.is_empty());
        let methods = rules().flat_map(|rule| &rule.methods).cloned().collect();
        Ok(Self { entries, queried, take_plain, by_method, methods })
    }

    /// Whether any route takes plain HTTP.
    pub(super) fn take_plain(&self) -> bool {
        self.take_plain
    }

    /// Which route serves a request.
    ///
    /// # Errors
    /// [`Refusal::NoRoute`].
    pub(super) fn find(&self, subject: &Subject<'_>) -> Result<&Arc<Rule>, Refusal> {
        let query = subject.query.filter(|_| self.queried).map(parameters).unwrap_or_default();
        let serves = |(host, rule): &&(HostRule, Arc<Rule>)| host.matches(subject.host) && rule.serves(subject, &query);
        self.entries.iter().find(serves).map(|(_, rule)| rule).ok_or(Refusal::NoRoute)
    }
}

/// Two routes for exactly the same requests: whichever is tried first, the other serves nothing.
fn all_different(config: &Config, entries: &[(HostRule, Arc<Rule>)]) -> anyhow::Result<()> {
    let mut seen = HashMap::new();
    for (host, rule) in entries {
        let Some(route) = config.routes.get(usize::from(rule.way.route)) else { continue };
        let (mut headers, mut query) = (route.headers.clone(), route.query.clone());
        headers.iter_mut().for_each(|condition| condition.name.make_ascii_lowercase());
        [&mut headers, &mut query].into_iter().for_each(|list| list.sort_by_key(|condition| format!("{condition:?}")));
        let mut methods: Vec<&str> = rule.methods.iter().map(Method::as_str).collect();
        methods.sort_unstable();
        let conditions = format!("{headers:?} {query:?} {methods:?}");
        if let Some(other) = seen.insert((host.clone(), rule.path.key(), conditions), rule.way.route) {
            let label = route.label(rule.way.route.into());
            anyhow::ensure!(other != rule.way.route, "{label} names a host twice");
            anyhow::bail!(
                "{label} and [[route]] {}: two routes serve the same requests, and one would never",
                other + 1
            );
        }
    }
    Ok(())
}

fn hosts(route: &Route) -> anyhow::Result<Vec<HostRule>> {
    if route.host.0.is_empty() {
        return Ok(vec![HostRule::Any]);
    }
    let read = |host: &String| HostRule::read(host).map_err(|why| anyhow::anyhow!("its host {host:?}: {why}"));
    route.host.0.iter().map(read).collect()
}

fn rule(config: &Config, index: usize, route: &Route) -> anyhow::Result<Rule> {
    let backend = config.backends.iter().position(|backend| backend.name == route.backend);
    let backend = backend.with_context(|| format!("backend {:?} is not defined", route.backend))?;
    let path = PathRule::read(&route.path, route.case_insensitive)?;
    let method = |text: &String| {
        let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| !text.bytes().any(|b| b.is_ascii_lowercase()));
        method.with_context(|| format!("methods: {text:?} is no method; they are written as in \"GET\""))
    };
    let rewrite = route.rewrite.as_ref().map(|rewrite| Rewrite::read(rewrite, &path)).transpose()?;
    fn list<T>(conditions: &[Condition], read: fn(&Condition) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
        conditions.iter().map(read).collect()
    }
    let known = |name: &String| config.auth.iter().position(|auth| auth.name == *name);
    let auth = |name: &String| {
        let place = known(name).with_context(|| format!("[[auth]] {name:?} is not defined"))?;
        anyhow::Ok(u16::try_from(place)?)
    };
    Ok(Rule {
        auth: route.auth.iter().map(auth).collect::<anyhow::Result<_>>()?,
        way: Way { route: u16::try_from(index)?, backend: u16::try_from(backend)? },
        request_edits: Edits::read(&route.request_headers, Of::Request).context("request_headers")?,
        response_edits: Edits::read(&route.response_headers, Of::Response).context("response_headers")?,
        priority: route.priority,
        methods: route.methods.iter().map(method).collect::<anyhow::Result<_>>()?,
        headers: list(&route.headers, OnHeader::read).context("headers")?,
        query: list(&route.query, OnQuery::read).context("query")?,
        path,
        rewrite,
        origins: route.origins.clone(),
        http_origins: route.http_origins.clone(),
        no_origin: route.no_origin,
        access: Access { allow: route.allow.clone(), deny: route.deny.clone() },
        http: route.http,
    })
}

impl Rule {
    fn serves(&self, subject: &Subject<'_>, query: &[(Vec<u8>, Vec<u8>)]) -> bool {
        self.path.matches(subject.path.bytes()) && self.takes(subject.method) && self.meets(subject, query)
    }

    fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    fn meets(&self, subject: &Subject<'_>, query: &[(Vec<u8>, Vec<u8>)]) -> bool {
        self.headers.iter().all(|condition| condition.holds(subject.headers))
            && self.query.iter().all(|condition| condition.holds(query))
    }

    /// How many conditions a request must meet beside its host and path.
    fn conditions(&self) -> usize {
        self.headers.len() + self.query.len() + usize::from(!self.methods.is_empty())
    }

    /// Whether a client with this address may enter. `None`: one without an address.
    ///
    /// # Errors
    /// [`Refusal::AddressDenied`].
    pub(super) fn admit_client(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        if self.access.admits(address) { Ok(()) } else { Err(Refusal::AddressDenied) }
    }

    /// Whether a page may open a WebSocket to a server of the origin `own`, or else send it a plain HTTP request.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn admit_page(&self, caller: &Caller, own: &Origin, handshake: bool) -> Result<(), Refusal> {
        let no_origin = if handshake { self.no_origin } else { NoOrigin::Allow };
        origin::admit(self.origins(handshake), no_origin, caller, own)
    }

    /// The origins that may open WebSockets, or else send plain HTTP requests.
    fn origins(&self, handshake: bool) -> &[OriginRule] {
        if handshake { &self.origins } else { self.http_origins.as_deref().unwrap_or(&self.origins) }
    }

    /// Whether it names this very page, and so trusts it with answers to requests that have a visitor's cookies.
    pub(super) fn names_page(&self, caller: &Caller, own: &Origin, handshake: bool) -> bool {
        origin::is_named(self.origins(handshake), caller, own)
    }

    /// Whether it takes plain HTTP.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn admit_plain(&self) -> Result<(), Refusal> {
        if self.http == HttpMode::Forward { Ok(()) } else { Err(Refusal::NotWebSocket) }
    }

    /// The target for the backend of a request that this route serves; `path` is the plain form of its path.
    ///
    /// # Errors
    /// [`Refusal::Path`] if what the route makes of it is no plain path.
    pub(super) fn target(&self, target: &PathAndQuery, path: &PlainPath) -> Result<PathAndQuery, Refusal> {
        match &self.rewrite {
            None => Ok(target.clone()),
            Some(rewrite) => rewrite.target(target, path).ok_or(Refusal::Path),
        }
    }
}

#[cfg(test)]
mod tests;
