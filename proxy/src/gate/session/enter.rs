//! Whether a client may enter a route that asks who it is.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::client::nothing;
use crate::gate::auth::{Asked, Check, Claimed, Entry, Forward, Look, Ruling, Subject, Users};
use crate::gate::dial::Errand;
use crate::gate::exchange::AnswerBody;
use crate::gate::handshake::Visitor;
use crate::gate::judge::{Kind, Verdict};
use crate::gate::policy::Way;
use crate::gate::pool::Purpose;
use crate::gate::proxy_header::Ends;
use crate::gate::refusal::Refusal;
use crate::gate::{Gate, forward};
use crate::handoff::ConnId;
use crate::sys::clock::epoch_ms;

/// How long a password waits for its turn. 2 s: some dozens of hashes, and short of what a person waits.
const PASSWORD_PATIENCE: Duration = Duration::from_secs(2);

/// A moment more than a service has: its server is late before the whole is, and is known as the one that was.
const MOMENT: Duration = Duration::from_millis(20);

/// Bytes of a service's refusal that go to the client. 16 KiB: a page that says where to log in.
const REFUSAL_BODY: usize = 16 * 1024;

/// A client that has shown enough, or that was asked for nothing.
#[derive(Default)]
pub(super) struct Entered {
    /// Headers and end of the connection.
    pub(super) entry: Entry,
    /// The subprotocol that the 101 names if the backend chooses none.
    protocol: Option<String>,
}

/// A client that may not enter.
pub(super) enum NotEntered {
    Refused(Refusal),
    /// Refused, with an answer that has more to say.
    Answered(Refusal, Box<Response<Bytes>>),
}

/// What there is to know about a request that wants to enter.
pub(super) struct Entrance<'a> {
    pub(super) gate: &'a Arc<Gate>,
    pub(super) visitor: &'a Visitor,
    pub(super) ends: Option<Ends>,
    pub(super) id: ConnId,
    /// When it must be over.
    pub(super) done_by: Instant,
}

impl Entered {
    /// Tells the backend. The client's own copies are gone.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.entry.tell {
            headers.append(name, value.clone());
        }
    }

    /// Puts a subprotocol into a backend's 101 that has none, if the client waits for one.
    pub(super) fn choose(&mut self, headers: &mut HeaderMap) {
        if let Some(Ok(own)) = self.protocol.take().map(HeaderValue::try_from)
            && !headers.contains_key(SEC_WEBSOCKET_PROTOCOL)
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, own);
        }
    }
}

impl Entrance<'_> {
    /// Lets a request enter by one of the ways that its route takes, of which there is one at least, and takes its
    /// credentials out of it.
    ///
    /// Cancel safe: nothing is left behind.
    ///
    /// # Errors
    /// None of the ways lets it enter.
    pub(super) async fn enter(&self, head: &mut Parts, verdict: &mut Verdict<'_>) -> Result<Entered, NotEntered> {
        let checks = self.gate.loaded.checks(&verdict.rule.auth);
        let entry = timeout_at(self.done_by, self.try_all(&checks, head, verdict)).await;
        let entry = entry.map_err(|_| NotEntered::Refused(Refusal::HandshakeTimeout))??;
        let mut none = Vec::new();
        let mut asked = asked(&mut head.headers, verdict, &mut none);
        // Of all checks: what one of them does not want to see, the backend should not see either.
        let protocol = checks.iter().fold(None, |told, check| told.or(check.strip(&mut asked)));
        if let Kind::Plain(_) = verdict.kind {
            // It is for handshakes, and may hold a token.
            head.headers.remove(SEC_WEBSOCKET_PROTOCOL);
        }
        Ok(Entered { entry, protocol })
    }

    /// One check after the other. Who shows nothing is told what the first one wants; who shows what is not good enough
    /// is told so by the first check that it was for.
    async fn try_all(
        &self,
        checks: &[Arc<Check>],
        head: &mut Parts,
        verdict: &mut Verdict<'_>,
    ) -> Result<Entry, NotEntered> {
        let mut refused = None;
        for check in checks {
            let mut none = Vec::new();
            let look = check.look(&asked(&mut head.headers, verdict, &mut none), epoch_ms());
            let result = match look {
                Look::Absent => continue,
                Look::Enter(entry) => Ok(entry),
                Look::Refused(refusal) => Err(self.refused(check, refusal)),
                Look::Password(users, claimed) => {
                    let verified = verify(&self.gate.passwords, users, claimed).await;
                    verified.map_err(|refusal| self.refused(check, refusal))
                }
                Look::Ask(service) => self.ask(service, head, verdict.rule.way).await,
            };
            match result {
                Ok(entry) => {
                    tracing::debug!(conn = %self.id, auth = check.realm(), name = ?entry.name, "entered");
                    return Ok(entry);
                }
                Err(not) => refused = refused.or(Some(not)),
            }
        }
        let missing = || checks.first().map(|first| self.refused(first, Refusal::AuthMissing));
        Err(refused.or_else(missing).unwrap_or(NotEntered::Refused(Refusal::Internal)))
    }

    /// A refusal with what a check wants to be shown.
    fn refused(&self, check: &Check, refusal: Refusal) -> NotEntered {
        let unauthorized = refusal.status() == http::StatusCode::UNAUTHORIZED;
        let Some(challenge) = check.challenge(refusal).filter(|_| unauthorized) else {
            return NotEntered::Refused(refusal);
        };
        let mut response = refusal.answer(self.id, 0, &self.gate.pages);
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        NotEntered::Answered(refusal, Box::new(response))
    }

    /// Asks a service. Whatever goes wrong keeps the client out.
    async fn ask(&self, service: &Forward, head: &Parts, way: Way) -> Result<Entry, NotEntered> {
        let body = UnsyncBoxBody::new(nothing());
        let question = service.question(Subject { head, visitor: self.visitor }, body);
        let way = Way { backend: service.backend, ..way };
        let by = Instant::now() + service.timeout;
        match timeout_at(by + MOMENT, self.answered(service, question, way, by)).await {
            Ok(result) => result,
            Err(_) => {
                tracing::info!(conn = %self.id, "the authentication service did not answer in time");
                Err(NotEntered::Refused(Refusal::AuthService))
            }
        }
    }

    async fn answered(
        &self,
        service: &Forward,
        question: Request<UnsyncBoxBody<Bytes, std::io::Error>>,
        way: Way,
        by: Instant,
    ) -> Result<Entry, NotEntered> {
        // It logs what went wrong.
        let purpose = Purpose::Authentication;
        let errand = Errand { way, purpose, kept: None, key: None, ends: self.ends, by: Some(by), id: self.id };
        let answer = forward::forward(self.gate, errand, question).await;
        let (head, body) = answer.map_err(|_| NotEntered::Refused(Refusal::AuthService))?.1.into_parts();
        match service.ruling(&head) {
            Ruling::Enter(entry) => {
                // Its connection is good for the next question when its body has been read.
                let _ = read(body).await;
                Ok(entry)
            }
            Ruling::Deny => {
                let ours = Refusal::AuthDenied.answer(self.id, 0, &self.gate.pages);
                let body = read(body).await.unwrap_or_default();
                Err(NotEntered::Answered(Refusal::AuthDenied, Box::new(service.denial(ours, &head, body))))
            }
            Ruling::Nonsense => {
                let status = head.status.as_u16();
                tracing::info!(conn = %self.id, status, "the authentication service's answer decides nothing");
                Err(NotEntered::Refused(Refusal::AuthService))
            }
        }
    }
}

/// The parts of a request in which credentials stand.
fn asked<'a>(headers: &'a mut HeaderMap, verdict: &'a mut Verdict<'_>, none: &'a mut Vec<String>) -> Asked<'a> {
    let protocols = match &mut verdict.kind {
        Kind::Handshake(opening) => &mut opening.protocols,
        Kind::Plain(_) => none,
    };
    Asked { headers, target: &mut verdict.target, protocols }
}

/// Verifies a password, when it is its turn. Cancel safe: a hash that has begun is done to its end, and holds its turn
/// until then.
///
/// # Errors
/// It is wrong, or too many others are before it.
async fn verify(turns: &Arc<Semaphore>, users: &Arc<Users>, claimed: Claimed) -> Result<Entry, Refusal> {
    if users.remembers(&claimed, epoch_ms()) {
        return Ok(claimed.into_entry());
    }
    let turn = timeout(PASSWORD_PATIENCE, turns.clone().acquire_owned()).await;
    let turn = turn.map_err(|_| Refusal::AuthBusy)?.map_err(|_| Refusal::Internal)?;
    let users = users.clone();
    let verify = move || {
        // Whoever waited behind the same user has been answered for.
        let good = users.remembers(&claimed, epoch_ms()) || users.verify(&claimed);
        if good {
            users.remember(&claimed, epoch_ms());
        }
        drop(turn);
        good.then(|| claimed.into_entry())
    };
    spawn_blocking(verify).await.map_err(|_| Refusal::Internal)?.ok_or(Refusal::AuthInvalid)
}

/// A body to its end. `None` if it has none, or is too long.
async fn read(mut body: AnswerBody) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > REFUSAL_BODY {
            return None;
        }
    }
    Some(bytes.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Config;

    /// What a client claims to be, of a file with `ada` and the password `x`.
    fn claimed(check: &Check, text: &'static str) -> (Arc<Users>, Claimed) {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, HeaderValue::from_static(text));
        let (mut target, mut none) = (http::uri::PathAndQuery::from_static("/"), Vec::new());
        match check.look(&Asked { headers: &mut headers, target: &mut target, protocols: &mut none }, epoch_ms()) {
            Look::Password(users, claimed) => (users.clone(), claimed),
            _ => panic!("no password"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_for_a_turn_is_told_so_and_who_is_known_needs_none() {
        let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n[[backend]]\nname = \"app\"\n\
                    servers = [\"127.0.0.1:9\"]\n[[auth]]\nname = \"a\"\nbasic = { users = \"u\" }\n";
        let config = Config::parse(text, "test").unwrap();
        let file = format!("ada:{}", bcrypt::hash("x", 4).unwrap());
        let check = Check::new(&config, &config.auth[0], file.as_bytes()).unwrap();
        // ada:x, and ada:y.
        let (good, bad) = ("Basic YWRhOng=", "Basic YWRhOnk=");
        let (one, none) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(0)));
        let asks = async |turns: &Arc<Semaphore>, text| {
            let (users, claimed) = claimed(&check, text);
            verify(turns, &users, claimed).await.map(drop)
        };
        assert_eq!(asks(&none, good).await, Err(Refusal::AuthBusy));
        assert_eq!(asks(&one, bad).await, Err(Refusal::AuthInvalid));
        assert_eq!(asks(&one, good).await, Ok(()));
        assert_eq!(asks(&none, good).await, Ok(()), "it is remembered");
        assert_eq!(asks(&none, bad).await, Err(Refusal::AuthBusy), "a wrong one is not");
    }
}
