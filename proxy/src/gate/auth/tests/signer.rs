//! Keys, and tokens that are signed with them.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::SECONDS;

/// Who signs.
pub(in crate::gate) struct Signer {
    pub(in crate::gate) algorithm: Algorithm,
    pub(in crate::gate) kid: Option<&'static str>,
    key: EncodingKey,
    jwk: Value,
    spki: Vec<u8>,
}

impl Signer {
    pub(in crate::gate) fn hs256(secret: &[u8]) -> Self {
        let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret) });
        let key = EncodingKey::from_secret(secret);
        Self { algorithm: Algorithm::HS256, kid: None, key, jwk, spki: Vec::new() }
    }

    pub(in crate::gate) fn rs256() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // The PKCS #1 key inside, which is what the other implementation reads.
        let key = EncodingKey::from_rsa_der(&der.as_ref()[26..]);
        let public = pair.public_key();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (n, e) = (public.modulus(), public.exponent());
        let jwk = json!({ "kty": "RSA", "n": text(n.big_endian_without_leading_zero()),
                          "e": text(e.big_endian_without_leading_zero()) });
        let spki: PublicKeyX509Der<'_> = public.as_der().unwrap();
        Self { algorithm: Algorithm::RS256, kid: None, key, jwk, spki: spki.as_ref().to_vec() }
    }

    pub(in crate::gate) fn es256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        let point = pair.public_key().as_ref();
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
                          "y": URL_SAFE_NO_PAD.encode(&point[33..]) });
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self { algorithm: Algorithm::ES256, kid: None, key, jwk, spki: spki.as_ref().to_vec() }
    }

    pub(in crate::gate) fn eddsa() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        let public = pair.public_key();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(public.as_ref()) });
        let spki: PublicKeyX509Der<'_> = public.as_der().unwrap();
        Self { algorithm: Algorithm::EdDSA, kid: None, key, jwk, spki: spki.as_ref().to_vec() }
    }

    pub(in crate::gate) fn all() -> [Self; 4] {
        [Self::hs256(&[7; 32]), Self::rs256(), Self::es256(), Self::eddsa()]
    }

    pub(in crate::gate) fn named(mut self, kid: &'static str) -> Self {
        self.kid = Some(kid);
        self.jwk["kid"] = kid.into();
        self
    }

    /// Its public key, or its secret, as a JWK.
    pub(in crate::gate) fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// Its public key.
    pub(in crate::gate) fn pem(&self) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&self.spki))
    }

    /// The public key's bytes.
    pub(in crate::gate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// A token with these claims, which is good for another hour if they do not say else.
    pub(in crate::gate) fn sign(&self, claims: &Value) -> String {
        let mut all = json!({ "exp": SECONDS + 3600 });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        self.sign_exactly(&all)
    }

    pub(in crate::gate) fn sign_exactly(&self, claims: &Value) -> String {
        let header = Header { kid: self.kid.map(str::to_owned), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// A JWK set.
pub(in crate::gate) fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}
