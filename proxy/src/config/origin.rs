//! Rules for the Origin header (RFC 6454, RFC 6455 §10.2).

use serde::{Deserialize, Serialize};

/// One entry of a route's `origins`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OriginRule {
    /// `same-origin`: the Origin's host and port are those of the request's Host, its scheme that of the listener.
    SameOrigin,
    /// `https://app.example.com`: exactly this origin, in its normal form.
    Exact(String),
    /// `https://*.example.com`: this scheme and port, and any name below.
    Below {
        /// `http` or `https`.
        scheme: String,
        /// What the host must end in, with its leading dot: `.example.com`.
        suffix: String,
        /// The port, if not the scheme's own.
        port: Option<u16>,
    },
}

/// Why a text is no origin rule.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is no origin: {why}; write \"same-origin\", \"https://app.example.com\" or \"https://*.example.com\""
)]
pub struct OriginRuleError {
    text: String,
    why: &'static str,
}

impl TryFrom<String> for OriginRule {
    type Error = OriginRuleError;

    fn try_from(text: String) -> Result<Self, OriginRuleError> {
        if text == "same-origin" {
            return Ok(Self::SameOrigin);
        }
        let fail = |why| OriginRuleError { text: text.clone(), why };
        if text == "*" {
            return Err(fail("pages of every site could use a visitor's cookies; name those that may"));
        }
        if text.split_once("://").is_some_and(|(_, rest)| rest.contains('/')) {
            return Err(fail("an origin has no path, and no / at its end"));
        }
        let origin = split(&text).map_err(fail)?;
        let Some(parent) = origin.host.strip_prefix("*.") else {
            if origin.host.contains('*') {
                return Err(fail("`*` may only stand for the whole first label"));
            }
            return Ok(Self::Exact(origin.to_string()));
        };
        if parent.is_empty() || parent.contains('*') {
            return Err(fail("`*.` needs a domain behind it"));
        }
        Ok(Self::Below { suffix: format!(".{parent}"), scheme: origin.scheme, port: origin.port })
    }
}

impl From<OriginRule> for String {
    fn from(rule: OriginRule) -> Self {
        match rule {
            OriginRule::SameOrigin => "same-origin".into(),
            OriginRule::Exact(text) => text,
            OriginRule::Below { scheme, suffix, port } => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("{scheme}://*{suffix}{port}")
            }
        }
    }
}

/// An origin in its normal form: lower case, no default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `http`, `https`, or another scheme.
    pub scheme: String,
    /// Lower case; an IPv6 address in brackets.
    pub host: String,
    /// Only if it is not the scheme's own.
    pub port: Option<u16>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Splits and normalises an origin.
///
/// # Errors
/// Says what is wrong; `null` (RFC 6454 §7) is no origin either.
pub fn split(text: &str) -> Result<Origin, &'static str> {
    let (scheme, authority) = text.split_once("://").ok_or("it has no scheme")?;
    let scheme = scheme.to_ascii_lowercase();
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        return Err("its scheme is malformed");
    }
    let (host, port) = split_authority(authority)?;
    let default = match scheme.as_str() {
        "https" | "wss" => Some(443),
        "http" | "ws" => Some(80),
        _ => None,
    };
    Ok(Origin { scheme, host, port: port.filter(|port| Some(*port) != default) })
}

/// Splits `host[:port]`; the host in lower case.
///
/// # Errors
/// Says what is wrong.
pub fn split_authority(authority: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, rest) = if authority.starts_with('[') {
        let end = authority.find(']').ok_or("its IPv6 address has no end")?;
        authority.split_at(end + 1)
    } else {
        authority.split_at(authority.find(':').unwrap_or(authority.len()))
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~*[]:%".contains(&b);
    if host.is_empty() || !host.bytes().all(allowed) {
        return Err("its host is malformed");
    }
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err("something follows its host"),
        Some("") => None,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some(port.parse().map_err(|_| "its port is no port")?)
        }
        Some(_) => return Err("its port is no number"),
    };
    Ok((host.to_ascii_lowercase(), port))
}
