//! A configuration, from the text to its routes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| sluice::gate::fuzzing::config(input));
