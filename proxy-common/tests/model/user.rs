//! Userspace's steps: `keeper/relay/sockmap.rs` and `keeper/relay/leave.rs` of the proxy.

use proxy_common::flow;

use crate::verdict::Verdict;
use crate::world::{Broken, Size, World};

/// What userspace is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum User {
    /// Waits for a wake-up.
    Asleep,
    /// About to look at the verdict's state.
    Awake,
    /// Has loaded the first of the two counters.
    HalfLooked { first: u8 },
    /// Looked: `redirected` and `passed` as they were.
    Looked { redirected: u8, passed: u8 },
    /// Found the target drained for this look: may move up to `passed - forwarded`.
    Drained { redirected: u8, passed: u8 },
    /// Has told the verdict to redirect no more, to leave the kernel.
    Held,
    /// Has taken the source off the map.
    TakenOff,
    /// Carries the bytes alone.
    Alone,
}

impl World {
    pub(crate) fn user_steps(&self, size: Size, broken: Broken, next: &mut Vec<Self>) {
        let mut w = self.clone();
        match self.user {
            User::Asleep if self.wake => {
                (w.wake, w.user) = (false, User::Awake);
                next.push(w);
            }
            User::Asleep if self.to_leave => {
                // The other direction has just come to its end.
                w.user = User::Held;
                (w.to_leave, w.hold) = (false, broken != Broken::LeaveWithoutHold);
                next.push(w);
            }
            User::Asleep => {}
            User::Awake => {
                let torn = broken == Broken::TornLook;
                w.user = User::HalfLooked { first: if torn { self.redirected } else { self.passed } };
                next.push(w);
            }
            User::HalfLooked { first } if broken == Broken::TornLook => {
                w.user = User::Looked { redirected: first, passed: self.passed };
                next.push(w);
            }
            User::HalfLooked { first } => {
                w.user = User::Looked { redirected: self.redirected, passed: first };
                next.push(w);
            }
            User::Looked { redirected, passed } => next.push(self.looked(redirected, passed, size, broken)),
            User::Drained { redirected, passed } => self.move_one(redirected, passed, size, broken, next),
            User::Held => self.take_off(next),
            User::TakenOff => self.check(broken, next),
            User::Alone => self.move_alone(size, next),
        }
    }

    fn looked(&self, redirected: u8, passed: u8, size: Size, broken: Broken) -> Self {
        let mut w = self.clone();
        let known = passed - self.forwarded;
        if known == 0 && !self.ended {
            if self.fin && self.next < size.bytes {
                // The look without reading shows the verdict what it has not seen yet.
                w.user = User::Awake;
            } else if self.fin && self.ingress.is_empty() {
                // It shows the end. What was passed meanwhile shows in the next look.
                (w.ended, w.user) = (true, User::Awake);
            } else if self.hold {
                w.user = User::Held;
            } else {
                w.user = User::Asleep;
            }
            return w;
        }
        let drained = flow::may_forward(redirected.into(), self.forwarded.into(), self.accepted.into());
        if broken != Broken::NoDrain && !drained {
            // The drain timer: look again.
            w.user = User::Awake;
        } else if known == 0 {
            w.shut(size);
            w.user = User::Asleep;
        } else {
            if self.seen_flips != self.flips {
                (w.seen_flips, w.user_scanner) = (self.flips, self.verdict_scanner);
                w.skip = if broken == Broken::CountTwice { 0 } else { self.counted };
            }
            w.user = User::Drained { redirected, passed };
        }
        w
    }

    /// Reads one byte if there is one, and writes it if the target takes it.
    fn move_one(&self, redirected: u8, passed: u8, size: Size, broken: Broken, next: &mut Vec<Self>) {
        let mut w = self.clone();
        let beyond = broken == Broken::ReadBeyond && !self.ingress.is_empty();
        if self.forwarded >= passed && !beyond && self.spill.is_none() {
            w.user = if broken == Broken::NoSecondLook { User::Asleep } else { User::Awake };
            return next.push(w);
        }
        let fresh = if self.spill.is_none() { w.ingress.pop_front() } else { None };
        if let Some(byte) = fresh {
            w.count_in_userspace(byte);
        }
        let Some(byte) = self.spill.or(fresh) else {
            if self.fin && broken == Broken::EarlyEnd {
                w.shut(size);
            }
            // Counted, but not readable yet; a read gives 0 if the FIN is there already.
            w.user = User::Awake;
            return next.push(w);
        };
        if self.tcp.len() < usize::from(size.tcp) {
            w.spill = None;
            w.accept(byte);
            w.forwarded += 1;
            w.user = User::Drained { redirected, passed };
        } else {
            w.spill = Some(byte);
        }
        next.push(w);
    }

    fn count_in_userspace(&mut self, byte: u8) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        assert_eq!(self.user_scanner, byte, "userspace counts a byte too often, or misses one: {self:?}");
        self.user_scanner += 1;
    }

    /// With the source's lock held, nothing is being decided; from then on everything is passed.
    fn take_off(&self, next: &mut Vec<Self>) {
        if self.verdict != Verdict::Idle {
            return;
        }
        let mut w = self.clone();
        let drained = flow::may_forward(self.redirected.into(), self.forwarded.into(), self.accepted.into());
        if self.fin || self.passed != self.forwarded || !drained {
            w.user = User::Awake;
            return next.push(w);
        }
        // The lock is given back first: a segment may come before the next step, or in the middle of it.
        w.user = User::TakenOff;
        next.push(w);
    }

    fn check(&self, broken: Broken, next: &mut Vec<Self>) {
        if self.attached {
            for dropping in [false, true] {
                let mut w = self.clone();
                (w.attached, w.dropping) = (false, dropping);
                next.push(w);
            }
            return;
        }
        if self.verdict != Verdict::Idle {
            return;
        }
        let mut w = self.clone();
        w.dropping = false;
        if self.redirected + self.passed + self.plain.len() as u8 != self.next {
            // A segment was dropped while the source was taken off: the socket's own counts show it.
            (w.aborted, w.user) = (true, User::Alone);
        } else if broken != Broken::LeaveBlindly && self.passed != self.forwarded && self.fin {
            // No map takes a socket whose peer has sent its FIN. What was passed is read all the same, but not what has
            // come past the verdict.
            w.user = User::Awake;
            w.aborted = !w.plain.is_empty();
        } else if broken != Broken::LeaveBlindly && self.passed != self.forwarded {
            (w.attached, w.user) = (true, User::Awake);
            // What has come past the verdict meanwhile is shown to it before the next segment.
            w.next -= w.plain.len() as u8;
            w.plain.clear();
        } else {
            let scanner = if self.mode == proxy_common::layout::MODE_KERNEL || self.seen_flips != self.flips {
                self.verdict_scanner
            } else {
                self.user_scanner
            };
            // The rest of the socket's sockmap state goes, with all that it holds.
            w.stage.clear();
            w.ingress.clear();
            (w.left, w.user, w.user_scanner, w.skip) = (true, User::Alone, scanner, 0);
        }
        next.push(w);
    }

    /// Carries bytes of the source's own receive queue.
    fn move_alone(&self, size: Size, next: &mut Vec<Self>) {
        let mut w = self.clone();
        let fresh = if self.spill.is_none() { w.plain.pop_front() } else { None };
        if let Some(byte) = fresh {
            w.count_in_userspace(byte);
        }
        match self.spill.or(fresh) {
            Some(byte) if self.tcp.len() < usize::from(size.tcp) => {
                w.spill = None;
                w.accept(byte);
                next.push(w);
            }
            Some(byte) if fresh.is_some() => {
                w.spill = Some(byte);
                next.push(w);
            }
            Some(_) => {}
            None if self.fin && !self.shut => {
                w.shut(size);
                next.push(w);
            }
            None => {}
        }
    }
}
