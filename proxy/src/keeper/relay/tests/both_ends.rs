//! Both sides end, at once or one while the other still streams: no byte is lost, and each sees a FIN, never an RST.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::ops::Range;
use std::thread::JoinHandle;

use super::far::Far;
use super::rig::{Dice, Ends, Rig, over_every_engine, over_the_kernel, pattern, patterned, rounds};

const KIB: u64 = 1024;

/// What one far end sends before its FIN, and how.
#[derive(Clone, Copy, Default)]
struct Script {
    seed: u64,
    bytes: u64,
    /// Random pauses while it reads.
    slow_reader: bool,
    /// It reads nothing before it has sent its FIN.
    sends_first: bool,
    /// It sends nothing before it has read so many bytes.
    reads_first: u64,
}

/// Sends, ends, and reads to the end, as the script says. Returns what was read, or where and how it went wrong.
fn play(mut end: Far, mine: Script, theirs: Script) -> JoinHandle<Result<u64, String>> {
    std::thread::spawn(move || {
        let mut writer = end.try_clone().unwrap();
        let mut write = move || -> Result<(), String> {
            let (mut at, mut dice) = (0, Dice::new(mine.seed));
            while at < mine.bytes {
                let to = (at + 1 + dice.below(60 * KIB)).min(mine.bytes);
                writer.write_all(&patterned(mine.seed, at, to)).map_err(|error| format!("write at {at}: {error}"))?;
                at = to;
            }
            writer.shutdown(Shutdown::Write).map_err(|error| format!("FIN: {error}"))
        };
        if mine.sends_first {
            write()?;
            return read(&mut end, 0..u64::MAX, theirs, mine.slow_reader);
        }
        let first = read(&mut end, 0..mine.reads_first, theirs, mine.slow_reader)?;
        let writing = std::thread::spawn(write);
        let got = read(&mut end, first..u64::MAX, theirs, mine.slow_reader);
        writing.join().unwrap()?;
        got
    })
}

/// Reads to the end, or at least to the end of a range that is shorter. Returns where it has come to.
fn read(end: &mut Far, range: Range<u64>, theirs: Script, slow: bool) -> Result<u64, String> {
    let (mut at, mut dice, mut buffer) = (range.start, Dice::new(theirs.seed), vec![0; 64 * 1024]);
    while at < range.end {
        let room = if slow { 1 + dice.below(20_000) as usize } else { buffer.len() };
        match end.read(&mut buffer[..room]) {
            Ok(0) if at == theirs.bytes => return Ok(at),
            Ok(0) => return Err(format!("an end at {at} of {}", theirs.bytes)),
            Ok(got) => {
                if let Some(wrong) = (0..got).find(|i| buffer[*i] != pattern(theirs.seed, at + *i as u64)) {
                    return Err(format!("a wrong byte at {}", at + wrong as u64));
                }
                at += got as u64;
            }
            Err(error) => return Err(format!("read at {at} of {}: {error}", theirs.bytes)),
        }
        if slow {
            dice.stall();
        }
    }
    Ok(at)
}

/// Runs pairs through the two scripts, several at a time. Panics with every way in which it went wrong.
fn hold(rig: &mut Rig, pairs: u64, script: impl Fn(u64) -> [Script; 2]) {
    const AT_ONCE: u64 = 8;
    let mut wrong = Vec::new();
    for first in (0..pairs).step_by(AT_ONCE as usize) {
        let mut threads = Vec::new();
        for round in first..(first + AT_ONCE).min(pairs) {
            let Ends { client, backend } = rig.open();
            let [forth, back] = script(round);
            threads.push((round, "client", play(client, forth, back)));
            threads.push((round, "backend", play(backend, back, forth)));
        }
        for (round, who, thread) in threads {
            if let Err(why) = rig.join("a far end has sent and read all", thread) {
                wrong.push(format!("pair {round}, {who}: {why}"));
            }
        }
        rig.until("the pairs have ended", |rig| rig.live() == 0);
    }
    assert!(wrong.is_empty(), "{} of {} ends: {wrong:#?}", wrong.len(), 2 * pairs);
}

#[test]
fn both_sides_send_a_little_and_end_at_once() {
    over_every_engine(|rig| {
        let pairs = rounds(200);
        hold(rig, pairs, |round| {
            [0, 1].map(|side| Script { seed: 100 + 2 * round + side, bytes: 100 * KIB, ..Script::default() })
        });
    });
}

#[test]
fn both_sides_send_much_and_end_at_once() {
    over_every_engine(|rig| {
        let (pairs, most) = (rounds(64).max(8), rig.amount(3 * 1024 * KIB));
        hold(rig, pairs, |round| {
            let mut dice = Dice::new(round + 7);
            [0, 1].map(|side| Script {
                seed: 300 + 2 * round + side,
                bytes: most / 3 + dice.below(2 * most / 3),
                slow_reader: dice.below(2) == 0,
                ..Script::default()
            })
        });
    });
}

#[test]
fn one_side_ends_early_while_the_other_streams_to_a_slow_reader() {
    over_every_engine(|rig| {
        let (pairs, most) = (rounds(64).max(8), rig.amount(3 * 1024 * KIB));
        hold(rig, pairs, |round| {
            let mut dice = Dice::new(round + 9);
            let early = Script {
                seed: 500 + 2 * round,
                bytes: dice.below(20 * KIB),
                slow_reader: true,
                sends_first: dice.below(2) == 0,
                ..Script::default()
            };
            let late =
                Script { seed: 501 + 2 * round, bytes: most / 3 + dice.below(2 * most / 3), ..Script::default() };
            if round % 2 == 0 { [early, late] } else { [late, early] }
        });
    });
}

/// Its socket leaves the maps while a segment comes in every few microseconds.
#[test]
fn one_side_ends_in_the_middle_of_what_the_other_streams() {
    over_the_kernel(|rig| {
        let (pairs, bytes) = (rounds(400).max(8), rig.amount(1024 * KIB));
        hold(rig, pairs, |round| {
            let mut dice = Dice::new(round + 11);
            let early = Script { seed: 700 + 2 * round, bytes: 4, reads_first: dice.below(bytes), ..Script::default() };
            let late = Script { seed: 701 + 2 * round, bytes, ..Script::default() };
            if round % 2 == 0 { [early, late] } else { [late, early] }
        });
    });
}
