//! A client's bytes behind the preface of HTTP/2: every request that a backend gets is one to the strictest reader.
#![no_main]

#[path = "../../tests/src/strict.rs"]
#[expect(dead_code, reason = "made for tests that look closer")]
mod strict;

use libfuzzer_sys::fuzz_target;
use strict::Progress;

fuzz_target!(|input: &[u8]| {
    for sent in sluice::gate::fuzzing::http2_requests(input) {
        match strict::read(&sent) {
            Ok(Progress::Whole(_, length)) => assert_eq!(length, sent.len(), "{:?}", String::from_utf8_lossy(&sent)),
            other => panic!("{other:?}: {:?}", String::from_utf8_lossy(&sent)),
        }
    }
});
