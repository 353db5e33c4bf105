//! What a client sends over HTTP/2, before the HTTP/2 library reads it.
//!
//! The library takes names and values that no field can have (RFC 9113 §8.2.1: a line feed, an upper-case letter) for
//! errors of the compression, and ends the connection, with all WebSockets on it. RFC 9113 §8.1.1 asks for no more than
//! a reset of the stream. So the blocks of header fields are looked at first: one that is malformed is replaced by
//! another that the library resets the stream for, and that leaves its table as the client means it to be
//! ([`block::screen`]). All other bytes pass as they are; and all from the first on that cannot be understood.

mod block;
mod huffman;
mod table;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::table::Table;

/// Bytes of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;

/// The longest payload, which we ask for no change of (SETTINGS_MAX_FRAME_SIZE).
const LONGEST: usize = 16_384;

/// The most bytes of the frames of one block. 128 KiB: more than a head may have.
const MOST: usize = 128 * 1024;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In what passes: the connection's preface, or the payload of a frame without header fields.
    Passing(usize),
    /// In the head of a frame, of which so many bytes are gathered.
    Head(usize),
    /// In the payload of a frame with header fields, which begins at `from` in what is gathered.
    Block { from: usize, left: usize },
    /// In what is not looked at.
    Blind,
}

/// Looks at the frames of one direction. Pure.
#[derive(Debug)]
struct Screen {
    place: Place,
    /// The frames of the block that is not complete, and a frame's head that is not.
    held: BytesMut,
    /// The block itself, its stream, and whether its request ends with it.
    block: Option<(Vec<u8>, u32, bool)>,
    table: Table,
}

impl Screen {
    fn new() -> Self {
        Self { place: Place::Passing(super::PREFACE.len()), held: BytesMut::new(), block: None, table: Table::new() }
    }

    /// Whether so many bytes pass as they are.
    fn pass(&mut self, count: usize) -> bool {
        match &mut self.place {
            Place::Blind => true,
            Place::Passing(left) if *left > count => {
                *left -= count;
                true
            }
            _ => false,
        }
    }

    /// Takes bytes of the client, and gives those that are complete.
    fn feed(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while !bytes.is_empty() {
            let wanted = match self.place {
                Place::Blind => usize::MAX,
                Place::Passing(left) | Place::Block { left, .. } => left,
                Place::Head(have) => HEAD - have,
            };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            match &mut self.place {
                Place::Blind => out.extend_from_slice(now),
                Place::Passing(left) => {
                    *left -= now.len();
                    out.extend_from_slice(now);
                    if *left == 0 {
                        self.place = Place::Head(0);
                    }
                }
                Place::Head(have) => {
                    *have += now.len();
                    self.held.extend_from_slice(now);
                    if now.len() == wanted {
                        self.begin(out);
                    }
                }
                Place::Block { left, .. } => {
                    *left -= now.len();
                    self.held.extend_from_slice(now);
                    self.end_frame(out);
                }
            }
        }
    }

    /// A frame begins whose head is complete.
    fn begin(&mut self, out: &mut BytesMut) {
        let from = self.held.len();
        let Some([a, b, c, kind, _, id @ ..]) = self.held.get(from - HEAD..) else { return };
        let (left, kind) = (length([*a, *b, *c]), *kind);
        let id = id.try_into().map_or(0, u32::from_be_bytes) & 0x7fff_ffff;
        let fits = left <= LONGEST && from + left <= MOST;
        match &self.block {
            None if kind == HEADERS && fits => self.block = Some((Vec::new(), id, false)),
            Some((_, of, _)) if kind == CONTINUATION && fits && *of == id => {}
            None if kind != HEADERS => {
                out.extend_from_slice(&self.held.split());
                self.place = if left == 0 { Place::Head(0) } else { Place::Passing(left) };
                return;
            }
            _ => return self.give_up(out),
        }
        self.place = Place::Block { from, left };
        self.end_frame(out);
    }

    /// Takes the part of the block out of a frame, if that is complete.
    fn end_frame(&mut self, out: &mut BytesMut) {
        let Place::Block { from, left: 0 } = self.place else { return };
        self.place = Place::Head(0);
        let (Some([_, _, _, kind, flags, ..]), Some(payload)) =
            (self.held.get(from - HEAD..from), self.held.get(from..))
        else {
            return;
        };
        let flags = *flags;
        let part = if *kind == HEADERS { unpadded(payload, flags) } else { Some(payload) };
        let (Some(part), Some((block, _, over))) = (part, &mut self.block) else { return self.give_up(out) };
        block.extend_from_slice(part);
        *over |= *kind == HEADERS && flags & END_STREAM != 0;
        if flags & END_HEADERS != 0 {
            self.end_block(out);
        }
    }

    fn end_block(&mut self, out: &mut BytesMut) {
        let Some((block, id, over)) = self.block.take() else { return };
        match block::screen(&block, &mut self.table) {
            Ok(None) => out.extend_from_slice(&self.held.split()),
            Ok(Some(instead)) => {
                tracing::debug!(stream = id, "a malformed head over HTTP/2: its stream is reset");
                self.held.clear();
                write(&instead, id, over, out);
            }
            Err(block::Unreadable) => self.give_up(out),
        }
    }

    /// Everything passes from here on: the library finds what is wrong.
    fn give_up(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.held.split());
        (self.block, self.place) = (None, Place::Blind);
    }
}

fn length([a, b, c]: [u8; 3]) -> usize {
    u32::from_be_bytes([0, a, b, c]) as usize
}

/// The part of a block in the payload of HEADERS (RFC 9113 §6.2). `None`: there is more padding than payload.
fn unpadded(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let (padding, payload) = if flags & PADDED == 0 {
        (0, payload)
    } else {
        let (padding, payload) = payload.split_first()?;
        (usize::from(*padding), payload)
    };
    let payload = payload.get(if flags & PRIORITY == 0 { 0 } else { 5 }..)?;
    payload.get(..payload.len().checked_sub(padding)?)
}

/// Writes a block as the frames of a stream.
fn write(block: &[u8], id: u32, over: bool, out: &mut BytesMut) {
    let last = block.len().div_ceil(LONGEST).saturating_sub(1);
    for (place, part) in block.chunks(LONGEST).enumerate() {
        let kind = if place == 0 { HEADERS } else { CONTINUATION };
        let end = if place == last { END_HEADERS } else { 0 };
        let flags = end | if place == 0 && over { END_STREAM } else { 0 };
        out.extend_from_slice((part.len() as u32).to_be_bytes().get(1..).unwrap_or_default());
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(part);
    }
}

/// A connection whose client's frames are looked at before they are read.
pub(in crate::gate) struct Screened<S> {
    io: S,
    screen: Screen,
    /// What has passed and was not read yet.
    ready: Bytes,
}

impl<S> Screened<S> {
    /// A connection at its preface.
    pub(in crate::gate) fn new(io: S) -> Self {
        Self { io, screen: Screen::new(), ready: Bytes::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let new = buf.filled().get(before..).unwrap_or_default();
            if new.is_empty() {
                // The end, or no room. What is held back is no whole head, and no whole frame: nobody can use it.
                return Poll::Ready(Ok(()));
            }
            if this.screen.pass(new.len()) {
                return Poll::Ready(Ok(()));
            }
            let mut out = BytesMut::with_capacity(new.len());
            this.screen.feed(new, &mut out);
            buf.set_filled(before);
            this.ready = out.freeze();
        }
        let taken = this.ready.split_to(this.ready.remaining().min(buf.remaining()));
        buf.put_slice(&taken);
        if this.ready.is_empty() {
            this.ready = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
