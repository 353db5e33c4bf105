//! Which server gets a client, counted by the clients, by the servers and by Sluice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sluice_tests::Via;
use sluice_tests::fleet::{Guest, Server, Spread, count, crowd, entry, nobody_is_left};
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::wait::eventually;

/// Clients of one algorithm, all connected at the end.
const GUESTS: usize = 600;

/// How many come at one time.
const AT_ONCE: usize = 8;

/// The ways to balance, with how far off a server may be from its share: nothing where turns or counts decide, chance's
/// five standard deviations where hashes do.
const WAYS: [(&str, &str, f64); 8] = [
    ("rr", "'round-robin'", 0.0),
    ("least", "'least-connections'", 0.0),
    ("two", "'power-of-two'", 0.10),
    ("ip", "'source-ip'", 0.60),
    ("address", "{ maglev = 'address' }", 0.60),
    ("path", "{ maglev = 'path' }", 0.60),
    ("header", "{ maglev = { header = 'x-room' } }", 0.60),
    ("query", "{ maglev = { query = 'room' } }", 0.60),
];

/// A route and a backend of the same name.
fn backend(name: &str, servers: &[String], more: &str) -> String {
    let servers = servers.join(", ");
    format!(
        "[[route]]\npath = '/{name}'\nbackend = '{name}'\nhttp = 'forward'\n\
         [[backend]]\nname = '{name}'\nservers = [{servers}]\n{more}\n"
    )
}

/// A Sluice with these tables beside a backend that nobody asks for.
fn start(tables: &str) -> Sluice {
    let nobody = "[[route]]\npath = '/nobody'\nbackend = 'app'\n";
    Sluice::start(&Setup::new(SocketAddr::from(([127, 0, 0, 1], 9))).routes(nobody).more(tables)).unwrap()
}

/// What each server of a backend's has by this metric.
fn metric(sluice: &Sluice, name: &str, backend: &str, servers: &[Server]) -> Vec<u64> {
    let metrics = sluice.metrics().unwrap();
    let of = |server: &Server| metrics.sum(name, &[("backend", backend), ("server", &server.address.to_string())]);
    servers.iter().map(of).collect()
}

/// How many of these guests each server has.
fn seen(guests: &[Guest], servers: &[Server]) -> Vec<u64> {
    let counts = count(guests.iter().map(Guest::outcome));
    let seen: Vec<u64> = servers.iter().map(|server| counts.get(&server.name).copied().unwrap_or(0)).collect();
    assert_eq!(seen.iter().sum::<u64>(), guests.len() as u64, "{counts:?}");
    seen
}

/// The guest of this number, on a backend, with an address and a room of its own.
fn guest(sluice: &Sluice, backend: &str, number: usize) -> Guest {
    let path = format!("/{backend}/room-{number}?room={number}");
    if ["ip", "address"].iter().any(|name| backend.starts_with(name)) {
        let from = Ipv4Addr::from(0x7f64_0001 + u32::try_from(number).unwrap());
        return Guest::join_from(IpAddr::V4(from), sluice, &path).unwrap();
    }
    Guest::join(sluice, Via::Copy, &path, &format!("X-Room: room {number}\r\n")).unwrap()
}

#[test]
fn clients_are_spread_as_the_weights_say_by_every_algorithm() {
    let servers = Server::several(4).unwrap();
    let weights = [("", [1; 4]), ("-weighted", [1, 3, 1, 3])];
    let mut tables = String::new();
    for (name, balance, _) in WAYS {
        for (suffix, weights) in weights {
            let entries: Vec<String> = servers
                .iter()
                .zip(weights)
                .map(|(server, weight)| entry(server, &format!("weight = {weight}")))
                .collect();
            tables += &backend(&format!("{name}{suffix}"), &entries, &format!("balance = {balance}"));
        }
    }
    let sluice = start(&tables);
    println!("{GUESTS} clients that stay, {AT_ONCE} at a time, on 4 servers: furthest off, standard deviation");
    for (name, balance, allowed) in WAYS {
        for (suffix, weights) in weights {
            let name = format!("{name}{suffix}");
            let before: Vec<u64> = servers.iter().map(Server::requests).collect();
            let guests = crowd(AT_ONCE, GUESTS, |number| guest(&sluice, &name, number));
            let counted = seen(&guests, &servers);
            let came: Vec<u64> =
                servers.iter().zip(before).map(|(server, before)| server.requests() - before).collect();
            assert_eq!(counted, came, "{name}: what the clients and the servers counted");
            assert_eq!(counted, metric(&sluice, "sluice_server_picks_total", &name, &servers), "{name}");
            assert_eq!(counted, metric(&sluice, "sluice_server_connections", &name, &servers), "{name}");
            let spread = Spread::of(&counted, &weights);
            println!(
                "{balance:40} weights {weights:?}: {counted:?} {:.1} %, {:.1} %",
                spread.worst * 100.0,
                spread.deviation * 100.0
            );
            assert!(spread.worst <= allowed, "{name}: {counted:?}");
        }
    }
    nobody_is_left(&sluice);
}

#[test]
fn hashes_send_the_same_key_to_the_same_server_and_others_in_turn() {
    let servers = Server::several(3).unwrap();
    let entries: Vec<String> = servers.iter().map(|server| entry(server, "")).collect();
    let tables: Vec<String> =
        WAYS[3..].iter().map(|(name, balance, _)| backend(name, &entries, &format!("balance = {balance}"))).collect();
    let sluice = start(&tables.concat());
    for (name, ..) in &WAYS[3..] {
        let of = |number| guest(&sluice, name, number).server().to_owned();
        let first: Vec<String> = (0..40).map(of).collect();
        let again: Vec<String> = (0..40).map(of).collect();
        assert_eq!(first, again, "{name}");
    }
    let turns: Vec<String> =
        (0..6).map(|_| Guest::join(&sluice, Via::Copy, "/header/x", "").unwrap().server().to_owned()).collect();
    assert!(servers.iter().all(|server| turns.iter().filter(|name| **name == server.name).count() == 2), "{turns:?}");
    // One room over every protocol.
    let room = "X-Room: the room\r\n";
    let at = |via| Guest::join(&sluice, via, "/header/x", room).unwrap().server().to_owned();
    let home = at(Via::Copy);
    assert_eq!([at(Via::Tls), at(Via::Http2), at(Via::Http2Tls)], [&home, &home, &home].map(String::clone));
    assert_eq!(Guest::get(&sluice, Via::Copy, "/header/y", room).unwrap().server(), home);
    nobody_is_left(&sluice);
}

const CHECKED: &str = "check = { kind = 'tcp', interval = '50ms', timeout = '1s', rise = 1, fall = 1 }\n";

fn state(sluice: &Sluice, backend: &str, server: &Server, state: &str) -> bool {
    let labels = [("backend", backend), ("server", &server.address.to_string()), ("state", state)];
    sluice.metrics().unwrap().sum("sluice_server_state", &labels) == 1
}

fn until(sluice: &Sluice, backend: &str, server: &Server, is: &str) {
    eventually(&format!("{} is {is}", server.name), || state(sluice, backend, server, is).then_some(()));
}

#[test]
fn a_server_that_joins_late_is_filled_first_also_after_the_gate_was_killed() {
    let mut servers = Server::several(4).unwrap();
    servers[3].stop();
    let entries: Vec<String> = servers.iter().map(|server| entry(server, "")).collect();
    let more = format!("balance = 'least-connections'\n{CHECKED}");
    let sluice = start(&backend("app2", &entries, &more));
    until(&sluice, "app2", &servers[3], "down");
    let come = |number| crowd(AT_ONCE, number, |_| Guest::join(&sluice, Via::Copy, "/app2", "").unwrap());
    let mut guests = come(300);
    assert_eq!(seen(&guests, &servers), [100, 100, 100, 0]);
    servers[3].resume().unwrap();
    until(&sluice, "app2", &servers[3], "up");
    let new = come(60);
    assert_eq!(seen(&new, &servers), [0, 0, 0, 60], "all that come are the newcomer's");
    guests.extend(new);
    // Of the first server's clients half go; then the gate dies, and all others live on.
    let (gone, stay): (Vec<_>, Vec<_>) = guests.into_iter().partition(|guest| guest.server() == "a");
    let mut guests = stay;
    guests.extend(gone.into_iter().skip(50));
    let connections = || metric(&sluice, "sluice_server_connections", "app2", &servers);
    eventually("50 have gone", || (connections() == [50, 100, 100, 60]).then_some(()));
    sluice.kill_gate();
    eventually("the next gate has the counts", || {
        (sluice.metrics().is_ok() && connections() == [50, 100, 100, 60]).then_some(())
    });
    let new = come(90);
    assert_eq!(seen(&new, &servers), [50, 0, 0, 40], "the emptier ones are filled, after the gate was killed");
    guests.extend(new);
    drop(guests);
    nobody_is_left(&sluice);
    assert_eq!(servers.iter().map(Server::live).sum::<u64>(), 0);
}

#[test]
fn backups_serve_when_nobody_else_does_and_draining_servers_get_nothing() {
    let mut servers = Server::several(4).unwrap();
    let more = ["", "", "backup = true", "weight = 0"];
    let entries: Vec<String> = servers.iter().zip(more).map(|(server, more)| entry(server, more)).collect();
    let sluice = start(&backend("app2", &entries, CHECKED));
    let visit = |servers: &[Server], number| -> Vec<u64> {
        let ask = |_| Guest::get(&sluice, Via::Copy, "/app2", "Connection: close\r\n").unwrap();
        seen(&crowd(1, number, ask), servers)
    };
    assert!(state(&sluice, "app2", &servers[3], "draining"));
    assert_eq!(visit(&servers, 10), [5, 5, 0, 0]);
    servers[0].stop();
    until(&sluice, "app2", &servers[0], "down");
    assert_eq!(visit(&servers, 10), [0, 10, 0, 0]);
    servers[1].stop();
    until(&sluice, "app2", &servers[1], "down");
    assert_eq!(visit(&servers, 10), [0, 0, 10, 0], "the backup");
    servers[0].resume().unwrap();
    until(&sluice, "app2", &servers[0], "up");
    assert_eq!(visit(&servers, 10), [10, 0, 0, 0], "no client stays on the backup");
    // Without anybody who is up, those that are no backups are tried, and the metrics say so.
    servers[0].stop();
    servers[2].stop();
    for server in &servers[..3] {
        until(&sluice, "app2", server, "down");
    }
    let answer = Guest::get(&sluice, Via::Copy, "/app2", "").unwrap();
    assert_eq!(answer.outcome(), "502 backend-refused");
    assert_eq!(sluice.metrics().unwrap().sum("sluice_backend_panic", &[("backend", "app2")]), 1);
    assert_eq!(servers[3].requests(), 0);
    nobody_is_left(&sluice);
}

#[test]
fn a_server_that_comes_back_begins_slowly() {
    let mut servers = Server::several(2).unwrap();
    let entries: Vec<String> = servers.iter().map(|server| entry(server, "")).collect();
    let long = backend("long", &entries, &format!("slow_start = '1000h'\n{CHECKED}"));
    let short = backend("short", &entries, &format!("slow_start = '200ms'\n{CHECKED}"));
    let sluice = start(&(long + &short));
    servers[1].stop();
    until(&sluice, "long", &servers[1], "down");
    until(&sluice, "short", &servers[1], "down");
    servers[1].resume().unwrap();
    until(&sluice, "long", &servers[1], "up");
    until(&sluice, "short", &servers[1], "up");
    let visit = |path: &str, number| {
        seen(&crowd(1, number, |_| Guest::get(&sluice, Via::Copy, path, "Connection: close\r\n").unwrap()), &servers)
    };
    assert_eq!(visit("/long", 110), [100, 10]);
    eventually("it has its whole share", || (visit("/short", 20) == [10, 10]).then_some(()));
    nobody_is_left(&sluice);
}
