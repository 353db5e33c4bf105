//! Log lines: a standard error that takes none fails nothing, and holds nothing up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::Signal;
use sluice_tests::Via;
use sluice_tests::backend::{Echo, RawBackend};
use sluice_tests::certificate::Identity;
use sluice_tests::client::Client;
use sluice_tests::http;
use sluice_tests::sluice::{Folder, Setup, Sluice, binary, dial};
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;

/// A pipe with a name, and its reading end.
fn fifo(folder: &Folder) -> (PathBuf, File) {
    let path = folder.path().join("fifo");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let flags = OFlags::NONBLOCK.bits() as i32;
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
    (path, reader)
}

/// Sluice with its standard error elsewhere: `to` is what a shell calls that. `level` is its RUST_LOG.
fn sluice(to: &str, level: &str) -> (Echo, Sluice) {
    let echo = Echo::start().unwrap();
    let script = format!("exec \"$@\" 2>{to}");
    let level = format!("RUST_LOG={level}");
    let setup = Setup::via(echo.address, Via::Copy).under(&["env", &level, "sh", "-c", &script, "sh"]);
    (echo, Sluice::start(&setup.silent()).unwrap())
}

/// Has so many requests refused, each of which would make a line.
fn refusals(sluice: &Sluice, count: usize) {
    for number in 0..count {
        let answer = http::get(sluice.ws, "/nothing").unwrap_or_else(|error| panic!("request {number}: {error}"));
        assert_eq!(answer.head.status(), 426, "request {number}: {answer:?}");
    }
}

fn converse(sluice: &Sluice) -> Client {
    let mut client = Client::open(sluice.connect(Via::Copy).unwrap(), sluice.ws).unwrap();
    client.converse().unwrap();
    client
}

fn lost(sluice: &Sluice, process: &str) -> u64 {
    sluice.metrics().unwrap().sum("sluice_log_lines_lost_total", &[("process", process)])
}

/// Whoever is there stays, whoever comes is served, and the end is as it should be.
fn goes_on(mut sluice: Sluice, mut before: Client) {
    before.converse().unwrap();
    converse(&sluice);
    assert_eq!(sluice.metrics().unwrap().sum("sluice_gate_starts_total", &[]), 1);
    sluice.program.signal(Signal::TERM).unwrap();
    assert!(sluice.program.wait().success());
}

#[test]
fn a_full_disk_under_standard_error_ends_nothing() {
    let (_echo, sluice) = sluice("/dev/full", "info");
    let before = converse(&sluice);
    refusals(&sluice, 40);
    eventually("the lines of both are counted", || {
        (lost(&sluice, "gate") >= 40 && lost(&sluice, "keeper") >= 1).then_some(())
    });
    goes_on(sluice, before);
}

#[test]
fn a_closed_pipe_under_standard_error_ends_nothing() {
    let folder = Folder::make().unwrap();
    let (path, reader) = fifo(&folder);
    let (_echo, sluice) = sluice(&path.display().to_string(), "info");
    let before = converse(&sluice);
    drop(reader);
    refusals(&sluice, 40);
    eventually("the lines are counted", || (lost(&sluice, "gate") >= 40).then_some(()));
    goes_on(sluice, before);
}

#[test]
fn a_standard_error_that_is_closed_at_the_start_ends_nothing() {
    let (_echo, sluice) = sluice("&-", "info");
    let before = converse(&sluice);
    refusals(&sluice, 40);
    goes_on(sluice, before);
}

#[test]
fn a_reader_that_stalls_holds_nothing_up_and_is_told_what_it_has_missed() {
    let folder = Folder::make().unwrap();
    let (path, mut reader) = fifo(&folder);
    // At this level no line is left out.
    let (_echo, sluice) = sluice(&path.display().to_string(), "debug");
    let mut before = converse(&sluice);
    let more_are_lost = |than: u64| {
        eventually("lines are lost", || {
            refusals(&sluice, 100);
            Some(lost(&sluice, "gate")).filter(|lost| *lost > than)
        })
    };
    let of_the_first = more_are_lost(0);
    before.converse().unwrap();
    // A gate that starts with a standard error that takes nothing serves as well.
    sluice.kill_gate();
    eventually("the next gate serves", || http::get(sluice.ws, "/nothing").ok());
    more_are_lost(of_the_first);
    before.converse().unwrap();
    let (mut seen, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    eventually("the reader is told", || {
        while let Ok(read) = reader.read(&mut piece) {
            seen.extend_from_slice(&piece[..read]);
        }
        String::from_utf8_lossy(&seen).contains("log lines were lost: standard error did not take them").then_some(())
    });
    converse(&sluice);
}

/// Runs a command of the program, with this in the place of its standard output.
fn run(words: &[&str], out: impl Into<Stdio>) -> Output {
    let child = Command::new(binary()).args(words).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped()).spawn();
    child.unwrap().wait_with_output().unwrap()
}

fn closed_pipe() -> OwnedFd {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    writer
}

/// An example, which `check` finds good.
fn example() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/socketio.toml").display().to_string()
}

#[test]
fn what_is_typed_may_be_piped_into_a_reader_that_has_seen_enough() {
    let config = example();
    for words in [&["schema"][..], &["probe"], &["probe", "--json"], &["check", "--config", &config], &["--help"]] {
        let ended = run(words, closed_pipe());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.is_empty(), "{words:?}: {}, {said}", ended.status);
        let ended = run(words, OpenOptions::new().write(true).open("/dev/full").unwrap());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!said.contains("panicked") && ended.status.code() != Some(101), "{words:?}: {said}");
        let told = said.contains("cannot write to standard output: No space left on device");
        assert!(words == ["--help"] || (told && !ended.status.success()), "{words:?}: {}, {said}", ended.status);
    }
}

#[test]
fn an_error_that_nobody_reads_is_a_failure_and_no_panic() {
    for to in ["/dev/full", "&-"] {
        let script = format!("exec \"$@\" 2>{to}");
        for words in [["check", "--config", "/nothing"], ["run", "--config", "/nothing"]] {
            let mut command = Command::new("sh");
            command.args(["-c", &script, "sh"]).arg(binary()).args(words);
            assert_eq!(command.status().unwrap().code(), Some(1), "{to} {words:?}");
        }
    }
}

#[test]
fn the_last_line_of_a_start_that_fails_is_there() {
    let setup = Setup::new(([127, 0, 0, 1], 9).into()).tls("client_auth = { ca = \"key.pem\" }");
    for _ in 0..5 {
        let said = format!("{:#}", Sluice::start(&setup).err().expect("it started"));
        let gate = said.find("sluice: listener 127.0.0.1").expect(&said);
        assert!(gate < said.find("sluice: the gate could not start").expect(&said), "{said}");
    }
}

/// The lines with these words, once there are as many.
fn lines(sluice: &Sluice, count: usize, words: &[&str]) -> Vec<String> {
    eventually(&format!("{count} lines have {words:?}"), || {
        let log = sluice.program.log();
        let found = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        Some(found.map(str::to_owned).collect::<Vec<_>>()).filter(|found| found.len() >= count)
    })
}

#[test]
fn a_refusal_says_who_asked_for_what_and_where() {
    let backend = RawBackend::start().unwrap();
    let routes = "[[route]]\nhost = \"a.test\"\npath = \"/chat\"\nbackend = \"app\"\norigins = [\"https://a.test\"]\n";
    let sluice = Sluice::start(&Setup::new(backend.address).routes(routes)).unwrap();
    let asked = format!("listener={} host=\"a.test\" path=\"/chat\" route=\"a.test/chat\"", sluice.ws);
    let ask = |origin: &str| {
        let more = format!("Origin: {origin}\r\nUser-Agent: {}\u{e9}\"\r\n", "x".repeat(250));
        http::upgrade("a.test", "/chat?token=c2VjcmV0", &more)
    };
    let agent = format!("user_agent=\"{}\"…(53 more bytes)", "x".repeat(200));

    http::exchange(sluice.ws, ask("https://evil.test").as_bytes()).unwrap();
    let ours = &lines(&sluice, 1, &[" refused ", "origin-denied"])[0];
    for part in [&asked, "origin=\"https://evil.test\"", &agent, "backend=\"app\"", "status=403", "why=\"pages of"] {
        assert!(ours.contains(part), "{part}: {ours}");
    }

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = backend.accept_request().unwrap();
            stream.write_all(b"HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        http::exchange(sluice.ws, ask("https://a.test").as_bytes()).unwrap();
    });
    let backends = &lines(&sluice, 1, &["the backend refused the handshake"])[0];
    let server = format!("server={}", backend.address);
    for part in [&asked, "origin=\"https://a.test\"", &agent, "backend=\"app\"", &server, "status=402"] {
        assert!(backends.contains(part), "{part}: {backends}");
    }

    http::exchange(sluice.ws, http::upgrade("b.test", "/\u{1}", "").as_bytes()).unwrap();
    http::exchange(sluice.ws, http::upgrade("b.test", "/else", "").as_bytes()).unwrap();
    let nowhere = &lines(&sluice, 1, &[" refused ", "no-route", "host=\"b.test\" path=\"/else\""])[0];
    assert!(!nowhere.contains("route=\"") && !nowhere.contains("backend="), "{nowhere}");
    assert!(!sluice.program.log().contains("c2VjcmV0"), "{}", sluice.program.log());
}

#[test]
fn a_tls_handshake_that_fails_says_why() {
    let sluice = Sluice::start(&Setup::new(([127, 0, 0, 1], 9).into())).unwrap();
    // A client that trusts others says so when it sees the certificate.
    let elsewhere = Identity::named(&["else.test"], "else").unwrap().client().unwrap();
    let _refused = Stream::connect(sluice.wss, Some(elsewhere)).and_then(|mut stream| stream.read(&mut [0]));
    let line = &lines(&sluice, 1, &["no TLS session", "it does not trust the certificate"])[0];
    assert!(line.contains(&format!("listener={}", sluice.wss)) && line.contains("reason=\"tls\""), "{line}");
    let mut garbage = dial(sluice.wss).unwrap();
    garbage.write_all(&[0x16, 3, 1, 0, 4, 9, 0, 0, 0]).unwrap();
    lines(&sluice, 1, &["no TLS session", "no TLS handshake"]);
    let mut half = dial(sluice.wss).unwrap();
    half.write_all(&[0x16, 3, 1, 1]).unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    lines(&sluice, 1, &["no TLS session", "closed in the middle"]);
}

#[test]
fn connections_that_browsers_hold_in_reserve_are_no_line() {
    let more = "[timeouts]\nhead = \"500ms\"\n";
    let sluice = Sluice::start(&Setup::new(([127, 0, 0, 1], 9).into()).more(more)).unwrap();
    let _spare = [dial(sluice.ws).unwrap(), dial(sluice.wss).unwrap()];
    let mut secured = Stream::connect(sluice.wss, Some(sluice.tls.clone())).unwrap();
    secured.flush().unwrap();
    let mut slow = dial(sluice.ws).unwrap();
    slow.write_all(b"GET / HT").unwrap();
    let unused = [("reason", "unused")];
    eventually("all three are counted", || {
        (sluice.metrics().unwrap().sum("sluice_handshakes_total", &unused) == 3).then_some(())
    });
    let told = lines(&sluice, 1, &["conn="]);
    assert!(told.len() == 1 && told[0].contains("head-timeout"), "{told:?}");
}

#[test]
fn a_flood_of_refusals_is_told_in_few_lines() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::via(echo.address, Via::Copy)).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| refusals(&sluice, 250));
        }
    });
    let left_out = &lines(&sluice, 1, &["some were left out", "of=\"refused\" reason=\"not-websocket\""])[0];
    let told = lines(&sluice, 50, &[" refused ", "not-websocket"]).len();
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!(told <= 50 + 10 * seconds, "{told} lines in {seconds} s");
    let missing: usize = left_out.split("lines=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    // Those that came behind the line that tells are told later.
    assert!(told + missing <= 2000 && missing > 0, "{told} and {missing}");
}
