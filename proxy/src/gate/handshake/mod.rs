//! The WebSocket handshake, judged: heads in, verdicts out. No socket, no clock.
//!
//! * [`Visitor`]: whom a request comes from, when proxies stand before Sluice.
//! * [`Target`]: whom it is for.
//! * [`Opening`]: what a client's request says, once RFC 6455 §4.2.1 has found nothing wrong with it.
//! * [`forward`]: which headers pass, and which are ours.
//! * [`check_switch`]: what a backend's 101 is worth (RFC 6455 §4.1, the client's part).

mod answer;
pub(super) mod forward;
mod forwarded;
mod grammar;
mod path;
mod request;
mod target;

#[cfg(test)]
mod tests;

pub(super) use answer::check_switch;
pub(super) use forwarded::Visitor;
pub(super) use path::PlainPath;
pub(super) use request::{Caller, Opening, Scheme};
pub(super) use target::Target;
