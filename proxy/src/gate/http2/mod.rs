//! HTTP/2 with a client (RFC 9113): many requests and WebSockets (RFC 8441) on one connection.
//!
//! * [`serve`] drives the connection: each request is a task of its own.
//! * [`Screened`] sees to it that a malformed request costs its stream, and not the connection.
//! * [`Call`] is one request that waits for its answer.
//! * [`Tunnel`] is what becomes of one that asked for a WebSocket.
//!
//! Every direction of every stream has its own window, and the connection's window is as large as all of them: a stream
//! that is not read holds back its own sender, no other, and no more than its window waits in memory.

mod body;
mod call;
mod calls;
mod screen;
mod tunnel;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection};
use tokio::time::timeout_at;

pub(super) use call::Call;
use calls::Calls;
pub(super) use screen::Screened;
pub(super) use tunnel::Tunnel;

use super::Gate;
use super::front::Front;
use super::handshake::Scheme;
use super::refusal::Outcome;
use super::session::{self, Asked, Client, Note, Visit};
use super::stream::Stream;
use crate::config::Config;
use crate::handoff::stats::Http2Event;

/// What a client that speaks HTTP/2 without TLS sends first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What one stream may have waiting for a reader: the window that RFC 9113 §6.9.2 begins with.
const WINDOW: u32 = 65_535;

/// What one stream may have waiting for its socket.
const SEND_BUFFER: usize = 64 * 1024;

/// How many times larger than `limits.head_bytes` a head may be for the HTTP/2 library, which answers larger ones by
/// itself, without our header fields.
const HEADROOM: usize = 4;

/// How long a client may take to go once it has been told to.
const GOING: Duration = Duration::from_secs(5);

type Session = Connection<Screened<Front<Stream>>, Bytes>;

pub(super) fn builder(config: &Config) -> Builder {
    let streams = config.limits.http2_streams;
    let mut builder = Builder::new();
    builder
        .enable_connect_protocol()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW.saturating_mul(streams).clamp(WINDOW, i32::MAX as u32))
        .max_concurrent_streams(streams)
        // Those that are taken back before they have been looked at: all of a page that closes at once.
        .max_pending_accept_reset_streams(streams as usize)
        .max_header_list_size(u32::try_from(HEADROOM * config.limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// Serves a client until its connection ends. `front` has been read from the stream already.
pub(super) async fn serve(gate: Arc<Gate>, mut visit: Visit, stream: Stream, front: Bytes) {
    let (note, scheme) = (visit.note(), stream.keys().scheme());
    let relay = &gate.config.relay;
    // One that the kernel refuses is one whose peer is gone.
    let _ = stream.watch_for_death(relay.keepalive, relay.user_timeout);
    let begun =
        timeout_at(visit.head_by, builder(&gate.config).handshake(Screened::new(Front::new(front, stream)))).await;
    let Ok(Ok(mut session)) = begun else { return gate.conclude(&note, Outcome::ClientGone) };
    if let Err(error) = converse(&gate, &mut visit, scheme, &mut session).await {
        tracing::debug!(conn = %note.id, %error, "an HTTP/2 connection failed");
    }
}

async fn converse(gate: &Arc<Gate>, visit: &mut Visit, scheme: Scheme, session: &mut Session) -> Result<(), h2::Error> {
    let calls = Calls::new(gate.config.limits.http2_resets, gate.stats.clone());
    let (mut going, mut calmed) = (false, false);
    loop {
        let idle = async {
            let patience = if going { GOING } else { gate.config.timeouts.keep_alive };
            calls.none_for(patience).await;
        };
        let request = tokio::select! {
            next = session.accept() => match next {
                Some(Ok(next)) => next,
                Some(Err(error)) => {
                    // The library has bounds of its own.
                    if !calmed && !error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                        calm(gate, &visit.note(), &error);
                    }
                    return Err(error);
                }
                None => return Ok(()),
            },
            () = calls.flooded() => {
                calm(gate, &visit.note(), &"more requests were taken back than limits.http2_resets allows");
                calmed = true;
                // h2 sends what is to be sent, and ends the connection then.
                session.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            () = idle => {
                if going {
                    return Ok(());
                }
                going = true;
                session.graceful_shutdown();
                continue;
            }
        };
        let (request, respond) = request;
        let counted = calls.enter();
        if calls.fill(gate.config.limits.http2_streams as usize) {
            full(gate, &visit.note());
        }
        let (call, head) = Call::new(request, respond, counted);
        let asked = Asked { client: Client::Http2(Box::new(call)), head, scheme };
        tokio::spawn(session::call(gate.clone(), visit.stream(gate), asked));
    }
}

/// Tells that a connection is ended with ENHANCE_YOUR_CALM.
fn calm(gate: &Gate, note: &Note, why: &dyn fmt::Display) {
    gate.stats.count_http2(Http2Event::Flood);
    let (conn, client) = (note.id, note.client);
    tracing::warn!(%conn, %client, %why, "an HTTP/2 connection is ended: its client asks for more than it may");
}

/// Tells that a client has as many streams as it may: its next ones wait in it, and nobody sees why.
fn full(gate: &Gate, note: &Note) {
    gate.stats.count_http2(Http2Event::Full);
    let (conn, client, most) = (note.id, note.client, gate.config.limits.http2_streams);
    tracing::warn!(
        %conn, %client, most,
        "an HTTP/2 connection has as many requests and WebSockets as limits.http2_streams allows: others of its client wait"
    );
}

/// An error of a stream or of its connection, as the sockets of other pairs say it.
fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        // Said so by `is_io`.
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    let kind = if error.is_reset() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::ConnectionAborted };
    io::Error::new(kind, error)
}
