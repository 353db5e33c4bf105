//! A type per state of a connection; each is made only by the one before it.
//!
//! `Accepted → Up → HeadRead → Admitted → Dialled → Upgraded → Quiesced → Relayed`, and for a request that is no
//! WebSocket handshake `HeadRead → Plain → Replied`, from where the next one's HeadRead follows.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Client, after};
use crate::gate::admission::Permit;
use crate::gate::carrier::Carrier;
use crate::gate::exchange::{AnswerBody, Exchange, Finished, Gone, NoRequest, Patience};
use crate::gate::handshake::{self, Opening, Scheme, Target, Visitor, check_switch, forward as headers, http2};
use crate::gate::policy::{Rule, Subject, Way};
use crate::gate::pool::RequestBody;
use crate::gate::proxy_header::Ends;
use crate::gate::refusal::{Outcome, Refusal, rejected_status, upgraded_status};
use crate::gate::sticky::Kept;
use crate::gate::stream::{Keys, Stream};
use crate::gate::tls::Person;
use crate::gate::upstream::{self, Answer, Switched};
use crate::gate::{Gate, forward};
use crate::handoff::{ConnId, Facts, MAX_LEFTOVER, Peer, WhyNot};

/// What is known of a connection from its accept on.
pub(in crate::gate) struct Visit {
    pub(in crate::gate) id: ConnId,
    /// Whoever is at the other end of the connection: the client, or a proxy before it.
    pub(in crate::gate) client: Peer,
    /// Its address and the one that it came to, if they are known and some backend is to be told.
    pub(in crate::gate) ends: Option<Ends>,
    /// Who the client is by its certificate, if it has shown one.
    pub(in crate::gate) person: Option<Arc<Person>>,
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
#[derive(Clone, Copy)]
pub(in crate::gate) struct Note {
    pub(in crate::gate) id: ConnId,
    pub(in crate::gate) client: Peer,
    pub(in crate::gate) listener: u16,
}

impl Visit {
    pub(in crate::gate) fn note(&self) -> Note {
        Note { id: self.id, client: self.client, listener: self.listener }
    }

    /// That of one stream of this connection, which is a connection of its own to all that comes behind.
    ///
    /// # Errors
    /// There is no room for it.
    pub(in crate::gate) fn stream(&self, gate: &Gate) -> Result<Self, Note> {
        let note = Note { id: gate.next_id(), ..self.note() };
        let permit = gate.admission.try_permit().ok_or(note)?;
        let now = Instant::now();
        Ok(Self {
            id: note.id,
            client: self.client,
            ends: self.ends,
            person: self.person.clone(),
            listener: self.listener,
            accepted_ms: now_ms(),
            head_by: now,
            done_by: after(gate.config.timeouts.handshake),
            permit,
        })
    }
}

/// Milliseconds since the Unix epoch.
pub(in crate::gate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
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
    /// What has been read from it already.
    pub(super) front: Bytes,
}

/// A request as it came over HTTP/2.
pub(in crate::gate) struct Asked {
    pub(in crate::gate) client: Client,
    pub(in crate::gate) head: http::request::Parts,
    /// What the connection speaks below HTTP/2.
    pub(in crate::gate) scheme: Scheme,
}

/// A client whose request head is complete.
pub(super) struct HeadRead {
    visit: Visit,
    client: Client,
    /// Who can carry the client's side.
    keys: Keys,
    scheme: Scheme,
    head: http::request::Parts,
}

/// What a request is.
pub(super) enum Judged {
    /// A WebSocket handshake that may enter.
    Handshake(Box<Admitted>),
    /// Plain HTTP for a route that takes it.
    Plain(Box<Plain>),
}

/// A request that is a WebSocket handshake and may enter.
pub(super) struct Admitted {
    visit: Visit,
    client: Client,
    keys: Keys,
    from: From,
    opening: Opening,
    request: Request<Empty<Bytes>>,
    rule: Arc<Rule>,
    kept: Option<Kept>,
}

/// Whom a request comes from.
#[derive(Clone, Copy)]
struct From {
    /// The client's address, which the peer's need not be.
    address: Peer,
    /// What the client speaks, which the listener need not speak.
    scheme: Scheme,
}

/// A request that is none, and may go on to a backend.
pub(super) struct Plain {
    visit: Visit,
    client: Client,
    keys: Keys,
    scheme: Scheme,
    from: From,
    request: Request<RequestBody>,
    rule: Arc<Rule>,
    kept: Option<Kept>,
    last: bool,
}

/// A plain request with the backend's answer.
pub(super) struct Replied {
    visit: Visit,
    client: Client,
    keys: Keys,
    scheme: Scheme,
    response: Response<AnswerBody>,
}

/// A request with a connection to a server that can answer it.
pub(super) struct Dialled {
    admitted: Box<Admitted>,
    backend: Stream,
    server: u16,
}

/// A backend that has agreed; the client does not know it yet.
pub(super) struct Upgraded {
    visit: Visit,
    client: Client,
    address: Peer,
    rule: Arc<Rule>,
    server: u16,
    backend: Switched,
    carrier: Carrier,
    cookie: Option<HeaderValue>,
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
    /// The client is done, behind plain requests that were answered; its connection, if it is this client's alone.
    Done(Option<Stream>, Permit),
    /// It failed after the 101: nothing can be said any more.
    Lost(Refusal),
    /// Refused before the HTTP library had a request to answer.
    Unread(Stream, Refusal, Permit),
    /// Refused by the HTTP library itself, behind plain requests that were answered.
    Told(Stream, Refusal, Permit),
    /// Refused.
    Refused(Client, Refusal, Option<Permit>),
    /// The backend's own answer goes to the client.
    Answered(Client, Box<Response<AnswerBody>>, Permit),
}

impl Stopped {
    /// What is counted; `None` if everything has been.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Gone => Some(Outcome::ClientGone),
            Self::Done(..) => None,
            Self::Answered(..) => Some(Outcome::BackendAnswer),
            Self::Lost(refusal)
            | Self::Unread(_, refusal, _)
            | Self::Told(_, refusal, _)
            | Self::Refused(_, refusal, _) => Some(Outcome::Refused(*refusal)),
        }
    }
}

impl Up {
    pub(super) async fn read_head(self, gate: &Gate) -> Result<HeadRead, Stopped> {
        let Self { visit, stream, front } = self;
        let keys = stream.keys();
        match Exchange::new(stream, front, &gate.config.limits).read_head(visit.head_by).await {
            Ok((exchange, head)) => {
                Ok(HeadRead { visit, client: Client::Http1(exchange), keys, scheme: keys.scheme(), head })
            }
            Err(no_request) => Err(unread(no_request, visit.permit)),
        }
    }
}

fn unread(why: NoRequest<Stream>, permit: Permit) -> Stopped {
    match why {
        NoRequest::Gone => Stopped::Gone,
        NoRequest::Done(stream) => Stopped::Done(Some(stream), permit),
        NoRequest::Answered(stream, refusal) => Stopped::Told(stream, refusal, permit),
        NoRequest::Refused(stream, refusal) => Stopped::Unread(stream, refusal, permit),
    }
}

impl Asked {
    /// The request as it would have come over HTTP/1.1.
    pub(super) fn over_http2(self, visit: Visit) -> Result<HeadRead, Stopped> {
        let Self { client, mut head, scheme } = self;
        let protocol = head.extensions.remove::<h2::ext::Protocol>();
        match http2::as_http1(head, protocol.as_ref().map(h2::ext::Protocol::as_str), handshake::key(rand::random())) {
            Ok(head) => Ok(HeadRead { visit, client, keys: Keys::User(WhyNot::Http2), scheme, head }),
            Err(refusal) => Err(Stopped::Refused(client, refusal, Some(visit.permit))),
        }
    }
}

impl HeadRead {
    /// Finds the client's own address and the route. The log names the client from here on.
    pub(super) fn judge(mut self, gate: &Gate, note: &mut Note) -> Result<Judged, Stopped> {
        let visitor = Visitor::judge(&gate.config.forwarded, self.visit.client, self.scheme, &self.head.headers);
        note.client = visitor.client;
        let from = From { address: visitor.client, scheme: visitor.scheme };
        let judged = if handshake::asks_for_websocket(&self.head) {
            self.handshake(gate, &visitor).map(Ok)
        } else {
            self.plain(gate, &visitor).map(Err)
        };
        let Self { mut visit, client, keys, scheme, head } = self;
        match judged {
            Ok(Ok((opening, Passed { rule, kept, request }))) => {
                visit.done_by = done_by(gate, visit.done_by, &rule);
                let admitted = Admitted { visit, client, keys, from, opening, request, rule, kept };
                Ok(Judged::Handshake(Box::new(admitted)))
            }
            Ok(Err((last, Passed { rule, kept, request }))) => {
                Ok(Judged::Plain(Box::new(Plain { visit, client, keys, scheme, from, request, rule, kept, last })))
            }
            Err(refusal) => {
                // Without the query, which may hold a token.
                let (path, headers) = (head.uri.path(), &head.headers);
                let (host, origin) = (headers.get(http::header::HOST), headers.get(http::header::ORIGIN));
                tracing::debug!(conn = %visit.id, path, ?host, ?origin, "not admitted");
                Err(Stopped::Refused(client, refusal, Some(visit.permit)))
            }
        }
    }

    fn handshake(&mut self, gate: &Gate, visitor: &Visitor) -> Result<(Opening, Passed<Empty<Bytes>>), Refusal> {
        let opening = Opening::check(&self.head, visitor)?;
        let rule = gate.routes.find(&Subject::new(&self.head, &opening.target))?;
        rule.admit(&opening.caller, &opening.target.own_origin)?;
        let passed = self.pass(gate, visitor, rule, (&opening.target, &opening.hop_by_hop), |_| Empty::new())?;
        Ok((opening, passed))
    }

    /// A request that no route takes as it is is refused as the handshake that it is not.
    fn plain(&mut self, gate: &Gate, visitor: &Visitor) -> Result<(bool, Passed<RequestBody>), Refusal> {
        let as_handshake = |head| Opening::check(head, visitor).err().unwrap_or(Refusal::NotWebSocket);
        if !gate.routes.take_plain() {
            return Err(as_handshake(&self.head));
        }
        let plain = handshake::Plain::check(&self.head, visitor)?;
        let rule = gate.routes.find(&Subject::new(&self.head, &plain.target))?;
        rule.admit_plain(&plain.caller, &plain.target.own_origin).map_err(|refusal| match refusal {
            Refusal::NotWebSocket => as_handshake(&self.head),
            other => other,
        })?;
        let passed = self.pass(gate, visitor, rule, (&plain.target, &plain.hop_by_hop), Client::take_body)?;
        Ok((plain.last, passed))
    }

    /// Takes the client's place on its route, and writes the request to the backend.
    fn pass<B>(
        &mut self,
        gate: &Gate,
        visitor: &Visitor,
        rule: &Arc<Rule>,
        (target, hop_by_hop): (&Target, &[String]),
        body: impl FnOnce(&mut Client) -> B,
    ) -> Result<Passed<B>, Refusal> {
        let head = &self.head;
        let sent = head.uri.path_and_query().ok_or(Refusal::Path)?;
        let sent = rule.target(sent, &target.path)?;
        self.visit.permit.sit(gate.seats.take(rule.way.route)?);
        let body = body(&mut self.client);
        let mut request = headers::request(head, sent, hop_by_hop, visitor, &gate.config.forwarded, body);
        let kept = kept(gate, rule.way, request.headers_mut());
        if let Some(person) = &self.visit.person {
            person.tell(request.headers_mut());
        }
        rule.request_edits.apply(request.headers_mut());
        Ok(Passed { rule: rule.clone(), kept, request })
    }
}

/// What is made of a request that may enter.
struct Passed<B> {
    rule: Arc<Rule>,
    kept: Option<Kept>,
    request: Request<B>,
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

/// The server that the client was on before, by its cookie, which is not for the backend.
fn kept(gate: &Gate, way: Way, headers: &mut HeaderMap) -> Option<Kept> {
    let sticky = gate.sticky(way.backend)?;
    let kept = sticky.read(headers, now_ms() / 1000);
    sticky.strip(headers);
    kept
}

/// Gives the client a cookie of ours beside the backend's.
fn give(headers: &mut HeaderMap, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        headers.append(SET_COOKIE, cookie);
    }
}

impl Plain {
    pub(super) async fn forward(self: Box<Self>, gate: &Arc<Gate>, note: &Note) -> Result<Replied, Stopped> {
        let Self { visit, mut client, keys, scheme, from, request, rule, kept, last } = *self;
        match client.while_there(forward::forward(gate, rule.way, kept, visit.ends, request, visit.id)).await {
            Err(Gone) => Err(Stopped::Gone),
            Ok(Err(refusal)) => Err(Stopped::Refused(client, refusal, Some(visit.permit))),
            Ok(Ok((server, response))) => {
                gate.conclude(note, Outcome::Forwarded);
                let mut response = reply(response, &rule);
                give(response.headers_mut(), gate.stick(rule.way.backend, server, kept, from.scheme));
                if last {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok(Replied { visit, client, keys, scheme, response })
            }
        }
    }
}

/// A backend's answer to a plain request, as the client gets it.
fn reply(response: Response<AnswerBody>, rule: &Rule) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    head.headers = headers::plain_response(&head);
    rule.response_edits.apply(&mut head.headers);
    head.extensions.clear();
    head.version = http::Version::HTTP_11;
    Response::from_parts(head, body)
}

impl Replied {
    /// Answers, and reads the next request on the same connection.
    pub(super) async fn next(self, gate: &Gate) -> Result<HeadRead, Stopped> {
        let Self { mut visit, client, keys, scheme, response } = self;
        let timeouts = &gate.config.timeouts;
        match client {
            Client::Http1(exchange) => {
                let patience = Patience { idle: timeouts.keep_alive, head: timeouts.head };
                match exchange.answer_and_read(response, patience).await {
                    Ok((exchange, head)) => {
                        visit.done_by = after(timeouts.handshake);
                        Ok(HeadRead { visit, client: Client::Http1(exchange), keys, scheme, head })
                    }
                    Err(NoRequest::Gone) => Err(Stopped::Done(None, visit.permit)),
                    Err(no_request) => Err(unread(no_request, visit.permit)),
                }
            }
            Client::Http2(call) => {
                if call.answer(response).await.is_err() {
                    tracing::debug!(conn = %visit.id, "the client went away from its answer");
                }
                Err(Stopped::Done(None, visit.permit))
            }
        }
    }
}

impl Admitted {
    pub(super) async fn dial(mut self: Box<Self>, gate: &Gate) -> Result<Dialled, Stopped> {
        let dial = timeout_at(self.visit.done_by, gate.dial(self.rule.way, self.kept, self.visit.ends, self.visit.id));
        match self.client.while_there(dial).await {
            Err(Gone) => Err(Stopped::Gone),
            Ok(Ok(Ok((server, backend)))) => Ok(Dialled { admitted: self, backend, server }),
            Ok(Ok(Err(refusal))) => Err(Stopped::Refused(self.client, refusal, Some(self.visit.permit))),
            Ok(Err(_)) => Err(Stopped::Refused(self.client, Refusal::HandshakeTimeout, Some(self.visit.permit))),
        }
    }
}

impl Dialled {
    pub(super) async fn upgrade(self, gate: &Arc<Gate>) -> Result<Upgraded, Stopped> {
        let Admitted { visit, mut client, keys, from, opening, request, rule, kept } = *self.admitted;
        let cookie = gate.stick(rule.way.backend, self.server, kept, from.scheme);
        let late = after(gate.config.timeouts(rule.way.route).response);
        let ask = upstream::ask(self.backend, request, &gate.config.limits, late.min(visit.done_by));
        let answer = match client.while_there(ask).await {
            Err(Gone) => return Err(Stopped::Gone),
            Ok(answer) => answer.map_err(|failure| {
                let server = gate.server(rule.way.backend, self.server).map(tracing::field::display);
                tracing::info!(conn = %visit.id, server, %failure, "no answer of the backend");
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
            Ok(Ok((backend, carrier))) => Ok(Upgraded {
                visit,
                client,
                address: from.address,
                rule,
                server: self.server,
                backend,
                carrier,
                cookie,
            }),
            Ok(Err(response)) => {
                Err(Stopped::Answered(client, Box::new(pass_on(response, visit.id, &rule, cookie)), visit.permit))
            }
            Err(refusal) => Err(Stopped::Refused(client, refusal, Some(visit.permit))),
        }
    }
}

/// A backend's answer other than 101, as the client gets it.
fn pass_on(
    response: Response<upstream::Bounded>,
    id: ConnId,
    rule: &Rule,
    cookie: Option<HeaderValue>,
) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    head.headers = headers::response(&head, rejected_status("backend-answer", id));
    rule.response_edits.apply(&mut head.headers);
    give(&mut head.headers, cookie);
    head.extensions.clear();
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
        let Self { visit, client, address, rule, server, backend, carrier, cookie } = self;
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
