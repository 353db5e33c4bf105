//! What proxies say of a client: what we say of it is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sluice::gate::fuzzing::forwarded(input));
