#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::Method;
use http::header::{COOKIE, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::gate::handshake::PlainPath;

fn of(balance: &Balance, client: &str, target: &str, headers: &[(&str, &str)]) -> Option<u64> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let path = PlainPath::read(path).unwrap();
    let subject = Subject { method: &Method::GET, host: "a.example", path: &path, query, headers: &map };
    KeyOf::new(balance).unwrap().of(client.parse().ok(), &subject)
}

#[test]
fn those_that_do_not_hash_have_no_key() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::PowerOfTwo] {
        assert_eq!(of(&balance, "192.0.2.1", "/", &[]), None);
    }
    assert!(KeyOf::new(&Balance::Maglev(HashOn::Header("x room".into()))).is_err());
}

#[test]
fn addresses_are_the_same_in_every_spelling() {
    for balance in [Balance::SourceIp, Balance::Maglev(HashOn::Address)] {
        let of = |client| of(&balance, client, "/", &[]);
        assert_eq!(of("192.0.2.1"), Some(key(&[192, 0, 2, 1])));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8::1"), of("2001:0db8:0::0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8::2"), "the whole address counts");
        assert_eq!(of("unix"), None);
    }
}

#[test]
fn paths_are_plain_and_without_their_query() {
    let of = |target| of(&Balance::Maglev(HashOn::Path), "", target, &[]);
    assert_eq!(of("/rooms/17"), Some(key(b"/rooms/17")));
    assert_eq!(of("/rooms/17"), of("//rooms/%317?token=x"));
    assert_ne!(of("/rooms/17"), of("/rooms/18"));
}

#[test]
fn headers_cookies_and_parameters_are_found_by_name() {
    let header = |headers: &[(&str, &str)]| of(&Balance::Maglev(HashOn::Header("X-Room".into())), "", "/", headers);
    assert_eq!(header(&[("x-other", "1"), ("x-room", "17"), ("x-room", "18")]), Some(key(b"17")));
    let cookie = |headers: &[(&str, &str)]| of(&Balance::Maglev(HashOn::Cookie("sid".into())), "", "/", headers);
    assert_eq!(cookie(&[("cookie", "a=1; sid=17; sid=18")]), Some(key(b"17")));
    assert_eq!(cookie(&[("cookie", "SID=1; xsid=2"), ("cookie", "b;sid=17")]), Some(key(b"17")));
    assert_eq!(cookie(&[("cookie", "n=\u{e9}; sid=17"), ("cookie", "sid")]), Some(key(b"17")), "beside any bytes");
    assert_eq!(cookie(&[("cookie", "sid=\u{e9}")]), Some(key("\u{e9}".as_bytes())));
    assert_eq!(header(&[("x-room", "\u{e9}")]), Some(key("\u{e9}".as_bytes())));
    let query = |target| of(&Balance::Maglev(HashOn::Query("room id".into())), "", target, &[]);
    assert_eq!(query("/?a=1&room+id=1%37&room%20id=18"), Some(key(b"17")));
    for nothing in [header(&[]), header(&[("x-room", "")]), cookie(&[]), cookie(&[("cookie", "sid=; a")])] {
        assert_eq!(nothing, None);
    }
    for target in ["/", "/?", "/?room+id", "/?room+id=", "/room+id=17", "/?Room+id=17"] {
        assert_eq!(query(target), None, "{target}");
    }
}

proptest! {
    #[test]
    fn nothing_that_strangers_send_panics(
        query in "[ -~]{0,40}",
        cookies in proptest::collection::vec(proptest::collection::vec(0x20u8.., 0..40), 0..3),
    ) {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            let _ = HeaderValue::from_bytes(&cookie).map(|value| headers.append(COOKIE, value));
        }
        let path = PlainPath::read("/").unwrap();
        let query = Some(query.as_str());
        let subject = Subject { method: &Method::GET, host: "", path: &path, query, headers: &headers };
        for on in [HashOn::Path, HashOn::Cookie("a".into()), HashOn::Query("a".into()), HashOn::Header("cookie".into())] {
            let _ = KeyOf::new(&Balance::Maglev(on)).unwrap().of(None, &subject);
        }
    }
}
