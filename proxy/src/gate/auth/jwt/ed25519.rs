//! Which public keys for Ed25519 are worth to be believed.

use anyhow::ensure;

/// The bit that says which of two points with the same y is meant (RFC 8032 §5.1.2).
const SIGN: u8 = 0x80;

/// 2^255 - 19, the least significant byte first: what y is taken modulo.
const PRIME: [u8; 32] = [
    0xED, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F,
];

/// The y of the eight points of small order: 0 (order 4), 1 (the neutral point), -1 (order 2), and two of order 8; each but 1
/// and -1 with either sign.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0xEC, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F,
    ],
    [
        0x26, 0xE8, 0x95, 0x8F, 0xC2, 0xB2, 0x27, 0xB0, 0x45, 0xC3, 0xF4, 0x89, 0xF2, 0xEF, 0x98, 0xF0, 0xD5, 0xDF,
        0xAC, 0x05, 0xD3, 0xC6, 0x33, 0x39, 0xB1, 0x38, 0x02, 0x88, 0x6D, 0x53, 0xFC, 0x05,
    ],
    [
        0xC7, 0x17, 0x6A, 0x70, 0x3D, 0x4D, 0xD8, 0x4F, 0xBA, 0x3C, 0x0B, 0x76, 0x0D, 0x10, 0x67, 0x0F, 0x2A, 0x20,
        0x53, 0xFA, 0x2C, 0x39, 0xCC, 0xC6, 0x4E, 0xC7, 0xFD, 0x77, 0x92, 0xAC, 0x03, 0x7A,
    ],
];

/// Checks the bytes of a key.
///
/// # Errors
/// It has another length; it is written in another way than RFC 8032 §5.1.3 allows; or it is a point of small order, for
/// which anybody can make signatures that verify.
pub(super) fn check(key: &[u8]) -> anyhow::Result<()> {
    let Ok(mut y) = <[u8; 32]>::try_from(key) else {
        anyhow::bail!("an Ed25519 key must have 32 bytes (RFC 8032 §5.1.5), and this one has {}", key.len());
    };
    y[31] &= !SIGN;
    ensure!(y.iter().rev().lt(PRIME.iter().rev()), "an Ed25519 key is not written as RFC 8032 §5.1.2 wants it");
    ensure!(!SMALL_ORDER.contains(&y), "an Ed25519 key is a point of small order, for which anybody can sign");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

    use super::*;

    /// All 32 bytes with either sign.
    fn signs(y: [u8; 32]) -> [[u8; 32]; 2] {
        let mut other = y;
        other[31] |= SIGN;
        [y, other]
    }

    #[test]
    fn points_of_small_order_and_other_spellings_are_refused() {
        for key in SMALL_ORDER.into_iter().flat_map(signs) {
            assert!(check(&key).unwrap_err().to_string().contains("small order"), "{key:02x?}");
        }
        // From the prime to 2^255 - 1; the first two are 0 and 1 once more.
        for more in 0..19 {
            let mut y = PRIME;
            y[0] += more;
            for key in signs(y) {
                assert!(check(&key).unwrap_err().to_string().contains("not written"), "{key:02x?}");
            }
        }
        for length in [0, 31, 33, 64] {
            assert!(check(&vec![7; length]).is_err());
        }
    }

    /// Why: the signature (R = the neutral point, S = 0) is one of any message, for a key of small order.
    #[test]
    fn anybody_signs_for_the_neutral_point() {
        let neutral = SMALL_ORDER[1];
        let signature = [neutral, [0; 32]].concat();
        for message in [&b"one"[..], b"another"] {
            assert!(UnparsedPublicKey::new(&ED25519, neutral).verify(message, &signature).is_ok());
        }
    }

    #[test]
    fn keys_that_are_made_at_random_are_good() {
        for _ in 0..64 {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
            check(pair.public_key().as_ref()).unwrap();
        }
    }
}
