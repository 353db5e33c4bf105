//! The verdict on one segment.

use core::ffi::c_void;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_loop, bpf_skb_adjust_room};
use aya_ebpf::programs::SkBuffContext;
use aya_ebpf::{EbpfContext as _, bindings::__sk_buff};
use aya_log_ebpf::debug;
use proxy_common::flow::{self, Decision, Place, Target};
use proxy_common::layout::{
    self, DirCounters, Event, FLAG_BASE, FLAG_BROKEN, FLAG_SEQ, MODE_KERNEL, MODE_USER, UserState, VerdictState,
};

use crate::maps::{COUNTERS, EVENTS, INDICES, TARGETS, USERS, VERDICTS};
use crate::{count, tcp};

/// Bytes that one direction may have waiting in the kernel; set by the loader.
#[unsafe(no_mangle)]
static BACKLOG_LIMIT: u32 = 0;

/// The most that `bpf_skb_adjust_room` takes off the front at once (`sk_skb_adjust_room`: 0xfff).
const TRIM_STEP: u32 = 4095;
/// So many steps cover the largest segment (64 KiB, or what GRO and coalescing make of it: 1 MiB).
const TRIM_STEPS: u32 = 260;

#[inline(always)]
pub(crate) fn verdict(ctx: &SkBuffContext) -> u32 {
    if ctx.len() == 0 {
        // A lone FIN. Redirecting it breaks the target, and passing it breaks this socket if redirected bytes wait for it:
        // the FIN queues behind them, and the worker takes its length, 0, for a failed send. Dropped, the end is readable
        // all the same.
        return SK_DROP;
    }
    // SAFETY: the helper takes this program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: entries are written whole, before the socket is in SOURCES.
    let Some(&index) = (unsafe { INDICES.get(&cookie) }) else {
        return SK_PASS;
    };
    let (Some(state), Some(user)) = (VERDICTS.get_ptr_mut(index), USERS.get_ptr(index)) else {
        return SK_PASS;
    };
    let Some(pair) = COUNTERS.get_ptr_mut(index >> 1) else {
        return SK_PASS;
    };
    if !trim(ctx, state) {
        // SAFETY: this verdict is the only writer of `state`.
        unsafe { (*state).flags |= FLAG_BROKEN };
        wake(index, cookie);
        return SK_DROP;
    }
    if ctx.len() == 0 {
        return SK_DROP;
    }
    // SAFETY: `pair` points to a map value; either direction is written by its own verdict only.
    let counters = unsafe { if index & 1 == 0 { &raw mut (*pair).dirs[0] } else { &raw mut (*pair).dirs[1] } };
    let direction = Direction { index, cookie, state, user, counters };
    decide(ctx, &direction)
}

/// The direction that a segment belongs to.
struct Direction {
    index: u32,
    cookie: u64,
    state: *mut VerdictState,
    user: *const UserState,
    counters: *mut DirCounters,
}

/// Takes what was delivered before off the front of the segment (see [`flow::place`]). False: it can't be done, or bytes
/// before the segment are missing.
#[inline(always)]
fn trim(ctx: &SkBuffContext, state: *mut VerdictState) -> bool {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: `state` is a map value with this verdict as its only writer; `skb` is the program's context, whose
    // control block begins with TCP's: `seq`, `end_seq` (`struct tcp_skb_cb`, `struct sk_skb_cb`).
    let (len, seq) = unsafe { ((*skb).len, (*skb).cb[0]) };
    // SAFETY: as above.
    if unsafe { (*state).flags } & FLAG_SEQ == 0 {
        // SAFETY: reading a field of the context.
        let socket = unsafe { (*skb).__bindgen_anon_2.sk };
        if socket.is_null() {
            return false;
        }
        let Some(tcp) = tcp::Tcp::of(socket.cast()) else {
            return false;
        };
        // Nothing of this stream is in flight above TCP yet, so `copied_seq` is where its reader stands.
        let copied = tcp.copied_seq();
        // SAFETY: as above.
        unsafe {
            (*state).next_seq = copied;
            (*state).flags |= FLAG_SEQ;
        }
    }
    // SAFETY: as above.
    let Place::Overlaps(old) = flow::place(unsafe { (*state).next_seq }, seq, len) else {
        return false;
    };
    if old >= len {
        // Wholly old, which TCP itself never queues.
        return false;
    }
    // SAFETY: as above.
    unsafe { (*state).next_seq = seq.wrapping_add(len) };
    if old == 0 {
        return true;
    }
    let mut trim = Trim { skb, old };
    // SAFETY: `trim_step` has the signature that the kernel calls.
    unsafe { bpf_loop(TRIM_STEPS, trim_step as *mut c_void, core::ptr::from_mut(&mut trim).cast(), 0) };
    trim.old == 0
}

/// What is still to be taken off the front of a segment.
struct Trim {
    skb: *mut __sk_buff,
    old: u32,
}

/// One step of [`trim`]. Returns 1 to end the loop.
///
/// A loop of the language's own would be verified turn by turn, with all that follows it each time.
extern "C" fn trim_step(_turn: u32, trim: *mut Trim) -> i64 {
    // SAFETY: `bpf_loop` passes the pointer that it was given, and nothing else uses it meanwhile.
    let trim = unsafe { &mut *trim };
    if trim.old == 0 {
        return 1;
    }
    let step = if trim.old > TRIM_STEP { TRIM_STEP } else { trim.old };
    // SAFETY: `skb` is the program's context.
    if unsafe { bpf_skb_adjust_room(trim.skb, -(step as i32), 0, 0) } != 0 {
        return 1;
    }
    trim.old -= step;
    0
}

#[inline(always)]
fn decide(ctx: &SkBuffContext, direction: &Direction) -> u32 {
    let &Direction { index, state, user, counters, .. } = direction;
    let len = ctx.len();
    // SAFETY: both are map values; `state` has this verdict as its only writer, `user` is written by userspace in
    // whole words.
    let (forwarded, hold) = unsafe { (core::ptr::read_volatile(&raw const (*user).forwarded), (*user).hold != 0) };
    // SAFETY: as above.
    let (mode, redirected, passed) = unsafe { ((*state).mode, (*state).redirected, (*state).passed) };
    let sent = redirected.wrapping_add(forwarded) as u32;
    // Without a target there is no room: userspace, which is being told of its end, sees what has still come.
    let room = tcp::target(layout::peer(index)).is_some_and(|target| room(&target, state, sent, len));
    match flow::decide(mode, passed, forwarded, hold, room) {
        Decision::Redirect => {
            if mode == MODE_USER {
                // SAFETY: as above. Userspace has written the scanner before the `forwarded` that was read above; a BPF
                // atomic that fetches is a full barrier.
                unsafe {
                    fetch_add(&raw mut (*state).passed, 0);
                    (*state).scanner = core::ptr::read_volatile(&raw const (*user).scanner);
                }
            }
            let counted = count::segment(ctx, len, state, counters);
            if counted < len {
                give_up(state, counted);
                return pass(direction, len);
            }
            // SAFETY: as above.
            unsafe {
                (*state).mode = MODE_KERNEL;
                (*state).redirected = redirected + u64::from(len);
                (*state).burst = (*state).burst.and_one();
            }
            redirect(ctx, index)
        }
        Decision::Pass => {
            if mode == MODE_KERNEL {
                debug!(ctx, "direction {} to user mode: {} of {} bytes sent wait", index, sent, redirected);
                give_up(state, 0);
            }
            pass(direction, len)
        }
    }
}

/// Whether the target takes `len` more bytes, of which `sent` were sent to it so far.
#[inline(always)]
fn room(target: &tcp::Peer, state: *mut VerdictState, sent: u32, len: u32) -> bool {
    // SAFETY: `state` is a map value with this verdict as its only writer.
    let waiting = unsafe {
        if (*state).flags & FLAG_BASE == 0 {
            // Nothing was redirected yet, and userspace writes only what was passed.
            (*state).base = target.write_seq;
            (*state).flags |= FLAG_BASE;
        }
        let accepted = target.write_seq.wrapping_sub((*state).base);
        (*state).burst = (*state).burst.settled(sent, accepted);
        (*state).burst.waiting
    };
    // SAFETY: as above.
    let backlog = unsafe { flow::backlog(sent, (*state).base, target.write_seq) };
    // SAFETY: a static is readable; volatile, because the loader changes it after compilation.
    let limit = unsafe { core::ptr::read_volatile(&BACKLOG_LIMIT) };
    flow::room(&Target { backlog, ..target.memory }, waiting, len, limit)
}

/// Leaves the direction to userspace, which counts from here on: all but the first `counted` bytes of this segment.
#[inline(always)]
fn give_up(state: *mut VerdictState, counted: u32) {
    // SAFETY: `state` is a map value with this verdict as its only writer.
    unsafe {
        (*state).mode = MODE_USER;
        (*state).counted = counted;
        (*state).flips += 1;
    }
}

#[inline(always)]
fn redirect(ctx: &SkBuffContext, index: u32) -> u32 {
    // SAFETY: TARGETS is a SOCKMAP, and the context is this program's.
    unsafe { TARGETS.redirect_skb(ctx, layout::peer(index), 0) as u32 }
}

/// Counts bytes as passed up, then looks whether userspace may be asleep: in this order (see [`flow::must_wake`]).
#[inline(always)]
fn pass(direction: &Direction, len: u32) -> u32 {
    let &Direction { index, cookie, state, user, .. } = direction;
    // SAFETY: `passed` is an aligned word of a map value; a BPF atomic that fetches is a full barrier.
    let before = unsafe { fetch_add(&raw mut (*state).passed, u64::from(len)) };
    // SAFETY: `user` is a map value, written by userspace in whole words.
    let forwarded = unsafe { core::ptr::read_volatile(&raw const (*user).forwarded) };
    if flow::must_wake(before, forwarded) {
        wake(index, cookie);
    }
    SK_PASS
}

/// An atomic add that returns the old value and is a full barrier.
///
/// The target offers no `AtomicU64::fetch_add` (it has no compare-and-swap as LLVM understands it), but BPF has the
/// instruction (kernel 5.12, `BPF_ADD | BPF_FETCH`).
///
/// # Safety
/// `word` is aligned and may be written.
#[inline(always)]
unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(word, value) }
}

#[inline(always)]
fn wake(index: u32, cookie: u64) {
    // The ring holds two events per direction, and at most one is under way: it cannot be full.
    let _ = EVENTS.output::<Event>(&Event { index, cookie: cookie as u32 }, 0);
}
