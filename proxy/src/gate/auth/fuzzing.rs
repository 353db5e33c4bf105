//! What the fuzz target for credentials drives.
#![allow(clippy::panic, clippy::expect_used, reason = "a fuzz target tells what it found by panicking")]

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;

use super::{Asked, Check, Look};
use crate::config::Config;

/// Every kind of credential in every place.
const CONFIG: &str = r#"
[[listener]]
bind = "127.0.0.1:1"
[[route]]
backend = "app"
[[backend]]
name = "app"
servers = ["127.0.0.1:2"]
[[auth]]
name = "jwt"
jwt = { secret = "s", from = ["bearer", { header = "x-t" }, { cookie = "t" }, { query = "t" }, { subprotocol = "t" }], claims = { x-user = "sub", x-roles = "a.b" } }
[[auth]]
name = "keys"
api_key = { keys = "k", from = [{ header = "x-k" }, { query = "k" }, { cookie = "k" }, { subprotocol = "k" }], user_header = "x-key" }
[[auth]]
name = "users"
basic = { users = "u", user_header = "x-name" }
"#;

const SECRET: [u8; 32] = [7; 32];
const KEYS: &str = "one:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b856";
const USERS: &str = "ada:$2y$04$abcdefghijklmnopqrstuuAm.sPbjAqDVk0TbNY9hxB3mXsAHbP9u";

static CHECKS: LazyLock<Vec<Check>> = LazyLock::new(|| {
    let config = Config::parse(CONFIG, "fuzzing").expect("the configuration");
    let files = [&SECRET[..], KEYS.as_bytes(), USERS.as_bytes()];
    let made = config.auth.iter().zip(files).map(|(auth, file)| Check::new(&config, auth, file).expect("a check"));
    made.collect()
});

/// A token with these claims, whatever they are.
fn signed(claims: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\"}"), URL_SAFE_NO_PAD.encode(claims));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac))
}

fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("base64url and dots");
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

/// A target and the lines of a head. Nobody makes a token of ours; what is found is taken out, with every header that tells
/// of clients; and whatever somebody else has signed becomes headers that a backend can read.
///
/// # Panics
/// It is not so.
pub fn credentials(bytes: &[u8]) {
    request(bytes);
    for claims in [bytes, b"{\"exp\":9,\"sub\":\"a\"}"] {
        let (mut target, mut none) = (PathAndQuery::from_static("/"), Vec::new());
        let mut headers = bearer(&signed(claims));
        let asked = Asked { headers: &mut headers, target: &mut target, protocols: &mut none };
        let Some(Look::Enter(entry)) = CHECKS.first().map(|check| check.look(&asked, 0)) else {
            assert!(claims == bytes, "a good token does not enter");
            continue;
        };
        assert!(entry.tell.iter().all(|(_, value)| value.as_bytes().trim_ascii() == value.as_bytes()), "{entry:?}");
    }
}

/// What stands in a request's target and head.
fn request(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Ok(mut target) = PathAndQuery::try_from(lines.next().unwrap_or_default()) else { return };
    let mut headers = HeaderMap::new();
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut protocols: Vec<String> = Vec::new();
    for name in offered.flat_map(|list| list.split(',')).map(|name| name.trim().to_owned()) {
        // The handshake's rules: tokens, each once.
        if HeaderName::try_from(name.as_str()).is_ok() && !protocols.contains(&name) {
            protocols.push(name);
        }
    }
    let mut asked = Asked { headers: &mut headers, target: &mut target, protocols: &mut protocols };
    for check in CHECKS.iter() {
        if let (Look::Enter(entry), true) = (check.look(&asked, 0), check.tells.len() == 2) {
            panic!("a stranger made a token of ours: {entry:?}");
        }
    }
    for check in CHECKS.iter() {
        check.strip(&mut asked);
        check.clear(true, asked.headers);
        // Two of other schemes stay: no check lets them in.
        let two = asked.headers.get_all(AUTHORIZATION).iter().nth(1).is_some();
        assert!(two || matches!(check.look(&asked, 0), Look::Absent), "something is left: {:?}", asked.headers);
        assert!(check.tells.iter().all(|name| !asked.headers.contains_key(name)), "{:?}", asked.headers);
    }
}
