//! The relay with real sockets, the same tests over every engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod both_ends;
mod bytes;
mod chaos;
mod craft;
mod cuts;
mod ends;
mod far;
mod rig;
mod tls;
mod watch;
