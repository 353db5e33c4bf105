//! What a backend's 101 must be (RFC 6455 §4.1, items 2 to 6 of the client's part).

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING, UPGRADE,
};
use http::response::Parts;
use http::{StatusCode, Version};
use tungstenite::handshake::derive_accept_key;

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
