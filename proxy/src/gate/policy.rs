//! Who may go where: routes by host and path, and which origins they admit. Pure.

use crate::config::{Config, HttpMode, NoOrigin, Origin, OriginRule, Route};

use super::handshake::{Caller, Opening, Plain, PlainPath};
use super::refusal::Refusal;

/// The routes, in the order in which they are tried.
pub(super) struct Routes {
    entries: Vec<Entry>,
}

struct Entry {
    /// The index in the configuration.
    index: u16,
    /// The index of the backend in the configuration.
    backend: u16,
    host: HostRule,
    path: PlainPath,
    origins: Vec<OriginRule>,
    no_origin: NoOrigin,
    http: HttpMode,
}

enum HostRule {
    Exact(String),
    /// With its leading dot.
    Below(String),
    Any,
}

/// A route that admits a request, and its backend: indices into the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) route: u16,
    pub(super) backend: u16,
}

impl HostRule {
    fn read(host: Option<&str>) -> Self {
        let host = host.map(str::to_ascii_lowercase);
        match host {
            None => Self::Any,
            Some(host) => match host.strip_prefix('*') {
                Some(below) if below.starts_with('.') => Self::Below(below.to_owned()),
                _ => Self::Exact(host),
            },
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(suffix) => is_below(host, suffix),
            Self::Any => true,
        }
    }

    /// Exact before wildcard before any; of two wildcards the longer.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Below(suffix) => (1, suffix.len()),
            Self::Any => (0, 0),
        }
    }
}

/// Whether a name ends in the suffix (with its leading dot) and has a label before it.
fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && !label.ends_with('.'))
}

impl Routes {
    /// Sorts the configured routes by how specific they are.
    ///
    /// # Errors
    /// A route's path or backend that the configuration's own check should have refused.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let mut entries = config
            .routes
            .iter()
            .enumerate()
            .map(|(index, route)| entry(config, index, route))
            .collect::<anyhow::Result<Vec<Entry>>>()?;
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.host.rank(), entry.path.len())));
        Ok(Self { entries })
    }

    /// Which way a WebSocket handshake goes.
    ///
    /// # Errors
    /// No route serves it, or the route does not admit the page it comes from.
    pub(super) fn admit(&self, opening: &Opening) -> Result<Way, Refusal> {
        let entry = self.find(&opening.host, &opening.path).ok_or(Refusal::NoRoute)?;
        entry.admits(&opening.caller, &opening.own_origin, entry.no_origin)?;
        Ok(entry.way())
    }

    /// Which way a plain HTTP request goes; `None` if none that serves it takes plain HTTP.
    ///
    /// # Errors
    /// The route does not admit the page it comes from.
    pub(super) fn admit_plain(&self, plain: &Plain) -> Result<Option<Way>, Refusal> {
        let Some(entry) = self.find(&plain.host, &plain.path).filter(|entry| entry.http == HttpMode::Forward) else {
            return Ok(None);
        };
        entry.admits(&plain.caller, &plain.own_origin, NoOrigin::Allow)?;
        Ok(Some(entry.way()))
    }

    /// Whether any route takes plain HTTP.
    pub(super) fn take_plain(&self) -> bool {
        self.entries.iter().any(|entry| entry.http == HttpMode::Forward)
    }

    fn find(&self, host: &str, path: &PlainPath) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.host.matches(host) && path.is_below(&entry.path))
    }
}

fn entry(config: &Config, index: usize, route: &Route) -> anyhow::Result<Entry> {
    let path = PlainPath::read(&route.path)
        .ok_or_else(|| anyhow::anyhow!("route path {:?} is not a plain path: it has a dot segment", route.path))?;
    let backend = config.backends.iter().position(|backend| backend.name == route.backend);
    let backend = backend.ok_or_else(|| anyhow::anyhow!("backend {:?} is not defined", route.backend))?;
    Ok(Entry {
        index: u16::try_from(index)?,
        backend: u16::try_from(backend)?,
        host: HostRule::read(route.host.as_deref()),
        path,
        origins: route.origins.clone(),
        no_origin: route.no_origin,
        http: route.http,
    })
}

impl Entry {
    fn way(&self) -> Way {
        Way { route: self.index, backend: self.backend }
    }

    fn admits(&self, caller: &Caller, own: &Origin, no_origin: NoOrigin) -> Result<(), Refusal> {
        match (caller, no_origin) {
            (Caller::None, NoOrigin::Allow) => Ok(()),
            (Caller::None, NoOrigin::Deny) => Err(Refusal::OriginMissing),
            // Sandboxed pages of anybody are `null`: to admit it would be to admit everybody.
            (Caller::Opaque, _) => Err(Refusal::OriginDenied),
            (Caller::Origin(origin), _) => {
                let admitted = self.origins.iter().any(|rule| matches(rule, origin, own));
                if admitted { Ok(()) } else { Err(Refusal::OriginDenied) }
            }
        }
    }
}

fn matches(rule: &OriginRule, origin: &Origin, own: &Origin) -> bool {
    match rule {
        OriginRule::SameOrigin => origin == own,
        OriginRule::Exact(text) => origin.to_string() == *text,
        OriginRule::Below { scheme, suffix, port } => {
            origin.scheme == *scheme && origin.port == *port && is_below(&origin.host, suffix)
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
