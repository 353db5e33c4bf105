//! A socket as tokio has it, with a peer: what the model of wake-ups stands on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::gate::tls::Socket;

/// What a socket takes before it is full: a record of one frame, and a part of the next.
const ROOM: usize = 30;

/// Rules that can be broken on purpose, to see that the exploration would notice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Nothing,
    /// A lane that has spent its budget sleeps.
    NoWakeAtBudget,
    /// Nobody is told that a socket has room again.
    NoWakeForWriters,
    /// A short read clears the readiness although an edge came meanwhile.
    NoTicks,
}

thread_local! {
    pub(super) static ORACLE: RefCell<Oracle> = const { RefCell::new(Oracle::USUAL) };
}

/// What happens at the calls of sockets within one poll: tries all of it, one after the other.
pub(super) struct Oracle {
    /// For each call, what it was to be and of how many; calls beyond it are usual ones.
    script: Vec<(usize, usize)>,
    at: usize,
}

impl Oracle {
    pub(super) const USUAL: Self = Self { script: Vec::new(), at: 0 };

    pub(super) fn choose(&mut self, of: usize) -> usize {
        if self.at == self.script.len() {
            self.script.push((0, of));
        }
        self.at += 1;
        self.script[self.at - 1].0
    }

    /// On to the next script with so many departures from the usual. Whether there is one.
    pub(super) fn next(&mut self, oddities: usize) -> bool {
        self.at = 0;
        while let Some((choice, of)) = self.script.pop() {
            let odd = self.script.iter().filter(|(choice, _)| *choice > 0).count();
            if choice + 1 < of && odd < oddities {
                self.script.push((choice + 1, of));
                return true;
            }
        }
        false
    }
}

/// A socket as tokio has it, and its peer.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) broken: Broken,
    pub(super) piece: usize,
    /// What the peer sends and has not sent; behind it comes its FIN.
    pub(super) coming: VecDeque<u8>,
    pub(super) arrived: VecDeque<u8>,
    pub(super) fin_arrived: bool,
    pub(super) written: VecDeque<u8>,
    pub(super) fin_written: bool,
    /// What the peer has read.
    pub(super) taken: VecDeque<u8>,
    /// SOCK_NOSPACE: a write found too little room.
    pub(super) full: bool,
    /// Edges that the event loop has not seen: readable, writable.
    pub(super) edges: [bool; 2],
    /// What it believes.
    pub(super) ready: [bool; 2],
    /// It has seen the FIN, which nothing clears.
    pub(super) closed: bool,
    /// How many edges it has seen.
    pub(super) tick: usize,
    /// Whether the task has left its waker.
    pub(super) waiting: [bool; 2],
}

pub(super) const READ: usize = 0;
pub(super) const WRITE: usize = 1;

impl Wire {
    pub(super) fn new(coming: VecDeque<u8>, piece: usize, broken: Broken) -> Self {
        Self {
            broken,
            piece,
            coming,
            arrived: VecDeque::new(),
            fin_arrived: false,
            written: VecDeque::new(),
            fin_written: false,
            taken: VecDeque::new(),
            full: false,
            edges: [false, true],
            ready: [false; 2],
            closed: false,
            tick: 0,
            waiting: [false; 2],
        }
    }

    /// The peer sends. Whether it could.
    pub(super) fn arrive(&mut self) -> bool {
        if self.fin_arrived {
            return false;
        }
        self.fin_arrived = self.coming.is_empty();
        let piece = self.piece.min(self.coming.len());
        self.arrived.extend(self.coming.drain(..piece));
        self.edges[READ] = true;
        true
    }

    /// The peer reads. Whether it could.
    pub(super) fn leave(&mut self) -> bool {
        let piece = self.piece.min(self.written.len());
        self.taken.extend(self.written.drain(..piece));
        // sk_stream_is_writeable: a third of the buffer is free.
        if self.full && 3 * (ROOM - self.written.len()) >= ROOM {
            self.full = false;
            self.edges[WRITE] = self.broken != Broken::NoWakeForWriters;
        }
        piece > 0
    }

    /// The event loop sees the edges. Whether the task is woken.
    pub(super) fn turn(&mut self) -> bool {
        let mut wakes = false;
        self.closed |= self.edges[READ] && self.fin_arrived;
        for way in [READ, WRITE] {
            if std::mem::take(&mut self.edges[way]) {
                self.tick += 1;
                self.ready[way] = true;
                wakes |= std::mem::take(&mut self.waiting[way]);
            }
        }
        wakes
    }

    pub(super) fn is_about_to_wake(&self) -> bool {
        [READ, WRITE].iter().any(|&way| self.edges[way] && self.waiting[way])
    }

    /// `Registration::poll_ready`, and what may happen at this moment.
    pub(super) fn poll_ready(&mut self, way: usize, cx: &Context<'_>) -> Poll<()> {
        match ORACLE.with_borrow_mut(|oracle| oracle.choose(3)) {
            0 => {}
            1 => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => self.be_quick(cx),
        }
        if !(self.ready[way] || (way == READ && self.closed)) {
            self.waiting[way] = true;
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The peer sends and reads what it can, and the event loop sees it.
    pub(super) fn be_quick(&mut self, cx: &Context<'_>) {
        self.arrive();
        self.leave();
        if self.turn() {
            cx.waker().wake_by_ref();
        }
    }

    /// `Registration::clear_readiness`, of readiness that was seen at `tick`.
    pub(super) fn clear(&mut self, way: usize, tick: usize) {
        if tick == self.tick || self.broken == Broken::NoTicks {
            self.ready[way] = false;
        }
    }

    /// The system call has been made, and its result has not been looked at: a peer may act now.
    pub(super) fn between(&mut self, cx: &Context<'_>) {
        if ORACLE.with_borrow_mut(|oracle| oracle.choose(2)) == 1 {
            self.be_quick(cx);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_ready(READ, cx));
            let (tick, room) = (self.tick, buffer.remaining());
            let got = room.min(self.arrived.len());
            let end = got == 0 && self.fin_arrived;
            let bytes: Vec<u8> = self.arrived.drain(..got).collect();
            buffer.put_slice(&bytes);
            self.between(cx);
            // tokio takes a short read for an empty socket.
            if got < room {
                self.clear(READ, tick);
            }
            if got > 0 || end {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(WRITE, cx));
            let tick = self.tick;
            let count = bytes.len().min(ROOM - self.written.len());
            self.written.extend(bytes.iter().take(count));
            if count < bytes.len() {
                self.full = true;
            }
            self.between(cx);
            if count < bytes.len() {
                self.clear(WRITE, tick);
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fin_written = true;
        Poll::Ready(Ok(()))
    }
}

impl Socket for Wire {
    fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(WRITE, cx).map(Ok)
    }
}
