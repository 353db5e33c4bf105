//! The keys that tokens are signed with. Each is good for one algorithm, which the token must name: what a token says of
//! itself never decides how a key is used (RFC 8725 §3.1).

use anyhow::{Context as _, anyhow, bail, ensure};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::{Zeroize as _, Zeroizing};

use crate::config::{AuthJwt, JwtAlgorithm};

/// The fewest bytes of a secret for HS256 (RFC 7518 §3.2).
const SECRET: usize = 32;

/// The bits of an RSA key (RFC 7518 §3.3 asks for 2048).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The most keys. A token that names none is tried with all of one algorithm; sets of identity providers have a few.
const MOST: usize = 64;

/// All keys of one check.
pub(super) struct Keys(Vec<Key>);

struct Key {
    kid: Option<String>,
    algorithm: JwtAlgorithm,
    verifier: Verifier,
}

/// It shows itself to no log: it has no Debug.
enum Verifier {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// A JWK set (RFC 7517 §5).
#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// A JWK (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2), as much of it as is looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Drop for Jwk {
    fn drop(&mut self) {
        self.k.zeroize();
    }
}

impl Keys {
    /// Reads a file with keys or with a secret.
    ///
    /// # Errors
    /// It is neither, or has no key that could be used.
    pub(super) fn read(settings: &AuthJwt, file: &[u8]) -> anyhow::Result<Self> {
        let path = settings.keys.as_ref().or(settings.secret.as_ref()).context("there is neither keys nor secret")?;
        let keys = match settings.keys {
            Some(_) if file.trim_ascii_start().starts_with(b"{") => set(file),
            Some(_) => pem(file),
            None => secret(file),
        };
        let mut keys = keys.with_context(|| path.display().to_string())?;
        ensure!(!keys.is_empty(), "{}: there is no key in it that signs tokens in a way that we know", path.display());
        let all = keys.len();
        ensure!(all <= MOST, "{}: there are {all} keys in it, more than {MOST}", path.display());
        keys.retain(|key| settings.algorithms.is_empty() || settings.algorithms.contains(&key.algorithm));
        ensure!(!keys.is_empty(), "{}: none of its keys is for one of `algorithms`", path.display());
        Ok(Self(keys))
    }

    /// Whether a key has made this signature, by the algorithm of this name. A token's `kid` chooses among the keys that
    /// have one; the others are tried.
    pub(super) fn verify(&self, algorithm: &str, kid: Option<&str>, signed: &[u8], signature: &[u8]) -> bool {
        let fits = |key: &&Key| {
            named(algorithm) == Some(key.algorithm) && (kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid)
        };
        self.0.iter().filter(fits).any(|key| key.verifier.verify(signed, signature))
    }
}

impl Verifier {
    fn verify(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            // In constant time.
            Self::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
            Self::Public(key) => key.verify_sig(signed, signature).is_ok(),
        }
    }
}

/// The algorithm of this name. `Ed25519` is the newer one of EdDSA with this curve (RFC 9864 §2.2).
fn named(algorithm: &str) -> Option<JwtAlgorithm> {
    match algorithm {
        "HS256" => Some(JwtAlgorithm::HS256),
        "RS256" => Some(JwtAlgorithm::RS256),
        "ES256" => Some(JwtAlgorithm::ES256),
        "EdDSA" | "Ed25519" => Some(JwtAlgorithm::EdDSA),
        _ => None,
    }
}

fn secret(file: &[u8]) -> anyhow::Result<Vec<Key>> {
    let secret = file.strip_suffix(b"\n").unwrap_or(file);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    Ok(vec![hs256(None, secret)?])
}

fn hs256(kid: Option<String>, secret: &[u8]) -> anyhow::Result<Key> {
    let length = secret.len();
    ensure!(
        length >= SECRET,
        "the secret has {length} bytes, and HS256 needs {SECRET} at least (`openssl rand -hex 32`)"
    );
    let verifier = Verifier::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
    Ok(Key { kid, algorithm: JwtAlgorithm::HS256, verifier })
}

/// PEM blocks `PUBLIC KEY` (RFC 7468 §13).
fn pem(file: &[u8]) -> anyhow::Result<Vec<Key>> {
    const WANTED: &str = "it must be a JWK set, or PEM with blocks `PUBLIC KEY` (`openssl pkey -pubout`)";
    let blocks = SubjectPublicKeyInfoDer::pem_slice_iter(file).collect::<Result<Vec<_>, _>>();
    let blocks = blocks.map_err(|_| anyhow!(WANTED))?;
    ensure!(!blocks.is_empty(), WANTED);
    blocks.iter().map(|block| spki(block.as_ref())).collect()
}

fn spki(der: &[u8]) -> anyhow::Result<Key> {
    let known = "a key must be RSA, P-256 or Ed25519";
    let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| anyhow!("a block is no public key"))?;
    let bytes: &[u8] = &info.subject_public_key.data;
    let (algorithm, by): (_, &'static dyn VerificationAlgorithm) = match info.parsed() {
        Ok(PublicKey::RSA(key)) => {
            rsa_bits(key.modulus)?;
            (JwtAlgorithm::RS256, &RSA_PKCS1_2048_8192_SHA256)
        }
        Ok(PublicKey::EC(_)) => (JwtAlgorithm::ES256, &ECDSA_P256_SHA256_FIXED),
        // id-Ed25519 (RFC 8410 §3).
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => (JwtAlgorithm::EdDSA, &ED25519),
        _ => bail!(known),
    };
    // The key itself for Ed25519; with the whole block, the curve of an EC key is checked too.
    let bytes = if algorithm == JwtAlgorithm::EdDSA { bytes } else { der };
    let key = ParsedPublicKey::new(by, bytes).map_err(|_| anyhow!(known))?;
    Ok(Key { kid: None, algorithm, verifier: Verifier::Public(key) })
}

fn rsa_bits(modulus: &[u8]) -> anyhow::Result<()> {
    let first = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
    let bits = modulus
        .get(first..)
        .map_or(0, |rest| rest.len() * 8 - rest.first().map_or(0, |byte| byte.leading_zeros() as usize));
    ensure!(
        RSA_BITS.contains(&bits),
        "an RSA key has {bits} bits; it must have {} to {}",
        RSA_BITS.start(),
        RSA_BITS.end()
    );
    Ok(())
}

/// A JWK set. Keys for other uses, and of kinds that we do not know, are passed over (RFC 7517 §5).
fn set(file: &[u8]) -> anyhow::Result<Vec<Key>> {
    // What it holds may be secret, so its own words are not repeated.
    let set: Set = serde_json::from_slice(file)
        .map_err(|error| anyhow!("it is no JWK set: line {}, column {}", error.line(), error.column()))?;
    let mut keys = Vec::new();
    for (number, jwk) in (1..).zip(&set.keys) {
        let what = || match &jwk.kid {
            Some(kid) => format!("key {number} ({kid:?})"),
            None => format!("key {number}"),
        };
        keys.extend(jwk.key().with_context(what)?);
    }
    Ok(keys)
}

impl Jwk {
    fn key(&self) -> anyhow::Result<Option<Key>> {
        let Some(algorithm) = self.algorithm() else { return Ok(None) };
        let key = match algorithm {
            JwtAlgorithm::HS256 => {
                let text = self.k.as_ref().context("it has no `k`")?;
                let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(|_| bad("k"))?);
                return hs256(self.kid.clone(), &secret).map(Some);
            }
            JwtAlgorithm::RS256 => {
                let (n, e) = (bytes(self.n.as_ref(), "n")?, bytes(self.e.as_ref(), "e")?);
                rsa_bits(&n)?;
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            }
            JwtAlgorithm::ES256 => {
                let (x, y) = (bytes(self.x.as_ref(), "x")?, bytes(self.y.as_ref(), "y")?);
                ensure!(x.len() == 32 && y.len() == 32, "`x` and `y` must have 32 bytes (RFC 7518 §6.2.1.2)");
                // An uncompressed point (SEC 1 §2.3.3).
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [&[4], x.as_slice(), &y].concat())
            }
            JwtAlgorithm::EdDSA => {
                let x = bytes(self.x.as_ref(), "x")?;
                ensure!(x.len() == 32, "`x` must have 32 bytes (RFC 8032 §5.1.5)");
                ParsedPublicKey::new(&ED25519, x)
            }
        };
        let key = key.map_err(|_| anyhow!("its numbers are no key"))?;
        Ok(Some(Key { kid: self.kid.clone(), algorithm, verifier: Verifier::Public(key) }))
    }

    /// What it is for. `None`: nothing that we do.
    fn algorithm(&self) -> Option<JwtAlgorithm> {
        let algorithm = match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => JwtAlgorithm::HS256,
            ("RSA", _) => JwtAlgorithm::RS256,
            ("EC", Some("P-256")) => JwtAlgorithm::ES256,
            ("OKP", Some("Ed25519")) => JwtAlgorithm::EdDSA,
            _ => return None,
        };
        let signs = self.usage.as_ref().is_none_or(|usage| usage == "sig");
        let verifies = self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let meant = self.alg.as_ref().is_none_or(|alg| named(alg) == Some(algorithm));
        (signs && verifies && meant).then_some(algorithm)
    }
}

fn bytes(text: Option<&String>, name: &str) -> anyhow::Result<Vec<u8>> {
    let text = text.with_context(|| format!("it has no `{name}`"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| bad(name))
}

fn bad(name: &str) -> anyhow::Error {
    anyhow!("its `{name}` is no base64url without padding (RFC 7515 §2)")
}
