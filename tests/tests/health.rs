//! Servers that fail, in every way in which they do, and come back: what clients see, and what the metrics say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::time::Duration;

use sluice_tests::Via;
use sluice_tests::fleet::{CHECK, Counts, Guest, Server, Way, count, crowd, entry, nobody_is_left, outcome};
use sluice_tests::http::Head;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::wait::eventually;

const AT_ONCE: usize = 4;

/// Clients per fault.
const GUESTS: usize = 60;

const PLAIN: &str = "[[route]]\nbackend = 'app'\nhttp = 'forward'\n";

/// Short, so that what hangs is found out soon.
const TIMEOUTS: &str = "[timeouts]\ndial = '1s'\nresponse = '400ms'\nhttp_response = '400ms'\n";

/// A fault of a server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Its process is gone, and its address refuses.
    Killed,
    /// It accepts, and never answers.
    Hung,
    /// It answers later than anybody waits.
    TooSlow,
    /// It answers late, and in time.
    Slow,
    /// It answers handshakes with 500.
    Failing,
}

const FAULTS: [Fault; 5] = [Fault::Killed, Fault::Hung, Fault::TooSlow, Fault::Slow, Fault::Failing];

impl Fault {
    fn begin(self, server: &mut Server) {
        match self {
            Self::Killed => server.stop(),
            Self::Hung => server.set(Way::Held),
            Self::TooSlow => server.set(Way::Slow(Duration::from_secs(2))),
            Self::Slow => server.set(Way::Slow(Duration::from_millis(50))),
            Self::Failing => server.set(Way::Status(500)),
        }
    }

    fn end(self, server: &mut Server) {
        match self {
            Self::Killed => server.resume().unwrap(),
            _ => server.set(Way::Well),
        }
    }

    /// What a client sees that is sent to such a server. `None`: nothing, for another one is tried.
    const fn seen(self) -> Option<&'static str> {
        match self {
            Self::Killed | Self::Slow => None,
            Self::Hung | Self::TooSlow => Some("504 backend-response-timeout"),
            Self::Failing => Some("500 a"),
        }
    }

    /// Whether this kind of check finds it out.
    fn found_by(self, kind: &str) -> bool {
        match self {
            Self::Killed => true,
            Self::Slow => false,
            Self::Hung | Self::TooSlow | Self::Failing => kind != "tcp",
        }
    }
}

fn start(servers: &[Server], backend: &str) -> Sluice {
    let entries: Vec<String> = servers.iter().map(|server| entry(server, "")).collect();
    let setup = Setup::new(servers[0].address).servers(&entries).routes(PLAIN).backend(backend).more(TIMEOUTS);
    Sluice::start(&setup).unwrap()
}

fn checked(kind: &str) -> String {
    let path = if kind == "tcp" { String::new() } else { format!("path = '{CHECK}', ") };
    format!(
        "check = {{ kind = '{kind}', {path}interval = '50ms', timeout = '300ms', rise = 2, fall = 2 }}\n\
         ejection = {{ failures = 0 }}\n"
    )
}

fn visit(sluice: &Sluice) -> Counts {
    count(crowd(AT_ONCE, GUESTS, |_| Guest::join(sluice, Via::Copy, "/", "").unwrap().outcome()))
}

fn of(sluice: &Sluice, metric: &str, server: &Server) -> u64 {
    sluice.metrics().unwrap().sum(metric, &[("server", &server.address.to_string())])
}

fn is(sluice: &Sluice, server: &Server, state: &str) -> bool {
    let labels = [("server", &*server.address.to_string()), ("state", state)];
    sluice.metrics().unwrap().sum("sluice_server_state", &labels) == 1
}

fn until(sluice: &Sluice, server: &Server, state: &str) {
    eventually(&format!("{} is {state}", server.name), || is(sluice, server, state).then_some(()));
}

/// Everybody is served, by all three alike.
fn all_is_well(sluice: &Sluice, what: &str) {
    let each = GUESTS as u64 / 3;
    let counts: Counts = ["a", "b", "c"].map(|name| (name.to_owned(), each)).into();
    assert_eq!(visit(sluice), counts, "{what}");
}

/// What clients saw of a fault, in one line.
fn tell(kind: &str, fault: Fault, counts: &Counts, failures: u64) {
    let mut bad: Counts = counts.clone();
    let served: u64 = ["a", "b", "c"].iter().filter_map(|name| bad.remove(*name)).sum();
    println!("| {kind:9} | {fault:?} | {served} | {bad:?} | a was picked in vain {failures} times |");
}

fn a_check_keeps_clients_away(kind: &str) {
    let mut servers = Server::several(3).unwrap();
    let sluice = start(&servers, &checked(kind));
    all_is_well(&sluice, "before");
    for fault in FAULTS {
        fault.begin(&mut servers[0]);
        if fault.found_by(kind) {
            until(&sluice, &servers[0], "down");
        }
        let (before, counts) = (of(&sluice, "sluice_server_failures_total", &servers[0]), visit(&sluice));
        let failures = of(&sluice, "sluice_server_failures_total", &servers[0]) - before;
        tell(kind, fault, &counts, failures);
        let third = GUESTS as u64 / 3;
        let bad = fault.seen().map(|bad| counts.get(bad).copied().unwrap_or(0));
        match fault.found_by(kind) {
            true => {
                assert_eq!((counts.get("b"), counts.get("c")), (Some(&30), Some(&30)), "{kind}, {fault:?}: {counts:?}")
            }
            false if fault == Fault::Slow => assert_eq!(counts.get("a"), Some(&third), "{kind}, {fault:?}: {counts:?}"),
            false => assert_eq!(bad, Some(third), "{kind} sees nothing of {fault:?}: {counts:?}"),
        }
        fault.end(&mut servers[0]);
        until(&sluice, &servers[0], "up");
        all_is_well(&sluice, &format!("{kind}, behind {fault:?}"));
    }
    assert_eq!(sluice.metrics().unwrap().sum("sluice_backend_panic", &[]), 0);
    // What is no client is not counted as one.
    let picks: u64 = servers.iter().map(|server| of(&sluice, "sluice_server_picks_total", server)).sum();
    assert!(picks >= servers.iter().map(Server::requests).sum::<u64>());
    nobody_is_left(&sluice);
}

#[test]
fn tcp_checks_find_who_is_gone() {
    a_check_keeps_clients_away("tcp");
}

#[test]
fn http_checks_find_who_does_not_answer_well() {
    a_check_keeps_clients_away("http");
}

#[test]
fn websocket_checks_find_who_does_not_switch() {
    a_check_keeps_clients_away("websocket");
}

#[test]
fn without_checks_as_many_clients_as_configured_find_out() {
    for fault in FAULTS {
        let mut servers = Server::several(3).unwrap();
        let sluice = start(&servers, "ejection = { failures = 4, time = '5m' }\n");
        all_is_well(&sluice, "before");
        fault.begin(&mut servers[0]);
        let counts = visit(&sluice);
        let failures = of(&sluice, "sluice_server_failures_total", &servers[0]);
        tell("ejection", fault, &counts, failures);
        match fault.seen() {
            // As many as it takes, and those that are under way at the same time.
            Some(bad) => assert!((4..4 + AT_ONCE as u64).contains(&counts[bad]), "{fault:?}: {counts:?}"),
            None => assert!(counts.keys().all(|name| name.len() == 1), "{fault:?}: {counts:?}"),
        }
        if fault == Fault::Slow {
            assert_eq!((failures, counts["a"]), (0, GUESTS as u64 / 3));
        } else {
            assert!((4..4 + AT_ONCE as u64).contains(&failures), "{fault:?}: {failures}");
            assert!(is(&sluice, &servers[0], "ejected"), "{fault:?}");
        }
        nobody_is_left(&sluice);
    }
}

#[test]
fn who_is_left_out_is_tried_again_and_clients_are_back_on_it() {
    let servers = Server::several(3).unwrap();
    let sluice = start(&servers, "ejection = { failures = 2, time = '300ms', max_time = '1s' }\n");
    servers[0].set_clients(Way::Status(503));
    let mut seen = Counts::new();
    eventually("it has been left out, tried, and left out again", || {
        for outcome in (0..6).map(|_| Guest::get(&sluice, Via::Copy, "/", "").unwrap().outcome()) {
            *seen.entry(outcome).or_default() += 1;
        }
        (of(&sluice, "sluice_server_failures_total", &servers[0]) >= 5).then_some(())
    });
    println!("plain requests answered with 503 by one of three servers: {seen:?}");
    assert!(seen["503 a"] <= seen.values().sum::<u64>() / 4, "{seen:?}");
    servers[0].set_clients(Way::Well);
    eventually("all are served alike", || {
        let outcomes = count((0..6).map(|_| Guest::get(&sluice, Via::Copy, "/", "").unwrap().outcome()));
        (outcomes.get("a") == Some(&2)).then_some(())
    });
    until(&sluice, &servers[0], "up");
    // A 500 to a plain request is about that request.
    servers[0].set_clients(Way::Status(500));
    let outcomes = count((0..30).map(|_| Guest::get(&sluice, Via::Copy, "/", "").unwrap().outcome()));
    assert_eq!(outcomes["500 a"], 10);
    nobody_is_left(&sluice);
}

/// One that is back from an ejection has the fewest connections, and gets no more than one request until it has answered.
#[test]
fn a_server_that_is_back_is_tried_by_one_client_first() {
    let servers = Server::several(2).unwrap();
    let entries: Vec<String> = servers.iter().map(|server| entry(server, "")).collect();
    let backend = "balance = 'least-connections'\nejection = { failures = 1, time = '100ms' }\n";
    let setup = Setup::new(servers[0].address).servers(&entries).backend(backend);
    let sluice = Sluice::start(&setup.more("[timeouts]\nresponse = '60s'\n")).unwrap();
    servers[0].set(Way::Status(500));
    let join = || Guest::join(&sluice, Via::Copy, "/", "").unwrap();
    assert_eq!(join().outcome(), "500 a");
    servers[0].set(Way::Held);
    until(&sluice, &servers[0], "up");
    eventually("the log says so", || sluice.program.log().contains("left out is tried again").then_some(()));
    std::thread::scope(|scope| {
        let guests = [(); 8].map(|()| scope.spawn(join));
        eventually("all others are elsewhere", || (servers[1].live() == 7).then_some(()));
        assert_eq!(servers[0].requests(), 2);
        servers[0].set(Way::Well);
        let inside = guests.map(|guest| guest.join().unwrap());
        assert_eq!(count(inside.iter().map(Guest::outcome)), Counts::from([("a".to_owned(), 1), ("b".to_owned(), 7)]));
        // It is one like the others now, and the emptiest.
        assert_eq!([(); 4].map(|()| join()).map(|guest| guest.outcome()), ["a"; 4]);
    });
    nobody_is_left(&sluice);
}

/// A client that sends a part of a request, or has had its time before a server was asked, says nothing of that server.
#[test]
fn nobody_is_left_out_for_what_clients_do() {
    let servers = Server::several(3).unwrap();
    let sluice = start(&servers, "ejection = { failures = 2, time = '5m' }\n");
    let half = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc";
    let halves = crowd(AT_ONCE, 24, |_| {
        let mut client = sluice.connect(Via::Copy).unwrap();
        client.write_all(half).unwrap();
        outcome(&Head::read(&mut client).unwrap())
    });
    assert_eq!(count(halves), [("408 body-timeout".to_owned(), 24)].into());
    assert_eq!(sluice.metrics().unwrap().sum("sluice_server_failures_total", &[]), 0);
    all_is_well(&sluice, "behind halves of requests");
    nobody_is_left(&sluice);
    // Each server would have had longer than the handshake may take.
    let timeouts = "[timeouts]\nhead = '300ms'\nhandshake = '300ms'\nresponse = '20s'\n";
    let entries: Vec<String> = servers.iter().map(|server| entry(server, "")).collect();
    let setup = Setup::new(servers[0].address).servers(&entries).backend("ejection = { failures = 2, time = '5m' }\n");
    let sluice = Sluice::start(&setup.more(timeouts)).unwrap();
    servers.iter().for_each(|server| server.set(Way::Held));
    let late = crowd(AT_ONCE, 12, |_| Guest::join(&sluice, Via::Copy, "/", "").unwrap().outcome());
    assert_eq!(count(late), [("504 handshake-timeout".to_owned(), 12)].into());
    assert_eq!(sluice.metrics().unwrap().sum("sluice_server_failures_total", &[]), 0);
    nobody_is_left(&sluice);
}

#[test]
fn when_most_fail_all_are_used_and_the_metrics_say_so() {
    let mut servers = Server::several(3).unwrap();
    let sluice = start(&servers, &checked("http"));
    let panic = || sluice.metrics().unwrap().sum("sluice_backend_panic", &[("backend", "app")]);
    for server in &mut servers[..2] {
        server.set(Way::Status(500));
    }
    until(&sluice, &servers[0], "down");
    until(&sluice, &servers[1], "down");
    assert_eq!(panic(), 1);
    let counts = visit(&sluice);
    assert_eq!(["500 a", "500 b", "c"].map(|outcome| counts[outcome]), [20; 3]);
    servers[1].set(Way::Well);
    until(&sluice, &servers[1], "up");
    assert_eq!(panic(), 0);
    assert_eq!(["b", "c"].map(|outcome| visit(&sluice)[outcome]), [30; 2]);
    // Ejection leaves half of them, and whoever goes to the others pays for it.
    let sluice = start(&servers, "ejection = { failures = 2, time = '5m' }\n");
    for server in &servers {
        server.set(Way::Status(500));
    }
    let counts = visit(&sluice);
    assert_eq!(counts.values().sum::<u64>(), GUESTS as u64);
    let ejected = servers.iter().filter(|server| is(&sluice, server, "ejected")).count();
    assert_eq!(ejected, 1, "{counts:?}");
    nobody_is_left(&sluice);
}

/// In a panic by connections, the dead ones have the fewest: nobody may be refused for that while one server is up.
#[test]
fn in_a_panic_who_meets_the_dead_reaches_the_living() {
    let mut servers = Server::several(5).unwrap();
    let sluice = start(&servers, &format!("balance = 'least-connections'\n{}", checked("tcp")));
    for server in &mut servers[1..] {
        server.stop();
    }
    for server in &servers[1..] {
        until(&sluice, server, "down");
    }
    assert_eq!(sluice.metrics().unwrap().sum("sluice_backend_panic", &[]), 1);
    let inside = crowd(AT_ONCE, GUESTS, |_| Guest::join(&sluice, Via::Copy, "/", "").unwrap());
    assert_eq!(count(inside.iter().map(Guest::outcome)), Counts::from([("a".to_owned(), GUESTS as u64)]));
    drop(inside);
    nobody_is_left(&sluice);
}

/// Requests that a server may have acted on are not repeated, and others are.
#[test]
fn nothing_is_asked_twice() {
    let mut servers = Server::several(2).unwrap();
    let sluice = start(&servers, "ejection = { failures = 0 }\n");
    let requests = |servers: &[Server]| servers.iter().map(Server::requests).sum::<u64>();
    for server in &servers {
        server.set(Way::Held);
    }
    // Both have read a request when they are killed.
    std::thread::scope(|scope| {
        let asks = [
            scope.spawn(|| Guest::join(&sluice, Via::Copy, "/", "").unwrap().outcome()),
            scope.spawn(|| Guest::get(&sluice, Via::Copy, "/", "").unwrap().outcome()),
        ];
        eventually("both are asked", || (requests(&servers) == 2).then_some(()));
        servers.iter_mut().for_each(Server::stop);
        assert_eq!(asks.map(|ask| ask.join().unwrap()), ["502 backend-closed"; 2]);
    });
    assert_eq!(requests(&servers), 2);
    let outcomes = [Guest::join(&sluice, Via::Copy, "/", ""), Guest::get(&sluice, Via::Copy, "/", "")];
    assert_eq!(outcomes.map(|guest| guest.unwrap().outcome()), ["502 backend-refused"; 2]);
    // Nothing has been asked of a server that refuses: another one is.
    servers[1].resume().unwrap();
    servers[1].set(Way::Well);
    let counts = visit(&sluice);
    assert_eq!(counts, Counts::from([("b".to_owned(), GUESTS as u64)]));
    assert_eq!(requests(&servers), 2 + GUESTS as u64);
    nobody_is_left(&sluice);
}
