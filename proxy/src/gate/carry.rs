//! Pairs of which a TLS key or an HTTP/2 connection is in this process: one task each moves their bytes.
//!
//! An idle pair has no buffer of ours: bytes are read into a scratch space that all pairs of a thread share and
//! written on at once; only what the receiver does not take is kept, and while something is kept its source is not
//! read.

mod lane;
mod limits;
mod patrol;

use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use proxy_common::layout::{Direction, PairCounters};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use self::lane::{Budget, Lane, parts};
use self::limits::{Due, Limits};
pub(super) use self::patrol::Patrol;
use super::admission::Permit;
use super::fleet::Berth;
use super::refusal::Refusal;
use super::session::Quiesced;
use super::stream::Stream;
use super::tls::end_reason;
use super::{Gate, linger};
use crate::handoff::stats::Short;
use crate::handoff::{EndReason, ToKeeper, WhyNot};
use crate::sys::mapped::Slot;
use crate::sys::patience::{self, Patience};
use crate::sys::socket::is_acknowledged;

/// How long the last bytes to one side may take to be acknowledged after the other side has failed.
const RESET_LINGER: Duration = Duration::from_secs(5);

/// How often to look whether they are.
const POLL: Duration = Duration::from_millis(5);

/// A place among the carried pairs; given back when dropped.
pub(super) struct Place {
    slot: Slot,
    gate: Arc<Gate>,
}

impl Place {
    /// Takes one.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take(gate: &Arc<Gate>) -> Result<Self, Refusal> {
        let slot = gate.slots.take().ok_or_else(|| {
            gate.short(Short::Connections, None);
            Refusal::Full
        })?;
        Ok(Self { slot, gate: gate.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.patrol.leave(self.slot.index());
        self.gate.slots.give_back(&self.slot);
    }
}

/// Carries a pair from now on, in a task of its own.
///
/// # Errors
/// The keeper is gone, or a socket is: the pair is closed.
pub(super) async fn begin(pair: Quiesced, mut place: Place, why_not: WhyNot, gate: &Arc<Gate>) -> io::Result<()> {
    let relay = &gate.config.relay;
    for stream in [&pair.client, &pair.backend] {
        stream.watch_for_death(relay.keepalive, relay.user_timeout)?;
    }
    // The place may have had another tenant.
    gate.stats.update_carried(&mut place.slot, |counters| *counters = PairCounters::ZERO);
    let open = ToKeeper::CarriedOpen { slot: place.slot.index(), facts: pair.facts.clone(), why_not };
    gate.control.send(&open, &[]).await?;
    // A task of its own: the handshake's task is as large as its largest state, and would stay.
    tokio::spawn(carry_on(Box::new(Carry::new(pair, place))));
    Ok(())
}

/// The task of a pair.
async fn carry_on(mut carry: Box<Carry>) {
    let ended = loop {
        if let Poll::Ready(ended) = poll_fn(|cx| Poll::Ready(carry.turn(cx))).await {
            break ended;
        }
        if let Some(side) = carry.woken().await {
            break Err(Failed { side, reason: side.reason() });
        }
    };
    // Its timers and messages need room that the living pair need not have.
    Box::pin((*carry).end(ended)).await;
}

/// A side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

impl Side {
    fn reason(self) -> EndReason {
        match self {
            Self::Client => EndReason::ClientFailed,
            Self::Backend => EndReason::BackendFailed,
        }
    }
}

/// What a pair has ended of.
#[derive(Debug)]
struct Failed {
    side: Side,
    reason: EndReason,
}

impl Failed {
    /// Whether this side is to read why: what broke the protocol has been sent an alert, which an RST would overtake.
    fn told(&self, side: Side) -> bool {
        self.reason == EndReason::TlsProtocol && self.side == side
    }
}

/// A pair that this process carries.
struct Carry {
    client: Stream,
    backend: Stream,
    to_backend: Lane,
    to_client: Lane,
    place: Place,
    limits: Option<Box<Limits>>,
    /// The round of the patrol after which this pair looks at its sockets; none while nothing waits in them.
    patrol: Option<u32>,
    /// It is being ended because of worn keys.
    parting: bool,
    /// With peers that do not read: with the client, with the backend.
    patience: [Patience; 2],
    _permit: Permit,
    _berth: Berth,
}

// What one idle pair costs beside its TLS sessions and tokio's state of a task and two sockets, and its seat (32
// bytes): no buffer may come in here.
const _: () = assert!(size_of::<Carry>() + size_of_task(&carry_on) <= 592);

const fn size_of_task<F>(_: &impl Fn(Box<Carry>) -> F) -> usize {
    size_of::<F>()
}

impl Carry {
    fn new(pair: Quiesced, mut place: Place) -> Self {
        let mut to_backend = Lane::new(Direction::ClientToBackend);
        let mut to_client = Lane::new(Direction::BackendToClient);
        let (stats, slot) = (&place.gate.stats, &mut place.slot);
        to_backend.preload(pair.to_backend.into(), stats, slot);
        to_client.preload(pair.to_client.into(), stats, slot);
        let patience = [&pair.client, &pair.backend].map(|stream| Patience::of(stream.is_tcp()));
        Self {
            client: pair.client,
            backend: pair.backend,
            to_backend,
            to_client,
            limits: Limits::new(place.gate.config.ages(pair.facts.route), pair.facts.time_left(SystemTime::now())),
            // A round that is over: the first look comes with the first turn, behind what was sent before.
            patrol: Some(place.gate.patrol.round().wrapping_sub(1)),
            place,
            parting: false,
            patience,
            _permit: pair.permit,
            _berth: pair.berth,
        }
    }

    /// Moves what can be moved, and does what it is time for. Ready when the pair is over.
    ///
    /// # Errors
    /// The side that failed.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        match self.limits.as_mut().and_then(|limits| limits.poll(cx)) {
            None => {}
            Some(Due::Farewell) => {
                self.to_backend.finish();
                self.to_client.finish();
            }
            // A peer that does not take its end of stream loses its connection.
            Some(Due::Close) => return Poll::Ready(Ok(())),
        }
        self.poll_move(cx)
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        // One each, so that a flood one way does not starve the other.
        let (mut up_budget, mut down_budget) = (Budget::new(), Budget::new());
        let (stats, slot) = (&self.place.gate.stats, &mut self.place.slot);
        let up = self.to_backend.poll(cx, &mut self.client, &mut self.backend, stats, slot, &mut up_budget);
        if let Poll::Ready(Err(error)) = &up {
            return self.failed(cx, Side::Client, error);
        }
        let down = self.to_client.poll(cx, &mut self.backend, &mut self.client, stats, slot, &mut down_budget);
        if let Poll::Ready(Err(error)) = &down {
            return self.failed(cx, Side::Backend, error);
        }
        let moved = up_budget.moved() || down_budget.moved();
        if let Some(limits) = self.limits.as_mut().filter(|_| moved) {
            limits.moved();
        }
        if up.is_pending() || down.is_pending() {
            self.patrol(cx, moved);
            return Poll::Pending;
        }
        let broken = match (self.to_backend.broken(), self.to_client.broken()) {
            (true, _) => Side::Backend,
            (_, true) => Side::Client,
            _ => return Poll::Ready(Ok(())),
        };
        Poll::Ready(Err(Failed { side: broken, reason: broken.reason() }))
    }

    /// A direction cannot go on. With worn keys the pair goes on to its last frames.
    fn failed(&mut self, cx: &Context<'_>, side: Side, error: &io::Error) -> Poll<Result<(), Failed>> {
        tracing::debug!(slot = self.place.slot.index(), ?side, %error, "a carried pair's side failed");
        if let Some(reason) = parts(error)
            && !self.parting
        {
            self.part(reason);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Err(Failed { side, reason: end_reason(error).unwrap_or(side.reason()) }))
    }

    /// Both sides get a Close frame as soon as they stand between two frames.
    fn part(&mut self, reason: EndReason) {
        self.parting = true;
        if self.limits.as_ref().is_none_or(|limits| limits.reached().is_none()) {
            self.limits = Some(Limits::reached_already(reason));
        }
        for stream in [&mut self.client, &mut self.backend] {
            stream.allow_last_words();
        }
        for lane in [&mut self.to_backend, &mut self.to_client] {
            lane.part();
        }
    }

    /// Looks after peers that do not read, once per round while bytes wait in the sockets. `moved`: some may since now.
    fn patrol(&mut self, cx: &mut Context<'_>, moved: bool) {
        let patrol = &self.place.gate.patrol;
        match self.patrol {
            None if !moved => return,
            None => {}
            Some(round) if round == patrol.round() => return,
            Some(_) => {
                let timeout = patrol.user_timeout();
                let [client, backend] = &mut self.patience;
                let look =
                    |stream: &Stream, patient| stream.tcp().is_some_and(|tcp| patience::look(tcp, timeout, patient));
                let client_waits = look(&self.client, client);
                let backend_waits = look(&self.backend, backend);
                if !client_waits && !backend_waits {
                    self.patrol = None;
                    return;
                }
            }
        }
        self.patrol = Some(patrol.enlist(self.place.slot.index(), cx.waker()));
    }

    /// Sleeps until something wakes this task. A side that fails meanwhile is told if no direction would notice.
    async fn woken(&mut self) -> Option<Side> {
        let failure = async {
            let Some(side) = self.unwatched() else { return pending().await };
            self.stream_mut(side).failed().await;
            Some(side)
        };
        let (mut failure, mut slept) = (pin!(failure), false);
        poll_fn(|cx| {
            let failed = failure.as_mut().poll(cx);
            if failed.is_pending() && slept {
                return Poll::Ready(None);
            }
            slept = true;
            failed
        })
        .await
    }

    /// The side that nothing is read from or waits to be written to: its direction has ended, or waits for the other
    /// side. There is one at most while the pair goes on.
    fn unwatched(&self) -> Option<Side> {
        if !self.to_backend.reading() && !self.to_client.blocked() {
            return Some(Side::Client);
        }
        (!self.to_client.reading() && !self.to_backend.blocked()).then_some(Side::Backend)
    }

    const fn stream_mut(&mut self, side: Side) -> &mut Stream {
        match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        }
    }

    /// Lets both sides go, and tells the keeper.
    async fn end(mut self, ended: Result<(), Failed>) {
        let slot = self.place.slot.index();
        let (reason, told) = match ended {
            Ok(()) => match self.limits.as_ref().and_then(|limits| limits.reached()) {
                None => (EndReason::Finished, [false; 2]),
                Some(reason) => (reason, [true; 2]),
            },
            Err(failed) => {
                tracing::debug!(slot, ?failed, "a carried pair broke");
                let told = [Side::Client, Side::Backend].map(|side| failed.told(side));
                self.break_other(&failed).await;
                (failed.reason, told)
            }
        };
        let Self { place, client, backend, _permit, _berth, .. } = self;
        let counters = Box::new(place.gate.stats.carried(slot));
        let closed = place.gate.control.send(&ToKeeper::CarriedClosed { slot, counters, reason }, &[]).await;
        if let Err(error) = closed {
            tracing::debug!(slot, %error, "cannot tell the keeper of a carried pair's end");
        }
        drop(place);
        let close = async |stream: Stream, told: bool| {
            if let Some(tcp) = stream.into_tcp().filter(|_| told) {
                linger::close(tcp).await;
            }
        };
        tokio::join!(close(client, told[0]), close(backend, told[1]));
    }

    /// One side has failed: the other gets what is under way to it and then an RST, as it would without a proxy.
    async fn break_other(&mut self, failed: &Failed) {
        let Self { client, backend, to_backend, to_client, place, .. } = self;
        let (stats, slot) = (&place.gate.stats, &mut place.slot);
        let (lane, source, receiver) = match failed.side {
            Side::Client => (to_backend, client, backend),
            Side::Backend => (to_client, backend, client),
        };
        let delivered = async {
            poll_fn(|cx| lane.poll_rest(cx, source, receiver, stats, slot)).await;
            // An RST discards what the socket has not sent yet, so it waits for that. (A stream of HTTP/2 does so itself.)
            while receiver.tcp().is_some_and(|tcp| !is_acknowledged(tcp)) {
                sleep(POLL).await;
            }
        };
        // What is not delivered by then is not.
        let _ = timeout_at(Instant::now() + RESET_LINGER, delivered).await;
        for side in [Side::Client, Side::Backend].into_iter().filter(|side| !failed.told(*side)) {
            // Fails only on a socket that is already closed.
            let _ = self.stream_mut(side).tcp().map(TcpStream::set_zero_linger);
        }
    }
}
