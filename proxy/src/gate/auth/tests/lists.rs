//! Password files and lists of keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// `pass-a` and `pass-b`. (The whole-program tests have hashes that others have made.)
const USERS: &str = "# the users\n\
    jane:BCRYPT\n\n\
    j\u{f6}rg:ARGON\n";
const BASIC: &str = "basic = { users = \"htpasswd\", user_header = \"x-user\" }";

fn users() -> String {
    let argon = {
        use argon2::{Algorithm, Argon2, CustomizedPasswordHasher as _, Params, Version};
        let small = Params::new(64, 1, 1, None).unwrap();
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, small.clone());
        let hash = argon.hash_password_customized(b"pass-b", b"0123456789abcdef", None, None, small).unwrap();
        hash.to_string()
    };
    USERS.replace("BCRYPT", &bcrypt::hash("pass-a", 4).unwrap()).replace("ARGON", &argon)
}

fn basic(text: &str) -> Sent {
    Sent::new("/", &[("authorization", &format!("Basic {}", STANDARD.encode(text)))])
}

#[test]
fn names_with_their_passwords_enter() {
    let check = made(BASIC, users().as_bytes()).unwrap();
    for (name, password) in [("jane", "pass-a"), ("j\u{f6}rg", "pass-b")] {
        let mut sent = basic(&format!("{name}:{password}"));
        sent.headers.append("x-user", HeaderValue::from_static("root"));
        let entry = sent.look(&check).unwrap().unwrap();
        assert_eq!(told(&entry), [("x-user", name.as_bytes())]);
        sent.strip(&check);
        assert_eq!((sent.header("authorization"), sent.header("x-user")), (vec![], vec![]));
    }
    assert_eq!(check.challenge(Refusal::AuthMissing).unwrap(), "Basic realm=\"users\", charset=\"UTF-8\"");
}

#[test]
fn nobody_else_does() {
    let check = made(BASIC, users().as_bytes()).unwrap();
    for text in [
        "jane:pass-b",
        "jane:",
        "jane",
        ":pass-a",
        "nobody:pass-a",
        "jane:pass-a ",
        "jane:pass-a\0",
        "jane:pass-a\0pass-a",
        "Jane:pass-a",
        "",
        ":",
        "jane\n:pass-a",
    ] {
        assert_eq!(basic(text).look(&check).unwrap().err(), Some(Refusal::AuthInvalid), "{text:?}");
    }
    for value in ["Basic", "Basic !", "Basic amFuZQ==x"] {
        let found = Sent::new("/", &[("authorization", value)]).look(&check);
        assert_eq!(found.unwrap().err(), Some(Refusal::AuthInvalid), "{value}");
    }
    assert!(Sent::new("/", &[("authorization", "Bearer x")]).look(&check).is_none());
    assert!(Sent::new("/", &[]).look(&check).is_none());
    let mut twice = basic("jane:pass-a");
    twice.headers.append("authorization", twice.headers["authorization"].clone());
    assert_eq!(twice.look(&check).unwrap().err(), Some(Refusal::AuthInvalid));
}

#[test]
fn what_was_good_is_remembered_for_a_while() {
    let check = made(BASIC, users().as_bytes()).unwrap();
    let claimed = |text: &str| match check.look(&basic(text).asked(), NOW) {
        Look::Password(users, claimed) => (users.clone(), claimed),
        _ => panic!("no password"),
    };
    let (users, good) = claimed("jane:pass-a");
    let (_, bad) = claimed("jane:pass-b");
    assert!(!users.remembers(&good, NOW));
    users.remember(&good, NOW);
    assert!(users.remembers(&good, NOW) && users.remembers(&good, NOW + 299_999) && !users.remembers(&bad, NOW));
    assert!(!users.remembers(&good, NOW + 300_001), "for five minutes");
    assert!(!users.remembers(&good, NOW - 1), "a clock that was set back does not prolong it");
    // Others do not push the memory beyond its bound.
    for number in 0..9000 {
        users.remember(&claimed(&format!("user{number}:x")).1, NOW);
    }
    assert!(users.remembered_in_all() <= 8192);
}

#[test]
fn hashes_that_can_be_guessed_or_take_for_ever_are_refused() {
    let slow = format!("jane:{}", bcrypt::hash("x", 4).unwrap().replace("$04$", "$31$"));
    for (line, says) in [
        ("jane:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=", "line 1: the hash is neither bcrypt nor argon2id"),
        ("jane:$apr1$x$y", "neither bcrypt nor argon2id"),
        ("jane:$2x$04$0123456789012345678901uPk9Ab0oVLy4lvT5kvRLVcJXz0cvXz2", "neither bcrypt nor argon2id"),
        ("jane:plain", "neither bcrypt nor argon2id"),
        ("jane", "it must be `name:hash`"),
        ("", "there is no user in it"),
        ("# jane:x", "there is no user in it"),
        ("jane:$2y$05$short", "the bcrypt hash is broken"),
        (&slow, "cost is 31; it must be 4 to 14"),
        ("jane:$argon2id$v=19$m=x", "argon2id"),
        (
            "jane:$argon2id$v=19$m=1048576,t=3,p=1$MDEyMzQ1Njc4OWFiY2RlZg$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "262144 KiB",
        ),
        (
            "jane:$argon2i$v=19$m=64,t=3,p=1$MDEyMzQ1Njc4OWFiY2RlZg$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "neither",
        ),
        ("jane:$argon2id$v=19$m=64,t=3,p=1$MDEyMzQ1Njc4OWFiY2RlZg", "broken"),
    ] {
        let why = wrong(BASIC, line.as_bytes());
        assert!(why.contains(says) && why.contains("htpasswd"), "{line}: {why}");
        assert!(!why.contains("fEqN") && !why.contains("plain"), "what may be a password is not repeated: {why}");
    }
    let twice = users() + &users();
    assert!(
        wrong(BASIC, twice.as_bytes()).contains("line 6: \"jane\" is there twice"),
        "{}",
        wrong(BASIC, twice.as_bytes())
    );
}

const KEYS: &str = "api_key = { keys = \"keys\", user_header = \"x-client\", from = [{ header = \"x-api-key\" }, { query = \"key\" }] }";
/// Of `secret-one` and of `secret two`, by sha256sum.
const HASHES: &str = "# keys\nbot one: 98d36a5b2bd48e15c31a4dbb4a4d4d1f3f4d3e1cbe2a3dd5ad6ac3c0d2d8bbd4\n";

fn keys() -> String {
    let hash = |key: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    format!("{HASHES}bot two:{}\n\nbot three: {}\r\n", hash("secret two"), hash("secret-three").to_uppercase())
}

#[test]
fn keys_enter_by_their_hash() {
    let check = made(KEYS, keys().as_bytes()).unwrap();
    let mut sent = Sent::new("/?a=1", &[("x-api-key", "secret-three"), ("x_client", "root")]);
    assert_eq!(told(&sent.look(&check).unwrap().unwrap()), [("x-client", "bot three".as_bytes())]);
    sent.strip(&check);
    assert!(sent.headers.is_empty());
    let mut sent = Sent::new("/?a=1&key=secret+two", &[]);
    assert_eq!(told(&sent.look(&check).unwrap().unwrap()), [("x-client", "bot two".as_bytes())]);
    sent.strip(&check);
    assert_eq!(sent.target.as_str(), "/?a=1");
    for key in ["", "secret", "secret-threee", "bot three", HASHES.split(": ").nth(1).unwrap().trim()] {
        let mut sent = Sent::new("/", &[("x-api-key", key)]);
        assert_eq!(sent.look(&check).unwrap().err(), Some(Refusal::AuthInvalid), "{key}");
    }
    assert!(Sent::new("/", &[("authorization", "Bearer x")]).look(&check).is_none());
    assert_eq!(check.challenge(Refusal::AuthInvalid).unwrap(), "ApiKey realm=\"users\"");
}

#[test]
fn bad_lists_of_keys_say_which_line() {
    let good = keys();
    let line = good.lines().nth(1).unwrap();
    for (file, says) in [
        (String::new(), "there is no key in it"),
        ("bot".into(), "line 1: it must be `name:hash`"),
        (format!("\n:{}", line.split(':').nth(1).unwrap()), "line 2: the key has no name"),
        ("bot:the key itself".into(), "line 1: the hash must be the 64 hexadecimal digits"),
        (format!("{line}0"), "64 hexadecimal digits"),
        (line.replace("98", "+8"), "64 hexadecimal digits"),
        (format!("{line}\n{line}"), "line 2: this key is there twice"),
    ] {
        let why = wrong(KEYS, file.as_bytes());
        assert!(why.contains(says) && !why.contains("itself"), "{file}: {why}");
    }
    assert!(wrong(KEYS, b"\xff").contains("not UTF-8"));
}
