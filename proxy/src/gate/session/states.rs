//! A type per state of a connection; each is made only by the one before it.
//!
//! `Accepted → Up → HeadRead → Admitted → Dialled → Upgraded → Quiesced → Relayed`, and for a request that is no
//! WebSocket handshake `HeadRead → Plain → Replied`, from where the next one's HeadRead follows.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::asked::{From, HeadRead};
use super::enter::Entered;
use super::visit::Visit;
use super::{Client, after};
use crate::config::Address;
use crate::gate::Gate;
use crate::gate::admission::Permit;
use crate::gate::begun::Begun;
use crate::gate::carrier::Carrier;
use crate::gate::dial::Errand;
use crate::gate::exchange::{AnswerBody, Exchange, Finished, Gone, NoRequest};
use crate::gate::fleet::Berth;
use crate::gate::handshake::{Opening, check_framing, check_switch, forward as headers};
use crate::gate::policy::Rule;
use crate::gate::refusal::{Outcome, Refusal, rejected_status, upgraded_status};
use crate::gate::stream::{Keys, Stream};
use crate::gate::upstream::{self, Answer, Switched};
use crate::handoff::{ConnId, Facts, MAX_LEFTOVER, Peer};

/// A connection that the kernel has accepted.
pub(in crate::gate) struct Accepted {
    pub(in crate::gate) visit: Visit,
    pub(in crate::gate) stream: TcpStream,
}

/// A connection that can carry HTTP: TLS, if the listener has it, is up.
pub(super) struct Up {
    pub(super) visit: Visit,
    pub(super) stream: Stream,
    /// What has been read from it already.
    pub(super) front: Bytes,
}

/// A request that is a WebSocket handshake and may enter.
pub(super) struct Admitted {
    pub(super) visit: Visit,
    pub(super) client: Client,
    pub(super) keys: Keys,
    pub(super) from: From,
    pub(super) opening: Opening,
    pub(super) request: Request<Empty<Bytes>>,
    pub(super) rule: Arc<Rule>,
    pub(super) errand: Errand,
    pub(super) entered: Entered,
}

/// A request with a connection to a server that can answer it.
pub(super) struct Dialled {
    admitted: Box<Admitted>,
    backend: Stream,
    berth: Berth,
}

/// A backend that has agreed; the client does not know it yet.
pub(super) struct Upgraded {
    visit: Visit,
    client: Client,
    address: Peer,
    rule: Arc<Rule>,
    berth: Berth,
    backend: Switched,
    carrier: Carrier,
    cookie: Option<HeaderValue>,
    expires_ms: Option<NonZeroU64>,
}

/// Both handshakes done, all of their bytes sent and read: two streams and what was read ahead of them.
pub(in crate::gate) struct Quiesced {
    pub(in crate::gate) facts: Facts,
    pub(in crate::gate) client: Stream,
    pub(in crate::gate) backend: Stream,
    /// What the client sent behind its request.
    pub(in crate::gate) to_backend: Bytes,
    /// What the backend sent behind its 101.
    pub(in crate::gate) to_client: Bytes,
    pub(in crate::gate) permit: Permit,
    pub(in crate::gate) berth: Berth,
}

/// A pair ready for its relay.
pub(super) struct Placed {
    pair: Quiesced,
    carrier: Carrier,
}

/// The ways out.
pub(super) enum Stopped {
    /// The client went away.
    Gone,
    /// The client is done, behind plain requests that were answered; its connection, if it is this client's alone.
    Done(Option<Stream>, Permit),
    /// It failed after the 101: nothing can be said any more.
    Lost(Refusal),
    /// Refused before the HTTP library had a request to answer.
    Unread(Stream, Refusal, Permit),
    /// The client has sent nothing at all in the time that it has for a request head.
    Unused(Stream, Permit),
    /// Refused by the HTTP library itself, behind plain requests that were answered.
    Told(Stream, Refusal, Permit),
    /// Refused.
    Refused(Client, Refusal, Option<Permit>),
    /// Refused, with an answer that has more to say than the refusal.
    Denied(Client, Box<Response<AnswerBody>>, Refusal, Permit),
    /// The backend's own answer goes to the client.
    Answered(Client, Box<Response<AnswerBody>>, Permit),
}

impl Stopped {
    /// What is counted; `None` if everything has been.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Gone => Some(Outcome::ClientGone),
            Self::Unused(..) => Some(Outcome::Unused),
            Self::Done(..) => None,
            Self::Answered(..) => Some(Outcome::BackendAnswer),
            Self::Lost(refusal)
            | Self::Unread(_, refusal, _)
            | Self::Told(_, refusal, _)
            | Self::Denied(_, _, refusal, _)
            | Self::Refused(_, refusal, _) => Some(Outcome::Refused(*refusal)),
        }
    }
}

impl Up {
    pub(super) async fn read_head(self, gate: &Gate) -> Result<HeadRead, Stopped> {
        let Self { visit, stream, front } = self;
        let (keys, relay) = (stream.keys(), &gate.config.relay);
        // For the answers of plain requests, which may be silent for hours, and which a client may not read. One that the
        // kernel refuses is one whose peer is gone.
        let _ = stream.watch_for_death(relay.keepalive, relay.user_timeout);
        match Exchange::new(stream, front, &gate.config.limits).read_head(visit.head_by).await {
            Ok((exchange, head)) => {
                Ok(HeadRead { visit, client: Client::Http1(exchange), keys, scheme: keys.scheme(), head })
            }
            Err(no_request) => Err(unread(no_request, visit.permit)),
        }
    }
}

pub(super) fn unread(why: NoRequest<Stream>, permit: Permit) -> Stopped {
    match why {
        NoRequest::Gone => Stopped::Gone,
        NoRequest::Done(stream) => Stopped::Done(Some(stream), permit),
        NoRequest::Answered(stream, refusal) => Stopped::Told(stream, refusal, permit),
        NoRequest::Refused(stream, refusal) => Stopped::Unread(stream, refusal, permit),
        NoRequest::Unused(stream) => Stopped::Unused(stream, permit),
    }
}

/// Gives the client a cookie of ours beside the backend's.
pub(super) fn give(headers: &mut HeaderMap, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        headers.append(SET_COOKIE, cookie);
    }
}

impl Admitted {
    pub(super) async fn dial(mut self: Box<Self>, gate: &Gate) -> Result<Dialled, Stopped> {
        self.client.needs_both_directions();
        let dial = timeout_at(self.visit.done_by, gate.dial(self.errand));
        match self.client.while_there(dial).await {
            Err(Gone) => Err(Stopped::Gone),
            Ok(Ok(Ok((berth, backend)))) => Ok(Dialled { admitted: self, backend, berth }),
            Ok(Ok(Err(refusal))) => Err(Stopped::Refused(self.client, refusal, Some(self.visit.permit))),
            Ok(Err(_)) => Err(Stopped::Refused(self.client, Refusal::HandshakeTimeout, Some(self.visit.permit))),
        }
    }
}

impl Dialled {
    /// The server, for the log.
    pub(super) fn server(&self) -> Option<Address> {
        Some(self.berth.site()?.address.clone())
    }

    pub(super) async fn upgrade(self, gate: &Arc<Gate>) -> Result<Upgraded, Stopped> {
        let Admitted { visit, mut client, keys, from, opening, mut request, rule, errand, mut entered } =
            *self.admitted;
        client.follow(&mut request);
        let berth = self.berth;
        let cookie = gate.stick(&errand, berth.server(), from.scheme);
        let spelling = gate.spelling(rule.way.backend);
        let late = after(gate.config.timeouts(rule.way.route).response);
        let ask = timeout_at(visit.done_by, upstream::ask(self.backend, request, &gate.config.limits, spelling, late));
        let answer = match client.while_there(ask).await {
            Err(Gone) => return Err(Stopped::Gone),
            // The client has had a part of that time: it says nothing of the server.
            Ok(Err(_)) => return Err(Stopped::Refused(client, Refusal::HandshakeTimeout, Some(visit.permit))),
            Ok(Ok(answer)) => answer.inspect_err(|failure| {
                tracing::info!(conn = %visit.id, server = berth.address(), %failure, "no answer of the backend");
            }),
        };
        let checked = answer.and_then(|answer| {
            match &answer {
                Answer::Switch(backend) => check_switch(&backend.head, &opening)?,
                Answer::Other(response) => check_framing(response.headers())?,
            }
            Ok(answer)
        });
        match &checked {
            Ok(answer) => berth.answered_handshake(answer.status()),
            Err(failure) => berth.failed(failure),
        }
        let refusal = match checked {
            Ok(Answer::Switch(mut backend)) => match Carrier::find(gate, keys, backend.io.keys()) {
                Ok(carrier) => {
                    entered.choose(&mut backend.head.headers);
                    let (address, expires_ms) = (from.address, entered.entry.expires_ms);
                    return Ok(Upgraded { visit, client, address, rule, berth, backend, carrier, cookie, expires_ms });
                }
                Err(refusal) => refusal,
            },
            Ok(Answer::Other(response)) => {
                let response = pass_on(response.map(|body| body.map(|body| body.on(berth))), visit.id, &rule, cookie);
                return Err(Stopped::Answered(client, Box::new(response), visit.permit));
            }
            Err(failure) => failure.refusal,
        };
        Err(Stopped::Refused(client, refusal, Some(visit.permit)))
    }
}

/// A backend's answer other than 101, as the client gets it.
fn pass_on(
    response: Response<Begun<upstream::Bounded>>,
    id: ConnId,
    rule: &Rule,
    cookie: Option<HeaderValue>,
) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    head.headers = headers::response(&head, rejected_status("backend-answer", id));
    rule.response_edits.apply(&mut head.headers);
    give(&mut head.headers, cookie);
    headers::only_reason(&mut head.extensions);
    head.version = http::Version::HTTP_11;
    Response::from_parts(head, UnsyncBoxBody::new(body))
}

/// The 101 for the client.
fn switch(headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

impl Upgraded {
    /// Tells the client, and takes both streams out of the HTTP library.
    pub(super) async fn quiesce(self) -> Result<Placed, Stopped> {
        let Self { visit, client, address, rule, berth, backend, carrier, cookie, expires_ms } = self;
        let status = upgraded_status(carrier.engine(), visit.id);
        let mut response = switch(headers::response(&backend.head, status));
        rule.response_edits.apply(response.headers_mut());
        give(response.headers_mut(), cookie);
        let Ok(Finished { io, read_ahead }) = client.switch(response, visit.done_by).await else {
            return Err(Stopped::Gone);
        };
        if read_ahead.len().max(backend.read_ahead.len()) > MAX_LEFTOVER {
            // The buffers' limit (limits.head_bytes, at most 64 KiB) lies below it.
            return Err(Stopped::Lost(Refusal::Internal));
        }
        let pair = Quiesced {
            facts: Facts {
                id: visit.id,
                client: address,
                listener: visit.listener,
                route: rule.way.route,
                backend: rule.way.backend,
                server: berth.server(),
                accepted_ms: visit.accepted_ms,
                expires_ms,
            },
            client: io,
            backend: backend.io,
            to_backend: read_ahead,
            to_client: backend.read_ahead,
            permit: visit.permit,
            berth,
        };
        Ok(Placed { pair, carrier })
    }
}

impl Placed {
    pub(super) async fn relay(self, gate: &Arc<Gate>) -> Result<(), Stopped> {
        let id = self.pair.facts.id;
        self.carrier.relay(self.pair, gate).await.map_err(|error| {
            log_lost(id, &error);
            Stopped::Lost(Refusal::Internal)
        })
    }
}

fn log_lost(id: ConnId, error: &io::Error) {
    tracing::warn!(conn = %id, %error, "a pair could not be handed over and is closed; is the keeper alive?");
}
