#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn first_come_first_served_by_what_they_want() {
    let start = Instant::now();
    let mut queue = Queue::new(4);
    for (id, wants) in [(10, Some(1)), (11, None), (12, Some(0)), (13, None)] {
        assert_eq!(queue.push(id, wants, at(start, id)), Ok(()));
    }
    assert_eq!(queue.push(14, None, start), Err(Full));
    assert_eq!(queue.freed(0), Some(11), "the first one wants another");
    assert_eq!(queue.freed(0), Some(12));
    assert_eq!(queue.push(15, Some(1), at(start, 5)), Ok(()), "there is room again");
    assert_eq!(queue.freed(1), Some(10));
    assert_eq!(queue.freed(1), Some(13));
    assert_eq!(queue.freed(2), None);
    assert_eq!(queue.freed(1), Some(15));
    assert_eq!((queue.len(), queue.next_deadline()), (0, None));
}

#[test]
fn who_has_waited_long_enough_leaves() {
    let start = Instant::now();
    let mut queue = Queue::new(9);
    for (id, deadline) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
        assert_eq!(queue.push(id, None, at(start, deadline)), Ok(()));
    }
    assert_eq!(queue.next_deadline(), Some(at(start, 10)));
    assert_eq!(queue.expire(at(start, 9)), [] as [u64; 0]);
    assert_eq!(queue.expire(at(start, 20)), [2, 4, 3]);
    assert!(!queue.cancel(3) && queue.cancel(1));
    assert_eq!(queue.freed(0), None);
}

#[test]
fn who_waits_for_a_server_that_goes_takes_any_in_its_old_place() {
    let start = Instant::now();
    let mut queue = Queue::new(9);
    for (id, wants) in [(1, Some(7)), (2, None), (3, Some(7))] {
        assert_eq!(queue.push(id, wants, at(start, 1)), Ok(()));
    }
    assert_eq!(queue.push(2, None, at(start, 1)), Ok(()), "it stands at the end now");
    queue.gone(7);
    assert_eq!([(); 4].map(|()| queue.freed(0)), [Some(1), Some(3), Some(2), None]);
}

#[test]
fn a_line_without_places_is_full() {
    assert_eq!(Queue::new(0).push(1, None, Instant::now()), Err(Full));
}

/// The same, written as one would say it.
struct Naive {
    most: usize,
    line: Vec<(u64, Option<u16>, Instant)>,
}

impl Naive {
    fn push(&mut self, id: u64, wants: Option<u16>, deadline: Instant) -> Result<(), Full> {
        self.line.retain(|waiter| waiter.0 != id);
        if self.line.len() == self.most {
            return Err(Full);
        }
        self.line.push((id, wants, deadline));
        Ok(())
    }

    fn freed(&mut self, server: u16) -> Option<u64> {
        let place = self.line.iter().position(|waiter| waiter.1.is_none_or(|wants| wants == server))?;
        Some(self.line.remove(place).0)
    }

    fn expire(&mut self, now: Instant) -> Vec<u64> {
        let mut over = self.line.clone();
        over.retain(|waiter| waiter.2 <= now);
        over.sort_by_key(|waiter| waiter.2);
        self.line.retain(|waiter| waiter.2 > now);
        over.into_iter().map(|waiter| waiter.0).collect()
    }

    fn cancel(&mut self, id: u64) -> bool {
        let before = self.line.len();
        self.line.retain(|waiter| waiter.0 != id);
        self.line.len() < before
    }

    fn gone(&mut self, server: u16) {
        self.line.iter_mut().filter(|waiter| waiter.1 == Some(server)).for_each(|waiter| waiter.1 = None);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Push(u64, Option<u16>, u64),
    Freed(u16),
    Expire(u64),
    Cancel(u64),
    Gone(u16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0u64..12, proptest::option::of(0u16..3), 0u64..40).prop_map(|(id, wants, by)| Event::Push(id, wants, by)),
        4 => (0u16..4).prop_map(Event::Freed),
        1 => (0u64..40).prop_map(Event::Expire),
        1 => (0u64..12).prop_map(Event::Cancel),
        1 => (0u16..4).prop_map(Event::Gone),
    ];
    proptest::collection::vec(event, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn it_does_what_a_naive_one_does(most in 0usize..8, events in events()) {
        let start = Instant::now();
        let (mut queue, mut naive) = (Queue::new(most), Naive { most, line: Vec::new() });
        for event in events {
            match event {
                Event::Push(id, wants, by) => {
                    prop_assert_eq!(queue.push(id, wants, at(start, by)), naive.push(id, wants, at(start, by)));
                }
                Event::Freed(server) => prop_assert_eq!(queue.freed(server), naive.freed(server)),
                Event::Expire(now) => prop_assert_eq!(queue.expire(at(start, now)), naive.expire(at(start, now))),
                Event::Cancel(id) => prop_assert_eq!(queue.cancel(id), naive.cancel(id)),
                Event::Gone(server) => {
                    queue.gone(server);
                    naive.gone(server);
                }
            }
            prop_assert_eq!(queue.len(), naive.line.len());
            prop_assert_eq!(queue.next_deadline(), naive.line.iter().map(|waiter| waiter.2).min());
            // Nothing is left behind of those that have left.
            let (wanting, sets) = (queue.wants.values().map(BTreeSet::len).sum::<usize>(), queue.wants.values());
            prop_assert!(wanting == queue.len() && sets.into_iter().all(|set| !set.is_empty()));
            prop_assert_eq!((queue.tickets.len(), queue.deadlines.len()), (queue.len(), queue.len()));
        }
    }
}
