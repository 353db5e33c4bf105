//! When a load generator sends at a pace of its own, and which latencies it then counts.

use std::time::{Duration, Instant};

/// One message for each connection in every interval, the connections spread evenly over it.
pub(super) struct Pace {
    start: Instant,
    /// From one connection's message to the next one's.
    step: Duration,
    connections: usize,
    /// Messages that were due so far.
    past: u32,
}

impl Pace {
    /// Starts with the first connection's message at `start`.
    pub(super) fn new(start: Instant, every: Duration, connections: usize) -> Self {
        let connections = connections.max(1);
        let step = (every / connections as u32).max(Duration::from_micros(1));
        Self { start, step, connections, past: 0 }
    }

    /// When the next message is due.
    pub(super) fn next(&self) -> Instant {
        self.start + self.step * self.past
    }

    /// The connection whose message is due, and since when; to be asked until it is `None`.
    pub(super) fn due(&mut self, now: Instant) -> Option<(usize, Instant)> {
        let since = self.next();
        if since > now {
            return None;
        }
        let connection = self.past as usize % self.connections;
        self.past += 1;
        Some((connection, since))
    }
}

/// The latencies of one window.
pub(super) struct Tally {
    /// Each connection sends one message in each such interval; `None`: one after the other.
    pub(super) every: Option<Duration>,
    /// The end of the window.
    pub(super) end: Instant,
    /// The latencies, in no order.
    pub(super) nanoseconds: Vec<u32>,
}

impl Tally {
    /// None yet, of a window that ends then.
    pub(super) fn new(every: Option<Duration>, end: Instant) -> Self {
        Self { every, end, nanoseconds: Vec::with_capacity(1 << 16) }
    }

    /// Counts an echo, and from when they were due the messages that its connection did not send because it waited for
    /// it: else one long wait would hide the others (coordinated omission).
    pub(super) fn count(&mut self, sent: Instant, missed: &mut Vec<Instant>, back: Instant) {
        let nanoseconds = |since| back.saturating_duration_since(since).as_nanos();
        let latencies = [sent].into_iter().chain(missed.drain(..)).map(nanoseconds);
        self.nanoseconds.extend(latencies.map(|latency| u32::try_from(latency).unwrap_or(u32::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_connection_is_due_once_in_an_interval() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 100 * MS, 4);
        let mut due = |at| std::iter::from_fn(|| Some(pace.due(start + at * MS)?.0)).collect::<Vec<_>>();
        assert_eq!(due(0), [0]);
        assert_eq!(due(24), [0; 0]);
        assert_eq!(due(80), [1, 2, 3]);
        assert_eq!(due(149), [0, 1]);
        assert_eq!(pace.due(start + 160 * MS), Some((2, start + 150 * MS)));
        assert_eq!(pace.next(), start + 175 * MS);
    }

    #[test]
    fn a_late_echo_counts_for_the_messages_that_waited_for_it() {
        let start = Instant::now();
        let mut tally = Tally::new(Some(100 * MS), start + 1_000 * MS);
        let mut missed = vec![start + 80 * MS, start + 180 * MS];
        tally.count(start, &mut missed, start + 250 * MS);
        tally.count(start + 300 * MS, &mut missed, start + 340 * MS);
        let in_ms: Vec<u32> = tally.nanoseconds.iter().map(|nanoseconds| nanoseconds / 1_000_000).collect();
        assert_eq!(in_ms, [250, 170, 70, 40]);
    }
}
