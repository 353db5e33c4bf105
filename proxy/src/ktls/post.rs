//! Records that are not application data, once the handshake is over: a pure rule, bytes in, verdict out.
//!
//! It takes record content cut anywhere. What it reads is two bytes of an alert (RFC 8446 §6) and the first four of a
//! handshake message (§4); the body of a message is counted and thrown away, but for the one byte of a KeyUpdate.

use serde::{Deserialize, Serialize};

use super::suite::{Role, Version};

/// Record types (RFC 8446 §5.1).
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// Alert levels and descriptions (RFC 8446 §6, RFC 5246 §7.2).
pub(crate) const WARNING: u8 = 1;
pub(crate) const FATAL: u8 = 2;
pub(crate) const CLOSE_NOTIFY: u8 = 0;
pub(crate) const UNEXPECTED_MESSAGE: u8 = 10;
pub(crate) const BAD_RECORD_MAC: u8 = 20;
pub(crate) const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const USER_CANCELED: u8 = 90;
pub(crate) const NO_RENEGOTIATION: u8 = 100;

/// Handshake messages (RFC 8446 §4, RFC 5246 §7.4).
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
pub(crate) const KEY_UPDATE: u8 = 24;

/// The longest message that is skipped: a NewSessionTicket (RFC 8446 §4.6.1) of the longest ticket and extensions.
const LONGEST: u32 = 3 * (1 << 16);

/// Records without application data that may come in a row, as in rustls: a peer that sends more wants to keep us busy.
const PATIENCE: u8 = 32;

/// What a record asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing.
    Nothing,
    /// The peer sends no more data (RFC 8446 §6.1).
    Close,
    /// The peer has changed its keys, from the next record on (RFC 8446 §4.6.3).
    KeyUpdate {
        /// It wants us to change ours.
        answer: bool,
    },
    /// The peer wants another handshake on this connection (RFC 5246 §7.4.1.1), which it does not get.
    Renegotiation,
    /// The peer has given up, with this alert.
    Alert(u8),
    /// The peer broke the protocol; it is owed this alert.
    Broken(u8),
}

/// Where the records of one peer stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Post {
    /// The level, once it has come, of an alert whose description has not.
    alert: Option<u8>,
    /// The header of a handshake message, as far as it has come.
    header: [u8; 4],
    have: u8,
    /// Bytes of its body that are still to come.
    left: u32,
    /// Records since the last application data.
    in_a_row: u8,
}

impl Post {
    /// Application data has come.
    ///
    /// # Errors
    /// In the middle of a handshake message or alert, where it must not (RFC 8446 §5.1): the alert that is owed.
    pub(crate) fn data(&mut self) -> Result<(), u8> {
        self.in_a_row = 0;
        if self.between() { Ok(()) } else { Err(UNEXPECTED_MESSAGE) }
    }

    /// An empty record of application data has come.
    pub(crate) fn nothing(&mut self) -> Asked {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row > PATIENCE || !self.between() { Asked::Broken(UNEXPECTED_MESSAGE) } else { Asked::Nothing }
    }

    fn between(&self) -> bool {
        self.alert.is_none() && self.have == 0
    }

    /// Content of a record of this type has come. Behind anything but [`Asked::Nothing`] the rest of `bytes` has no
    /// meaning: there must be none, or it is broken.
    pub(crate) fn take(&mut self, version: Version, role: Role, kind: u8, bytes: &[u8]) -> Asked {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row > PATIENCE {
            return Asked::Broken(UNEXPECTED_MESSAGE);
        }
        match kind {
            ALERT if self.have == 0 => self.alert(version, bytes),
            HANDSHAKE if self.alert.is_none() => self.handshake(version, role, bytes),
            // change_cipher_spec has no place behind the handshake, in either version.
            _ => Asked::Broken(UNEXPECTED_MESSAGE),
        }
    }

    fn alert(&mut self, version: Version, bytes: &[u8]) -> Asked {
        let (level, description) = match (self.alert.take(), bytes) {
            (None, []) => return Asked::Broken(DECODE_ERROR),
            (None, [level]) => {
                self.alert = Some(*level);
                return Asked::Nothing;
            }
            (None, &[level, description]) => (level, description),
            (Some(level), &[description]) => (level, description),
            _ => return Asked::Broken(DECODE_ERROR),
        };
        judge(version, level, description)
    }

    fn handshake(&mut self, version: Version, role: Role, bytes: &[u8]) -> Asked {
        if bytes.is_empty() {
            // RFC 8446 §5.1: no zero-length fragments of handshake types.
            return Asked::Broken(UNEXPECTED_MESSAGE);
        }
        let mut rest = bytes;
        let mut asked = Asked::Nothing;
        while let Some((&byte, behind)) = rest.split_first() {
            if let Asked::KeyUpdate { .. } = asked {
                // The keys change behind it, so it must end its record (RFC 8446 §5.1).
                return Asked::Broken(UNEXPECTED_MESSAGE);
            }
            if self.have < 4 {
                self.header[usize::from(self.have)] = byte;
                self.have += 1;
                rest = behind;
                if self.have < 4 {
                    continue;
                }
                match self.begin(version, role) {
                    Asked::Nothing => {}
                    Asked::Renegotiation => asked = Asked::Renegotiation,
                    broken => return broken,
                }
            } else if self.header[0] == KEY_UPDATE {
                asked = match byte {
                    0 => Asked::KeyUpdate { answer: false },
                    1 => Asked::KeyUpdate { answer: true },
                    _ => return Asked::Broken(ILLEGAL_PARAMETER),
                };
                self.left = 0;
                rest = behind;
            } else {
                let skipped = (self.left as usize).min(rest.len());
                self.left -= skipped as u32;
                rest = rest.get(skipped..).unwrap_or_default();
            }
            if self.left == 0 {
                self.have = 0;
            }
        }
        asked
    }

    /// A message's header is complete.
    fn begin(&mut self, version: Version, role: Role) -> Asked {
        let [kind, length @ ..] = self.header;
        self.left = u32::from_be_bytes([0, length[0], length[1], length[2]]);
        match (version, role, kind) {
            (Version::Tls13, _, KEY_UPDATE) if self.left == 1 => Asked::Nothing,
            (Version::Tls13, _, KEY_UPDATE) => Asked::Broken(DECODE_ERROR),
            (Version::Tls13, Role::Client, NEW_SESSION_TICKET) if self.left <= LONGEST => Asked::Nothing,
            (Version::Tls12, Role::Client, HELLO_REQUEST) if self.left == 0 => Asked::Renegotiation,
            (Version::Tls12, Role::Server, CLIENT_HELLO) if self.left <= LONGEST => Asked::Renegotiation,
            _ => Asked::Broken(UNEXPECTED_MESSAGE),
        }
    }
}

/// What an alert asks for.
fn judge(version: Version, level: u8, description: u8) -> Asked {
    match (description, version) {
        (CLOSE_NOTIFY, _) => Asked::Close,
        // It says that a close_notify follows (RFC 8446 §6.1).
        (USER_CANCELED, _) => Asked::Nothing,
        // In TLS 1.3 an alert's level says nothing (RFC 8446 §6).
        (_, Version::Tls12) if level == WARNING => Asked::Nothing,
        _ => Asked::Alert(description),
    }
}

#[cfg(test)]
#[path = "post_tests.rs"]
mod tests;
