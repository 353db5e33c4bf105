//! The only room with `unsafe`: each block says the fact that makes it sound.

pub mod mapped;
pub mod socket;
pub mod watch;
