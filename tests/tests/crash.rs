//! A gate that dies takes nothing with it that it had handed over.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use sluice_tests::backend::{Echo, RawBackend};
use sluice_tests::client::Client;
use sluice_tests::pattern::soak;
use sluice_tests::process::status_field;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

#[test]
fn a_killed_gate_leaves_sockmap_pairs_alone() {
    Via::Sockmap.run(survives);
}

#[test]
fn a_killed_gate_leaves_copied_pairs_alone() {
    Via::Copy.run(survives);
}

#[test]
fn a_killed_gate_leaves_pairs_alone_whose_keys_the_kernel_has() {
    for via in [Via::Ktls, Via::KtlsBackend, Via::KtlsBoth] {
        via.run(survives);
    }
}

fn survives(via: Via) {
    let backend = RawBackend::via(via).unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, via)).unwrap();
    let (mut client, mut server) = sluice.tunnel(via, &backend).unwrap();
    // The client has its 101 a moment before the keeper has the pair; what is listed is the keeper's.
    let _handed_over = sluice.connection(client.tcp().local_addr().unwrap());
    let enough = Arc::new(AtomicBool::new(false));
    let traffic = std::thread::spawn({
        let enough = Arc::clone(&enough);
        move || {
            let mut round = 0;
            while !enough.load(Ordering::Relaxed) {
                soak(&mut client, &mut server, 4 * 1024 * 1024, round);
                round += 1;
            }
            (client, server, round)
        }
    });
    for _ in 0..2 {
        sluice.kill_gate();
        // The new gate takes connections, the old one's pair goes on.
        let (mut another, mut its_server) = sluice.tunnel(via, &backend).unwrap();
        soak(&mut another, &mut its_server, 100_000, 1);
        let _handed_over = sluice.connection(another.tcp().local_addr().unwrap());
    }
    assert!(!traffic.is_finished(), "the pair broke when the gate was killed");
    enough.store(true, Ordering::Relaxed);
    let (client, _server, rounds) = traffic.join().unwrap();
    let row = sluice.connection(client.tcp().local_addr().unwrap());
    let bytes = rounds * 4 * 1024 * 1024;
    assert_eq!(
        (&row["client_to_backend"]["bytes"], &row["backend_to_client"]["bytes"]),
        (&bytes.into(), &bytes.into())
    );
    assert_eq!(sluice.metrics().unwrap().sum("sluice_gate_starts_total", &[]), 3);
}

/// TLS sessions live in the gate. Both of their peers must learn that they are over.
#[test]
fn a_killed_gate_ends_its_tls_pairs_on_both_sides() {
    for via in [Via::Tls, Via::TlsBackend, Via::TlsBoth] {
        via.run(ends);
    }
}

fn ends(via: Via) {
    let backend = RawBackend::via(via).unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, via)).unwrap();
    let (mut client, mut server) = sluice.tunnel(via, &backend).unwrap();
    sluice.kill_gate();
    assert!(matches!(server.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
    eventually("the pair is no longer listed", || sluice.connections().unwrap().is_empty().then_some(()));
    let (mut another, mut its_server) = sluice.tunnel(via, &backend).unwrap();
    soak(&mut another, &mut its_server, 100_000, 1);
}

#[test]
fn a_gate_that_keeps_dying_is_started_again_and_again() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    for _ in 0..3 {
        sluice.kill_gate();
    }
    let mut client = Client::open(sluice.connect(Via::Copy).unwrap(), sluice.ws).unwrap();
    client.converse().unwrap();
}

#[test]
fn the_processes_have_names_and_the_gate_has_no_privilege() {
    if let Err(reason) = needs::root() {
        return needs::skip(&reason);
    }
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    assert_eq!(sluice.keeper(), Some(sluice.program.pid()));
    let gate = sluice.gate().unwrap().to_string();
    let field = |name| status_field(&gate, name).unwrap();
    for ids in [field("Uid"), field("Gid")] {
        assert!(ids.split_whitespace().all(|id| id != "0"), "the gate runs with ids {ids}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Groups"), "", "the gate kept supplementary groups");
    // Confined by filters of system calls; the keeper too.
    let filters = |process: String| -> u32 { status_field(&process, "Seccomp_filters").unwrap().parse().unwrap() };
    let [outside, keeper, inside] =
        [std::process::id(), sluice.program.pid(), sluice.gate().unwrap()].map(|pid| filters(pid.to_string()));
    assert_eq!((keeper - outside, inside - keeper), (1, 2));
    let environment = std::fs::read(format!("/proc/{gate}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("PATH=") && !environment.contains("CARGO"), "{environment:?}");
}

#[test]
fn the_gate_ends_with_the_keeper() {
    let echo = Echo::start().unwrap();
    let mut sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    let gate = sluice.gate().unwrap().to_string();
    sluice.program.signal(Signal::KILL).unwrap();
    sluice.program.wait();
    eventually("the gate is gone", || {
        status_field(&gate, "State").is_none_or(|state| state.starts_with('Z')).then_some(())
    });
}

#[test]
fn a_polite_end_is_a_clean_one() {
    let echo = Echo::start().unwrap();
    let mut sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    sluice.program.signal(Signal::TERM).unwrap();
    assert!(sluice.program.wait().success(), "{}", sluice.program.log());
    assert!(sluice.connect(Via::Copy).is_err(), "somebody still listens");
}
