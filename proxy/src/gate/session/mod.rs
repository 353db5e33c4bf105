//! One connection, from accept to its pair or its refusal.
//!
//! [`states`] has a type for every state; this file runs through them and deals with every way out.

mod states;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, timeout, timeout_at};

pub(super) use states::{Accepted, Note, Quiesced, Visit};
use states::{Stopped, Up};

use super::exchange::{self, AnswerBody, Exchange};
use super::proxy_in::{self, NoHeader};
use super::refusal::{Outcome, Refusal};
use super::stream::Stream;
use super::tls::{self, Acceptor, NoSession};
use super::{Gate, linger};
use crate::handoff::{ConnId, Peer};

/// How long a client may take to read an answer other than 101: the answer fits a socket buffer but for bodies, and a
/// client that reads one slower than this is holding a slot.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The moment so much later than now. A setting of centuries is as good as one year.
pub(super) fn after(patience: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(patience).unwrap_or(now + Duration::from_secs(365 * 86_400))
}

/// Takes a connection through all its states.
pub(super) async fn run(gate: Arc<Gate>, accepted: Accepted) {
    let visit = &accepted.visit;
    tracing::debug!(conn = %visit.id, client = %visit.client, listener = visit.listener, "accepted");
    let unix = visit.client == Peer::Unix;
    let Some(accepted) = introduce(&gate, accepted).await else { return };
    let up = match gate.loaded.acceptor(accepted.visit.listener) {
        None if unix => Some(Up { visit: accepted.visit, stream: Stream::Unix(accepted.stream) }),
        None => Some(Up { visit: accepted.visit, stream: Stream::Plain(accepted.stream) }),
        Some(acceptor) => secure(&gate, accepted, &acceptor).await,
    };
    if let Some(up) = up {
        live(&gate, up).await;
    }
}

/// Has a proxy that is believed say who the client is, before anything else is read.
async fn introduce(gate: &Gate, accepted: Accepted) -> Option<Accepted> {
    let Accepted { mut visit, mut stream } = accepted;
    let listener = gate.config.listeners.get(usize::from(visit.listener))?;
    let peer = visit.client.ip();
    if !listener.proxy_protocol.as_ref().is_some_and(|setting| setting.expects(peer)) {
        return Some(Accepted { visit, stream });
    }
    match proxy_in::read(&mut stream, visit.head_by).await {
        Ok(None) => Some(Accepted { visit, stream }),
        Ok(Some(ends)) => {
            tracing::debug!(conn = %visit.id, client = %ends.source, proxy = %visit.client, "a proxy says who it is");
            (visit.client, visit.ends) = (Peer::Inet(ends.source), Some(ends));
            Some(Accepted { visit, stream })
        }
        Err(NoHeader::Gone) => {
            gate.conclude(&visit.note(), Outcome::ClientGone);
            None
        }
        Err(NoHeader::Malformed) => {
            gate.conclude(&visit.note(), Outcome::Refused(Refusal::ProxyHeader));
            match listener.tls {
                None => answer_unread(stream, Refusal::ProxyHeader, visit.id).await,
                Some(_) => linger::close(stream).await,
            }
            None
        }
    }
}

async fn secure(gate: &Gate, accepted: Accepted, acceptor: &Acceptor) -> Option<Up> {
    let Accepted { mut visit, stream } = accepted;
    let note = visit.note();
    let session = timeout_at(visit.head_by, tls::accept(stream, acceptor, &gate.arming)).await;
    match session {
        Ok(Ok((stream, person))) => {
            visit.person = person;
            return Some(Up { visit, stream });
        }
        Ok(Err(NoSession::Gone)) => gate.conclude(&note, Outcome::ClientGone),
        Ok(Err(NoSession::Failed(error, stream))) => {
            tracing::debug!(conn = %note.id, %error, "no TLS session");
            gate.conclude(&note, Outcome::TlsFailed);
            linger::close(stream).await;
        }
        Ok(Err(NoSession::Refused(stream, refusal))) => {
            gate.conclude(&note, Outcome::Refused(refusal));
            answer_unread(stream, refusal, note.id).await;
        }
        Ok(Err(NoSession::Lost)) | Err(_) => gate.conclude(&note, Outcome::TlsFailed),
    }
    None
}

async fn live(gate: &Arc<Gate>, up: Up) {
    // The permit travels on with the pair; what the log needs of the visit stays.
    let note = up.visit.note();
    let Err(stopped) = steps(gate, up).await else { return gate.conclude(&note, Outcome::Upgraded) };
    gate.conclude(&note, stopped.outcome());
    match stopped {
        Stopped::Gone | Stopped::Lost(_) => {}
        Stopped::Unread(stream, refusal, _permit) => answer_unread(stream, refusal, note.id).await,
        Stopped::Refused(exchange, refusal, _permit) => {
            answer(exchange, exchange::whole(refusal.answer(note.id))).await;
        }
        Stopped::Answered(exchange, response, _permit) => answer(exchange, *response).await,
    }
}

async fn steps(gate: &Arc<Gate>, up: Up) -> Result<(), Stopped> {
    let admitted = up.read_head(gate).await?.admit(gate)?;
    admitted.dial(gate).await?.upgrade(gate).await?.quiesce().await?.relay(gate).await
}

async fn answer(exchange: Exchange<Stream>, response: http::Response<AnswerBody>) {
    if let Ok(finished) = exchange.answer(response, after(ANSWER_PATIENCE)).await {
        linger::close(finished.io).await;
    }
}

async fn answer_unread<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, refusal: Refusal, id: ConnId) {
    let bytes = refusal.answer_bytes(id);
    let write = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    if matches!(timeout(ANSWER_PATIENCE, write).await, Ok(Ok(()))) {
        linger::close(stream).await;
    }
}
