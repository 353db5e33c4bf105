//! The world: one direction of one pair, and everybody who changes it.

use std::collections::VecDeque;

use proxy_common::flow::{self, Target};
use proxy_common::layout::MODE_KERNEL;

use crate::user::User;
use crate::verdict::Verdict;

/// The world's sizes: few bytes, a small backlog, a smaller target.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) bytes: u8,
    pub(crate) backlog: u8,
    pub(crate) tcp: u8,
    /// Segments that the verdict may find to hold too many frames.
    pub(crate) tiny: u8,
    /// Whether the source sends a FIN. It wakes userspace, and so would hide a wake-up that was lost before.
    pub(crate) fin: bool,
    /// Whether the direction leaves the kernel at some time.
    pub(crate) leaves: bool,
}

/// Rules that can be broken on purpose, to see that the exploration would notice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// Userspace does not wait until the target has accepted what was redirected.
    NoDrain,
    /// The verdict returns to kernel mode as soon as there is room.
    EagerReturn,
    /// The verdict decides on waking with the `forwarded` that it read at its start.
    StaleWake,
    /// Userspace sleeps when it has moved what it knew of, without looking again after it has published that.
    NoSecondLook,
    /// Userspace reads whatever is there, not only what it knew to be passed when it found the target drained.
    ReadBeyond,
    /// Userspace loads `redirected` before `passed`.
    TornLook,
    /// Userspace takes a 0 from a read for the end although bytes are known to wait.
    EarlyEnd,
    /// The verdict returns to kernel mode with the scanner that it had when it left.
    StaleScanner,
    /// Userspace counts a segment's front again that the verdict had counted.
    CountTwice,
    /// The direction leaves the kernel without a look at what was passed meanwhile.
    LeaveBlindly,
    /// The direction leaves the kernel without telling the verdict to redirect no more.
    LeaveWithoutHold,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// The next byte that the source sends.
    pub(crate) next: u8,
    /// The source's FIN has arrived.
    pub(crate) fin: bool,
    pub(crate) verdict: Verdict,
    pub(crate) tiny_left: u8,
    /// The verdict's state.
    pub(crate) mode: u32,
    pub(crate) redirected: u8,
    pub(crate) passed: u8,
    pub(crate) flips: u8,
    pub(crate) counted: u8,
    /// The scanners are known by the byte that they expect next.
    pub(crate) verdict_scanner: u8,
    /// Userspace's state.
    pub(crate) forwarded: u8,
    pub(crate) hold: bool,
    pub(crate) user_scanner: u8,
    pub(crate) seen_flips: u8,
    pub(crate) skip: u8,
    pub(crate) user: User,
    pub(crate) wake: bool,
    pub(crate) ended: bool,
    /// The direction is still to leave the kernel.
    pub(crate) to_leave: bool,
    /// The source's socket is under the verdict's rule.
    pub(crate) attached: bool,
    /// The source's socket was taken off the map while segments were being handed to the verdict: the next is dropped.
    pub(crate) dropping: bool,
    /// The direction has left the kernel for good.
    pub(crate) left: bool,
    /// Userspace has found that bytes are missing, and ends the pair with an RST.
    pub(crate) aborted: bool,
    /// Redirected bytes that the kernel worker has not written yet.
    pub(crate) queue: VecDeque<u8>,
    /// Passed bytes that the kernel worker has not made readable yet.
    pub(crate) stage: VecDeque<u8>,
    /// Passed bytes that userspace has not read yet.
    pub(crate) ingress: VecDeque<u8>,
    /// Bytes in the source's own receive queue, past the verdict.
    pub(crate) plain: VecDeque<u8>,
    /// A byte that userspace has read and the target has refused.
    pub(crate) spill: Option<u8>,
    /// Bytes in the target's TCP that its reader has not taken.
    pub(crate) tcp: VecDeque<u8>,
    /// All that the target's TCP has accepted.
    pub(crate) accepted: u8,
    /// The target has got a FIN.
    pub(crate) shut: bool,
}

impl World {
    pub(crate) fn new(size: Size) -> Self {
        Self {
            next: 0,
            fin: false,
            verdict: Verdict::Idle,
            tiny_left: size.tiny,
            mode: MODE_KERNEL,
            redirected: 0,
            passed: 0,
            flips: 0,
            counted: 0,
            verdict_scanner: 0,
            forwarded: 0,
            hold: false,
            user_scanner: 0,
            seen_flips: 0,
            skip: 0,
            user: User::Asleep,
            wake: false,
            ended: false,
            to_leave: size.leaves,
            attached: true,
            dropping: false,
            left: false,
            aborted: false,
            queue: VecDeque::new(),
            stage: VecDeque::new(),
            ingress: VecDeque::new(),
            plain: VecDeque::new(),
            spill: None,
            tcp: VecDeque::new(),
            accepted: 0,
            shut: false,
        }
    }

    /// Everything has arrived, and the end behind it; or a loss has been noticed, and the pair ended with an RST.
    pub(crate) fn done(&self, size: Size) -> bool {
        let arrived = self.accepted == size.bytes && self.tcp.is_empty() && self.verdict == Verdict::Idle;
        self.aborted || (arrived && self.shut == size.fin)
    }

    /// Every world that one step of one actor leads to.
    pub(crate) fn steps(&self, size: Size, broken: Broken) -> Vec<Self> {
        let mut next = Vec::new();
        if !self.aborted {
            self.verdict_steps(size, broken, &mut next);
            self.user_steps(size, broken, &mut next);
            self.kernel_steps(size, &mut next);
        }
        next
    }

    /// The kernel worker, the target's reader, and the source's FIN.
    fn kernel_steps(&self, size: Size, next: &mut Vec<Self>) {
        if let Some(byte) = self.queue.front()
            && self.tcp.len() < usize::from(size.tcp)
        {
            let mut w = self.clone();
            w.queue.pop_front();
            w.accept(*byte);
            next.push(w);
        }
        if let Some(byte) = self.stage.front() {
            let mut w = self.clone();
            w.ingress.push_back(*byte);
            w.stage.pop_front();
            next.push(w);
        }
        if !self.tcp.is_empty() {
            let mut w = self.clone();
            w.tcp.pop_front();
            next.push(w);
        }
        if size.fin && self.next == size.bytes && self.verdict == Verdict::Idle && !self.fin {
            let mut w = self.clone();
            (w.fin, w.wake) = (true, true);
            next.push(w);
        }
    }

    /// The verdict's view of the target. The rule's byte costs are scaled away: a segment is one `PIECE` here.
    pub(crate) fn room(&self, size: Size) -> bool {
        let sent = u32::from(self.redirected + self.forwarded);
        let backlog = flow::backlog(sent, 7, 7 + u32::from(self.accepted));
        let scale = flow::PIECE + 1;
        let target =
            Target { backlog, queued: self.tcp.len() as u32 * scale, limit: u32::from(size.tcp) * scale, in_flight: 0 };
        flow::room(&target, backlog, 1, size.backlog.into())
    }

    pub(crate) fn accept(&mut self, byte: u8) {
        assert_eq!(byte, self.accepted, "the target got a byte out of order, twice, or not at all: {self:?}");
        self.accepted += 1;
        self.tcp.push_back(byte);
    }

    pub(crate) fn shut(&mut self, size: Size) {
        assert_eq!(self.accepted, size.bytes, "the target got a FIN before the last byte: {self:?}");
        self.shut = true;
    }
}
