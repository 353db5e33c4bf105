//! How long a client may take between two requests.

use std::time::Duration;

/// How long a client may take to send its next request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until its first byte.
    pub(super) idle: Duration,
    /// From there to the end of its head.
    pub(super) head: Duration,
}

/// What the wait for a next request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The answer before it is still being sent.
    Answer,
    /// Nothing of it has come, beyond these bytes of what came before.
    Idle(u64),
    /// The rest of its head.
    Head,
}

impl Wait {
    /// Looks how far things are: how many bytes have been read, and whether the client is still being answered. Returns how
    /// long the new wait may take, if it is a new one.
    pub(super) fn advance(&mut self, read: u64, answering: bool, patience: Patience) -> Option<Duration> {
        match *self {
            Self::Answer if !answering => {
                *self = Self::Idle(read);
                Some(patience.idle)
            }
            Self::Idle(before) if read > before => {
                *self = Self::Head;
                Some(patience.head)
            }
            _ => None,
        }
    }
}
