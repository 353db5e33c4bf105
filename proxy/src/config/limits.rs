//! What everything before an established connection may cost.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration;
use super::schema::Span;
use super::{HandshakeRate, PerClient};

/// Time limits of everything before a connection is established.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From accept to the complete request head, the TLS handshake included. 10 s: a phone on a bad network takes
    /// 2–3 s; a client that feeds a head slower than this is holding a slot, not connecting.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub head: Duration,
    /// One TCP connect to one backend server, and as much again for its TLS handshake if it has TLS. 3 s: one lost
    /// SYN is sent again after 1 s.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub dial: Duration,
    /// From the request sent to the backend to its complete response head. 10 s: applications that authenticate in
    /// their handshake may ask a database.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub response: Duration,
    /// From accept to the end of the handshake, all of the above included. 30 s: the sum of the others with one
    /// retried dial.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub handshake: Duration,
    /// From the last byte of a plain HTTP request, its body included, to the head of the answer. A long upload takes as
    /// long as it takes, but a client that sends nothing of it for this long is answered with 408. 120 s: a long poll
    /// is answered when there is something to say, after 25 s at the latest with Socket.IO, 90 s with SignalR.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub http_response: Duration,
    /// A client's HTTP connection without a request is closed after this long. 75 s: longer than the pauses of a person
    /// who reads, and what NGINX does.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            dial: Duration::from_secs(3),
            response: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
            http_response: Duration::from_secs(120),
            keep_alive: Duration::from_secs(75),
        }
    }
}

/// How large requests may be, how many connections there may be, and how fast they may come.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request or response head. 16 KiB: cookies reach 4 KiB each, tokens 8 KiB; NGINX and HAProxy
    /// stop at 32 KiB and 16 KiB. 8 KiB is the least that the HTTP library takes, 64 KiB the most that the
    /// hand-over holds.
    #[schemars(range(min = 8192, max = 65536), extend("x-unit" = "bytes"))]
    pub head_bytes: usize,
    /// Header fields of a request's head. 100: browsers send about 20.
    #[schemars(range(min = 1), extend("x-unit" = "fields"))]
    pub header_count: usize,
    /// Header fields of the head of a backend's answer. 256: applications that set a cookie or a policy for each of their
    /// parts send more fields than any client does.
    #[schemars(range(min = 1), extend("x-unit" = "fields"))]
    pub response_header_count: usize,
    /// Bytes of a backend's body that is passed on with an answer other than 101. 64 KiB: an error page.
    #[schemars(extend("x-unit" = "bytes"))]
    pub response_body: usize,
    /// Connections at one time, established or not. Who comes beyond them is refused with 503 and Retry-After, the first one
    /// after a second in which none has ended. 0: as many as the limit on open files allows, two for each pair.
    #[schemars(extend("x-unit" = "connections"))]
    pub connections: u32,
    /// Requests and WebSockets at one time on one HTTP/2 connection, to which a browser has one for all pages of a site;
    /// what is more waits there without a word. 256: as many as Chromium has on one connection, whatever a server allows.
    #[schemars(range(min = 1), extend("x-unit" = "streams"))]
    pub http2_streams: u32,
    /// Requests that the client of one HTTP/2 connection may take back within 10 s before they are answered; one more, and
    /// the connection ends with ENHANCE_YOUR_CALM: each may have cost a connection to a backend. 500: a page that
    /// closes takes back all that it waits for, and a person can close a few.
    #[schemars(range(min = 1), extend("x-unit" = "streams"))]
    pub http2_resets: u32,
    /// The rate of all handshakes; what is beyond it is refused with 503 and Retry-After, or, where a client is known
    /// when it connects to a listener with TLS, closed before its TLS handshake. None: any rate. What a machine can do
    /// depends on the machine.
    pub handshakes: Option<HandshakeRate>,
    /// What one client may take of everything.
    pub per_client: PerClient,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 16 * 1024,
            header_count: 100,
            response_header_count: 256,
            response_body: 64 * 1024,
            connections: 0,
            http2_streams: 256,
            http2_resets: 500,
            handshakes: None,
            per_client: PerClient::default(),
        }
    }
}
