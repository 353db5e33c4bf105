//! The relay with real sockets, the same tests over every engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod bytes;
mod craft;
mod ends;
mod far;
mod rig;
mod tls;
