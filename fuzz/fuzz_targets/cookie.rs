//! A client's cookies: nobody makes one of ours, and none of ours goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sluice::gate::fuzzing::cookie(input));
