//! One connection, from accept to its pair or its refusal.
//!
//! [`states`] has a type for every state on a WebSocket's way, [`asked`] says what a request is, [`plain`] has the way
//! of those that are no WebSocket handshake; this file runs through them and deals with every way out.

mod asked;
mod client;
mod cors;
mod enter;
mod note;
mod plain;
mod states;
mod visit;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, timeout, timeout_at};

pub(super) use asked::Asked;
pub(super) use client::Client;
pub(super) use note::Note;
pub(super) use states::{Accepted, Quiesced};
pub(super) use visit::Visit;

use asked::{HeadRead, Judged};
use states::{Stopped, Up};

use super::admission::Permit;
use super::exchange;
use super::handshake::Visitor;
use super::http2::{self, PREFACE};
use super::limit::Denied;
use super::proxy_in::{self, NoHeader};
use super::refusal::{Outcome, Refusal};
use super::stream::Stream;
use super::tls::{self, Acceptor, NoSession, Secured};
use super::{Gate, linger};
use crate::handoff::Peer;

/// How long a client may take to read an answer other than 101: the answer fits a socket buffer but for bodies, and a
/// client that reads one slower than this is holding a slot.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of the first read on a connection without TLS: as much as browsers send for a handshake.
const FIRST_READ: usize = 1024;

/// The moment so much later than now. A setting of centuries is as good as one year.
pub(super) fn after(patience: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(patience).unwrap_or(now + Duration::from_secs(365 * 86_400))
}

/// Takes a connection through all its states.
pub(super) async fn run(gate: Arc<Gate>, accepted: Accepted) {
    let visit = &accepted.visit;
    let listener = gate.listener(visit.listener);
    tracing::debug!(conn = %visit.id, client = %visit.client, listener, "accepted");
    let unix = visit.client == Peer::Unix;
    let Some(accepted) = introduce(&gate, accepted).await else { return };
    let Some(accepted) = welcome(&gate, accepted).await else { return };
    let up = match gate.loaded.acceptor(accepted.visit.listener) {
        None => Some(begin(&gate, accepted, unix).await),
        Some(acceptor) => secure(&gate, accepted, &acceptor).await,
    };
    match up {
        None => {}
        Some((up, Speaks::Http1)) => live(&gate, up).await,
        Some((Up { visit, stream, front }, Speaks::Http2)) => http2::serve(gate, visit, stream, front).await,
    }
}

/// What a client speaks.
enum Speaks {
    Http1,
    Http2,
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
            visit.came_to = Some(ends.destination);
            Some(Accepted { visit, stream })
        }
        Err(NoHeader::Gone) => {
            gate.conclude(&visit.note(), Outcome::ClientGone);
            None
        }
        Err(NoHeader::Silent) => {
            gate.conclude(&visit.note(), Outcome::Unused);
            None
        }
        Err(NoHeader::Malformed) => {
            gate.conclude(&visit.note(), Outcome::Refused(Refusal::ProxyHeader));
            match listener.tls {
                None => answer_unread(gate, stream, Refusal::ProxyHeader, &visit.note()).await,
                Some(_) => linger::close(stream).await,
            }
            None
        }
    }
}

/// Lets a client in whose address is known, before it costs more than its accept. One for whom a proxy speaks is known by
/// its requests.
async fn welcome(gate: &Gate, accepted: Accepted) -> Option<Accepted> {
    let Accepted { mut visit, stream } = accepted;
    let client = visit.client;
    // One that there is no room for is told so when it has asked.
    if visit.permit.is_spare() || Visitor::is_told_by(&gate.config.forwarded, client) {
        return Some(Accepted { visit, stream });
    }
    let Err(Denied { refusal, wait }) = visit.let_in(gate, client) else {
        visit.let_in = true;
        return Some(Accepted { visit, stream });
    };
    let note = Note { wait, ..visit.note() };
    gate.conclude(&note, Outcome::Refused(refusal));
    let clear = gate.config.listeners.get(usize::from(note.listener)).is_some_and(|listener| listener.tls.is_none());
    if clear && let Some(_told) = gate.admission.refuse(visit.permit) {
        answer_unread(gate, stream, refusal, &note).await;
    }
    None
}

/// Finds out what a client without TLS speaks, by its first bytes (RFC 9113 §3.3).
async fn begin(gate: &Gate, accepted: Accepted, unix: bool) -> (Up, Speaks) {
    let Accepted { visit, stream } = accepted;
    let mut stream = if unix { Stream::Unix(stream) } else { Stream::Plain(stream) };
    let either = gate.config.listeners.get(usize::from(visit.listener)).is_some_and(|listener| listener.http2);
    // Room for most heads, which then need no second read.
    let mut front = BytesMut::with_capacity(if either { FIRST_READ } else { 0 });
    let read = async {
        while front.len() < PREFACE.len() && PREFACE.starts_with(&front) && stream.read_buf(&mut front).await? > 0 {}
        std::io::Result::Ok(())
    };
    if either {
        // What has gone wrong, or is late, is found so by the HTTP/1.1 library as well.
        let _ = timeout_at(visit.head_by, read).await;
    }
    let speaks = if front.starts_with(PREFACE) { Speaks::Http2 } else { Speaks::Http1 };
    (Up { visit, stream, front: front.freeze() }, speaks)
}

async fn secure(gate: &Gate, accepted: Accepted, acceptor: &Acceptor) -> Option<(Up, Speaks)> {
    let Accepted { mut visit, stream } = accepted;
    let mut note = visit.note();
    // Browsers open connections that they may need, and use them never.
    if timeout_at(visit.head_by, stream.readable()).await.is_err() {
        gate.conclude(&note, Outcome::Unused);
        return None;
    }
    let session = timeout_at(visit.head_by, tls::accept(stream, acceptor, &gate.arming)).await;
    match session {
        Ok(Ok(Secured { stream, http2, person })) => {
            visit.person = person;
            let speaks = if http2 { Speaks::Http2 } else { Speaks::Http1 };
            return Some((Up { visit, stream, front: Bytes::new() }, speaks));
        }
        Ok(Err(NoSession::Gone)) => gate.conclude(&note, Outcome::ClientGone),
        Ok(Err(NoSession::Failed(error, stream))) => {
            note.detail().why = Some(tls::why_no_session(&error));
            gate.conclude(&note, Outcome::TlsFailed);
            linger::close(stream).await;
        }
        Ok(Err(NoSession::Refused(stream, refusal))) => {
            gate.conclude(&note, Outcome::Refused(refusal));
            answer_unread(gate, stream, refusal, &note).await;
        }
        Ok(Err(NoSession::Lost)) => {
            note.detail().why = Some("the kernel did not take the keys over".into());
            gate.conclude(&note, Outcome::TlsFailed);
        }
        Err(_) => {
            note.detail().why = Some("the TLS handshake was not complete in time".into());
            gate.conclude(&note, Outcome::TlsFailed);
        }
    }
    None
}

async fn live(gate: &Arc<Gate>, up: Up) {
    // The permit travels on with the pair; what the log needs of the visit stays.
    let mut note = up.visit.note();
    let stopped = match up.read_head(gate).await {
        Err(stopped) => Err(stopped),
        Ok(asked) => requests(gate, asked, &mut note).await,
    };
    conclude(gate, note, stopped).await;
}

/// Takes one request over HTTP/2 through its states. Without a visit there is no room for it.
pub(super) async fn call(gate: Arc<Gate>, visit: Result<Visit, Note>, asked: Asked) {
    let mut note = match &visit {
        Ok(visit) => visit.note(),
        Err(note) => note.clone(),
    };
    note.begin(&asked.head);
    let stopped = match visit {
        Err(_) => Err(Stopped::Refused(asked.client, Refusal::Full, None)),
        Ok(visit) => match asked.over_http2(visit, &gate.config.limits) {
            Ok(asked) => requests(&gate, asked, &mut note).await,
            Err(stopped) => Err(stopped),
        },
    };
    conclude(&gate, note, stopped).await;
}

/// Deals with a request, and with those behind it on the same connection, until one becomes a pair or is the last.
async fn requests(gate: &Arc<Gate>, mut asked: HeadRead, note: &mut Note) -> Result<(), Stopped> {
    loop {
        asked = match asked.judge(gate, note).await? {
            Judged::Handshake(admitted) => {
                let dialled = admitted.dial(gate).await?;
                note.detail().server = dialled.server();
                return dialled.upgrade(gate).await?.quiesce().await?.relay(gate).await;
            }
            Judged::Plain(plain) => {
                let replied = plain.forward(gate, note).await?;
                note.end();
                replied.next(gate).await?
            }
        }
    }
}

async fn conclude(gate: &Gate, mut note: Note, stopped: Result<(), Stopped>) {
    let Err(stopped) = stopped else { return gate.conclude(&note, Outcome::Upgraded) };
    if let Stopped::Answered(_, answer, _) | Stopped::Denied(_, answer, ..) = &stopped {
        note.detail().status = Some(answer.status());
    }
    if let Some(outcome) = stopped.outcome() {
        gate.conclude(&note, outcome);
    }
    let note = &note;
    match stopped {
        Stopped::Gone | Stopped::Lost(_) | Stopped::Done(None, _) => {}
        Stopped::Done(Some(stream), _permit) | Stopped::Told(stream, _, _permit) => {
            linger::close_answered(stream).await
        }
        Stopped::Unread(stream, refusal, _permit) => answer_unread(gate, stream, refusal, note).await,
        Stopped::Unused(stream, _permit) => answer_unread(gate, stream, Refusal::HeadTimeout, note).await,
        Stopped::Refused(client, refusal, permit) => {
            let _permit = permit.map(Permit::leave_route);
            client.answer(exchange::whole(refusal.answer(note.id, note.wait, &gate.pages))).await;
        }
        Stopped::Denied(client, response, _, permit) => {
            let _permit = permit.leave_route();
            client.answer(*response).await;
        }
        Stopped::Answered(client, response, _permit) => client.answer(*response).await,
    }
}

async fn answer_unread<S: AsyncRead + AsyncWrite + Unpin>(gate: &Gate, mut stream: S, refusal: Refusal, note: &Note) {
    let bytes = refusal.answer_bytes(note.id, note.wait, &gate.pages);
    let write = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    if matches!(timeout(ANSWER_PATIENCE, write).await, Ok(Ok(()))) {
        linger::close_answered(stream).await;
    }
}
