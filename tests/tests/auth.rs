//! Who may enter: with tokens and hashes that others have made, clients that others have written, and a real service.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::Signal;
use sluice_tests::backend::{Echo, RawBackend, switching};
use sluice_tests::http::{self, Head};
use sluice_tests::process::Program;
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

/// The command that runs a script of `tests/clients` with the libraries from PyPI.
fn python(script: &str, args: &[&str]) -> Result<Vec<String>, String> {
    let script = format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let python = needs::tool("venv/bin/python")?.display().to_string();
    Ok([python, script].into_iter().chain(args.iter().map(|arg| (*arg).to_owned())).collect())
}

fn output(command: &[String]) -> String {
    let output = Command::new(&command[0]).args(&command[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// What others make: keys, tokens, hashes.
struct Maker(Folder);

impl Maker {
    /// `None`: this machine cannot, and the test has said so.
    fn start() -> Option<Self> {
        let maker = Self(Folder::make().unwrap());
        maker.make(&["keys"], &[])?;
        Some(maker)
    }

    fn make(&self, before: &[&str], after: &[&str]) -> Option<String> {
        let folder = self.0.path().display().to_string();
        let args = [before, &[folder.as_str()], after].concat();
        python("auth_maker.py", &args).map_err(|reason| needs::skip(&reason)).ok().map(|command| output(&command))
    }

    fn token(&self, key: &str, seconds: &str) -> String {
        self.make(&["token"], &[key, seconds, "{ \"sub\": \"ada\", \"aud\": \"chat\" }"]).unwrap()
    }

    fn path(&self, file: &str) -> String {
        self.0.path().join(file).display().to_string()
    }
}

/// One route that takes this [[auth]], WebSockets and plain HTTP.
fn start(server: SocketAddr, auth: &str) -> Sluice {
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\nauth = [\"users\"]\n";
    Sluice::start(&Setup::new(server).routes(routes).more(&format!("[[auth]]\nname = \"users\"\n{auth}\n"))).unwrap()
}

/// What PyPI's websockets gets to hear.
fn enters(url: &str, how: &[&str]) -> String {
    output(&python("auth_client.py", &[&[url], how].concat()).unwrap())
}

#[test]
fn tokens_of_pyjwt_enter_from_every_place() {
    let Some(maker) = Maker::start() else { return };
    let echo = Echo::start().unwrap();
    let from =
        "audience = \"chat\", from = [\"bearer\", { cookie = \"t\" }, { query = \"t\" }, { subprotocol = \"bearer\" }]";
    let keys = [
        (format!("keys = {:?}", maker.path("jwks.json")), vec!["RS256", "ES256", "EdDSA"]),
        (format!("keys = {:?}", maker.path("RS256.pem")), vec!["RS256"]),
        (format!("keys = {:?}", maker.path("ES256.pem")), vec!["ES256"]),
        (format!("keys = {:?}", maker.path("EdDSA.pem")), vec!["EdDSA"]),
        (format!("secret = {:?}", maker.path("secret")), vec!["HS256"]),
    ];
    for (setting, algorithms) in keys {
        let sluice = start(echo.address, &format!("jwt = {{ {setting}, {from} }}"));
        let url = format!("ws://{}/", sluice.ws);
        for algorithm in ["HS256", "RS256", "ES256", "EdDSA"] {
            let token = maker.token(algorithm, "60");
            let outcome = enters(&url, &["header", "Authorization", &format!("Bearer {token}")]);
            let expected = if algorithms.contains(&algorithm) { "entered None" } else { "refused 401" };
            assert_eq!(outcome, expected, "{algorithm} with {setting}\n{}", sluice.program.log());
        }
        let token = maker.token(algorithms[0], "60");
        assert_eq!(enters(&url, &["header", "Cookie", &format!("a=b; t={token}")]), "entered None");
        assert_eq!(enters(&format!("{url}?t={token}"), &[]), "entered None");
        assert_eq!(enters(&url, &["protocols", &format!("bearer,{token}")]), "entered bearer");
        let whole = format!("bearer.{token}");
        assert_eq!(enters(&url, &["protocols", &whole]), format!("entered {whole}"));
        let ws = needs::node("auth_client.mjs", "ws", &[url.clone(), format!("bearer,{token}")]);
        match ws {
            Ok(command) => assert_eq!(output(&command), "entered bearer hello"),
            Err(reason) => needs::skip(&reason),
        }
        assert_eq!(enters(&url, &[]), "refused 401");
        let old = maker.token(algorithms[0], "-31");
        assert_eq!(enters(&format!("{url}?t={old}"), &[]), "refused 401");
        sluice.program.says("reason=\"token-expired\"");
        sluice.program.says("reason=\"auth-missing\"");
        let log = sluice.program.log();
        assert!(!log.contains(token.rsplit('.').next().unwrap()), "a token is in the log: {log}");
    }
}

#[test]
fn a_browser_enters_with_its_token_among_the_subprotocols() {
    let Some(maker) = Maker::start() else { return };
    let started =
        needs::program("chromium").and_then(|browser| Ok((browser, needs::node("page_server.mjs", "ws", &[])?)));
    let (chromium, server) = match started {
        Ok(started) => started,
        Err(reason) => return needs::skip(&reason),
    };
    let server = Program::start(&server).unwrap();
    let port: u16 = eventually("the server prints its port", || server.log().lines().next()?.parse().ok());
    // The page is open to all, its WebSocket is not.
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n\
                  [[route]]\npath = \"/ws\"\nbackend = \"app\"\nauth = [\"users\"]\n";
    let auth = format!(
        "[[auth]]\nname = \"users\"\njwt = {{ keys = {:?}, audience = \"chat\", from = [{{ subprotocol = \"bearer\" }}] }}\n",
        maker.path("jwks.json")
    );
    let setup = Setup::new(SocketAddr::from(([127, 0, 0, 1], port))).routes(routes).more(&auth);
    let sluice = Sluice::start(&setup).unwrap();
    let token = maker.token("ES256", "600");
    let whole = format!("bearer.{token}");
    let visits = [
        (format!("http://{}/?protocols=bearer,{token}", sluice.ws), "done over http/1.1 bearer".to_owned()),
        (format!("https://{}/?protocols={whole}", sluice.wss), format!("done over h2 {whole}")),
        (format!("https://{}/?protocols=bearer,{token},echo", sluice.wss), "done over h2 echo".to_owned()),
        (format!("https://{}/?protocols=echo", sluice.wss), "error".to_owned()),
    ];
    for (visit, (url, expected)) in visits.into_iter().enumerate() {
        let folder = Folder::make().unwrap();
        let profile = format!("--user-data-dir={}", folder.path().display());
        let flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let mut command = vec![chromium.display().to_string()];
        command.extend(flags.map(str::to_owned));
        command.extend(["--ignore-certificate-errors".to_owned(), profile, url]);
        let mut browser = Program::start(&command).unwrap();
        // A connection that fails tells twice, of the error and of the end, and either may arrive first.
        eventually(&format!("the page tells {expected:?}"), || {
            assert!(browser.ended().is_none(), "the browser ended:\n{}", browser.log());
            let log = server.log();
            let mut told = log.lines().filter_map(|line| line.strip_prefix("told: "));
            told.nth(visit).into_iter().chain(told).any(|told| told == expected).then_some(())
        });
    }
}

/// Puts a file into the place of another, as tools that care do.
fn replace(maker: &Maker, file: &str, by: &[u8]) {
    let (next, place) = (maker.path("next"), maker.path(file));
    std::fs::write(&next, by).unwrap();
    std::fs::rename(next, place).unwrap();
}

fn status(sluice: &Sluice, more: &str) -> u16 {
    http::exchange(sluice.ws, format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n").as_bytes())
        .unwrap()
        .head
        .status()
}

#[test]
fn keys_are_rotated_while_running_and_bad_ones_not_taken() {
    let Some(maker) = Maker::start() else { return };
    let Some(server) = page_server() else { return };
    let read = |file: &str| std::fs::read(maker.path(file)).unwrap();
    replace(&maker, "jwks.json", &read("ES256.json"));
    let auth = format!("jwt = {{ keys = {:?}, audience = \"chat\" }}", maker.path("jwks.json"));
    let sluice = start(server.1, &auth);
    let enters = |key: &str| status(&sluice, &format!("Authorization: Bearer {}\r\n", maker.token(key, "60"))) == 200;
    assert!(enters("ES256") && !enters("RS256"));
    replace(&maker, "jwks.json", &read("RS256.json"));
    eventually("the new key enters", || enters("RS256").then_some(()));
    assert!(!enters("ES256"), "the old one does so still");
    replace(&maker, "jwks.json", b"{ \"keys\": [{ \"kty\": \"RSA\" }] }");
    eventually("the bad file is refused", || sluice.program.log().contains("cannot be used").then_some(()));
    assert!(enters("RS256") && !enters("ES256"));
    replace(&maker, "jwks.json", &read("EdDSA.json"));
    sluice.program.signal(Signal::HUP).unwrap();
    eventually("the next key enters", || enters("EdDSA").then_some(()));
    assert!(!enters("RS256"));
    // A new gate has the same.
    sluice.kill_gate();
    assert!(enters("EdDSA") && !enters("RS256"));
}

/// A web server made with npm's ws.
fn page_server() -> Option<(Program, SocketAddr)> {
    let command = needs::node("page_server.mjs", "ws", &[]).map_err(|reason| needs::skip(&reason)).ok()?;
    let server = Program::start(&command).unwrap();
    let port: u16 = eventually("the server prints its port", || server.log().lines().next()?.parse().ok());
    Some((server, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// What curl gets: the status, and what it was told to print of the answer.
fn curl(args: &[&str]) -> Option<String> {
    let curl = needs::program("curl").map_err(|reason| needs::skip(&reason)).ok()?;
    let output =
        Command::new(curl).args(["--silent", "--max-time", "30", "--output", "-"]).args(args).output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

const CODE: [&str; 2] = ["--write-out", "\n%{http_code}"];

#[test]
fn hashes_of_others_let_their_users_enter() {
    let Some(maker) = Maker::start() else { return };
    maker.make(&["users"], &[]).unwrap();
    let backend = RawBackend::start().unwrap();
    let auth = format!("basic = {{ users = {:?}, user_header = \"x-user\" }}", maker.path("htpasswd"));
    let sluice = start(backend.address, &auth);
    for (user, password) in [("ada", "one"), ("grace", "two")] {
        for _again in 0..2 {
            let url = format!("ws://{user}:{password}@{}/", sluice.ws);
            let client = Program::start(&python("auth_client.py", &[&url]).unwrap()).unwrap();
            let (_server, request) = backend.accept_request().unwrap();
            assert_eq!(request.field("x-user"), Some(user));
            assert_eq!(request.field("authorization"), None);
            drop(client);
        }
    }
    assert_eq!(enters(&format!("ws://ada:two@{}/", sluice.ws), &[]), "refused 401");
    let url = format!("http://{}/", sluice.ws);
    let Some(told) = curl(&["--user", "grace:one", "--dump-header", "-", &url]) else { return };
    assert!(told.starts_with("HTTP/1.1 401 ") && told.contains("Basic realm=\"users\", charset=\"UTF-8\""), "{told}");
    let log = sluice.program.log();
    assert!(!log.contains("Z3JhY2U6b25l") && !log.contains("grace:"), "a password is in the log: {log}");
}

#[test]
fn api_keys_enter_by_the_hash_that_sha256sum_prints() {
    let folder = Folder::make().unwrap();
    let file = folder.path().join("keys");
    let (key, list) = ("3e0b6e9a-a-long-key", file.display().to_string());
    let made = Command::new("sh")
        .args([
            "-c",
            "printf 'bot one:%s\\n' \"$(printf %s \"$1\" | sha256sum | cut -d' ' -f1)\" > \"$2\"",
            "sh",
            key,
            &list,
        ])
        .status();
    assert!(made.unwrap().success());
    let Some(server) = page_server() else { return };
    let sluice = start(server.1, &format!("api_key = {{ keys = {list:?} }}"));
    let url = format!("http://{}/bytes?n=3", sluice.ws);
    let asks = |header: &str| curl(&[&["--header", header], &CODE[..], &[&url]].concat());
    let Some(told) = asks(&format!("X-API-Key: {key}")) else { return };
    assert_eq!(told, "012\n200");
    assert!(asks("X-API-Key: another").unwrap().ends_with("\n401"));
    assert!(asks("X-Other: x").unwrap().ends_with("\n401"));
    assert!(!sluice.program.log().contains(key));
}

/// The service, which prints its port first.
fn service() -> Option<(Program, u16)> {
    let command = python("auth_service.py", &[]).map_err(|reason| needs::skip(&reason)).ok()?;
    let service = Program::start(&command).unwrap();
    let port = eventually("the service prints its port", || service.log().lines().next()?.parse().ok());
    Some((service, port))
}

#[test]
fn a_service_decides_and_when_it_does_not_nobody_enters() {
    let Some((mut service, port)) = service() else { return };
    let backend = RawBackend::start().unwrap();
    let auth = format!(
        "forward = {{ backend = \"id\", path = \"/verify\", timeout = \"1s\", response_headers = [\"x-user\"] }}\n\
         [[backend]]\nname = \"id\"\nservers = [\"127.0.0.1:{port}\"]"
    );
    let sluice = start(backend.address, &auth);
    for _again in 0..3 {
        let cookie = "Cookie: session=good\r\nX-User: root\r\n";
        let mut client = sluice.connect(Via::Copy).unwrap();
        client.write_all(http::upgrade("a", "/chat?x=1", cookie).as_bytes()).unwrap();
        let (mut server, request) = backend.accept_request().unwrap();
        let users: Vec<_> = request.fields.iter().filter(|(name, _)| name == "x-user").collect();
        assert_eq!(users, [&("x-user".to_owned(), "ada".to_owned())]);
        server.write_all(switching(&request, "").as_bytes()).unwrap();
        assert_eq!(Head::read(&mut client).unwrap().status(), 101);
    }
    let url = format!("http://{}/chat?x=1", sluice.ws);
    let asks = |cookie: &str| curl(&[&["--dump-header", "-", "--cookie", cookie], &CODE[..], &[&url]].concat());
    let Some(told) = asks("session=bad") else { return };
    assert!(told.ends_with("GET /chat?x=1\n403"), "{told}");
    let told = asks("a=b").unwrap();
    assert!(told.ends_with("\n302") && told.contains("location: https://login.test/"), "{told}");
    assert!(told.contains("set-cookie: back=1"), "{told}");
    for cookie in ["session=broken", "session=hang"] {
        let told = asks(cookie).unwrap();
        assert!(told.ends_with("\n503") && told.contains("reason=auth-service"), "{told}");
    }
    service.signal(Signal::KILL).unwrap();
    service.wait();
    let told = asks("session=good").unwrap();
    assert!(told.ends_with("\n503") && told.contains("reason=auth-service"), "{told}");
}
