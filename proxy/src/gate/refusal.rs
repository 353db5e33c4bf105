//! Every way in which a connection can fail to become a pair, and what each one means to whom.
//!
//! One table: a refusal without an HTTP status, an RFC 9209 error, a metric label and a text for the log does not
//! compile.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::pages::Pages;
use crate::handoff::stats::RESULTS;
use crate::handoff::{ConnId, Engine};

/// RFC 9209.
pub(super) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// Ours: a structured field (RFC 9651), a token with parameters, that says what became of the WebSocket.
pub(super) const PROXY_WEBSOCKET_STATUS: HeaderName = HeaderName::from_static("proxy-websocket-status");

/// Over how many seconds those are spread who are to come back at the same time. 5: longer than a handshake, and short
/// for a person who waits.
const RETRY_SPREAD: u64 = 5;

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident: $index:literal, $status:ident, $error:literal, $reason:literal, $text:literal;)+) => {
        /// Why a connection is refused or has failed before it was established.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Refusal { $($(#[doc = $doc])+ $name,)+ }

        impl Refusal {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// The place in the shared counters. A number is never used again for something else: the counters
            /// outlive a gate, and may be read by the next version.
            const fn index(self) -> usize { match self { $(Self::$name => $index),+ } }

            /// The status of the answer.
            pub(crate) const fn status(self) -> StatusCode { match self { $(Self::$name => StatusCode::$status),+ } }

            /// The error type for `Proxy-Status` (RFC 9209 §2.3).
            pub(crate) const fn error(self) -> &'static str { match self { $(Self::$name => $error),+ } }

            /// The value of the `reason` label and of `reason=` in `Proxy-WebSocket-Status`.
            pub(crate) const fn reason(self) -> &'static str { match self { $(Self::$name => $reason),+ } }

            /// When it is given, for the documentation.
            #[cfg(test)]
            const fn when(self) -> &'static str { match self { $(Self::$name => concat!($($doc),+)),+ } }

            /// What the client and the log read. ASCII, and nothing of the inside.
            pub(crate) const fn text(self) -> &'static str { match self { $(Self::$name => $text),+ } }
        }
    };
}

refusals! {
    /// The HTTP library cannot read the request head, or the method is a known one in another case.
    Malformed: 8, BAD_REQUEST, "http_request_error", "malformed-request",
        "the request head is not HTTP/1.1 as RFC 9112 writes it";
    /// The head is longer than `limits.head_bytes` or has more fields than `limits.header_count`.
    HeadTooLarge: 9, REQUEST_HEADER_FIELDS_TOO_LARGE, "http_request_error", "head-too-large",
        "the request head is longer, or has more fields, than this server takes";
    /// The request line alone is longer than `limits.head_bytes`.
    UriTooLong: 10, URI_TOO_LONG, "http_request_error", "uri-too-long",
        "the request line is longer than this server takes";
    /// The head was not complete within `timeouts.head`.
    HeadTimeout: 11, REQUEST_TIMEOUT, "http_request_error", "head-timeout",
        "the request head did not arrive in time";
    /// An HTTP request in clear text on a port that speaks TLS.
    PlainOnTls: 12, BAD_REQUEST, "http_request_error", "plain-http-on-tls",
        "this port speaks TLS: use wss:// or https://";
    /// Another method than GET (RFC 6455 section 4.2.1).
    Method: 13, METHOD_NOT_ALLOWED, "http_request_error", "method",
        "a WebSocket handshake is a GET request; others need http = \"forward\" in their route";
    /// HTTP/1.0 on a route that takes WebSockets only, or a WebSocket handshake over it. Not 505: the major version is one that we speak (RFC 9110 section 15.6.6), but the request cannot
    /// ask for an Upgrade with it (RFC 9110 section 7.8), so it is a bad one.
    HttpVersion: 14, BAD_REQUEST, "http_request_error", "http-version",
        "a WebSocket handshake needs HTTP/1.1; other requests need http = \"forward\" in their route";
    /// No Host, several, or one that is no host (RFC 9112 section 3.2); over HTTP/2, one that is not the `:authority`.
    Host: 15, BAD_REQUEST, "http_request_error", "host",
        "the request needs exactly one valid Host";
    /// A target that is no path, has a `#` (RFC 9112 section 3.2), or could be read by servers in two ways.
    Path: 16, BAD_REQUEST, "http_request_error", "path",
        "the request target is not a plain path";
    /// The request asks for no Upgrade, or for another protocol.
    NotWebSocket: 17, UPGRADE_REQUIRED, "http_request_error", "not-websocket",
        "this server speaks WebSocket: the request needs Upgrade: websocket, or its route http = \"forward\"";
    /// The Connection header does not name `upgrade`, or cannot be read.
    Connection: 18, BAD_REQUEST, "http_request_error", "connection-header",
        "the request needs Connection: Upgrade";
    /// Not exactly one Sec-WebSocket-Key of 16 bytes.
    Key: 19, BAD_REQUEST, "http_request_error", "websocket-key",
        "the request needs exactly one Sec-WebSocket-Key of 16 bytes in base64";
    /// No Sec-WebSocket-Version, or several.
    VersionMissing: 20, BAD_REQUEST, "http_request_error", "websocket-version-missing",
        "the request needs exactly one Sec-WebSocket-Version";
    /// Another version than 13.
    Version: 21, UPGRADE_REQUIRED, "http_request_error", "websocket-version",
        "this server speaks version 13 of the WebSocket protocol";
    /// Sec-WebSocket-Protocol is not a list of different tokens.
    Subprotocol: 22, BAD_REQUEST, "http_request_error", "websocket-protocol",
        "Sec-WebSocket-Protocol is not a list of different tokens";
    /// Sec-WebSocket-Extensions does not follow RFC 6455 section 9.1.
    Extension: 23, BAD_REQUEST, "http_request_error", "websocket-extensions",
        "Sec-WebSocket-Extensions is malformed";
    /// A body, or a length that says two things.
    Body: 24, BAD_REQUEST, "http_request_error", "body",
        "a WebSocket handshake has no body";
    /// More than one Origin.
    Origins: 25, BAD_REQUEST, "http_request_error", "several-origins",
        "the request has more than one Origin";
    /// The route does not admit this Origin.
    OriginDenied: 26, FORBIDDEN, "http_request_denied", "origin-denied",
        "pages of this origin may not connect here";
    /// The route does not admit clients without Origin.
    OriginMissing: 27, FORBIDDEN, "http_request_denied", "origin-missing",
        "clients that send no Origin may not connect here";
    /// No route serves this host and path.
    NoRoute: 28, NOT_FOUND, "destination_not_found", "no-route",
        "nothing is served under this host and path";
    /// All servers of the backend refused the connection.
    BackendRefused: 29, BAD_GATEWAY, "connection_refused", "backend-refused",
        "the backend refused the connection";
    /// No server of the backend answered within `timeouts.dial`.
    BackendTimeout: 30, GATEWAY_TIMEOUT, "connection_timeout", "backend-timeout",
        "the backend could not be reached in time";
    /// There is no way to the backend.
    BackendUnreachable: 31, BAD_GATEWAY, "destination_ip_unroutable", "backend-unreachable",
        "the backend cannot be reached";
    /// The backend closed before its answer was complete.
    BackendClosed: 32, BAD_GATEWAY, "http_response_incomplete", "backend-closed",
        "the backend closed the connection before it had answered";
    /// The backend did not answer within `timeouts.response`.
    ResponseTimeout: 33, GATEWAY_TIMEOUT, "http_response_timeout", "backend-response-timeout",
        "the backend did not answer in time";
    /// The backend's answer is not HTTP.
    BackendProtocol: 34, BAD_GATEWAY, "http_protocol_error", "backend-protocol",
        "the backend's answer is not HTTP/1.1";
    /// The backend's head is longer than `limits.head_bytes` or has more fields than `limits.response_header_count`.
    BackendHeadTooLarge: 35, BAD_GATEWAY, "http_response_header_section_size", "backend-head-too-large",
        "the head of the backend's answer is too large";
    /// The backend's 101 breaks RFC 6455 section 4.1: its Upgrade or Connection, or a body.
    BackendUpgrade: 36, BAD_GATEWAY, "http_upgrade_failed", "backend-upgrade",
        "the backend's 101 is not a WebSocket upgrade";
    /// The backend's Sec-WebSocket-Accept is not the one for the client's key.
    BackendAccept: 37, BAD_GATEWAY, "http_upgrade_failed", "backend-accept",
        "the backend's Sec-WebSocket-Accept is wrong";
    /// The backend chose a subprotocol that the client had not offered, or several.
    BackendSubprotocol: 38, BAD_GATEWAY, "http_upgrade_failed", "backend-subprotocol",
        "the backend chose a subprotocol that was not offered";
    /// The backend chose an extension that the client had not offered.
    BackendExtension: 39, BAD_GATEWAY, "http_upgrade_failed", "backend-extension",
        "the backend chose an extension that was not offered";
    /// `timeouts.handshake` is over.
    HandshakeTimeout: 40, GATEWAY_TIMEOUT, "connection_timeout", "handshake-timeout",
        "the handshake took too long";
    /// Files, ports or slots are short.
    Full: 41, SERVICE_UNAVAILABLE, "connection_limit_reached", "full",
        "this server has no room for another connection";
    /// What only a fault of ours can cause: the pair could not be handed over.
    Internal: 42, INTERNAL_SERVER_ERROR, "proxy_internal_error", "internal",
        "the proxy failed";
    /// No TLS session with a server of the backend: it does not speak TLS, broke off, or has no version or cipher in
    /// common with us.
    BackendTls: 43, BAD_GATEWAY, "tls_protocol_error", "backend-tls",
        "the TLS handshake with the backend failed";
    /// The backend's certificate is expired, is for another name, or comes from nobody whom `tls.ca` trusts.
    BackendCertificate: 44, BAD_GATEWAY, "tls_certificate_error", "backend-certificate",
        "the backend's certificate cannot be trusted";
    /// The backend ended the TLS session with an alert: it wants another certificate of ours, for one.
    BackendAlert: 45, BAD_GATEWAY, "tls_alert_received", "backend-tls-alert",
        "the backend refused the TLS session";
    /// The end of a request's body can be told in two ways, does not come, or has a coding that would have to be passed
    /// on (RFC 9112 section 6).
    Framing: 46, BAD_REQUEST, "http_request_error", "framing",
        "the length of the request's body is not told as RFC 9112 section 6 wants it";
    /// An extended CONNECT that asks for another protocol than WebSocket (RFC 8441 section 4).
    Protocol: 47, NOT_IMPLEMENTED, "http_request_error", "protocol",
        "this server knows no other protocol for CONNECT than websocket";
    /// The route has as many connections as its `limits.connections` allows.
    RouteFull: 48, SERVICE_UNAVAILABLE, "connection_limit_reached", "route-full",
        "this service has no room for another connection";
    /// The connection of a proxy that `proxy_protocol.from` names does not begin with a PROXY header.
    ProxyHeader: 49, BAD_REQUEST, "http_request_error", "proxy-header",
        "the connection does not begin with a PROXY header";
    /// The route asks who a client is, and the request does not say.
    AuthMissing: 50, UNAUTHORIZED, "http_request_denied", "auth-missing",
        "this service wants to know who you are";
    /// The token, password or key that the request shows is not good, or there are two of it.
    AuthInvalid: 51, UNAUTHORIZED, "http_request_denied", "auth-invalid",
        "what the request shows does not let it enter";
    /// The token was good, and has expired.
    TokenExpired: 52, UNAUTHORIZED, "http_request_denied", "token-expired",
        "the token has expired";
    /// The service of a `forward` refused; the client gets its status, 401, 403 or a redirection, instead of this one.
    AuthDenied: 53, FORBIDDEN, "http_request_denied", "auth-denied",
        "you may not enter here";
    /// The service of a `forward` cannot be reached, was late, or did not say yes or no.
    AuthService: 54, SERVICE_UNAVAILABLE, "destination_unavailable", "auth-service",
        "who you are cannot be found out now";
    /// Too many passwords are being verified.
    AuthBusy: 55, SERVICE_UNAVAILABLE, "connection_limit_reached", "auth-busy",
        "too many others are logging in";
    /// The client is beyond the `handshakes` of `limits.per_client`, or of the route's.
    ClientRate: 58, TOO_MANY_REQUESTS, "http_request_denied", "client-rate",
        "this address connects too often";
    /// The client has as many connections as `limits.per_client`, or the route's, allows.
    ClientFull: 59, TOO_MANY_REQUESTS, "http_request_denied", "client-full",
        "this address has no room for another connection";
    /// More requests have come than `limits.handshakes` allows.
    Rate: 60, SERVICE_UNAVAILABLE, "connection_limit_reached", "rate",
        "this server has too many handshakes to do";
    /// More requests have come for the route than its `limits.handshakes` allows.
    RouteRate: 61, SERVICE_UNAVAILABLE, "connection_limit_reached", "route-rate",
        "this service has too many handshakes to do";
    /// The client's address is in `deny`, or not in `allow`, of `[access]` or of the route.
    AddressDenied: 62, FORBIDDEN, "http_request_denied", "address-denied",
        "clients with this address may not connect here";
    /// No server of the backend takes requests: all are draining, or names stand for none.
    NoServer: 64, SERVICE_UNAVAILABLE, "destination_unavailable", "no-server",
        "no server of this service is available";
    /// Every server of the backend has as many connections as its `max_connections` allows, and the queue is full.
    ServersFull: 65, SERVICE_UNAVAILABLE, "connection_limit_reached", "servers-full",
        "the servers of this service have no room for another connection";
    /// No server of the backend has had room within `queue.timeout`.
    QueueTimeout: 66, SERVICE_UNAVAILABLE, "connection_limit_reached", "queue-timeout",
        "the servers of this service have had no room in time";
    /// The client was silent for `timeouts.http_response` in the middle of its request's body. No server is at fault.
    BodyTimeout: 67, REQUEST_TIMEOUT, "http_request_error", "body-timeout",
        "the request body did not arrive in time";
}

/// How a handshake ended, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A pair came of it.
    Upgraded,
    /// The backend answered something else than 101, which was passed on.
    BackendAnswer,
    /// The client went away first.
    ClientGone,
    /// The TLS handshake failed: nothing to answer in.
    TlsFailed,
    /// A plain HTTP request has been answered by the backend.
    Forwarded,
    /// The client has sent nothing in the time that it has for a request head: browsers open such connections, in case that
    /// they need them.
    Unused,
    /// We said no.
    Refused(Refusal),
}

impl Outcome {
    /// Those that are no refusals.
    const OTHERS: [Self; 6] =
        [Self::Upgraded, Self::BackendAnswer, Self::ClientGone, Self::TlsFailed, Self::Forwarded, Self::Unused];

    /// The place in the shared counters, below [`RESULTS`].
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Upgraded => 0,
            Self::BackendAnswer => 1,
            Self::ClientGone => 2,
            Self::TlsFailed => 3,
            Self::Forwarded => 4,
            Self::Unused => 5,
            Self::Refused(refusal) => refusal.index(),
        }
    }

    /// The labels `result` and `reason`.
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Upgraded => ("upgraded", "none"),
            Self::BackendAnswer => ("refused", "backend-answer"),
            Self::ClientGone => ("failed", "client-gone"),
            Self::TlsFailed => ("failed", "tls"),
            Self::Forwarded => ("forwarded", "none"),
            Self::Unused => ("failed", "unused"),
            Self::Refused(refusal) if refusal.status().is_server_error() => ("failed", refusal.reason()),
            Self::Refused(refusal) => ("refused", refusal.reason()),
        }
    }
}

/// The places of the shared counters that mean something, with the labels `result` and `reason`.
pub(super) fn labels() -> Vec<(usize, &'static str, &'static str)> {
    let refused = Refusal::ALL.iter().map(|refusal| Outcome::Refused(*refusal));
    let all = Outcome::OTHERS.into_iter().chain(refused);
    all.filter(|outcome| outcome.index() < RESULTS)
        .map(|outcome| (outcome.index(), outcome.labels().0, outcome.labels().1))
        .collect()
}

/// A string of a structured field (RFC 9651 §4.1.6). What is not printable ASCII is left out.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| matches!(c, ' '..='~')) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// A header value of text that is ASCII by construction.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// `Proxy-WebSocket-Status` of a 101.
pub(super) fn upgraded_status(engine: Engine, id: ConnId) -> HeaderValue {
    value(&format!("upgraded; relay={}; conn={}", engine.label(), quoted(&id.to_string())))
}

/// `Proxy-WebSocket-Status` of anything else.
pub(super) fn rejected_status(reason: &'static str, id: ConnId) -> HeaderValue {
    value(&format!("rejected; reason={reason}; conn={}", quoted(&id.to_string())))
}

impl Refusal {
    /// The answer to the client. `wait`: seconds until it is worth to try again, if they are known, or 0.
    pub(super) fn answer(self, id: ConnId, wait: u32, pages: &Pages) -> Response<Bytes> {
        let (content_type, body) = match pages.find(self) {
            Some(page) => (page.content_type.clone(), page.body.clone()),
            None => {
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                (plain, Bytes::from(format!("{}\n", self.text())))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        let length = HeaderValue::from(response.body().len());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let details = quoted(self.text());
        headers.insert(PROXY_STATUS, value(&format!("sluice; error={}; details={details}", self.error())));
        headers.insert(PROXY_WEBSOCKET_STATUS, rejected_status(self.reason(), id));
        self.hints(headers, id, wait);
        response
    }

    /// Seconds after which to try again (RFC 9110 §10.2.3, RFC 6585 §4): when it is worth it, but at the earliest in one,
    /// since connections end all the time. Consecutive connections get different numbers, so that a herd comes back
    /// spread.
    fn retry_after(self, id: ConnId, wait: u32) -> Option<u64> {
        let later = matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        later.then_some(u64::from(wait.max(1)) + id.0 % RETRY_SPREAD)
    }

    /// What the status asks for beside itself (RFC 9110 §15.5.6, §15.5.22, §15.6.4; RFC 6455 §4.4).
    fn hints(self, headers: &mut HeaderMap, id: ConnId, wait: u32) {
        if let Some(seconds) = self.retry_after(id, wait) {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if self.status() == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        if self.status() == StatusCode::UPGRADE_REQUIRED {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade, close"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
    }

    /// The same answer as bytes, for clients whose request the HTTP library could not read.
    pub(super) fn answer_bytes(self, id: ConnId, wait: u32, pages: &Pages) -> Vec<u8> {
        let response = self.answer(id, wait, pages);
        let reason = response.status().canonical_reason().unwrap_or("Error");
        let mut out = head_bytes(response.status(), reason, response.headers());
        out.extend_from_slice(response.body());
        out
    }
}

/// The head of an answer, for where the HTTP library cannot write it.
pub(super) fn head_bytes(status: StatusCode, reason: &str, headers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
