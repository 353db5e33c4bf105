//! Pairs whose TLS keys are in this process: one hand-written future moves their bytes.
//!
//! An idle pair has no buffer of ours: bytes are read into a scratch space that all pairs of a thread share and
//! written on at once; only what the receiver does not take is kept, and while something is kept its source is not
//! read.

mod lane;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use proxy_common::layout::{Direction, PairCounters};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use self::lane::{Budget, Lane};
use super::Gate;
use super::admission::Permit;
use super::handshake::Scheme;
use super::refusal::Refusal;
use super::session::{Quiesced, Transport, watch_for_death};
use super::tls::Secured;
use crate::config::Relay;
use crate::handoff::{Engine, ToKeeper};
use crate::sys::mapped::Slot;
use crate::sys::socket::unacknowledged;

/// How long a pair that is closed for its age or its silence may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the last bytes to one side may take to be acknowledged after the other side has failed.
const RESET_LINGER: Duration = Duration::from_secs(5);

/// How often to look whether they are.
const POLL: Duration = Duration::from_millis(5);

/// A place among the carried pairs; given back when dropped.
pub(super) struct Place {
    slot: Slot,
    gate: Arc<Gate>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.slots.give_back(&self.slot);
    }
}

impl Transport for Secured {
    const SCHEME: Scheme = Scheme::Tls;

    type Place = Place;

    fn place(gate: &Arc<Gate>) -> Result<Place, Refusal> {
        let slot = gate.slots.take().ok_or(Refusal::Full)?;
        Ok(Place { slot, gate: gate.clone() })
    }

    fn engine(_: &Gate) -> Engine {
        Engine::Copy
    }

    async fn relay(pair: Quiesced<Self>, mut place: Place, gate: &Arc<Gate>) -> io::Result<()> {
        watch_for_death(pair.client.get_ref().0, &gate.config.relay)?;
        watch_for_death(&pair.backend, &gate.config.relay)?;
        // The place may have had another tenant.
        gate.stats.update_carried(&mut place.slot, |counters| *counters = PairCounters::ZERO);
        let open = ToKeeper::CarriedOpen { slot: place.slot.index(), facts: pair.facts.clone() };
        gate.control.send(&open, &[]).await?;
        let carry = Carry::new(pair, place, &gate.config.relay);
        // A task of its own: the handshake's task is as large as its largest state, and would stay.
        tokio::spawn(carry_on(carry));
        Ok(())
    }
}

async fn carry_on(mut carry: Carry) {
    if let Err(failed) = (&mut carry).await {
        tracing::debug!(slot = carry.place.slot.index(), ?failed, "a carried pair broke");
        carry.break_other(failed).await;
    }
    let Carry { place, .. } = carry;
    let slot = place.slot.index();
    let counters = Box::new(place.gate.stats.carried(slot));
    let closed = place.gate.control.send(&ToKeeper::CarriedClosed { slot, counters }, &[]).await;
    if let Err(error) = closed {
        tracing::debug!(slot, %error, "cannot tell the keeper of a carried pair's end");
    }
}

/// A side of a pair.
#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Backend,
}

/// A pair that this process carries.
struct Carry {
    client: Secured,
    backend: TcpStream,
    to_backend: Lane,
    to_client: Lane,
    place: Place,
    limits: Option<Box<Limits>>,
    _permit: Permit,
}

// What one idle pair costs beside its TLS session and its two sockets' state in tokio: 320 bytes measured with the
// two lanes at 96 each; the bound leaves room for a field, not for a buffer.
const _: () = assert!(size_of::<Carry>() <= 384);

/// The limits on age and silence, if there are any.
struct Limits {
    timer: Pin<Box<Sleep>>,
    idle: Option<Duration>,
    ends: Option<Instant>,
    last_activity: Instant,
    farewell: bool,
}

impl Limits {
    fn new(relay: &Relay) -> Option<Box<Self>> {
        if relay.idle_timeout.is_none() && relay.max_lifetime.is_none() {
            return None;
        }
        let now = Instant::now();
        let ends = relay.max_lifetime.map(|age| now + age);
        let mut limits = Self {
            timer: Box::pin(sleep_until(now)),
            idle: relay.idle_timeout,
            ends,
            last_activity: now,
            farewell: false,
        };
        limits.rearm();
        Some(Box::new(limits))
    }

    /// When the pair must end, as things stand.
    fn due(&self) -> Option<Instant> {
        let silent = self.idle.map(|idle| self.last_activity + idle);
        self.ends.into_iter().chain(silent).min()
    }

    fn rearm(&mut self) {
        if let Some(due) = self.due() {
            self.timer.as_mut().reset(due);
        }
    }

    /// Whether the time is over. Looks at the clock only when the timer fires: activity does not touch the timer.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.farewell || self.due().is_none_or(|due| due <= Instant::now()) {
                return true;
            }
            self.rearm();
        }
        false
    }
}

impl Carry {
    fn new(pair: Quiesced<Secured>, mut place: Place, relay: &Relay) -> Self {
        let mut to_backend = Lane::new(Direction::ClientToBackend);
        let mut to_client = Lane::new(Direction::BackendToClient);
        let (stats, slot) = (&place.gate.stats, &mut place.slot);
        to_backend.preload(pair.to_backend.into(), stats, slot);
        to_client.preload(pair.to_client.into(), stats, slot);
        Self {
            client: pair.client,
            backend: pair.backend,
            to_backend,
            to_client,
            place,
            limits: Limits::new(relay),
            _permit: pair.permit,
        }
    }

    /// Moves what can be moved. Ready when the pair is over.
    ///
    /// # Errors
    /// The side that failed.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Side>> {
        // One each, so that a flood one way does not starve the other.
        let (mut up_budget, mut down_budget) = (Budget::new(), Budget::new());
        let (stats, slot) = (&self.place.gate.stats, &mut self.place.slot);
        let up = self.to_backend.poll(cx, &mut *self.client, &mut self.backend, stats, slot, &mut up_budget);
        let up = up.map_err(|error| gone(Side::Client, &error))?;
        let down = self.to_client.poll(cx, &mut self.backend, &mut *self.client, stats, slot, &mut down_budget);
        let down = down.map_err(|error| gone(Side::Backend, &error))?;
        if let Some(limits) = self.limits.as_mut().filter(|_| up_budget.moved() || down_budget.moved()) {
            limits.last_activity = Instant::now();
        }
        if up.is_pending() || down.is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(match (self.to_backend.broken(), self.to_client.broken()) {
            (true, _) => Err(Side::Backend),
            (_, true) => Err(Side::Client),
            _ => Ok(()),
        })
    }

    /// One side has failed: the other gets what is under way to it and then an RST, as it would without a proxy.
    async fn break_other(&self, failed: Side) {
        let (client, backend) = (self.client.get_ref().0, &self.backend);
        let other = match failed {
            Side::Client => backend,
            Side::Backend => client,
        };
        let give_up = Instant::now() + RESET_LINGER;
        // An RST discards what the socket has not sent yet, so it waits for that.
        while unacknowledged(other).is_ok_and(|bytes| bytes > 0) && Instant::now() < give_up {
            sleep(POLL).await;
        }
        for socket in [client, backend] {
            // Fails only on a socket that is already closed.
            let _ = socket.set_zero_linger();
        }
    }
}

fn gone(side: Side, error: &io::Error) -> Side {
    tracing::debug!(?side, %error, "a carried pair's side failed");
    side
}

impl Future for Carry {
    type Output = Result<(), Side>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Side>> {
        let this = self.get_mut();
        if this.limits.as_mut().is_some_and(|limits| limits.poll_over(cx)) {
            if this.limits.as_ref().is_some_and(|limits| limits.farewell) {
                return Poll::Ready(Ok(()));
            }
            // Both ends of stream are sent; a peer that does not take them loses its connection.
            this.to_backend.finish();
            this.to_client.finish();
            if let Some(limits) = this.limits.as_mut() {
                limits.farewell = true;
                limits.timer.as_mut().reset(Instant::now() + FAREWELL);
                // Registers the timer that was just set.
                let _ = limits.poll_over(cx);
            }
        }
        this.poll_move(cx)
    }
}
