//! What could not be passed on yet.

/// Bytes in a queue that is filled when it is empty; without memory while it is.
#[derive(Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// How many of them have been passed on.
    done: usize,
}

impl Kept {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, done: 0 }
    }

    /// What is still to be passed on.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.done..).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// So many bytes of [`Kept::rest`] have been passed on.
    pub(super) fn advance(&mut self, count: usize) {
        self.done += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
