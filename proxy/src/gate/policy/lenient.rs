//! What a request must show beside what its own route asks, since a backend may read it as one for another route.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderName};

use super::readings::{Readings, undecoded};
use super::{HostRule, Routes, Rule, Subject, parameters};
use crate::config::Origin;
use crate::gate::handshake::Caller;
use crate::gate::refusal::Refusal;

/// Fields by which libraries let a request have another method than its own.
const METHODS: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// The methods that have a standard (RFC 9110 §9.3, RFC 5789).
const STANDARD: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// Who asks.
#[derive(Clone, Copy)]
pub(in crate::gate) struct Asker<'a> {
    /// The client's address. `None`: it has none.
    pub(in crate::gate) address: Option<IpAddr>,
    pub(in crate::gate) caller: &'a Caller,
    /// The origin of the server's own pages.
    pub(in crate::gate) own: &'a Origin,
    /// It is a WebSocket handshake.
    pub(in crate::gate) handshake: bool,
}

impl Routes {
    /// Whether a request may go the way of the rule that serves it: whatever else a lenient backend may take its path for,
    /// as it was sent, it shows what the route of that asks.
    ///
    /// # Errors
    /// [`Refusal::Path`] if that route asks who the client is and this one does not; else what that route would say.
    pub(in crate::gate) fn guard(
        &self,
        subject: &Subject<'_>,
        sent: &str,
        rule: &Arc<Rule>,
        asker: Asker<'_>,
    ) -> Result<(), Refusal> {
        let query = subject.query.filter(|_| self.queried).map(parameters).unwrap_or_default();
        let is_other = |(host, other): &&(HostRule, Arc<Rule>)| {
            !Arc::ptr_eq(rule, other) && host.matches(subject.host) && other.may_meet(subject, &query)
        };
        if !self.entries.iter().any(|entry| is_other(&entry)) || rule.path.is_written(&undecoded(sent)) {
            return Ok(());
        }
        let readings = Readings::of(sent, subject.path.bytes());
        for path in &readings.paths {
            // Of this reading, the rule itself serves whatever those before it do not.
            let serves = |(host, other): &&(HostRule, Arc<Rule>)| {
                Arc::ptr_eq(rule, other) && host.matches(subject.host) && other.path.matches(path)
            };
            let tried = self.entries.iter().take_while(|entry| !serves(entry)).filter(is_other);
            tried
                .filter(|(_, other)| other.path.may_match(path))
                .try_for_each(|(_, other)| other.admit_other(rule, asker))?;
        }
        let anywhere = self.entries.iter().filter(|_| readings.anywhere).filter(is_other);
        anywhere.filter(|(_, other)| other.guards()).try_for_each(|(_, other)| other.admit_other(rule, asker))
    }

    /// Whether a method is no other one to a backend that knows no case: methods have one (RFC 9110 §9.1), and there are
    /// servers that take `post` for `POST`.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if it is a standard one, or one that a route names, in another case.
    pub(in crate::gate) fn admit_method(&self, method: &Method) -> Result<(), Refusal> {
        let mut known = STANDARD.iter().chain(&self.methods);
        let twin = |known: &Method| known.as_str().eq_ignore_ascii_case(method.as_str()) && known != method;
        if known.any(twin) { Err(Refusal::Malformed) } else { Ok(()) }
    }

    /// Takes away by what a backend could be told another method, where methods decide who may enter.
    pub(in crate::gate) fn keep_method(&self, headers: &mut HeaderMap) {
        if self.by_method {
            METHODS.iter().for_each(|name| drop(headers.remove(name)));
        }
    }
}

impl Rule {
    /// Whether it keeps clients out, for whatever they are or show.
    pub(super) fn guards(&self) -> bool {
        !self.auth.is_empty() || !self.access.allow.is_empty() || !self.access.deny.is_empty()
    }

    /// Whether its conditions hold, or may for a backend: a GET answers a HEAD.
    fn may_meet(&self, subject: &Subject<'_>, query: &[(Vec<u8>, Vec<u8>)]) -> bool {
        let get = *subject.method == Method::HEAD && self.methods.contains(&Method::GET);
        (get || self.takes(subject.method)) && self.meets(subject, query)
    }

    /// Whether a request that `other` serves shows what this rule asks.
    fn admit_other(&self, other: &Self, asker: Asker<'_>) -> Result<(), Refusal> {
        // Any one check of the other's may have let it in.
        let shown = !other.auth.is_empty() && other.auth.iter().all(|auth| self.auth.contains(auth));
        if !self.auth.is_empty() && !shown {
            return Err(Refusal::Path);
        }
        self.admit_client(asker.address)?;
        self.admit_page(asker.caller, asker.own, asker.handshake)
    }
}

#[cfg(test)]
#[path = "lenient_tests.rs"]
mod tests;
