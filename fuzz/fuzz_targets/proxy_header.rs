//! A proxy's header: read in pieces, and written again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sluice::gate::fuzzing::proxy_header(input));
