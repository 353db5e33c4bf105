//! The frame scanner: any bytes, cut anywhere, count the same as in one piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_common::layout::DirCounters;
use proxy_common::scan::Scanner;

fn feed(segments: &mut dyn Iterator<Item = &[u8]>) -> (Scanner, DirCounters) {
    let (mut scanner, mut counters) = (Scanner::START, DirCounters::ZERO);
    for segment in segments {
        scanner.feed(segment, &mut counters);
    }
    (scanner, counters)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = feed(&mut std::iter::once(bytes));
    assert_eq!(whole, feed(&mut bytes.chunks(usize::from(cut).max(1))));
    assert_eq!(whole.1.bytes, bytes.len() as u64);
});
