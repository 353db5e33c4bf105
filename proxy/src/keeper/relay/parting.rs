//! How Sluice ends a pair of its own accord while both sides are well: a Close frame to each side, at a boundary between
//! two frames, and then an orderly end.

use std::time::{Duration, Instant};

use proxy_common::layout::{Direction, index};

use super::super::pair::{Closing, ends};
use super::Relay;
use crate::handoff::{EndReason, close};
use crate::ktls::{Failure, Why};
use crate::sys::clock::now_coarse_ns;
use crate::sys::mapped::Slot;

/// How long the frames under way, and then both sides' last bytes, may take.
const LINGER: Duration = Duration::from_secs(5);

impl Relay {
    /// A side can no longer be read, or written to.
    pub(super) fn fail_for(&mut self, slot: u32, side: Direction, failure: Failure) {
        let reason = match failure {
            Failure::Socket(_) => return self.fail(slot, side),
            Failure::Tls(why @ Why::KeyUpdate) => {
                self.part_without(slot, side);
                return self.part_all(slot, EndReason::of_tls(why));
            }
            Failure::Tls(why @ Why::KeyLimit) => return self.part_all(slot, EndReason::of_tls(why)),
            Failure::Tls(why @ (Why::Alert(_) | Why::Protocol(_))) => EndReason::of_tls(why),
        };
        if let Some(pair) = self.table.get(slot) {
            tracing::debug!(conn = %pair.facts.id, side = side.label(), ?failure, "a TLS connection cannot go on");
        }
        self.fail_as(slot, side, reason);
    }

    /// Nothing more can be read of this side. In the middle of a frame, its direction ends there.
    fn part_without(&mut self, slot: u32, side: Direction) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        let between_frames = pair.scanners.as_ref().is_some_and(|scanners| scanners[side as usize].at_boundary());
        pair.flow_mut(side).ended |= !between_frames;
    }

    /// Both sides get a Close frame as soon as they stand between two frames.
    fn part_all(&mut self, slot: u32, reason: EndReason) {
        let now = Instant::now();
        let Some(pair) = self.table.get_mut(slot) else { return };
        if pair.closing.is_none() {
            pair.reason = reason;
            pair.closing = Some(Closing::Farewell { deadline: now + LINGER });
        }
        for leg in pair.legs.iter_mut().flatten() {
            leg.allow_last_words();
        }
        for flow in &mut pair.flows {
            // A direction whose source has ended has no more to say.
            flow.parting = !flow.ended;
        }
        for direction in Direction::ALL {
            self.part(slot, direction);
        }
        self.on_closing_timer(slot, now);
    }

    /// Goes on to the end of the present frame, and puts a Close frame behind it.
    pub(super) fn part(&mut self, slot: u32, direction: Direction) {
        let counters = self.kernel.as_ref().map(|kernel| &kernel.counters).or(self.own_counters.as_ref());
        let Some(pair) = self.table.get_mut(slot) else { return };
        let (mut source, _) = ends(&pair.sockets, &mut pair.legs, direction);
        let flow = &mut pair.flows[direction as usize];
        let (Some(scanners), Some(counters)) = (&mut pair.scanners, counters) else { return };
        let scanner = &mut scanners[direction as usize];
        let mut cell = Slot::new(index(slot, direction));
        if !scanner.at_boundary() && !flow.ended && flow.spill.is_empty() {
            match source.receive(&mut self.buffer) {
                Ok(got) if got > 0 => {
                    let bytes = self.buffer.get(..got).unwrap_or_default();
                    counters.update(&mut cell, |mine| {
                        let used = scanner.feed_frame(bytes, mine);
                        mine.last_activity_ns = now_coarse_ns();
                        flow.spill.push(bytes.get(..used).unwrap_or_default());
                    });
                }
                Err(Failure::Socket(rustix::io::Errno::AGAIN)) => return,
                // Its end, or its failure: the frame stays what it is.
                Ok(_) | Err(_) => flow.ended = true,
            }
        }
        if scanner.at_boundary() && !flow.ended {
            flow.ended = true;
            let close = close::frame(close::SERVICE_RESTART, direction);
            counters.update(&mut cell, |mine| scanner.feed(&close, mine));
            flow.spill.push(&close);
        }
        if flow.ended {
            self.drive(slot, direction);
        } else {
            self.again(slot, direction);
        }
    }
}
