//! What is known of a connection before anything of it has been read.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::after;
use super::note::Note;
use crate::gate::Gate;
use crate::gate::admission::Permit;
use crate::gate::limit::Denied;
use crate::gate::proxy_header::Ends;
use crate::gate::refusal::Refusal;
use crate::gate::tls::Person;
use crate::handoff::stats::Short;
use crate::handoff::{ConnId, Peer};
use crate::sys::clock::epoch_ms;

/// What is known of a connection from its accept on.
pub(in crate::gate) struct Visit {
    pub(in crate::gate) id: ConnId,
    /// Whoever is at the other end of the connection: the client, or a proxy before it.
    pub(in crate::gate) client: Peer,
    /// Its address and the one that it came to, if they are known and some backend is to be told.
    pub(in crate::gate) ends: Option<Ends>,
    /// The address that it came to, of this machine or of the proxy before it; a Unix socket has none.
    pub(in crate::gate) came_to: Option<SocketAddr>,
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
    /// The client was let in when it connected, which was for its first request too.
    pub(in crate::gate) let_in: bool,
}

impl Visit {
    pub(in crate::gate) fn note(&self) -> Note {
        Note { id: self.id, client: self.client, listener: self.listener, wait: 0, detail: None }
    }

    /// Lets a client in, as far as what it asks for does not matter, or one more request of it.
    ///
    /// # Errors
    /// Its address is denied, or a limit is reached.
    pub(in crate::gate) fn let_in(&mut self, gate: &Gate, client: Peer) -> Result<(), Denied> {
        let token = !std::mem::take(&mut self.let_in);
        if token && !gate.config.access.admits(client.ip()) {
            return Err(Refusal::AddressDenied.into());
        }
        self.permit.sit(&gate.seats, client, token)
    }

    /// That of one stream of this connection, which is a connection of its own to all that comes behind.
    ///
    /// # Errors
    /// There is no room for it.
    pub(in crate::gate) fn stream(&mut self, gate: &Gate) -> Result<Self, Note> {
        let note = Note { id: gate.next_id(), ..self.note() };
        let room = || gate.admission.try_permit().filter(|_| !self.permit.is_spare());
        let Some(permit) = room() else {
            gate.short(Short::Connections, None);
            return Err(note);
        };
        let now = Instant::now();
        Ok(Self {
            id: note.id,
            client: self.client,
            ends: self.ends,
            came_to: self.came_to,
            person: self.person.clone(),
            listener: self.listener,
            accepted_ms: epoch_ms(),
            head_by: now,
            done_by: after(gate.config.timeouts.handshake),
            permit,
            let_in: std::mem::take(&mut self.let_in),
        })
    }
}
