//! Every byte arrives, once, in order.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proxy_common::layout::Direction::{BackendToClient, ClientToBackend};

use super::rig::{flood, over_every_engine, over_the_kernel, patterned, read_pattern, write_pattern};

const MIB: u64 = 1024 * 1024;

#[test]
fn what_was_read_ahead_comes_first() {
    over_every_engine(|rig| {
        let mut ends = rig.open_with(b"first,", b"erst,", |ends, _| {
            ends.client.write_all(b"then").unwrap();
            ends.backend.write_all(b"dann").unwrap();
        });
        let reader = std::thread::spawn(move || {
            let (mut forth, mut back) = ([0; 10], [0; 9]);
            ends.backend.read_exact(&mut forth).unwrap();
            ends.client.read_exact(&mut back).unwrap();
            (forth, back)
        });
        assert_eq!(rig.join("both have read", reader), (*b"first,then", *b"erst,dann"));
    });
}

#[test]
fn a_segment_read_in_part_before_goes_on_where_reading_stopped() {
    over_every_engine(|rig| {
        let mut ends = rig.open_with(b"", b"", |ends, [near, far]| {
            ends.client.write_all(&patterned(1, 0, 30_000)).unwrap();
            ends.backend.write_all(&patterned(2, 0, 30_000)).unwrap();
            near.read_exact(&mut [0; 12_345]).unwrap();
            far.read_exact(&mut [0; 3]).unwrap();
        });
        let reader = std::thread::spawn(move || {
            let (mut forth, mut back) = (vec![0; 30_000 - 12_345], vec![0; 30_000 - 3]);
            ends.backend.read_exact(&mut forth).unwrap();
            ends.client.read_exact(&mut back).unwrap();
            assert!(forth == patterned(1, 12_345, 30_000) && back == patterned(2, 3, 30_000));
        });
        rig.join("both have read", reader);
    });
}

#[test]
fn random_streams_in_both_directions_with_stalls_on_both_sides() {
    over_every_engine(|rig| {
        let size = rig.amount(24 * MIB);
        for round in 0..4 {
            let ends = rig.open();
            rig.settled();
            let (forth, back) = (10 + round, 20 + round);
            let clone = |stream: &super::far::Far| stream.try_clone().unwrap();
            let threads = [
                write_pattern(clone(&ends.client), forth, size, true),
                read_pattern(clone(&ends.backend), forth, size, true, false),
                write_pattern(clone(&ends.backend), back, size, true),
                read_pattern(clone(&ends.client), back, size, true, false),
            ];
            for thread in threads {
                rig.join("a stream has passed", thread);
            }
            drop(ends);
            rig.until("the pair has ended", |rig| rig.live() == 0);
        }
    });
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_loses_nothing() {
    over_every_engine(|rig| {
        let ends = rig.open();
        rig.settled();
        let full = Arc::new(AtomicBool::new(false));
        let taken = flood(ends.client.try_clone().unwrap(), 3, 256 * MIB, &full);
        let taken = rig.join("the writer is stopped", taken);
        assert!(taken < 64 * MIB, "a reader that reads nothing did not stop the writer before {taken} bytes");
        let reader = read_pattern(ends.backend.try_clone().unwrap(), 3, taken, false, false);
        rig.join("everything has been read", reader);
        if rig.relay.kernel.is_some() {
            assert!(rig.flips() > 0, "the direction never left kernel mode");
        }
    });
}

#[test]
fn readers_that_stop_on_both_sides_stop_both_writers() {
    over_every_engine(|rig| {
        let ends = rig.open();
        rig.settled();
        let full = Arc::new(AtomicBool::new(false));
        let forth = flood(ends.client.try_clone().unwrap(), 4, 256 * MIB, &full);
        let back = flood(ends.backend.try_clone().unwrap(), 5, 256 * MIB, &full);
        let (forth, back) = (rig.join("one writer is stopped", forth), rig.join("the other too", back));
        assert!(forth < 64 * MIB && back < 64 * MIB, "{forth} and {back} bytes were taken");
        let readers = [
            read_pattern(ends.backend.try_clone().unwrap(), 4, forth, false, false),
            read_pattern(ends.client.try_clone().unwrap(), 5, back, false, false),
        ];
        for reader in readers {
            rig.join("everything has been read", reader);
        }
    });
}

#[test]
fn one_direction_goes_on_while_the_other_is_stopped() {
    over_every_engine(|rig| {
        let mut ends = rig.open();
        rig.settled();
        let full = Arc::new(AtomicBool::new(false));
        let taken = rig.join("the writer is stopped", flood(ends.backend.try_clone().unwrap(), 6, 256 * MIB, &full));
        // The client reads nothing of that, but what it sends must pass all the same.
        let much = rig.amount(8 * MIB);
        let writer = write_pattern(ends.client.try_clone().unwrap(), 7, much, false);
        let reader = read_pattern(ends.backend.try_clone().unwrap(), 7, much, true, false);
        rig.join("the client's bytes have passed", reader);
        rig.join("the client has written", writer);
        rig.join("the client has read", read_pattern(ends.client.try_clone().unwrap(), 6, taken, false, false));
        ends.client.flush().unwrap();
    });
}

#[test]
fn a_direction_returns_to_the_kernel_after_congestion() {
    over_the_kernel(|rig| {
        let mut ends = rig.open();
        rig.settled();
        let full = Arc::new(AtomicBool::new(false));
        let taken = rig.join("the writer is stopped", flood(ends.client.try_clone().unwrap(), 8, 64 * MIB, &full));
        rig.join("it is read", read_pattern(ends.backend.try_clone().unwrap(), 8, taken, false, false));
        let before = rig.relay.kernel.as_ref().unwrap().verdicts.read(0).redirected;
        let mut small = [0; 5];
        ends.client.write_all(b"small").unwrap();
        let reader = std::thread::spawn(move || {
            ends.backend.read_exact(&mut small).unwrap();
            (small, ends)
        });
        let (small, ends) = rig.join("a small message has passed", reader);
        assert_eq!(&small, b"small");
        let state = rig.relay.kernel.as_ref().unwrap().verdicts.read(0);
        assert_eq!(state.redirected, before + 5, "userspace carried a message that the kernel could have carried");
        drop(ends);
    });
}

#[test]
fn frames_are_counted_alike_by_every_engine() {
    over_every_engine(|rig| {
        let mut ends = rig.open_with(&[0x81], b"", |_, _| {});
        // The rest of an empty text frame, 5,000 empty pings in one write, a Close 4000 cut in two.
        ends.client.write_all(&[0x80, 1, 2, 3, 4]).unwrap();
        rig.settled();
        let pings: Vec<u8> = [0x89, 0x00].repeat(5_000);
        ends.backend.write_all(&pings).unwrap();
        ends.client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x0f]).unwrap();
        rig.until("the first half has been counted", |rig| rig.counters(0, ClientToBackend).bytes == 13);
        ends.client.write_all(&[0xa0]).unwrap();
        rig.until("all has been counted", |rig| {
            rig.counters(0, ClientToBackend).bytes == 14 && rig.counters(0, BackendToClient).bytes == 10_000
        });
        let (forth, back) = (rig.counters(0, ClientToBackend), rig.counters(0, BackendToClient));
        assert_eq!((forth.frames[1], forth.messages, forth.close_code), (1, 1, 4000));
        assert_eq!((back.frames[4], back.messages, back.sizes[0]), (5_000, 0, 5_000));
        assert!(forth.last_activity_ns > 0 && back.last_activity_ns > 0);
    });
}

/// How often this thread has gone to sleep.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn messages_wake_nobody() {
    const ROUND_TRIPS: u64 = 300;
    over_the_kernel(|rig| {
        let mut ends = rig.open();
        rig.settled();
        // What the handshake and the insertion left to be told has been told.
        while !rig.relay.reactor.wait(Some(std::time::Duration::from_millis(20))).unwrap().is_empty() {}
        let before = sleeps();
        let peers = std::thread::spawn(move || {
            for _ in 0..ROUND_TRIPS {
                ends.client.write_all(&[0x82, 0x81, 0, 0, 0, 0, 7]).unwrap();
                ends.backend.read_exact(&mut [0; 7]).unwrap();
                ends.backend.write_all(&[0x82, 1, 7]).unwrap();
                ends.client.read_exact(&mut [0; 3]).unwrap();
            }
            ends
        });
        // The relay sleeps meanwhile. An interest in readable bytes would wake it for each segment, if only to find,
        // still inside of the kernel, that there are none.
        while !peers.is_finished() {
            let events = rig.relay.reactor.wait(Some(std::time::Duration::from_millis(500))).unwrap();
            assert_eq!(events.len(), 0, "messages made events: {events:?}");
        }
        let slept = sleeps() - before;
        assert!(slept < ROUND_TRIPS / 10, "{ROUND_TRIPS} round trips woke the relay {slept} times");
        assert_eq!(rig.counters(0, ClientToBackend).frames[2], ROUND_TRIPS);
        drop(peers.join().unwrap());
    });
}

#[test]
fn a_message_in_the_moment_of_the_hand_over_is_not_forgotten() {
    // It may come before the relay reads, between its reading and the kernel's taking over, or after: all three, often.
    over_every_engine(|rig| {
        let mut dice = super::rig::Dice::new(99);
        for _ in 0..super::rig::rounds(600) {
            let wait = std::time::Duration::from_micros(dice.below(250));
            let mut writer = None;
            let mut ends = rig.open_with(b"", b"", |ends, _| {
                let mut client = ends.client.try_clone().unwrap();
                writer = Some(std::thread::spawn(move || {
                    let begin = std::time::Instant::now();
                    while begin.elapsed() < wait {
                        std::hint::spin_loop();
                    }
                    client.write_all(b"hello").unwrap();
                }));
            });
            let reader = std::thread::spawn(move || {
                ends.backend.read_exact(&mut [0; 5]).unwrap();
                ends
            });
            rig.join("it has been sent", writer.unwrap());
            drop(rig.join("it has arrived", reader));
            rig.until("the pair has ended", |rig| rig.live() == 0);
        }
    });
}
