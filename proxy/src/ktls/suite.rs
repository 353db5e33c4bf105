//! TLS versions and ciphers as the kernel knows them, and the bytes in which it takes keys.

use rustls::crypto::aws_lc_rs::cipher_suite as suites;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion, SupportedCipherSuite};
use serde::{Deserialize, Serialize};
use zeroize::ZeroizeOnDrop;

use crate::sys::ktls::CRYPTO_INFO;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    /// As in linux/tls.h, which is as on the wire.
    const fn number(self) -> u16 {
        match self {
            Self::Tls12 => libc::TLS_1_2_VERSION,
            Self::Tls13 => libc::TLS_1_3_VERSION,
        }
    }

    /// As OpenSSL writes it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// An AEAD that the kernel may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// CHACHA20-POLY1305.
    Chacha20Poly1305,
}

impl Cipher {
    /// All.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::Chacha20Poly1305];

    /// As in linux/tls.h.
    const fn number(self) -> u16 {
        match self {
            Self::Aes128Gcm => libc::TLS_CIPHER_AES_GCM_128,
            Self::Aes256Gcm => libc::TLS_CIPHER_AES_GCM_256,
            Self::Chacha20Poly1305 => libc::TLS_CIPHER_CHACHA20_POLY1305,
        }
    }

    /// Its name in tables and logs: the cipher's of the kernel.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES_GCM_128",
            Self::Aes256Gcm => "AES_GCM_256",
            Self::Chacha20Poly1305 => "CHACHA20_POLY1305",
        }
    }

    /// Bytes of a key.
    #[must_use]
    pub const fn key_length(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::Chacha20Poly1305 => 32,
        }
    }

    /// How many bytes of the 12 of an IV the kernel wants as a salt of their own.
    const fn salt(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 4,
            Self::Chacha20Poly1305 => 0,
        }
    }
}

/// A version with a cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Suite {
    /// The version.
    pub version: Version,
    /// The cipher.
    pub cipher: Cipher,
}

/// Which side of the TLS connection this end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It was connected to.
    Server,
    /// It has connected.
    Client,
}

/// A key with its IV, and the number of the next record.
#[derive(ZeroizeOnDrop)]
#[cfg_attr(test, derive(Clone))]
pub struct Keys {
    /// As many bytes as the cipher wants are in use.
    pub key: [u8; 32],
    /// RFC 8446 §5.3; in TLS 1.2, what an explicit nonce is made from (RFC 5288 §3).
    pub iv: [u8; 12],
    /// The number.
    pub sequence: u64,
}

/// What the kernel takes for one way of a socket.
#[derive(ZeroizeOnDrop)]
pub(super) struct CryptoInfo {
    bytes: [u8; CRYPTO_INFO],
    #[zeroize(skip)]
    length: usize,
}

impl AsRef<[u8]> for CryptoInfo {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Suite {
    /// Every combination that can be armed.
    pub fn all() -> impl Iterator<Item = Self> {
        Version::ALL.into_iter().flat_map(|version| Cipher::ALL.map(|cipher| Self { version, cipher }))
    }

    /// What a rustls connection has agreed on, if the kernel may know it.
    #[must_use]
    pub fn of(version: Option<ProtocolVersion>, suite: Option<SupportedCipherSuite>) -> Option<Self> {
        use rustls::CipherSuite as S;
        let version = match version? {
            ProtocolVersion::TLSv1_2 => Version::Tls12,
            ProtocolVersion::TLSv1_3 => Version::Tls13,
            _ => return None,
        };
        let cipher = match suite?.suite() {
            S::TLS13_AES_128_GCM_SHA256
            | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::Aes128Gcm,
            S::TLS13_AES_256_GCM_SHA384
            | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Cipher::Aes256Gcm,
            S::TLS13_CHACHA20_POLY1305_SHA256
            | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::Chacha20Poly1305,
            _ => return None,
        };
        Some(Self { version, cipher })
    }

    /// Records that may be sent with one key (RFC 8446 §5.5), as rustls counts them.
    #[must_use]
    pub fn record_limit(self) -> u64 {
        self.tls13().common.confidentiality_limit
    }

    /// The TLS 1.3 suite with this cipher.
    pub(super) fn tls13(self) -> &'static rustls::Tls13CipherSuite {
        let suite = match self.cipher {
            Cipher::Aes128Gcm => suites::TLS13_AES_128_GCM_SHA256,
            Cipher::Aes256Gcm => suites::TLS13_AES_256_GCM_SHA384,
            Cipher::Chacha20Poly1305 => suites::TLS13_CHACHA20_POLY1305_SHA256,
        };
        let SupportedCipherSuite::Tls13(suite) = suite else { unreachable!("they are constants of TLS 1.3") };
        suite
    }

    /// Bytes that the kernel's records have beside their content: header, explicit nonce (RFC 5288 §3), the content
    /// type of TLS 1.3 (RFC 8446 §5.2; the kernel does not pad) and the tag.
    #[must_use]
    pub const fn overhead(self) -> u64 {
        match (self.version, self.cipher) {
            (Version::Tls13, _) => 5 + 1 + 16,
            (Version::Tls12, Cipher::Chacha20Poly1305) => 5 + 16,
            (Version::Tls12, _) => 5 + 8 + 16,
        }
    }

    /// The `struct tls12_crypto_info_*` for these keys (linux/tls.h): version and cipher, IV, key, salt, record number.
    #[must_use]
    pub(super) fn crypto_info(self, keys: &Keys) -> CryptoInfo {
        let mut info = CryptoInfo { bytes: [0; CRYPTO_INFO], length: self.info_length() };
        let (salt, mut iv) = (keys.iv, keys.iv);
        let split = self.cipher.salt();
        if self.version == Version::Tls12 && split > 0 {
            separate(&mut iv);
        }
        let parts: [&[u8]; 6] = [
            &self.version.number().to_ne_bytes(),
            &self.cipher.number().to_ne_bytes(),
            iv.get(split..).unwrap_or_default(),
            keys.key.get(..self.cipher.key_length()).unwrap_or_default(),
            salt.get(..split).unwrap_or_default(),
            &keys.sequence.to_be_bytes(),
        ];
        let places = info.bytes.iter_mut();
        places.zip(parts.into_iter().flatten()).for_each(|(place, byte)| *place = *byte);
        info
    }

    /// An empty one, to ask the kernel with.
    pub(super) fn question(self) -> CryptoInfo {
        self.crypto_info(&Keys { key: [0; 32], iv: [0; 12], sequence: 0 })
    }

    const fn info_length(self) -> usize {
        2 + 2 + 12 + self.cipher.key_length() + 8
    }
}

impl CryptoInfo {
    /// As the kernel writes it.
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }

    /// The number of the next record.
    pub(super) fn sequence(&self) -> u64 {
        self.as_ref().last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

/// Where the kernel's explicit nonces of TLS 1.2 begin.
///
/// With a key of AES-GCM no nonce may ever come twice (RFC 5288 §3). rustls has used IV xor n for record n, which
/// was at least the Finished; the kernel counts upwards from what it is given. So the highest bit is turned over: the
/// two ranges are 2^63 apart, and neither is ever longer than the record limit.
fn separate(iv: &mut [u8; 12]) {
    iv[4] ^= 0x80;
}

impl Keys {
    /// Out of rustls's hands.
    #[must_use]
    pub fn of(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Option<Self> {
        let (key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
            _ => return None,
        };
        let mut keys = Self { key: [0; 32], iv: [0; 12], sequence };
        keys.key.get_mut(..key.as_ref().len())?.copy_from_slice(key.as_ref());
        keys.iv.get_mut(..iv.as_ref().len())?.copy_from_slice(iv.as_ref());
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let numbered = |from: u8| std::array::from_fn(|i| from + i as u8);
        Keys { key: numbered(100), iv: std::array::from_fn(|i| 1 + i as u8), sequence: 0x0102 }
    }

    fn info(version: Version, cipher: Cipher) -> Vec<u8> {
        Suite { version, cipher }.crypto_info(&keys()).as_ref().to_vec()
    }

    #[test]
    fn the_kernel_gets_its_structs() {
        let gcm = info(Version::Tls13, Cipher::Aes128Gcm);
        // struct tls12_crypto_info_aes_gcm_128: info 4, iv 8, key 16, salt 4, rec_seq 8.
        assert_eq!(gcm.len(), 40);
        assert_eq!(gcm[..4], [4, 3, 51, 0]);
        assert_eq!(gcm[4..12], [5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(gcm[12..28], std::array::from_fn::<u8, 16, _>(|i| 100 + i as u8));
        assert_eq!(gcm[28..32], [1, 2, 3, 4]);
        assert_eq!(gcm[32..], [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(info(Version::Tls13, Cipher::Aes256Gcm).len(), 56);
        let chacha = info(Version::Tls12, Cipher::Chacha20Poly1305);
        assert_eq!((chacha.len(), &chacha[..4]), (56, &[3, 3, 54, 0][..]));
        assert_eq!(chacha[4..16], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn no_nonce_of_tls_1_2_comes_twice() {
        let gcm = info(Version::Tls12, Cipher::Aes128Gcm);
        let first = u64::from_be_bytes(gcm[4..12].try_into().unwrap_or_default());
        let iv = u64::from_be_bytes([5, 6, 7, 8, 9, 10, 11, 12]);
        let limit = Suite { version: Version::Tls12, cipher: Cipher::Aes128Gcm }.record_limit();
        // Of rustls: IV xor n. Of the kernel: first + n. For neither n beyond the limit.
        for rustls in [iv, iv ^ 1, iv ^ (limit - 1)] {
            let distance = rustls.wrapping_sub(first);
            assert!(distance > limit && distance.wrapping_neg() > limit, "{distance:#x}");
        }
        assert_eq!(gcm[28..32], [1, 2, 3, 4], "the implicit part stays");
    }
}
