//! The verdict's steps. Each "segment" is one byte: sizes do not matter to the order of events.

use proxy_common::flow::{self, Decision};
use proxy_common::layout::{MODE_KERNEL, MODE_USER};

use crate::world::{Broken, Size, World};

/// What the verdict is doing with the segment that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Idle,
    /// Read `forwarded` and the target's state; has not acted.
    Read {
        forwarded: u8,
        hold: bool,
        room: bool,
    },
    /// Counted the segment as passed; has not looked whether to wake.
    Counted {
        before: u8,
    },
    /// Looked; the segment itself is not queued yet (the kernel does that when the program has returned).
    Queue,
    /// Decided to redirect; the segment is not queued yet.
    Redirect,
}

impl World {
    pub(crate) fn verdict_steps(&self, size: Size, broken: Broken, next: &mut Vec<Self>) {
        let mut w = self.clone();
        match self.verdict {
            Verdict::Idle if self.next == size.bytes => {}
            Verdict::Idle if self.attached => {
                let (forwarded, hold) = (self.forwarded, self.hold);
                w.verdict = Verdict::Read { forwarded, hold, room: self.room(size) };
                next.push(w);
            }
            Verdict::Idle => {
                if self.dropping {
                    let mut lost = self.clone();
                    (lost.next, lost.dropping) = (self.next + 1, false);
                    next.push(lost);
                }
                w.plain.push_back(self.next);
                (w.next, w.wake) = (self.next + 1, true);
                next.push(w);
            }
            Verdict::Read { forwarded, hold, room } => {
                next.push(self.decided(forwarded, hold, room, false, broken));
                if self.tiny_left > 0 {
                    next.push(self.decided(forwarded, hold, room, true, broken));
                }
            }
            Verdict::Counted { before } => {
                w.wake |= flow::must_wake(before.into(), self.forwarded.into());
                w.verdict = Verdict::Queue;
                next.push(w);
            }
            Verdict::Queue => {
                w.stage.push_back(self.next);
                (w.next, w.verdict) = (self.next + 1, Verdict::Idle);
                next.push(w);
            }
            Verdict::Redirect => {
                w.queue.push_back(self.next);
                (w.next, w.verdict) = (self.next + 1, Verdict::Idle);
                next.push(w);
            }
        }
    }

    fn decided(&self, forwarded: u8, hold: bool, room: bool, tiny: bool, broken: Broken) -> Self {
        let mut w = self.clone();
        let seen = if broken == Broken::EagerReturn { self.passed } else { forwarded };
        match flow::decide(self.mode, self.passed.into(), seen.into(), hold, room) {
            Decision::Redirect => {
                if self.mode == MODE_USER && broken != Broken::StaleScanner {
                    w.verdict_scanner = self.user_scanner;
                }
                w.count_in_kernel();
                if tiny {
                    w.tiny_left -= 1;
                    w.give_up(1);
                    w.pass(forwarded, broken);
                } else {
                    w.mode = MODE_KERNEL;
                    w.redirected += 1;
                    w.verdict = Verdict::Redirect;
                }
            }
            Decision::Pass => {
                if self.mode == MODE_KERNEL {
                    w.give_up(0);
                }
                w.pass(forwarded, broken);
            }
        }
        w
    }

    fn count_in_kernel(&mut self) {
        assert_eq!(self.verdict_scanner, self.next, "the verdict counts a byte too often, or misses one: {self:?}");
        self.verdict_scanner += 1;
    }

    fn give_up(&mut self, counted: u8) {
        self.mode = MODE_USER;
        self.flips += 1;
        self.counted = counted;
    }

    fn pass(&mut self, forwarded: u8, broken: Broken) {
        let before = self.passed;
        self.passed += 1;
        self.verdict = Verdict::Counted { before };
        if broken == Broken::StaleWake {
            self.wake |= flow::must_wake(before.into(), forwarded.into());
            self.verdict = Verdict::Queue;
        }
    }
}
