//! What cuts a read short, or a stream: urgent data, descriptors on a Unix socket, segments full of tiny frames, gaps.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proxy_common::layout::Direction::ClientToBackend;
use proxy_common::layout::{VerdictState, index};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::rig::{Ends, Rig, STUCK, over_every_engine, over_the_kernel, pattern, patterned, rounds};
use crate::config::Config;
use crate::handoff::EndReason;
use crate::sys::mapped::Slot;

#[test]
fn urgent_data_stays_in_the_stream_and_holds_up_nothing() {
    over_every_engine(|rig| {
        if rig.sides().is_some() {
            return;
        }
        for round in 0..rounds(60) {
            let Ends { mut client, mut backend } = rig.open();
            if round % 2 == 0 {
                rig.settled();
            }
            client.write_all(b"before").unwrap();
            rustix::net::send(client.tcp(), b"urgent", SendFlags::OOB).unwrap();
            client.write_all(b"behind").unwrap();
            let reader = std::thread::spawn(move || {
                let mut got = [0; 18];
                backend.read_exact(&mut got).unwrap();
                (got, backend)
            });
            let (got, _backend) = rig.join("all of it arrives", reader);
            assert_eq!(got, *b"beforeurgentbehind", "in round {round}");
        }
    });
}

#[test]
fn descriptors_beside_bytes_of_a_unix_socket_hold_up_nothing() {
    over_every_engine(|rig| {
        if rig.sides().is_some() {
            return;
        }
        let unix = || UnixStream::pair().map(|(far, near)| [far, near].map(OwnedFd::from)).unwrap();
        let ([mut client, near], [mut backend, far]) = (unix().map(TcpStream::from), unix().map(TcpStream::from));
        backend.set_read_timeout(Some(STUCK)).unwrap();
        rig.take([near.into(), far.into()], [None, None], b"", b"");
        let passed = std::fs::File::open("/dev/null").unwrap();
        let descriptors = [passed.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        client.write_all(b"before").unwrap();
        // A kernel that lets the receiver refuse descriptors (Linux 6.16) may say so.
        let beside = sendmsg(&client, &[IoSlice::new(b"beside")], &mut control, SendFlags::empty());
        client.write_all(b"behind").unwrap();
        let expected = if beside.is_ok() { b"beforebesidebehind".as_slice() } else { b"beforebehind" };
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            backend.read_exact(&mut got).unwrap();
            got
        });
        assert_eq!(rig.join("all of it arrives", reader), expected);
    });
}

#[test]
fn segments_with_too_many_frames_for_the_kernel_are_counted_by_userspace() {
    over_the_kernel(|rig| {
        let Ends { mut client, mut backend } = rig.open();
        rig.settled();
        // Empty frames and pings, then larger ones, so that the direction leaves the kernel and comes back many times.
        let tiny: Vec<u8> = [0x82, 0x00, 0x89, 0x00].repeat(30_000);
        let large = [[0x82, 0x7d].as_slice(), &[7; 125]].concat();
        let (rounds, length) = (20, tiny.len() + large.len());
        let writer = std::thread::spawn(move || {
            for _ in 0..rounds {
                client.write_all(&tiny).unwrap();
                client.write_all(&large).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
            client
        });
        let reader = std::thread::spawn(move || {
            backend.read_exact(&mut vec![0; rounds * length]).unwrap();
            backend
        });
        let _backend = rig.join("all of it arrives", reader);
        let _client = rig.join("all of it is sent", writer);
        let counted = rig.counters(0, ClientToBackend);
        assert_eq!(counted.bytes, (rounds * length) as u64);
        assert_eq!((counted.frames[2], counted.frames[4]), ((30_000 + 1) * rounds as u64, 30_000 * rounds as u64));
        assert_eq!(counted.messages, (30_000 + 1) * rounds as u64);
        assert!(rig.flips() > 0, "the kernel counted it all");
    });
}

#[test]
fn a_gap_in_the_stream_ends_the_pair() {
    over_the_kernel(|rig| {
        let Ends { mut client, mut backend } = rig.open();
        rig.settled();
        client.write_all(b"first").unwrap();
        let reader = std::thread::spawn(move || {
            backend.read_exact(&mut [0; 5]).unwrap();
            backend
        });
        let mut backend = rig.join("the first bytes arrive", reader);
        // The verdict is made to believe that a byte is missing between what it has seen and what comes now.
        let (slot, _) = rig.relay.table.iter().next().unwrap();
        let verdicts = &rig.relay.kernel.as_ref().unwrap().verdicts;
        let at = index(slot, ClientToBackend);
        let state: VerdictState = verdicts.read(at);
        let state = VerdictState { next_seq: state.next_seq.wrapping_sub(1), ..state };
        verdicts.write(&mut Slot::new(at), &state);
        client.write_all(b"later").unwrap();
        let reader = std::thread::spawn(move || backend.read(&mut [0; 5]).map_err(|error| error.kind()));
        assert_eq!(rig.join("the pair is reset", reader), Err(ErrorKind::ConnectionReset));
        rig.until("the pair has ended", |rig| rig.live() == 0);
        assert_eq!(rig.relay.ended.reasons[EndReason::KernelBroken as usize], 1);
    });
}

/// The second socket has a verdict program already, so that it can become a target and no source.
#[test]
fn a_pair_of_which_the_kernel_takes_one_socket_only_lacks_no_byte() {
    over_the_kernel(|rig| {
        let mut other = super::rig::kernel().unwrap();
        let (mut whole, mut ended) = (0, 0);
        for round in 0..rounds(150) {
            let (mut writer, mut refused) = (None, None);
            let Ends { mut backend, client } = rig.open_with(b"", b"", |ends, [near, far]| {
                let (mine, spare) = super::rig::connected();
                let cookies = [&*far, &mine].map(|socket| rustix::net::sockopt::socket_cookie(socket).unwrap());
                other.insert(1, [far.as_fd(), mine.as_fd()], cookies).unwrap();
                refused = Some((mine, spare, cookies));
                let mut client = ends.client.try_clone().unwrap();
                near.write_all(b"").unwrap();
                writer = Some(std::thread::spawn(move || {
                    for at in 0..400 {
                        if client.write_all(&patterned(round, at * 100, (at + 1) * 100)).is_err() {
                            return;
                        }
                    }
                }));
            });
            let reader = std::thread::spawn(move || {
                let (mut at, mut buffer) = (0_u64, [0; 4096]);
                while at < 40_000 {
                    match backend.read(&mut buffer) {
                        Ok(0) => panic!("an end at {at}"),
                        Ok(got) => {
                            assert!((0..got).all(|i| buffer[i] == pattern(round, at + i as u64)), "a gap behind {at}");
                            at += got as u64;
                        }
                        Err(_) => return false,
                    }
                }
                true
            });
            let arrived = rig.join("all arrives, or the pair ends", reader);
            if arrived {
                whole += 1
            } else {
                ended += 1
            }
            drop(client);
            rig.join("the client is through", writer.unwrap());
            rig.until("the pair has ended", |rig| rig.live() == 0);
            other.remove(1, refused.unwrap().2);
        }
        assert_eq!((whole, ended), (rounds(150), 0), "whole, ended");
    });
}

#[test]
fn a_snapshot_counts_a_pair_once_that_ends_while_it_is_taken() {
    use std::sync::Arc;

    use crate::handoff::Snapshot;
    use crate::handoff::stats::Stats;
    use crate::keeper::carried::Carried;

    let mut rig = Rig::with_capacity(&Config::default(), 300);
    let (_file, stats) = Stats::create().unwrap();
    let carried = Carried::new(Arc::new(stats));
    let mut pairs: Vec<Ends> = (0..200).map(|_| rig.open()).collect();
    for ends in &mut pairs {
        ends.client.write_all(&[0x88, 0x02, 0x03, 0xe8]).unwrap();
    }
    rig.until("all has been counted", |rig| (0..200).all(|slot| rig.counters(slot, ClientToBackend).bytes == 4));
    rig.relay.begin_snapshot(9, &carried, Snapshot::default()).unwrap();
    assert!(rig.relay.go_on_with_snapshot().unwrap().is_none(), "it was taken in one go: the test shows nothing");
    // One that the round has visited, and two that it has not; and one that is new.
    for at in [199, 150, 3] {
        drop(pairs.remove(at));
    }
    rig.until("three pairs have ended", |rig| rig.live() == 197);
    pairs.push(rig.open());
    let (request, file) = loop {
        if let Some(taken) = rig.relay.go_on_with_snapshot().unwrap() {
            break taken;
        }
    };
    let snapshot = Snapshot::read(vec![file]).unwrap();
    let bytes: u64 = snapshot.pairs.iter().map(|row| row.counters.dirs[0].bytes).sum();
    let ended: u64 = snapshot.ended.iter().map(|pair| pair.dirs[0].bytes).sum();
    assert_eq!((request, bytes, ended), (9, 800, 0));
}
