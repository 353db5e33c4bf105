//! FIN, half-close, reset, and what is in flight meanwhile: each side sees what it would without a proxy.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::far::Far;
use super::rig::{Ends, Rig, connected, over_every_engine, read_pattern, write_pattern};
use crate::config::Config;
use crate::handoff::wire::{self, Received};
use crate::handoff::{EndReason, MAX_MESSAGE, TALLIES, Tally, ToGate};
use crate::keeper::closer::Closer;
use crate::keeper::relay::Ended;
use crate::keeper::tests::closes::{make_linger, send_inside};
use crate::sys::socket;

const MIB: u64 = 1024 * 1024;

fn sees_end(rig: &mut Rig, mut stream: Far) {
    let reader = std::thread::spawn(move || stream.read(&mut [0; 1]).unwrap());
    assert_eq!(rig.join("an end is seen", reader), 0);
}

fn sees_reset(rig: &mut Rig, mut stream: Far) {
    let reader = std::thread::spawn(move || {
        loop {
            match stream.read(&mut [0; 4096]) {
                Ok(0) => panic!("a FIN instead of an RST"),
                Ok(_) => {}
                Err(error) => return error.kind(),
            }
        }
    });
    assert_eq!(rig.join("a reset is seen", reader), ErrorKind::ConnectionReset);
}

fn count(rig: &Rig, reason: EndReason) -> u64 {
    rig.relay.ended.reasons[reason as usize]
}

#[test]
fn a_fin_from_either_side_reaches_the_other_and_both_end_the_pair() {
    over_every_engine(|rig| {
        for client_first in [true, false] {
            let Ends { client, backend } = rig.open();
            rig.settled();
            let (first, second) = if client_first { (client, backend) } else { (backend, client) };
            first.shutdown(Shutdown::Write).unwrap();
            sees_end(rig, second.try_clone().unwrap());
            assert_eq!(rig.live(), 1, "half of the pair is open");
            second.shutdown(Shutdown::Write).unwrap();
            sees_end(rig, first);
            rig.until("the pair has ended", |rig| rig.live() == 0);
        }
        assert_eq!(count(rig, EndReason::Finished), 2);
    });
}

#[test]
fn after_a_half_close_the_other_direction_goes_on() {
    over_every_engine(|rig| {
        for client_first in [true, false] {
            let Ends { client, backend } = rig.open();
            rig.settled();
            let (closed, open) = if client_first { (client, backend) } else { (backend, client) };
            closed.shutdown(Shutdown::Write).unwrap();
            sees_end(rig, open.try_clone().unwrap());
            let size = rig.amount(8 * MIB);
            let reader = read_pattern(closed, 30, size, true, true);
            let writer = write_pattern(open.try_clone().unwrap(), 30, size, true);
            rig.join("all is written", writer);
            open.shutdown(Shutdown::Write).unwrap();
            rig.join("all is read, and the end", reader);
            rig.until("the pair has ended", |rig| rig.live() == 0);
        }
    });
}

#[test]
fn nothing_in_flight_at_a_close_is_cut_off() {
    over_every_engine(|rig| {
        let Ends { client, backend } = rig.open();
        rig.settled();
        let writer = write_pattern(backend.try_clone().unwrap(), 31, 8 * MIB, false);
        std::thread::sleep(Duration::from_millis(1));
        // The reader begins when much is under way, and is slow.
        let closer = std::thread::spawn(move || {
            writer.join().unwrap();
            backend.shutdown(Shutdown::Write).unwrap();
            backend
        });
        let reader = read_pattern(client.try_clone().unwrap(), 31, 8 * MIB, true, true);
        rig.join("all is read, and the end", reader);
        let backend = rig.join("the backend has closed", closer);
        drop((client, backend));
        rig.until("the pair has ended", |rig| rig.live() == 0);
    });
}

#[test]
fn bytes_and_fin_that_are_there_before_the_relay_pass() {
    over_every_engine(|rig| {
        let Ends { client, backend } = rig.open_with(b"left over,", b"", |ends, _| {
            ends.client.write_all(b"sent").unwrap();
            ends.client.shutdown(Shutdown::Write).unwrap();
        });
        let mut read = backend.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            read.read_to_end(&mut all).unwrap();
            all
        });
        assert_eq!(rig.join("all is read, and the end", reader), b"left over,sent");
        backend.shutdown(Shutdown::Write).unwrap();
        sees_end(rig, client);
        rig.until("the pair has ended", |rig| rig.live() == 0);
    });
}

#[test]
fn a_reset_of_either_side_resets_the_other() {
    over_every_engine(|rig| {
        let Ends { client, backend } = rig.open();
        rig.settled();
        client.reset();
        sees_reset(rig, backend);
        rig.until("the pair has ended", |rig| rig.live() == 0);
        assert_eq!(count(rig, EndReason::ClientFailed), 1);

        let Ends { client, backend } = rig.open();
        rig.settled();
        backend.reset();
        sees_reset(rig, client);
        rig.until("the pair has ended", |rig| rig.live() == 0);
        assert_eq!(count(rig, EndReason::BackendFailed), 1);
    });
}

/// A place that is free again must not be taken while its old connection is still open because of a close that waits.
#[test]
fn a_reset_is_passed_on_whatever_waits_to_be_closed() {
    over_every_engine(|rig| {
        if rig.sides().is_some() {
            // A socket with TLS keys in the kernel cannot be disconnected: its close sends the RST.
            return;
        }
        let Ends { client, backend } = rig.open();
        rig.settled();
        let peers: Vec<TcpStream> = (0..50).map(|_| hang(&rig.relay.closer)).collect();
        client.reset();
        rig.until("the pair has ended", |rig| rig.live() == 0);
        rig.until("the other side is reset", |rig| {
            let reset = socket::is_closed(backend.tcp()).unwrap();
            // Both sockets of the pair wait behind those that hang.
            assert!(rig.relay.closer.waiting() > 2, "nothing but a close resets it");
            reset
        });
        drop(peers);
        rig.until("all is closed", |rig| rig.relay.closer.is_idle());
    });
}

/// Has the closer wait until somebody interrupts it: a socket that lingers, which it does not see, inside of another one.
/// Returns the peer, which does not read.
fn hang(closer: &Closer) -> TcpStream {
    let ((lingers, peer), (outer, other)) = (connected(), UnixStream::pair().unwrap());
    make_linger(&lingers);
    send_inside(&other, lingers.into());
    closer.close(outer.into());
    peer
}

#[test]
fn what_was_sent_before_a_reset_arrives_before_it() {
    over_every_engine(|rig| {
        let Ends { client, mut backend } = rig.open();
        rig.settled();
        let mut sender = client.try_clone().unwrap();
        sender.write_all(&vec![b'x'; 100_000]).unwrap();
        drop(sender);
        rig.until("it has been received", |rig| {
            rig.counters(0, proxy_common::layout::Direction::ClientToBackend).bytes == 100_000
        });
        client.reset();
        let reader = std::thread::spawn(move || {
            let (mut got, mut buffer) = (0, [0; 4096]);
            loop {
                match backend.read(&mut buffer) {
                    Ok(0) => panic!("a FIN instead of an RST after {got} bytes"),
                    Ok(n) => got += n,
                    Err(error) => return (got, error.kind()),
                }
            }
        });
        assert_eq!(rig.join("the reset is seen", reader), (100_000, ErrorKind::ConnectionReset));
        rig.until("the pair has ended", |rig| rig.live() == 0);
    });
}

#[test]
fn slots_are_used_again_and_begin_at_zero() {
    over_every_engine(|rig| {
        for round in 0..40_u64 {
            let Ends { mut client, mut backend } = rig.open();
            rig.settled();
            client.write_all(&[0x82, 1, 0]).unwrap();
            let reader = std::thread::spawn(move || {
                backend.read_exact(&mut [0; 3]).unwrap();
                backend
            });
            let backend = rig.join("the frame has arrived", reader);
            let (slot, _) = rig.relay.table.iter().next().unwrap();
            let counted = rig.counters(slot, proxy_common::layout::Direction::ClientToBackend);
            assert_eq!((counted.bytes, counted.frames[2]), (3, 1), "in round {round}");
            if round % 2 == 0 {
                client.reset();
            } else {
                drop(client);
            }
            drop(backend);
            rig.until("the pair has ended", |rig| rig.live() == 0);
        }
        let total = rig.relay.ended.counters.iter().map(|pair| pair.dirs[0].frames[2]).sum::<u64>();
        assert_eq!(total, 40, "the ended pairs' counts are kept");
    });
}

/// A configuration with these lines in `[relay]`, and these for the only route's own limits.
fn aging(relay: &str, route: &str) -> Config {
    let route = crate::config::Route { relay: toml::from_str(route).unwrap(), ..Default::default() };
    Config { relay: toml::from_str(relay).unwrap(), routes: vec![route], ..Config::default() }
}

#[test]
fn the_idle_and_the_lifetime_limit_end_a_pair_with_fins() {
    let (idle, lifetime) = ("idle_timeout = \"100ms\"", "max_lifetime = \"100ms\"");
    for (relay, route, reason) in [
        (idle, "", EndReason::Idle),
        (lifetime, "", EndReason::Lifetime),
        ("", idle, EndReason::Idle),
        ("", lifetime, EndReason::Lifetime),
        ("idle_timeout = \"1h\"", idle, EndReason::Idle),
        (idle, "idle_timeout = \"off\"\nmax_lifetime = \"500ms\"", EndReason::Lifetime),
    ] {
        let mut rig = Rig::new(&aging(relay, route), None, None);
        let Ends { client, backend } = rig.open();
        sees_end(&mut rig, client.try_clone().unwrap());
        sees_end(&mut rig, backend.try_clone().unwrap());
        drop((client, backend));
        rig.until("the pair has ended", |rig| rig.live() == 0);
        assert_eq!(count(&rig, reason), 1, "{relay}, on the route {route}");
        let [told] = rig.relay.ended.unreported[..] else { panic!("{:?}", rig.relay.ended.unreported) };
        assert_eq!((told.route, told.client), (0, Some(Ipv4Addr::LOCALHOST.into())));
    }
}

#[test]
fn a_pair_ends_with_its_token_whatever_moves() {
    over_every_engine(|rig| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        rig.expires_ms = std::num::NonZeroU64::new(now + 300);
        let Ends { client, backend } = rig.open();
        rig.expires_ms = std::num::NonZeroU64::new(now + 3_600_000);
        let _stays = rig.open();
        sees_end(rig, client.try_clone().unwrap());
        sees_end(rig, backend.try_clone().unwrap());
        drop((client, backend));
        rig.until("the pair has ended", |rig| rig.live() == 1);
        assert_eq!(count(rig, EndReason::TokenExpired), 1);
    });
}

#[test]
fn a_reset_behind_bytes_that_the_other_side_is_slow_to_take_cuts_off_none() {
    over_every_engine(|rig| {
        let Ends { client, mut backend } = rig.open();
        rig.settled();
        // More than the sockets take while nobody reads: some of it waits with the relay.
        let full = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let taken =
            rig.join("the writer is stopped", super::rig::flood(client.try_clone().unwrap(), 32, 64 * MIB, &full));
        client.reset();
        rig.until("the reset has been noticed", |rig| rig.relay.table.iter().all(|(_, pair)| pair.closing.is_some()));
        let reader = std::thread::spawn(move || {
            let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
            loop {
                match backend.read(&mut buffer) {
                    Ok(0) => panic!("a FIN instead of an RST after {got} bytes"),
                    Ok(n) => {
                        assert!((0..n).all(|i| buffer[i] == super::rig::pattern(32, got + i as u64)), "at {got}");
                        got += n as u64;
                    }
                    Err(error) => return (got, error.kind()),
                }
            }
        });
        let (got, kind) = rig.join("the reset is seen", reader);
        assert_eq!(kind, ErrorKind::ConnectionReset);
        assert!(got <= taken);
        rig.until("the pair has ended", |rig| rig.live() == 0);
    });
}

#[test]
fn a_fin_right_behind_a_burst_overtakes_nothing() {
    // The kernel worker and userspace race here: often enough that a FIN sent too early would show.
    over_every_engine(|rig| {
        for round in 0..super::rig::rounds(300) {
            let Ends { mut client, mut backend } = rig.open();
            rig.settled();
            let size = 1_000 + 600 * (round % 100);
            client.write_all(&super::rig::patterned(33, 0, size)).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                backend.read_to_end(&mut all).unwrap();
                all.len() as u64
            });
            assert_eq!(rig.join("the burst and its end are read", reader), size, "in round {round}");
            drop(client);
            rig.until("the pair has ended", |rig| rig.live() == 0);
        }
    });
}

#[test]
fn a_peer_that_is_alive_and_does_not_read_is_not_taken_for_dead() {
    let mut config = Config::default();
    config.relay.user_timeout = Duration::from_millis(600);
    super::rig::with_every_engine(&config, |rig| {
        let ends = rig.open();
        rig.settled();
        let full = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let writer = super::rig::flood(ends.client.try_clone().unwrap(), 34, 256 * MIB, &full);
        let taken = rig.join("the writer is stopped", writer);
        // The kernel would give up after 600 ms; its probes go out with growing pauses, so this is several of them.
        let over = std::time::Instant::now() + Duration::from_secs(4);
        rig.until("the timeout is long over", |_| std::time::Instant::now() >= over);
        let reader = read_pattern(ends.backend.try_clone().unwrap(), 34, taken, false, false);
        rig.join("everything is read", reader);
    });
}

/// What a gate that reads everything there is has been told.
fn told(gate: &impl AsFd) -> Vec<Tally> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut all = Vec::new();
    while let Ok(Received::Packet(packet)) = wire::receive::<ToGate>(gate, &mut buffer) {
        let ToGate::Closed { pairs } = packet.message else { panic!("{packet:?}") };
        all.extend(pairs);
    }
    all
}

#[test]
fn a_gate_is_told_of_every_end_once_however_slowly_it_reads() {
    let (control, gate) = wire::pair().unwrap();
    let ends = 20 * TALLIES as u32 + 7;
    let mut ended = Ended { most: ends as usize, ..Ended::default() };
    let tally = |client: u32| Tally { route: 1, backend: 2, server: 3, client: Some(Ipv4Addr::from(client).into()) };
    // One more than there can be is a fault of the gate's, which costs no memory.
    (0..=ends).map(tally).for_each(|tally| ended.left(tally));
    ended.report(&control);
    assert!(!ended.unreported.is_empty(), "the socket took everything: the test shows nothing");
    let mut all = Vec::new();
    while all.len() < ends as usize {
        let more = told(&gate);
        assert!(!more.is_empty(), "{} of {ends} were told", all.len());
        all.extend(more);
        ended.report(&control);
    }
    all.sort_unstable_by_key(|tally| tally.client);
    assert!(all.into_iter().eq((0..ends).map(tally)));
    assert!(ended.unreported.is_empty() && ended.unreported.capacity() == 0);
}
