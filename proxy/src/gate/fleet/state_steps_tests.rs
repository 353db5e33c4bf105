use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Ask(Option<u16>),
    Retry(u16),
    Leave(usize),
    GiveUp(usize),
    Checked(u16, bool),
    Observed(u16, bool),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let server = 0u16..3;
    prop_oneof![
        5 => proptest::option::of(server.clone()).prop_map(Step::Ask),
        1 => server.clone().prop_map(Step::Retry),
        4 => (0usize..9).prop_map(Step::Leave),
        1 => (0usize..4).prop_map(Step::GiveUp),
        2 => (server.clone(), any::<bool>()).prop_map(|(server, good)| Step::Checked(server, good)),
        2 => (server, any::<bool>()).prop_map(|(server, good)| Step::Observed(server, good)),
        1 => (1u64..20).prop_map(Step::Later),
    ]
}

/// Who is where, by what the state has said.
#[derive(Default)]
struct World {
    on: Vec<u16>,
    waiting: BTreeMap<Ticket, Option<u16>>,
}

impl World {
    fn ask(&mut self, state: &mut State, wish: &Wish<'_>, now: Instant) -> Answer {
        let (answer, called) = state.ask(wish, now);
        self.called(state, called);
        answer
    }

    fn change(&mut self, state: &mut State, change: impl FnOnce(&mut State) -> Called) {
        let called = change(state);
        self.called(state, called);
    }

    /// The state has changed, and these are served for it.
    fn called(&mut self, state: &State, called: Called) {
        // Whose server takes no more is served by any.
        for wants in self.waiting.values_mut() {
            *wants = wants.filter(|wants| state.chosen.members.contains(wants));
        }
        for (ticket, server) in called {
            let wants = self.waiting.remove(&ticket).expect("only who waits is called");
            assert!(wants.is_none_or(|wants| wants == server), "it wanted {wants:?} and got {server}");
            self.on.push(server);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens: counts are right, no server has more than it may, and nobody waits for a place that is free.
    #[test]
    fn nobody_waits_for_a_place_that_is_free(
        most in proptest::array::uniform3(1u32..3),
        length in 0u32..4,
        balance in prop_oneof![Just("round-robin"), Just("least-connections"), Just("power-of-two"), Just("source-ip")],
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut now = Instant::now();
        let servers: Vec<String> = (0..).zip(most).map(|(n, most)| {
            format!("{{ address = '10.0.0.{n}:80', max_connections = {most}, backup = {} }}", n == 2)
        }).collect();
        let more = format!(
            "balance = '{balance}'\nqueue = {{ length = {length} }}\nejection = {{ failures = 2, time = '5s' }}\n\
             check = {{ kind = 'tcp', rise = 1, fall = 2 }}"
        );
        let mut state = state(&servers.join(", "), &more, now);
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Ask(kept) => match world.ask(&mut state, &wish(kept, &[]), now) {
                    Answer::Go(server) => world.on.push(server),
                    Answer::Wait(ticket) => {
                        let own = kept.filter(|kept| state.chosen.members.contains(kept));
                        world.waiting.insert(ticket, own);
                    }
                    Answer::Full => {}
                    Answer::Nobody => prop_assert!(false, "there are servers"),
                },
                Step::Retry(tried) => match world.ask(&mut state, &wish(None, &[tried]), now) {
                    Answer::Go(server) => {
                        prop_assert_ne!(server, tried);
                        world.on.push(server);
                    }
                    Answer::Wait(_) => prop_assert!(false, "who has tried one does not wait"),
                    Answer::Full | Answer::Nobody => {}
                },
                Step::Leave(place) if place < world.on.len() => {
                    let server = world.on.swap_remove(place);
                    world.change(&mut state, |state| state.leave(server, now));
                }
                Step::GiveUp(place) => {
                    if let Some(ticket) = world.waiting.keys().nth(place).copied() {
                        world.waiting.remove(&ticket);
                        state.cancel(ticket);
                    }
                }
                Step::Checked(server, good) => world.change(&mut state, |state| state.checked(server, good, now)),
                Step::Observed(server, good) => world.change(&mut state, |state| state.observed(server, now, good, now)),
                Step::Later(seconds) => now += Duration::from_secs(seconds),
                Step::Leave(_) => {}
            }
            for (server, most) in (0u16..).zip(most) {
                let on = world.on.iter().filter(|on| **on == server).count();
                prop_assert_eq!(state.server(server).unwrap().live as usize, on);
                prop_assert!(on <= most as usize);
            }
            prop_assert_eq!(state.queue.len(), world.waiting.len());
            prop_assert!(world.waiting.len() <= length as usize);
            // Time alone tells nobody anything.
            let free: BTreeSet<u16> = state.chosen.members.iter().copied().filter(|server| state.has_room(*server)).collect();
            if !matches!(step, Step::Later(_) | Step::GiveUp(_)) {
                prop_assert!(world.waiting.values().all(|wants| match wants {
                    Some(wants) => !free.contains(wants),
                    None => free.is_empty(),
                }), "{free:?} {:?}", world.waiting);
            }
        }
    }
}
