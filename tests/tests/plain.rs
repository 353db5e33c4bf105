//! Plain HTTP beside WebSockets, and HTTP/2: with programs that no one here wrote.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use sluice_tests::needs;
use sluice_tests::process::Program;
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::wait::eventually;

const FORWARD: &str = "[[route]]\nhttp = \"forward\"\nbackend = \"app\"\n";

/// A server in a process of its own.
struct Server {
    address: SocketAddr,
    program: Program,
}

/// Starts a server that prints its port first.
fn serve(script: &str, module: &str) -> Result<Server, String> {
    let mut program = Program::start(&needs::node(script, module, &[])?).unwrap();
    let port = eventually("the server prints its port", || {
        assert!(program.ended().is_none(), "the server ended:\n{}", program.log());
        program.log().lines().next()?.parse().ok()
    });
    Ok(Server { address: SocketAddr::from(([127, 0, 0, 1], port)), program })
}

fn or_skip<T>(outcome: Result<T, String>) -> Option<T> {
    outcome.map_err(|reason| needs::skip(&reason)).ok()
}

/// Runs a client to its end, and gives what it printed.
fn run(command: &[String], sluice: &Sluice) -> String {
    let mut client = Program::start(command).unwrap();
    assert!(client.wait().success(), "the client failed:\n{}\n{}", client.log(), sluice.program.log());
    client.log()
}

fn bases(sluice: &Sluice) -> [String; 2] {
    [format!("http://{}", sluice.ws), format!("https://{}", sluice.wss)]
}

/// Whether each client polls first, then upgrades, and stays with its server of two all the while; every message comes
/// back unchanged over both. The client checks that.
#[test]
fn socket_io_polls_and_upgrades_through_two_servers() {
    const CLIENTS: usize = 6;
    let Some(servers) =
        or_skip((|| Ok([serve("socketio_server.mjs", "socket.io")?, serve("socketio_server.mjs", "socket.io")?]))())
    else {
        return;
    };
    let setup = Setup::new(servers[0].address).server(servers[1].address).routes(FORWARD).backend("sticky = {}\n");
    let sluice = Sluice::start(&setup).unwrap();
    for base in bases(&sluice) {
        for transports in ["polling,websocket", "polling", "websocket"] {
            let certificate = sluice.certificate.display().to_string();
            let args = [base.clone(), certificate, CLIENTS.to_string(), transports.to_owned()];
            let Some(command) = or_skip(needs::node("socketio_client.mjs", "socket.io-client", &args)) else { return };
            let printed = run(&command, &sluice);
            let used: Vec<&str> = printed.split_whitespace().collect();
            assert_eq!(used.len(), CLIENTS, "{printed}");
            assert_eq!(used.iter().collect::<BTreeSet<_>>().len(), 2, "both servers have clients: {printed}");
        }
    }
    let metrics = sluice.metrics().unwrap();
    // Those that poll first upgrade, and those that do nothing else connect, on either listener.
    assert_eq!(metrics.sum("sluice_handshakes_total", &[("result", "upgraded")]), 4 * CLIENTS as u64);
    assert!(metrics.sum("sluice_handshakes_total", &[("result", "forwarded")]) > 0);
}

#[test]
fn websockets_and_requests_of_node_share_an_http_2_connection() {
    const STREAMS: usize = 40;
    let Some(server) = or_skip(serve("page_server.mjs", "ws")) else { return };
    let sluice = Sluice::start(&Setup::new(server.address).routes(FORWARD)).unwrap();
    for base in bases(&sluice) {
        let certificate = sluice.certificate.display().to_string();
        let args = [base, certificate, STREAMS.to_string(), "/bytes?n=200000".to_owned()];
        let Some(command) = or_skip(needs::node("http2_client.mjs", "ws", &args)) else { return };
        run(&command, &sluice);
    }
    let labels = [("direction", "client_to_backend"), ("code", "4xxx")];
    let metrics = eventually("all Close frames are counted", || {
        sluice.metrics().ok().filter(|metrics| metrics.sum("sluice_close_codes_total", &labels) == 40)
    });
    assert_eq!(metrics.sum("sluice_handshakes_total", &[("result", "forwarded")]), 40);
}

#[test]
fn curl_sends_and_fetches_over_both_versions() {
    let Some(server) = or_skip(serve("page_server.mjs", "ws")) else { return };
    let Some(curl) = or_skip(needs::program("curl")) else { return };
    let sluice = Sluice::start(&Setup::new(server.address).routes(FORWARD)).unwrap();
    let folder = Folder::make().unwrap();
    let file = folder.path().join("body");
    let body: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(&file, &body).unwrap();
    let [plain, tls] = bases(&sluice);
    for (base, version, told) in [
        (&plain, "--http1.1", "1.1"),
        (&plain, "--http2-prior-knowledge", "2"),
        (&tls, "--http1.1", "1.1"),
        (&tls, "--http2", "2"),
    ] {
        let fetch = |args: &[&str]| {
            let mut command = Command::new(&curl);
            command
                .args(["--silent", "--show-error", "--max-time", "30", version, "--cacert"])
                .arg(&sluice.certificate);
            let output =
                command.args(["--write-out", "%{stderr}%{http_version} %{http_code}"]).args(args).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(said, format!("{told} 200"), "{version} {args:?}\n{}", sluice.program.log());
            output.stdout
        };
        let echo = format!("{base}/echo");
        let sent = format!("@{}", file.display());
        assert!(fetch(&["--data-binary", &sent, &echo]) == body, "{version}: the body came back changed");
        if told == "1.1" {
            let chunked = fetch(&["--header", "Transfer-Encoding: chunked", "--data-binary", &sent, &echo]);
            assert!(chunked == body, "{version}: the chunked body came back changed");
        }
        assert_eq!(fetch(&[&format!("{base}/bytes?n=3000000")]).len(), 3_000_000);
        assert!(!fetch(&["--head", &format!("{base}/bytes?n=7")]).is_empty());
    }
}

/// The browser has an HTTP/2 connection from loading the page, and opens its WebSocket on that.
#[test]
fn chromium_opens_its_websocket_over_http_2() {
    let Some(chromium) = or_skip(needs::program("chromium")) else { return };
    let Some(server) = or_skip(serve("page_server.mjs", "ws")) else { return };
    let sluice = Sluice::start(&Setup::new(server.address).routes(FORWARD)).unwrap();
    let folder = Folder::make().unwrap();
    let command = [
        chromium.display().to_string(),
        "--headless=new".to_owned(),
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--disable-dev-shm-usage".to_owned(),
        "--ignore-certificate-errors".to_owned(),
        format!("--user-data-dir={}", folder.path().join("profile").display()),
        format!("https://{}/", sluice.wss),
    ];
    let mut browser = Program::start(&command).unwrap();
    let told = eventually("the page tells how it went", || {
        assert!(browser.ended().is_none(), "the browser ended:\n{}", browser.log());
        server.program.log().lines().find_map(|line| line.strip_prefix("told: ").map(str::to_owned))
    });
    assert_eq!(told, "done over h2 echo", "{}", sluice.program.log());
    let metrics = sluice.metrics().unwrap();
    assert_eq!(metrics.sum("sluice_handshakes_total", &[("result", "upgraded")]), 1);
    drop(browser);
}
