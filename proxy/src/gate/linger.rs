//! Closing behind an answer.
//!
//! A socket that is closed with unread bytes answers with RST, and an RST makes the client's kernel discard what the
//! client has not read yet (RFC 9112 §9.6): so our end is closed first, and then read for a while.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

/// As long as a client's last segments may need to cross a slow network.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most that is read from a client that goes on sending: a request head of the largest size.
const MOST: usize = 64 * 1024;

/// How long a client that has been answered is waited for before it sends anything more: two of its round trips on a slow
/// network.
const FIRST: Duration = Duration::from_secs(2);

/// How long one that is sending its body still may pause. 5 s, as NGINX's `lingering_timeout`: a lost segment is there
/// again by then.
const PAUSE: Duration = Duration::from_secs(5);

/// How long one may send its body in all. 30 s, as NGINX's `lingering_time`.
const UPLOAD_TIME: Duration = Duration::from_secs(30);

/// The most of a body that is read and thrown away. 1 GiB: more than ordinary clients send without looking for an answer.
const UPLOAD_MOST: usize = 1024 * 1024 * 1024;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// Closes a stream so that what was written last arrives, whose other end has hardly more to send.
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

/// Closes a client's stream so that its last answer arrives, although the client may be sending its request's body still:
/// many read no answer before they have sent all of it.
/// Cancel safe: the stream is closed at once.
pub(super) async fn close_answered<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    // However it ends, the stream is dropped.
    let _ = timeout(UPLOAD_TIME, discard(&mut stream)).await;
}

async fn discard<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> std::io::Result<()> {
    let mut by = Instant::now() + FIRST;
    timeout_at(by, stream.shutdown()).await??;
    let (mut piece, mut seen) = (BytesMut::with_capacity(PIECE), 0);
    while seen < UPLOAD_MOST {
        piece.clear();
        match timeout_at(by, stream.read_buf(&mut piece)).await?? {
            0 => break,
            read => seen += read,
        }
        by = Instant::now() + PAUSE;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tokio::io::duplex;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_to_its_end_and_pauses_are_borne() {
        let (mut client, server) = duplex(PIECE);
        let closing = tokio::spawn(close_answered(server));
        for _ in 0..5 {
            client.write_all(&[0; 1_000_000]).await.unwrap();
            sleep(PAUSE - Duration::from_millis(1)).await;
        }
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "our end is closed first");
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_sends_nothing_is_waited_for_shortly_and_nobody_for_ever() {
        let begin = Instant::now();
        let (_silent, server) = duplex(PIECE);
        close_answered(server).await;
        assert_eq!(begin.elapsed().as_secs(), FIRST.as_secs());
        let (mut client, server) = duplex(PIECE);
        let sending = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                sleep(FIRST / 2).await
            }
        });
        let begin = Instant::now();
        close_answered(server).await;
        assert_eq!(begin.elapsed().as_secs(), UPLOAD_TIME.as_secs());
        sending.await.unwrap();
    }
}
