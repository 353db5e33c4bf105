//! The keys that tokens are signed with. Each is good for one algorithm, which the token must name: what a token says of
//! itself never decides how a key is used (RFC 8725 §3.1).

use anyhow::{Context as _, anyhow, bail, ensure};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::{Map, Value};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::{Zeroize as _, Zeroizing};

use super::ed25519;
use crate::config::{AuthJwt, JwtAlgorithm};

/// The fewest bytes of a secret for HS256 (RFC 7518 §3.2).
const SECRET: usize = 32;

/// The bits of an RSA key (RFC 7518 §3.3 asks for 2048).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The most keys. A token that names none is tried with all of one algorithm; sets of identity providers have a few.
const MOST: usize = 64;

const NO_KEY: &str = "its numbers are no key";

/// All keys of one check.
pub(super) struct Keys(Vec<Key>);

/// It shows itself to no log: it has no Debug.
struct Key {
    kid: Option<String>,
    algorithm: JwtAlgorithm,
    key: DecodingKey,
    /// The signature, by this algorithm, and nothing of what the token says: that is judged with a `now` that is told.
    rules: Validation,
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

    /// The claims of a token that one of the keys has signed, by the algorithm that the key is for. A token's `kid` chooses
    /// among the keys that have one; the others are tried.
    pub(super) fn claims(&self, token: &[u8]) -> Option<Map<String, Value>> {
        let header = decode_header(token).ok()?;
        // Extensions that must be understood, and none is (RFC 7515 §4.1.11).
        if header.crit.is_some() {
            return None;
        }
        let fits = |key: &&Key| {
            own(key.algorithm) == header.alg && (header.kid.is_none() || key.kid.is_none() || key.kid == header.kid)
        };
        self.0.iter().filter(fits).find_map(|key| Some(decode(token, &key.key, &key.rules).ok()?.claims))
    }
}

impl Key {
    fn new(kid: Option<String>, algorithm: JwtAlgorithm, key: DecodingKey) -> Self {
        let mut rules = Validation::new(own(algorithm));
        (rules.validate_exp, rules.validate_aud) = (false, false);
        rules.required_spec_claims.clear();
        Self { kid, algorithm, key, rules }
    }
}

fn own(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::HS256 => Algorithm::HS256,
        JwtAlgorithm::RS256 => Algorithm::RS256,
        JwtAlgorithm::ES256 => Algorithm::ES256,
        JwtAlgorithm::EdDSA => Algorithm::EdDSA,
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
    Ok(Key::new(kid, JwtAlgorithm::HS256, DecodingKey::from_secret(secret)))
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
    let (algorithm, key) = match info.parsed() {
        Ok(PublicKey::RSA(key)) => {
            rsa_bits(key.modulus)?;
            (JwtAlgorithm::RS256, DecodingKey::from_rsa_der(bytes))
        }
        Ok(PublicKey::EC(_)) => {
            // With the whole block, its curve is checked too.
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der).map_err(|_| anyhow!(known))?;
            (JwtAlgorithm::ES256, DecodingKey::from_ec_der(bytes))
        }
        // id-Ed25519 (RFC 8410 §3).
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            ed25519::check(bytes)?;
            (JwtAlgorithm::EdDSA, DecodingKey::from_ed_der(bytes))
        }
        _ => bail!(known),
    };
    Ok(Key::new(None, algorithm, key))
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
                let numbers = RsaPublicKeyComponents { n: &n, e: &e };
                let parsed = numbers.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
                parsed.map_err(|_| anyhow!(NO_KEY))?;
                DecodingKey::from_rsa_raw_components(&n, &e)
            }
            JwtAlgorithm::ES256 => {
                let (x, y) = (bytes(self.x.as_ref(), "x")?, bytes(self.y.as_ref(), "y")?);
                ensure!(x.len() == 32 && y.len() == 32, "`x` and `y` must have 32 bytes (RFC 7518 §6.2.1.2)");
                // An uncompressed point (SEC 1 §2.3.3).
                let point = [&[4], x.as_slice(), &y].concat();
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| anyhow!(NO_KEY))?;
                DecodingKey::from_ec_der(&point)
            }
            JwtAlgorithm::EdDSA => {
                let x = bytes(self.x.as_ref(), "x")?;
                ed25519::check(&x)?;
                DecodingKey::from_ed_der(&x)
            }
        };
        Ok(Some(Key::new(self.kid.clone(), algorithm, key)))
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
