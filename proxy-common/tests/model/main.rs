//! Explores the flow-control rules exhaustively: every interleaving of a small world.
//!
//! The world is one direction of one pair: a source that sends numbered bytes and a FIN, the verdict, the kernel worker's
//! queues, the target's TCP with little room, its reader, and userspace with its sleeping, draining, reading and partial
//! writing. Every step that another actor can see in between is a step of its own: the verdict reads `forwarded` long
//! before it acts, and looks again after it has counted; userspace loads the verdict's two counters in two steps and
//! acts on them in later ones; a passed segment is counted before it is queued, and queued before it can be read.
//!
//! What must hold in every state: the target takes byte 0, 1, 2, … and no other, and the FIN behind the last; each byte
//! is counted once, in order, by whoever carries it; the kernel queue stays within its limit. And from every state the
//! world can reach the end: nothing wedges. The last needs no fairness, for a state from which no path leads to the end
//! is a deadlock or a livelock.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

mod user;
mod verdict;
mod world;

use std::collections::{HashMap, HashSet};

use world::{Broken, Size, World};

/// What an exploration has seen.
#[derive(Default)]
struct Seen {
    worlds: usize,
    /// Some direction has left the kernel.
    left: bool,
    /// Some loss was noticed.
    aborted: bool,
    /// Userspace has counted some byte.
    counted: bool,
}

/// Visits every reachable world, and panics where a rule does not hold.
fn explore(size: Size, broken: Broken) -> Seen {
    let mut ids: HashMap<World, usize> = HashMap::from([(World::new(size), 0)]);
    let mut worlds = vec![World::new(size)];
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let mut seen = Seen::default();
    while seen.worlds < worlds.len() {
        let world = worlds[seen.worlds].clone();
        assert!(world.queue.len() <= usize::from(size.backlog), "the backlog is over its limit: {world:?}");
        seen.left |= world.left;
        seen.aborted |= world.aborted;
        seen.counted |= world.user_scanner > world.verdict_scanner;
        for next in world.steps(size, broken) {
            let id = *ids.entry(next.clone()).or_insert_with(|| {
                worlds.push(next);
                before.push(Vec::new());
                worlds.len() - 1
            });
            before[id].push(seen.worlds);
        }
        seen.worlds += 1;
    }
    all_reach_the_end(&worlds, &before, size);
    seen
}

fn all_reach_the_end(worlds: &[World], before: &[Vec<usize>], size: Size) {
    let mut good: HashSet<usize> = (0..worlds.len()).filter(|id| worlds[*id].done(size)).collect();
    let mut todo: Vec<usize> = good.iter().copied().collect();
    while let Some(id) = todo.pop() {
        for earlier in &before[id] {
            if good.insert(*earlier) {
                todo.push(*earlier);
            }
        }
    }
    if let Some(stuck) = (0..worlds.len()).find(|id| !good.contains(id)) {
        panic!("no path leads from here to the end: {:?}", worlds[stuck]);
    }
}

const SIZES: [Size; 6] = [
    Size { bytes: 4, backlog: 1, tcp: 1, tiny: 1, fin: true, leaves: false },
    Size { bytes: 5, backlog: 2, tcp: 1, tiny: 0, fin: false, leaves: false },
    Size { bytes: 5, backlog: 2, tcp: 3, tiny: 2, fin: true, leaves: false },
    Size { bytes: 6, backlog: 3, tcp: 2, tiny: 0, fin: false, leaves: false },
    Size { bytes: 4, backlog: 2, tcp: 2, tiny: 1, fin: true, leaves: true },
    Size { bytes: 4, backlog: 1, tcp: 1, tiny: 0, fin: false, leaves: true },
];

#[test]
fn every_interleaving_keeps_order_and_reaches_the_end() {
    for size in SIZES {
        let seen = explore(size, Broken::Nothing);
        assert!(seen.worlds > 100, "only {} worlds were reached: the exploration is not one", seen.worlds);
        assert!(seen.counted, "userspace never counted");
        assert_eq!(seen.left, size.leaves, "whether the direction left the kernel");
        assert_eq!(seen.aborted, size.leaves, "whether a segment was dropped while it left");
    }
}

/// The exploration notices each rule's absence: else its silence would mean nothing.
fn noticed(broken: Broken) -> bool {
    SIZES.iter().any(|size| std::panic::catch_unwind(|| explore(*size, broken)).is_err())
}

#[test]
fn without_the_drain_the_order_breaks() {
    assert!(noticed(Broken::NoDrain));
}

#[test]
fn without_the_wait_for_forwarded_the_order_breaks() {
    assert!(noticed(Broken::EagerReturn));
}

#[test]
fn waking_by_an_old_look_loses_a_wake_up() {
    assert!(noticed(Broken::StaleWake));
}

#[test]
fn sleeping_without_a_second_look_loses_a_wake_up() {
    assert!(noticed(Broken::NoSecondLook));
}

#[test]
fn reading_beyond_what_was_known_breaks_the_order() {
    assert!(noticed(Broken::ReadBeyond));
}

#[test]
fn loading_redirected_before_passed_breaks_the_order() {
    assert!(noticed(Broken::TornLook));
}

#[test]
fn an_early_zero_taken_for_the_end_cuts_bytes_off() {
    assert!(noticed(Broken::EarlyEnd));
}

#[test]
fn a_scanner_that_is_not_handed_back_counts_wrongly() {
    assert!(noticed(Broken::StaleScanner));
}

#[test]
fn what_the_verdict_has_counted_is_not_counted_again() {
    assert!(noticed(Broken::CountTwice));
}

#[test]
fn leaving_the_kernel_without_a_second_look_loses_bytes() {
    assert!(noticed(Broken::LeaveBlindly));
}

#[test]
fn leaving_the_kernel_while_it_redirects_breaks_the_order() {
    assert!(noticed(Broken::LeaveWithoutHold));
}
