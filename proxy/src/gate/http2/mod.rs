//! HTTP/2 with a client (RFC 9113): many requests and WebSockets (RFC 8441) on one connection.
//!
//! * [`serve`] drives the connection: each request is a task of its own.
//! * [`Call`] is one request that waits for its answer.
//! * [`Tunnel`] is what becomes of one that asked for a WebSocket.
//!
//! Every direction of every stream has its own window, and the connection's window is as large as all of them: a stream
//! that is not read holds back its own sender, no other, and no more than its window waits in memory.

mod body;
mod call;
mod tunnel;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};

pub(super) use call::Call;
pub(super) use tunnel::Tunnel;

use super::Gate;
use super::front::Front;
use super::handshake::Scheme;
use super::refusal::Outcome;
use super::session::{self, Asked, Client, Visit};
use super::stream::Stream;
use crate::config::Config;

/// What a client that speaks HTTP/2 without TLS sends first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What one stream may have waiting for a reader: the window that RFC 9113 §6.9.2 begins with.
const WINDOW: u32 = 65_535;

/// What one stream may have waiting for its socket.
const SEND_BUFFER: usize = 64 * 1024;

/// How long a client may take to go once it has been told to.
const GOING: Duration = Duration::from_secs(5);

type Session = Connection<Front<Stream>, Bytes>;

/// How many streams a connection has.
#[derive(Clone)]
struct Calls(Arc<watch::Sender<usize>>);

/// One of them.
pub(super) struct Counted(Calls);

impl Calls {
    fn enter(&self) -> Counted {
        self.0.send_modify(|count| *count += 1);
        Counted(self.clone())
    }

    /// Returns when there has been none for so long. Cancelled, it begins anew.
    async fn none_for(&self, patience: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender is held by `self`.
            let _ = count.wait_for(|count| *count == 0).await;
            if timeout(patience, count.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

pub(super) fn builder(config: &Config) -> Builder {
    let streams = config.limits.http2_streams;
    let mut builder = Builder::new();
    builder
        .enable_connect_protocol()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW.saturating_mul(streams).clamp(WINDOW, i32::MAX as u32))
        .max_concurrent_streams(streams)
        .max_header_list_size(u32::try_from(config.limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// Serves a client until its connection ends. `front` has been read from the stream already.
pub(super) async fn serve(gate: Arc<Gate>, mut visit: Visit, stream: Stream, front: Bytes) {
    let (note, scheme) = (visit.note(), stream.keys().scheme());
    let relay = &gate.config.relay;
    // One that the kernel refuses is one whose peer is gone.
    let _ = stream.watch_for_death(relay.keepalive, relay.user_timeout);
    let begun = timeout_at(visit.head_by, builder(&gate.config).handshake(Front::new(front, stream))).await;
    let Ok(Ok(mut session)) = begun else { return gate.conclude(&note, Outcome::ClientGone) };
    if let Err(error) = converse(&gate, &mut visit, scheme, &mut session).await {
        tracing::debug!(conn = %note.id, %error, "an HTTP/2 connection failed");
    }
}

async fn converse(gate: &Arc<Gate>, visit: &mut Visit, scheme: Scheme, session: &mut Session) -> Result<(), h2::Error> {
    let calls = Calls(Arc::new(watch::Sender::new(0)));
    let mut going = false;
    loop {
        let idle = async {
            let patience = if going { GOING } else { gate.config.timeouts.keep_alive };
            calls.none_for(patience).await;
        };
        let request = tokio::select! {
            next = session.accept() => match next {
                Some(next) => next?,
                None => return Ok(()),
            },
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
        let (call, head) = Call::new(request, respond, counted);
        let asked = Asked { client: Client::Http2(call), head, scheme };
        tokio::spawn(session::call(gate.clone(), visit.stream(gate), asked));
    }
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
