//! Which paths a route serves.

use regex::bytes::Regex;

use crate::config;
use crate::gate::handshake::{PlainPath, is_below, is_same};

/// The paths of a route.
#[derive(Debug)]
pub(super) struct PathRule {
    pub(super) shape: Shape,
    /// Whether its backend takes letters of either case for the same. `None`: it is not known.
    any_case: Option<bool>,
}

/// What they look like.
#[derive(Debug)]
pub(super) enum Shape {
    Exact(PlainPath),
    /// As it is configured, and in any case.
    Pattern(Regex, Regex),
    /// As it is written, and in its plain form.
    Prefix(String, PlainPath),
}

impl PathRule {
    /// Reads what is configured.
    ///
    /// # Errors
    /// A path that is not plain.
    pub(super) fn read(rule: &config::PathRule, any_case: Option<bool>) -> anyhow::Result<Self> {
        let plain = |path: &str| {
            let why = "it has a dot segment, a control byte or broken percent-encoding";
            PlainPath::read(path).ok_or_else(|| anyhow::anyhow!("{path:?} is not a plain path: {why}"))
        };
        let shape = match rule {
            config::PathRule::Exact(path) => Shape::Exact(plain(path)?),
            config::PathRule::Prefix(path) => Shape::Prefix(path.clone(), plain(path)?),
            config::PathRule::Pattern(pattern) => {
                Shape::Pattern(pattern.compile(any_case == Some(true))?, pattern.compile(true)?)
            }
        };
        Ok(Self { shape, any_case })
    }

    /// Whether it serves a path in its plain form.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.fits(path, self.any_case == Some(true))
    }

    /// Whether a backend may take a path for one of these.
    pub(super) fn may_match(&self, path: &[u8]) -> bool {
        self.fits(path, self.any_case != Some(false))
    }

    fn fits(&self, path: &[u8], any_case: bool) -> bool {
        match &self.shape {
            Shape::Exact(exact) => is_same(path, exact.bytes(), any_case),
            Shape::Pattern(strict, loose) => if any_case { loose } else { strict }.is_match(path),
            Shape::Prefix(_, prefix) => is_below(path, prefix.bytes(), any_case),
        }
    }

    /// Whether the configuration has this very path: whoever asks for it means it.
    pub(super) fn is_written(&self, path: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact(written) | Shape::Prefix(_, written) => written.bytes() == path,
            Shape::Pattern(..) => false,
        }
    }

    /// Exact before pattern before prefix; of two prefixes the longer.
    pub(super) fn rank(&self) -> (u8, usize) {
        match &self.shape {
            Shape::Exact(_) => (2, 0),
            Shape::Pattern(..) => (1, 0),
            Shape::Prefix(_, prefix) => (0, prefix.bytes().len()),
        }
    }

    /// What is the same for rules that serve the same paths.
    pub(super) fn key(&self) -> (u8, Vec<u8>) {
        let (kind, mut bytes) = match &self.shape {
            Shape::Exact(path) => (2, path.bytes().to_vec()),
            // With its flags.
            Shape::Pattern(strict, _) => return (1, format!("{:?} {}", self.any_case, strict.as_str()).into_bytes()),
            Shape::Prefix(_, prefix) => (0, prefix.bytes().to_vec()),
        };
        if self.any_case == Some(true) {
            bytes.make_ascii_lowercase();
        }
        (kind, bytes)
    }
}
