//! A TLS connection that cannot go on, as an [`io::Error`].

use std::io;

use crate::handoff::EndReason;
use crate::ktls::Why;

/// The error.
#[derive(Debug, thiserror::Error)]
#[error("{}", match .0 {
    Why::Alert(alert) => format!("the peer sent TLS alert {alert}"),
    Why::Protocol(alert) => format!("what the peer sent is no TLS here; it was sent alert {alert}"),
    Why::KeyUpdate => "the peer changed its TLS keys, which cannot be followed".to_owned(),
    Why::KeyLimit => "the TLS key has been used as often as it may, and cannot be changed".to_owned(),
})]
pub(super) struct Broken(pub(super) Why);

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        Self::new(io::ErrorKind::InvalidData, broken)
    }
}

/// Why the TLS connection cannot go on that said this; `None`: something else failed.
pub(super) fn why(error: &io::Error) -> Option<Why> {
    error.get_ref()?.downcast_ref().map(|Broken(why)| *why)
}

/// Why a pair ends with this error of one of its sides, if it is TLS's.
pub(in crate::gate) fn end_reason(error: &io::Error) -> Option<EndReason> {
    why(error).map(EndReason::of_tls)
}
