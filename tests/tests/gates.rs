//! Gates that hang, and gates whose keeper is out of descriptors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Read as _;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use sluice_tests::backend::RawBackend;
use sluice_tests::pattern::soak;
use sluice_tests::process::{open_files, signal_pid};
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

/// As SIGSTOP leaves a gate, so does a deadlock: it lives, takes connections in its backlog, and does nothing.
#[test]
fn a_gate_that_hangs_is_replaced_and_pairs_go_on() {
    let backend = RawBackend::start().unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, Via::Copy)).unwrap();
    let (mut client, mut server) = sluice.tunnel(Via::Copy, &backend).unwrap();
    let _handed_over = sluice.connection(client.tcp().local_addr().unwrap());
    let hung = sluice.gate().unwrap();
    signal_pid(hung, Signal::STOP).unwrap();
    soak(&mut client, &mut server, 100_000, 1);
    eventually("there is another gate", || sluice.gate().filter(|&gate| gate != hung));
    soak(&mut client, &mut server, 100_000, 2);
    let (mut another, mut its_server) = sluice.tunnel(Via::Copy, &backend).unwrap();
    soak(&mut another, &mut its_server, 100_000, 3);
    assert!(sluice.program.log().contains("the gate does not answer"));
}

/// Some of them are sent by habit, as by a log rotation, and would end a process that says nothing of them.
#[test]
fn signals_that_nobody_means_end_nothing() {
    let backend = RawBackend::start().unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, Via::Copy)).unwrap();
    let (mut client, mut server) = sluice.tunnel(Via::Copy, &backend).unwrap();
    let [keeper, gate] = [sluice.keeper().unwrap(), sluice.gate().unwrap()];
    let signals = [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::VTALARM, Signal::PROF, Signal::IO, Signal::POWER];
    for signal in signals.into_iter().chain([Signal::STKFLT, Signal::PIPE]) {
        for process in [keeper, gate] {
            signal_pid(process, signal).unwrap();
        }
        soak(&mut client, &mut server, 1_000, 1);
    }
    let (mut another, mut its_server) = sluice.tunnel(Via::Copy, &backend).unwrap();
    soak(&mut another, &mut its_server, 1_000, 2);
    assert_eq!((sluice.keeper(), sluice.gate()), (Some(keeper), Some(gate)));
}

/// What was handed over while the keeper had no descriptor for it does not count any more.
#[test]
fn places_come_back_that_had_no_descriptor() {
    if let Err(why) = needs::root() {
        return needs::skip(&why);
    }
    const PLACES: usize = 12;
    let backend = RawBackend::start().unwrap();
    let setup = Setup::via(backend.address, Via::Copy).more(&format!("[limits]\nconnections = {PLACES}\n"));
    let sluice = Sluice::start(&setup).unwrap();
    let keeper = sluice.keeper().unwrap();
    let pid = Pid::from_raw(keeper.cast_signed()).unwrap();
    let limit = |files: usize| {
        let limit = Rlimit { current: Some(files as u64), maximum: Some(20_000) };
        prlimit(Some(pid), Resource::Nofile, limit).unwrap()
    };
    let before = limit(open_files(keeper));
    for _ in 0..2 * PLACES {
        // Whoever comes gets its 101 and then the end.
        let (mut client, _server) = sluice.tunnel(Via::Copy, &backend).unwrap();
        assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
    }
    limit(before.current.unwrap_or(20_000) as usize);
    let tunnels: Vec<_> = (0..PLACES).map(|_| sluice.tunnel(Via::Copy, &backend).unwrap()).collect();
    eventually("all are the keeper's", || (sluice.connections().unwrap().len() == PLACES).then_some(()));
    drop(tunnels);
    assert!(sluice.program.log().contains("no file descriptors are left"), "{}", sluice.program.log());
}
