//! Records of a TLS connection whose keys are in this process: sealed and opened, bytes in, bytes out.
//!
//! A set-up cipher is over half a kilobyte and is made from its key in less than a microsecond, so only the keys are
//! kept, and the cipher is set up when bytes move. rustls makes its ciphers only from its own `AeadKey`, of which no
//! other crate can make one of 16 bytes; so they come from AWS-LC as rustls's do, and nonces and additional data from
//! rustls.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::cipher::{Iv, Nonce as Counted, make_tls12_aad, make_tls13_aad};
use rustls::{ContentType, ProtocolVersion};

use crate::ktls::post::{APPLICATION_DATA, BAD_RECORD_MAC, RECORD_OVERFLOW, UNEXPECTED_MESSAGE};
use crate::ktls::{Cipher, Keys, Secret, Suite, Version};

/// Type, version and length (RFC 8446 §5.1).
pub(super) const HEADER: usize = 5;
/// The most content of a record (RFC 8446 §5.1).
pub(super) const CONTENT: usize = 1 << 14;
/// The longest record with its header: TLS 1.2 allows 2048 bytes beside the content (RFC 5246 §6.2.3).
pub(super) const LONGEST: usize = HEADER + CONTENT + 2048;
/// What a record that is made here has beside its content, at most: header, explicit nonce, tag.
pub(super) const OVERHEAD: usize = HEADER + EXPLICIT + TAG;

/// Of all three ciphers.
const TAG: usize = 16;
/// The part of a nonce that TLS 1.2 sends with every record of AES-GCM (RFC 5288 §3).
const EXPLICIT: usize = 8;
/// The version that every record names (RFC 8446 §5.1).
const WIRE_VERSION: [u8; 2] = [3, 3];

/// A cipher that is set up for some records of one way.
pub(super) struct Aead(LessSafeKey);

/// What protects one way of a connection.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Half {
    suite: Suite,
    keys: Keys,
    /// In TLS 1.3, what the next keys are made from.
    secret: Option<Secret>,
}

/// There are no such keys, or no more of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoKey;

/// How long the record is that begins here, with its header. `None`: that has not come yet.
///
/// # Errors
/// It is no record of this version, or too long: the alert that is owed.
pub(super) fn length(version: Version, bytes: &[u8]) -> Result<Option<usize>, u8> {
    let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    // TLS 1.3 says all of its records are data (RFC 8446 §5.2) and ignores the rest of the version. Which of the types
    // of TLS 1.2 have a place here is known once they are opened.
    let known = match version {
        Version::Tls12 => (20..=24).contains(&kind),
        Version::Tls13 => kind == APPLICATION_DATA,
    };
    if !known || major != WIRE_VERSION[0] {
        return Err(UNEXPECTED_MESSAGE);
    }
    let body = usize::from(u16::from_be_bytes([high, low]));
    let most = match version {
        Version::Tls12 => CONTENT + 2048,
        Version::Tls13 => CONTENT + 256,
    };
    if body > most { Err(RECORD_OVERFLOW) } else { Ok(Some(HEADER + body)) }
}

impl Half {
    pub(super) fn new(suite: Suite, keys: Keys, secret: Option<Secret>) -> Self {
        Self { suite, keys, secret }
    }

    pub(super) const fn version(&self) -> Version {
        self.suite.version
    }

    /// How many records have gone under the present key.
    pub(super) const fn used(&self) -> u64 {
        self.keys.sequence
    }

    /// Whether there can be other keys.
    pub(super) const fn renewable(&self) -> bool {
        self.secret.is_some()
    }

    /// Sets the cipher up, for as long as the keys stay.
    ///
    /// # Errors
    /// The key is not one of the cipher's.
    pub(super) fn set_up(&self) -> Result<Aead, NoKey> {
        let algorithm = match self.suite.cipher {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        let key = self.keys.key.get(..self.suite.cipher.key_length()).ok_or(NoKey)?;
        UnboundKey::new(algorithm, key).map(|key| Aead(LessSafeKey::new(key))).map_err(|_| NoKey)
    }

    /// The keys behind a KeyUpdate (RFC 8446 §7.2). What was set up with the old ones is of no more use.
    ///
    /// # Errors
    /// There is no secret to make them from.
    pub(super) fn renew(&mut self) -> Result<(), NoKey> {
        let next = self.secret.as_ref().and_then(|secret| secret.next(self.suite)).ok_or(NoKey)?;
        self.keys = next.keys(self.suite).ok_or(NoKey)?;
        self.secret = Some(next);
        Ok(())
    }

    /// IV xor number (RFC 8446 §5.3, RFC 7905 §2). RFC 5288 §3 leaves TLS 1.2 with AES-GCM free; rustls did the same
    /// before, and its numbers are continued.
    fn nonce(&self) -> [u8; aead::NONCE_LEN] {
        Counted::new(&Iv::from(self.keys.iv), self.keys.sequence).0
    }

    const fn explicit(&self) -> usize {
        match (self.suite.version, self.suite.cipher) {
            (Version::Tls13, _) | (_, Cipher::Chacha20Poly1305) => 0,
            (Version::Tls12, _) => EXPLICIT,
        }
    }

    /// Appends one record of at most [`CONTENT`] bytes.
    ///
    /// # Errors
    /// The record would be too long.
    pub(super) fn seal(&mut self, aead: &Aead, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), NoKey> {
        let (nonce, explicit) = (self.nonce(), self.explicit());
        let inner = matches!(self.suite.version, Version::Tls13).then_some(kind);
        let body = explicit + content.len() + inner.iter().len() + TAG;
        let [high, low] = u16::try_from(body).map_err(|_| NoKey)?.to_be_bytes();
        let outer = if inner.is_some() { APPLICATION_DATA } else { kind };
        out.extend_from_slice(&[outer, WIRE_VERSION[0], WIRE_VERSION[1], high, low]);
        out.extend_from_slice(nonce.get(nonce.len() - explicit..).unwrap_or_default());
        let start = out.len();
        out.extend_from_slice(content);
        out.extend(inner);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = out.get_mut(start..).unwrap_or_default();
        let tag = match self.suite.version {
            Version::Tls13 => aead.0.seal_in_place_separate_tag(nonce, Aad::from(make_tls13_aad(body)), plain),
            Version::Tls12 => {
                aead.0.seal_in_place_separate_tag(nonce, Aad::from(self.aad_of_tls12(kind, content.len())), plain)
            }
        };
        out.extend_from_slice(tag.map_err(|_| NoKey)?.as_ref());
        self.keys.sequence += 1;
        Ok(())
    }

    /// Opens one whole record in place: its type and its content.
    ///
    /// # Errors
    /// It was not sealed with these keys, or is not as TLS wants it: the alert that is owed.
    pub(super) fn open<'r>(&mut self, aead: &Aead, record: &'r mut [u8]) -> Result<(u8, &'r [u8]), u8> {
        let (mut nonce, explicit) = (self.nonce(), self.explicit());
        let (header, body) = record.split_first_chunk_mut::<HEADER>().ok_or(BAD_RECORD_MAC)?;
        let length = body.len();
        let (sent, sealed) = body.split_at_mut_checked(explicit).ok_or(BAD_RECORD_MAC)?;
        let content = sealed.len().checked_sub(TAG).ok_or(BAD_RECORD_MAC)?;
        for (place, byte) in nonce.iter_mut().skip(aead::NONCE_LEN - explicit).zip(sent) {
            *place = *byte;
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let kind = header[0];
        let opened = match self.suite.version {
            Version::Tls13 => aead.0.open_in_place(nonce, Aad::from(make_tls13_aad(length)), sealed),
            Version::Tls12 => aead.0.open_in_place(nonce, Aad::from(self.aad_of_tls12(kind, content)), sealed),
        };
        let plain: &[u8] = opened.map_err(|_| BAD_RECORD_MAC)?;
        self.keys.sequence += 1;
        match self.suite.version {
            Version::Tls12 if plain.len() > CONTENT => Err(RECORD_OVERFLOW),
            Version::Tls12 => Ok((kind, plain)),
            Version::Tls13 => unpadded(plain),
        }
    }

    fn aad_of_tls12(&self, kind: u8, length: usize) -> [u8; 13] {
        make_tls12_aad(self.keys.sequence, ContentType::from(kind), ProtocolVersion::TLSv1_2, length)
    }
}

/// Content, its type, and zeros (RFC 8446 §5.2, §5.4).
fn unpadded(inner: &[u8]) -> Result<(u8, &[u8]), u8> {
    if inner.len() > CONTENT + 1 {
        return Err(RECORD_OVERFLOW);
    }
    let end = inner.iter().rposition(|byte| *byte != 0).ok_or(UNEXPECTED_MESSAGE)?;
    let (content, kind) = inner.split_at_checked(end).ok_or(UNEXPECTED_MESSAGE)?;
    kind.first().map(|kind| (*kind, content)).ok_or(UNEXPECTED_MESSAGE)
}
