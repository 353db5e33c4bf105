#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::config::Config;

fn backend(servers: &str, more: &str) -> Backend {
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n\
         [[backend]]\nname = \"app\"\nservers = [{servers}]\n{more}\n"
    );
    Config::parse(&text, "test").unwrap().backends.remove(0)
}

fn state(servers: &str, more: &str, now: Instant) -> State {
    State::new(&backend(servers, more), now)
}

const ASK: Ask = Ask { key: None, random: [0; 2] };

fn wish<'a>(kept: Option<u16>, tried: &'a [u16]) -> Wish<'a> {
    Wish { ask: ASK, kept, tried }
}

/// Asks while nobody waits.
fn ask(state: &mut State, wish: &Wish<'_>, now: Instant) -> Answer {
    let (answer, called) = state.ask(wish, now);
    assert!(called.is_empty(), "{called:?}");
    answer
}

fn site(address: &str) -> Site {
    let (address, host) = (address.parse().unwrap(), Some("app.test".into()));
    Site { address, host, entry: 0, weight: 1, backup: false, most: 0 }
}

const TWO: &str = "'10.0.0.1:80', '10.0.0.2:80'";

#[test]
fn a_client_comes_back_to_its_server_while_that_takes_requests() {
    let now = Instant::now();
    let mut draining = state("'10.0.0.1:80', { address = '10.0.0.2:80', weight = 0 }", "", now);
    for _ in 0..4 {
        assert_eq!(ask(&mut draining, &wish(Some(0), &[]), now), Answer::Go(0));
        assert_eq!(ask(&mut draining, &wish(Some(1), &[]), now), Answer::Go(0), "a draining one gets nothing");
        assert_eq!(ask(&mut draining, &wish(Some(7), &[]), now), Answer::Go(0), "there is none such");
    }
    assert_eq!(ask(&mut draining, &wish(None, &[0]), now), Answer::Nobody);
    let mut two = state(TWO, "", now);
    assert_eq!(ask(&mut two, &wish(Some(1), &[1]), now), Answer::Go(0), "it has been tried");
    let mut all_drain = state("{ address = '10.0.0.1:80', weight = 0 }", "", now);
    assert_eq!(ask(&mut all_drain, &wish(None, &[]), now), Answer::Nobody);
}

#[test]
fn a_backup_serves_while_nobody_else_does() {
    let now = Instant::now();
    let servers = "'10.0.0.1:80', { address = '10.0.0.2:80', backup = true }";
    let mut state = state(servers, "check = { kind = 'tcp', rise = 1, fall = 1 }", now);
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(0));
    state.checked(0, false, now);
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(1));
    state.checked(0, true, now);
    assert_eq!(ask(&mut state, &wish(Some(1), &[]), now), Answer::Go(0), "clients do not stay on a backup");
}

#[test]
fn who_waits_for_one_server_keeps_its_turn_when_that_goes() {
    let now = Instant::now();
    let servers = "{ address = '10.0.0.1:80', max_connections = 1 }, { address = '10.0.0.2:80', max_connections = 2 }";
    let mut state = state(servers, "queue = { length = 3 }\ncheck = { kind = 'tcp', rise = 1, fall = 1 }", now);
    assert_eq!(ask(&mut state, &wish(Some(0), &[]), now), Answer::Go(0));
    let [first, second] = [(); 2].map(|()| match ask(&mut state, &wish(Some(0), &[]), now) {
        Answer::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    });
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(1), "others have room elsewhere");
    assert_eq!(state.checked(0, false, now), [(first, 1)], "and so have these now");
    let Answer::Wait(third) = ask(&mut state, &wish(None, &[]), now) else { panic!() };
    assert_eq!(state.leave(1, now), [(second, 1)], "who came first is served first");
    assert_eq!(state.leave(1, now), [(third, 1)]);
}

#[test]
fn who_meets_a_dead_server_in_a_panic_goes_to_one_that_is_up() {
    let now = Instant::now();
    let servers = "'10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80'";
    let more = "balance = 'least-connections'\ncheck = { kind = 'tcp', rise = 1, fall = 1 }";
    let mut state = state(servers, more, now);
    for dead in [0, 1] {
        state.checked(dead, false, now);
    }
    assert!(state.chosen.panic);
    for _ in 0..9 {
        let Answer::Go(first) = ask(&mut state, &wish(None, &[]), now) else { panic!() };
        state.leave(first, now);
        // The one that is up has the most connections.
        assert_eq!(ask(&mut state, &wish(None, &[0]), now), Answer::Go(2));
    }
    assert_ne!(ask(&mut state, &wish(None, &[0, 2]), now), Answer::Nobody, "then the others");
}

#[test]
fn who_cannot_wait_for_a_full_server_goes_to_another() {
    let now = Instant::now();
    let servers = "{ address = '10.0.0.1:80', max_connections = 1 }, { address = '10.0.0.2:80', max_connections = 1 }";
    let mut state = state(servers, "", now);
    assert_eq!(ask(&mut state, &wish(Some(0), &[]), now), Answer::Go(0));
    assert_eq!(ask(&mut state, &wish(Some(0), &[]), now), Answer::Go(1));
    assert_eq!(ask(&mut state, &wish(Some(0), &[]), now), Answer::Full);
}

#[test]
fn servers_of_a_name_keep_their_index_as_long_as_somebody_is_on_them() {
    let now = Instant::now();
    let mut state = state("'app.test:80', '10.9.9.9:80'", "", now);
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(1), "nothing is known of the name yet");
    let sites = |list: &[&str]| list.iter().map(|address| site(address)).collect::<Vec<_>>();
    let placed = state.place(sites(&["10.0.0.1:80", "10.0.0.2:80"]), now);
    assert_eq!(placed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(ask(&mut state, &wish(Some(2), &[]), now), Answer::Go(1), "it is not listed yet");
    assert!(state.list(0, &placed, false, now).0.is_empty());
    assert_eq!(ask(&mut state, &wish(Some(2), &[]), now), Answer::Go(2));
    // The name stands for another one now; the first is in use still.
    let placed = state.place(sites(&["10.0.0.2:80", "10.0.0.3:80"]), now);
    assert_eq!(placed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [3, 4]);
    let gone = state.list(0, &placed, false, now).0;
    assert_eq!(gone.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2]);
    assert_eq!(state.server(2).unwrap().live, 1);
    assert_ne!(ask(&mut state, &wish(Some(2), &[]), now), Answer::Go(2));
    // It comes back where it was.
    let placed = state.place(sites(&["10.0.0.1:80"]), now);
    assert_eq!(placed[0].0, 2);
    assert_eq!(state.list(0, &placed, false, now).0.len(), 2);
}

#[test]
fn an_address_of_two_entries_is_noticed() {
    let now = Instant::now();
    let mut state = state("'app.test:80', '10.0.0.2:80', { address = '10.0.0.3:80', weight = 3 }", "", now);
    for (addresses, shared) in [
        (&["10.0.0.1:80", "10.0.0.4:80"][..], None),
        (&["10.0.0.1:80", "10.0.0.3:80"], Some("10.0.0.3:80")),
        (&["10.0.0.2:81"], None),
    ] {
        let placed = state.place(addresses.iter().map(|address| site(address)).collect(), now);
        state.list(0, &placed, false, now);
        assert_eq!(state.shared(0).map(Address::to_string).as_deref(), shared);
    }
}

#[test]
fn a_part_of_an_answer_takes_nothing_away() {
    let now = Instant::now();
    let mut state = state("'app.test:80'", "check = { kind = 'tcp' }", now);
    let placed = state.place(vec![site("10.0.0.1:80"), site("10.0.0.2:80")], now);
    state.list(0, &placed, false, now);
    let placed = state.place(vec![site("10.0.0.2:80"), Site { weight: 5, ..site("10.0.0.3:80") }], now);
    assert!(state.list(0, &placed, true, now).0.is_empty());
    let listed: Vec<_> = state.servers().filter(|(_, server)| server.listed()).map(|(index, _)| index).collect();
    assert_eq!(listed, [1, 2, 3]);
    assert_eq!(state.standing(3, now), Some(Standing::New), "what is new is checked first");
    let gone = state.list(0, &placed, false, now).0;
    assert_eq!(gone.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
}

#[test]
fn more_servers_than_there_may_be_are_left_out() {
    let now = Instant::now();
    let mut state = state("'app.test:80'", "", now);
    let many = |from: u32, count: u32| -> Vec<Site> {
        (from..from + count).map(|n| site(&format!("10.{}.{}.{}:80", n >> 16, n >> 8 & 255, n & 255))).collect()
    };
    let placed = state.place(many(0, 1200), now);
    assert_eq!(placed.len(), usize::from(MOST_FOUND));
    state.list(0, &placed, false, now);
    assert_eq!(ask(&mut state, &wish(Some(5), &[]), now), Answer::Go(5));
    assert!(state.place(many(5000, 1200), now).is_empty(), "the others are listed");
    state.list(0, &[], false, now);
    // All have gone. But for the one that somebody is on, their places are others'.
    let others = state.place(many(5000, 1200), now);
    assert_eq!(others.len(), usize::from(MOST_FOUND) - 1);
    assert!(others.iter().all(|(index, _)| *index != 5));
    assert!(state.place(many(9000, 1), now).is_empty(), "what has just been placed is nobody else's");
}

#[test]
fn a_server_that_is_back_begins_slowly() {
    let now = Instant::now();
    let more = "check = { kind = 'tcp', rise = 1, fall = 1 }\nslow_start = '100s'";
    let mut state = state(TWO, more, now);
    state.checked(1, false, now);
    state.checked(1, true, now);
    let mut counts = [0i32; 2];
    for _ in 0..110 {
        let Answer::Go(server) = ask(&mut state, &wish(None, &[]), now) else { panic!() };
        counts[usize::from(server)] += 1;
    }
    assert_eq!(counts, [100, 10]);
    let mut counts = [0i32; 2];
    for _ in 0..110 {
        let Answer::Go(server) = ask(&mut state, &wish(None, &[]), now + Duration::from_secs(100)) else { panic!() };
        counts[usize::from(server)] += 1;
    }
    assert!(counts[1].abs_diff(55) <= 5, "{counts:?}");
}

#[test]
fn a_server_that_fails_is_left_out_and_comes_back() {
    let now = Instant::now();
    let mut state = state(TWO, "ejection = { failures = 3, time = '10s' }", now);
    for _ in 0..3 {
        assert_eq!(state.standing(0, now), Some(Standing::Up));
        state.observed(0, now, false, now);
    }
    assert_eq!(state.standing(0, now), Some(Standing::Ejected));
    for _ in 0..3 {
        state.observed(1, now, false, now);
    }
    assert_eq!(state.standing(1, now), Some(Standing::Up), "somebody must serve");
    assert_eq!(ask(&mut state, &wish(Some(0), &[]), now), Answer::Go(1));
    assert_eq!(ask(&mut state, &wish(Some(0), &[]), now + Duration::from_secs(10)), Answer::Go(0));
}

#[test]
fn who_waits_for_a_full_server_takes_nobodys_turn_elsewhere() {
    let now = Instant::now();
    let servers = format!("{TWO}, {{ address = '10.0.0.3:80', max_connections = 1 }}");
    let mut state = state(&servers, "queue = { length = 2 }", now);
    assert_eq!(ask(&mut state, &wish(Some(2), &[]), now), Answer::Go(2));
    assert!(matches!(ask(&mut state, &wish(Some(2), &[]), now), Answer::Wait(_)));
    let mut counts = [0u32; 2];
    for _ in 0..40 {
        let Answer::Go(server) = ask(&mut state, &wish(None, &[]), now) else { panic!() };
        counts[usize::from(server)] += 1;
        assert!(state.observed(server, now, true, now).is_empty());
        assert!(state.leave(server, now).is_empty());
    }
    assert_eq!(counts, [20, 20]);
}

#[test]
fn who_reaches_nobody_else_reaches_a_backup() {
    let now = Instant::now();
    let servers = format!("{TWO}, {{ address = '10.0.0.3:80', backup = true }}, '10.0.0.4:80'");
    let mut state = state(&servers, "check = { kind = 'tcp', rise = 1, fall = 1 }", now);
    state.checked(3, false, now);
    assert_eq!(ask(&mut state, &wish(None, &[0]), now), Answer::Go(1), "there is another");
    assert_eq!(ask(&mut state, &wish(None, &[0, 1]), now), Answer::Go(2));
    assert_eq!(ask(&mut state, &wish(None, &[0, 1, 2]), now), Answer::Nobody);
    state.checked(2, false, now);
    assert_eq!(ask(&mut state, &wish(None, &[0, 1, 3]), now), Answer::Nobody, "it is down");
}

#[test]
fn a_backup_does_not_help_out_who_is_full() {
    let now = Instant::now();
    let servers = "{ address = '10.0.0.1:80', max_connections = 1 }, { address = '10.0.0.2:80', backup = true }";
    let mut state = state(servers, "queue = { length = 1 }", now);
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(0));
    assert!(matches!(ask(&mut state, &wish(None, &[]), now), Answer::Wait(_)));
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Full);
}

#[test]
fn in_a_panic_who_is_left_out_has_a_whole_share() {
    let now = Instant::now();
    let more = "check = { kind = 'tcp', rise = 1, fall = 1 }\nslow_start = '100s'\n\
                ejection = { failures = 1, time = '10s', min_up = 0.5 }";
    let mut state = state(&format!("{TWO}, '10.0.0.3:80'"), more, now);
    state.observed(0, now, false, now);
    state.checked(1, false, now);
    assert!(state.chosen.panic);
    assert_eq!(state.chosen.members, [0, 2]);
    let mut counts = [0u32; 3];
    for _ in 0..20 {
        let Answer::Go(server) = ask(&mut state, &wish(None, &[]), now) else { panic!() };
        counts[usize::from(server)] += 1;
    }
    assert_eq!(counts, [10, 0, 10]);
}

#[test]
fn a_server_on_probation_gets_one_request_at_a_time() {
    let mut now = Instant::now();
    let more = "balance = 'least-connections'\nejection = { failures = 1, time = '10s' }";
    let mut state = state(TWO, more, now);
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(0));
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(1));
    state.observed(1, now, false, now);
    for _ in 0..5 {
        assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(0));
    }
    now += Duration::from_secs(10);
    let tried = now;
    assert_eq!(ask(&mut state, &wish(None, &[]), tried), Answer::Go(1), "it has the fewest, and is tried");
    now += Duration::from_secs(1);
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(0), "it has not answered yet");
    assert_eq!(ask(&mut state, &wish(Some(1), &[]), now), Answer::Go(0), "its own clients do not wait for that");
    assert_eq!(ask(&mut state, &wish(None, &[0]), now), Answer::Go(1), "there is no other");
    // Who asked it has gone.
    for since in [tried, now] {
        state.settle(1, since);
        state.leave(1, now);
    }
    let tried = now;
    assert_eq!(ask(&mut state, &wish(None, &[]), tried), Answer::Go(1), "it is tried anew");
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(0));
    state.observed(1, tried, true, now);
    for _ in 0..4 {
        assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(1), "it is one like the others");
    }
}

#[test]
fn who_finds_only_servers_on_probation_goes_there() {
    let mut now = Instant::now();
    let servers = "{ address = '10.0.0.1:80', max_connections = 1 }, '10.0.0.2:80'";
    let mut state = state(servers, "ejection = { failures = 1, time = '10s' }\nqueue = { length = 9 }", now);
    state.observed(1, now, false, now);
    now += Duration::from_secs(10);
    assert_eq!(ask(&mut state, &wish(Some(1), &[]), now), Answer::Go(1));
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(0));
    assert_eq!(ask(&mut state, &wish(None, &[]), now), Answer::Go(1), "the other is full");
}

#[test]
fn what_changes_is_told_once() {
    let now = Instant::now();
    let mut state =
        state(TWO, "check = { kind = 'tcp', rise = 1, fall = 1 }\nejection = { failures = 1, time = '10s' }", now);
    let back = now + Duration::from_secs(10);
    let news = |state: &mut State, now| {
        let news = state.news(now).into_iter().map(|news| (news.site.entry, news.before, news.now));
        news.collect::<Vec<_>>()
    };
    assert_eq!(news(&mut state, now), [], "all are up from the start");
    state.checked(1, false, now);
    assert_eq!(news(&mut state, now), [(1, Standing::Up, Standing::Down)]);
    state.checked(1, true, now);
    assert_eq!(news(&mut state, now), [(1, Standing::Down, Standing::Up)]);
    state.observed(0, now, false, now);
    assert_eq!(news(&mut state, now), [(0, Standing::Up, Standing::Ejected)]);
    assert_eq!(news(&mut state, back), [(0, Standing::Ejected, Standing::Up)], "by time alone");
    assert_eq!(news(&mut state, back), []);
}

#[path = "state_steps_tests.rs"]
mod steps;
