//! Pairs that end in every way, at any moment, under load: what arrives is always a beginning of what was sent, and the
//! kernel has nothing to complain of.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::thread::JoinHandle;

use super::far::Far;
use super::rig::{Dice, Ends, Rig, over_every_engine, pattern, patterned, rounds};

/// How a far end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    /// Sends all and a FIN, and reads to the end.
    Orderly,
    /// Sends all and closes without reading what is left, which sends an RST if there is something.
    Closes,
    /// Resets in the middle of everything.
    Resets,
}

fn going(dice: &mut Dice) -> Going {
    match dice.below(4) {
        0 | 1 => Going::Orderly,
        2 => Going::Closes,
        _ => Going::Resets,
    }
}

/// What one far end does, drawn from the dice.
#[derive(Clone, Copy)]
struct Part {
    seed: u64,
    bytes: u64,
    going: Going,
    /// Bytes that it reads before it goes, unless it goes in order.
    reads: u64,
}

impl Part {
    fn draw(seed: u64, dice: &mut Dice) -> Self {
        let most = [200, 5_000, 400_000][dice.below(3) as usize];
        Self { seed, bytes: dice.below(most), going: going(dice), reads: dice.below(most) }
    }
}

fn write_all(mut to: Far, part: Part) {
    let (mut at, mut dice) = (0, Dice::new(part.seed));
    while at < part.bytes {
        let next = (at + 1 + dice.below(20_000)).min(part.bytes);
        if to.write_all(&patterned(part.seed, at, next)).is_err() {
            return;
        }
        at = next;
        dice.stall();
    }
    if part.going != Going::Resets {
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Reads until the end, a failure or as much as it wants. Returns how much, and whether there was an end.
fn read(from: &mut Far, part: Part, other: Part) -> (u64, bool) {
    let (mut at, mut dice, mut buffer) = (0, Dice::new(!part.seed), vec![0; 32 * 1024]);
    // Whoever resets sends no end: it is not waited for.
    while part.going == Going::Orderly || at < part.reads.min(other.bytes) {
        let room = 1 + dice.below(buffer.len() as u64) as usize;
        match from.read(&mut buffer[..room]) {
            Ok(0) => return (at, true),
            Ok(got) => {
                assert!((0..got).all(|i| buffer[i] == pattern(other.seed, at + i as u64)), "wrong bytes behind {at}");
                at += got as u64;
            }
            Err(_) => break,
        }
        dice.stall();
    }
    (at, false)
}

fn play(mut end: Far, mine: Part, theirs: Part) -> JoinHandle<(u64, bool)> {
    std::thread::spawn(move || {
        let writer = end.try_clone().unwrap();
        let writing = std::thread::spawn(move || write_all(writer, mine));
        let got = read(&mut end, mine, theirs);
        match mine.going {
            Going::Orderly => {}
            Going::Closes => {
                // What it was still sending it gives up.
                let _ = rustix::net::shutdown(end.tcp(), rustix::net::Shutdown::Both);
            }
            Going::Resets => {
                // At once, while the writer writes: where the kernel has the TLS keys it does not disconnect.
                let _ = rustix::net::connect_unspec(end.tcp());
                end.reset();
            }
        }
        writing.join().unwrap();
        got
    })
}

/// Whether the kernel has warned of something since it was started (`Documentation/admin-guide/tainted-kernels.rst`).
fn kernel_has_warned() -> bool {
    const WARNED: u64 = 1 << 9;
    let taints = std::fs::read_to_string("/proc/sys/kernel/tainted").unwrap();
    taints.trim().parse::<u64>().unwrap() & WARNED != 0
}

fn round(rig: &mut Rig, dice: &mut Dice, first: u64) {
    const AT_ONCE: u64 = 12;
    let mut players = Vec::new();
    for pair in first..first + AT_ONCE {
        let Ends { client, backend } = rig.open();
        let [forth, back] = [0, 1].map(|side| Part::draw(1_000 + 2 * pair + side, dice));
        let orderly = [forth, back].iter().all(|part| part.going == Going::Orderly);
        players.push((play(client, forth, back), orderly.then_some(back.bytes)));
        players.push((play(backend, back, forth), orderly.then_some(forth.bytes)));
    }
    for (player, expected) in players {
        let (got, ended) = rig.join("a far end is through", player);
        if let Some(expected) = expected {
            assert_eq!((got, ended), (expected, true), "both sides ended in order");
        }
    }
    rig.until("the pairs have ended", |rig| rig.live() == 0);
}

#[test]
fn pairs_that_end_in_every_way_deliver_a_beginning_of_what_was_sent() {
    let warned = kernel_has_warned();
    over_every_engine(|rig| {
        if rig.sides().is_some() {
            // An end of TLS is a record, for which a far end that closes leaves no room: `tls` has their endings.
            return;
        }
        let mut dice = Dice::new(2_026);
        for number in 0..rounds(24).max(4) {
            round(rig, &mut dice, 100 * number);
        }
    });
    assert_eq!(kernel_has_warned(), warned, "the kernel has warned of something: see its log");
}
