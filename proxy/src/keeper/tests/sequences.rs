//! Whole sequences of messages, with real descriptors: what the fuzz target `handoff` does, a little of it always.

use proptest::prelude::*;

use crate::keeper::fuzzing::handoff;

/// A seed of the fuzz target. It is in the test's own file, which also runs where the repository is not.
macro_rules! seeds {
    ($($name:literal)*) => {
        [$(($name, include_bytes!(concat!("../../../../fuzz/seeds/handoff/", $name)).as_slice())),*]
    };
}

const SEEDS: [(&str, &[u8]); 11] = seeds![
    "carried" "changed" "full" "garbage" "kinds" "lingering" "nested" "one_connection" "pairs" "read_ahead" "twice"
];

#[test]
fn every_seed_leaves_nothing_behind() {
    for (name, seed) in SEEDS {
        eprintln!("{name}");
        handoff(seed);
    }
}

#[test]
fn every_seed_is_known() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/handoff");
    // A virtual machine has no repository.
    let Ok(seeds) = std::fs::read_dir(folder) else { return };
    let mut names: Vec<_> = seeds.map(|seed| seed.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, SEEDS.map(|(name, _)| name));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_a_gate_sends_the_keeper_goes_on_and_keeps_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        handoff(&bytes);
    }
}
