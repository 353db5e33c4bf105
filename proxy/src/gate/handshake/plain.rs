//! What a plain HTTP request must be to go on to a backend.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Version};

use super::request::{Caller, caller};
use super::{Target, Visitor, forward, grammar};
use crate::gate::refusal::Refusal;

/// A request that is no WebSocket handshake and can be passed on: only [`Plain::check`] makes one.
#[derive(Clone, Debug)]
pub(in crate::gate) struct Plain {
    /// Whom it is for.
    pub(in crate::gate) target: Target,
    /// The page that the client belongs to.
    pub(in crate::gate) caller: Caller,
    /// The headers that Connection names, in lower case: they end here.
    pub(in crate::gate) hop_by_hop: Vec<String>,
    /// The client is told that its connection closes behind the answer.
    pub(in crate::gate) last: bool,
}

/// Whether a request asks for a WebSocket: then everything that RFC 6455 says holds for it, and it is nothing else.
pub(in crate::gate) fn asks_for_websocket(head: &Parts) -> bool {
    grammar::names(&head.headers, UPGRADE, "websocket")
}

impl Plain {
    /// Judges a request head.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(in crate::gate) fn check(head: &Parts, visitor: &Visitor) -> Result<Self, Refusal> {
        let headers = &head.headers;
        // HTTP/1.0: health checks, and proxies of some age, speak it.
        if !matches!(head.version, Version::HTTP_11 | Version::HTTP_10) {
            return Err(Refusal::HttpVersion);
        }
        // TRACE would show the client what only backends are to see (RFC 9110 §9.3.8); CONNECT is for forward proxies.
        if matches!(head.method, Method::CONNECT | Method::TRACE) {
            return Err(Refusal::Method);
        }
        let target = Target::read(head, visitor)?;
        let connection = grammar::tokens(headers, CONNECTION).ok_or(Refusal::Connection)?;
        let last = framing(headers)?;
        Ok(Self { target, caller: caller(headers)?, hop_by_hop: forward::named_hop_by_hop(&connection), last })
    }
}

/// Whether the end of the body can be told from it in one way only (RFC 9112 §6).
///
/// The HTTP library has read the head by these rules, and has dropped a Content-Length beside a Transfer-Encoding. Since
/// it cannot be asked whether there was one, the connection of a request with Transfer-Encoding closes behind its answer
/// (RFC 9112 §6.1 asks for that): bytes behind the body that another reader of it would take for a request are not
/// read.
fn framing(headers: &HeaderMap) -> Result<bool, Refusal> {
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    // Other codings would have to be undone or passed on in a message that we frame anew.
    if chunked && !grammar::only(headers, TRANSFER_ENCODING).is_ok_and(is_chunked) {
        return Err(Refusal::Framing);
    }
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let well = headers.get_all(CONTENT_LENGTH).iter().all(is_number);
    if lengths > 1 || !well || (chunked && lengths > 0) {
        return Err(Refusal::Framing);
    }
    Ok(chunked)
}

/// Whether it is this coding alone. Codings have no case (RFC 9112 §7).
pub(super) fn is_chunked(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// Whether it is digits and nothing else.
pub(super) fn is_number(value: &HeaderValue) -> bool {
    !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
