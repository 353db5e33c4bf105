//! Rules for the Origin header (RFC 6454, RFC 6455 §10.2).

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// One entry of a route's `origins`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OriginRule {
    /// `same-origin`: the Origin's host and port are those of the request's Host, its scheme that of the listener.
    SameOrigin,
    /// `null`: what pages are sent as that have no origin of their own (RFC 6454 §7.1), whosever they are.
    Null,
    /// `any`: whatever the Origin says.
    Any,
    /// `https://app.example.com`, `https://*.example.com`, `http://localhost:*`, `moz-extension://*`.
    Like {
        /// In lower case.
        scheme: String,
        /// Which hosts.
        host: HostOf,
        /// Which ports.
        port: PortOf,
    },
}

/// The hosts of an [`OriginRule`], in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostOf {
    /// This one.
    Is(String),
    /// Those that end so, with the leading dot: `.example.com`.
    Below(String),
    /// Every one: of schemes that browsers give to their extensions and applications to themselves.
    Any,
}

/// The ports of an [`OriginRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortOf {
    /// This one; `None`: the scheme's own.
    Is(Option<u16>),
    /// Every one.
    Any,
}

/// Why a text is no origin rule.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is no origin: {why}; write \"same-origin\", \"https://app.example.com\", \"https://*.example.com\", \
     \"http://localhost:*\", \"moz-extension://*\", \"null\" or \"any\""
)]
pub struct OriginRuleError {
    text: String,
    why: &'static str,
}

impl TryFrom<String> for OriginRule {
    type Error = OriginRuleError;

    fn try_from(text: String) -> Result<Self, OriginRuleError> {
        match text.as_str() {
            "same-origin" => Ok(Self::SameOrigin),
            "null" => Ok(Self::Null),
            "any" => Ok(Self::Any),
            _ => like(&text).map_err(|why| OriginRuleError { text, why }),
        }
    }
}

fn like(text: &str) -> Result<OriginRule, &'static str> {
    if text == "*" {
        return Err("pages of every site could use a visitor's cookies; name those that may, or write \"any\"");
    }
    if text.split_once("://").is_some_and(|(_, rest)| rest.contains('/')) {
        return Err("an origin has no path, and no / at its end");
    }
    let without_port = text.strip_suffix(":*");
    let Origin { scheme, host, port } = split(without_port.unwrap_or(text))?;
    let of_the_web = ["http", "https", "ws", "wss"].contains(&scheme.as_str());
    let host = match (host.as_str(), host.strip_prefix("*.")) {
        ("*", _) if of_the_web => {
            return Err("pages of every site could use a visitor's cookies; name those that may, or write \"any\"");
        }
        ("*", _) => HostOf::Any,
        (_, Some(parent)) if parent.is_empty() || parent.contains('*') => return Err("`*.` needs a domain behind it"),
        (_, Some(parent)) => HostOf::Below(format!(".{parent}")),
        (host, None) if host.contains('*') => return Err("`*` may only stand for the whole first label"),
        (host, None) => HostOf::Is(host.into()),
    };
    Ok(OriginRule::Like { scheme, host, port: without_port.map_or(PortOf::Is(port), |_| PortOf::Any) })
}

impl From<OriginRule> for String {
    fn from(rule: OriginRule) -> Self {
        let OriginRule::Like { scheme, host, port } = rule else {
            let word = match rule {
                OriginRule::SameOrigin => "same-origin",
                OriginRule::Null => "null",
                OriginRule::Any | OriginRule::Like { .. } => "any",
            };
            return word.into();
        };
        let host = match host {
            HostOf::Is(host) => host,
            HostOf::Below(suffix) => format!("*{suffix}"),
            HostOf::Any => "*".into(),
        };
        let port = match port {
            PortOf::Is(port) => port.map(|port| format!(":{port}")).unwrap_or_default(),
            PortOf::Any => ":*".into(),
        };
        format!("{scheme}://{host}{port}")
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
    if !is_host(host) {
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

/// Whether it is an IPv6 address in brackets, or a name that servers cannot read in two ways: without percent-encoding (RFC
/// 3986 §3.2.2), which some decode, and without empty labels, of which some leave out several at the end.
fn is_host(host: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~*".contains(&b);
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.bytes().all(allowed) && !host.is_empty() && !host.starts_with('.') && !host.contains(".."),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn rules_are_written_as_they_were_read() {
        for text in [
            "same-origin",
            "null",
            "any",
            "https://app.example.com",
            "https://app.example.com:8443",
            "https://*.example.com",
            "http://*.dev.test:*",
            "http://localhost:*",
            "http://[::1]:*",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://*",
            "capacitor://localhost",
        ] {
            assert_eq!(String::from(OriginRule::try_from(text.to_owned()).unwrap()), text);
        }
        assert_eq!(String::from(OriginRule::try_from("HTTPS://A.test:443".to_owned()).unwrap()), "https://a.test");
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (text, why) in [
            ("*", "or write \"any\""),
            ("https://*", "or write \"any\""),
            ("http://*:*", "or write \"any\""),
            ("http://*:3000", "or write \"any\""),
            ("https://a.test/", "no / at its end"),
            ("a.test", "it has no scheme"),
            ("https://*.", "a domain behind it"),
            ("https://a*.test", "the whole first label"),
            ("https://a.test:x", "its port is no number"),
            ("Null", "it has no scheme"),
            ("", "it has no scheme"),
        ] {
            let error = OriginRule::try_from(text.to_owned()).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn an_authority_is_a_host_with_one_spelling() {
        for (text, host) in [
            ("Admin.Example:8080", "admin.example"),
            ("admin.example.", "admin.example."),
            ("admin.example:", "admin.example"),
            ("[2001:DB8::1]:80", "[2001:db8::1]"),
            ("a_b", "a_b"),
        ] {
            assert_eq!(split_authority(text).map(|(host, _)| host).as_deref(), Ok(host), "{text}");
        }
        for text in [
            "adm%69n.example",
            "a%C2%ADdmin.example",
            "%",
            "admin.example..",
            ".admin.example",
            ".",
            "admin..example",
            "adm\u{131}n.example",
            "user@admin.example",
            "@admin.example",
            "admin.example\\x",
            "\\admin.example",
            "admin.example/",
            "admin\t.example",
            "admin.example ",
            "[admin.example]",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[::1]x",
            "a[b]",
        ] {
            assert!(split_authority(text).is_err(), "{text}");
        }
    }
}
