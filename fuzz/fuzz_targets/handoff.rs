//! A gate that does whatever it likes: the keeper goes on, and nothing of such a gate stays.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sluice::keeper::fuzzing::handoff(input));
