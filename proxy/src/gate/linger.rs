//! Closing behind an answer.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// As long as a client's last segments may need to cross a slow network.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most that is read from a client that goes on sending: a request head of the largest size.
const MOST: usize = 64 * 1024;

/// Closes a stream so that what was written last arrives.
///
/// A socket that is closed with unread bytes answers with RST, and an RST makes the client's kernel discard what the
/// client has not read yet (RFC 9112 §9.6): so our end is closed first, and then read for a while.
/// Cancel safe: the stream is closed at once.
pub(super) async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let close = async {
        stream.shutdown().await?;
        let (mut scratch, mut seen) = ([0; 1024], 0);
        while seen < MOST {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => seen += read,
            }
        }
        std::io::Result::Ok(())
    };
    // However it ends, the stream is dropped.
    let _ = timeout(PATIENCE, close).await;
}
