//! A type per state of a connection; each is made only by the one before it.
//!
//! `Accepted → Up → HeadRead → Admitted → Dialled → Upgraded → Quiesced → Relayed`

use std::io;
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
use crate::gate::handshake::{Opening, check_switch, forward};
use crate::gate::policy::Way;
use crate::gate::proxy_header::Ends;
use crate::gate::refusal::{Outcome, Refusal, rejected_status, upgraded_status};
use crate::gate::stream::{Keys, Stream};
use crate::gate::tls::Person;
use crate::gate::upstream::{self, Answer, Switched};
use crate::handoff::{ConnId, Facts, MAX_LEFTOVER, Peer};

/// What is known of a connection from its accept on.
pub(in crate::gate) struct Visit {
    pub(in crate::gate) id: ConnId,
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
pub(in crate::gate) struct Note {
    pub(in crate::gate) id: ConnId,
    pub(in crate::gate) client: Peer,
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
    opening: Opening,
    request: Request<Empty<Bytes>>,
    way: Way,
}

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
    way: Way,
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
    pub(super) fn admit(self, gate: &Gate) -> Result<Admitted, Stopped> {
        let Self { visit, exchange, keys, head } = self;
        let scheme = keys.scheme();
        let judged = Opening::check(&head, scheme).and_then(|opening| {
            let way = gate.routes.admit(&opening)?;
            let mut request = forward::request(&head, &opening, visit.client.ip(), scheme)?;
            if let Some(person) = &visit.person {
                person.tell(request.headers_mut());
            }
            Ok((opening, way, request))
        });
        match judged {
            Ok((opening, way, request)) => Ok(Admitted { visit, exchange, keys, opening, request, way }),
            Err(refusal) => {
                // Without the query, which may hold a token.
                let (path, headers) = (head.uri.path(), &head.headers);
                let (host, origin) = (headers.get(http::header::HOST), headers.get(http::header::ORIGIN));
                tracing::debug!(conn = %visit.id, path, ?host, ?origin, "not admitted");
                Err(Stopped::Refused(exchange, refusal, visit.permit))
            }
        }
    }
}

impl Admitted {
    pub(super) async fn dial(mut self, gate: &Gate) -> Result<Dialled, Stopped> {
        let dial = timeout_at(self.visit.done_by, gate.dial(self.way.backend, self.visit.ends, self.visit.id));
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
        let Admitted { visit, mut exchange, keys, opening, request, way } = self.admitted;
        let late = after(gate.config.timeouts.response);
        let ask = upstream::ask(self.backend, request, &gate.config.limits, late.min(visit.done_by));
        let answer = match exchange.while_there(ask).await {
            Err(Gone) => return Err(Stopped::Gone),
            Ok(answer) => answer.map_err(|failure| {
                let server = gate.server(way.backend, self.server).map(tracing::field::display);
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
            Ok(Ok((backend, carrier))) => Ok(Upgraded { visit, exchange, way, server: self.server, backend, carrier }),
            Ok(Err(response)) => Err(Stopped::Answered(exchange, Box::new(pass_on(response, visit.id)), visit.permit)),
            Err(refusal) => Err(Stopped::Refused(exchange, refusal, visit.permit)),
        }
    }
}

/// A backend's answer other than 101, as the client gets it.
fn pass_on(response: Response<upstream::Bounded>, id: ConnId) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    head.headers = forward::response(&head, rejected_status("backend-answer", id));
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
        let Self { visit, exchange, way, server, backend, carrier } = self;
        let status = upgraded_status(carrier.engine(), visit.id);
        let response = switch(forward::response(&backend.head, status));
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
                client: visit.client,
                listener: visit.listener,
                route: way.route,
                backend: way.backend,
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
