//! Which server of a backend is next. Pure but for one counter.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Round robin over a backend's servers.
#[derive(Debug)]
pub(in crate::gate) struct RoundRobin {
    servers: usize,
    next: AtomicUsize,
}

impl RoundRobin {
    /// Over so many servers.
    pub(in crate::gate) fn new(servers: usize) -> Self {
        Self { servers, next: AtomicUsize::new(0) }
    }

    /// The order in which one connection tries the servers: each once, the first one further than last time.
    pub(in crate::gate) fn turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (start, servers) = (self.next.fetch_add(1, Ordering::Relaxed), self.servers);
        (0..servers).map(move |step| (start % servers + step) % servers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn firsts_go_around() {
        let robin = RoundRobin::new(3);
        let firsts: Vec<usize> = (0..7).filter_map(|_| robin.turn().next()).collect();
        assert_eq!(firsts, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn no_server_is_no_turn() {
        assert_eq!(RoundRobin::new(0).turn().count(), 0);
    }

    #[test]
    fn the_counter_may_wrap() {
        let robin = RoundRobin { servers: 3, next: AtomicUsize::new(usize::MAX) };
        assert_eq!(robin.turn().count(), 3);
        assert_eq!(robin.turn().next(), Some(0));
    }

    proptest! {
        #[test]
        fn every_server_is_tried_once(servers in 1usize..20, turns in 0usize..50) {
            let robin = RoundRobin::new(servers);
            for _ in 0..turns {
                drop(robin.turn());
            }
            let mut order: Vec<usize> = robin.turn().collect();
            prop_assert_eq!(order.first().copied(), Some(turns % servers));
            order.sort_unstable();
            prop_assert_eq!(order, (0..servers).collect::<Vec<_>>());
        }
    }
}
