//! Whom a request over HTTP/1 is for, by the rules of RFC 9112 §3.2 and §3.3, written down in one way.

use std::net::SocketAddr;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{Method, Uri, Version};

use super::grammar;
use crate::config::split_authority;
use crate::gate::refusal::Refusal;

/// What a request has among its extensions if its target had a `#`, which the HTTP library drops with all behind it.
#[derive(Clone, Copy, Debug)]
pub(in crate::gate) struct Fragment;

/// Makes a request one in origin form with a Host: the authority of a target in absolute form replaces Host, which is
/// ignored (RFC 9112 §3.2.2), and a request over HTTP/1.0 without Host gets `own`, the address that it came to.
///
/// # Errors
/// [`Refusal::Path`]: a target that RFC 9112 §3.2 does not know. [`Refusal::Host`]: HTTP/1.1 without exactly one valid
/// Host, whatever the target says (§3.2), or an authority that is none.
pub(in crate::gate) fn settle(head: &mut Parts, own: Option<SocketAddr>) -> Result<(), Refusal> {
    if head.extensions.get::<Fragment>().is_some() {
        return Err(Refusal::Path);
    }
    let hostless = head.version == Version::HTTP_10 && !head.headers.contains_key(HOST);
    let Some(authority) = head.uri.authority().filter(|_| head.method != Method::CONNECT) else {
        if hostless && let Some(own) = default_host(own) {
            head.headers.insert(HOST, own);
        }
        return Ok(());
    };
    // Without a scheme it is the form of CONNECT's targets.
    if !head.uri.scheme_str().is_some_and(is_http) {
        return Err(Refusal::Path);
    }
    if !hostless {
        let value = grammar::only(&head.headers, HOST).map_err(|_| Refusal::Host)?;
        split_authority(value.to_str().map_err(|_| Refusal::Host)?).map_err(|_| Refusal::Host)?;
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Host)?;
    head.headers.insert(HOST, host);
    let target = head.uri.path_and_query().cloned();
    head.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    Ok(())
}

fn is_http(scheme: &str) -> bool {
    ["http", "https", "ws", "wss"].contains(&scheme)
}

/// A Unix socket's clients came to no address.
fn default_host(own: Option<SocketAddr>) -> Option<HeaderValue> {
    own.map_or_else(|| Some(HeaderValue::from_static("localhost")), |own| HeaderValue::try_from(own.to_string()).ok())
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
