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

    /// The connection whose message is due; to be asked until it is `None`.
    pub(super) fn due(&mut self, now: Instant) -> Option<usize> {
        if self.next() > now {
            return None;
        }
        let connection = self.past as usize % self.connections;
        self.past += 1;
        Some(connection)
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

    /// Counts an echo. With an interval it also counts, from when they were due within the window, the messages that
    /// this connection did not send because it waited for this echo: else one long wait would hide the others
    /// (coordinated omission).
    pub(super) fn count(&mut self, sent: Instant, back: Instant) {
        let mut due = sent;
        loop {
            let latency = back.saturating_duration_since(due);
            self.nanoseconds.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
            let Some(every) = self.every else { return };
            due += every;
            if due >= back.min(self.end) {
                return;
            }
        }
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
        let mut due = |at| std::iter::from_fn(|| pace.due(start + at * MS)).collect::<Vec<_>>();
        assert_eq!(due(0), [0]);
        assert_eq!(due(24), [0; 0]);
        assert_eq!(due(80), [1, 2, 3]);
        assert_eq!(due(150), [0, 1, 2]);
        assert_eq!(pace.next(), start + 175 * MS);
    }

    #[test]
    fn a_late_echo_counts_for_the_messages_that_waited_for_it() {
        let (start, every) = (Instant::now(), 100 * MS);
        let in_ms = |tally: Tally| tally.nanoseconds.iter().map(|ns| ns / 1_000_000).collect::<Vec<_>>();
        let count = |every, end, back| {
            let mut tally = Tally::new(every, start + end * MS);
            tally.count(start, start + back * MS);
            in_ms(tally)
        };
        assert_eq!(count(Some(every), 1_000, 40), [40]);
        assert_eq!(count(Some(every), 1_000, 250), [250, 150, 50]);
        assert_eq!(count(Some(every), 150, 250), [250, 150], "what was due after the window does not count");
        assert_eq!(count(None, 1_000, 250), [250]);
    }
}
