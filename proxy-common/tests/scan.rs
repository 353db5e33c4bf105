//! The scanner against a plain reading of RFC 6455 §5.2, on streams cut anywhere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use proptest::prelude::*;
use proxy_common::layout::{DirCounters, SIZE_BUCKETS};
use proxy_common::scan::{OPCODES, Scanner, WINDOW, bucket_limit, opcode_index, size_bucket};

/// How a length is written: RFC 6455 asks for the shortest form, peers may use any.
#[derive(Clone, Copy, Debug)]
enum Form {
    Short,
    Medium,
    Long,
}

#[derive(Clone, Debug)]
struct Frame {
    fin: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    form: Form,
    payload: Vec<u8>,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.fin) << 7 | self.opcode];
        let masked = u8::from(self.mask.is_some()) << 7;
        let length = self.payload.len();
        match self.form {
            Form::Short if length < 126 => out.push(masked | length as u8),
            Form::Short | Form::Medium if length <= 0xffff => {
                out.push(masked | 126);
                out.extend((length as u16).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(self.mask.iter().flatten());
        let mask = self.mask.unwrap_or_default();
        out.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }
}

/// What the counters must say, told from the frames and not from their bytes.
fn expected(frames: &[Frame]) -> DirCounters {
    let mut counters = DirCounters::ZERO;
    for frame in frames {
        counters.bytes += frame.bytes().len() as u64;
        counters.frames[opcode_index(frame.opcode)] += 1;
        let length = frame.payload.len();
        let bucket = (0..SIZE_BUCKETS).find(|b| bucket_limit(*b).is_none_or(|limit| length as u64 <= limit)).unwrap();
        counters.sizes[bucket] += 1;
        counters.messages += u64::from(frame.fin && frame.opcode <= 2);
        if frame.opcode == 8 {
            counters.closes += 1;
            counters.close_code = match frame.payload.as_slice() {
                [high, low, ..] => u32::from(u16::from_be_bytes([*high, *low])),
                _ => 1005,
            };
        }
    }
    counters
}

fn frame() -> impl Strategy<Value = Frame> {
    let length = prop_oneof![
        5 => 0..8usize,
        3 => 100..140usize,
        1 => 65_500..65_600usize,
    ];
    let form = prop_oneof![Just(Form::Short), Just(Form::Medium), Just(Form::Long)];
    (any::<bool>(), 0..16u8, any::<Option<[u8; 4]>>(), form, length, any::<u8>()).prop_map(
        |(fin, opcode, mask, form, length, fill)| {
            let payload = (0..length).map(|at| fill.wrapping_add(at as u8)).collect();
            Frame { fin, opcode, mask, form, payload }
        },
    )
}

fn stream(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::bytes).collect()
}

/// Feeds `bytes` in segments whose lengths repeat `cuts`.
fn feed(bytes: &[u8], cuts: &[usize]) -> (Scanner, DirCounters) {
    let (mut scanner, mut counters) = (Scanner::START, DirCounters::ZERO);
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (segment, behind) = rest.split_at((*cut).clamp(1, rest.len()));
        scanner.feed(segment, &mut counters);
        rest = behind;
    }
    (scanner, counters)
}

proptest! {
    #[test]
    fn frames_are_counted_however_the_stream_is_cut(
        frames in proptest::collection::vec(frame(), 0..12),
        cuts in proptest::collection::vec(1..40usize, 1..10),
    ) {
        let bytes = stream(&frames);
        let (scanner, counters) = feed(&bytes, &cuts);
        prop_assert_eq!(counters, expected(&frames));
        prop_assert!(scanner.at_boundary());
    }

    #[test]
    fn any_bytes_count_the_same_however_they_are_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        cuts in proptest::collection::vec(1..40usize, 1..10),
    ) {
        prop_assert_eq!(feed(&bytes, &cuts), feed(&bytes, &[bytes.len().max(1)]));
    }

    #[test]
    fn a_step_takes_at_least_one_byte_and_at_most_those_there_are(
        window in any::<[u8; WINDOW]>(),
        before in proptest::collection::vec(any::<u8>(), 0..20),
        available in prop_oneof![1..40u64, Just(u64::MAX)],
    ) {
        let (mut scanner, mut counters) = feed(&before, &[1]);
        let used = scanner.step(&window, available, &mut counters);
        prop_assert!(used >= 1 && used <= available);
    }

    #[test]
    fn bucket_limits_and_buckets_agree(payload in prop_oneof![0..5000u64, any::<u64>()]) {
        let bucket = size_bucket(payload);
        prop_assert!(bucket_limit(bucket).is_none_or(|limit| payload <= limit));
        if bucket > 0 {
            prop_assert!(bucket_limit(bucket - 1).unwrap() < payload);
        }
    }
}

/// The names of RFC 6455 §5.2, in the order of the opcodes.
#[test]
fn every_opcode_is_counted_under_its_name() {
    let names: Vec<&str> = (0..16).map(|opcode| OPCODES[opcode_index(opcode)]).collect();
    let data = ["continuation", "text", "binary", "reserved_data"].into_iter().chain(["reserved_data"; 4]);
    let control = ["close", "ping", "pong", "reserved_control"].into_iter().chain(["reserved_control"; 4]);
    assert_eq!(names, data.chain(control).collect::<Vec<_>>());
}

#[test]
fn every_cut_of_a_long_masked_close_counts_alike() {
    let frames = [
        Frame { fin: true, opcode: 2, mask: Some([1, 2, 3, 4]), form: Form::Long, payload: vec![7; 3] },
        Frame { fin: true, opcode: 8, mask: Some([9, 8, 7, 6]), form: Form::Long, payload: vec![0x0f, 0xa0, b'x'] },
    ];
    let bytes = stream(&frames);
    for first in 1..bytes.len() {
        for second in 1..bytes.len() {
            let (_, counters) = feed(&bytes, &[first, second, 1]);
            assert_eq!(counters, expected(&frames), "cut at {first} and {second}");
        }
    }
}

#[test]
fn thousands_of_two_byte_frames_in_one_segment() {
    let frames: Vec<Frame> = (0..32_768)
        .map(|at| Frame { fin: true, opcode: 9 + (at % 2) as u8, mask: None, form: Form::Short, payload: Vec::new() })
        .collect();
    let (_, counters) = feed(&stream(&frames), &[usize::MAX]);
    assert_eq!((counters.frames[4], counters.frames[5]), (16_384, 16_384));
    assert_eq!(counters.sizes[0], 32_768);
}

#[test]
fn a_length_of_64_bits_is_skipped_without_a_byte_of_it() {
    let (mut scanner, mut counters) = (Scanner::START, DirCounters::ZERO);
    scanner.feed(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &mut counters);
    scanner.feed(&[0x81, 0], &mut counters);
    assert_eq!((counters.frames[2], counters.frames[1]), (1, 0));
    assert_eq!(counters.sizes[SIZE_BUCKETS - 1], 1);
    assert!(!scanner.at_boundary());
}

#[test]
fn a_close_without_a_code_counts_as_1005() {
    let (_, counters) = feed(&[0x88, 0x80, 1, 2, 3, 4], &[1]);
    assert_eq!((counters.close_code, counters.closes), (1005, 1));
    let (_, counters) = feed(&[0x88, 0x01, 0x03], &[9]);
    assert_eq!(counters.close_code, 1005, "one byte is no code");
}

proptest! {
    #[test]
    fn the_next_boundary_is_found_from_anywhere(frames in proptest::collection::vec(frame(), 1..5), at: prop::sample::Index) {
        let (bytes, mut boundaries) = (stream(&frames), vec![0]);
        for frame in &frames {
            boundaries.push(boundaries.last().unwrap() + frame.bytes().len());
        }
        let at = at.index(bytes.len() + 1);
        let next = *boundaries.iter().find(|boundary| **boundary >= at).unwrap();
        let (mut scanner, mut counters) = (Scanner::START, DirCounters::ZERO);
        scanner.feed(&bytes[..at], &mut counters);
        prop_assert_eq!(scanner.feed_frame(&bytes[at..], &mut counters), next - at);
        prop_assert!(scanner.at_boundary());
        let mut whole = DirCounters::ZERO;
        Scanner::START.clone().feed(&bytes[..next], &mut whole);
        prop_assert_eq!(counters, whole);
    }
}
