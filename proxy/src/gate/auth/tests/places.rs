//! Where credentials are looked for, and requests without them.

use serde_json::json;

use super::signer::Signer;
use super::*;

const ALL: &str = "from = [\"bearer\", { header = \"x-token\" }, { cookie = \"t\" }, { query = \"a b\" }, \
                   { subprotocol = \"bearer\" }]";

fn check(more: &str) -> Check {
    made(&format!("jwt = {{ secret = \"s\", {more} }}"), &[7; 32]).unwrap()
}

fn token() -> String {
    Signer::hs256(&[7; 32]).sign(&json!({ "sub": "jane" }))
}

/// Enters with the request; gives it as the backend gets it, and the subprotocol that the client is to be told.
fn entered(check: &Check, mut sent: Sent) -> (Sent, Option<String>) {
    assert!(sent.look(check).expect("it is found").is_ok());
    let protocol = sent.strip(check);
    assert!(sent.look(check).is_none(), "something is left");
    (sent, protocol)
}

#[test]
fn the_authorization_header() {
    let (check, token) = (check(""), token());
    for value in [format!("Bearer {token}"), format!("bEARER   {token}"), format!("BEARER\t{token} ")] {
        let (sent, _) = entered(&check, Sent::new("/", &[("authorization", &value)]));
        assert_eq!(sent.header("authorization"), Vec::<&str>::new());
    }
    for value in ["Basic eA==", "Bearerx", ""] {
        assert!(Sent::new("/", &[("authorization", value)]).look(&check).is_none(), "{value}");
    }
    let refused = |value: &str| Sent::new("/", &[("authorization", value)]).look(&check).unwrap().err();
    for value in ["Bearer", "Bearer x", &format!("Bearer {token} {token}"), &format!("Bearer token={token}")] {
        assert_eq!(refused(value), Some(Refusal::AuthInvalid), "{value}");
    }
}

#[test]
fn two_authorization_headers_are_refused_whatever_their_schemes_are() {
    let (tokens, token) = (check(ALL), token());
    let good = format!("Bearer {token}");
    let passwords =
        made("basic = { users = \"u\" }", format!("ada:{}", bcrypt::hash("x", 4).unwrap()).as_bytes()).unwrap();
    for other in ["Basic YWRhOng=", "Digest x", "", &good] {
        for two in [[good.as_str(), other], [other, good.as_str()]] {
            let mut sent = Sent::new("/", &two.map(|value| ("authorization", value)));
            for check in [&tokens, &passwords] {
                assert_eq!(sent.look(check).unwrap().err(), Some(Refusal::AuthInvalid), "{two:?}");
            }
        }
    }
    let one = |value| Sent::new("/", &[("authorization", value)]);
    assert!(one(&good).look(&tokens).unwrap().is_ok() && one("Basic YWRhOng=").look(&passwords).unwrap().is_ok());
}

#[test]
fn a_header_and_a_cookie() {
    let (check, token) = (check(ALL), token());
    let (sent, _) = entered(&check, Sent::new("/", &[("x-token", &token), ("x-other", "1")]));
    assert_eq!((sent.header("x-token"), sent.header("x-other")), (vec![], vec!["1"]));
    for value in [format!("a=1; t={token}; tt=2"), format!("a=1;t=\"{token}\"; tt=2")] {
        let (sent, _) = entered(&check, Sent::new("/", &[("cookie", &value)]));
        assert_eq!(sent.header("cookie"), ["a=1; tt=2"]);
    }
    let (sent, _) = entered(&check, Sent::new("/", &[("cookie", &format!("t={token}"))]));
    assert_eq!(sent.header("cookie"), Vec::<&str>::new());
}

#[test]
fn the_query() {
    let (check, token) = (check(ALL), token());
    for (target, left) in [
        ("/p?a+b=TOKEN", "/p"),
        ("/p?a%20b=TOKEN&x=%20+&y", "/p?x=%20+&y"),
        ("/p?x=1&&%61+%62=TOKEN&y=%zz", "/p?x=1&&y=%zz"),
        ("/p?ab=1&a+b=TOKEN&a=b", "/p?ab=1&a=b"),
        ("/?a+b=TOKEN&", "/"),
    ] {
        let (sent, _) = entered(&check, Sent::new(&target.replace("TOKEN", &token), &[]));
        assert_eq!(sent.target.as_str(), left, "{target}");
    }
    assert!(Sent::new("/p?ab=1&A+B=x", &[]).look(&check).is_none());
    // A page that was loaded so tells it with what it loads.
    let referer = format!("https://app.test/p?a+b={token}&x=1");
    let (sent, _) = entered(&check, Sent::new(&format!("/p?a+b={token}"), &[("referer", &referer)]));
    assert_eq!(sent.header("referer"), ["https://app.test/p"]);
    let mut sent = Sent::new("/p?a+b", &[]);
    assert_eq!(sent.look(&check).unwrap().err(), Some(Refusal::AuthInvalid));
}

#[test]
fn subprotocols() {
    let (check, token) = (check(ALL), token());
    let whole = format!("bearer.{token}");
    for (offered, left, told) in [
        (format!("bearer, {token}"), vec![], "bearer"),
        (format!("chat.v2, bearer, {token}, chat.v1"), vec!["chat.v2, chat.v1"], "bearer"),
        (whole.clone(), vec![], whole.as_str()),
        (format!("chat, {whole}"), vec!["chat"], &whole),
    ] {
        let (sent, protocol) = entered(&check, Sent::new("/", &[("sec-websocket-protocol", &offered)]));
        assert_eq!(sent.header("sec-websocket-protocol"), left, "{offered}");
        assert_eq!(sent.protocols.join(", "), left.join(", "));
        assert_eq!(protocol.as_deref(), Some(told));
    }
    for (offered, refusal) in [
        ("chat, bearer", None),
        ("bearers, Bearer, x", None),
        ("bearer, chat", Some(Refusal::AuthInvalid)),
        ("bearer.", Some(Refusal::AuthInvalid)),
        (&format!("bearer, {token}, {whole}"), Some(Refusal::AuthInvalid)),
    ] {
        let found = Sent::new("/", &[("sec-websocket-protocol", offered)]).look(&check);
        assert_eq!(found.map(|found| found.err()), refusal.map(Some), "{offered}");
    }
}

#[test]
fn the_first_place_counts_and_all_are_cleared() {
    let (check, token) = (check(ALL), token());
    let (sent, _) = entered(
        &check,
        Sent::new("/?a+b=other", &[("authorization", &format!("Bearer {token}")), ("cookie", "t=x"), ("x-token", "y")]),
    );
    assert_eq!(sent.target.as_str(), "/");
    assert!(sent.headers.is_empty());
    let mut sent = Sent::new(&format!("/?a+b={token}"), &[("authorization", "Bearer bad")]);
    assert_eq!(sent.look(&check).unwrap().err(), Some(Refusal::AuthInvalid), "the next place is no second chance");
}

#[test]
fn two_in_one_place_are_as_bad_as_a_wrong_one() {
    let (check, token) = (check(ALL), token());
    let bearer = format!("Bearer {token}");
    let crumbs = format!("t={token}; t={token}");
    for mut sent in [
        Sent::new("/", &[("authorization", &bearer), ("authorization", &bearer)]),
        Sent::new("/", &[("x-token", &token), ("x-token", "other")]),
        Sent::new("/", &[("cookie", &crumbs)]),
        Sent::new("/", &[("cookie", "t=1"), ("cookie", &format!("t={token}"))]),
        Sent::new(&format!("/?a+b={token}&a%20b=2"), &[]),
    ] {
        assert_eq!(sent.look(&check).unwrap().err(), Some(Refusal::AuthInvalid));
    }
}

#[test]
fn what_is_to_pass_stays() {
    let token = token();
    let check = check(&format!("pass = true, claims = {{ x-user = \"sub\" }}, {ALL}"));
    let (bearer, offered) = (format!("Bearer {token}"), format!("bearer, {token}"));
    let mut sent = Sent::new(
        "/?a+b=1",
        &[("authorization", &bearer), ("sec-websocket-protocol", &offered), ("cookie", "t=1"), ("x-user", "me")],
    );
    assert!(sent.look(&check).unwrap().is_ok());
    assert_eq!(sent.strip(&check), None);
    assert_eq!(sent.header("authorization"), [bearer.as_str()]);
    assert_eq!(sent.header("sec-websocket-protocol"), [offered.as_str()]);
    assert_eq!((sent.target.as_str(), sent.header("cookie")), ("/?a+b=1", vec!["t=1"]));
    assert_eq!(sent.header("x-user"), Vec::<&str>::new(), "only the token passes");
}

#[test]
fn names_that_nothing_has_are_refused() {
    let name = |from: &str| wrong(&format!("jwt = {{ secret = \"s\", from = [{from}] }}"), &[7; 32]);
    for from in ["{ cookie = \"a b\" }", "{ cookie = \"\" }", "{ subprotocol = \"a,b\" }"] {
        assert!(name(from).contains("no token"), "{from}: {}", name(from));
    }
    assert!(name("{ query = \"\" }").contains("without a name"));
    for from in ["{ header = \"connection\" }", "{ header = \"host\" }", "{ header = \"sec-websocket-key\" }"] {
        assert!(name(from).contains("cannot be changed"), "{from}: {}", name(from));
    }
}
