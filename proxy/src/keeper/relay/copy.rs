//! The `copy` and the `ktls` engine: userspace reads and writes, and counts with the same scanner as the kernel program.

use proxy_common::layout::{Direction, index};

use super::super::pair::ends;
use super::super::pump::{Pump, Stopped};
use super::Relay;
use crate::ktls::{Failure, Why};
use crate::sys::clock::now_coarse_ns;
use crate::sys::mapped::Slot;

impl Relay {
    pub(super) fn drive_copy(&mut self, slot: u32, direction: Direction, most: usize) {
        let Some(pair) = self.table.get(slot) else { return };
        let flow = pair.flow(direction);
        if flow.shut || (flow.ended && flow.spill.is_empty()) {
            self.end_copy(slot, direction);
            return;
        }
        let parting = flow.parting && !flow.ended;
        match self.pump_copy(slot, direction, most) {
            Some(Stopped::Enough) if parting => self.part(slot, direction),
            Some(Stopped::Idle) => {
                self.promote_when_idle(slot);
            }
            Some(Stopped::Enough) => self.again(slot, direction),
            Some(Stopped::End) => {
                if let Some(pair) = self.table.get_mut(slot) {
                    pair.flow_mut(direction).ended = true;
                }
                self.end_copy(slot, direction);
            }
            Some(Stopped::SourceFailed(failure)) => {
                if let Some(pair) = self.table.get_mut(slot) {
                    // With worn keys the pair parts, which has its own way to the end.
                    pair.flow_mut(direction).ended = !matches!(failure, Failure::Tls(Why::KeyUpdate | Why::KeyLimit));
                }
                self.fail_for(slot, direction, failure);
            }
            Some(Stopped::TargetFailed(failure)) => self.fail_for(slot, direction.reverse(), failure),
            Some(Stopped::Blocked) | None => {}
        }
    }

    fn end_copy(&mut self, slot: u32, direction: Direction) {
        let Some(pair) = self.table.get(slot) else { return };
        let flow = pair.flow(direction);
        if flow.ended && flow.spill.is_empty() {
            self.shut(slot, direction);
        }
    }

    fn pump_copy(&mut self, slot: u32, direction: Direction, most: usize) -> Option<Stopped> {
        let counters = self.kernel.as_ref().map(|kernel| &kernel.counters).or(self.own_counters.as_ref());
        let pair = self.table.get_mut(slot)?;
        let (source, target) = ends(&pair.sockets, &mut pair.legs, direction);
        let flow = &mut pair.flows[direction as usize];
        let (mut scanners, ended) = (pair.scanners.as_mut(), flow.ended);
        let no_more = ended || flow.parting;
        let mut pump = Pump { source, target, spill: &mut flow.spill, buffer: &mut self.buffer };
        let mut cell = Slot::new(index(slot, direction));
        let read = |bytes: &[u8]| {
            if let (Some(counters), Some(scanners)) = (counters, &mut scanners) {
                counters.update(&mut cell, |mine| {
                    scanners[direction as usize].feed(bytes, mine);
                    mine.last_activity_ns = now_coarse_ns();
                });
            }
        };
        // A source that has ended, or was made to, is not read again; what waits is still delivered.
        let stopped = pump.run(if no_more { 0 } else { most }, read, |_| {});
        flow.idle = stopped == Stopped::Idle;
        flow.heavy &= !flow.idle;
        Some(if ended && stopped == Stopped::Enough { Stopped::End } else { stopped })
    }

    fn promote_when_idle(&mut self, slot: u32) {
        let Some(pair) = self.table.get(slot) else { return };
        let quiet = pair.flows.iter().all(|flow| flow.idle && !flow.ending && !flow.ended);
        if pair.promote && quiet && pair.closing.is_none() {
            self.promote(slot);
        }
    }
}
