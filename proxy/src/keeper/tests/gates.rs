//! Gates that say what none of ours does, or nothing.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proxy_common::layout::PairCounters;
use rustix::net::SendFlags;

use super::bench::{Bench, Made, new_pair};
use crate::config::Address;
use crate::handoff::wire::{self, Received};
use crate::handoff::{EndReason, Found, MAX_MESSAGE, ToGate, ToKeeper, WhyNot};

#[test]
fn a_gate_that_sends_what_is_no_message_is_ended_and_its_pairs_go_on() {
    let mut bench = Bench::new();
    let (before, behind) = (Made::new(), Made::new());
    bench.hand_over(&before.fds()).unwrap();
    rustix::net::send(bench.gate(), &[0xff; 99], SendFlags::empty()).unwrap();
    // What follows is not looked at.
    bench.hand_over(&behind.fds()).unwrap();
    bench.gate_is_ended();
    assert_eq!(bench.live(), 1);
    bench.next_gate();
    bench.hand_over(&behind.fds()).unwrap();
    bench.settle();
    assert_eq!(bench.live(), 2);
}

#[test]
fn a_gate_that_names_what_does_not_exist_is_ended() {
    let found = |host: &str, entry, server| {
        let address = "127.0.0.1:1".parse().unwrap();
        let host = host.to_owned();
        let (backend, weight, backup, most, listed) = (0, 1, false, 0, true);
        ToKeeper::Found(Found { backend, server, entry, address, host, weight, backup, most, listed })
    };
    let mut facts = new_pair().facts;
    facts.route = 9;
    let wrong = [
        ToKeeper::Ready,
        ToKeeper::Pong { number: 1 },
        found("a", 1, 1),
        found("a", 0, 0),
        found("a", 0, 1001),
        found(&"a".repeat(256), 0, 1),
        ToKeeper::Checked { backend: 0, server: 1, up: false },
        ToKeeper::CarriedOpen { slot: 0, facts, why_not: WhyNot::Configured },
        ToKeeper::CarriedOpen { slot: u32::MAX, facts: new_pair().facts, why_not: WhyNot::Configured },
    ];
    for message in wrong {
        let mut bench = Bench::new();
        bench.send(&message, &[]).unwrap();
        bench.gate_is_ended();
        assert!(bench.keeper.found.is_empty() && bench.keeper.down.is_empty(), "{message:?}");
    }
}

#[test]
fn a_gate_that_asks_for_many_snapshots_gets_the_last_when_it_reads() {
    let mut bench = Bench::new();
    bench.until("the gate has read", |bench| {
        bench.told();
        bench.keeper.gate.ever_ready
    });
    let snapshots = |bench: &Bench| {
        let (mut got, mut buffer) = (Vec::new(), vec![0; MAX_MESSAGE]);
        while let Ok(Received::Packet(packet)) = wire::receive::<ToGate>(bench.gate(), &mut buffer) {
            got.extend(matches!(packet.message, ToGate::Snapshot { .. }).then_some(packet.message));
        }
        got
    };
    for request in 0..500 {
        bench.until("there is room", |bench| bench.send(&ToKeeper::Snapshot { request }, &[]).is_ok());
    }
    bench.settle();
    assert_eq!(snapshots(&bench).len(), 1, "one is on its way at a time");
    bench.until("the last is answered", |bench| {
        snapshots(bench).iter().any(|got| matches!(got, ToGate::Snapshot { request: 499 }))
    });
}

#[test]
fn a_listener_that_a_gate_shuts_down_listens_again() {
    let folder = std::env::temp_dir().join(format!("sluice-keeper-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let unix = folder.join("listener.sock");
    for bind in ["127.0.0.1:0".to_owned(), format!("unix:{}", unix.display())] {
        let mut bench = Bench::listening_at(&bind);
        let address = bench.keeper.listeners.clients[0].address.clone();
        let connects = || match &address {
            Address::Inet(address) => TcpStream::connect(address).is_ok(),
            Address::Unix(path) => UnixStream::connect(path).is_ok(),
        };
        for _ in 0..2 {
            assert!(connects(), "{bind}");
            let copy: OwnedFd = bench.keeper.listeners.clients[0].socket.try_clone().unwrap();
            rustix::net::shutdown(&copy, rustix::net::Shutdown::Both).unwrap();
            assert!(!connects(), "{bind}");
            bench.gate_is_ended();
            assert!(connects(), "{bind}");
            bench.next_gate();
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Clients are no event of the keeper's.
#[test]
fn clients_do_not_wake_the_keeper() {
    let mut bench = Bench::new();
    bench.settle();
    let address = bench.keeper.listeners.clients[0].address.inet().unwrap();
    let _client = TcpStream::connect(address).unwrap();
    let events = bench.keeper.turn(Some(std::time::Duration::from_millis(50))).unwrap();
    assert!(events.is_empty(), "{events:?}");
}

/// Names the process that the test of memory runs in.
const ALONE: &str = "SLUICE_TEST_ALONE";

/// The keeper's memory stays what it is, whatever a gate sends. In a process of its own: memory is counted by process.
#[test]
fn memory_stays_flat_under_a_hostile_gate() {
    if std::env::var_os(ALONE).is_none() {
        let name = "keeper::tests::gates::memory_stays_flat_under_a_hostile_gate";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let mut bench = Bench::new();
    let mut round = 0_u32;
    let mut flood = |bench: &mut Bench, rounds: u32| {
        for _ in 0..rounds {
            round = round.wrapping_add(1);
            if bench.keeper.gate.control().is_none() {
                bench.next_gate();
            }
            let mut counters = Box::new(PairCounters::ZERO);
            counters.dirs[0].close_code = round;
            let facts = new_pair().facts;
            let slot = round % 10_000;
            let (address, host) = ("127.0.0.1:1".parse().unwrap(), "a".repeat(100_000));
            let (backend, server, entry) = (0, 1 + (round % 999) as u16, 0);
            let (weight, backup, most, listed) = (1, false, 0, true);
            let messages = [
                ToKeeper::CarriedOpen { slot, facts, why_not: WhyNot::Configured },
                ToKeeper::CarriedClosed { slot, counters, reason: EndReason::Finished },
                ToKeeper::Snapshot { request: round.into() },
                ToKeeper::Found(Found { backend, server, entry, address, host, weight, backup, most, listed }),
            ];
            // The last ends the gate.
            for message in messages.into_iter().take(if round.is_multiple_of(20) { 4 } else { 3 }) {
                // It never reads.
                let _full = bench.send(&message, &[]);
            }
            bench.step();
        }
    };
    flood(&mut bench, 500);
    let before = private_memory();
    flood(&mut bench, 5000);
    let grown = private_memory().saturating_sub(before);
    eprintln!("{before} KiB, and {grown} KiB more");
    assert!(grown < 4096, "{before} KiB have become {grown} KiB more");
}

/// Of this process, in KiB.
fn private_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
