#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::fd::OwnedFd;

use super::*;

fn batch(lines: &str, lost: u64) -> Batch {
    Batch { lines: lines.into(), lost }
}

fn pipe() -> (File, OwnedFd) {
    let (from, to) = rustix::pipe::pipe().unwrap();
    (from.into(), to)
}

/// All that has been written to a pipe whose writing end is closed, without the time.
fn read(mut pipe: File) -> Vec<String> {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text.lines().map(|line| line.split_once("Z  ").map_or(line, |(_, said)| said).to_owned()).collect()
}

const TOLD: &str = "WARN sluice::logging: log lines were lost: standard error did not take them lines=";

#[test]
fn lines_that_found_no_room_are_told_of_behind_those_that_did() {
    let (from, to) = pipe();
    let mut writer = Writer { to, untold: 0, cut: false };
    assert_eq!(writer.write(batch("one\n", 0)), 0);
    assert_eq!(writer.write(batch("two\nthree\n", 7)), 0);
    assert_eq!(writer.write(batch("four\n", 0)), 0);
    drop(writer);
    assert_eq!(read(from), ["one", "two", "three", &format!("{TOLD}7"), "four"]);
}

#[test]
fn lines_that_are_not_taken_are_counted_and_told_of_when_others_are() {
    let full: OwnedFd = OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    let mut broken = Writer { to: full, untold: 0, cut: false };
    assert_eq!(broken.write(batch("one\ntwo\n", 3)), 2);
    assert_eq!(broken.write(batch("three\n", 0)), 1);
    let (from, to) = pipe();
    let mut mended = Writer { to, untold: broken.untold, cut: broken.cut };
    assert_eq!(mended.write(batch("four\n", 0)), 0);
    drop(mended);
    assert_eq!(read(from), [&format!("{TOLD}6"), "four"]);
}

#[test]
fn a_closed_pipe_and_a_descriptor_that_is_none_are_no_panic() {
    let (from, to) = pipe();
    drop(from);
    assert_eq!(Writer { to, untold: 0, cut: false }.write(batch("one\n", 0)), 1);
    let read_only = File::open("/dev/null").unwrap();
    assert_eq!(Writer { to: read_only, untold: 0, cut: false }.write(batch("one\n", 0)), 1);
}

#[test]
fn a_line_that_was_cut_is_ended_before_the_next() {
    let (from, to) = pipe();
    let mut writer = Writer { to, untold: 2, cut: true };
    writer.write(batch("next\n", 0));
    drop(writer);
    assert_eq!(read(from), ["", &format!("{TOLD}2"), "next"]);
}

/// A pipe that takes no byte more, with O_NONBLOCK if `flags` say so.
fn stuffed(flags: rustix::pipe::PipeFlags) -> (File, OwnedFd) {
    let (from, to) = rustix::pipe::pipe_with(flags).unwrap();
    let room = rustix::pipe::fcntl_getpipe_size(&to).unwrap();
    rustix::io::write(&to, &vec![b'.'; room]).unwrap();
    (from.into(), to)
}

/// A queue whose thread, the calling test's own, writes to a pipe.
fn queue_to(to: OwnedFd) -> &'static Queue {
    let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
    queue.state().thread = Thread::Runs;
    std::thread::spawn(move || write_lines(queue, to));
    queue
}

#[test]
fn a_reader_that_stalls_holds_nobody_up_and_what_was_lost_is_told_when_it_reads() {
    use rustix::pipe::PipeFlags;
    for flags in [PipeFlags::CLOEXEC, PipeFlags::CLOEXEC | PipeFlags::NONBLOCK] {
        let (mut from, to) = stuffed(flags);
        let queue = queue_to(to);
        let line = format!("{}\n", "x".repeat(999));
        // The thread is at a line that nobody takes: what comes now waits, or is lost.
        queue.push(b"first\n");
        while !queue.state().busy {
            std::thread::yield_now();
        }
        // Would never end if it waited for the reader.
        (0..2000).for_each(|_| queue.push(line.as_bytes()));
        assert!(queue.state().waiting.len() <= ROOM);
        let lost = queue.state().lost;
        assert!(lost >= 2000 - ROOM as u64 / 1000 - 1, "{lost}");
        rustix::io::ioctl_fionbio(&from, false).unwrap();
        let mut seen = String::new();
        let mut piece = [0; 65536];
        while !seen.contains(&format!("lines={lost}\n")) {
            let got = from.read(&mut piece).unwrap();
            seen.push_str(std::str::from_utf8(&piece[..got]).unwrap());
        }
        let whole = seen.lines().filter(|seen| seen.trim_start_matches('.').len() == 999).count() as u64;
        assert_eq!(whole + lost, 2000);
    }
}

#[test]
fn a_flush_waits_for_the_last_line_and_not_for_a_reader_that_stalls() {
    let (mut from, to) = pipe();
    let queue = queue_to(to);
    queue.push(b"last\n");
    queue.flush(Instant::now() + Duration::from_secs(60));
    let mut seen = [0; 5];
    from.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"last\n");

    let (_unread, to) = stuffed(rustix::pipe::PipeFlags::CLOEXEC);
    let queue = queue_to(to);
    queue.push(b"last\n");
    queue.flush(Instant::now() + Duration::from_millis(50));
    let state = queue.state();
    assert!(state.busy || !state.waiting.is_empty());
}

#[test]
fn what_is_written_at_once_ends_with_a_line() {
    let short = vec![b'x'; 5000];
    assert_eq!(whole_lines(&short).len(), 5000);
    let lines = [vec![b'x'; 3000], b"\n".to_vec(), vec![b'x'; 3000], b"\n".to_vec()].concat();
    assert_eq!(whole_lines(&lines).len(), 3001);
    let long = [vec![b'x'; 9000], b"\nshort\n".to_vec()].concat();
    assert_eq!(whole_lines(&long).len(), 9001);
    assert_eq!(whole_lines(b"one\ntwo").len(), 7);
}
