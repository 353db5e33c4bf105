#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::header::COOKIE;
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn sticky(servers: &[&str], secrets: &[&str]) -> Sticky {
    named("app", servers, secrets)
}

fn named(backend: &str, servers: &[&str], secrets: &[&str]) -> Sticky {
    let settings = config::Sticky { lifetime: Duration::from_secs(DAY), ..config::Sticky::default() };
    let servers: Vec<_> = (0..).zip(servers.iter().map(|server| (*server).to_owned())).collect();
    let secrets: Vec<_> = secrets.iter().map(|secret| key(secret.repeat(LEAST).as_bytes()).unwrap()).collect();
    Sticky::new(&settings, backend, &servers, &secrets)
}

fn value(set_cookie: &HeaderValue) -> String {
    Cookie::parse(set_cookie.to_str().unwrap().to_owned()).unwrap().value().to_owned()
}

fn headers(cookie: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
    headers
}

fn read(sticky: &Sticky, value: &str, now: u64) -> Option<Kept> {
    sticky.read(&headers(&format!("other=1; sluice={value}; x=y")), now)
}

#[test]
fn a_client_comes_back_to_its_server_until_the_cookie_expires() {
    let sticky = sticky(&["10.0.0.1:80", "10.0.0.2:80"], &["secret"]);
    let cookie = sticky.issue(1, true, NOW).unwrap();
    let text = cookie.to_str().unwrap();
    assert!(text.ends_with("; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=86400"), "{text}");
    assert!(!sticky.issue(1, false, NOW).unwrap().to_str().unwrap().contains("Secure"));
    let value = value(&cookie);
    assert_eq!(read(&sticky, &value, NOW), Some(Kept { server: 1, renew: false }));
    assert_eq!(read(&sticky, &value, NOW + DAY / 2 + 1), Some(Kept { server: 1, renew: true }));
    assert_eq!(read(&sticky, &value, NOW + DAY), None);
}

#[test]
fn another_sluice_with_the_same_key_understands_it_in_any_order_of_servers() {
    let one = sticky(&["10.0.0.1:80", "10.0.0.2:80"], &["secret"]);
    let other = sticky(&["10.0.0.3:80", "10.0.0.2:80", "10.0.0.1:80"], &["new", "secret"]);
    let value = value(&one.issue(0, true, NOW).unwrap());
    // With a key that no longer signs: a new cookie is due.
    assert_eq!(read(&other, &value, NOW), Some(Kept { server: 2, renew: true }));
    let gone = sticky(&["10.0.0.3:80"], &["secret"]);
    assert_eq!(read(&gone, &value, NOW), None);
}

#[test]
fn foreign_keys_and_other_backends_are_not_believed() {
    let servers = ["10.0.0.1:80"];
    let value = value(&sticky(&servers, &["secret"]).issue(0, true, NOW).unwrap());
    assert_eq!(read(&sticky(&servers, &["other"]), &value, NOW), None);
    assert_eq!(read(&named("admin", &servers, &["secret"]), &value, NOW), None);
}

/// Cookies of other programs have bytes of any kind, which RFC 6265 does not want and browsers send.
#[test]
fn whatever_stands_beside_it_does_not_matter() {
    let sticky = sticky(&["10.0.0.1:80"], &["secret"]);
    let value = value(&sticky.issue(0, true, NOW).unwrap());
    let kept = Some(Kept { server: 0, renew: false });
    let of = |lines: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        sticky.read(&headers, NOW)
    };
    let own = format!("sluice={value}");
    for before in ["n=\u{e9}; ", "\u{e9}=1;", "sluice=\u{e9}; ", "sluice; ", "a b=\"c; ", ";;= ;"] {
        assert_eq!(of(&[format!("{before}{own}").as_bytes()]), kept, "{before:?} before it");
        assert_eq!(of(&[before.trim().as_bytes(), own.as_bytes()]), kept, "{before:?} on a line of its own");
    }
    assert_eq!(of(&[&[b"n=\xff\xfe; ", own.as_bytes(), b"; m=\xe9"].concat()]), kept, "no UTF-8");
    assert_eq!(of(&[format!("sluice=\u{e9}{value}").as_bytes()]), None);
}

#[test]
fn the_backend_does_not_see_it() {
    let sticky = sticky(&["10.0.0.1:80"], &["secret"]);
    for (before, after) in [
        ("sluice=x", None),
        ("a=1; sluice=x; b=2", Some("a=1; b=2")),
        ("sluice=x; b=2", Some("b=2")),
        ("a=1;sluice=x", Some("a=1")),
        ("sluice2=x; asluice=y", Some("sluice2=x; asluice=y")),
        ("a=sluice=x", Some("a=sluice=x")),
    ] {
        let mut headers = headers(before);
        sticky.strip(&mut headers);
        assert_eq!(headers.get(COOKIE).map(|value| value.to_str().unwrap()), after, "{before}");
    }
}

proptest! {
    #[test]
    fn no_change_to_it_goes_unnoticed(at in 0usize..60, to in "[A-Za-z0-9_-]") {
        let sticky = sticky(&["10.0.0.1:80"], &["secret"]);
        let good = value(&sticky.issue(0, true, NOW).unwrap());
        prop_assert_eq!(good.len(), 60);
        let mut bad = good.clone();
        bad.replace_range(at..=at, &to);
        prop_assert_eq!(read(&sticky, &bad, NOW).is_some(), bad == good);
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let sticky = sticky(&["10.0.0.1:80"], &["secret"]);
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, value);
            let _ = sticky.read(&headers, NOW);
            sticky.strip(&mut headers);
        }
    }
}
