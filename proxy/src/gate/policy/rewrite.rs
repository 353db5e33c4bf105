//! The path that the backend gets instead of the client's.

use anyhow::{Context as _, bail, ensure};
use http::uri::PathAndQuery;
use regex::bytes::Regex;

use super::path::{PathRule, Shape};
use crate::config;
use crate::gate::handshake::PlainPath;

/// How a path is rewritten.
#[derive(Debug)]
pub(super) enum Rewrite {
    /// Another prefix.
    Prefix {
        /// What the path must begin with to be cut where it is written.
        from: String,
        plain: PlainPath,
        to: String,
    },
    /// Another path.
    Replace {
        parts: Vec<Part>,
        /// Whose groups the parts name.
        pattern: Option<Regex>,
    },
}

/// A piece of a replacement.
#[derive(Debug)]
pub(super) enum Part {
    Text(String),
    /// What a group of the pattern has matched.
    Group(usize),
}

impl Rewrite {
    /// Reads what is configured.
    ///
    /// # Errors
    /// It does not belong to such a path rule, names a group that the pattern has not, or makes no plain path.
    pub(super) fn read(rewrite: &config::Rewrite, path: &PathRule) -> anyhow::Result<Self> {
        let to = match rewrite {
            config::Rewrite::StripPrefix(_) => "/",
            config::Rewrite::Prefix(to) | config::Rewrite::Replace(to) => to.as_str(),
        };
        let (made, example): (_, String) = match (rewrite, &path.shape) {
            (config::Rewrite::Replace(_), Shape::Pattern(pattern, _)) => {
                let parts = parts(to, pattern).with_context(|| format!("rewrite.replace {to:?}"))?;
                let example = parts.iter().map(Part::example).collect();
                (Self::Replace { parts, pattern: Some(pattern.clone()) }, example)
            }
            (config::Rewrite::Replace(_), Shape::Exact(_)) => {
                (Self::Replace { parts: vec![Part::Text(to.into())], pattern: None }, to.into())
            }
            (config::Rewrite::StripPrefix(_) | config::Rewrite::Prefix(_), Shape::Prefix(from, plain)) => {
                (Self::Prefix { from: from.clone(), plain: plain.clone(), to: to.into() }, to.into())
            }
            _ => bail!("this rewrite does not go with such a path"),
        };
        let plain = is_target(&example) && !example.contains(['?', '#']);
        ensure!(plain, "rewrite to {to:?} makes no plain path: it must begin with / and have neither ? nor # nor dots");
        Ok(made)
    }

    /// The target for the backend, with the query as it is. `None` if what comes out is no plain path.
    ///
    /// `path` is the plain form of the target's path, and the rewrite's path rule matches it.
    pub(super) fn target(&self, target: &PathAndQuery, path: &PlainPath) -> Option<PathAndQuery> {
        let made = match self {
            Self::Prefix { from, plain, to } => moved(target.path(), path, from, plain, to)?,
            Self::Replace { parts, pattern } => replaced(parts, pattern.as_ref(), path)?,
        };
        if !is_target(&made) {
            return None;
        }
        target.query().map_or_else(|| made.parse(), |query| format!("{made}?{query}").parse()).ok()
    }
}

impl Part {
    fn example(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Group(_) => "x",
        }
    }
}

/// Whether two servers read this target's path alike.
fn is_target(path: &str) -> bool {
    PlainPath::read(path).is_some() && path.parse::<PathAndQuery>().is_ok()
}

/// The path with another prefix. Behind a prefix that is written as the route's is, every byte stays as it is; behind
/// one that the client has written in another way (`/%61pp`, `//app`), the rest is written anew from its plain form.
fn moved(raw: &str, path: &PlainPath, from: &str, prefix: &PlainPath, to: &str) -> Option<String> {
    let cut = |rest: &&str| rest.is_empty() || rest.starts_with('/') || from.ends_with('/');
    let rest = match raw.strip_prefix(from).filter(cut) {
        Some(rest) => rest.to_owned(),
        // The rule has matched it, perhaps in another case.
        None => encoded(path.bytes().get(prefix.bytes().len()..)?),
    };
    if rest.is_empty() && !prefix.bytes().ends_with(b"/") {
        return Some(to.to_owned());
    }
    // One slash, so that nobody takes what follows for a host (`//evil.test`).
    Some(format!("{}/{}", to.trim_end_matches('/'), rest.trim_start_matches('/')))
}

fn replaced(parts: &[Part], pattern: Option<&Regex>, path: &PlainPath) -> Option<String> {
    let captures = match pattern {
        Some(pattern) => Some(pattern.captures(path.bytes())?),
        None => None,
    };
    let mut made = String::new();
    for part in parts {
        match part {
            Part::Text(text) => made.push_str(text),
            Part::Group(group) => {
                let matched = captures.as_ref().and_then(|captures| captures.get(*group));
                made.push_str(&encoded(matched.map(|matched| matched.as_bytes()).unwrap_or_default()));
            }
        }
    }
    Some(made)
}

/// Reads `$1`, `${1}`, `${name}` and `$$`.
fn parts(template: &str, pattern: &Regex) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, behind)) = rest.split_once('$') {
        parts.push(Part::Text(text.to_owned()));
        if let Some(behind) = behind.strip_prefix('$') {
            parts.push(Part::Text("$".into()));
            rest = behind;
            continue;
        }
        let (name, behind) = match behind.strip_prefix('{') {
            Some(behind) => behind.split_once('}').context("`${` has no end")?,
            None => behind.split_at(behind.bytes().take_while(u8::is_ascii_digit).count()),
        };
        parts.push(Part::Group(group(name, pattern)?));
        rest = behind;
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(parts)
}

fn group(name: &str, pattern: &Regex) -> anyhow::Result<usize> {
    let named = pattern.capture_names().position(|known| known == Some(name));
    let group = named.or_else(|| name.parse().ok().filter(|group| *group < pattern.captures_len()));
    group.with_context(|| format!("the pattern has no group {name:?}; a dollar is written $$"))
}

/// Percent-encodes what may not stand in a path as it is (RFC 3986 §3.3).
fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
