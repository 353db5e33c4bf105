//! Connections that end with the token that let them in, over every engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_tests::backend::RawBackend;
use sluice_tests::http::{self, Head};
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Makes a token with HS256 (RFC 7515 §3.1) of the claims in `$1` and the secret in `$2`.
const SCRIPT: &str = r#"
base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
signed=$(printf '{"alg":"HS256"}' | base64url).$(printf %s "$1" | base64url)
printf %s "$signed.$(printf %s "$signed" | openssl dgst -sha256 -hmac "$2" -binary | base64url)"
"#;

/// A token that is good for so many seconds.
fn token(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = format!("{{\"sub\":\"ada\",\"aud\":\"chat\",\"exp\":{}}}", now + seconds);
    let output = Command::new("sh").args(["-c", SCRIPT, "sh", &claims, SECRET]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pair_ends_with_its_token() {
    for via in [Via::Copy, Via::Tls, Via::Http2] {
        via.run(ends);
    }
}

#[test]
fn a_pair_of_the_kernel_ends_with_its_token() {
    Via::Sockmap.run(ends);
}

#[test]
fn a_pair_whose_keys_the_kernel_has_ends_with_its_token() {
    Via::Ktls.run(ends);
}

/// A tunnel of a client with this token.
fn enter(sluice: &Sluice, via: Via, backend: &RawBackend, token: &str) -> (Stream, Stream) {
    let mut client = sluice.connect(via).unwrap();
    let request = http::upgrade(&sluice.address(via).to_string(), &format!("/?t={token}"), "");
    client.write_all(request.as_bytes()).unwrap();
    client.flush().unwrap();
    let server = backend.accept_upgrade(b"").unwrap();
    assert_eq!(Head::read(&mut client).unwrap().status(), 101);
    (client, server)
}

/// What does not end with the gate ends with its token though the gate has been killed before.
fn ends(via: Via) {
    if let Err(missing) = needs::program("openssl") {
        return needs::skip(&missing);
    }
    let folder = Folder::make().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let backend = RawBackend::via(via).unwrap();
    let routes = "[[route]]\nbackend = \"app\"\nauth = [\"users\"]\n";
    let auth = format!(
        "[[auth]]\nname = \"users\"\njwt = {{ secret = {:?}, audience = \"chat\", leeway = \"1s\", end_at_expiry = true, \
         from = [{{ query = \"t\" }}] }}\n",
        secret.display().to_string()
    );
    let sluice = Sluice::start(&Setup::via(backend.address, via).routes(routes).more(&auth)).unwrap();
    let mut stays = enter(&sluice, via, &backend, &token(3600));
    let (mut client, mut server) = enter(&sluice, via, &backend, &token(4));
    eventually("both are listed", || (sluice.connections().unwrap().len() == 2).then_some(()));
    if !via.ends_with_the_gate() {
        sluice.kill_gate();
    }
    assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0, "no end of stream");
    assert_eq!(server.read(&mut [0; 8]).unwrap_or(0), 0, "no end of stream");
    drop((client, server));
    let ended = || sluice.metrics().unwrap().sum("sluice_pairs_ended_total", &[("reason", "token-expired")]);
    eventually("the end is counted", || (ended() == 1).then_some(()));
    sluice_tests::pattern::soak(&mut stays.0, &mut stays.1, 100_000, 1);
}
