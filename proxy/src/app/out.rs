//! Standard output, for the answers to what a person has typed.

use std::io::{self, ErrorKind, Write as _};

use anyhow::Context as _;

/// Prints text and a line end. A reader that has seen enough and closed its end (`sluice schema | head -1`) is no error.
///
/// # Errors
/// It cannot be written: the disk is full, for one.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}
