//! TLS 1.3 records made by hand, as no library makes them: padded, empty, of any type, or broken.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::ktls::{Keys, Role, made_up};

use super::rig::SUITE;

/// The sending half of a client that has its keys in userspace.
pub(super) struct Craft {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Craft {
    /// What the peer of a leg made with [`made_up`] keys would send; `role` is this side's.
    pub(super) fn new(role: Role) -> Self {
        Self::with(&made_up(SUITE, role).tx)
    }

    /// With these keys.
    pub(super) fn with(keys: &Keys) -> Self {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &keys.key[..16]).unwrap());
        Self { key, iv: keys.iv, sequence: keys.sequence }
    }

    /// A record with this content and so much padding (RFC 8446 §5.2, §5.4).
    pub(super) fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = [content, &[kind], &vec![0; padding]].concat();
        let length = (inner.len() + 16) as u16;
        let header = [&[23, 3, 3][..], &length.to_be_bytes()].concat();
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        self.sequence += 1;
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&header), &mut inner).unwrap();
        [header, inner].concat()
    }

    /// Application data.
    pub(super) fn data(&mut self, content: &[u8]) -> Vec<u8> {
        self.record(23, content, 0)
    }
}
