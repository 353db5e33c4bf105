//! A plain HTTP request, its answer, and the next request behind it.

use std::sync::Arc;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;

use super::asked::{From, HeadRead};
use super::cors::Cors;
use super::note::Note;
use super::states::{Stopped, give, unread};
use super::visit::Visit;
use super::{Client, after};
use crate::gate::dial::Errand;
use crate::gate::exchange::{AnswerBody, Gone, NoRequest};
use crate::gate::handshake::{Scheme, forward as headers};
use crate::gate::patience::Patience;
use crate::gate::policy::Rule;
use crate::gate::pool::RequestBody;
use crate::gate::refusal::Outcome;
use crate::gate::stream::Keys;
use crate::gate::{Gate, forward};

/// A request that is none, and may go on to a backend.
pub(super) struct Plain {
    pub(super) visit: Visit,
    pub(super) client: Client,
    pub(super) keys: Keys,
    pub(super) scheme: Scheme,
    pub(super) from: From,
    pub(super) request: Request<RequestBody>,
    pub(super) rule: Arc<Rule>,
    pub(super) errand: Errand,
    pub(super) last: bool,
    pub(super) cors: Cors,
}

/// A plain request with the backend's answer.
pub(super) struct Replied {
    visit: Visit,
    client: Client,
    keys: Keys,
    scheme: Scheme,
    response: Response<AnswerBody>,
}

impl Plain {
    pub(super) async fn forward(self: Box<Self>, gate: &Arc<Gate>, note: &Note) -> Result<Replied, Stopped> {
        let Self { mut visit, mut client, keys, scheme, from, mut request, rule, errand, last, cors } = *self;
        client.follow(&mut request);
        match client.while_there(forward::forward(gate, errand, request)).await {
            Err(Gone) => Err(Stopped::Gone),
            Ok(Err(refusal)) => Err(cors.refuse(gate, client, refusal, note, visit.permit)),
            Ok(Ok((server, response))) => {
                gate.conclude(note, Outcome::Forwarded);
                let mut response = reply(response, &rule);
                give(response.headers_mut(), gate.stick(&errand, server, from.scheme));
                if last {
                    response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
                }
                if from.told {
                    let seat = visit.permit.stand();
                    response = response.map(|body| until_read(body, seat));
                }
                Ok(Replied { visit, client, keys, scheme, response })
            }
        }
    }
}

/// A body that drops something when it has been sent, or will not be.
fn until_read(body: AnswerBody, held: impl Send + 'static) -> AnswerBody {
    let keep = move |frame| {
        let _held = &held;
        frame
    };
    AnswerBody::new(body.map_frame(keep))
}

/// A backend's answer to a plain request, as the client gets it.
fn reply(response: Response<AnswerBody>, rule: &Rule) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    head.headers = headers::plain_response(&head);
    rule.response_edits.apply(&mut head.headers);
    headers::only_reason(&mut head.extensions);
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
                if call.answer(response, gate.config.relay.user_timeout).await.is_err() {
                    tracing::debug!(conn = %visit.id, "the client went away from its answer");
                }
                Err(Stopped::Done(None, visit.permit))
            }
        }
    }
}
