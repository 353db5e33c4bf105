//! Sluice: a WebSocket proxy whose established connections are carried by the kernel.
//!
//! Rooms, and who may look into whom: `app → {gate, keeper, observe, echo} → handoff, config, kernel, ktls, logging, sys →
//! proxy-common`. The gate and the keeper know each other only through `handoff`.

// A closed pipe or a full disk makes the macros of std panic: `app::out` and `logging` write instead.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod app;
pub mod config;
pub mod echo;
pub mod gate;
pub mod handoff;
pub mod keeper;
pub mod kernel;
pub mod ktls;
pub mod logging;
pub mod observe;
pub mod sys;
