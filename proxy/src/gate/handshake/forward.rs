//! Which headers pass, and which are ours.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Uri, response};

use super::{Scheme, asks_for_websocket, grammar};
use crate::gate::refusal::{PROXY_STATUS, PROXY_WEBSOCKET_STATUS, Refusal};

/// Headers that end at every hop, whether Connection names them or not (RFC 9110 §7.6.1, and RFC 2616 §13.5.1 for
/// the older ones).
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    UPGRADE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    // Goes with an Upgrade to h2c, which is not asked for any more (RFC 9113 §3.1).
    HeaderName::from_static("http2-settings"),
];

/// What Connection cannot name away: a backend decides by these.
const PROTECTED: [HeaderName; 5] = [HOST, ORIGIN, COOKIE, AUTHORIZATION, SET_COOKIE];

/// The tokens of a Connection header that are headers to drop, in lower case.
pub(super) fn named_hop_by_hop(connection: &[&str]) -> Vec<String> {
    connection.iter().map(|token| token.to_ascii_lowercase()).filter(|name| !is_protected(name)).collect()
}

fn is_protected(name: &str) -> bool {
    name.starts_with("sec-websocket-")
        || name.starts_with("x-forwarded-")
        || PROTECTED.iter().any(|header| header.as_str() == name)
}

/// Whether a header claims what only a proxy can know. Strangers are not believed, in any spelling that a CGI-like
/// backend would read as the same name.
fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with("x-forwarded-") || name == "x-real-ip" || name == FORWARDED.as_str()
}

fn is_status(name: &HeaderName) -> bool {
    *name == PROXY_STATUS || *name == PROXY_WEBSOCKET_STATUS
}

/// The headers that go on from one side to the other, in their order, repeated ones included.
fn end_to_end<'a>(
    headers: &'a HeaderMap,
    named: &'a [String],
) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
    headers.iter().filter(move |(name, _)| {
        !HOP_BY_HOP.contains(name) && !is_status(name) && !named.iter().any(|other| other == name.as_str())
    })
}

/// The request to the backend: the client's, without what ends here, and with what only we know. For a WebSocket the
/// Upgrade is ours; else the body's length is for the HTTP library to say.
///
/// # Errors
/// [`Refusal::Path`] if the target cannot be written as a path.
pub(in crate::gate) fn request<B>(
    head: &Parts,
    hop_by_hop: &[String],
    client: IpAddr,
    scheme: Scheme,
    body: B,
) -> Result<Request<B>, Refusal> {
    let target = head.uri.path_and_query().cloned().ok_or(Refusal::Path)?;
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from(target);
    let headers = request.headers_mut();
    for (name, value) in end_to_end(&head.headers, hop_by_hop) {
        // A POST that says that it is empty may need to (RFC 9110 §8.6).
        let empty_body = *name == CONTENT_LENGTH && head.method != Method::GET && value.as_bytes() == b"0";
        if !is_claim(name) && *name != EXPECT && (*name != CONTENT_LENGTH || empty_body) {
            headers.append(name, value.clone());
        }
    }
    if asks_for_websocket(head) {
        switch(headers);
    }
    let address = HeaderValue::from_str(&client.to_canonical().to_string()).map_err(|_| Refusal::Internal)?;
    headers.insert("x-forwarded-for", address);
    headers.insert("x-forwarded-proto", HeaderValue::from_static(scheme.http()));
    if let Some(host) = head.headers.get(HOST) {
        headers.insert("x-forwarded-host", host.clone());
    }
    Ok(request)
}

fn switch(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The headers of a backend's answer to a plain request, for the client. The connection is for the HTTP library to speak
/// of.
pub(in crate::gate) fn plain_response(head: &response::Parts) -> HeaderMap {
    let named = named_hop_by_hop(&grammar::tokens(&head.headers, CONNECTION).unwrap_or_default());
    let mut headers = HeaderMap::new();
    for (name, value) in end_to_end(&head.headers, &named) {
        headers.append(name, value.clone());
    }
    headers
}

/// The headers of the answer to a handshake. With a 101 the Upgrade is ours; any other answer closes the connection.
pub(in crate::gate) fn response(head: &response::Parts, status: HeaderValue) -> HeaderMap {
    let upgraded = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    let mut headers = plain_response(head);
    if upgraded {
        // RFC 9110 §8.6: no Content-Length in a 1xx.
        headers.remove(CONTENT_LENGTH);
        switch(&mut headers);
    } else {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(PROXY_WEBSOCKET_STATUS, status);
    headers
}
