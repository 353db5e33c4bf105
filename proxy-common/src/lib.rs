//! What the kernel program and the proxy share.
//!
//! * [`layout`]: the keys and values of the BPF maps, fixed-width, padded by hand, their sizes asserted.
//! * [`scan`]: the RFC 6455 frame-header scanner that counts, in the kernel and in userspace alike.
//! * [`flow`]: the rules by which a direction of a pair moves between kernel and user mode.
//!
//! Nothing here allocates, reads a clock or touches a socket.
#![no_std]
#![forbid(unsafe_code)]

pub mod flow;
pub mod layout;
pub mod scan;
