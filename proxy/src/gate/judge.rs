//! What a request is, and where it may go: its head in, a verdict out. Pure.

use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;

use super::handshake::{Opening, Plain, Target, Visitor, asks_for_websocket, is_for_the_server};
use super::policy::{Routes, Rule, Subject};
use super::refusal::Refusal;

/// A request that may go on.
pub(super) struct Verdict<'a> {
    /// The route that serves it.
    pub(super) rule: &'a Arc<Rule>,
    pub(super) kind: Kind,
    /// The target for the backend.
    pub(super) target: PathAndQuery,
}

/// What a request is.
pub(super) enum Kind {
    /// A WebSocket handshake.
    Handshake(Opening),
    /// None, for a route that takes plain HTTP.
    Plain(Plain),
}

impl<'a> Verdict<'a> {
    /// Judges a request.
    ///
    /// # Errors
    /// The first thing that is wrong with it. One that is no WebSocket handshake, and that no route takes as it is, is
    /// refused as the handshake that it is not.
    pub(super) fn judge(routes: &'a Routes, head: &Parts, visitor: &Visitor) -> Result<Self, Refusal> {
        let find = |target: &Target| {
            let rule = routes.find(&Subject::new(head, target))?;
            rule.admit_client(visitor.client.ip()).map(|()| rule)
        };
        let (rule, kind) = if asks_for_websocket(head) {
            let opening = Opening::check(head, visitor)?;
            let rule = find(&opening.target)?;
            rule.admit(&opening.caller, &opening.target.own_origin)?;
            (rule, Kind::Handshake(opening))
        } else {
            let as_handshake = || Opening::check(head, visitor).err().unwrap_or(Refusal::NotWebSocket);
            if !routes.take_plain() {
                return Err(as_handshake());
            }
            let plain = Plain::check(head, visitor)?;
            let rule = find(&plain.target)?;
            rule.admit_plain(&plain.caller, &plain.target.own_origin).map_err(|refusal| match refusal {
                Refusal::NotWebSocket => as_handshake(),
                other => other,
            })?;
            (rule, Kind::Plain(plain))
        };
        let sent = head.uri.path_and_query().ok_or(Refusal::Path)?;
        // `*` is no path that a route could rewrite.
        let target = if is_for_the_server(head) { sent.clone() } else { rule.target(sent, &kind.target().path)? };
        Ok(Self { rule, kind, target })
    }
}

impl Kind {
    /// Whom it is for.
    pub(super) fn target(&self) -> &Target {
        match self {
            Self::Handshake(opening) => &opening.target,
            Self::Plain(plain) => &plain.target,
        }
    }
}
