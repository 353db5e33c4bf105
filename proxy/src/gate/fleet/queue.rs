//! Who waits for a place on a server: first come, first served. Pure.

use std::collections::BTreeMap;

/// What a request that waits is known by.
pub(in crate::gate) type Ticket = u64;

/// The requests that wait for a place.
#[derive(Debug)]
pub(in crate::gate) struct Queue {
    most: usize,
    /// By their tickets, in the order in which they came. With each the only server that will do, for a client that was on
    /// it before.
    waiting: BTreeMap<Ticket, Option<u16>>,
    next: Ticket,
}

impl Queue {
    /// Of this length at most.
    pub(in crate::gate) fn new(most: u32) -> Self {
        Self { most: most as usize, waiting: BTreeMap::new(), next: 0 }
    }

    /// One more waits. `None`: too many do.
    pub(in crate::gate) fn push(&mut self, wants: Option<u16>) -> Option<Ticket> {
        if self.waiting.len() >= self.most {
            return None;
        }
        self.next += 1;
        self.waiting.insert(self.next, wants);
        Some(self.next)
    }

    /// Takes out the first whose wish fits, and gives its wish.
    pub(in crate::gate) fn first(&mut self, fits: impl Fn(Option<u16>) -> bool) -> Option<(Ticket, Option<u16>)> {
        let (ticket, wants) = self.waiting.iter().find(|(_, wants)| fits(**wants))?;
        let first = (*ticket, *wants);
        self.waiting.remove(&first.0);
        Some(first)
    }

    /// Whose server is none of these waits for it in vain: any will do now. Its turn is what it was.
    pub(in crate::gate) fn release(&mut self, members: &[u16]) {
        for wants in self.waiting.values_mut() {
            *wants = wants.filter(|wants| members.contains(wants));
        }
    }

    /// This one has gone.
    pub(in crate::gate) fn cancel(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
    }

    /// How many wait.
    pub(in crate::gate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(Option<u16>),
        Freed(u16),
        Cancel(usize),
        Members(Vec<u16>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let server = 0u16..3;
        prop_oneof![
            3 => proptest::option::of(server.clone()).prop_map(Step::Push),
            2 => server.clone().prop_map(Step::Freed),
            1 => (0usize..6).prop_map(Step::Cancel),
            1 => proptest::collection::vec(server, 0..3).prop_map(Step::Members),
        ]
    }

    proptest! {
        #[test]
        fn who_came_first_goes_first(most in 0u32..5, steps in proptest::collection::vec(step(), 0..40)) {
            let mut queue = Queue::new(most);
            // The model: tickets with what they want, oldest first.
            let mut model: Vec<(Ticket, Option<u16>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(wants) => {
                        let ticket = queue.push(wants);
                        prop_assert_eq!(ticket.is_some(), model.len() < most as usize);
                        if let Some(ticket) = ticket {
                            prop_assert!(model.iter().all(|(other, _)| *other < ticket), "a ticket is given once");
                            model.push((ticket, wants));
                        }
                    }
                    Step::Freed(server) => {
                        let fits = |(_, wants): &(Ticket, Option<u16>)| wants.is_none() || *wants == Some(server);
                        let first = model.iter().position(fits).map(|place| model.remove(place));
                        prop_assert_eq!(queue.first(|wants| wants.is_none_or(|wants| wants == server)), first);
                    }
                    Step::Cancel(place) => {
                        let ticket = if place < model.len() { model.remove(place).0 } else { Ticket::MAX };
                        queue.cancel(ticket);
                    }
                    Step::Members(members) => {
                        queue.release(&members);
                        let vain = |wants: &u16| !members.contains(wants);
                        model.iter_mut().filter(|(_, wants)| wants.as_ref().is_some_and(vain)).for_each(|(_, wants)| *wants = None);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
