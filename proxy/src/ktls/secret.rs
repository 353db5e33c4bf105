//! The key schedule of TLS 1.3 behind the handshake (RFC 8446 §7.2, §7.3).

use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::suite::{Keys, Suite};

/// `application_traffic_secret_N` of one direction. Wiped when dropped, and shown to nobody.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// What rustls gives its key log as `CLIENT_TRAFFIC_SECRET_0` or `SERVER_TRAFFIC_SECRET_0`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// In bytes.
    pub(super) fn length(&self) -> usize {
        self.0.len()
    }

    /// `application_traffic_secret_N+1` (RFC 8446 §7.2). `None`: this is no secret of this suite.
    #[must_use]
    pub fn next(&self, suite: Suite) -> Option<Self> {
        let mut next = Self(vec![0; self.0.len()]);
        expand(&*self.expander(suite)?, b"traffic upd", &mut next.0)?;
        Some(next)
    }

    /// Its key and IV (RFC 8446 §7.3); the first record has number 0 (§5.3). `None`: this is no secret of this suite.
    #[must_use]
    pub fn keys(&self, suite: Suite) -> Option<Keys> {
        let expander = self.expander(suite)?;
        let mut keys = Keys { key: [0; 32], iv: [0; 12], sequence: 0 };
        expand(&*expander, b"key", keys.key.get_mut(..suite.cipher.key_length())?)?;
        expand(&*expander, b"iv", &mut keys.iv)?;
        Some(keys)
    }

    fn expander(&self, suite: Suite) -> Option<Box<dyn HkdfExpander>> {
        let suite = suite.tls13();
        let length = suite.common.hash_provider.output_len();
        // `OkmBlock::new` panics beyond its longest.
        (self.0.len() == length).then(|| suite.hkdf_provider.expander_for_okm(&OkmBlock::new(&self.0)))
    }
}

/// `HKDF-Expand-Label(secret, label, "", length)` (RFC 8446 §7.1).
fn expand(expander: &dyn HkdfExpander, label: &[u8], into: &mut [u8]) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(into.len()).ok()?.to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len() + label.len()).ok()?];
    let no_context = [0];
    expander.expand_slice(&[&length, &label_length, PREFIX, label, &no_context], into).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::suite::{Cipher, Version};
    use super::*;

    const SUITE: Suite = Suite { version: Version::Tls13, cipher: Cipher::Aes128Gcm };

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// RFC 8448 §3, "{server} derive write traffic keys for application data".
    #[test]
    fn the_keys_of_rfc_8448() {
        let secret = Secret::new(&hex(
            "a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32 82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43",
        ));
        let keys = secret.keys(SUITE).unwrap();
        assert_eq!(keys.key[..16], hex("9f 02 28 3b 6c 9c 07 ef c2 6b b9 f2 ac 92 e3 56"));
        assert_eq!(keys.iv, *hex("cf 78 2b 88 dd 83 54 9a ad f1 e9 84"));
        assert_eq!(keys.sequence, 0);
    }

    #[test]
    fn a_secret_of_another_length_is_none() {
        assert!(Secret::new(&[7; 48]).keys(SUITE).is_none());
        assert!(Secret::new(&[7; 99]).next(SUITE).is_none());
        assert!(Secret::new(&[]).keys(SUITE).is_none());
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new(&[1, 2, 3])), "Secret(…)");
    }
}
