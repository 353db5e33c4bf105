//! TLS in the kernel: every suite, every kind of record, and keys that change or must not be used any more.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::time::Duration;

use proxy_common::layout::Direction::{self, BackendToClient, ClientToBackend};

use super::craft::Craft;
use super::far::Far;
use super::rig::{
    Ends, Rig, SUITE, ability, over_ktls, over_ktls_beside_the_kernel, patterned, read_pattern, write_pattern,
};
use crate::config::Config;
use crate::handoff::{EndReason, Engine};
use crate::keeper::pair::Pair;
use crate::ktls::{Cipher, Role, Suite, Version, made_up};
use crate::sys::{ktls, socket};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

fn reason(rig: &Rig, reason: EndReason) -> u64 {
    rig.relay.ended.reasons[reason as usize]
}

/// What a thread reads until the stream ends, or fails.
fn rest(mut from: Far) -> std::thread::JoinHandle<(Vec<u8>, std::io::Result<()>)> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let result = from.read_to_end(&mut all).map(drop);
        (all, result)
    })
}

/// A pair whose client has its TLS keys in userspace, so that it can send what it likes. The backend is plain.
fn with_crafted_client(rig: &mut Rig) -> (Craft, std::net::TcpStream, Far) {
    let Ends { client, backend } = rig.open_with_raw_client();
    rig.settled();
    (Craft::new(Role::Client), client.into_tcp(), backend)
}

fn over_crafted_clients(config: &Config, test: impl Fn(&mut Rig)) {
    over_ktls(config, Some(SUITE), |rig| {
        if rig.sides() == Some([true, false]) {
            test(rig);
        }
    });
}

/// The next record that the client gets: its type and content.
fn next_record(client: &std::net::TcpStream) -> (u8, Vec<u8>) {
    // It receives with the server's keys; the kernel opens the records.
    let mut space = [0; 512];
    socket::wait_readable(client, Duration::from_secs(30)).unwrap();
    let (got, kind) = ktls::receive(client.as_fd(), &mut space).unwrap();
    (kind.unwrap_or(0), space[..got].to_vec())
}

#[test]
fn every_suite_carries_both_ways_to_the_end() {
    over_ktls(&Config::default(), None, |rig| {
        let Ends { client, backend } = rig.open();
        rig.settled();
        let threads = [
            write_pattern(client.try_clone().unwrap(), 1, 600_000, false),
            read_pattern(backend.try_clone().unwrap(), 1, 600_000, false, false),
            write_pattern(backend.try_clone().unwrap(), 2, 600_000, false),
            read_pattern(client.try_clone().unwrap(), 2, 600_000, false, false),
        ];
        for thread in threads {
            rig.join("a stream has passed", thread);
        }
        client.shutdown(Shutdown::Write).unwrap();
        let (more, end) = rig.join("the end is seen", rest(backend.try_clone().unwrap()));
        assert!(more.is_empty() && end.is_ok(), "{more:?} {end:?}");
        backend.shutdown(Shutdown::Write).unwrap();
        let (more, end) = rig.join("the other end is seen", rest(client));
        assert!(more.is_empty() && end.is_ok(), "{more:?} {end:?}");
        rig.until("the pair has ended", |rig| rig.live() == 0);
        assert_eq!(reason(rig, EndReason::Finished), 1);
    });
}

/// On kernels that accept both on one socket (up to 6.12.110), record headers would pass for payload, or the kernel
/// would panic.
#[test]
fn a_socket_with_keys_never_enters_a_sockmap() {
    over_ktls_beside_the_kernel(|rig| {
        let Ends { mut client, backend } = rig.open();
        rig.settled();
        for round in 1..4 {
            client.write_all(b"\x82\x81\0\0\0\0x").unwrap();
            let reader = read_exactly(backend.try_clone().unwrap(), 7);
            drop(rig.join("a frame has passed", reader));
            rig.until("both directions are idle", |rig| {
                rig.relay.table.iter().all(|(_, pair)| pair.flows.iter().all(|flow| flow.idle))
            });
            assert_eq!(rig.counters(0, ClientToBackend).frames[2], round);
        }
        let kernel = rig.relay.kernel.as_ref().unwrap();
        assert!((0..2).all(|at| kernel.verdicts.read(at).redirected + kernel.verdicts.read(at).passed == 0));
        assert!(rig.relay.table.iter().all(|(_, pair)| pair.engine == Engine::Ktls));
        let refused = |pair: &Pair| pair.why_not.is_some();
        assert!(!rig.relay.table.iter().any(|(_, pair)| refused(pair)), "it was tried, and the kernel refused");
    });
}

#[test]
fn close_notify_goes_before_every_fin() {
    over_ktls(&Config::default(), Some(SUITE), |rig| {
        let [client_speaks, backend_speaks] = rig.sides().unwrap();
        let Ends { client, backend } = rig.open();
        rig.settled();
        client.shutdown(Shutdown::Write).unwrap();
        backend.shutdown(Shutdown::Write).unwrap();
        rig.until("the pair has ended", |rig| rig.live() == 0);
        for (far, speaks) in [(client, client_speaks), (backend, backend_speaks)] {
            if speaks {
                assert_eq!(next_record(far.tcp()), (ALERT, vec![1, 0]));
            }
            assert_eq!(ktls::receive(far.tcp().as_fd(), &mut [0; 9]), Ok((0, None)), "a FIN behind it");
        }
    });
}

#[test]
fn a_fin_waits_for_records_that_tcp_has_no_room_for() {
    const BYTES: u64 = 100_000;
    over_ktls(&Config::default(), Some(SUITE), |rig| {
        for round in 0..3 {
            let Ends { client, backend } = rig.open_with(b"", b"", |ends, [near, far]| {
                // Less than a record on the way: TCP has always taken one in part.
                for end in [near, far] {
                    socket2::SockRef::from(&*end).set_send_buffer_size(4_096).unwrap();
                }
                for end in [&ends.client, &ends.backend] {
                    socket2::SockRef::from(end.tcp()).set_recv_buffer_size(4_096).unwrap();
                }
            });
            rig.settled();
            let (from, to) = if rig.sides().unwrap()[0] { (backend, client) } else { (client, backend) };
            let writer = write_pattern(from.try_clone().unwrap(), round, BYTES, false);
            let closer = std::thread::spawn(move || {
                writer.join().unwrap();
                from.shutdown(Shutdown::Write).unwrap();
                from
            });
            let reader = read_pattern(to.try_clone().unwrap(), round, BYTES, true, true);
            rig.join("all is read, and the end", reader);
            drop((rig.join("all is written", closer), to));
            rig.until("the pair has ended", |rig| rig.live() == 0);
        }
    });
}

#[test]
fn padded_empty_full_and_cut_records_are_data() {
    over_crafted_clients(&Config::default(), |rig| {
        let (mut craft, mut client, backend) = with_crafted_client(rig);
        let whole = patterned(40, 0, 32_789 + 16_384);
        let records = [
            craft.data(&whole[..10]),
            craft.record(23, &whole[10..20], 1_000),
            craft.data(b""),
            craft.record(23, b"", 5_000),
            craft.data(&whole[20..16_404]),
            craft.record(23, &whole[16_404..16_405], 16_000),
            craft.data(&whole[16_405..32_789]),
            craft.data(&whole[32_789..]),
            craft.record(ALERT, &[1, 0], 30),
        ]
        .concat();
        let expected = whole.clone();
        let writer = std::thread::spawn(move || {
            // Cut everywhere near the headers, and at odd places else.
            let mut at = 0;
            for size in (1..40).chain([700, 1, 4, 1, 5_000, 3, 16_000, 2].into_iter().cycle()) {
                let end = (at + size).min(records.len());
                client.write_all(&records[at..end]).unwrap();
                at = end;
                if at == records.len() {
                    return client;
                }
            }
            client
        });
        let (all, end) = rig.join("all has arrived", rest(backend));
        assert!(all == expected && end.is_ok(), "{} of {} bytes, {end:?}", all.len(), expected.len());
        drop(rig.join("all is written", writer));
        rig.until("the pair has ended", |rig| rig.live() == 0);
    });
}

/// One record, and what becomes of the pair: the reason, and the alert that the client gets.
fn broken_by(what: &str, record: impl Fn(&mut Craft) -> Vec<u8>, ended: EndReason, alert: Option<u8>) {
    over_crafted_clients(&Config::default(), |rig| {
        let (mut craft, mut client, backend) = with_crafted_client(rig);
        client.write_all(&[craft.data(b"before,"), record(&mut craft)].concat()).unwrap();
        let (all, end) = rig.join("the backend sees an end", rest(backend));
        assert_eq!(all, b"before,", "{what}");
        assert!(end.is_err(), "{what}: the backend saw a FIN as if the client had ended well");
        rig.until("the pair has ended", |rig| rig.live() == 0);
        assert_eq!(reason(rig, ended), 1, "{what}");
        if let Some(alert) = alert {
            assert_eq!(next_record(&client), (ALERT, vec![2, alert]), "{what}");
            socket::wait_readable(&client, Duration::from_secs(30)).unwrap();
            let end = ktls::receive(client.as_fd(), &mut [0; 9]);
            assert_eq!(end, Ok((0, None)), "{what}: an RST could have overtaken the alert");
        }
    });
}

#[test]
fn what_is_no_record_here_ends_the_pair_and_is_told() {
    let protocol = EndReason::TlsProtocol;
    broken_by("a flipped bit", |craft| flipped(craft.data(b"x")), protocol, Some(20));
    broken_by("a ticket of a client", |craft| craft.record(HANDSHAKE, &[4, 0, 0, 0], 0), protocol, Some(10));
    broken_by("a second ClientHello", |craft| craft.record(HANDSHAKE, &[1, 0, 0, 2, 3, 3], 0), protocol, Some(10));
    broken_by("change_cipher_spec", |craft| craft.record(20, &[1], 0), protocol, Some(10));
    broken_by("an unknown type", |craft| craft.record(99, b"what", 9), protocol, Some(10));
    broken_by(
        "an alert of one byte and data",
        |craft| [craft.record(ALERT, &[1], 0), craft.data(b"x")].concat(),
        protocol,
        Some(10),
    );
    broken_by("an empty handshake record", |craft| craft.record(HANDSHAKE, b"", 0), protocol, Some(10));
    let flood = |craft: &mut Craft| (0..100).flat_map(|_| craft.record(ALERT, &[1, 90], 0)).collect();
    broken_by("a hundred warnings", flood, protocol, Some(10));
    broken_by("plain text", |_| b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(), protocol, None);
    broken_by("a record that is too long", |_| vec![23, 3, 3, 255, 255, 0, 0, 0], protocol, None);
}

fn flipped(mut record: Vec<u8>) -> Vec<u8> {
    if let Some(last) = record.last_mut() {
        *last ^= 1;
    }
    record
}

#[test]
fn a_fatal_alert_is_the_peers_end() {
    broken_by("an internal error", |craft| craft.record(ALERT, &[2, 80], 0), EndReason::TlsAlert, None);
    broken_by("of whatever level", |craft| craft.record(ALERT, &[1, 40], 3), EndReason::TlsAlert, None);
}

#[test]
fn what_comes_right_before_a_reset_is_read_first() {
    over_crafted_clients(&Config::default(), |rig| {
        let (mut craft, mut client, backend) = with_crafted_client(rig);
        client.write_all(&[craft.data(b"the last"), craft.record(ALERT, &[2, 40], 0)].concat()).unwrap();
        Far::new(client, None).reset();
        // Only now does the relay look, and finds all three.
        let (all, end) = rig.join("the backend sees an end", rest(backend));
        assert_eq!(all, b"the last");
        assert!(end.is_err(), "the backend saw a FIN as if the client had ended well");
        rig.until("the pair has ended", |rig| rig.live() == 0);
        assert_eq!(reason(rig, EndReason::TlsAlert), 1, "{:?}", rig.relay.ended.reasons);
    });
}

#[test]
fn tickets_of_a_backend_are_not_for_the_client() {
    over_ktls(&Config::default(), Some(SUITE), |rig| {
        if rig.sides() != Some([false, true]) {
            return;
        }
        let Ends { client, mut backend } = rig.open();
        rig.settled();
        let ticket = [&[4, 0, 1, 0][..], &[7; 256]].concat();
        backend.write_all(b"one,").unwrap();
        ktls::send_record(backend.tcp().as_fd(), HANDSHAKE, &ticket).unwrap();
        // Two in one record, and the second cut over two.
        ktls::send_record(backend.tcp().as_fd(), HANDSHAKE, &[&ticket[..], &ticket[..99]].concat()).unwrap();
        ktls::send_record(backend.tcp().as_fd(), HANDSHAKE, &ticket[99..]).unwrap();
        backend.write_all(b"two").unwrap();
        let reader = read_exactly(client, 7);
        assert_eq!(rig.join("it has arrived", reader).0, b"one,two");
    });
}

fn read_exactly(mut from: Far, bytes: usize) -> std::thread::JoinHandle<(Vec<u8>, Far)> {
    std::thread::spawn(move || {
        let mut all = vec![0; bytes];
        from.read_exact(&mut all).unwrap();
        (all, from)
    })
}

/// The Close frame, unmasked, that a stream of frames ends with.
fn goodbye(stream: &[u8], direction: Direction) -> Option<u16> {
    match (direction, stream) {
        (BackendToClient, [.., 0x88, 2, high, low]) => Some(u16::from_be_bytes([*high, *low])),
        (ClientToBackend, [.., 0x88, 0x82, a, b, _, _, high, low]) => Some(u16::from_be_bytes([high ^ a, low ^ b])),
        _ => None,
    }
}

/// The client changes its keys, in the middle of a frame or not.
fn key_update(request: u8, cut: bool) {
    over_crafted_clients(&Config::default(), |rig| {
        let can = ability().rekey;
        let (mut craft, mut client, mut backend) = with_crafted_client(rig);
        let frame = [&[0x82, 0x85, 0, 0, 0, 0][..], b"hello"].concat();
        let (first, second) = if cut { frame.split_at(8) } else { frame.split_at(11) };
        client.write_all(&[craft.data(first), craft.record(HANDSHAKE, &[24, 0, 0, 1, request], 0)].concat()).unwrap();
        if can {
            let secret = made_up(SUITE, Role::Client).secrets.unwrap().0.next(SUITE).unwrap();
            let mut craft = Craft::with(&secret.keys(SUITE).unwrap());
            client.write_all(&[craft.data(second), craft.data(&frame)].concat()).unwrap();
            let whole = if cut { [&frame[..], &frame].concat() } else { [first, &frame].concat() };
            let (all, mut far) = rig.join("it has arrived", read_exactly(backend, whole.len()));
            assert_eq!(all, whole);
            far.write_all(b"\x82\x01x").unwrap();
            rig.until("it is counted", |rig| rig.counters(0, BackendToClient).bytes == 3);
            if request == 1 {
                assert_eq!(next_record(&client), (HANDSHAKE, vec![24, 0, 0, 1, 0]));
            } else {
                assert_eq!(next_record(&client), (23, b"\x82\x01x".to_vec()));
            }
            return;
        }
        // It cannot: what came is delivered, and both sides are told to come again.
        backend.write_all(b"\x82\x01x").unwrap();
        let (all, end) = rig.join("the backend sees the end", rest(backend.try_clone().unwrap()));
        assert!(end.is_ok());
        assert_eq!(all[..first.len()], *first);
        assert_eq!(goodbye(&all, ClientToBackend), (!cut).then_some(1012), "{all:x?}");
        let mut got = Vec::new();
        loop {
            match next_record(&client) {
                (23, bytes) => got.extend(bytes),
                (ALERT, bytes) => break assert_eq!(bytes, [1, 0]),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(goodbye(&got, BackendToClient), Some(1012), "{got:x?}");
        drop((client, backend));
        rig.until("the pair has ended", |rig| rig.live() == 0);
        assert_eq!(reason(rig, EndReason::TlsKeyUpdate), 1);
    });
}

#[test]
fn a_peer_that_changes_its_keys_is_followed_or_told_to_come_again() {
    key_update(0, false);
    key_update(1, false);
    key_update(0, true);
}

#[test]
fn a_worn_key_is_changed_or_both_sides_are_told_to_come_again() {
    const KEY_RECORDS: u64 = 64;
    let mut config = Config::default();
    config.relay.tls_key_records = KEY_RECORDS;
    for version in Version::ALL {
        let suite = Suite { version, cipher: Cipher::Aes128Gcm };
        let changes = ability().rekey && version == Version::Tls13;
        over_ktls(&config, Some(suite), |rig| {
            let Ends { client, backend } = rig.open();
            rig.settled();
            let (mut from, to, direction) = match rig.sides() {
                Some([true, _]) => (backend, client, BackendToClient),
                _ => (client, backend, ClientToBackend),
            };
            let message = [&[0x82, 126, 0, 200][..], &[9; 200]].concat();
            let reader = rest(to.try_clone().unwrap());
            let mut sent = 0;
            let parts = |rig: &Rig| rig.relay.table.iter().all(|(_, pair)| pair.closing.is_some());
            while sent < 3 * KEY_RECORDS && !parts(rig) {
                from.write_all(&message).unwrap();
                sent += 1;
                // Each must have left before the next, or they share a record.
                let passed = sent * message.len() as u64;
                rig.until("it has passed, or the pair parts", |rig| {
                    parts(rig) || rig.counters(0, direction).bytes >= passed
                });
            }
            if changes {
                from.shutdown(Shutdown::Write).unwrap();
            }
            let (all, end) = rig.join("the end is seen", reader);
            assert!(end.is_ok(), "{end:?}");
            let frames = all.chunks(message.len()).take_while(|chunk| *chunk == message).count() as u64;
            if changes {
                assert_eq!(
                    (frames, sent),
                    (3 * KEY_RECORDS, 3 * KEY_RECORDS),
                    "every frame arrived, over several keys"
                );
                to.shutdown(Shutdown::Write).unwrap();
            } else {
                assert!((KEY_RECORDS / 2 - 2..=KEY_RECORDS).contains(&frames), "{frames} frames with one key");
                assert_eq!(frames, sent, "what was sent before has arrived");
                assert_eq!(goodbye(&all, direction), Some(1012));
            }
            let (back, end) = rig.join("the other side sees the end", rest(from));
            assert!(end.is_ok(), "{end:?}");
            if !changes {
                assert_eq!(goodbye(&back, direction.reverse()), Some(1012));
            }
            drop(to);
            rig.until("the pair has ended", |rig| rig.live() == 0);
            assert_eq!(reason(rig, EndReason::TlsKeyLimit), u64::from(!changes));
        });
    }
}
