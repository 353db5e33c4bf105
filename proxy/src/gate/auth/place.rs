//! Where in a request a token or a key stands, and the request without it.

use anyhow::{Context as _, ensure};
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, REFERER, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use zeroize::Zeroizing;

use crate::config::AuthSource;
use crate::gate::cookies;
use crate::gate::policy::form;

/// The parts of a request in which credentials stand. What is taken out of them the backend does not see.
pub(in crate::gate) struct Asked<'a> {
    pub(in crate::gate) headers: &'a mut HeaderMap,
    /// The target for the backend, with the client's query.
    pub(in crate::gate) target: &'a mut PathAndQuery,
    /// The subprotocols that a handshake offers; of any other request, none.
    pub(in crate::gate) protocols: &'a mut Vec<String>,
}

/// A place where a token or a key may stand.
pub(super) enum Place {
    Bearer,
    Header(HeaderName),
    Cookie(Vec<u8>),
    Query(Vec<u8>),
    Subprotocol(String),
}

/// What stands in a place. It is wiped when it is dropped.
pub(super) type Secret = Zeroizing<Vec<u8>>;

impl Place {
    /// Reads what is configured.
    ///
    /// # Errors
    /// A name that nothing can have.
    pub(super) fn read(source: &AuthSource) -> anyhow::Result<Self> {
        let token = |text: &String| {
            // The names of headers are the tokens of RFC 9110 §5.6.2, as those of cookies and subprotocols are.
            let good = HeaderName::try_from(text.as_str()).is_ok();
            ensure!(good, "from has the name {text:?}, which is no token: use letters, digits, - and _");
            Ok(text.clone())
        };
        Ok(match source {
            AuthSource::Bearer => Self::Bearer,
            AuthSource::Header(name) => Self::Header(crate::gate::policy::free_name(name).context("from")?),
            AuthSource::Cookie(name) => Self::Cookie(token(name)?.into_bytes()),
            AuthSource::Query(name) => {
                ensure!(!name.is_empty(), "from has a query parameter without a name");
                Self::Query(name.clone().into_bytes())
            }
            AuthSource::Subprotocol(name) => Self::Subprotocol(token(name)?),
        })
    }

    /// All that stand here. More than one is more than there should be.
    pub(super) fn find(&self, asked: &Asked<'_>) -> Vec<Secret> {
        let secret = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        match self {
            Self::Bearer => authorization(asked.headers, b"bearer").map(secret).collect(),
            Self::Header(name) => asked.headers.get_all(name).iter().map(|value| secret(value.as_bytes())).collect(),
            Self::Cookie(name) => cookies::values(asked.headers, name).map(secret).collect(),
            Self::Query(name) => {
                let pairs = asked.target.query().into_iter().flat_map(|query| query.split('&'));
                pairs.filter_map(|pair| parameter(pair, name)).map(Zeroizing::new).collect()
            }
            Self::Subprotocol(name) => {
                entries(asked.protocols, name).map(|entry| secret(entry.token.as_bytes())).collect()
            }
        }
    }

    /// Takes out all that stand here. Of subprotocols, returns the one that the client must be told if no other is
    /// chosen: a browser ends a connection for which it has offered some and got none.
    pub(super) fn strip(&self, asked: &mut Asked<'_>) -> Option<String> {
        match self {
            Self::Bearer => strip_authorization(asked.headers, b"bearer"),
            Self::Header(name) => drop(asked.headers.remove(name)),
            Self::Cookie(name) => cookies::strip(asked.headers, name),
            Self::Query(name) => {
                strip_query(asked.target, name);
                strip_referer(asked.headers);
            }
            Self::Subprotocol(name) => return strip_protocols(asked, name),
        }
        None
    }
}

/// What the Authorization headers of a scheme hold behind its name (RFC 9110 §11.4). `scheme` is in lower case.
pub(super) fn authorization<'a>(headers: &'a HeaderMap, scheme: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(AUTHORIZATION).iter().filter_map(|value| of_scheme(value, scheme))
}

/// Takes out the Authorization headers of a scheme.
pub(super) fn strip_authorization(headers: &mut HeaderMap, scheme: &[u8]) {
    let all: Vec<HeaderValue> = headers.get_all(AUTHORIZATION).iter().cloned().collect();
    headers.remove(AUTHORIZATION);
    for value in all.into_iter().filter(|value| of_scheme(value, scheme).is_none()) {
        headers.append(AUTHORIZATION, value);
    }
}

fn of_scheme<'a>(value: &'a HeaderValue, scheme: &[u8]) -> Option<&'a [u8]> {
    let value = value.as_bytes().trim_ascii();
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let behind = rest.first().is_none_or(|byte| matches!(byte, b' ' | b'\t'));
    (name.eq_ignore_ascii_case(scheme) && behind).then(|| rest.trim_ascii())
}

/// The value of `a=b`, if that is the parameter of this name.
fn parameter(pair: &str, name: &[u8]) -> Option<Vec<u8>> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    (!pair.is_empty() && form(key) == name).then(|| form(value))
}

/// Takes a parameter out of the query, and leaves every other byte as it is.
fn strip_query(target: &mut PathAndQuery, name: &[u8]) {
    let Some(query) = target.query() else { return };
    let kept: Vec<&str> = query.split('&').filter(|pair| parameter(pair, name).is_none()).collect();
    if kept.len() == query.split('&').count() {
        return;
    }
    let kept = kept.join("&");
    let path = target.path();
    let made = if kept.is_empty() { path.to_owned() } else { format!("{path}?{kept}") };
    // A part of a target is one too.
    if let Ok(made) = made.parse() {
        *target = made;
    }
}

/// Takes the query out of Referer: a page that was loaded with a token in its address tells it with all that it loads.
fn strip_referer(headers: &mut HeaderMap) {
    let Some(referer) = headers.get(REFERER) else { return };
    let bytes = referer.as_bytes();
    let Some(end) = bytes.iter().position(|byte| *byte == b'?') else { return };
    // A part of a value is one too.
    match bytes.get(..end).map(HeaderValue::from_bytes) {
        Some(Ok(rest)) => drop(headers.insert(REFERER, rest)),
        _ => drop(headers.remove(REFERER)),
    }
}

/// A token among the subprotocols.
struct Entry<'a> {
    /// The place of the first that belongs to it, and how many do.
    at: usize,
    count: usize,
    token: &'a str,
}

/// The entries `name.<token>`, and `name` with the token behind it.
fn entries<'a>(protocols: &'a [String], name: &'a str) -> impl Iterator<Item = Entry<'a>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let entry = protocols.get(at)?;
            let behind = protocols.get(at + 1).filter(|_| entry == name);
            let whole = entry.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
            let found = behind.map(|token| (token.as_str(), 2)).or(whole.map(|token| (token, 1)));
            let Some((token, count)) = found else {
                at += 1;
                continue;
            };
            at += count;
            return Some(Entry { at: at - count, count, token });
        }
    })
}

fn strip_protocols(asked: &mut Asked<'_>, name: &str) -> Option<String> {
    let found: Vec<(usize, usize)> = entries(asked.protocols, name).map(|entry| (entry.at, entry.count)).collect();
    let told = found.first().and_then(|(at, _)| asked.protocols.get(*at)).cloned()?;
    for (at, count) in found.into_iter().rev() {
        asked.protocols.drain(at..at + count).for_each(|text| drop(Zeroizing::new(text)));
    }
    asked.headers.remove(SEC_WEBSOCKET_PROTOCOL);
    // They were tokens of this header.
    if let Some(left) = Some(asked.protocols.join(", ")).filter(|left| !left.is_empty())
        && let Ok(left) = HeaderValue::try_from(left)
    {
        asked.headers.insert(SEC_WEBSOCKET_PROTOCOL, left);
    }
    Some(told)
}
