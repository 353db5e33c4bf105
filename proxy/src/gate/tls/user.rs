//! A connection whose TLS keys are in this process, in tokio's event loop.
//!
//! An idle one has no buffer: bytes come and go through scratch spaces that all connections of a thread share. What is
//! kept beside the keys, in spaces of just its size, is the beginning of a record, data that the reader had no room for,
//! and records that TCP did not take.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::broken::Broken;
use super::record::{CONTENT, LONGEST, OVERHEAD};
use super::session::{AT_ONCE, Incoming, Session};
use crate::gate::kept::Kept;
use crate::ktls::Handshaken;

/// Bytes read at a time.
const SCRATCH: usize = 64 * 1024;

/// What can be sealed at a time: an alert, a KeyUpdate and full records.
const SEALED: usize = 2 * (OVERHEAD + 8) + AT_ONCE * (OVERHEAD + CONTENT);

thread_local! {
    /// Where all connections of a thread read their records into: none is read while another one is.
    static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
    /// Where they seal theirs.
    static OUTGOING: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SEALED));
}

/// What is below: TCP, and in the model of wake-ups what stands for it.
pub(in crate::gate) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// As [`TcpStream::poll_write_ready`].
    fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Socket for TcpStream {
    fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_write_ready(self, cx)
    }
}

/// The connection.
#[cfg_attr(test, derive(Clone))]
pub(in crate::gate) struct UserTls<S = TcpStream> {
    tcp: S,
    session: Session,
    /// Data that the reader had no room for.
    opened: Kept,
    /// Records that TCP has not taken.
    sealed: Kept,
}

// No buffer may come in here. Beside it there are the secrets of TLS 1.3, two times 32 or 48 bytes.
const _: () = assert!(size_of::<UserTls>() <= 384);

impl<S: Socket> UserTls<S> {
    /// Goes on behind a handshake, at a record boundary both ways. `limit`: records to send with one key.
    pub(in crate::gate) fn new(tcp: S, done: Handshaken, limit: u64) -> Self {
        Self { tcp, session: Session::new(done, limit), opened: Kept::default(), sealed: Kept::default() }
    }

    /// The TCP connection below.
    pub(in crate::gate) fn tcp(&self) -> &S {
        &self.tcp
    }

    /// The TCP connection alone, for the end of both.
    pub(in crate::gate) fn into_tcp(self) -> S {
        self.tcp
    }

    /// The connection is about to be ended: a worn key is still good for the last frames.
    pub(in crate::gate) fn allow_last_words(&mut self) {
        self.session.allow_last_words();
    }

    #[cfg(test)]
    pub(in crate::gate) fn tcp_mut(&mut self) -> &mut S {
        &mut self.tcp
    }

    /// Bytes that it keeps: for its reader, for TCP, of a record.
    #[cfg(test)]
    pub(in crate::gate) fn kept(&self) -> [usize; 3] {
        [self.opened.rest().len(), self.sealed.rest().len(), self.session.begun().len()]
    }

    /// Gives the reader what is left from before.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = self.opened.rest();
        let part = rest.get(..buffer.remaining()).unwrap_or(rest);
        let given = part.len();
        buffer.put_slice(part);
        self.opened.advance(given);
    }

    /// One read of the socket, and the records that are whole with it. What `buffer` has no room for is kept.
    fn poll_records(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, session, opened, .. } = self;
        INCOMING.with_borrow_mut(|space| {
            // No more than the reader has room for, but at least a record.
            let (begun, most) = (session.begun().len(), buffer.remaining().max(LONGEST));
            let end = space.len().min(begun + most);
            let mut fresh = ReadBuf::new(space.get_mut(begun..end).unwrap_or_default());
            ready!(Pin::new(tcp).poll_read(cx, &mut fresh))?;
            let got = fresh.filled().len();
            if got == 0 {
                // A FIN without close_notify: what a FIN is on a plain connection. Frames have their own lengths and
                // their own Close, so a truncation by a third party is seen one layer up.
                session.end();
                return Poll::Ready(Ok(()));
            }
            let front = space.get_mut(..begun + got).unwrap_or_default();
            for (place, byte) in front.iter_mut().zip(session.begun()) {
                *place = *byte;
            }
            let mut spilled = Vec::new();
            session.open(front, |data| {
                let (fits, rest) = data.split_at_checked(buffer.remaining()).unwrap_or((data, &[]));
                buffer.put_slice(fits);
                spilled.extend_from_slice(rest);
            });
            spilled.shrink_to_fit();
            *opened = Kept::new(spilled);
            Poll::Ready(Ok(()))
        })
    }

    /// Sends the alert that is owed as far as there is room: whoever keeps sending without reading gets none.
    fn say(&mut self, cx: &mut Context<'_>) {
        if self.session.owes_alert() && matches!(self.poll_sealed(cx), Poll::Ready(Ok(()))) {
            let mut out = Vec::new();
            self.session.say(&mut out);
            self.sealed = Kept::new(out);
            // What fails here fails again where it is told.
            let _ = self.poll_sealed(cx);
        }
    }

    /// Writes what TCP has not taken before.
    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sealed.is_empty() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, self.sealed.rest()))?;
            self.sealed.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> AsyncRead for UserTls<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            this.give(buffer);
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.session.incoming() {
                Incoming::Open => {}
                Incoming::Ended => return Poll::Ready(Ok(())),
                Incoming::Broken(why) => return Poll::Ready(Err(Broken(why).into())),
            }
            ready!(this.poll_records(cx, buffer))?;
            this.say(cx);
        }
    }
}

impl<S: Socket> AsyncWrite for UserTls<S> {
    /// What it takes it keeps until TCP has it, and takes no more before.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_sealed(cx))?;
        match this.session.incoming() {
            Incoming::Broken(why) => return Poll::Ready(Err(Broken(why).into())),
            _ if this.session.closed() => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Incoming::Open | Incoming::Ended => {}
        }
        ready!(this.tcp.poll_write_ready(cx))?;
        OUTGOING.with_borrow_mut(|out| {
            out.clear();
            let taken = this.session.seal(bytes, out).map_err(Broken)?;
            let written = match Pin::new(&mut this.tcp).poll_write(cx, out)? {
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            };
            this.sealed = Kept::new(out.get(written..).unwrap_or_default().to_vec());
            Poll::Ready(Ok(taken))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sealed(cx)
    }

    /// close_notify, and a FIN behind it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sealed(cx))?;
        let mut last = Vec::new();
        this.session.close(&mut last);
        this.sealed = Kept::new(last);
        ready!(this.poll_sealed(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}
