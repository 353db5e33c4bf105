//! How a connection or a request ended, for the counters and the log.

use http::StatusCode;
use tracing::field::{DisplayValue, display};

use super::Gate;
use super::policy::Way;
use super::refusal::Outcome;
use super::session::Note;
use crate::config::Address;

impl Gate {
    /// Counts and logs how a handshake ended.
    pub(super) fn conclude(&self, note: &Note, outcome: Outcome) {
        self.stats.count_handshake(outcome.index());
        let status = note.known().and_then(|detail| detail.status);
        let why = note.known().and_then(|detail| detail.why.as_deref());
        match outcome {
            Outcome::Refused(refusal) => {
                let status = status.unwrap_or(refusal.status());
                self.log_refused(note, "refused", refusal.reason(), Some(status), Some(refusal.text()));
            }
            Outcome::BackendAnswer => {
                self.log_refused(note, "the backend refused the handshake", "backend-answer", status, None);
            }
            Outcome::TlsFailed => self.log_refused(note, "no TLS session", "tls", None, why),
            other => {
                let (conn, client, listener) = (note.id, note.client, self.listener(note.listener));
                tracing::debug!(%conn, %client, listener, outcome = ?other, "handshake over");
            }
        }
    }

    fn log_refused(
        &self,
        note: &Note,
        what: &'static str,
        reason: &'static str,
        status: Option<StatusCode>,
        why: Option<&str>,
    ) {
        let known = note.known();
        let way = known.and_then(|detail| detail.way);
        tracing::info!(
            conn = %note.id,
            client = %note.client,
            listener = self.listener(note.listener),
            host = known.and_then(|detail| detail.host()),
            path = known.and_then(|detail| detail.path()),
            route = way.and_then(|way| self.route(way)),
            origin = known.and_then(|detail| detail.origin()),
            user_agent = known.and_then(|detail| detail.user_agent()),
            backend = way.and_then(|way| Some(self.config.backends.get(usize::from(way.backend))?.name.as_str())),
            server = known.and_then(|detail| detail.server.as_ref()).map(display),
            status = status.map(|status| status.as_u16()),
            reason,
            why,
            "{what}"
        );
    }

    /// Where a listener listens, for the log.
    pub(super) fn listener(&self, listener: u16) -> Option<DisplayValue<&Address>> {
        Some(display(&self.config.listeners.get(usize::from(listener))?.bind))
    }

    /// What a route is for, as the log names it: its hosts, if it has any, and its path.
    fn route(&self, way: Way) -> Option<String> {
        let route = self.config.routes.get(usize::from(way.route))?;
        Some(format!("{}{}", route.host.0.join(","), route.path))
    }
}
