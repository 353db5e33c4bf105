//! Who may enter, and who may not by a way around: seen by lenient backends, real browsers and hand-made peers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use sluice_tests::backend::{Echo, RawBackend};
use sluice_tests::http::{self, Head, Response};
use sluice_tests::process::Program;
use sluice_tests::sluice::{Folder, Setup, Sluice, binary, dial};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

/// The key of `robot` in [`Keys`].
const KEY: &str = "opensesame";

/// A file with one API key.
struct Keys(Folder);

impl Keys {
    fn make() -> Self {
        let folder = Folder::make().unwrap();
        // printf %s opensesame | sha256sum
        let hash = "d9fb92e3bbe65be1f1aad4a82eef4567f7a1ebe2cd110c8049b9698be7a70c88";
        std::fs::write(folder.path().join("robots.keys"), format!("robot:{hash}\n")).unwrap();
        Self(folder)
    }

    fn auth(&self) -> String {
        format!("[[auth]]\nname = \"robots\"\napi_key = {{ keys = {:?} }}\n", self.0.path().join("robots.keys"))
    }
}

/// Starts a script of `tests/clients` that prints its port.
fn server(script: &str, module: &str) -> Option<(Program, SocketAddr)> {
    let command = needs::node(script, module, &[]).map_err(|reason| needs::skip(&reason)).ok()?;
    let mut server = Program::start(&command).unwrap();
    let port: u16 = eventually("the server prints its port", || {
        assert!(server.ended().is_none(), "the server ended:\n{}", server.log());
        server.log().lines().next()?.parse().ok()
    });
    Some((server, SocketAddr::from(([127, 0, 0, 1], port))))
}

fn get(sluice: &Sluice, path: &str, more: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
    http::exchange(sluice.ws, request.as_bytes()).unwrap()
}

#[test]
fn no_lenient_backend_serves_what_is_protected() {
    let Some((_server, address)) = server("lenient_server.mjs", "express") else { return };
    let keys = Keys::make();
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n\
                  [[route]]\npath = \"/admin\"\nbackend = \"app\"\nhttp = \"forward\"\nauth = [\"robots\"]\n";
    let sluice = Sluice::start(&Setup::new(address).routes(routes).more(&keys.auth())).unwrap();
    let mut found = Vec::new();
    for path in [
        "/admin",
        "/ADMIN",
        "/Admin/x",
        "/admin/",
        "/admin;x",
        "/admin;x/y",
        "/;/admin",
        "/;x=1/admin/y",
        "/x;/../admin",
        "/admin%3bx",
        "/admin%5cx",
        "/%5cadmin",
        "/\\admin",
        "/x\\..\\admin",
        "/%61dmin",
        "/%2561dmin",
        "/%252561dmin",
        "/x/%252e%252e/admin",
        "/%c0%afadmin",
        "/%c1%a1dmin",
        "/admin.",
        "/admin%20",
        "//admin",
        "/./admin",
    ] {
        let answer = get(&sluice, path, "");
        let open = answer.head.status() == 200 && answer.body != "public";
        found.extend(open.then(|| format!("{path}: {}", answer.body)));
    }
    for field in ["X-Original-URL", "X-Rewrite-URL", "X_Original_URL", "X_REWRITE-URL"] {
        let answer = get(&sluice, "/", &format!("{field}: /admin\r\n"));
        found.extend((answer.body != "public").then(|| format!("{field}: {}", answer.body)));
    }
    let answer = get(&sluice, "/", "Proxy: http://evil.test/\r\n");
    found.extend((answer.body != "public").then(|| format!("Proxy: {}", answer.body)));
    assert!(found.is_empty(), "without a key:\n{}", found.join("\n"));
    let key = format!("X-Api-Key: {KEY}\r\n");
    assert_eq!(get(&sluice, "/admin/x", &key).body, "express tomcat windows overlong");
    assert_eq!(get(&sluice, "/ADMIN", &key).head.status(), 400);
    for path in ["/", "/app;jsessionid=1", "/a%5cb", "/job/a%252Fb", "/administrator", "/x/admin"] {
        assert_eq!(get(&sluice, path, "").body, "public", "{path}");
    }
}

#[test]
fn where_nothing_is_protected_every_spelling_reaches_the_backend() {
    let Some((_server, address)) = server("lenient_server.mjs", "express") else { return };
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n\
                  [[route]]\npath = \"/admin\"\nbackend = \"app\"\nhttp = \"forward\"\n";
    let keep = "[forwarded]\nkeep = [\"X-Original-URL\", \"x_rewrite_url\"]\n";
    let sluice = Sluice::start(&Setup::new(address).routes(routes).more(keep)).unwrap();
    for (path, by) in [
        ("/ADMIN", "express windows"),
        ("/admin;jsessionid=1", "tomcat"),
        ("/%2561dmin", "windows"),
        ("/%c0%afadmin", "overlong"),
        ("/app;jsessionid=1", "public"),
    ] {
        assert_eq!(get(&sluice, path, "").body, by, "{path}");
    }
    for field in ["X-Original-URL", "X_Rewrite_URL"] {
        assert_eq!(get(&sluice, "/", &format!("{field}: /admin\r\n")).body, "fields", "{field} is kept");
    }
}

/// What a check of a configuration says.
fn check(config: &str) -> (bool, String) {
    let folder = Folder::make().unwrap();
    let path = folder.path().join("sluice.toml");
    let rest = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n";
    std::fs::write(&path, format!("{config}{rest}")).unwrap();
    let output = std::process::Command::new(binary()).args(["check", "--config"]).arg(&path).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_check_warns_of_what_is_probably_not_meant() {
    let auth = "[[auth]]\nname = \"robots\"\napi_key = { keys = \"k\" }\n";
    let admin = "[[route]]\npath = \"/admin\"\nbackend = \"app\"\nauth = [\"robots\"]\n";
    let (good, said) = check(&format!("[[route]]\nbackend = \"app\"\n{admin}{auth}"));
    assert!(good && said.starts_with("warning: ") && said.contains("[[route]] 2 (path \"/admin\") asks who"), "{said}");
    let (good, said) = check("[[route]]\nbackend = \"app\"\norigins = [\"any\"]\n");
    assert!(good && said.contains("origins has \"any\": pages of every site"), "{said}");
    let (good, said) = check(&format!("{admin}{auth}"));
    assert!(good && said.is_empty(), "{said}");
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Asks for a path on a connection of its own.
fn ask(sluice: &Sluice, path: &str) -> TcpStream {
    let mut client = dial(sluice.ws).unwrap();
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    client
}

#[test]
fn an_answer_that_nobody_asked_for_lets_nobody_in() {
    let backend = RawBackend::start().unwrap();
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n\
                  [[route]]\npath = \"/secret\"\nbackend = \"app\"\nhttp = \"forward\"\nauth = [\"login\"]\n";
    let auth = "[[auth]]\nname = \"login\"\nforward = { backend = \"app\", path = \"/verify\", timeout = \"20s\" }\n";
    let setup = Setup::new(backend.address).routes(routes).more(auth).backend("keep_alive = \"1h\"\n");
    let sluice = Sluice::start(&setup).unwrap();
    let mut client = ask(&sluice, "/open");
    let (mut user, _) = backend.accept_request().unwrap();
    user.write_all(OK).unwrap();
    assert_eq!(http::respond(&mut client).unwrap().body, "ok");
    // The service is asked on a connection on which no stranger could have left an answer.
    let mut stranger = ask(&sluice, "/secret");
    let (mut service, question) = backend.accept_request().expect("the question came on the connection of a user");
    assert_eq!(question.line, "GET /verify HTTP/1.1");
    service.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(Head::read(&mut stranger).unwrap().status(), 401);
    // Users have theirs still.
    let mut client = ask(&sluice, "/open");
    assert_eq!(Head::read(&mut user).unwrap().line, "GET /open HTTP/1.1");
    user.write_all(OK).unwrap();
    assert_eq!(http::respond(&mut client).unwrap().body, "ok");
    // And one on which something has come meanwhile is no user's any more, however late that was.
    for _ in 0..20 {
        user.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled").unwrap();
        let mut client = ask(&sluice, "/open");
        let (next, request) = backend.accept_request().unwrap();
        assert_eq!(request.line, "GET /open HTTP/1.1");
        user = next;
        user.write_all(OK).unwrap();
        assert_eq!(http::respond(&mut client).unwrap().body, "ok");
    }
}

/// Has Chromium load a page, until the server's log has a line.
fn visit(url: &str, server: &Program, line: &str) -> Result<(), String> {
    let chromium = needs::program("chromium")?;
    let folder = Folder::make().unwrap();
    let mut command = vec![chromium.display().to_string()];
    let flags = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run \
                 --disable-background-networking --disable-component-update --disable-sync";
    command.extend(flags.split(' ').map(str::to_owned));
    command.extend([format!("--user-data-dir={}", folder.path().display()), url.to_owned()]);
    let mut browser = Program::start(&command).unwrap();
    eventually(&format!("the server has {line:?}"), || {
        assert!(browser.ended().is_none(), "the browser ended:\n{}", browser.log());
        server.log().lines().any(|other| other == line).then_some(())
    });
    Ok(())
}

#[test]
fn an_applications_own_form_enters_and_a_sandboxed_one_does_not() {
    let Some((server, address)) = server("form_server.mjs", "ws") else { return };
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n";
    let sluice = Sluice::start(&Setup::new(address).routes(routes)).unwrap();
    let (ws, log) = (sluice.ws, || server.log());
    let own = "/from-form: origin null, site same-origin";
    if let Err(reason) = visit(&format!("http://{ws}/"), &server, own) {
        return needs::skip(&reason);
    }
    // The page waits, and its own script's request has its origin.
    let waited = format!("/waited: origin http://{ws}, site same-origin");
    visit(&format!("http://{ws}/sandboxed"), &server, &waited).unwrap();
    assert!(!log().contains("/from-sandbox"), "{}", log());
    assert!(sluice.program.log().contains("origin-denied"), "the sandboxed page has asked");
    // A page of another origin reads why it may not enter.
    let read = |url: &str| format!("http://{address}/read?{}", url.replace(':', "%3A").replace('/', "%2F"));
    let told =
        format!("/told?403 pages of this origin may not connect here: origin http://{address}, site same-origin");
    visit(&read(&format!("http://{ws}/x")), &server, &told).unwrap();
}

/// Sends a plain POST of a page.
fn posts(sluice: &Sluice, path: &str, more: &str) -> Response {
    let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n{more}\r\n");
    http::exchange(sluice.ws, request.as_bytes()).unwrap()
}

#[test]
fn origins_are_what_the_operator_says_and_refusals_can_be_read() {
    let site = sluice_tests::site::Site::at("127.0.0.1:0".parse().unwrap()).unwrap();
    let keys = Keys::make();
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\norigins = [\"https://app.test\", \"moz-extension://*\"]\n\
                  http_origins = [\"https://id.test\", \"http://localhost:*\"]\n\
                  [[route]]\npath = \"/null\"\nbackend = \"app\"\nhttp = \"forward\"\norigins = [\"null\"]\n\
                  [[route]]\npath = \"/any\"\nbackend = \"app\"\nhttp = \"forward\"\norigins = [\"any\"]\n\
                  [[route]]\npath = \"/own\"\nbackend = \"app\"\nhttp = \"forward\"\n\
                  [[route]]\npath = \"/key\"\nbackend = \"app\"\nhttp = \"forward\"\nauth = [\"robots\"]\n\
                  origins = [\"https://app.test\", \"any\"]\n";
    let sluice = Sluice::start(&Setup::new(site.address).routes(routes).more(&keys.auth())).unwrap();
    let status = |path: &str, more: &str| posts(&sluice, path, more).head.status();
    let upgrades = |path: &str, origin: &str| {
        let request = http::upgrade("a", path, &format!("Origin: {origin}\r\n"));
        let mut client = dial(sluice.ws).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        Head::read(&mut client).unwrap().status()
    };
    for (path, origin, posted, upgraded) in [
        ("/", "https://app.test", 403, 101),
        ("/", "moz-extension://0d6f-11", 403, 101),
        ("/", "https://id.test", 200, 403),
        ("/", "http://localhost:5173", 200, 403),
        ("/", "null", 403, 403),
        ("/null", "null", 200, 101),
        ("/null", "https://app.test", 403, 403),
        ("/any", "https://evil.test", 200, 101),
        ("/any", "null", 200, 101),
    ] {
        let got = (status(path, &format!("Origin: {origin}\r\n")), upgrades(path, origin));
        assert_eq!(got, (posted, upgraded), "{path} {origin}");
    }
    assert_eq!(status("/own", "Origin: null\r\nSec-Fetch-Site: same-origin\r\n"), 200);
    assert_eq!(status("/own", "Origin: null\r\nSec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(status("/own", "Origin: null\r\n"), 403);
    for (path, origin, fields) in [
        ("/own", "https://evil.test", [Some("https://evil.test"), None]),
        ("/key", "https://app.test", [Some("https://app.test"), Some("true")]),
        ("/key", "https://evil.test", [Some("https://evil.test"), None]),
    ] {
        let answer = posts(&sluice, path, &format!("Origin: {origin}\r\n")).head;
        let told = ["access-control-allow-origin", "access-control-allow-credentials"].map(|name| answer.field(name));
        assert_eq!((told, answer.field("vary")), (fields, Some("Origin")), "{path} {origin}: {answer:?}");
    }
    // What a backend answers is its own to say.
    assert_eq!(posts(&sluice, "/any", "Origin: https://a.test\r\n").head.field("access-control-allow-origin"), None);
}

#[test]
fn the_admin_listener_is_asked_by_its_own_name_only() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    let ask = |host: &str| {
        let request = format!("GET /connections HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        http::exchange(sluice.admin, request.as_bytes()).unwrap().head.status()
    };
    for host in ["127.0.0.1", "[::1]:9900", "localhost:1"] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in ["evil.test", "127.0.0.1.evil.test:9900", "localhost.evil.test"] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 421, "{host}");
    }
    assert_eq!(ask("Host: localhost\r\nHost: evil.test\r\n"), 421);
}

#[test]
fn silent_connections_keep_no_scraper_out() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    let mut silent: Vec<TcpStream> = Vec::new();
    for round in 0..3 {
        for _ in 0..100 {
            let mut stream = dial(sluice.admin).unwrap();
            // Some begin a head, and do not go on.
            if round > 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lo").unwrap();
            }
            silent.push(stream);
        }
        assert_eq!(http::get(sluice.admin, "/metrics").unwrap().head.status(), 200, "round {round}");
    }
    // And all of them are let go, soon.
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest);
    }
}

#[test]
fn strangers_make_no_series() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::via(echo.address, Via::Copy)).unwrap();
    let series = || {
        let metrics = sluice.metrics().unwrap().0;
        metrics.lines().filter(|line| line.starts_with("sluice_close_codes_total{")).count()
    };
    let before = series();
    for code in (1000..1016_u16).chain([3000, 3999, 4000, 4999, 1016, 2999, 5000, 65535, 7]) {
        let mut client = sluice.ask(Via::Copy, b"").unwrap();
        assert_eq!(Head::read(&mut client).unwrap().status(), 101);
        let [high, low] = code.to_be_bytes();
        // Masked with zeros.
        client.write_all(&[0x88, 0x82, 0, 0, 0, 0, high, low]).unwrap();
        client.shutdown_write().unwrap();
        // The server ends what it does not understand, or answers.
        let _end = client.read_to_end(&mut Vec::new());
    }
    eventually("all pairs are gone", || sluice.connections().unwrap().is_empty().then_some(()));
    let metrics = sluice.metrics().unwrap();
    let count =
        |code: &str| metrics.sum("sluice_close_codes_total", &[("direction", "client_to_backend"), ("code", code)]);
    assert_eq!(["1000", "1015", "3xxx", "4xxx"].map(count), [1, 1, 2, 2]);
    assert_eq!((before, series()), (38, 38));
    assert_eq!(count("other"), 5, "{}", metrics.0);
}

#[test]
fn no_counter_of_close_codes_goes_down() {
    let backend = RawBackend::start().unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, Via::Copy)).unwrap();
    let counts = || {
        let metrics = sluice.metrics().unwrap();
        let labels = |code| [("direction", "client_to_backend"), ("code", code)];
        ["1000", "3xxx"].map(|code| metrics.sum("sluice_close_codes_total", &labels(code)))
    };
    let mut client = sluice.ask(Via::Copy, b"").unwrap();
    let server = backend.accept_upgrade(b"").unwrap();
    assert_eq!(Head::read(&mut client).unwrap().status(), 101);
    let mut before = [0; 2];
    // One Close frame behind another, which no client should send.
    for code in [1000_u16, 3000, 1000] {
        let [high, low] = code.to_be_bytes();
        client.write_all(&[0x88, 0x82, 0, 0, 0, 0, high, low]).unwrap();
        eventually("the pair shows its latest code", || {
            let shown = sluice.connections().ok()?.first()?["client_to_backend"]["close_code"].as_u64();
            (shown == Some(code.into())).then_some(())
        });
        let now = counts();
        assert!(now.iter().zip(before).all(|(now, before)| *now >= before), "{before:?}, and then {now:?}");
        before = now;
    }
    drop((client, server));
    eventually("the pair is counted", || (counts() == [1, 0]).then_some(()));
}
