//! A type per state of a connection; each is made only by the one before it.
//!
//! `Accepted → Up → HeadRead → Admitted → Dialled → Upgraded → Quiesced → Relayed`

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::after;
use crate::gate::Gate;
use crate::gate::admission::Permit;
use crate::gate::carrier::Carrier;
use crate::gate::exchange::{AnswerBody, Exchange, Finished, Gone, NoRequest};
use crate::gate::handshake::{Opening, Visitor, check_switch, forward};
use crate::gate::policy::{Rule, Subject};
use crate::gate::refusal::{Outcome, Refusal, rejected_status, upgraded_status};
use crate::gate::stream::{Keys, Stream};
use crate::gate::upstream::{self, Answer, Switched};
use crate::handoff::{ConnId, Facts, MAX_LEFTOVER};

/// What is known of a connection from its accept on.
pub(in crate::gate) struct Visit {
    pub(in crate::gate) id: ConnId,
    /// Whoever is at the other end of the connection: the client, or a proxy before it.
    pub(in crate::gate) client: SocketAddr,
    pub(in crate::gate) listener: u16,
    /// Milliseconds since the Unix epoch.
    pub(in crate::gate) accepted_ms: u64,
    /// When the request head must be complete.
    pub(in crate::gate) head_by: Instant,
    /// When the whole handshake must be done.
    pub(in crate::gate) done_by: Instant,
    pub(in crate::gate) permit: Permit,
}

/// What a log line says of a connection.
pub(in crate::gate) struct Note {
    pub(in crate::gate) id: ConnId,
    pub(in crate::gate) client: SocketAddr,
    pub(in crate::gate) listener: u16,
}

impl Visit {
    pub(in crate::gate) fn note(&self) -> Note {
        Note { id: self.id, client: self.client, listener: self.listener }
    }
}

/// A connection that the kernel has accepted.
pub(in crate::gate) struct Accepted {
    pub(in crate::gate) visit: Visit,
    pub(in crate::gate) stream: TcpStream,
}

/// A connection that can carry HTTP: TLS, if the listener has it, is up.
pub(super) struct Up {
    pub(super) visit: Visit,
    pub(super) stream: Stream,
}

/// A client whose request head is complete.
pub(super) struct HeadRead {
    visit: Visit,
    exchange: Exchange<Stream>,
    /// Who holds the keys of the client's side.
    keys: Keys,
    head: http::request::Parts,
}

/// A request that is a WebSocket handshake and may enter.
pub(super) struct Admitted {
    visit: Visit,
    exchange: Exchange<Stream>,
    keys: Keys,
    /// Its address, which the peer's need not be.
    client: SocketAddr,
    opening: Opening,
    request: Request<Empty<Bytes>>,
    rule: Arc<Rule>,
}

/// What is made of a request that may enter.
type Passed = (Opening, Arc<Rule>, Request<Empty<Bytes>>);

/// A request with a connection to a server that can answer it.
pub(super) struct Dialled {
    admitted: Admitted,
    backend: Stream,
    server: u16,
}

/// A backend that has agreed; the client does not know it yet.
pub(super) struct Upgraded {
    visit: Visit,
    exchange: Exchange<Stream>,
    client: SocketAddr,
    rule: Arc<Rule>,
    server: u16,
    backend: Switched,
    carrier: Carrier,
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
    /// It failed after the 101: nothing can be said any more.
    Lost(Refusal),
    /// Refused before the HTTP library had a request to answer.
    Unread(Stream, Refusal, Permit),
    /// Refused.
    Refused(Exchange<Stream>, Refusal, Permit),
    /// The backend's own answer goes to the client.
    Answered(Exchange<Stream>, Box<Response<AnswerBody>>, Permit),
}

impl Stopped {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Gone => Outcome::ClientGone,
            Self::Answered(..) => Outcome::BackendAnswer,
            Self::Lost(refusal) | Self::Unread(_, refusal, _) | Self::Refused(_, refusal, _) => {
                Outcome::Refused(*refusal)
            }
        }
    }
}

impl Up {
    pub(super) async fn read_head(self, gate: &Gate) -> Result<HeadRead, Stopped> {
        let Self { visit, stream } = self;
        let keys = stream.keys();
        match Exchange::new(stream, &gate.config.limits).read_head(visit.head_by).await {
            Ok((exchange, head)) => Ok(HeadRead { visit, exchange, keys, head }),
            Err(NoRequest::Gone) => Err(Stopped::Gone),
            Err(NoRequest::Refused(stream, refusal)) => Err(Stopped::Unread(stream, refusal, visit.permit)),
        }
    }
}

impl HeadRead {
    /// Finds the client's own address and the route. The log names the client from here on.
    pub(super) fn admit(mut self, gate: &Gate, note: &mut Note) -> Result<Admitted, Stopped> {
        let visitor = Visitor::judge(&gate.config.forwarded, self.visit.client, self.keys.scheme(), &self.head.headers);
        note.client = visitor.client;
        let judged = self.judge(gate, &visitor);
        let Self { mut visit, exchange, keys, head } = self;
        match judged {
            Ok((opening, rule, request)) => {
                visit.done_by = done_by(gate, visit.done_by, &rule);
                Ok(Admitted { visit, exchange, keys, client: visitor.client, opening, request, rule })
            }
            Err(refusal) => {
                // Without the query, which may hold a token.
                let (path, headers) = (head.uri.path(), &head.headers);
                let (host, origin) = (headers.get(http::header::HOST), headers.get(http::header::ORIGIN));
                tracing::debug!(conn = %visit.id, path, ?host, ?origin, "not admitted");
                Err(Stopped::Refused(exchange, refusal, visit.permit))
            }
        }
    }

    fn judge(&mut self, gate: &Gate, visitor: &Visitor) -> Result<Passed, Refusal> {
        let head = &self.head;
        let opening = Opening::check(head, visitor)?;
        let target = &opening.target;
        let rule = gate.routes.find(&Subject::new(head, target))?;
        rule.admit(&opening.caller, &target.own_origin)?;
        self.visit.permit.sit(gate.seats.take(rule.way.route)?);
        let sent = head.uri.path_and_query().ok_or(Refusal::Path)?;
        let sent = rule.target(sent, &target.path)?;
        let mut request =
            forward::request(head, sent, &opening.hop_by_hop, visitor, &gate.config.forwarded, Empty::new());
        rule.request_edits.apply(request.headers_mut());
        Ok((opening, rule.clone(), request))
    }
}

/// When the handshake must be done by this route's limit, which began at the accept as the general one did.
fn done_by(gate: &Gate, general: Instant, rule: &Rule) -> Instant {
    let (own, usual) = (gate.config.timeouts(rule.way.route).handshake, gate.config.timeouts.handshake);
    let moved = match own.checked_sub(usual) {
        Some(more) => general.checked_add(more),
        None => general.checked_sub(usual - own),
    };
    moved.unwrap_or(general)
}

impl Admitted {
    pub(super) async fn dial(mut self, gate: &Gate) -> Result<Dialled, Stopped> {
        let dial = timeout_at(self.visit.done_by, gate.dial(self.rule.way, self.visit.id));
        match self.exchange.while_there(dial).await {
            Err(Gone) => Err(Stopped::Gone),
            Ok(Ok(Ok((server, backend)))) => Ok(Dialled { admitted: self, backend, server }),
            Ok(Ok(Err(refusal))) => Err(Stopped::Refused(self.exchange, refusal, self.visit.permit)),
            Ok(Err(_)) => Err(Stopped::Refused(self.exchange, Refusal::HandshakeTimeout, self.visit.permit)),
        }
    }
}

impl Dialled {
    pub(super) async fn upgrade(self, gate: &Arc<Gate>) -> Result<Upgraded, Stopped> {
        let Admitted { visit, mut exchange, keys, client, opening, request, rule } = self.admitted;
        let late = after(gate.config.timeouts(rule.way.route).response);
        let ask = upstream::ask(self.backend, request, &gate.config.limits, late.min(visit.done_by));
        let answer = match exchange.while_there(ask).await {
            Err(Gone) => return Err(Stopped::Gone),
            Ok(answer) => answer.map_err(|failure| {
                let server = gate.server(rule.way.backend, self.server);
                tracing::info!(conn = %visit.id, ?server, %failure, "no answer of the backend");
                failure.refusal
            }),
        };
        let switched = answer.and_then(|answer| match answer {
            Answer::Switch(backend) => {
                check_switch(&backend.head, &opening)?;
                let carrier = Carrier::find(gate, keys, backend.io.keys())?;
                Ok(Ok((backend, carrier)))
            }
            Answer::Other(response) => Ok(Err(response)),
        });
        match switched {
            Ok(Ok((backend, carrier))) => {
                Ok(Upgraded { visit, exchange, client, rule, server: self.server, backend, carrier })
            }
            Ok(Err(response)) => {
                Err(Stopped::Answered(exchange, Box::new(pass_on(response, visit.id, &rule)), visit.permit))
            }
            Err(refusal) => Err(Stopped::Refused(exchange, refusal, visit.permit)),
        }
    }
}

/// A backend's answer other than 101, as the client gets it.
fn pass_on(response: Response<upstream::Bounded>, id: ConnId, rule: &Rule) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    head.headers = forward::response(&head, rejected_status("backend-answer", id));
    rule.response_edits.apply(&mut head.headers);
    head.extensions.clear();
    head.version = http::Version::HTTP_11;
    Response::from_parts(head, UnsyncBoxBody::new(body))
}

/// The 101 for the client.
fn switch(headers: HeaderMap) -> Response<AnswerBody> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

impl Upgraded {
    /// Tells the client, and takes both streams out of the HTTP library.
    pub(super) async fn quiesce(self) -> Result<Placed, Stopped> {
        let Self { visit, exchange, client, rule, server, backend, carrier } = self;
        let status = upgraded_status(carrier.engine(), visit.id);
        let mut headers = forward::response(&backend.head, status);
        rule.response_edits.apply(&mut headers);
        let response = switch(headers);
        let Ok(Finished { io, read_ahead }) = exchange.answer(response, visit.done_by).await else {
            return Err(Stopped::Gone);
        };
        if read_ahead.len().max(backend.read_ahead.len()) > MAX_LEFTOVER {
            // The buffers' limit (limits.head_bytes, at most 64 KiB) lies below it.
            return Err(Stopped::Lost(Refusal::Internal));
        }
        let pair = Quiesced {
            facts: Facts {
                id: visit.id,
                client,
                listener: visit.listener,
                route: rule.way.route,
                backend: rule.way.backend,
                server,
                accepted_ms: visit.accepted_ms,
            },
            client: io,
            backend: backend.io,
            to_backend: read_ahead,
            to_client: backend.read_ahead,
            permit: visit.permit,
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
