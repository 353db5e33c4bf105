//! A backend's bytes, as the answer to a handshake and to a plain request: one length, and a body that is so long.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sluice::gate::fuzzing::response(input));
