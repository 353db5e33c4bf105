//! How pairs end.
//!
//! * Both sides sent FIN, each was passed on behind everything before it: the sockets are closed.
//! * One side was reset or timed out: what is under way to the other side is delivered, then it gets an RST, as it
//!   would have without a proxy.
//! * A limit was reached or Sluice stops: both sides get what is under way to them, then a FIN.

use std::time::{Duration, Instant};

use proxy_common::layout::{Direction, index};
use rustix::net::sockopt;

use super::super::pair::{Closing, Pair};
use super::super::table::Round;
use super::super::timers::Reason;
use super::Relay;
use crate::handoff::{EndReason, Engine, Tally};
use crate::kernel::Kernel;
use crate::sys::socket;

/// How long one side's last bytes may take to be acknowledged after the other side was reset.
const RESET_LINGER: Duration = Duration::from_secs(5);
/// How long both sides' last bytes may take when it was Sluice that ended the pair.
const FAREWELL_LINGER: Duration = Duration::from_secs(5);
/// How long to wait before looking whether they are: it doubles with each look, …
const POLL: Duration = Duration::from_millis(5);
/// … up to 80 ms.
const POLL_DOUBLINGS: u8 = 4;

impl Relay {
    /// The socket that `side` comes from has failed. What it had sent before is still delivered.
    pub(super) fn fail(&mut self, slot: u32, side: Direction) {
        let reason = match side {
            Direction::ClientToBackend => EndReason::ClientFailed,
            Direction::BackendToClient => EndReason::BackendFailed,
        };
        self.fail_as(slot, side, reason);
    }

    /// As [`Relay::fail`], for this reason.
    pub(super) fn fail_as(&mut self, slot: u32, side: Direction, reason: EndReason) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        match pair.closing {
            // Told again of the same failure, by the read that found its queue empty.
            Some(Closing::Reset { delivers, .. }) if delivers == side => return,
            Some(_) => return self.finish(slot),
            None => {}
        }
        pair.reason = reason;
        let now = Instant::now();
        pair.closing = Some(Closing::Reset { delivers: side, deadline: now + RESET_LINGER });
        pair.flow_mut(side).ending = true;
        self.hold(slot);
        self.drive(slot, side);
        self.on_closing_timer(slot, now);
    }

    /// Both sides get an RST at once.
    pub(super) fn abort(&mut self, slot: u32, reason: EndReason) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        pair.reason = reason;
        let now = Instant::now();
        pair.closing = Some(Closing::Reset { delivers: Direction::ClientToBackend, deadline: now });
        self.finish(slot);
    }

    /// Both sides get what is under way to them, then a FIN.
    pub(super) fn farewell(&mut self, slot: u32, reason: EndReason, now: Instant) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        if pair.closing.is_some() {
            return;
        }
        pair.reason = reason;
        pair.closing = Some(Closing::Farewell { deadline: now + FAREWELL_LINGER });
        for flow in &mut pair.flows {
            flow.ended = true;
        }
        self.hold(slot);
        for direction in Direction::ALL {
            self.drive(slot, direction);
        }
        self.on_closing_timer(slot, now);
    }

    /// As [`Relay::farewell`], for every pair: some of them in each turn.
    pub(in super::super) fn farewell_all(&mut self) {
        self.farewells = Some(Round::default());
    }

    pub(super) fn go_on_with_farewells(&mut self, now: Instant) {
        let Some(round) = &mut self.farewells else { return };
        let Some(slots) = round.step(&self.table) else {
            self.farewells = None;
            return;
        };
        for slot in slots {
            self.farewell(slot, EndReason::Shutdown, now);
        }
    }

    pub(super) fn on_closing_timer(&mut self, slot: u32, now: Instant) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        let wait = POLL * (1 << pair.closing_polls.min(POLL_DOUBLINGS));
        pair.closing_polls = pair.closing_polls.saturating_add(1);
        let Some(pair) = self.table.get(slot) else { return };
        let over = match pair.closing {
            None => return,
            Some(Closing::Reset { delivers, deadline }) => {
                let target = pair.target(delivers);
                let acknowledged = socket::is_acknowledged(target);
                let exhausted = pair.flow(delivers).ended;
                now >= deadline || (exhausted && acknowledged && self.delivered(slot, delivers))
            }
            Some(Closing::Farewell { deadline }) => {
                // The FIN counts as one byte.
                let quiet = |direction: Direction| socket::is_acknowledged(pair.target(direction));
                now >= deadline || (pair.both_shut() && Direction::ALL.into_iter().all(quiet))
            }
        };
        if over {
            self.finish(slot);
        } else {
            self.set_timer(slot, now + wait, Reason::Closing);
        }
    }

    /// Closes a pair's sockets and forgets it, but for its counts.
    pub(super) fn finish(&mut self, slot: u32) {
        self.keep_for_snapshot(slot);
        let Some(pair) = self.table.remove(slot) else { return };
        self.timers.cancel(slot);
        self.ended.left(Tally::from(&pair.facts));
        if let Some(kernel) = &mut self.kernel
            && pair.in_maps
        {
            kernel.remove(slot, pair.cookies);
        }
        // Of these, a peer is to read what it has been sent: a Close frame, or the alert for breaking the TLS protocol.
        let mut told = [matches!(pair.closing, Some(Closing::Farewell { .. })); 2];
        if let Some(Closing::Reset { delivers, .. }) = pair.closing {
            told[delivers as usize] = pair.reason == EndReason::TlsProtocol;
        }
        let reset = matches!(pair.closing, Some(Closing::Reset { .. }));
        for side in Direction::ALL {
            self.reactor.remove(pair.source(side));
            // With this setting a close sends an RST (and closes a Unix socket as any other close does); without it, no
            // close waits. Either way the call waits for a verdict that is at work on the socket at this moment: what
            // the verdict keeps of the slot is not touched afterwards, although the socket is not closed yet.
            let linger = (reset && !told[side as usize]).then_some(Duration::ZERO);
            let _ = sockopt::set_socket_linger(pair.source(side), linger);
            if linger.is_some() {
                // The RST goes out before the gate is told that the pair's places are free, whatever the closer waits for. A
                // socket with TLS keys takes no disconnect: its close sends the RST, soon.
                let _ = rustix::net::connect_unspec(pair.source(side));
            }
        }
        let Pair { facts, sockets, engine, copied, reason, opened, .. } = *pair;
        for (socket, told) in sockets.into_iter().zip(told) {
            match told {
                true => self.lingering.add(socket, Instant::now(), &self.closer),
                false => self.closer.close(socket),
            }
        }
        tracing::debug!(conn = %facts.id, reason = reason.label(), age = ?opened.elapsed(), "the pair has ended");
        self.fold(slot, engine, copied, reason);
    }

    /// Adds what a pair counted to the totals, and clears its slot.
    fn fold(&mut self, slot: u32, engine: Engine, copied: [u64; 2], reason: EndReason) {
        if let Some(counters) = self.counters() {
            let counted = Direction::ALL.map(|direction| counters.read(index(slot, direction)));
            self.ended.add(engine, reason, &counted, copied);
        }
        if let Some(kernel) = &self.kernel {
            let flips = Direction::ALL.map(|direction| u64::from(kernel.verdicts.read(index(slot, direction)).flips));
            self.ended.flips += flips.into_iter().sum::<u64>();
        }
        match (&self.kernel, &self.own_counters) {
            (Some(kernel), _) => Kernel::clear(kernel, slot),
            (None, Some(counters)) => {
                for direction in Direction::ALL {
                    let mut cell = crate::sys::mapped::Slot::new(index(slot, direction));
                    counters.write(&mut cell, &proxy_common::layout::DirCounters::ZERO);
                }
            }
            (None, None) => {}
        }
    }
}
