//! A client's bytes: what a backend gets of them is one request to the strictest reader, or the beginning of one.
#![no_main]

#[path = "../../tests/src/strict.rs"]
#[expect(dead_code, reason = "made for tests that look closer")]
mod strict;

use libfuzzer_sys::fuzz_target;
use strict::Progress;

fuzz_target!(|input: &[u8]| {
    let sent = sluice::gate::fuzzing::request(input);
    match strict::read(&sent) {
        Ok(Progress::Whole(_, length)) => assert_eq!(length, sent.len(), "{:?}", String::from_utf8_lossy(&sent)),
        Ok(Progress::Head(_)) => {}
        Ok(Progress::Part) => assert!(sent.is_empty(), "{:?}", String::from_utf8_lossy(&sent)),
        Err(why) => panic!("{why}: {:?}", String::from_utf8_lossy(&sent)),
    }
});
