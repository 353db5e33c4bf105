//! What a request is, and where it may go.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Empty;
use tokio::time::Instant;

use super::Client;
use super::plain::Plain;
use super::states::{Admitted, Stopped};
use super::visit::{Note, Visit, now_ms};
use crate::gate::Gate;
use crate::gate::handshake::{self, Opening, Scheme, Target, Visitor, forward as headers, http2};
use crate::gate::policy::{Rule, Subject, Way};
use crate::gate::pool::RequestBody;
use crate::gate::refusal::Refusal;
use crate::gate::sticky::Kept;
use crate::gate::stream::Keys;
use crate::handoff::{Peer, WhyNot};

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
