use std::collections::HashSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::config::{Check, Config, Ejection};
use crate::gate::balance::health::{Found, Health, Rules};

use Standing::{Down, Ejected, New, Up};

fn seen(standings: &[Standing], backups: &[Standing]) -> Vec<Seen> {
    let all = standings.iter().map(|standing| (false, *standing)).chain(backups.iter().map(|one| (true, *one)));
    let seen = |(server, (backup, standing))| Seen { server, backup, draining: false, standing };
    (0u16..).zip(all).map(seen).collect()
}

#[test]
fn the_floor_decides_who_is_used() {
    for (standings, backups, min_up, members, panic) in [
        (&[Up, Up, Up][..], &[][..], 0.5, &[0, 1, 2][..], false),
        (&[Up, Up, Down], &[], 0.5, &[0, 1], false),
        (&[Up, Down, Down], &[], 0.5, &[0, 1, 2], true),
        (&[Up, Down, Down], &[], 0.0, &[0], false),
        (&[Down, Down], &[], 0.0, &[0, 1], true),
        (&[Down], &[], 1.0, &[0], true),
        // The ejected come back first.
        (&[Up, Ejected, Ejected, Down], &[], 0.5, &[0, 1, 2], true),
        (&[Ejected, Down], &[], 0.5, &[0], true),
        (&[Ejected, Down, Down], &[], 0.5, &[0, 1, 2], true),
        // New ones do not count, unless there are no others.
        (&[Up, New, New, New], &[], 0.5, &[0], false),
        (&[Down, New, New], &[], 0.5, &[0], true),
        (&[New, New], &[], 0.5, &[0, 1], true),
        // Backups are for when nobody else is up, and then their floor is the one that counts.
        (&[Up, Down, Down], &[Up], 0.5, &[0], false),
        (&[Down, Ejected, New], &[Up], 0.5, &[3], false),
        (&[Down], &[Up, Down, Down], 0.5, &[1, 2, 3], true),
        (&[Down, Down], &[Down], 0.5, &[0, 1], true),
        (&[Up, Down, Down], &[Down, New], 0.5, &[0, 1, 2], true),
        (&[], &[Up, Down], 0.5, &[0], false),
        (&[], &[Down], 0.5, &[0], true),
        (&[], &[], 0.5, &[], false),
        // 7 % of 100.
        (&[[Up; 7].as_slice(), &[Down; 93]].concat(), &[], 0.07, &[0, 1, 2, 3, 4, 5, 6], false),
    ] {
        let servers = seen(standings, backups);
        let chosen = choose(&servers, min_up);
        assert_eq!((chosen.members.as_slice(), chosen.panic), (members, panic), "{standings:?} {backups:?} {min_up}");
        let first = chosen.members.first().map(|first| usize::from(*first) >= standings.len());
        assert_eq!(first.unwrap_or(false), chosen.backups);
    }
}

#[test]
fn who_is_draining_is_not_there() {
    let mut servers = seen(&[Up, Up], &[Up]);
    servers[0].draining = true;
    assert_eq!(choose(&servers, 0.5).members, [1]);
    assert!(!may_eject(&servers, 0, 0.5), "it is out");
    servers[1].draining = true;
    assert_eq!(choose(&servers, 0.5).members, [2]);
    servers[2].draining = true;
    assert_eq!(choose(&servers, 0.5), Chosen::default());
}

#[test]
fn ejection_stops_at_the_floor() {
    for (standings, backups, min_up, may) in [
        (&[Up][..], &[][..], 0.0, false),
        (&[Up, Up], &[], 0.5, true),
        (&[Up, Up], &[], 0.6, false),
        (&[Up, Ejected], &[], 0.0, false),
        (&[Up, Up, Up], &[], 0.5, true),
        (&[Up, Up, Ejected], &[], 0.5, false),
        (&[Up, Up, Down], &[], 0.5, false),
        (&[Up, Up, New], &[], 0.5, true),
        (&[Up, New], &[], 0.5, false),
        (&[Down, Up], &[], 0.0, false),
        // A backup takes the place of any.
        (&[Up], &[Up], 1.0, true),
        (&[Up], &[Down], 0.0, false),
        (&[Up], &[New], 0.0, false),
    ] {
        assert_eq!(may_eject(&seen(standings, backups), 0, min_up), may, "{standings:?} {backups:?} {min_up}");
    }
    assert!(!may_eject(&seen(&[Up], &[Up]), 1, 0.0), "nobody takes the place of the last backup");
    assert!(may_eject(&seen(&[Ejected], &[Up, Up]), 2, 0.5));
    assert!(!may_eject(&[], 0, 0.5));
}

/// A backend whose servers are checked and used, as the gate does it.
#[derive(Clone)]
struct World {
    servers: Vec<(bool, Health)>,
    now: Instant,
    /// No check has been bad yet.
    only_ejections: bool,
    min_up: f64,
}

const SECOND: Duration = Duration::from_secs(1);

impl World {
    fn new(primaries: usize, backups: usize, min_up: f64) -> Self {
        let now = Instant::now();
        let text = "[[listener]]\nbind = '127.0.0.1:0'\n[[route]]\nbackend = 'a'\n[[backend]]\nname = 'a'\n\
                    servers = ['127.0.0.1:9']\ncheck = { kind = 'tcp', rise = 1, fall = 1 }\n\
                    ejection = { failures = 1, time = '2s', max_time = '4s' }\n";
        let config = Config::parse(text, "test");
        let settings = config.ok().and_then(|mut config| config.backends.pop());
        let settings: Option<(Option<Check>, Ejection)> = settings.map(|backend| (backend.check, backend.ejection));
        let (check, ejection) = settings.unwrap_or_default();
        assert!(check.is_some());
        let rules = Rules::new(check.as_ref(), &ejection);
        let health = |backup| (backup, Health::new(rules, Found::AtStart, now));
        let servers = (0..primaries + backups).map(|place| health(place >= primaries)).collect();
        Self { servers, now, only_ejections: true, min_up }
    }

    fn seen(&self) -> Vec<Seen> {
        let seen = |(server, (backup, health)): (u16, &(bool, Health))| Seen {
            server,
            backup: *backup,
            draining: false,
            standing: health.standing(self.now),
        };
        (0..).zip(&self.servers).map(seen).collect()
    }

    /// What can happen: to each server a good or bad check, a connection that is good or fails; or a second passes.
    fn events(&self) -> usize {
        4 * self.servers.len() + 1
    }

    fn happen(&mut self, event: usize) {
        let (now, seen) = (self.now, self.seen());
        let Some((_, health)) = self.servers.get_mut(event / 4) else {
            self.now += SECOND;
            return;
        };
        let ok = event.is_multiple_of(2);
        if event % 4 < 2 {
            health.checked(ok, now);
            self.only_ejections &= ok;
        } else if health.observed(ok, now, now) && may_eject(&seen, (event / 4) as u16, self.min_up) {
            health.eject(now);
        }
    }

    fn must_be_right(&self) {
        let seen = self.seen();
        let chosen = choose(&seen, self.min_up);
        assert!(!chosen.members.is_empty(), "never nobody: {seen:?}");
        let members: Vec<&Seen> = seen.iter().filter(|one| chosen.members.contains(&one.server)).collect();
        assert!(members.iter().all(|one| one.backup == chosen.backups), "one tier: {seen:?}");
        let primary_up = seen.iter().any(|one| !one.backup && one.standing == Up);
        assert!(!chosen.backups || !primary_up, "backups only without others: {seen:?}");
        let all_up = members.iter().all(|one| one.standing == Up);
        assert_eq!(chosen.panic, !all_up, "who is not up is used in panic only, and that is told: {seen:?}");
        let backup_up = seen.iter().any(|one| one.backup && one.standing == Up);
        let kind = seen.iter().filter(|one| one.backup == chosen.backups).count();
        if chosen.backups || !backup_up {
            assert!(reaches(members.len(), kind, self.min_up), "never below the floor: {seen:?}");
        }
        if self.only_ejections {
            assert!(!chosen.panic, "ejections alone never lead to panic: {seen:?}");
            assert!(kind > 1 || backup_up || seen[0].standing == Up, "one alone is never ejected: {seen:?}");
        }
    }

    /// Every sequence of so many events.
    fn explore(&self, left: usize, count: &mut usize) {
        self.must_be_right();
        *count += 1;
        for event in 0..if left > 0 { self.events() } else { 0 } {
            let mut next = self.clone();
            next.happen(event);
            next.explore(left - 1, count);
        }
    }
}

#[test]
fn whatever_happens_to_few_servers_there_is_one_to_use() {
    let mut count = 0;
    for (primaries, backups, events) in [(1, 0, 7), (2, 0, 5), (3, 0, 5), (1, 1, 5), (2, 1, 4), (1, 2, 4)] {
        for min_up in [0.0, 0.5, 1.0] {
            World::new(primaries, backups, min_up).explore(events, &mut count);
        }
    }
    assert!(count > 2_000_000, "{count}");
}

proptest! {
    #[test]
    fn whatever_happens_to_many_either(
        primaries in 1usize..9,
        backups in 0usize..3,
        min_up in prop::sample::select(vec![0.0, 0.3, 0.5, 0.8, 1.0]),
        events in proptest::collection::vec(0usize..1000, 0..200),
    ) {
        let mut world = World::new(primaries, backups, min_up);
        for event in events {
            world.happen(event % world.events());
            world.must_be_right();
        }
    }

    #[test]
    fn the_order_of_the_servers_does_not_matter(
        all in proptest::collection::vec((prop::sample::select(vec![New, Down, Ejected, Up]), any::<bool>(), any::<bool>()), 0..9),
        min_up in 0.0f64..=1.0,
    ) {
        let seen = |(server, (standing, backup, draining))| Seen { server, backup, draining, standing };
        let mut servers: Vec<Seen> = (0..).zip(all).map(seen).collect();
        let one = choose(&servers, min_up);
        servers.reverse();
        let other = choose(&servers, min_up);
        let set = |chosen: &Chosen| chosen.members.iter().copied().collect::<HashSet<u16>>();
        prop_assert_eq!(set(&one), set(&other));
        prop_assert_eq!((one.panic, one.backups), (other.panic, other.backups));
        prop_assert_eq!(one.members.is_empty(), servers.iter().all(|one| one.draining));
    }
}
