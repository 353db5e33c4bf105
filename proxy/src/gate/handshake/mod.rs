//! The WebSocket handshake, judged: heads in, verdicts out. No socket, no clock.
//!
//! * [`Visitor`]: whom a request comes from, when proxies stand before Sluice.
//! * [`settle`]: whom it is for, written in one way; [`Target`]: what is read of that.
//! * [`Opening`]: what a client's request says, once RFC 6455 §4.2.1 has found nothing wrong with it.
//! * [`Plain`]: what a request that is none says, once it is found to have one reading only.
//! * [`http2`]: the same requests over HTTP/2.
//! * [`forward`]: which headers pass, and which are ours.
//! * [`check_switch`]: what a backend's 101 is worth (RFC 6455 §4.1, the client's part); [`check_framing`], any other answer.

mod answer;
pub(super) mod forward;
mod forwarded;
mod grammar;
pub(super) mod http2;
mod path;
mod plain;
mod request;
mod settle;
mod target;

#[cfg(test)]
mod tests;

pub(super) use answer::{check_framing, check_switch};
pub(super) use forward::as_cgi;
pub(super) use forwarded::Visitor;
pub(super) use path::{PlainPath, decode_leniently, is_below, is_same};
pub(super) use plain::{Plain, asks_for_websocket};
pub(super) use request::{Caller, Opening, Scheme, key};
pub(super) use settle::{Fragment, settle};
pub(super) use target::{Target, is_for_the_server};
