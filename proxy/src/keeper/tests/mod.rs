//! The keeper beside a gate that is a test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bench;
pub(in crate::keeper) mod closes;
mod gates;
mod hand_over;
mod sequences;
