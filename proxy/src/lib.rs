//! Sluice: a WebSocket proxy whose established connections are carried by the kernel.
//!
//! Rooms, and who may look into whom: `app → {gate, keeper, observe} → handoff, config, kernel, sys → proxy-common`.

pub mod config;
pub mod echo;
pub mod gate;
pub mod handoff;
pub mod observe;
pub mod sys;
