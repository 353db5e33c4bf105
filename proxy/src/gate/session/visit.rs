//! What is known of a connection before anything of it has been read.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::after;
use crate::gate::Gate;
use crate::gate::admission::Permit;
use crate::gate::proxy_header::Ends;
use crate::gate::tls::Person;
use crate::handoff::{ConnId, Peer};

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
