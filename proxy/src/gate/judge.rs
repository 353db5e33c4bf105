//! What a request is, and where it may go: its head in, a verdict out. Pure.

use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;

use super::handshake::{Caller, Opening, Plain, Target, Visitor, asks_for_websocket, is_for_the_server};
use super::policy::{Asker, Routes, Rule, Subject, Way};
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
        routes.admit_method(&head.method)?;
        let find = |target: &Target| {
            let rule = routes.find(&Subject::new(head, target))?;
            rule.admit_client(visitor.client.ip()).map(|()| rule)
        };
        let enter = |rule: &'a Arc<Rule>, target: &Target, caller: &Caller, handshake| {
            rule.admit_page(caller, &target.own_origin, handshake)?;
            let asker = Asker { address: visitor.client.ip(), caller, own: &target.own_origin, handshake };
            routes.guard(&Subject::new(head, target), head.uri.path(), rule, asker)
        };
        let (rule, kind) = if asks_for_websocket(head) {
            let opening = Opening::check(head, visitor)?;
            let rule = find(&opening.target)?;
            enter(rule, &opening.target, &opening.caller, true)?;
            (rule, Kind::Handshake(opening))
        } else {
            let as_handshake = || Opening::check(head, visitor).err().unwrap_or(Refusal::NotWebSocket);
            if !routes.take_plain() {
                return Err(as_handshake());
            }
            let plain = Plain::check(head, visitor)?;
            let rule = find(&plain.target)?;
            rule.admit_plain().map_err(|_| as_handshake())?;
            enter(rule, &plain.target, &plain.caller, false)?;
            (rule, Kind::Plain(plain))
        };
        let sent = head.uri.path_and_query().ok_or(Refusal::Path)?;
        // `*` is no path that a route could rewrite.
        let target = if is_for_the_server(head) { sent.clone() } else { rule.target(sent, &kind.target().path)? };
        Ok(Self { rule, kind, target })
    }
}

/// The route that would serve a request, for the log: one that was refused may not have come so far.
pub(super) fn way(routes: &Routes, head: &Parts, visitor: &Visitor) -> Option<Way> {
    let target = Target::read(head, visitor).ok()?;
    Some(routes.find(&Subject::new(head, &target)).ok()?.way)
}

impl Verdict<'_> {
    /// Whether the route names the page that the request comes from.
    pub(super) fn names_page(&self) -> bool {
        self.kind.is_from_named_page(self.rule)
    }
}

impl Kind {
    /// Whether the route names the page that it comes from.
    fn is_from_named_page(&self, rule: &Rule) -> bool {
        let own = &self.target().own_origin;
        match self {
            Self::Handshake(opening) => rule.names_page(&opening.caller, own, true),
            Self::Plain(plain) => rule.names_page(&plain.caller, own, false),
        }
    }

    /// Whom it is for.
    pub(super) fn target(&self) -> &Target {
        match self {
            Self::Handshake(opening) => &opening.target,
            Self::Plain(plain) => &plain.target,
        }
    }
}
