//! Who waits for a server while all are full: a line of bounded length, first come, first served. Pure: `now` in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// No place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gate) struct Full;

/// The line of a backend. Everything takes time logarithmic in its length, so that a herd of clients in it costs no more
/// per client than a few.
#[derive(Debug)]
pub(in crate::gate) struct Queue {
    most: usize,
    /// What the next to come draws: the line is in the order of these.
    next: u64,
    line: BTreeMap<u64, Waiter>,
    tickets: BTreeMap<u64, u64>,
    /// The tickets of those that want this server; under `None`, of those that take any.
    wants: BTreeMap<Option<u16>, BTreeSet<u64>>,
    deadlines: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    wants: Option<u16>,
    deadline: Instant,
}

impl Queue {
    /// An empty one, with places for so many.
    pub(in crate::gate) fn new(most: usize) -> Self {
        Self {
            most,
            next: 0,
            line: BTreeMap::new(),
            tickets: BTreeMap::new(),
            wants: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Stands in line, at its end; whoever stands in it already loses the place. `wants`: the one server that will do (a
    /// client comes back to its own); none: any.
    ///
    /// # Errors
    /// The line is full.
    pub(in crate::gate) fn push(&mut self, id: u64, wants: Option<u16>, deadline: Instant) -> Result<(), Full> {
        self.cancel(id);
        if self.line.len() >= self.most {
            return Err(Full);
        }
        let ticket = self.next;
        self.next += 1;
        self.line.insert(ticket, Waiter { id, wants, deadline });
        self.tickets.insert(id, ticket);
        self.wants.entry(wants).or_default().insert(ticket);
        self.deadlines.insert((deadline, ticket));
        Ok(())
    }

    /// A server has room for one more: the first in line that may have it, who leaves the line. One whose time is over
    /// is as good as any until [`Queue::expire`] says so.
    pub(in crate::gate) fn freed(&mut self, server: u16) -> Option<u64> {
        let first = |wants| self.wants.get(&wants)?.first().copied();
        let ticket = [first(None), first(Some(server))].into_iter().flatten().min()?;
        self.leave(ticket).map(|waiter| waiter.id)
    }

    /// Those whose time is over leave the line, the earliest deadline first.
    pub(in crate::gate) fn expire(&mut self, now: Instant) -> Vec<u64> {
        let mut over = Vec::new();
        while let Some((_, ticket)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            match self.leave(ticket) {
                Some(waiter) => over.push(waiter.id),
                None => break,
            }
        }
        over
    }

    /// When somebody's time is over next.
    pub(in crate::gate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Leaves the line. Returns whether it stood in it.
    pub(in crate::gate) fn cancel(&mut self, id: u64) -> bool {
        let ticket = self.tickets.get(&id).copied();
        ticket.and_then(|ticket| self.leave(ticket)).is_some()
    }

    /// A server can no longer be waited for: those that wanted it take any, and keep their places.
    pub(in crate::gate) fn gone(&mut self, server: u16) {
        let tickets = self.wants.remove(&Some(server)).unwrap_or_default();
        for ticket in &tickets {
            if let Some(waiter) = self.line.get_mut(ticket) {
                waiter.wants = None;
            }
        }
        if !tickets.is_empty() {
            self.wants.entry(None).or_default().extend(tickets);
        }
    }

    /// How many stand in line.
    pub(in crate::gate) fn len(&self) -> usize {
        self.line.len()
    }

    fn leave(&mut self, ticket: u64) -> Option<Waiter> {
        let waiter = self.line.remove(&ticket)?;
        self.tickets.remove(&waiter.id);
        self.deadlines.remove(&(waiter.deadline, ticket));
        if let Some(same) = self.wants.get_mut(&waiter.wants) {
            same.remove(&ticket);
            if same.is_empty() {
                self.wants.remove(&waiter.wants);
            }
        }
        Some(waiter)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
