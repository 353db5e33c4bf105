//! Files with keys that cannot be used.

use serde_json::{Value, json};

use super::signer::{Signer, set};
use super::*;

const KEYS: &str = "jwt = { keys = \"jwks.json\" }";

fn changed(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

#[test]
fn bad_sets_say_which_key_and_why() {
    let (rsa, ec, ed) = (Signer::rs256().jwk(), Signer::es256().jwk(), Signer::eddsa().jwk());
    for (file, says) in [
        (b"{".to_vec(), "no JWK set: line 1, column 1"),
        (b"{}".to_vec(), "no JWK set"),
        (set(&[]), "no key in it"),
        (set(&[json!({ "kty": "EC", "crv": "P-384" })]), "no key in it"),
        (
            set(&[changed(ec.clone(), "kid", json!("mine")), json!({ "kty": "RSA", "kid": "b" })]),
            "key 2 (\"b\"): it has no `n`",
        ),
        (set(&[changed(rsa.clone(), "n", json!("A+B"))]), "key 1: its `n` is no base64url"),
        (
            set(&[changed(rsa.clone(), "n", json!("gAAAAQ"))]),
            "key 1: an RSA key has 32 bits; it must have 2048 to 8192",
        ),
        (set(&[changed(rsa, "e", json!("AA"))]), "key 1: its numbers are no key"),
        (set(&[changed(ec.clone(), "x", json!("AAAA"))]), "must have 32 bytes"),
        (set(&[changed(ec.clone(), "x", ec["y"].clone())]), "key 1: its numbers are no key"),
        (set(&[changed(ed.clone(), "x", json!("AAAA"))]), "must have 32 bytes"),
        (set(&[changed(ed, "x", json!("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))]), "key 1: an Ed25519 key is a point of small order"),
        (
            b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAJuiVj8KyJ7BFw/SJ8u+Y8NXfrAXTxjM5sTgCiG1T/AU=\n-----END PUBLIC KEY-----\n"
                .to_vec(),
            "an Ed25519 key is a point of small order",
        ),
        (set(&[json!({ "kty": "oct", "k": "c2hvcnQ" })]), "the secret has 5 bytes"),
        (set(&[json!({ "kty": "oct" })]), "it has no `k`"),
        (set(&vec![ec; 65]), "65 keys in it"),
        (b"not a key".to_vec(), "it must be a JWK set, or PEM"),
        (b"".to_vec(), "it must be a JWK set, or PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_vec(), "a block is no public key"),
    ] {
        let why = wrong(KEYS, &file);
        assert!(why.contains(says) && why.contains("[[auth]] \"users\": jwks.json"), "{why}");
    }
}

#[test]
fn keys_for_something_else_are_passed_over() {
    let (good, other) = (Signer::es256(), Signer::es256());
    let others = [
        json!({ "kty": "RSA", "use": "enc", "n": "!" }),
        json!({ "kty": "future", "x": "y" }),
        json!({ "kty": "EC", "crv": "P-521" }),
        changed(other.jwk(), "use", json!("enc")),
        changed(other.jwk(), "alg", json!("ECDH-ES")),
        changed(other.jwk(), "alg", json!("RS256")),
        changed(other.jwk(), "key_ops", json!(["sign"])),
        changed(changed(changed(good.jwk(), "use", json!("sig")), "alg", json!("ES256")), "key_ops", json!(["verify"])),
    ];
    let check = made(KEYS, &set(&others)).unwrap();
    assert!(Sent::bearer(&good.sign(&json!({}))).look(&check).unwrap().is_ok());
    assert!(Sent::bearer(&other.sign(&json!({}))).look(&check).unwrap().is_err());
}

#[test]
fn both_names_of_ed25519_are_known() {
    let signer = Signer::eddsa();
    for name in ["EdDSA", "Ed25519"] {
        let check = made(KEYS, &set(&[changed(signer.jwk(), "alg", json!(name))])).unwrap();
        assert!(Sent::bearer(&signer.sign(&json!({}))).look(&check).unwrap().is_ok());
    }
}

#[test]
fn a_secret_has_no_line_break_at_its_end_and_is_long() {
    let secret = "0123456789abcdef0123456789abcdef";
    let kind = "jwt = { secret = \"s\" }";
    let token = Signer::hs256(secret.as_bytes()).sign(&json!({}));
    for file in [secret.to_owned(), format!("{secret}\n"), format!("{secret}\r\n")] {
        let check = made(kind, file.as_bytes()).unwrap();
        assert!(Sent::bearer(&token).look(&check).unwrap().is_ok());
    }
    let why = wrong(kind, b"0123456789abcdef0123456789abcde\n");
    assert!(why.contains("31 bytes") && !why.contains("abcde"), "{why}");
}

#[test]
fn private_keys_and_certificates_are_no_public_keys() {
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "CERTIFICATE", "RSA PUBLIC KEY"] {
        let file = Signer::rs256().pem().replace("PUBLIC KEY", label);
        assert!(wrong(KEYS, file.as_bytes()).contains("PUBLIC KEY"), "{label}");
    }
}

#[test]
fn settings_are_checked_before_there_are_files() {
    let bad = |kind: &str| format!("{:#}", super::super::check(&config(kind)).unwrap_err());
    for (kind, says) in [
        ("jwt = { keys = \"k\", claims = { connection = \"sub\" } }", "cannot be changed"),
        ("jwt = { keys = \"k\", claims = { x-a = \"\" } }", "has no claim"),
        ("jwt = { keys = \"k\", claims = { X-A = \"a\", x-a = \"b\" } }", "there twice"),
        ("basic = { users = \"u\", user_header = \"a b\" }", "no header name"),
        ("api_key = { keys = \"k\", user_header = \"upgrade\" }", "cannot be changed"),
        ("forward = { backend = \"app\", path = \"/a b\" }", "is no target"),
        ("forward = { backend = \"app\", host = \"a b\" }", "is no host"),
        ("forward = { backend = \"app\", request_headers = [\"x-forwarded-for\"] }", "own to say"),
        ("forward = { backend = \"app\", response_headers = [\"content-length\"] }", "cannot be changed"),
        ("forward = { backend = \"app\", refusal_headers = [\"connection\"] }", "cannot be changed"),
    ] {
        assert!(bad(kind).contains(says) && bad(kind).contains("[[auth]] \"users\""), "{}", bad(kind));
    }
    super::super::check(&config("forward = { backend = \"app\", request_headers = [\"sec-websocket-protocol\"] }"))
        .unwrap();
}
