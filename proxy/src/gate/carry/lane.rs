//! One direction of a carried pair.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use proxy_common::layout::Direction;
use proxy_common::scan::Scanner;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::gate::kept::Kept;
use crate::gate::tls::end_reason;
use crate::handoff::stats::Stats;
use crate::handoff::{EndReason, close};
use crate::sys::clock::now_coarse_ns;
use crate::sys::mapped::Slot;

/// Bytes read at a time, and so the most that one direction keeps: four full TLS records (RFC 8446 §5.1).
const SCRATCH: usize = 64 * 1024;

/// Bytes that one direction moves before others have their turn: two reads.
const BUDGET: usize = 2 * SCRATCH;

thread_local! {
    /// Where all pairs of a thread read into: no pair is read while another one is.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// What a direction may still move in this turn.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn new() -> Self {
        Self(BUDGET)
    }

    /// Whether anything has been moved.
    pub(super) fn moved(&self) -> bool {
        self.0 < BUDGET
    }
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum State {
    /// Bytes may come.
    Open,
    /// This end of the pair is ours: the present frame goes to its end, then a Close frame, then the end.
    Parting,
    /// The source has ended: what is kept goes out, then the end.
    Ending,
    /// The end is out.
    Ended,
    /// The receiver failed. What the source still sends has nowhere to go; the other direction says when it is over.
    Broken,
}

/// One direction: what is kept of it, and where its frames stand.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Lane {
    scanner: Scanner,
    /// What the receiver has not taken.
    kept: Kept,
    direction: Direction,
    state: State,
    /// Bytes are in the TLS session that are not in the socket.
    unflushed: bool,
}

impl Lane {
    pub(super) fn new(direction: Direction) -> Self {
        Self { scanner: Scanner::START, kept: Kept::default(), direction, state: State::Open, unflushed: false }
    }

    /// Puts bytes in front that were read before the pair was carried.
    pub(super) fn preload(&mut self, bytes: Vec<u8>, stats: &Stats, slot: &mut Slot) {
        if !bytes.is_empty() {
            self.count(&bytes, stats, slot);
            self.kept = Kept::new(bytes);
        }
    }

    /// Sends the end of the stream although the source has not ended.
    pub(super) fn finish(&mut self) {
        if matches!(self.state, State::Open) {
            self.state = State::Ending;
        }
    }

    /// As [`Lane::finish`], but behind the present frame and a Close frame.
    pub(super) fn part(&mut self) {
        if matches!(self.state, State::Open) {
            self.state = State::Parting;
        }
    }

    /// Whether the receiver failed.
    pub(super) fn broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// Whether it waits for its receiver.
    pub(super) fn blocked(&self) -> bool {
        match self.state {
            State::Open | State::Parting => self.unflushed || !self.kept.is_empty(),
            State::Ending => true,
            State::Ended | State::Broken => false,
        }
    }

    /// Whether it waits for its source.
    pub(super) fn reading(&self) -> bool {
        self.open() && !self.blocked()
    }

    const fn open(&self) -> bool {
        matches!(self.state, State::Open | State::Parting)
    }

    /// Moves what can be moved; ready when the end of the stream is out, or the receiver has failed.
    ///
    /// # Errors
    /// The source failed: RST, or bytes that are no TLS. All that had come before is in the receiver's socket. Or a TLS
    /// connection must be parted from: what it is to get is kept for its last words.
    pub(super) fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        receiver: &mut W,
        stats: &Stats,
        slot: &mut Slot,
        budget: &mut Budget,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Err(error) = ready!(self.poll_out(cx, receiver)) {
                if parts(&error).is_some() {
                    return Poll::Ready(Err(error));
                }
                tracing::debug!(slot = slot.index(), direction = self.direction.label(), %error, "the receiver failed");
                self.state = State::Broken;
            }
            if !self.open() {
                return Poll::Ready(Ok(()));
            }
            if matches!(self.state, State::Parting) && self.scanner.at_boundary() {
                let close = close::frame(close::SERVICE_RESTART, self.direction);
                self.count(&close, stats, slot);
                self.kept = Kept::new(close);
                self.state = State::Ending;
                continue;
            }
            if budget.0 == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            budget.0 = budget.0.saturating_sub(ready!(self.poll_in(cx, source, receiver, stats, slot))?);
        }
    }

    /// Moves on what a source that has failed had sent before, without an end of the stream behind it: the receiver
    /// is to get an RST. Ready when there is no more, or the receiver has failed too.
    pub(super) fn poll_rest<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        receiver: &mut W,
        stats: &Stats,
        slot: &mut Slot,
    ) -> Poll<()> {
        while !matches!(self.state, State::Ended | State::Broken) {
            let kept_is_out = ready!(self.poll_kept(cx, receiver));
            let more = kept_is_out.is_ok() && self.open();
            if !more || ready!(self.poll_in(cx, source, receiver, stats, slot)).is_err() {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Writes and flushes what is kept, and the end of the stream behind it.
    fn poll_out<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, receiver: &mut W) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Ended | State::Broken) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_kept(cx, receiver))?;
        if matches!(self.state, State::Ending) {
            ready!(Pin::new(receiver).poll_shutdown(cx))?;
            self.state = State::Ended;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_kept<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, receiver: &mut W) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut *receiver).poll_write(cx, self.kept.rest()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(receiver).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and writes on what the receiver takes at once. Returns how many bytes have been read.
    fn poll_in<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        receiver: &mut W,
        stats: &Stats,
        slot: &mut Slot,
    ) -> Poll<io::Result<usize>> {
        SPACE.with_borrow_mut(|space| {
            let mut buffer = ReadBuf::new(space);
            match ready!(Pin::new(source).poll_read(cx, &mut buffer)) {
                // The frame stays what it is.
                Err(_) if matches!(self.state, State::Parting) => buffer.clear(),
                other => other?,
            }
            let got = buffer.filled().len();
            if got == 0 {
                self.state = State::Ending;
                return Poll::Ready(Ok(0));
            }
            let used = self.count(buffer.filled(), stats, slot);
            let bytes = buffer.filled().get(..used).unwrap_or_default();
            // What it does not take, or fails on, is the next `poll_out`'s matter.
            let written = match Pin::new(receiver).poll_write(cx, bytes) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            };
            self.unflushed = true;
            self.kept = Kept::new(bytes.get(written..).unwrap_or_default().to_vec());
            Poll::Ready(Ok(got))
        })
    }

    /// How many of these bytes are to be passed on: all, or up to the end of the last frame.
    fn count(&mut self, bytes: &[u8], stats: &Stats, slot: &mut Slot) -> usize {
        let (now_ns, last, mut used) = (now_coarse_ns(), matches!(self.state, State::Parting), bytes.len());
        stats.update_carried(slot, |counters| {
            let counters = &mut counters.dirs[self.direction as usize];
            if last && !self.scanner.at_boundary() {
                used = self.scanner.feed_frame(bytes, counters);
            } else {
                self.scanner.feed(bytes, counters);
            }
            counters.last_activity_ns = now_ns;
        });
        used
    }
}

/// Why a pair must be parted from that has nothing but worn keys, if it says so with this error: everything else in it
/// is well, so it can be ended in good order.
pub(super) fn parts(error: &io::Error) -> Option<EndReason> {
    end_reason(error).filter(|reason| matches!(reason, EndReason::TlsKeyUpdate | EndReason::TlsKeyLimit))
}

#[cfg(test)]
#[path = "wakes_tests.rs"]
mod wakes_tests;
