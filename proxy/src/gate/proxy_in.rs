//! PROXY headers from clients' connections: read to their last byte and no further.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::proxy_header::{self, Ends, Progress};

/// Why there is no header.
pub(super) enum NoHeader {
    /// The client closed, or broke.
    Gone,
    /// What it sent is none, or did not come in time.
    Malformed,
    /// Not one byte has come in time.
    Silent,
}

/// Reads the header that a connection begins with. `None`: it says nothing of the client.
/// Not cancel safe: what was read is lost.
///
/// # Errors
/// [`NoHeader`].
pub(super) async fn read(stream: &mut TcpStream, deadline: Instant) -> Result<Option<Ends>, NoHeader> {
    if timeout_at(deadline, stream.readable()).await.is_err() {
        return Err(NoHeader::Silent);
    }
    match timeout_at(deadline, read_all(stream)).await {
        Ok(Ok(Some(ends))) => Ok(ends),
        Ok(Ok(None)) | Err(_) => Err(NoHeader::Malformed),
        Ok(Err(_)) => Err(NoHeader::Gone),
    }
}

/// `None`: it is malformed.
async fn read_all(stream: &mut TcpStream) -> io::Result<Option<Option<Ends>>> {
    let mut bytes = Vec::new();
    loop {
        let more = match proxy_header::read(&bytes) {
            Progress::Done(ends) => return Ok(Some(ends)),
            Progress::Malformed => return Ok(None),
            Progress::More(more) => more,
            Progress::Line(most) => to_line_end(stream, most).await?,
        };
        let begun = bytes.len();
        bytes.resize(begun + more, 0);
        // What comes of a header is looked at as it comes: a stranger's first bytes tell it from one.
        let got = stream.read(bytes.get_mut(begun..).unwrap_or_default()).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(begun + got);
    }
}

/// How many of the bytes that have come belong to the line, its end included.
async fn to_line_end(stream: &TcpStream, most: usize) -> io::Result<usize> {
    let mut ahead = vec![0; most];
    let seen = stream.peek(&mut ahead).await?;
    let seen = ahead.get(..seen).unwrap_or_default();
    // None have come: reading shows the end.
    Ok(seen.iter().position(|byte| *byte == b'\n').map_or(seen.len(), |at| at + 1).max(1))
}
