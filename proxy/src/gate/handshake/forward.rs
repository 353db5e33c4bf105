//! Which headers pass, and which are ours.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, Method, Request, StatusCode, Uri, response};
use hyper::ext::ReasonPhrase;

use super::{Visitor, asks_for_websocket, grammar};
use crate::config::Forwarded;
use crate::gate::refusal::{PROXY_STATUS, PROXY_WEBSOCKET_STATUS};
use crate::gate::tls::{CLIENT_CERT, CLIENT_CERT_SUBJECT};

/// Headers that end at every hop, whether Connection names them or not (RFC 9110 §7.6.1, and RFC 2616 §13.5.1 for
/// the older ones).
pub(super) const HOP_BY_HOP: [HeaderName; 10] = [
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

/// A name of a header as backends behind CGI know it: RFC 3875 §4.1.18 makes `_` of `-`, and some servers make it of
/// whatever is no letter and no digit. Two names that are the same here may be the same there.
pub(in crate::gate) fn as_cgi(name: &HeaderName) -> impl Iterator<Item = char> {
    name.as_str().chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '-' })
}

/// Whether a header claims what only a proxy can know. Strangers are not believed, in any spelling that a CGI-like
/// backend would read as the same name. Of a trusted proxy's, those go that are written anew, and those in another
/// spelling, which it has passed on.
fn is_claim(name: &HeaderName, trusted: bool) -> bool {
    let plain: String = as_cgi(name).collect();
    let claims = plain.starts_with("x-forwarded-") || plain == "x-real-ip" || plain == FORWARDED.as_str();
    let anew = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", FORWARDED.as_str()];
    // Sluice has asked for the certificate itself, or nobody has.
    let certificate =
        [CLIENT_CERT.as_str(), "client-cert-chain", CLIENT_CERT_SUBJECT.as_str()].contains(&plain.as_str());
    certificate || claims && (!trusted || plain != name.as_str() || anew.contains(&name.as_str()))
}

/// Fields that some backends believe instead of the request itself: libraries take their proxy from the one (httpoxy,
/// CVE-2016-5385), frameworks the path from the others (CVE-2018-14773).
const MISLEADING: [&str; 3] = ["proxy", "x-original-url", "x-rewrite-url"];

/// Whether a header goes no further, unless the operator keeps it.
fn is_misleading(name: &HeaderName, settings: &Forwarded) -> bool {
    let plain: String = as_cgi(name).collect();
    let misleads = MISLEADING.contains(&plain.as_str()) || name.as_str().contains('_');
    misleads && !settings.keep.iter().any(|kept| kept.eq_ignore_ascii_case(name.as_str()))
}

/// Whether nobody but HTTP and Sluice may write a header: it rules the connection, the body's length or the handshake.
pub(in crate::gate) fn is_ours(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
        || is_status(name)
        || [CONTENT_LENGTH, EXPECT].contains(name)
        || name.as_str().starts_with("sec-websocket-")
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

/// The request to the backend: the client's with this target, without what ends here, and with what only we know. For a
/// WebSocket the Upgrade is ours; else the body's length is for the HTTP library to say.
pub(in crate::gate) fn request<B>(
    head: &Parts,
    target: PathAndQuery,
    hop_by_hop: &[String],
    visitor: &Visitor,
    settings: &Forwarded,
    body: B,
) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from(target);
    let headers = request.headers_mut();
    for (name, value) in end_to_end(&head.headers, hop_by_hop) {
        // A POST that says that it is empty may need to (RFC 9110 §8.6).
        let empty_body = *name == CONTENT_LENGTH && head.method != Method::GET && value.as_bytes() == b"0";
        let passes = !is_claim(name, visitor.trusted) && !is_misleading(name, settings);
        if passes && *name != EXPECT && (*name != CONTENT_LENGTH || empty_body) {
            headers.append(name, value.clone());
        }
    }
    if asks_for_websocket(head) {
        switch(headers);
    }
    visitor.tell(settings, head.headers.get(HOST), headers);
    request
}

fn switch(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The headers of a backend's answer to a plain request, for the client. The connection is for the HTTP library to speak
/// of. One Content-Length stands for all: they are alike ([`super::check_framing`]). A 204 has none (RFC 9110 §8.6).
pub(in crate::gate) fn plain_response(head: &response::Parts) -> HeaderMap {
    let mut headers = passed(&head.headers, head.status != StatusCode::NO_CONTENT);
    if head.status == StatusCode::UPGRADE_REQUIRED {
        advertise(&head.headers, &mut headers);
    }
    headers
}

/// The headers of an interim answer, which has no Content-Length (RFC 9110 §8.6).
pub(in crate::gate) fn interim(headers: &HeaderMap) -> HeaderMap {
    passed(headers, false)
}

/// What of a backend's headers goes on to the client. `length`: whether its Content-Length does.
fn passed(all: &HeaderMap, length: bool) -> HeaderMap {
    let named = named_hop_by_hop(&grammar::tokens(all, CONNECTION).unwrap_or_default());
    let mut headers = HeaderMap::new();
    for (name, value) in end_to_end(all, &named) {
        if *name != CONTENT_LENGTH {
            headers.append(name, value.clone());
        } else if length {
            headers.insert(name, value.clone());
        }
    }
    headers
}

/// Upgrade ends at every hop, but a 426 is nothing without it (RFC 9110 §15.5.22): the client is told what the backend
/// wants, as an option of this connection (§7.8).
fn advertise(all: &HeaderMap, headers: &mut HeaderMap) {
    for protocol in all.get_all(UPGRADE) {
        headers.append(UPGRADE, protocol.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Keeps of what the HTTP library knows of a backend's answer the reason phrase alone.
pub(in crate::gate) fn only_reason(extensions: &mut Extensions) {
    let reason = extensions.remove::<ReasonPhrase>();
    extensions.clear();
    if let Some(reason) = reason {
        extensions.insert(reason);
    }
}

/// The headers of the answer to a handshake. With a 101 the Upgrade is ours; any other answer closes the connection.
pub(in crate::gate) fn response(head: &response::Parts, status: HeaderValue) -> HeaderMap {
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut headers = plain_response(head);
    if upgraded {
        // RFC 9110 §8.6: no Content-Length in a 1xx.
        headers.remove(CONTENT_LENGTH);
        switch(&mut headers);
    } else {
        headers.append(CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(PROXY_WEBSOCKET_STATUS, status);
    headers
}
