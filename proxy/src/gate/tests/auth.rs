//! Routes that ask who a client is.

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::bench::{
    Bench, NEVER, Setup, asked, backend, handshake, nobody, read_all, read_exact, read_head, silent, switching,
};
use crate::gate::auth::tests::signer::{Signer, set};
use crate::gate::refusal::{Outcome, Refusal};
use crate::handoff::files::{FileRole, seal_bytes};

const SECRET: [u8; 32] = [7; 32];

fn file(bytes: &[u8]) -> OwnedFd {
    seal_bytes(bytes).unwrap()
}

fn role(auth: u16) -> FileRole {
    FileRole::Auth { auth }
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token that is good for so many seconds more.
fn token(signer: &Signer, seconds: i64, mut claims: Value) -> String {
    claims["exp"] = now().saturating_add_signed(seconds).into();
    signer.sign_exactly(&claims)
}

/// A gate with these [[auth]], all of them on its only route.
async fn gate(auth: &str, files: Vec<Vec<u8>>) -> (Bench, TcpListener) {
    let (server, listener) = backend().await;
    let settings: toml::Table = auth.parse().unwrap();
    let names: Vec<&str> =
        settings["auth"].as_array().unwrap().iter().map(|auth| auth["name"].as_str().unwrap()).collect();
    let route = format!("[[route]]\nbackend = \"app\"\nhttp = \"forward\"\nauth = {names:?}\n");
    let mut setup = Setup::plain(&[server], &format!("{route}{auth}"));
    for (index, bytes) in (0..).zip(files) {
        setup = setup.file(role(index), file(&bytes));
    }
    (setup.ready().await, listener)
}

async fn by_token(more: &str) -> (Bench, TcpListener) {
    let auth = format!("[[auth]]\nname = \"users\"\njwt = {{ secret = \"s\", {more} }}\n");
    gate(&auth, vec![SECRET.to_vec()]).await
}

/// Checks that an answer is this refusal, and gives what it says of how to enter.
fn refused(answer: &str, refusal: Refusal) -> Option<String> {
    super::refusals::expect(answer, refusal);
    answer.lines().find_map(|line| line.strip_prefix("www-authenticate: ")).map(str::to_owned)
}

/// Sends a handshake that must enter. Gives the client, the backend's connection and what the backend was asked.
async fn enters(bench: &Bench, listener: &TcpListener, request: &str) -> (TcpStream, TcpStream, String) {
    let mut client = bench.connect().await;
    client.write_all(request.as_bytes()).await.unwrap();
    tokio::select! {
        (server, head) = asked(listener) => (client, server, head),
        answer = read_head(&mut client) => panic!("{answer}"),
    }
}

async fn answered(client: &mut TcpStream, server: &mut TcpStream, more: &str) -> String {
    server.write_all(switching(more).as_bytes()).await.unwrap();
    read_head(client).await
}

#[tokio::test]
async fn who_shows_nothing_or_nonsense_is_told_what_is_wanted() {
    let (bench, listener) = by_token("").await;
    let signer = Signer::hs256(&SECRET);
    let ask = async |more: String| bench.ask(&handshake("/", &more)).await;
    let missing = ask(String::new()).await;
    assert_eq!(refused(&missing, Refusal::AuthMissing).unwrap(), "Bearer realm=\"users\"");
    let invalid = ask("Authorization: Bearer x\r\n".into()).await;
    assert_eq!(refused(&invalid, Refusal::AuthInvalid).unwrap(), "Bearer realm=\"users\", error=\"invalid_token\"");
    let old = ask(format!("Authorization: Bearer {}\r\n", token(&signer, -60, json!({})))).await;
    assert!(refused(&old, Refusal::TokenExpired).unwrap().ends_with("\"the token has expired\""));
    // And so is a request that is no handshake.
    let plain = bench.ask("GET /poll HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    refused(&plain, Refusal::AuthMissing).unwrap();
    // What is wrong with the request itself, or with the page it comes from, is said first.
    super::refusals::expect(&ask("Origin: https://evil.test\r\n".into()).await, Refusal::OriginDenied);
    for (refusal, times) in [(Refusal::AuthMissing, 2), (Refusal::AuthInvalid, 1), (Refusal::TokenExpired, 1)] {
        bench.counted(Outcome::Refused(refusal), times).await;
    }
    assert!(tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err(), "a backend was dialled");
}

#[tokio::test]
async fn the_backend_sees_claims_and_no_token() {
    let (mut bench, listener) = by_token(
        "claims = { x-user = \"sub\", x-role = \"role\" }, \
         from = [\"bearer\", { cookie = \"t\" }, { query = \"token\" }]",
    )
    .await;
    let token = token(&Signer::hs256(&SECRET), 60, json!({ "sub": "jane" }));
    let lies = "X-User: admin\r\nX_User: admin\r\nX-Role: admin\r\nConnection: X-User, X-Role\r\n";
    for (path, more) in [
        ("/ws?a=1", format!("Authorization: Bearer {token}\r\nCookie: a=1\r\n")),
        ("/ws?a=1", format!("Cookie: t={token}; a=1\r\n")),
        (&format!("/ws?token={token}&a=1"), "Cookie: a=1\r\n".into()),
    ] {
        let (mut client, mut server, head) = enters(&bench, &listener, &handshake(path, &(more + lies))).await;
        assert!(head.starts_with("GET /ws?a=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("x-user: jane\r\n") && head.contains("cookie: a=1\r\n"), "{head}");
        assert!(!head.contains("admin") && !head.contains("authorization") && !head.contains(&token), "{head}");
        assert!(answered(&mut client, &mut server, "").await.starts_with("HTTP/1.1 101 "));
        let (pair, ..) = bench.pair().await;
        assert_eq!(pair.facts.expires_ms, None);
    }
    let get = format!("GET /poll HTTP/1.1\r\nHost: a\r\nX-User: admin\r\nAuthorization: Bearer {token}\r\n\r\n");
    let (mut client, mut server, head) = enters(&bench, &listener, &get).await;
    assert!(head.contains("x-user: jane\r\n") && !head.contains("admin") && !head.contains(&token), "{head}");
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(read_exact(&mut client, 2).await, b"ok");
    // The next request on the same connection must show it too.
    client.write_all(get.replace("Bearer", "Broken").as_bytes()).await.unwrap();
    refused(&read_all(&mut client).await, Refusal::AuthMissing);
}

#[tokio::test]
async fn nobody_says_who_it_is_where_another_route_of_the_backend_tells() {
    let auth = "[[auth]]\nname = \"users\"\njwt = { secret = \"s\", claims = { x-user = \"sub\" } }\n\
                [[route]]\npath = \"/open\"\nbackend = \"app\"\nhttp = \"forward\"\n";
    let (bench, listener) = gate(auth, vec![SECRET.to_vec()]).await;
    let lies = "X-User: admin\r\nX.User: admin\r\nX-Other: 1\r\n";
    let get = format!("GET /open HTTP/1.1\r\nHost: a\r\n{lies}\r\n");
    for request in [get, handshake("/open", lies)] {
        let (.., head) = enters(&bench, &listener, &request).await;
        assert!(head.contains("x-other: 1\r\n") && !head.contains("admin"), "{head}");
    }
    // But who it is to the backend itself is the backend's to find out.
    let auth = "[[auth]]\nname = \"login\"\nforward = { backend = \"app\", response_headers = [\"authorization\"] }\n\
                [[route]]\npath = \"/open\"\nbackend = \"app\"\nhttp = \"forward\"\n";
    let (bench, listener) = gate(auth, Vec::new()).await;
    let (.., head) = enters(&bench, &listener, &handshake("/open", "Authorization: Basic eA==\r\n")).await;
    assert!(head.contains("authorization: Basic eA==\r\n"), "{head}");
}

#[tokio::test]
async fn a_request_that_is_no_handshake_passes_no_token_among_subprotocols() {
    let (bench, listener) = by_token("from = [\"bearer\", { subprotocol = \"bearer\" }]").await;
    let token = token(&Signer::hs256(&SECRET), 60, json!({}));
    let get = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
         Sec-WebSocket-Protocol: bearer, {token}\r\n\r\n"
    );
    let (.., head) = enters(&bench, &listener, &get).await;
    assert!(!head.contains(&token), "{head}");
}

/// Refused clients that do not leave are on no route.
#[tokio::test]
async fn whoever_is_refused_takes_no_place_of_those_who_enter() {
    let (server, listener) = backend().await;
    let route = "[[route]]\nbackend = \"app\"\nauth = [\"users\"]\nlimits = { connections = 2 }\n\
                 [[auth]]\nname = \"users\"\njwt = { secret = \"s\" }\n";
    let setup = Setup::plain(&[server], route).file(role(0), file(&SECRET));
    let bench = setup.ready().await;
    let mut refused_ones = Vec::new();
    for _ in 0..2 {
        let mut client = bench.connect().await;
        client.write_all(handshake("/", "").as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 401 "));
        refused_ones.push(client);
    }
    let bearer = format!("Authorization: Bearer {}\r\n", token(&Signer::hs256(&SECRET), 60, json!({})));
    enters(&bench, &listener, &handshake("/", &bearer)).await;
    drop(refused_ones);
}

#[tokio::test]
async fn a_browser_gets_a_subprotocol_that_it_has_offered() {
    let (mut bench, listener) = by_token("from = [{ subprotocol = \"bearer\" }]").await;
    let token = token(&Signer::hs256(&SECRET), 60, json!({}));
    let whole = format!("bearer.{token}");
    for (offered, left, chosen, told) in [
        (format!("bearer, {token}"), None, None, "bearer"),
        (whole.clone(), None, None, whole.as_str()),
        (format!("bearer, {token}, v2, v1"), Some("v2, v1"), None, "bearer"),
        (format!("v2, {whole}, v1"), Some("v2, v1"), Some("v1"), "v1"),
    ] {
        let request = handshake("/", &format!("Sec-WebSocket-Protocol: {offered}\r\n"));
        let (mut client, mut server, head) = enters(&bench, &listener, &request).await;
        let seen = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(seen, left, "{head}");
        let chosen = chosen.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let answer = answered(&mut client, &mut server, &chosen).await;
        assert!(answer.contains(&format!("sec-websocket-protocol: {told}\r\n")), "{answer}");
        assert_eq!(answer.matches("sec-websocket-protocol").count(), 1, "{answer}");
        bench.pair().await;
    }
    // A backend cannot choose what it was not offered.
    let request = handshake("/", &format!("Sec-WebSocket-Protocol: bearer, {token}\r\n"));
    let (mut client, mut server, _) = enters(&bench, &listener, &request).await;
    server.write_all(switching("Sec-WebSocket-Protocol: bearer\r\n").as_bytes()).await.unwrap();
    super::refusals::expect(&read_all(&mut client).await, Refusal::BackendSubprotocol);
}

#[tokio::test]
async fn the_keeper_is_told_when_a_pair_ends() {
    let (mut bench, listener) = by_token("end_at_expiry = true, leeway = \"5s\"").await;
    let signer = Signer::hs256(&SECRET);
    let expires = now() + 60;
    let token = signer.sign_exactly(&json!({ "exp": expires }));
    let request = handshake("/", &format!("Authorization: Bearer {token}\r\n"));
    let (mut client, mut server, _) = enters(&bench, &listener, &request).await;
    answered(&mut client, &mut server, "").await;
    let (pair, ..) = bench.pair().await;
    assert_eq!(pair.facts.expires_ms.unwrap().get(), (expires + 5) * 1000);
}

#[tokio::test]
async fn changed_keys_count_at_once_and_bad_ones_not_at_all() {
    let auth = "[[auth]]\nname = \"users\"\njwt = { keys = \"jwks.json\" }\n";
    let (old, new) = (Signer::es256().named("old"), Signer::eddsa().named("new"));
    let (mut bench, listener) = gate(auth, vec![set(&[old.jwk()])]).await;
    let request = |signer| handshake("/", &format!("Authorization: Bearer {}\r\n", token(signer, 60, json!({}))));
    enters(&bench, &listener, &request(&old)).await;
    refused(&bench.ask(&request(&new)).await, Refusal::AuthInvalid);
    assert!(bench.reload(&[(role(0), file(&set(&[old.jwk(), new.jwk()])))]).await);
    enters(&bench, &listener, &request(&old)).await;
    enters(&bench, &listener, &request(&new)).await;
    assert!(!bench.reload(&[(role(0), file(b"{ \"keys\": 7 }"))]).await);
    enters(&bench, &listener, &request(&old)).await;
    assert!(bench.reload(&[(role(0), file(&set(&[new.jwk()])))]).await);
    refused(&bench.ask(&request(&old)).await, Refusal::AuthInvalid);
    enters(&bench, &listener, &request(&new)).await;
}

#[tokio::test]
async fn any_of_several_ways_is_enough_and_all_are_cleared() {
    let auth = "[[auth]]\nname = \"users\"\njwt = { secret = \"s\", claims = { x-user = \"sub\" } }\n\
                [[auth]]\nname = \"partners\"\njwt = { keys = \"k\", claims = { x-partner = \"sub\" } }\n\
                [[auth]]\nname = \"staff\"\nbasic = { users = \"u\", user_header = \"x-staff\" }\n";
    let partner = Signer::es256();
    let staff = format!("ada:{}\n", bcrypt::hash("secret", 4).unwrap());
    let files = vec![SECRET.to_vec(), set(&[partner.jwk()]), staff.into_bytes()];
    let (bench, listener) = gate(auth, files).await;
    let basic = |text: &str| format!("Authorization: Basic {}\r\n", STANDARD.encode(text));
    let bearer = |signer: &Signer| format!("Authorization: Bearer {}\r\n", token(signer, 60, json!({ "sub": "jane" })));
    let lies = "X-User: liar\r\nX-Partner: liar\r\nX-Staff: liar\r\n";
    for (more, told) in [
        (bearer(&Signer::hs256(&SECRET)), "x-user: jane"),
        (bearer(&partner), "x-partner: jane"),
        (basic("ada:secret"), "x-staff: ada"),
    ] {
        let (.., head) = enters(&bench, &listener, &handshake("/", &(more + lies))).await;
        assert!(head.contains(told) && !head.contains("liar") && !head.contains("authorization"), "{head}");
    }
    let nothing = refused(&bench.ask(&handshake("/", "")).await, Refusal::AuthMissing);
    assert_eq!(nothing.unwrap(), "Bearer realm=\"users\"");
    let both = bearer(&Signer::hs256(&SECRET)) + &basic("ada:secret");
    refused(&bench.ask(&handshake("/", &both)).await, Refusal::AuthInvalid);
    let wrong = refused(&bench.ask(&handshake("/", &basic("ada:guess"))).await, Refusal::AuthInvalid);
    assert_eq!(wrong.unwrap(), "Basic realm=\"staff\", charset=\"UTF-8\"");
}

#[tokio::test]
async fn a_herd_of_one_user_costs_one_hash_at_a_time() {
    let auth = "[[auth]]\nname = \"staff\"\nbasic = { users = \"u\" }\n";
    let (bench, listener) = gate(auth, vec![format!("ada:{}", bcrypt::hash("secret", 4).unwrap()).into()]).await;
    let request = handshake("/", &format!("Authorization: Basic {}\r\n", STANDARD.encode("ada:secret")));
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = bench.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    for _ in 0..50 {
        let (_, head) = asked(&listener).await;
        assert!(!head.contains("authorization"), "{head}");
    }
}

#[test]
fn a_check_is_of_its_file() {
    let text = "[[auth]]\nname = \"users\"\njwt = { secret = \"s\" }\n";
    let config = crate::config::Config::parse(
        &format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\nauth = [\"users\"]\n{text}\
                  [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:1\"]\n"
        ),
        "test",
    );
    let config = config.unwrap();
    let check = crate::gate::auth::Check::new(&config, &config.auth[0], &SECRET).ok().unwrap();
    assert!(check.is_of(&SECRET) && !check.is_of(&[8; 32]));
}

/// A gate that asks a service, with these settings of `forward`.
async fn by_service(service: std::net::SocketAddr, more: &str) -> (Bench, TcpListener) {
    by_services(&[service], more, "").await
}

/// The same with several servers, and these settings of their backend.
async fn by_services(services: &[std::net::SocketAddr], more: &str, backend: &str) -> (Bench, TcpListener) {
    let services: Vec<String> = services.iter().map(ToString::to_string).collect();
    let auth = format!(
        "[[auth]]\nname = \"login\"\nforward = {{ backend = \"id\", path = \"/verify\", {more} }}\n\
         [[backend]]\nname = \"id\"\nservers = {services:?}\n{backend}"
    );
    gate(&auth, Vec::new()).await
}

#[tokio::test]
async fn a_service_lets_clients_enter_and_tells_of_them() {
    let (address, service) = backend().await;
    let (bench, listener) = by_service(address, "response_headers = [\"x-user\"]").await;
    let told = tokio::spawn(async move {
        let (mut stream, head) = asked(&service).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nX-User: jane\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        // The next one comes over the same connection.
        let again = read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        [head, again]
    });
    let lies = "Cookie: session=1\r\nX-User: admin\r\nX-Forwarded-Uri: /admin\r\nX-Forwarded-For: 192.0.2.9\r\n";
    let (.., head) = enters(&bench, &listener, &handshake("/chat?a=b", lies)).await;
    assert!(head.contains("x-user: jane\r\n") && !head.contains("admin"), "{head}");
    assert!(head.contains("cookie: session=1\r\n"), "the session is the backend's too: {head}");
    let (.., head) = enters(&bench, &listener, &handshake("/chat?a=b", lies)).await;
    assert!(!head.contains("x-user"), "{head}");
    for head in tokio::time::timeout(NEVER, told).await.unwrap().unwrap() {
        assert!(head.starts_with("GET /verify HTTP/1.1\r\n"), "{head}");
        for line in [
            "cookie: session=1",
            "x-forwarded-method: GET",
            "x-forwarded-uri: /chat?a=b",
            "x-forwarded-host: app.test",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
        ] {
            assert!(head.contains(&format!("{line}\r\n")), "{line}: {head}");
        }
        assert!(!head.contains("upgrade") && !head.contains("192.0.2.9"), "{head}");
    }
}

#[tokio::test]
async fn a_service_that_says_no_is_passed_on() {
    for (said, status, has) in [
        (
            "HTTP/1.1 401 No\r\nWWW-Authenticate: Id\r\nContent-Type: a/b\r\nContent-Length: 4\r\n\r\nwho?",
            401,
            ["www-authenticate: Id", "content-type: a/b", "\r\n\r\nwho?"],
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: https://id.test/?r=1\r\nSet-Cookie: s=1\r\nConnection: close\r\n\r\n",
            302,
            ["location: https://id.test/?r=1", "set-cookie: s=1", "\r\n\r\nyou may not enter here\n"],
        ),
        (
            "HTTP/1.1 403 No\r\nX-Inside: 1\r\nContent-Length: 0\r\n\r\n",
            403,
            ["content-type: text/plain", "cache-control: no-store", "\r\n\r\nyou may not enter here\n"],
        ),
    ] {
        let (address, service) = backend().await;
        let (bench, _listener) = by_service(address, "").await;
        let task = tokio::spawn(async move {
            let (mut stream, _) = asked(&service).await;
            stream.write_all(said.as_bytes()).await.unwrap();
        });
        let answer = bench.ask(&handshake("/", "")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("proxy-status: sluice; error=http_request_denied") && !answer.contains("inside"));
        assert!(answer.contains("proxy-websocket-status: rejected; reason=auth-denied"), "{answer}");
        has.iter().for_each(|text| assert!(answer.contains(text), "{text}: {answer}"));
        bench.counted(Outcome::Refused(Refusal::AuthDenied), 1).await;
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_service_that_fails_keeps_everybody_out() {
    let long = "x".repeat(20_000);
    for said in [
        "",
        "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200",
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let (address, service) = backend().await;
        let (bench, listener) = by_service(address, "").await;
        let task = tokio::spawn(async move {
            let (mut stream, _) = asked(&service).await;
            stream.write_all(said.as_bytes()).await.unwrap();
        });
        super::refusals::expect(&bench.ask(&handshake("/", "")).await, Refusal::AuthService);
        assert!(tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err(), "{said:?} lets in");
        task.await.unwrap();
    }
    let (bench, _listener) = by_service(nobody().await, "").await;
    super::refusals::expect(&bench.ask(&handshake("/", "")).await, Refusal::AuthService);
    // One that hangs.
    let (address, service) = backend().await;
    let (bench, _listener) = by_service(address, "timeout = \"100ms\"").await;
    super::refusals::expect(&bench.ask(&handshake("/", "")).await, Refusal::AuthService);
    drop(service);
    // A body beyond what is passed on is left out, not cut.
    let (address, service) = backend().await;
    let (bench, _listener) = by_service(address, "").await;
    tokio::spawn(async move {
        let (mut stream, _) = asked(&service).await;
        let said = format!("HTTP/1.1 401 No\r\nContent-Length: 20000\r\n\r\n{long}");
        let _ = stream.write_all(said.as_bytes()).await;
    });
    let answer = bench.ask(&handshake("/", "")).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("\r\n\r\nyou may not enter here\n"), "{answer}");
}

#[tokio::test]
async fn a_service_with_a_server_that_is_dead_has_another() {
    let (good, service) = backend().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            let _head = read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        }
    });
    // Nothing answers its SYNs: the other one is asked in time.
    let (silent, _full) = silent().await;
    let (bench, listener) = by_services(&[silent, good], "timeout = \"400ms\"", "ejection = { failures = 0 }").await;
    for _ in 0..3 {
        enters(&bench, &listener, &handshake("/", "")).await;
    }
    // It takes connections and says nothing: who is asked by it is refused, until it is left out.
    let (hangs, _hung) = backend().await;
    let (bench, listener) = by_services(&[hangs, good], "timeout = \"100ms\"", "ejection = { failures = 1 }").await;
    let mut client = bench.connect().await;
    client.write_all(handshake("/", "").as_bytes()).await.unwrap();
    super::refusals::expect(&read_all(&mut client).await, Refusal::AuthService);
    for _ in 0..4 {
        enters(&bench, &listener, &handshake("/", "")).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_a_service_thinks_leaves_its_place() {
    let (address, service) = backend().await;
    let (bench, _listener) = by_service(address, "timeout = \"1h\"").await;
    let mut client = bench.connect().await;
    client.write_all(handshake("/", "").as_bytes()).await.unwrap();
    let (mut stream, _) = asked(&service).await;
    // Whoever goes at once may be waiting for the answer still.
    tokio::time::sleep(crate::gate::client_io::RIGHT_BEHIND).await;
    drop(client);
    bench.counted(Outcome::ClientGone, 1).await;
    assert_eq!(read_all(&mut stream).await, "", "the question is taken back");
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_gate() {
    let auth = "[[route]]\nbackend = \"app\"\nauth = [\"users\"]\n\
                [[auth]]\nname = \"users\"\njwt = { secret = \"s\" }\n";
    let setup = Setup::plain(&[nobody().await], auth).file(role(0), file(b"short"));
    assert!(format!("{:#}", setup.refused().await).contains("s: the secret has 5 bytes"));
}
