//! Pairs whose TLS keys are in this process: one hand-written future moves their bytes.
//!
//! An idle pair has no buffer of ours: bytes are read into a scratch space that all pairs of a thread share and
//! written on at once; only what the receiver does not take is kept, and while something is kept its source is not
//! read.

mod lane;
mod limits;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use proxy_common::layout::{Direction, PairCounters};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use self::lane::{Budget, Lane};
use self::limits::{Due, Limits};
use super::Gate;
use super::admission::Permit;
use super::handshake::Scheme;
use super::refusal::Refusal;
use super::session::{Quiesced, Transport};
use super::tls::Secured;
use crate::config::Relay;
use crate::handoff::{EndReason, Engine, ToKeeper, WhyNot};
use crate::sys::mapped::Slot;
use crate::sys::socket::{unacknowledged, watch_for_death};

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
        let relay = &gate.config.relay;
        for socket in [pair.client.get_ref().0, &pair.backend] {
            watch_for_death(socket, relay.keepalive, relay.user_timeout)?;
        }
        // The place may have had another tenant.
        gate.stats.update_carried(&mut place.slot, |counters| *counters = PairCounters::ZERO);
        let open =
            ToKeeper::CarriedOpen { slot: place.slot.index(), facts: pair.facts.clone(), why_not: WhyNot::NoKtls };
        gate.control.send(&open, &[]).await?;
        let carry = Carry::new(pair, place, &gate.config.relay);
        // A task of its own: the handshake's task is as large as its largest state, and would stay.
        tokio::spawn(carry_on(carry));
        Ok(())
    }
}

async fn carry_on(mut carry: Carry) {
    let reason = match (&mut carry).await {
        Ok(()) => carry.limits.as_ref().and_then(|limits| limits.reached()).unwrap_or(EndReason::Finished),
        Err(failed) => {
            tracing::debug!(slot = carry.place.slot.index(), ?failed, "a carried pair broke");
            carry.break_other(failed).await;
            failed.reason()
        }
    };
    let Carry { place, .. } = carry;
    let slot = place.slot.index();
    let counters = Box::new(place.gate.stats.carried(slot));
    let closed = place.gate.control.send(&ToKeeper::CarriedClosed { slot, counters, reason }, &[]).await;
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

impl Side {
    fn reason(self) -> EndReason {
        match self {
            Self::Client => EndReason::ClientFailed,
            Self::Backend => EndReason::BackendFailed,
        }
    }
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

// What one idle pair costs beside its TLS session and tokio's state of two sockets: no buffer may come in here.
const _: () = assert!(size_of::<Carry>() <= 256);

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
            limits.moved();
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
        match this.limits.as_mut().and_then(|limits| limits.poll(cx)) {
            None => {}
            Some(Due::Farewell) => {
                this.to_backend.finish();
                this.to_client.finish();
            }
            // A peer that does not take its end of stream loses its connection.
            Some(Due::Close) => return Poll::Ready(Ok(())),
        }
        this.poll_move(cx)
    }
}
