//! The whole gate on real sockets, with a keeper played by the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admin;
mod auth;
mod authorities;
mod backend_tls;
mod bench;
mod certificates;
mod clients;
mod hand_over;
mod http2;
mod identity;
mod limits;
mod plain;
mod proxy_headers;
mod refusals;
mod requests;
mod secure;
mod silence;
mod user_tls;
