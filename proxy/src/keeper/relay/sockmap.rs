//! The `sockmap` engine: the kernel relays, and userspace steps in while a target is congested.
//!
//! The rules are `proxy_common::flow`'s; this is userspace's half of them.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use proxy_common::flow;
use proxy_common::layout::{Direction, FLAG_BROKEN, VerdictState, index};
use proxy_common::scan::Scanner;

use super::super::pair::Flow;
use super::super::pump::{End, Peeked, Pump, Stopped, peek};
use super::super::timers::Reason;
use super::Relay;
use crate::handoff::{EndReason, Engine, WhyNot};
use crate::kernel::Kernel;
use crate::sys::clock::now_coarse_ns;
use crate::sys::mapped::Slot;
use crate::sys::socket;

/// How long to wait before looking again whether a target has accepted everything: the kernel worker needs
/// microseconds, a target that does not read needs for ever, so the wait doubles.
const DRAIN_POLL: Duration = Duration::from_micros(50);
/// … up to 51 ms.
const DRAIN_DOUBLINGS: u8 = 10;

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
    /// Puts an idle pair under the kernel's rule. Where that fails the pair stays where it is, unless the kernel has taken
    /// bytes of it by then.
    pub(super) fn promote(&mut self, slot: u32) {
        let Some(pair) = self.table.get(slot) else { return };
        // What comes now waits until both sockets are in the maps: the second one may be refused, as its peer may have sent a
        // FIN by then, and what the verdict had taken of the first one would be lost.
        for direction in Direction::ALL {
            // It fails only for sockets that have failed, which their own events tell; so does the kick.
            let _ = socket::hold_back(pair.source(direction));
        }
        let entered = self.enter(slot);
        let Some(pair) = self.table.get(slot) else { return };
        for direction in Direction::ALL {
            let _ = socket::kick(pair.source(direction));
        }
        if entered {
            tracing::debug!(conn = %pair.facts.id, slot, "the kernel relays");
            self.settle(slot);
            for direction in Direction::ALL {
                self.drive(slot, direction);
            }
        }
    }

    /// [`Relay::promote`], while nothing that comes is shown to the verdict. Returns whether both sockets are in the maps.
    fn enter(&mut self, slot: u32) -> bool {
        let (Some(kernel), Some(pair)) = (&mut self.kernel, self.table.get_mut(slot)) else { return false };
        let base = Direction::ALL.map(|direction| socket::accepted_exactly(pair.target(direction)));
        let consumed = Direction::ALL.map(|direction| socket::consumed(pair.source(direction)).ok().flatten());
        let ([Some(to_backend), Some(to_client)], [Some(from_client), Some(from_backend)]) = (base, consumed) else {
            // Bytes and acknowledgements keep coming in: the pair is busy, and gets its chance when it is idle again.
            return false;
        };
        pair.promote = false;
        // Nothing of the pair is moved between here and its insertion.
        let copied = Direction::ALL.map(|direction| kernel.counters.read(index(slot, direction)).bytes);
        let counts = [(to_backend, from_client), (to_client, from_backend)];
        for (direction, (base, consumed)) in Direction::ALL.into_iter().zip(counts) {
            let flow = pair.flow_mut(direction);
            (flow.base, flow.consumed) = (base, consumed);
            let scanner = pair.scanners.as_ref().map_or(Scanner::START, |scanners| scanners[direction as usize]);
            if scanner != Scanner::START {
                let state = VerdictState { scanner, ..VerdictState::default() };
                kernel.verdicts.write(&mut Slot::new(index(slot, direction)), &state);
            }
        }
        let sockets = Direction::ALL.map(|direction| pair.source(direction));
        if let Err(error) = kernel.insert(slot, sockets, pair.cookies) {
            tracing::debug!(conn = %pair.facts.id, %error, "the pair stays in userspace");
            // Of a socket that was in the maps for a moment the verdict may have taken bytes, or the kernel dropped some. To
            // ask for the count takes the socket's lock: no verdict runs on it any more.
            let whole = sockets
                .into_iter()
                .zip([from_client, from_backend])
                .all(|(socket, consumed)| socket::consumed(socket).ok().flatten().is_none_or(|now| now == consumed));
            pair.why_not = Some(WhyNot::InsertFailed);
            if !whole || !Direction::ALL.into_iter().all(|direction| kernel.is_untouched(index(slot, direction))) {
                tracing::error!(conn = %pair.facts.id, "the kernel has taken bytes of a pair that it refused");
                self.abort(slot, EndReason::KernelBroken);
            }
            return false;
        }
        (pair.engine, pair.copied, pair.in_maps) = (Engine::Sockmap, copied, true);
        // The verdict has them now.
        pair.scanners = None;
        true
    }

    /// The verdict asks for a look at a direction.
    pub(in super::super) fn on_event(&mut self, at: u32, cookie: u32) {
        let (slot, direction) = (at / 2, Direction::from_index(at & 1));
        let Some(pair) = self.table.get(slot) else { return };
        if pair.in_maps && pair.cookies[direction as usize] as u32 == cookie {
            self.visit(slot, direction);
        }
    }

    pub(super) fn drive_sockmap(&mut self, slot: u32, direction: Direction, most: usize) {
        let Some(pair) = self.table.get(slot) else { return };
        if pair.flow(direction).shut {
            return;
        }
        let Some(next) = self.forward(slot, direction, most) else { return };
        let Some(pair) = self.table.get_mut(slot) else { return };
        let flow = pair.flow_mut(direction);
        flow.want_read = matches!(next, Next::Read);
        flow.want_write = matches!(next, Next::Write);
        flow.heavy &= !matches!(next, Next::Sleep | Next::Read);
        // An end that waits for the other direction is looked at again by the same timer.
        if !matches!(next, Next::Drain | Next::Shut) {
            flow.drain_polls = 0;
        }
        self.settle(slot);
        match next {
            Next::Drain => self.poll_drain(slot, direction),
            Next::Again => self.again(slot, direction),
            Next::Shut => self.shut(slot, direction),
            Next::Failed(side) => self.fail(slot, side),
            Next::Broken => {
                tracing::error!(slot, ?direction, "the kernel has lost a byte of a pair");
                self.abort(slot, EndReason::KernelBroken);
            }
            Next::Sleep => self.shut_at_last(slot, direction.reverse()),
            Next::Read | Next::Write => {}
        }
    }

    /// What was passed in the other direction has been carried over: a FIN may have waited for that.
    pub(super) fn shut_at_last(&mut self, slot: u32, direction: Direction) {
        let Some(pair) = self.table.get_mut(slot) else { return };
        if std::mem::take(&mut pair.flow_mut(direction).fin_waits) {
            self.shut(slot, direction);
        }
    }

    /// Carries passed bytes over as far as the rules allow now, and at most `most` of them.
    fn forward(&mut self, slot: u32, direction: Direction, mut most: usize) -> Option<Next> {
        let (kernel, pair) = (self.kernel.as_ref()?, self.table.get_mut(slot)?);
        let at = index(slot, direction);
        let (source, target) =
            (pair.sockets[direction as usize].as_fd(), pair.sockets[direction.reverse() as usize].as_fd());
        let flow = &mut pair.flows[direction as usize];
        let mut surprised = false;
        loop {
            // Between publishing `forwarded` and looking at `passed`: see `flow::must_wake`.
            fence(Ordering::SeqCst);
            let state = kernel.look(at);
            if state.flags & FLAG_BROKEN != 0 {
                return Some(Next::Broken);
            }
            let forwarded = kernel.forwarded(at);
            let known = state.passed.saturating_sub(forwarded);
            // What is left of this look is safe only if nothing is redirected meanwhile. That is so while passed
            // bytes are waiting (the verdict then stays in user mode), or once the source has ended.
            if known == 0 && !flow.ended {
                if !flow.ending {
                    return Some(Next::Sleep);
                }
                match peek(source) {
                    Peeked::End => flow.ended = true,
                    Peeked::Nothing => return Some(Next::Read),
                    Peeked::Failed(_) => {
                        flow.ended = true;
                        return Some(Next::Failed(direction));
                    }
                    // They were passed since the look; if the next one does not show them either, they never were.
                    Peeked::Bytes if surprised => return Some(Next::Broken),
                    Peeked::Bytes => surprised = true,
                }
                continue;
            }
            surprised = false;
            if let Some(next) = drain(flow, &state, forwarded, target, direction) {
                return Some(next);
            }
            if known == 0 {
                return Some(Next::Shut);
            }
            if most == 0 {
                return Some(Next::Again);
            }
            // Never beyond what was known to be passed: behind it, the kernel may have redirected again.
            let fresh = usize::try_from(known).unwrap_or(usize::MAX).saturating_sub(flow.spill.len()).min(most);
            most -= fresh;
            take_scanner(kernel, at, flow, &state);
            let counted = &mut flow.counted;
            let mut pump = Pump {
                source: End::plain(source),
                target: End::plain(target),
                spill: &mut flow.spill,
                buffer: &mut self.buffer,
            };
            let count = |bytes: &[u8]| count(kernel, at, counted, bytes);
            match pump.run(fresh, count, |bytes| kernel.add_forwarded(at, bytes)) {
                Stopped::Enough => {}
                Stopped::Idle => return Some(Next::Read),
                Stopped::Blocked => return Some(Next::Write),
                // Bytes that were passed wait behind some that are redirected to this socket, which once its peer's FIN has
                // come is told as an end.
                Stopped::End if !socket::is_closed(source).unwrap_or(true) => return Some(Next::Read),
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
        for direction in Direction::ALL {
            self.hold_one(slot, direction);
        }
    }

    /// Keeps the verdict from redirecting in this direction from now on.
    pub(super) fn hold_one(&self, slot: u32, direction: Direction) {
        if let Some(kernel) = &self.kernel {
            kernel.hold(index(slot, direction));
        }
    }

    /// Whether everything that can be had of the source has been accepted by the target's TCP. A source that has failed
    /// has nothing more to give: what the verdict had passed of it and nobody had read, the kernel has freed.
    pub(super) fn delivered(&self, slot: u32, direction: Direction) -> bool {
        let Some(pair) = self.table.get(slot) else { return true };
        let flow = pair.flow(direction);
        if !flow.spill.is_empty() {
            return false;
        }
        if let Some(leg) = &pair.legs[direction.reverse() as usize] {
            return leg.settled(pair.target(direction)).unwrap_or(true);
        }
        let Some(kernel) = self.kernel.as_ref().filter(|_| pair.in_maps) else { return true };
        let at = index(slot, direction);
        let (state, forwarded) = (kernel.look(at), kernel.forwarded(at));
        has_accepted(pair.target(direction), flow, state.redirected, forwarded).unwrap_or(false)
    }
}

/// What must come before passed bytes are carried over, or the end is passed on: the target has accepted all that was
/// redirected. `None` when it has.
fn drain(
    flow: &mut Flow,
    state: &VerdictState,
    forwarded: u64,
    target: BorrowedFd<'_>,
    direction: Direction,
) -> Option<Next> {
    if flow.drained_for == state.redirected {
        return None;
    }
    match has_accepted(target, flow, state.redirected, forwarded) {
        Err(_) => Some(Next::Failed(direction.reverse())),
        Ok(false) => Some(Next::Drain),
        Ok(true) => {
            flow.drained_for = state.redirected;
            None
        }
    }
}

/// Whether the target's TCP has accepted all that was redirected and forwarded to it.
pub(super) fn has_accepted(
    target: BorrowedFd<'_>,
    flow: &Flow,
    redirected: u64,
    forwarded: u64,
) -> std::io::Result<bool> {
    let accepted = socket::accepted(target)?.bytes.wrapping_sub(flow.base);
    Ok(flow::may_forward(redirected, forwarded, accepted))
}

/// Goes on counting where the verdict has stopped, if it has given the direction up since.
fn take_scanner(kernel: &Kernel, at: u32, flow: &mut Flow, state: &VerdictState) {
    if flow.flips != state.flips {
        kernel.users.update(&mut Slot::new(at), |user| user.scanner = state.scanner);
        (flow.flips, flow.counted) = (state.flips, state.counted);
    }
}

/// Counts bytes that were passed, but for `counted` at their front.
fn count(kernel: &Kernel, at: u32, counted: &mut u32, bytes: &[u8]) {
    let skip = bytes.len().min(*counted as usize);
    *counted -= skip as u32;
    let (mut user, mut cell) = (Slot::new(at), Slot::new(at));
    kernel.users.update(&mut user, |user| {
        kernel.counters.update(&mut cell, |mine| {
            user.scanner.feed(bytes.get(skip..).unwrap_or_default(), mine);
            mine.last_activity_ns = now_coarse_ns();
        });
    });
}
