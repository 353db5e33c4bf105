//! Bad input gets a clear answer and costs little; nothing of it disturbs those who behave.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sluice_tests::backend::Echo;
use sluice_tests::client::Client;
use sluice_tests::http::{self, respond};
use sluice_tests::process::{Program, free_addresses};
use sluice_tests::sluice::{Folder, Setup, Sluice, binary, dial};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

fn echo(more: &str) -> (Echo, Sluice) {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address).more(more)).unwrap();
    (echo, sluice)
}

/// Whoever behaves is served.
fn serves(sluice: &Sluice) {
    for via in [Via::Copy, Via::Tls] {
        let mut client = Client::open(sluice.connect(via).unwrap(), sluice.address(via)).unwrap();
        client.converse().unwrap();
    }
}

#[test]
fn a_slow_head_is_given_up() {
    let (_echo, sluice) = echo("[timeouts]\nhead = \"2s\"");
    let mut slow = dial(sluice.ws).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    let answer = respond(&mut slow).unwrap();
    assert_eq!(answer.head.status(), 408, "{answer:?}");
    let mut silent = dial(sluice.ws).unwrap();
    let mut seen = Vec::new();
    silent.read_to_end(&mut seen).unwrap();
    let mut without_tls = dial(sluice.wss).unwrap();
    without_tls.write_all(&[0x16, 3, 1]).unwrap();
    let _closed_or_reset = without_tls.read_to_end(&mut seen);
    serves(&sluice);
}

#[test]
fn an_oversized_head_is_refused() {
    let (_echo, sluice) = echo("");
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    let many = "X-Many: x\r\n".repeat(150);
    for (more, status) in [(long, 431), (many, 431)] {
        let answer = http::exchange(sluice.ws, http::upgrade("x", "/", &more).as_bytes()).unwrap();
        assert_eq!(answer.head.status(), status, "{answer:?}");
        assert!(answer.head.field("proxy-status").is_some(), "{answer:?}");
    }
    let target = format!("/{}", "x".repeat(20_000));
    let answer = http::exchange(sluice.ws, http::upgrade("x", &target, "").as_bytes()).unwrap();
    assert!(matches!(answer.head.status(), 414 | 431), "{answer:?}");
    serves(&sluice);
}

#[test]
fn garbage_is_refused() {
    let (_echo, sluice) = echo("");
    let answer = http::exchange(sluice.ws, b"\x00\x01\x02 garbage\r\n\r\n").unwrap();
    assert_eq!(answer.head.status(), 400, "{answer:?}");
    let smuggled = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let answer = http::exchange(sluice.ws, http::upgrade("x", "/", smuggled).as_bytes()).unwrap();
    assert_eq!(answer.head.status(), 400, "{answer:?}");
    let twice = http::upgrade("x", "/", "Host: y\r\n");
    assert_eq!(http::exchange(sluice.ws, twice.as_bytes()).unwrap().head.status(), 400);
    serves(&sluice);
}

#[test]
fn garbage_instead_of_tls_gets_an_alert() {
    let (_echo, sluice) = echo("");
    let mut garbage = dial(sluice.wss).unwrap();
    garbage.write_all(&[0xff; 64]).unwrap();
    let mut seen = Vec::new();
    let _reset_behind_the_alert = garbage.read_to_end(&mut seen);
    assert_eq!(seen.first(), Some(&21), "a TLS alert record begins with 21: {seen:?}");
    serves(&sluice);
}

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let (_echo, sluice) = echo("");
    let answer = http::exchange(sluice.wss, http::upgrade("x", "/", "").as_bytes()).unwrap();
    assert_eq!(answer.head.status(), 400, "{answer:?}");
    assert!(answer.body.contains("TLS"), "{answer:?}");
    serves(&sluice);
}

#[test]
fn half_open_connections_disturb_nobody() {
    let (_echo, sluice) = echo("[timeouts]\nhead = \"2s\"");
    let half_open: Vec<_> = (0..200).map(|_| dial(sluice.ws).unwrap()).collect();
    serves(&sluice);
    for mut silent in half_open {
        let mut seen = Vec::new();
        let _closed_or_reset = silent.read_to_end(&mut seen);
    }
    serves(&sluice);
}

/// An urgent byte cuts a read short, and of what is behind it no event tells.
#[test]
fn an_urgent_byte_in_a_head_holds_nothing_up() {
    let (_echo, sluice) = echo("[timeouts]\nhead = \"5s\"");
    for _ in 0..20 {
        let mut client = dial(sluice.ws).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
        socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(b"X-Behind: it\r\n\r\n").unwrap();
        let answer = respond(&mut client).unwrap();
        assert_eq!(answer.head.status(), 426, "{answer:?}");
    }
}

/// Runs `sluice` with a configuration until it ends; returns whether it succeeded, and what it printed.
fn run(verb: &str, toml: &str) -> (bool, String) {
    let folder = Folder::make().unwrap();
    let config = folder.path().join("sluice.toml");
    std::fs::write(&config, toml).unwrap();
    finish(&[verb, "--config", &config.display().to_string()])
}

fn finish(args: &[&str]) -> (bool, String) {
    let command = [&[binary().display().to_string()][..], &args.iter().map(ToString::to_string).collect::<Vec<_>>()];
    let mut program = Program::start(&command.concat()).unwrap();
    let success = program.wait().success();
    let log = eventually("it has printed something", || Some(program.log()).filter(|log| !log.is_empty()));
    (success, log)
}

const MINIMAL: &str = "[[listener]]\nbind = \"ADDRESS\"\n[[route]]\nbackend = \"app\"\n\
                       [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n";

#[test]
fn a_typo_is_shown_with_its_line() {
    let toml = MINIMAL.replace("ADDRESS", "127.0.0.1:0");
    for verb in ["check", "run"] {
        let (success, log) = run(verb, &toml.replace("[[route]]\n", "[[route]]\norigin = [\"same-origin\"]\n"));
        assert!(!success, "{log}");
        assert!(log.contains("origin") && log.contains("line 4"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
    let (success, log) = run("check", &toml);
    assert!(success, "{log}");
    let (success, log) = run("check", &toml.replace("backend = \"app\"", "backend = \"ap\""));
    assert!(!success && log.contains("\"ap\""), "{log}");
}

#[test]
fn a_missing_configuration_is_named() {
    let (success, log) = finish(&["run", "--config", "/nonexistent/sluice.toml"]);
    assert!(!success && log.contains("/nonexistent/sluice.toml"), "{log}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (success, log) = run("run", &MINIMAL.replace("ADDRESS", &address));
    assert!(!success, "{log}");
    assert!(log.contains(&address) && log.to_lowercase().contains("in use"), "{log}");
}

#[test]
fn the_short_form_serves() {
    let echo = Echo::start().unwrap();
    let [address]: [SocketAddr; 1] = free_addresses().unwrap();
    let words = ["run", "--listen", &address.to_string(), "--backend", &echo.address.to_string()];
    let command: Vec<String> = std::iter::once(binary().display().to_string()).chain(words.map(String::from)).collect();
    let _sluice = Program::start(&command).unwrap();
    let stream = eventually("it listens", || sluice_tests::stream::Stream::connect(address, None).ok());
    Client::open(stream, address).unwrap().converse().unwrap();
}

/// A copy of the program that everybody may run, wherever the real one lies.
fn for_everybody(folder: &Path) -> std::path::PathBuf {
    let copy = folder.join("sluice");
    std::fs::copy(binary(), &copy).unwrap();
    for path in [folder, &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy
}

#[test]
fn without_privilege_it_copies_and_says_why() {
    let wrapper =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    if let Err(reason) = needs::root().and(needs::program("setpriv").map(drop)) {
        return needs::skip(&reason);
    }
    let echo = Echo::start().unwrap();
    let folder = Folder::make().unwrap();
    let setup = Setup::new(echo.address).under(&wrapper).program(for_everybody(folder.path())).keys_for_everybody();
    let sluice = Sluice::start(&setup).unwrap();
    serves(&sluice);
    let client = Client::open(sluice.connect(Via::Copy).unwrap(), sluice.ws).unwrap();
    let row = sluice.connection(client.address().unwrap());
    assert_eq!((row["engine"].as_str(), row["why"].as_str()), (Some("copy"), Some("no-privilege")), "{row}");
    assert!(sluice.program.log().contains("no-privilege"), "{}", sluice.program.log());
}

#[test]
fn forced_to_use_sockmap_without_privilege_it_does_not_start() {
    let wrapper =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    if let Err(reason) = needs::root().and(needs::program("setpriv").map(drop)) {
        return needs::skip(&reason);
    }
    let folder = Folder::make().unwrap();
    let setup = Setup::via(([127, 0, 0, 1], 9).into(), Via::Sockmap).under(&wrapper);
    let error = Sluice::start(&setup.program(for_everybody(folder.path())).keys_for_everybody()).err();
    let text = format!("{:#}", error.expect("it started"));
    assert!(text.contains("no-privilege") || text.contains("CAP_BPF"), "{text}");
}
