//! A client's credentials, wherever they stand: nobody makes one of ours, and none goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sluice::gate::fuzzing::credentials(input));
