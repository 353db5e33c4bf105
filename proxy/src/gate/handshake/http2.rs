//! HTTP/2 as HTTP/1.1 says it, and back: so that one set of rules judges both (RFC 9113 §8, RFC 8441).

use http::header::{CONNECTION, COOKIE, HOST, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::request::Parts;
use http::{Method, StatusCode, Uri, Version, response};

use super::forward::HOP_BY_HOP;
use super::grammar;
use crate::config::{Limits, split_origin};
use crate::gate::refusal::Refusal;

/// Writes a request's head as the same request over HTTP/1.1. `protocol` is the pseudo-header of an extended CONNECT
/// (RFC 8441 §4), which becomes a handshake with this Sec-WebSocket-Key.
///
/// # Errors
/// A CONNECT that does not ask for a WebSocket; an authority that is missing, or another one than Host's; a name that is
/// none in HTTP/1.1; a head beyond the limits.
pub(in crate::gate) fn as_http1(
    mut head: Parts,
    protocol: Option<&str>,
    key: HeaderValue,
    limits: &Limits,
) -> Result<Parts, Refusal> {
    if list_size(&head) > limits.head_bytes {
        return Err(Refusal::HeadTooLarge);
    }
    one_cookie(&mut head.headers)?;
    if head.headers.len() > limits.header_count {
        return Err(Refusal::HeadTooLarge);
    }
    // The HTTP/2 library lets quotation marks through (RFC 9113 §8.2.1 leaves such names to us).
    if !head.headers.keys().all(|name| grammar::is_token(name.as_str())) {
        return Err(Refusal::Malformed);
    }
    settle_host(&mut head)?;
    if head.method == Method::CONNECT {
        match protocol {
            Some(name) if name.eq_ignore_ascii_case("websocket") => {}
            Some(_) => return Err(Refusal::Protocol),
            None => return Err(Refusal::Method),
        }
        head.method = Method::GET;
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers.insert(http::header::SEC_WEBSOCKET_KEY, key);
    } else {
        // What the HTTP/2 library lets through of these means nothing there.
        head.headers.remove(UPGRADE);
    }
    if let Some(target) = head.uri.path_and_query() {
        head.uri = Uri::from(target.clone());
    }
    head.version = Version::HTTP_11;
    Ok(head)
}

/// Makes the authority the Host. One beside it must name the same origin (RFC 9113 §8.3.1).
fn settle_host(head: &mut Parts) -> Result<(), Refusal> {
    let Some(authority) = head.uri.authority() else {
        return if head.headers.contains_key(HOST) { Ok(()) } else { Err(Refusal::Host) };
    };
    let own = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Host)?;
    if head.headers.contains_key(HOST) {
        let host = grammar::only(&head.headers, HOST).map_err(|_| Refusal::Host)?;
        let host = host.to_str().map_err(|_| Refusal::Host)?;
        let scheme = head.uri.scheme_str().unwrap_or("http");
        let origin = |authority: &str| split_origin(&format!("{scheme}://{authority}")).map_err(|_| Refusal::Host);
        if origin(host)? != origin(authority.as_str())? {
            return Err(Refusal::Host);
        }
    }
    head.headers.insert(HOST, own);
    Ok(())
}

/// The size of a head as RFC 9113 §10.5.1 counts it: 32 bytes for every field beside its name and value.
fn list_size(head: &Parts) -> usize {
    let uri = &head.uri;
    let target = uri.path_and_query().map_or(0, |target| ":path".len() + target.as_str().len() + 32);
    let authority = uri.authority().map_or(0, |authority| ":authority".len() + authority.as_str().len() + 32);
    let scheme = uri.scheme_str().map_or(0, |scheme| ":scheme".len() + scheme.len() + 32);
    let method = ":method".len() + head.method.as_str().len() + 32;
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    target + authority + scheme + method + fields.sum::<usize>()
}

/// Joins the crumbs of a Cookie (RFC 9113 §8.2.3).
fn one_cookie(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let whole = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).map_err(|_| Refusal::Malformed)?;
        headers.insert(COOKIE, whole);
    }
    Ok(())
}

/// Makes an answer's head one of HTTP/2: a 101 is a 200 there (RFC 8441 §5).
pub(in crate::gate) fn answer(head: &mut response::Parts) {
    // Headers that speak of the connection, which HTTP/2 has other means for (RFC 9113 §8.2.2), and the accept key, which
    // RFC 8441 §5 does without.
    for name in HOP_BY_HOP.iter().chain([&SEC_WEBSOCKET_ACCEPT]) {
        head.headers.remove(name);
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        head.status = StatusCode::OK;
    }
    head.version = Version::HTTP_2;
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
