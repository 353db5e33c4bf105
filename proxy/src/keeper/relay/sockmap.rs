//! The `sockmap` engine: the kernel relays, and userspace steps in while a target is congested.
//!
//! The rules are `proxy_common::flow`'s; this is userspace's half of them.

use std::os::fd::AsFd as _;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use proxy_common::flow;
use proxy_common::layout::{Direction, FLAG_BROKEN, UserState, VerdictState, index};
use proxy_common::scan::Scanner;

use super::super::pump::{End, Peeked, Pump, Stopped, peek};
use super::super::timers::Reason;
use super::{Relay, TURN};
use crate::handoff::{EndReason, Engine, WhyNot};
use crate::kernel::Kernel;
use crate::sys::mapped::Slot;
use crate::sys::socket;

/// `UserState::forwarded` as a word of the map.
const FORWARDED: usize = 0;

/// How long to wait before looking again whether a target has accepted everything: the kernel worker needs
/// microseconds, a target that does not read needs for ever, so the wait doubles.
const DRAIN_POLL: Duration = Duration::from_micros(500);
/// … up to 64 ms.
const DRAIN_DOUBLINGS: u8 = 7;

/// What a direction needs next.
enum Next {
    /// Nothing: the kernel has it, and wakes userspace when that changes.
    Sleep,
    /// The target has not accepted what the kernel redirected.
    Drain,
    /// Passed bytes have to come to the socket's queue.
    Read,
    /// The target has to take more.
    Write,
    /// More to do, after the others.
    Again,
    /// The end has been read and everything before it delivered.
    Shut,
    /// A socket failed: the one that this direction comes from.
    Failed(Direction),
    /// The kernel has lost a byte.
    Broken,
}

impl Relay {
    /// Puts an idle pair under the kernel's rule. Where that fails the pair stays where it is.
    pub(super) fn promote(&mut self, slot: u32) {
        let (Some(kernel), Some(pair)) = (&mut self.kernel, self.table.get_mut(slot)) else { return };
        pair.promote = false;
        let base = Direction::ALL.map(|direction| socket::accepted_exactly(pair.target(direction)));
        let [Some(to_backend), Some(to_client)] = base else {
            // Acknowledgements keep coming in: the pair is busy, and gets its chance when it is idle again.
            pair.promote = true;
            return;
        };
        for (direction, base) in Direction::ALL.into_iter().zip([to_backend, to_client]) {
            pair.flow_mut(direction).base = base;
            let scanner = pair.scanners.as_ref().map_or(Scanner::START, |scanners| scanners[direction as usize]);
            if scanner != Scanner::START {
                let state = VerdictState { scanner, ..VerdictState::default() };
                kernel.verdicts.write(&mut Slot::new(index(slot, direction)), &state);
            }
        }
        let sockets = Direction::ALL.map(|direction| pair.source(direction));
        if let Err(error) = kernel.insert(slot, sockets, pair.cookies) {
            tracing::info!(conn = %pair.facts.id, %error, "the pair stays in userspace");
            pair.why_not = Some(WhyNot::InsertFailed);
            return;
        }
        for direction in Direction::ALL {
            // It fails only for sockets that have failed, which their own events tell.
            let _ = socket::kick(pair.source(direction));
        }
        pair.engine = Engine::Sockmap;
        // The verdict has them now.
        pair.scanners = None;
        tracing::debug!(conn = %pair.facts.id, slot, "the kernel relays");
        self.settle(slot);
        for direction in Direction::ALL {
            self.drive(slot, direction);
        }
    }

    /// The verdict asks for a look at a direction.
    pub(in super::super) fn on_event(&mut self, at: u32, cookie: u32) {
        let (slot, direction) = (at / 2, Direction::from_index(at & 1));
        let Some(pair) = self.table.get(slot) else { return };
        if pair.engine == Engine::Sockmap && pair.cookies[direction as usize] as u32 == cookie {
            self.drive(slot, direction);
        }
    }

    pub(super) fn drive_sockmap(&mut self, slot: u32, direction: Direction) {
        let Some(pair) = self.table.get(slot) else { return };
        if pair.flow(direction).shut {
            return;
        }
        let Some(next) = self.forward(slot, direction) else { return };
        let Some(pair) = self.table.get_mut(slot) else { return };
        let flow = pair.flow_mut(direction);
        flow.want_read = matches!(next, Next::Read);
        flow.want_write = matches!(next, Next::Write);
        if !matches!(next, Next::Drain) {
            flow.drain_polls = 0;
        }
        self.settle(slot);
        match next {
            Next::Drain => self.poll_drain(slot, direction),
            Next::Again => self.again.push_back((slot, direction)),
            Next::Shut => self.shut(slot, direction),
            Next::Failed(side) => self.fail(slot, side),
            Next::Broken => self.abort(slot, EndReason::KernelBroken),
            Next::Sleep | Next::Read | Next::Write => {}
        }
    }

    /// Carries passed bytes over as far as the rules allow now.
    fn forward(&mut self, slot: u32, direction: Direction) -> Option<Next> {
        let (kernel, pair) = (self.kernel.as_mut()?, self.table.get_mut(slot)?);
        let at = index(slot, direction);
        let (source, target) =
            (pair.sockets[direction as usize].as_fd(), pair.sockets[direction.reverse() as usize].as_fd());
        let flow = &mut pair.flows[direction as usize];
        let mut turn = TURN;
        loop {
            // Between publishing `forwarded` and looking at `passed`: see `flow::must_wake`.
            fence(Ordering::SeqCst);
            let state = kernel.verdicts.read(at);
            if state.flags & FLAG_BROKEN != 0 {
                return Some(Next::Broken);
            }
            let forwarded = kernel.users.atomic(at, FORWARDED).load(Ordering::SeqCst);
            let known = state.passed.saturating_sub(forwarded);
            // What is left of this look is safe only if nothing is redirected meanwhile. That is so while passed
            // bytes are waiting (the verdict then stays in user mode), or once the source has ended.
            if known == 0 {
                if flow.ending && !flow.ended {
                    match peek(source) {
                        Peeked::End => flow.ended = true,
                        Peeked::Nothing => return Some(Next::Read),
                        Peeked::Failed(_) => {
                            flow.ended = true;
                            return Some(Next::Failed(direction));
                        }
                        Peeked::Bytes => {}
                    }
                    continue;
                }
                if !flow.ended {
                    return Some(Next::Sleep);
                }
            }
            if flow.drained_for != state.redirected {
                let accepted = match socket::accepted(target) {
                    Ok(accepted) => accepted.bytes.wrapping_sub(flow.base),
                    Err(_) => return Some(Next::Failed(direction.reverse())),
                };
                if !flow::may_forward(state.redirected, forwarded, accepted) {
                    return Some(Next::Drain);
                }
                flow.drained_for = state.redirected;
            }
            if known == 0 {
                return Some(Next::Shut);
            }
            if turn == 0 {
                return Some(Next::Again);
            }
            // Never beyond what was known to be passed: behind it, the kernel may have redirected again.
            let fresh = usize::try_from(known).unwrap_or(usize::MAX).saturating_sub(flow.spill.len());
            let most = fresh.min(turn);
            turn -= most;
            let mut pump = Pump {
                source: End::plain(source),
                target: End::plain(target),
                spill: &mut flow.spill,
                buffer: &mut self.buffer,
                ending: flow.ending,
            };
            match pump.run(most, |_| {}, |bytes| add_forwarded(kernel, at, bytes)) {
                Stopped::Enough => {}
                Stopped::Idle => return Some(Next::Read),
                Stopped::Blocked => return Some(Next::Write),
                // Bytes that were passed are gone: the source was reset, and its queue with it.
                Stopped::End | Stopped::SourceFailed(_) => {
                    flow.ended = true;
                    return Some(Next::Failed(direction));
                }
                Stopped::TargetFailed(_) => return Some(Next::Failed(direction.reverse())),
            }
        }
    }

    pub(super) fn poll_drain(&mut self, slot: u32, direction: Direction) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        let flow = pair.flow_mut(direction);
        if flow.drain_timer {
            return;
        }
        let wait = DRAIN_POLL * (1 << flow.drain_polls.min(DRAIN_DOUBLINGS));
        flow.drain_polls = flow.drain_polls.saturating_add(1);
        flow.drain_timer = true;
        self.set_timer(slot, Instant::now() + wait, Reason::Drain);
    }

    pub(super) fn on_drain_timer(&mut self, slot: u32) {
        for direction in Direction::ALL {
            let Some(pair) = self.table.get_mut(slot) else { return };
            let flow = pair.flow_mut(direction);
            if flow.drain_timer {
                flow.drain_timer = false;
                self.drive(slot, direction);
            }
        }
    }

    /// Keeps the verdict from redirecting in either direction from now on.
    pub(super) fn hold(&self, slot: u32) {
        let Some(kernel) = &self.kernel else { return };
        for direction in Direction::ALL {
            // The second word of `UserState`: `hold`, and padding.
            kernel.users.atomic(index(slot, direction), 1).store(1, Ordering::SeqCst);
        }
    }

    /// Whether everything that was read of the source has been accepted by the target's TCP.
    pub(super) fn delivered(&self, slot: u32, direction: Direction) -> bool {
        let Some(pair) = self.table.get(slot) else { return true };
        let flow = pair.flow(direction);
        if !flow.spill.is_empty() {
            return false;
        }
        if let Some(leg) = &pair.legs[direction.reverse() as usize] {
            return leg.settled(pair.target(direction)).unwrap_or(true);
        }
        let (Engine::Sockmap, Some(kernel)) = (pair.engine, &self.kernel) else { return true };
        let at = index(slot, direction);
        let (state, user): (VerdictState, UserState) = (kernel.verdicts.read(at), kernel.users.read(at));
        socket::accepted(pair.target(direction)).is_ok_and(|accepted| {
            flow::may_forward(state.redirected, user.forwarded, accepted.bytes.wrapping_sub(flow.base))
        })
    }
}

fn add_forwarded(kernel: &Kernel, at: u32, bytes: usize) {
    kernel.users.atomic(at, FORWARDED).fetch_add(bytes as u64, Ordering::SeqCst);
}
