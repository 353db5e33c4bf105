//! Which headers pass, and which are ours.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Request, Uri, response};

use super::{Opening, Scheme, grammar};
use crate::gate::refusal::{PROXY_STATUS, PROXY_WEBSOCKET_STATUS, Refusal};
use crate::gate::tls::{CLIENT_CERT, CLIENT_CERT_SUBJECT};

/// Headers that end at every hop, whether Connection names them or not (RFC 9110 §7.6.1, and RFC 2616 §13.5.1 for
/// the older ones).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    UPGRADE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
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
    name.starts_with("x-forwarded-")
        || name == "x-real-ip"
        || name == FORWARDED.as_str()
        || name == CLIENT_CERT.as_str()
        || name == "client-cert-chain"
        || name == CLIENT_CERT_SUBJECT.as_str()
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

/// The request to the backend.
///
/// # Errors
/// [`Refusal::Path`] if the target cannot be written as a path.
pub(in crate::gate) fn request<B: Default>(
    head: &Parts,
    opening: &Opening,
    client: Option<IpAddr>,
    scheme: Scheme,
) -> Result<Request<B>, Refusal> {
    let target = head.uri.path_and_query().cloned().ok_or(Refusal::Path)?;
    let mut request = Request::new(B::default());
    *request.uri_mut() = Uri::from(target);
    let headers = request.headers_mut();
    for (name, value) in end_to_end(&head.headers, &opening.hop_by_hop) {
        // There is no body, so nothing may announce one.
        if !is_claim(name) && *name != CONTENT_LENGTH && *name != EXPECT {
            headers.append(name, value.clone());
        }
    }
    switch(headers);
    if let Some(client) = client {
        let address = HeaderValue::from_str(&client.to_canonical().to_string()).map_err(|_| Refusal::Internal)?;
        headers.insert("x-forwarded-for", address);
    }
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

/// The headers of the answer to the client. With a 101 the Upgrade is ours; any other answer closes the connection.
pub(in crate::gate) fn response(head: &response::Parts, status: HeaderValue) -> HeaderMap {
    let upgraded = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    let named = named_hop_by_hop(&grammar::tokens(&head.headers, CONNECTION).unwrap_or_default());
    let mut headers = HeaderMap::new();
    for (name, value) in end_to_end(&head.headers, &named) {
        // RFC 9110 §8.6: no Content-Length in a 1xx.
        if !(upgraded && *name == CONTENT_LENGTH) {
            headers.append(name, value.clone());
        }
    }
    if upgraded {
        switch(&mut headers);
    } else {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(PROXY_WEBSOCKET_STATUS, status);
    headers
}
