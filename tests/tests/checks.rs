//! Active checks of servers that no one here wrote, and of some that do as a test says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;

use sluice_tests::backend::{RawBackend, switching};
use sluice_tests::certificate::of_backends;
use sluice_tests::http::Head;
use sluice_tests::process::{Program, Refusing};
use sluice_tests::recorder::Recorder;
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

/// Every server is up or down by its own checks, however many others are.
const EACH_BY_ITSELF: &str = "ejection = { failures = 0, min_up = 0 }\n";

/// Starts Sluice with these servers and this check, which comes often.
fn start(setup: Setup, servers: &[&str], check: &str, more: &str) -> Sluice {
    let check = format!("check = {{ interval = \"60ms\", {check} }}\n{EACH_BY_ITSELF}{more}");
    let log = "RUST_LOG=info,sluice::gate::fleet=debug";
    Sluice::start(&setup.servers(servers).backend(&check).under(&["env", log])).unwrap()
}

/// With TLS to the servers, or without.
fn setup(tls: bool) -> Setup {
    Setup::via(SocketAddr::from(([127, 0, 0, 1], 9)), if tls { Via::TlsBackend } else { Via::Copy })
}

fn plain() -> Setup {
    setup(false)
}

/// How often this stands in a line of the log with this server.
fn lines(sluice: &Sluice, what: &str, server: &str) -> usize {
    let server = format!("server=\"{server}\"");
    sluice.program.log().lines().filter(|line| line.contains(what) && line.contains(&server)).count()
}

/// Waits until so many more checks of a server have been good, or have failed.
fn checks(sluice: &Sluice, good: bool, server: &str, count: usize) {
    let what = if good { "a check was good" } else { "a check failed" };
    let enough = lines(sluice, what, server) + count;
    eventually(what, || (lines(sluice, what, server) >= enough).then_some(()));
}

fn is(sluice: &Sluice, server: &str, state: &str) -> bool {
    let sample = format!("sluice_server_state{{backend=\"app\",server=\"{server}\",state=\"{state}\"}} 1");
    sluice.metrics().unwrap().0.contains(&sample)
}

fn becomes(sluice: &Sluice, server: &str, state: &str) {
    eventually(&format!("{server} is {state}"), || is(sluice, server, state).then_some(()));
}

/// A server that others have made.
struct Other {
    server: String,
    program: Program,
    /// Lines that it prints before it serves.
    first: usize,
    _folder: Folder,
}

impl Other {
    /// Starts a program that prints its port, or its path.
    fn start(command: &[String], folder: Folder) -> Self {
        let mut program = Program::start(command).unwrap();
        let first = eventually("the server says where it is", || {
            assert!(program.ended().is_none(), "the server ended:\n{}", program.log());
            program.log().lines().next().map(str::to_owned)
        });
        let server = match first.parse::<u16>() {
            Ok(port) => format!("127.0.0.1:{port}"),
            Err(_) => format!("unix:{first}"),
        };
        Self { server, program, first: 1, _folder: folder }
    }

    /// What it has printed about its clients.
    fn complaints(&self) -> String {
        self.program.log().lines().skip(self.first).collect::<Vec<_>>().join("\n")
    }
}

/// A program below tests/clients in Python, which listens at this path if there is one.
fn python(script: &str, args: &[String], folder: Folder) -> Result<Other, String> {
    let script = format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let command = [vec![needs::tool("venv/bin/python")?.display().to_string(), script], args.to_vec()].concat();
    Ok(Other::start(&command, folder))
}

fn node(script: &str, args: &[String], folder: Folder) -> Result<Other, String> {
    Ok(Other::start(&needs::node(script, "ws", args)?, folder))
}

/// The files of a certificate, if there is to be TLS.
fn files(folder: &Folder, tls: bool) -> Vec<String> {
    let write = || of_backends().write(folder.path(), ["cert.pem", "key.pem"]).unwrap();
    let files = tls.then(write).map(|shown| [shown.certificate, shown.key]);
    files.into_iter().flatten().map(|file| file.display().to_string()).collect()
}

/// Every kind of check is good for this server, again and again, and the server does not complain.
fn all_are_good(other: &Other, tls: bool, kinds: &[&str]) {
    for kind in kinds {
        let sluice = start(setup(tls), &[&other.server], kind, "");
        checks(&sluice, true, &other.server, 8);
        assert_eq!(lines(&sluice, "a check failed", &other.server), 0, "{kind}: {}", sluice.program.log());
        assert!(is(&sluice, &other.server, "up"));
        // While it runs: when it is killed, connections break off.
        assert_eq!(other.complaints(), "", "{kind}, with TLS: {tls}");
    }
}

fn or_skip(other: Result<Other, String>) -> Option<Other> {
    other.inspect_err(|missing| needs::skip(missing)).ok()
}

/// With the subprotocol that its server insists on.
const OFFERS: &str = "kind = \"websocket\", protocols = [\"echo\"]";

#[test]
fn websockets_is_well() {
    for tls in [false, true] {
        let folder = Folder::make().unwrap();
        let files = files(&folder, tls);
        let Some(other) = or_skip(python("websockets_server.py", &files, folder)) else { return };
        all_are_good(&other, tls, &[OFFERS, "kind = \"tcp\""]);
        // It wants a subprotocol, and says so to whoever has none.
        let sluice = start(setup(tls), &[&other.server], "kind = \"websocket\"", "");
        becomes(&sluice, &other.server, "down");
    }
    let folder = Folder::make().unwrap();
    let path = folder.path().join("ws.sock");
    let at = format!("unix:{}", path.display());
    let Some(other) = or_skip(python("websockets_server.py", &[at], folder)) else { return };
    // The gate's user is another one.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    all_are_good(&other, false, &[OFFERS]);
}

#[test]
fn ws_is_well() {
    for tls in [false, true] {
        let folder = Folder::make().unwrap();
        let files = files(&folder, tls);
        let Some(other) = or_skip(node("ws_server.mjs", &files, folder)) else { return };
        all_are_good(&other, tls, &["kind = \"websocket\"", "kind = \"tcp\""]);
    }
}

#[test]
fn a_node_application_is_well() {
    let folder = Folder::make().unwrap();
    let Some(other) = or_skip(node("page_server.mjs", &[], folder)) else { return };
    let kinds = [
        "kind = \"tcp\"",
        "kind = \"http\"",
        "kind = \"http\", path = \"/bytes?n=700000\"",
        "kind = \"websocket\", path = \"/ws\", host = \"app.example\"",
    ];
    all_are_good(&other, false, &kinds);
}

#[test]
fn pythons_http_server_is_well() {
    let python = match needs::program("python3") {
        Ok(python) => python.display().to_string(),
        Err(missing) => return needs::skip(&missing),
    };
    let folder = Folder::make().unwrap();
    std::fs::write(folder.path().join("index.html"), "x".repeat(600_000)).unwrap();
    let served = folder.path().display().to_string();
    // Unbuffered, for its first line says its port.
    let command = [&python, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", &served];
    for kind in ["kind = \"http\"", "kind = \"tcp\""] {
        let mut program = Program::start(&command.map(str::to_owned)).unwrap();
        let port = eventually("the server says its port", || {
            assert!(program.ended().is_none(), "the server ended:\n{}", program.log());
            program.log().split(" port ").nth(1)?.split(' ').next()?.parse::<u16>().ok()
        });
        let server = format!("127.0.0.1:{port}");
        let sluice = start(plain(), &[&server], kind, "");
        checks(&sluice, true, &server, 20);
        // While Sluice runs: when it is killed, connections break off.
        let log = program.log();
        let complains = ["Traceback", "Exception", "Broken", "reset"].into_iter().any(|word| log.contains(word));
        assert!(!complains, "{kind}: {log}");
    }
}

#[test]
fn a_status_decides_and_rise_and_fall_how_often() {
    let server = Recorder::start().unwrap();
    let at = server.address.to_string();
    let answer = |status: u16| {
        let answer = format!("HTTP/1.1 {status} Word\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes");
        server.script(answer.as_bytes(), true);
    };
    answer(204);
    let check = "kind = \"http\", path = \"/scripted/health?deep=1\", host = \"app.example:81\", \
                 status = [\"200-204\", \"301\"], rise = 2, fall = 3";
    let sluice = start(plain(), &[&at], check, "");
    checks(&sluice, true, &at, 2);
    let request = server.requests().first().cloned().unwrap();
    assert_eq!((&*request.method, &*request.target), ("GET", "/scripted/health?deep=1"));
    assert_eq!(request.all("host").collect::<Vec<_>>(), ["app.example:81"]);
    assert_eq!(request.all("connection").collect::<Vec<_>>(), ["close"]);
    assert!(request.all("user-agent").next().unwrap().starts_with("sluice/"), "{request:?}");
    for (bad, good) in [(503, 301), (404, 200), (302, 204), (199, 201)] {
        for (status, state, how, least) in [(bad, "down", "a check failed", 3), (good, "up", "a check was good", 2)] {
            let before = lines(&sluice, how, &at);
            answer(status);
            becomes(&sluice, &at, state);
            // The log comes through a pipe, a moment behind the metrics.
            eventually(&format!("{status}: {how}"), || (lines(&sluice, how, &at) >= before + least).then_some(()));
        }
    }
    for change in ["a server is down, by its checks", "a server is up"] {
        eventually(change, || (lines(&sluice, change, &at) == 4).then_some(()));
    }
}

#[test]
fn who_is_down_stays_so_when_the_gate_dies() {
    let (refusing, well) = (Refusing::start().unwrap(), Recorder::start().unwrap());
    let (refused, at) = (refusing.address.to_string(), well.address.to_string());
    let sluice = start(plain(), &[&refused, &at], "kind = \"tcp\", fall = 1", "");
    for _ in 0..2 {
        becomes(&sluice, &refused, "down");
        // The keeper knows before the next one ends.
        checks(&sluice, false, &refused, 2);
        sluice.kill_gate();
    }
    checks(&sluice, false, &refused, 5);
    assert!(is(&sluice, &refused, "down") && is(&sluice, &at, "up"));
    assert_eq!(lines(&sluice, "a server is down", &refused), 1, "nobody found it out again");
}

#[test]
fn a_server_that_hangs_is_down_and_gets_one_check_at_a_time() {
    // Its kernel takes connections, and nobody reads of them.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let (hung, well) = (hangs.local_addr().unwrap().to_string(), Recorder::start().unwrap());
    let at = well.address.to_string();
    for kind in ["http", "websocket"] {
        let path = if kind == "http" { "/" } else { "/ws" };
        let check = format!("kind = \"{kind}\", path = \"{path}\", timeout = \"300ms\", fall = 1");
        let sluice = start(plain(), &[&hung, &at], &check, "");
        becomes(&sluice, &hung, "down");
        assert!(is(&sluice, &at, "up"));
        eventually("the log says why", || sluice.program.log().contains("did not answer in time").then_some(()));
    }
    hangs.set_nonblocking(true).unwrap();
    while hangs.accept().is_ok() {}
    let sluice = start(plain(), &[&hung, &at], "kind = \"http\", timeout = \"10m\"", "");
    checks(&sluice, true, &at, 20);
    let waiting: Vec<_> = std::iter::from_fn(|| hangs.accept().ok()).collect();
    assert_eq!(waiting.len(), 1, "{waiting:?}");
}

#[test]
fn nobody_is_well_who_refuses_closes_or_speaks_something_else() {
    let refusing = Refusing::start().unwrap();
    let recorder = Recorder::start().unwrap();
    recorder.script(b"+OK ready\r\n", true);
    let (refused, at) = (refusing.address.to_string(), recorder.address.to_string());
    for (check, good, bad) in [
        ("kind = \"tcp\"", Some(&at), vec![&refused]),
        ("kind = \"http\", path = \"/scripted\"", None, vec![&refused, &at]),
        ("kind = \"websocket\", path = \"/plain\"", None, vec![&refused, &at]),
        ("kind = \"websocket\", path = \"/ws\"", Some(&at), vec![&refused]),
    ] {
        let sluice = start(plain(), &[&refused, &at], &format!("{check}, fall = 1"), "");
        bad.into_iter().for_each(|server| becomes(&sluice, server, "down"));
        if let Some(good) = good {
            checks(&sluice, true, good, 2);
            assert!(is(&sluice, good, "up"), "{check}");
        }
    }
}

#[test]
fn servers_that_want_a_proxy_header_get_one_with_nobody_in_it() {
    for (version, header) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")] {
        let server = RawBackend::start().unwrap();
        let at = server.address.to_string();
        let more = format!("send_proxy = \"{version}\"");
        let sluice = start(plain(), &[&at], "kind = \"http\"", &more);
        for _ in 0..2 {
            let mut stream = server.accept().unwrap();
            let mut seen = vec![0; header.len()];
            stream.read_exact(&mut seen).unwrap();
            assert_eq!(seen, header, "{version}");
            assert_eq!(Head::read(&mut stream).unwrap().line, "GET / HTTP/1.1");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
        eventually("a check was good", || (lines(&sluice, "a check was good", &at) > 0).then_some(()));
    }
}

#[test]
fn a_websocket_check_says_goodbye_and_waits_for_the_answer() {
    for via in [Via::Copy, Via::TlsBackend] {
        let server = RawBackend::via(via).unwrap();
        let at = server.address.to_string();
        let setup = Setup::via(server.address, via);
        let sluice = start(setup, &[&at], "kind = \"websocket\", path = \"/chat\"", "");
        let (mut stream, request) = server.accept_request().unwrap();
        assert_eq!(request.line, "GET /chat HTTP/1.1");
        assert_eq!(request.field("host"), Some(&*at));
        // A server that speaks first.
        let greeting = [switching(&request, "").as_bytes(), b"\x81\x05hello"].concat();
        stream.write_all(&greeting).unwrap();
        let mut goodbye = [0; 8];
        stream.read_exact(&mut goodbye).unwrap();
        // A Close of a client's, with 1000.
        assert_eq!(goodbye, [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
        stream.write_all(b"\x88\x02\x03\xe8").unwrap();
        // The server ends the connection (RFC 6455 §7.1.1), and sees its end rather than a reset.
        if let Stream::Tls(tls) = &mut stream {
            tls.close_notify().unwrap();
        }
        stream.tcp().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "{via:?}");
        eventually("the check was good", || (lines(&sluice, "a check was good", &at) > 0).then_some(()));
    }
}
