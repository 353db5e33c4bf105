//! What a request is, and where it may go.

use std::sync::Arc;

use http::Request;
use http::header::{HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http_body_util::Empty;
use hyper::body::Body as _;
use tokio::time::Instant;

use super::Client;
use super::cors::{Cors, Reader};
use super::enter::{Entered, Entrance, NotEntered};
use super::note::Note;
use super::plain::Plain;
use super::states::{Admitted, Stopped};
use super::visit::Visit;
use crate::config::Limits;
use crate::gate::Gate;
use crate::gate::dial::Errand;
use crate::gate::exchange::{self, Gone};
use crate::gate::handshake::{self, Scheme, Visitor, forward as headers, http2};
use crate::gate::judge::{self, Kind, Verdict};
use crate::gate::limit::Denied;
use crate::gate::policy::{Rule, Subject, Way};
use crate::gate::pool::{Purpose, RequestBody};
use crate::gate::refusal::Refusal;
use crate::gate::sticky::Kept;
use crate::gate::stream::Keys;
use crate::handoff::{Peer, WhyNot};
use crate::sys::clock::epoch_ms;

/// A request as it came over HTTP/2.
pub(in crate::gate) struct Asked {
    pub(in crate::gate) client: Client,
    pub(in crate::gate) head: http::request::Parts,
    /// What the connection speaks below HTTP/2.
    pub(in crate::gate) scheme: Scheme,
}

/// A client whose request head is complete.
pub(super) struct HeadRead {
    pub(super) visit: Visit,
    pub(super) client: Client,
    /// Who can carry the client's side.
    pub(super) keys: Keys,
    pub(super) scheme: Scheme,
    pub(super) head: http::request::Parts,
}

/// What a request is.
pub(super) enum Judged {
    /// A WebSocket handshake that may enter.
    Handshake(Box<Admitted>),
    /// Plain HTTP for a route that takes it.
    Plain(Box<Plain>),
}

/// Whom a request comes from.
#[derive(Clone, Copy)]
pub(super) struct From {
    /// The client's address, which the peer's need not be.
    pub(super) address: Peer,
    /// What the client speaks, which the listener need not speak.
    pub(super) scheme: Scheme,
    /// Whether a proxy says so, who may ask for somebody else next.
    pub(super) told: bool,
    /// Of what hashing looks at, if its backend's servers are chosen by that.
    pub(super) key: Option<u64>,
}

impl Asked {
    /// The request as it would have come over HTTP/1.1.
    pub(super) fn over_http2(self, visit: Visit, limits: &Limits) -> Result<HeadRead, Stopped> {
        let Self { client, mut head, scheme } = self;
        let protocol = head.extensions.remove::<h2::ext::Protocol>();
        let protocol = protocol.as_ref().map(h2::ext::Protocol::as_str);
        match http2::as_http1(head, protocol, handshake::key(rand::random()), limits) {
            Ok(head) => Ok(HeadRead { visit, client, keys: Keys::User(WhyNot::Http2), scheme, head }),
            Err(refusal) => Err(Stopped::Refused(client, refusal, Some(visit.permit))),
        }
    }
}

impl HeadRead {
    /// Finds the client's own address and the route, takes its places, and has the client show who it is. The log names the
    /// client from here on.
    pub(super) async fn judge(mut self, gate: &Arc<Gate>, note: &mut Note) -> Result<Judged, Stopped> {
        let visitor = Visitor::judge(&gate.config.forwarded, self.visit.client, self.scheme, &self.head.headers);
        note.client = visitor.client;
        note.begin(&self.head);
        if self.visit.permit.is_spare() {
            return Err(Stopped::Refused(self.client, Refusal::Full, Some(self.visit.permit)));
        }
        let from = From { address: visitor.client, scheme: visitor.scheme, told: visitor.trusted, key: None };
        let mut cors = Cors::of(&self.head.headers);
        let judged = self.visit.let_in(gate, visitor.client).and_then(|()| {
            handshake::settle(&mut self.head, self.visit.came_to)?;
            let verdict = Verdict::judge(&gate.routes, &self.head, &visitor)?;
            cors.reader = if verdict.names_page() { Reader::Named } else { Reader::Anybody };
            self.visit.permit.go(verdict.rule.way.route)?;
            Ok(verdict)
        });
        match judged {
            Ok(verdict) => {
                // Before credentials are taken out of the request: it may be one of them that hashing looks at.
                let subject = Subject::new(&self.head, verdict.kind.target());
                let fleet = gate.fleet(verdict.rule.way.backend);
                let key = fleet.and_then(|fleet| fleet.key(visitor.client.ip(), &subject));
                note.detail().way = Some(verdict.rule.way);
                self.enter(gate, &visitor, From { key, ..from }, verdict, (cors, note)).await
            }
            Err(Denied { refusal, wait }) => {
                note.wait = wait;
                note.detail().way = judge::way(&gate.routes, &self.head, &visitor);
                if refusal == Refusal::OriginDenied {
                    cors.reader = Reader::Anybody;
                }
                Err(cors.refuse(gate, self.client, refusal, note, self.visit.permit))
            }
        }
    }

    /// Has the client show who it is, if the route asks for it.
    async fn enter(
        mut self,
        gate: &Arc<Gate>,
        visitor: &Visitor,
        from: From,
        mut verdict: Verdict<'_>,
        (cors, note): (Cors, &Note),
    ) -> Result<Judged, Stopped> {
        if verdict.rule.auth.is_empty() {
            return Ok(self.pass(gate, visitor, from, verdict, Entered::default(), cors));
        }
        let (ends, id, done_by) = (self.visit.ends, self.visit.id, done_by(gate, self.visit.done_by, verdict.rule));
        let entrance = Entrance { gate, visitor, ends, id, done_by };
        // In a box: what it needs of room, for a question to a service say, the connection's task need not have for ever.
        let enter = Box::pin(entrance.enter(&mut self.head, &mut verdict));
        match self.client.while_there(enter).await {
            Ok(Ok(entered)) => Ok(self.pass(gate, visitor, from, verdict, entered, cors)),
            Ok(Err(NotEntered::Refused(refusal))) => {
                Err(cors.refuse(gate, self.client, refusal, note, self.visit.permit))
            }
            Ok(Err(NotEntered::Answered(refusal, mut answer))) => {
                cors.tell(answer.headers_mut());
                let answer = Box::new(exchange::whole(*answer));
                Err(Stopped::Denied(self.client, answer, refusal, self.visit.permit))
            }
            Err(Gone) => Err(Stopped::Gone),
        }
    }

    /// Writes the request for the backend.
    fn pass(
        self,
        gate: &Gate,
        visitor: &Visitor,
        from: From,
        verdict: Verdict<'_>,
        entered: Entered,
        cors: Cors,
    ) -> Judged {
        let Self { mut visit, mut client, keys, scheme, head } = self;
        let Verdict { rule, kind, target } = verdict;
        let (rule, settings) = (rule.clone(), &gate.config.forwarded);
        match kind {
            Kind::Plain(plain) => {
                let (body, last) = (client.take_body(), plain.last);
                let mut request = headers::request(&head, target, &plain.hop_by_hop, visitor, settings, body);
                frame(&mut request);
                let errand = Errand { key: from.key, ..finish(gate, &visit, &rule, &entered, request.headers_mut()) };
                Judged::Plain(Box::new(Plain { visit, client, keys, scheme, from, request, rule, errand, last, cors }))
            }
            Kind::Handshake(opening) => {
                let body = Empty::new();
                let mut request = headers::request(&head, target, &opening.hop_by_hop, visitor, settings, body);
                let errand = Errand { key: from.key, ..finish(gate, &visit, &rule, &entered, request.headers_mut()) };
                visit.done_by = done_by(gate, visit.done_by, &rule);
                Judged::Handshake(Box::new(Admitted {
                    visit,
                    client,
                    keys,
                    from,
                    opening,
                    request,
                    rule,
                    errand,
                    entered,
                }))
            }
        }
    }
}

/// Writes into a request's header what only the gate knows, and what the route changes. Returns what a server is looked for
/// with.
fn finish(gate: &Gate, visit: &Visit, rule: &Rule, entered: &Entered, headers: &mut HeaderMap) -> Errand {
    let kept = kept(gate, rule.way, headers);
    gate.loaded.clear(rule.way.backend, &rule.auth, headers);
    gate.routes.keep_method(headers);
    if let Some(person) = &visit.person {
        person.tell(headers);
    }
    entered.tell(headers);
    rule.request_edits.apply(headers);
    let purpose = Purpose::Clients;
    Errand { way: rule.way, purpose, kept, key: None, ends: visit.ends, by: None, id: visit.id }
}

/// Has a body of unknown length sent in chunks. The HTTP library does so by itself but for methods whose requests mostly
/// have none: those of GET and HEAD it would leave out.
fn frame(request: &mut Request<RequestBody>) {
    if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
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

/// The server that the client was on before, by its cookie, which is not for the backend.
fn kept(gate: &Gate, way: Way, headers: &mut HeaderMap) -> Option<Kept> {
    let sticky = gate.fleet(way.backend)?.sticky()?;
    let kept = sticky.read(headers, epoch_ms() / 1000);
    sticky.strip(headers);
    kept
}
