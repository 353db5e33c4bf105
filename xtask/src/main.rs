//! Builds, runs, tests and measures Sluice.
fn main() {}
