//! What a backend's answer must be: a 101 (RFC 6455 §4.1, items 2 to 6 of the client's part), and any other.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING, UPGRADE,
};
use http::response::Parts;
use http::{StatusCode, Version};
use tungstenite::handshake::derive_accept_key;

use super::plain::{is_chunked, is_number};
use super::{Opening, grammar};
use crate::gate::refusal::Refusal;

/// Judges a 101.
///
/// # Errors
/// The first thing that is wrong with it.
pub(in crate::gate) fn check_switch(head: &Parts, opening: &Opening) -> Result<(), Refusal> {
    let headers = &head.headers;
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS
        && head.version == Version::HTTP_11
        && grammar::names(headers, UPGRADE, "websocket")
        && grammar::names(headers, CONNECTION, "upgrade");
    if !switches || has_body(headers) {
        return Err(Refusal::BackendUpgrade);
    }
    let accept = grammar::only(headers, SEC_WEBSOCKET_ACCEPT).map_err(|_| Refusal::BackendAccept)?;
    if accept.as_bytes() != derive_accept_key(opening.key.as_bytes()).as_bytes() {
        return Err(Refusal::BackendAccept);
    }
    protocol(headers, opening)?;
    extensions(headers, opening)
}

/// Judges how an answer that is no 101 tells the end of its body (RFC 9112 §6.3). The HTTP library chooses where there are
/// two ways, and takes a coding that it does not know for a part of the body, which it is not without its header.
///
/// # Errors
/// [`Refusal::BackendProtocol`]: there are two ways, or there is a coding that would have to be undone.
pub(in crate::gate) fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let well = match (lengths.next(), headers.contains_key(TRANSFER_ENCODING)) {
        (None, false) => true,
        (None, true) => grammar::only(headers, TRANSFER_ENCODING).is_ok_and(is_chunked),
        (Some(length), false) => is_number(length) && lengths.all(|other| other == length),
        (Some(_), true) => false,
    };
    if well { Ok(()) } else { Err(Refusal::BackendProtocol) }
}

/// A 101 has no body (RFC 9110 §15.2); one that announces it would leave two readings of the bytes behind it.
fn has_body(headers: &HeaderMap) -> bool {
    let some = |value: &HeaderValue| value.as_bytes() != b"0";
    headers.contains_key(TRANSFER_ENCODING) || headers.get_all(CONTENT_LENGTH).iter().any(some)
}

fn protocol(headers: &HeaderMap, opening: &Opening) -> Result<(), Refusal> {
    match grammar::only(headers, SEC_WEBSOCKET_PROTOCOL) {
        Err(0) => Ok(()),
        Ok(chosen) if opening.protocols.iter().any(|offered| offered.as_bytes() == chosen.as_bytes()) => Ok(()),
        _ => Err(Refusal::BackendSubprotocol),
    }
}

fn extensions(headers: &HeaderMap, opening: &Opening) -> Result<(), Refusal> {
    let chosen = grammar::extensions(headers, SEC_WEBSOCKET_EXTENSIONS).ok_or(Refusal::BackendExtension)?;
    let offered = |name: &&str| opening.extensions.iter().any(|other| other == name);
    if chosen.iter().all(offered) { Ok(()) } else { Err(Refusal::BackendExtension) }
}
