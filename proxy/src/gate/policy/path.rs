//! Which paths a route serves.

use regex::bytes::Regex;

use crate::config;
use crate::gate::handshake::PlainPath;

/// The paths of a route.
#[derive(Debug)]
pub(super) enum PathRule {
    Exact(PlainPath),
    Pattern(Regex),
    /// As it is written, and in its plain form.
    Prefix(String, PlainPath),
}

impl PathRule {
    /// Reads what is configured.
    ///
    /// # Errors
    /// A path that is not plain.
    pub(super) fn read(rule: &config::PathRule) -> anyhow::Result<Self> {
        let plain = |path: &str| {
            let why = "it has a dot segment, a control byte or broken percent-encoding";
            PlainPath::read(path).ok_or_else(|| anyhow::anyhow!("{path:?} is not a plain path: {why}"))
        };
        Ok(match rule {
            config::PathRule::Exact(path) => Self::Exact(plain(path)?),
            config::PathRule::Prefix(path) => Self::Prefix(path.clone(), plain(path)?),
            config::PathRule::Pattern(pattern) => Self::Pattern(pattern.compile()?),
        })
    }

    pub(super) fn matches(&self, path: &PlainPath) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Pattern(pattern) => pattern.is_match(path.bytes()),
            Self::Prefix(_, prefix) => path.is_below(prefix),
        }
    }

    /// Exact before pattern before prefix; of two prefixes the longer.
    pub(super) fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Pattern(_) => (1, 0),
            Self::Prefix(_, prefix) => (0, prefix.bytes().len()),
        }
    }

    /// A text that is the same for rules that serve the same paths.
    pub(super) fn key(&self) -> (u8, &[u8]) {
        match self {
            Self::Exact(path) => (2, path.bytes()),
            Self::Pattern(pattern) => (1, pattern.as_str().as_bytes()),
            Self::Prefix(_, prefix) => (0, prefix.bytes()),
        }
    }
}
