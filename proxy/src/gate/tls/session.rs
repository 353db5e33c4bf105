//! What becomes of the records of a connection whose keys are in this process: bytes in, bytes out.

use super::record::{self, CONTENT, Half, NoKey};
use crate::ktls::post::{
    ALERT, APPLICATION_DATA, Asked, CLOSE_NOTIFY, FATAL, HANDSHAKE, KEY_UPDATE, NO_RENEGOTIATION, Post, WARNING,
};
use crate::ktls::{Handshaken, Role, Why};

/// Records that are sealed at a time, at most: as many as a read of the other side brings.
pub(super) const AT_ONCE: usize = 4;

/// Whether more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Yes.
    Open,
    /// The peer has said that it sends no more (RFC 8446 §6.1).
    Ended,
    /// The connection cannot go on.
    Broken(Why),
}

/// A connection behind its handshake.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Session {
    role: Role,
    rx: Half,
    tx: Half,
    /// Records to send with one key.
    limit: u64,
    post: Post,
    incoming: Incoming,
    /// The beginning of a record, in a space of just its size.
    begun: Vec<u8>,
    /// The peer wants to see our keys change.
    owes_update: bool,
    /// Level and description of an alert that is to be sent.
    owes_alert: Option<[u8; 2]>,
    /// close_notify or a fatal alert has been sealed.
    closed: bool,
    /// The limit is lifted for what is said before the end.
    last_words: bool,
}

impl Session {
    /// `limit`: records to send with one key, at most what the cipher allows.
    pub(super) fn new(done: Handshaken, limit: u64) -> Self {
        let Handshaken { suite, role, tx, rx, secrets } = done;
        let (tx_secret, rx_secret) = secrets.unzip();
        Self {
            role,
            rx: Half::new(suite, rx, rx_secret),
            tx: Half::new(suite, tx, tx_secret),
            limit: limit.min(suite.record_limit()),
            post: Post::default(),
            incoming: Incoming::Open,
            begun: Vec::new(),
            owes_update: false,
            owes_alert: None,
            closed: false,
            last_words: false,
        }
    }

    pub(super) const fn incoming(&self) -> Incoming {
        self.incoming
    }

    /// Whether the end of what is sent has been sealed.
    pub(super) const fn closed(&self) -> bool {
        self.closed
    }

    /// Whether an alert is to be sent.
    pub(super) const fn owes_alert(&self) -> bool {
        self.owes_alert.is_some()
    }

    /// What [`Session::open`] wants to see again, in front of what comes next.
    pub(super) fn begun(&self) -> &[u8] {
        &self.begun
    }

    /// The connection is about to be ended: the key's limit no longer stands against the few records that are left to
    /// send. (It has room: RFC 8446 §5.5 says 2^24.5, the limit is 2^24.)
    pub(super) fn allow_last_words(&mut self) {
        self.last_words = true;
    }

    /// The peer sends no more.
    pub(super) fn end(&mut self) {
        self.incoming = Incoming::Ended;
        self.begun = Vec::new();
    }

    /// Opens the records that are whole in `bytes`, in place, gives their data away, and keeps the beginning of
    /// another. `bytes` begin with what [`Session::begun`] had. [`Session::incoming`] says what has become of it.
    pub(super) fn open(&mut self, bytes: &mut [u8], data: impl FnMut(&[u8])) {
        self.begun = Vec::new();
        if let Err(why) = self.open_all(bytes, data) {
            self.incoming = Incoming::Broken(why);
            match why {
                Why::Protocol(alert) => self.owes_alert = Some([FATAL, alert]),
                // Who sent a fatal alert hears nothing more (RFC 8446 §6.2).
                _ => self.closed = true,
            }
        }
    }

    fn open_all(&mut self, bytes: &mut [u8], mut data: impl FnMut(&[u8])) -> Result<(), Why> {
        let set_up = |rx: &Half| rx.set_up().map_err(|NoKey| Why::KeyUpdate);
        let (mut aead, mut rest) = (set_up(&self.rx)?, bytes);
        while let Some(length) = record::length(self.rx.version(), rest).map_err(Why::Protocol)?
            && length <= rest.len()
        {
            let (record, behind) = std::mem::take(&mut rest).split_at_mut(length);
            rest = behind;
            let (kind, content) = self.rx.open(&aead, record).map_err(Why::Protocol)?;
            match self.asked(kind, content, &mut data) {
                Asked::Nothing => {}
                Asked::Close => {
                    self.incoming = Incoming::Ended;
                    return Ok(());
                }
                Asked::KeyUpdate { answer } => {
                    self.rx.renew().map_err(|NoKey| Why::KeyUpdate)?;
                    aead = set_up(&self.rx)?;
                    self.owes_update |= answer;
                }
                Asked::Renegotiation => self.owes_alert = Some([WARNING, NO_RENEGOTIATION]),
                Asked::Alert(description) => return Err(Why::Alert(description)),
                Asked::Broken(alert) => return Err(Why::Protocol(alert)),
            }
        }
        self.begun = rest.to_vec();
        Ok(())
    }

    fn asked(&mut self, kind: u8, content: &[u8], data: &mut impl FnMut(&[u8])) -> Asked {
        match kind {
            APPLICATION_DATA if content.is_empty() => self.post.nothing(),
            APPLICATION_DATA => {
                if let Err(alert) = self.post.data() {
                    return Asked::Broken(alert);
                }
                data(content);
                Asked::Nothing
            }
            kind => self.post.take(self.rx.version(), self.role, kind, content),
        }
    }

    /// Appends records with the first of these bytes, behind what is owed: with how many of them.
    ///
    /// # Errors
    /// The key is worn out and cannot be changed. Nothing has been appended.
    pub(super) fn seal(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Why> {
        if self.worn() && !self.tx.renewable() {
            return Err(Why::KeyLimit);
        }
        self.say(out);
        let mut aead = self.tx.set_up().map_err(|NoKey| Why::KeyLimit)?;
        let mut sealed = 0;
        for content in bytes.chunks(CONTENT).take(AT_ONCE) {
            if self.worn() && !self.tx.renewable() {
                break;
            }
            if self.worn() || self.owes_update {
                /// `update_not_requested`: what the peer sends is the peer's to count.
                const NOT_REQUESTED: u8 = 0;
                let message = [KEY_UPDATE, 0, 0, 1, NOT_REQUESTED];
                self.tx.seal(&aead, HANDSHAKE, &message, out).map_err(|NoKey| Why::KeyLimit)?;
                self.tx.renew().map_err(|NoKey| Why::KeyLimit)?;
                aead = self.tx.set_up().map_err(|NoKey| Why::KeyLimit)?;
                self.owes_update = false;
            }
            self.tx.seal(&aead, APPLICATION_DATA, content, out).map_err(|NoKey| Why::KeyLimit)?;
            sealed += content.len();
        }
        Ok(sealed)
    }

    /// Whether the key is good for no more data. The last record of one that can be changed says so.
    fn worn(&self) -> bool {
        let good_for = self.limit.saturating_sub(u64::from(self.tx.renewable()));
        self.tx.used() >= good_for && !self.last_words
    }

    /// Appends the alert that is owed.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) {
        if let Some(alert) = self.owes_alert.take() {
            self.alert(alert, out);
        }
    }

    /// Appends close_notify, once.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        self.alert([WARNING, CLOSE_NOTIFY], out);
    }

    fn alert(&mut self, alert: [u8; 2], out: &mut Vec<u8>) {
        if self.closed {
            return;
        }
        self.closed = alert[0] == FATAL || alert[1] == CLOSE_NOTIFY;
        if let Ok(aead) = self.tx.set_up() {
            // Two bytes always fit.
            let _ = self.tx.seal(&aead, ALERT, &alert, out);
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
