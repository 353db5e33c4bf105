//! Tokens: their signature, and what they say.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::signer::{Signer, set};
use super::*;

const KEYS: &str = "jwt = { keys = \"jwks.json\" }";

/// The check of this signer's tokens, with these settings beside `keys`.
fn of(signer: &Signer, more: &str) -> Check {
    made(&format!("jwt = {{ keys = \"jwks.json\", {more} }}"), &set(&[signer.jwk()])).unwrap()
}

fn outcome(check: &Check, token: &str) -> Result<Entry, Refusal> {
    Sent::bearer(token).look(check).expect("a token")
}

fn invalid(check: &Check, token: &str) {
    assert_eq!(outcome(check, token).err(), Some(Refusal::AuthInvalid), "{token}");
}

fn b64(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

#[test]
fn every_algorithm_enters_with_its_key_and_with_no_other() {
    let (signers, others) = (Signer::all(), Signer::all());
    for (at, signer) in signers.iter().enumerate() {
        let check = of(signer, "");
        for (from, sent) in signers.iter().enumerate() {
            let good = outcome(&check, &sent.sign(&json!({}))).is_ok();
            assert_eq!(good, at == from, "{:?} by {:?}", sent.algorithm, signer.algorithm);
        }
    }
    for (signer, other) in signers.iter().zip(&others).skip(1) {
        invalid(&of(signer, ""), &other.sign(&json!({})));
    }
    invalid(&of(&signers[0], ""), &Signer::hs256(&[8; 32]).sign(&json!({})));
}

#[test]
fn pem_files_are_as_good_as_sets() {
    for signer in Signer::all().iter().skip(1) {
        let check = made(KEYS, signer.pem().as_bytes()).unwrap();
        assert!(outcome(&check, &signer.sign(&json!({}))).is_ok(), "{:?}", signer.algorithm);
    }
    let two = [Signer::rs256(), Signer::es256()];
    let check = made(KEYS, (two[0].pem() + &two[1].pem()).as_bytes()).unwrap();
    two.iter().for_each(|signer| assert!(outcome(&check, &signer.sign(&json!({}))).is_ok()));
}

#[test]
fn a_public_key_is_never_a_secret() {
    for signer in Signer::all().iter().skip(1) {
        let (by_pem, by_set) = (made(KEYS, signer.pem().as_bytes()).unwrap(), of(signer, ""));
        // What an attacker knows of the key, taken for an HMAC secret.
        let known = [signer.pem().into_bytes(), signer.pem().trim_end().into(), signer.spki().to_vec()];
        for secret in known {
            let forged = Signer::hs256(&secret).sign(&json!({ "sub": "admin" }));
            invalid(&by_pem, &forged);
            invalid(&by_set, &forged);
        }
    }
}

#[test]
fn none_is_no_algorithm_in_any_spelling() {
    let check = of(&Signer::hs256(&[7; 32]), "");
    let body = b64(&json!({ "exp": SECONDS + 60 }).to_string());
    for alg in ["none", "None", "NONE", "nOnE", "", "HS384", "hs256", "RS512", "PS256", "ES384"] {
        let head = b64(&json!({ "alg": alg, "typ": "JWT" }).to_string());
        invalid(&check, &format!("{head}.{body}."));
        let signature = Signer::hs256(&[7; 32]).sign(&json!({}));
        invalid(&check, &format!("{head}.{body}.{}", signature.rsplit('.').next().unwrap()));
    }
    invalid(&check, &format!("{}.{body}.", b64("{}")));
}

#[test]
fn whatever_is_changed_breaks_the_signature() {
    for signer in Signer::all() {
        let (check, token) = (of(&signer, ""), signer.sign(&json!({ "sub": "a" })));
        let parts: Vec<&str> = token.split('.').collect();
        let other = b64(&json!({ "sub": "b", "exp": SECONDS + 3600 }).to_string());
        invalid(&check, &format!("{}.{other}.{}", parts[0], parts[2]));
        invalid(&check, &format!("{}.{}.{}", parts[0], parts[1], b64("x")));
        invalid(&check, &format!("{}.{}.", parts[0], parts[1]));
        invalid(&check, &format!("{}.{}", parts[0], parts[1]));
        invalid(&check, &format!("{token}.x"));
        invalid(&check, &format!("{token}="));
        invalid(&check, "");
        invalid(&check, "..");
        let head = b64(&json!({ "alg": format!("{:?}", signer.algorithm), "x": 1 }).to_string());
        invalid(&check, &format!("{head}.{}.{}", parts[1], parts[2]));
    }
}

/// A token whose header is this, signed by HS256.
fn with_header(header: &Value) -> String {
    let signed = format!("{}.{}", b64(&header.to_string()), b64(&json!({ "exp": SECONDS + 60 }).to_string()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, signed.as_bytes())))
}

#[test]
fn extensions_that_must_be_understood_are_not() {
    let check = of(&Signer::hs256(&[7; 32]), "");
    assert!(outcome(&check, &with_header(&json!({ "alg": "HS256", "typ": "at+jwt", "x": [1] }))).is_ok());
    for header in [
        json!({ "alg": "HS256", "crit": ["b64"], "b64": false }),
        json!({ "alg": "HS256", "crit": [] }),
        json!({ "alg": "HS256", "kid": 7 }),
        json!({ "alg": ["HS256"] }),
        json!([]),
    ] {
        invalid(&check, &with_header(&header));
    }
}

#[test]
fn a_kid_chooses_and_an_unknown_one_chooses_nothing() {
    let (one, two) = (Signer::es256().named("one"), Signer::es256().named("two"));
    let check = made(KEYS, &set(&[one.jwk(), two.jwk()])).unwrap();
    for signer in [&one, &two] {
        assert!(outcome(&check, &signer.sign(&json!({}))).is_ok());
    }
    let claimed = |mut signer: Signer, kid| {
        signer.kid = kid;
        signer.sign(&json!({}))
    };
    invalid(&check, &claimed(two, Some("one")));
    let check = made(KEYS, &set(&[one.jwk()])).unwrap();
    assert!(outcome(&check, &claimed(one, None)).is_ok(), "without a kid every key is tried");
    let one = Signer::es256().named("one");
    let check = made(KEYS, &set(&[one.jwk()])).unwrap();
    invalid(&check, &claimed(one, Some("three")));
    let nameless = Signer::es256();
    let check = made(KEYS, &set(&[nameless.jwk()])).unwrap();
    assert!(outcome(&check, &claimed(nameless, Some("three"))).is_ok(), "a key without a name may be any");
}

#[test]
fn the_list_of_algorithms_is_kept_to() {
    let (rsa, ec) = (Signer::rs256(), Signer::es256());
    let kind = "jwt = { keys = \"k\", algorithms = [\"ES256\"] }";
    let check = made(kind, &set(&[rsa.jwk(), ec.jwk()])).unwrap();
    assert!(outcome(&check, &ec.sign(&json!({}))).is_ok());
    invalid(&check, &rsa.sign(&json!({})));
    assert!(wrong(kind, &set(&[rsa.jwk()])).contains("one of `algorithms`"));
}

#[test]
fn a_token_is_good_to_its_end_and_the_leeway_and_not_a_millisecond_longer() {
    let signer = Signer::hs256(&[7; 32]);
    let check = of(&signer, "leeway = \"30s\"");
    let token = signer.sign_exactly(&json!({ "exp": SECONDS, "nbf": SECONDS - 100 }));
    let at = |now: u64| Sent::bearer(&token).look_at(&check, now).unwrap().map(drop);
    assert_eq!(at(NOW), Ok(()));
    assert_eq!(at(NOW + 29_999), Ok(()));
    assert_eq!(at(NOW + 30_000), Err(Refusal::TokenExpired));
    assert_eq!(at(NOW - 130_000), Ok(()));
    assert_eq!(at(NOW - 130_001), Err(Refusal::AuthInvalid), "not yet");
    let broken = signer.sign_exactly(&json!({ "exp": SECONDS as f64 + 0.5 }));
    let at = |now: u64| Sent::bearer(&broken).look_at(&check, now).unwrap().map(drop);
    assert_eq!((at(NOW + 30_499), at(NOW + 30_500)), (Ok(()), Err(Refusal::TokenExpired)));
}

#[test]
fn times_that_are_none_are_refused() {
    let signer = Signer::hs256(&[7; 32]);
    let (check, lax) = (of(&signer, ""), of(&signer, "require_expiry = false"));
    invalid(&check, &signer.sign_exactly(&json!({})));
    assert!(outcome(&lax, &signer.sign_exactly(&json!({}))).is_ok());
    for time in [json!("1767225600"), json!(-1), json!(null), json!(true), json!([SECONDS + 60]), json!({})] {
        for check in [&check, &lax] {
            invalid(check, &signer.sign_exactly(&json!({ "exp": time })));
            invalid(check, &signer.sign(&json!({ "nbf": time })));
        }
    }
    for far in [json!(u64::MAX), json!(1e300)] {
        assert!(outcome(&check, &signer.sign_exactly(&json!({ "exp": far }))).is_ok(), "{far}");
        invalid(&check, &signer.sign(&json!({ "nbf": far })));
    }
    assert_eq!(outcome(&lax, &signer.sign_exactly(&json!({ "exp": 0 }))).err(), Some(Refusal::TokenExpired));
}

#[test]
fn issuer_and_audience() {
    let signer = Signer::hs256(&[7; 32]);
    let any = of(&signer, "");
    assert!(outcome(&any, &signer.sign(&json!({ "iss": "whoever" }))).is_ok());
    invalid(&any, &signer.sign(&json!({ "aud": "somebody else" })));
    invalid(&any, &signer.sign(&json!({ "aud": [] })));
    let check = of(&signer, "issuer = [\"a\", \"b\"], audience = \"chat\"");
    for good in [json!({ "iss": "a", "aud": "chat" }), json!({ "iss": "b", "aud": ["x", "chat"] })] {
        assert!(outcome(&check, &signer.sign(&good)).is_ok(), "{good}");
    }
    for bad in [
        json!({ "iss": "a" }),
        json!({ "aud": "chat" }),
        json!({ "iss": "c", "aud": "chat" }),
        json!({ "iss": ["a"], "aud": "chat" }),
        json!({ "iss": "a", "aud": "chatter" }),
        json!({ "iss": "a", "aud": ["x", 7, ["chat"]] }),
        json!({ "iss": "a", "aud": { "chat": "chat" } }),
    ] {
        invalid(&check, &signer.sign(&bad));
    }
}

#[test]
fn claims_become_headers() {
    let signer = Signer::hs256(&[7; 32]);
    let claims =
        "claims = { x-user = \"sub\", x-roles = \"realm_access.roles\", x-n = \"n\", x-url = \"https://a.test/t\" }";
    let check = of(&signer, claims);
    let say = |claims: &Value| {
        let entry = outcome(&check, &signer.sign(claims)).unwrap();
        told(&entry)
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
            .collect::<Vec<_>>()
    };
    let all = json!({ "sub": "jane", "n": 4.5, "realm_access": { "roles": ["a", 1, true] }, "https://a.test/t": "t" });
    assert_eq!(say(&all), ["x-n=4.5", "x-roles=a,1,true", "x-url=t", "x-user=jane"]);
    assert_eq!(say(&json!({ "sub": "Jos\u{e9}, the 2nd", "n": false })), ["x-n=false", "x-user=Jos\u{e9}, the 2nd"]);
    assert_eq!(say(&json!({ "realm_access": { "roles": [] }, "sub": "" })), ["x-roles=", "x-user="]);
    for nothing in [
        json!({}),
        json!({ "sub": "a\r\nx-admin: 1" }),
        json!({ "sub": "a\u{0}" }),
        json!({ "sub": " padded" }),
        json!({ "realm_access": "roles" }),
        json!({ "realm_access": { "roles": ["user,admin"] } }),
        json!({ "realm_access": { "roles": ["user", ["admin"]] } }),
        json!({ "realm_access": { "roles": [null] } }),
        json!({ "realm_access.role": "x" }),
    ] {
        assert_eq!(say(&nothing), Vec::<String>::new(), "{nothing}");
    }
    assert_eq!(say(&json!({ "sub": null })), Vec::<String>::new());
    // RFC 7519 §4.1.2: a subject is a text.
    invalid(&check, &signer.sign(&json!({ "sub": { "name": "x" } })));
}

#[test]
fn what_a_client_says_of_itself_is_removed_in_every_spelling() {
    let signer = Signer::hs256(&[7; 32]);
    let check = of(&signer, "claims = { x-user-name = \"sub\" }");
    let mut sent = Sent::bearer(&signer.sign(&json!({})));
    for name in ["x-user-name", "x_user_name", "x-user_name", "x.user.name", "x~user+name", "x-user", "x-user-names"] {
        sent.headers.append(name, HeaderValue::from_static("admin"));
    }
    assert!(sent.look(&check).unwrap().unwrap().tell.is_empty());
    sent.strip(&check);
    let left: Vec<&str> = sent.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["x-user", "x-user-names"]);
}

#[test]
fn a_token_must_say_what_is_required() {
    let signer = Signer::hs256(&[7; 32]);
    let check = of(&signer, "require = { scope = [\"chat\", \"all\"], \"realm.roles\" = [\"user\"], level = [\"3\"] }");
    let says = |scope: Value, roles: Value, level: Value| {
        let token = signer.sign(&json!({ "scope": scope, "realm": { "roles": roles }, "level": level }));
        outcome(&check, &token).err()
    };
    for scope in [json!("chat"), json!("mail chat"), json!("all"), json!(["mail", "chat"]), json!("all chat")] {
        assert_eq!(says(scope.clone(), json!(["admin", "user"]), json!(3)), None, "{scope}");
    }
    for scope in [json!("chats"), json!("mail"), json!(""), json!(null), json!(["mail chat"]), json!({ "chat": true })]
    {
        assert_eq!(says(scope.clone(), json!("user"), json!(3)), Some(Refusal::AuthDenied), "{scope}");
    }
    assert_eq!(says(json!("chat"), json!("user"), json!(true)), Some(Refusal::AuthDenied));
    assert_eq!(says(json!("chat"), json!([]), json!("3")), Some(Refusal::AuthDenied));
    assert_eq!(outcome(&check, &signer.sign(&json!({}))).err(), Some(Refusal::AuthDenied));
}

#[test]
fn a_connection_may_end_with_its_token() {
    let signer = Signer::hs256(&[7; 32]);
    let token = signer.sign_exactly(&json!({ "exp": SECONDS + 60 }));
    let ends = |more: &str| outcome(&of(&signer, more), &token).unwrap().expires_ms.map(std::num::NonZero::get);
    assert_eq!(ends(""), None);
    assert_eq!(ends("end_at_expiry = true"), Some(NOW + 90_000));
    assert_eq!(ends("end_at_expiry = true, leeway = \"1s\""), Some(NOW + 61_000));
    assert_eq!(ends("end_at_expiry = true, leeway = \"0s\""), Some(NOW + 60_000));
}

#[test]
fn the_challenge_says_no_more_than_it_must() {
    let check = made("realm = \"a \\\"b\\\" \\\\\"\njwt = { secret = \"s\" }", &[7; 32]).unwrap();
    let said = |refusal| check.challenge(refusal).unwrap();
    let realm = r#"Bearer realm="a \"b\" \\""#;
    assert_eq!(said(Refusal::AuthMissing), realm);
    assert_eq!(said(Refusal::AuthInvalid), format!("{realm}, error=\"invalid_token\""));
    let expired = format!("{realm}, error=\"invalid_token\", error_description=\"the token has expired\"");
    assert_eq!(said(Refusal::TokenExpired), expired);
}
