//! When there is no room: whoever is there stays, whoever comes is told, and so is the operator, in one line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::net::TcpStream;
use std::process::Command;

use sluice_tests::backend::Echo;
use sluice_tests::client::Client;
use sluice_tests::http::{self, Head};
use sluice_tests::process::{open_files, status_field};
use sluice_tests::sluice::{Setup, Sluice, dial};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

/// The gate's limit on open files is told in the log, once, however often it is reached: a line in ten seconds.
fn told(sluice: &Sluice, words: &str) {
    let log = eventually("the log says so", || Some(sluice.program.log()).filter(|log| log.contains(words)));
    let lines: Vec<_> = log.lines().filter(|line| line.contains(words)).collect();
    // A slow machine may be at it for longer than the ten seconds after which it is said again.
    assert!(lines.len() <= 6 && lines[0].contains(" WARN "), "{lines:?}");
}

fn shortages(sluice: &Sluice, of: &str) -> u64 {
    sluice.metrics().unwrap().sum("sluice_shortages_total", &[("of", of)])
}

/// Asks for a WebSocket, and reads what is answered: 101, or 503 as it must be when there is no room.
fn asked(sluice: &Sluice, via: Via) -> Option<sluice_tests::stream::Stream> {
    let mut client = sluice.ask(via, b"").unwrap();
    let head = Head::read(&mut client).unwrap_or_else(|error| panic!("{via:?}: {error}"));
    if head.status() == 101 {
        return Some(client);
    }
    refused(&head);
    None
}

fn refused(head: &Head) {
    assert_eq!(head.status(), 503, "{head:?}");
    assert!(head.field("retry-after").is_some_and(|after| after.parse::<u64>().is_ok()), "{head:?}");
    assert!(head.field("proxy-websocket-status").unwrap().contains("reason=full"), "{head:?}");
}

fn pair(sluice: &Sluice) -> Client {
    let mut client = Client::open(sluice.connect(Via::Copy).unwrap(), sluice.ws).unwrap();
    client.converse().unwrap();
    client
}

#[test]
fn who_comes_when_all_places_are_taken_is_told_so_over_every_protocol() {
    let echo = Echo::start().unwrap();
    let setup = Setup::via(echo.address, Via::Copy).listeners("http2 = true");
    let sluice = Sluice::start(&setup.more("[limits]\nconnections = 2\n")).unwrap();
    let mut pairs = [pair(&sluice), pair(&sluice)];
    for via in [Via::Copy, Via::Tls, Via::Http2, Via::Http2Tls] {
        let mut client = sluice.ask(via, b"").unwrap();
        refused(&Head::read(&mut client).unwrap_or_else(|error| panic!("{via:?}: {error}")));
    }
    assert!(shortages(&sluice, "connections") >= 4);
    told(&sluice, "there is no room for another connection: clients are answered with 503");
    let log = sluice.program.log();
    let line = log.lines().find(|line| line.contains(" refused ") && line.contains("\"full\"")).expect(&log);
    assert!(line.contains("path=\"/\"") && line.contains("status=503"), "{line}");
    pairs.iter_mut().for_each(|pair| pair.converse().unwrap());
    // One that goes makes room for one.
    let [first, mut second] = pairs;
    drop(first);
    let mut next = eventually("there is room", || asked(&sluice, Via::Copy));
    second.converse().unwrap();
    next.finish().unwrap();
}

#[test]
fn running_out_of_open_files_ends_nobody_and_is_told() {
    if let Err(reason) = needs::program("prlimit") {
        return needs::skip(&reason);
    }
    let echo = Echo::start().unwrap();
    let setup = Setup::via(echo.address, Via::Copy).under(&["prlimit", "--nofile=256:256"]);
    let sluice = Sluice::start(&setup).unwrap();
    let mut established = pair(&sluice);
    // More than there are files for.
    let mut inside = Vec::new();
    let mut refused = 0;
    for _ in 0..120 {
        match asked(&sluice, Via::Copy) {
            Some(client) => inside.push(client),
            None => refused += 1,
        }
        for process in [sluice.keeper(), sluice.gate()] {
            assert!(open_files(process.expect("both processes live")) <= 256);
        }
    }
    assert!(!inside.is_empty() && refused > 50, "{} and {refused}", inside.len());
    assert!(shortages(&sluice, "connections") >= refused);
    told(&sluice, "there is no room for another connection");
    established.converse().unwrap();
    inside.into_iter().for_each(|client| client.reset().unwrap());
    eventually("there is room", || asked(&sluice, Via::Copy)).finish().unwrap();
    established.converse().unwrap();
}

/// The descriptors of a process.
fn files(process: u32) -> HashSet<u32> {
    let names = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    names.filter_map(|name| name.unwrap().file_name().to_str()?.parse().ok()).collect()
}

/// Sets the soft limit on open files of a process that runs, as its own user: others may not.
fn limit(process: u32, files: u32) {
    let id = |of: &str| {
        let ids = status_field(&process.to_string(), of).expect("it runs");
        ids.split_whitespace().next().unwrap().to_owned()
    };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", id("Uid"))).arg(format!("--regid={}", id("Gid"))).args(["--clear-groups", "--"]);
    command.args(["prlimit", &format!("--pid={process}"), &format!("--nofile={files}:")]);
    assert!(command.status().unwrap().success());
}

#[test]
fn a_gate_without_a_file_left_tells_clients_so_and_recovers() {
    if let Err(reason) = needs::root().and(needs::program("prlimit")).and(needs::program("setpriv")) {
        return needs::skip(&reason);
    }
    let echo = Echo::start().unwrap();
    let setup = Setup::via(echo.address, Via::Copy).more("[timeouts]\nhead = \"10m\"\nhandshake = \"10m\"\n");
    let sluice = Sluice::start(&setup).unwrap();
    let gate = sluice.gate().unwrap();
    let idle = files(gate).len();
    let mut established = pair(&sluice);
    eventually("the gate has closed what it handed over", || (files(gate).len() <= idle).then_some(()));
    // Silent connections take the free numbers, so that none is left below the limit.
    let mut silent: Vec<TcpStream> = Vec::new();
    let next = eventually("every number is taken", || {
        let (before, waiting) = (files(gate), silent.len());
        silent.push(dial(sluice.ws).unwrap());
        eventually("it is accepted", || (files(gate).len() > before.len()).then_some(()));
        let now = files(gate);
        let next = (0..).find(|number| !now.contains(number))?;
        (waiting > 0 && now.iter().all(|number| *number < next)).then_some(next)
    });
    let taken = files(gate).len();
    for (more, what, words) in [
        (0, "accept-files", "cannot accept for want of open files"),
        (1, "dial-files-or-ports", "no open files or ports are left for connections to backends"),
    ] {
        limit(gate, next + more);
        for via in [Via::Copy, Via::Tls, Via::Copy] {
            let mut client = sluice.ask(via, b"").unwrap();
            refused(&Head::read(&mut client).unwrap_or_else(|error| panic!("{what}, {via:?}: {error}")));
            drop(client);
            eventually("its files are closed", || (files(gate).len() <= taken).then_some(()));
        }
        limit(gate, 1000);
        assert!(shortages(&sluice, what) >= 3, "{what}: {}", sluice.metrics().unwrap().0);
        told(&sluice, words);
    }
    established.converse().unwrap();
    pair(&sluice);
    let answer = http::get(sluice.ws, "/").unwrap();
    assert_eq!(answer.head.status(), 426, "{answer:?}");
}
