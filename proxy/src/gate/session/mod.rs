//! One connection, from accept to its pair or its refusal.
//!
//! [`states`] has a type for every state; this file runs through them and deals with every way out.

mod states;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

pub(super) use states::{Accepted, Note, Quiesced, Visit};
use states::{Stopped, Up};

use super::exchange::{self, AnswerBody, Exchange};
use super::refusal::{Outcome, Refusal};
use super::stream::Stream;
use super::tls::{self, NoSession};
use super::{Gate, linger};
use crate::handoff::ConnId;

/// How long a client may take to read an answer other than 101: the answer fits a socket buffer but for bodies, and a
/// client that reads one slower than this is holding a slot.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The moment so much later than now. A setting of centuries is as good as one year.
pub(super) fn after(patience: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(patience).unwrap_or(now + Duration::from_secs(365 * 86_400))
}

/// Takes a connection through all its states.
pub(super) async fn run(gate: Arc<Gate>, accepted: Accepted, tls: Option<TlsAcceptor>) {
    let visit = &accepted.visit;
    tracing::debug!(conn = %visit.id, client = %visit.client, listener = visit.listener, "accepted");
    let up = match tls {
        None => Some(Up { visit: accepted.visit, stream: Stream::Plain(accepted.stream) }),
        Some(acceptor) => secure(&gate, accepted, &acceptor).await,
    };
    if let Some(up) = up {
        live(&gate, up).await;
    }
}

async fn secure(gate: &Gate, accepted: Accepted, acceptor: &TlsAcceptor) -> Option<Up> {
    let Accepted { visit, stream } = accepted;
    let note = visit.note();
    let session = timeout_at(visit.head_by, tls::accept(stream, acceptor, &gate.arming)).await;
    match session {
        Ok(Ok(stream)) => return Some(Up { visit, stream }),
        Ok(Err(NoSession::Gone)) => gate.conclude(&note, Outcome::ClientGone),
        Ok(Err(NoSession::Failed(error, stream))) => {
            tracing::debug!(conn = %note.id, %error, "no TLS session");
            gate.conclude(&note, Outcome::TlsFailed);
            linger::close(stream).await;
        }
        Ok(Err(NoSession::Refused(stream, refusal))) => {
            gate.conclude(&note, Outcome::Refused(refusal));
            answer_unread(gate, stream, refusal, note.id).await;
        }
        Ok(Err(NoSession::Lost)) | Err(_) => gate.conclude(&note, Outcome::TlsFailed),
    }
    None
}

async fn live(gate: &Arc<Gate>, up: Up) {
    // The permit travels on with the pair; what the log needs of the visit stays.
    let mut note = up.visit.note();
    let Err(stopped) = steps(gate, up, &mut note).await else { return gate.conclude(&note, Outcome::Upgraded) };
    gate.conclude(&note, stopped.outcome());
    match stopped {
        Stopped::Gone | Stopped::Lost(_) => {}
        Stopped::Unread(stream, refusal, _permit) => answer_unread(gate, stream, refusal, note.id).await,
        Stopped::Refused(exchange, refusal, _permit) => {
            answer(exchange, exchange::whole(refusal.answer(note.id, &gate.pages))).await;
        }
        Stopped::Answered(exchange, response, _permit) => answer(exchange, *response).await,
    }
}

async fn steps(gate: &Arc<Gate>, up: Up, note: &mut Note) -> Result<(), Stopped> {
    let admitted = up.read_head(gate).await?.admit(gate, note)?;
    admitted.dial(gate).await?.upgrade(gate).await?.quiesce().await?.relay(gate).await
}

async fn answer(exchange: Exchange<Stream>, response: http::Response<AnswerBody>) {
    if let Ok(finished) = exchange.answer(response, after(ANSWER_PATIENCE)).await {
        linger::close(finished.io).await;
    }
}

async fn answer_unread<S: AsyncRead + AsyncWrite + Unpin>(gate: &Gate, mut stream: S, refusal: Refusal, id: ConnId) {
    let bytes = refusal.answer_bytes(id, &gate.pages);
    let write = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    if matches!(timeout(ANSWER_PATIENCE, write).await, Ok(Ok(()))) {
        linger::close(stream).await;
    }
}
