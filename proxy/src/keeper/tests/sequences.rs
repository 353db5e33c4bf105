//! Whole sequences of messages, with real descriptors: what the fuzz target `handoff` does, a little of it always.

use proptest::prelude::*;

use crate::keeper::fuzzing::handoff;

#[test]
fn every_seed_leaves_nothing_behind() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/handoff");
    let seeds: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|seed| handoff(&std::fs::read(seed).unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_a_gate_sends_the_keeper_goes_on_and_keeps_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        handoff(&bytes);
    }
}
