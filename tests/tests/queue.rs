//! Servers that take so many connections and no more, and those who wait for a place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::sync::mpsc;
use std::thread::scope;

use rustix::process::Signal;
use sluice_tests::Via;
use sluice_tests::fleet::{Guest, Server, Way, count, crowd, entry, nobody_is_left};
use sluice_tests::http;
use sluice_tests::process::signal_pid;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::wait::eventually;

const PLAIN: &str = "[[route]]\nbackend = 'app'\nhttp = 'forward'\n";

/// So many connections to each server, and this queue.
fn start(servers: &[Server], via: Via, most: u32, queue: &str, more: &str) -> Sluice {
    let entries: Vec<String> =
        servers.iter().map(|server| entry(server, &format!("max_connections = {most}"))).collect();
    let backend = format!("queue = {{ {queue} }}\n{more}");
    Sluice::start(&Setup::via(servers[0].address, via).servers(&entries).routes(PLAIN).backend(&backend)).unwrap()
}

fn waiting(sluice: &Sluice) -> u64 {
    sluice.metrics().unwrap().sum("sluice_backend_queue", &[("backend", "app")])
}

fn until_wait(sluice: &Sluice, number: u64) {
    eventually(&format!("{number} wait"), || (waiting(sluice) == number).then_some(()));
}

fn join(sluice: &Sluice, via: Via) -> Guest {
    Guest::join(sluice, via, "/", "").unwrap()
}

/// The room of the first is the next one's. It is waited for as long as it takes.
const ONE: &str = "length = 1, timeout = '60s'";

#[test]
fn nobody_is_beyond_the_limit_and_who_came_first_is_served_first() {
    let servers = Server::several(2).unwrap();
    let sluice = start(&servers, Via::Copy, 2, "length = 6, timeout = '60s'", "");
    let mut inside: Vec<Guest> = (0..4).map(|_| join(&sluice, Via::Copy)).collect();
    scope(|scope| {
        let (sender, entered) = mpsc::channel();
        for number in 0..6 {
            let (sender, sluice) = (sender.clone(), &sluice);
            scope.spawn(move || sender.send((number, join(sluice, Via::Copy))).unwrap());
            until_wait(sluice, number + 1);
        }
        let answer = join(&sluice, Via::Copy);
        assert_eq!(answer.outcome(), "503 servers-full");
        assert!(answer.head.field("retry-after").is_some());
        for turn in 0..6 {
            assert!(entered.try_recv().is_err(), "nobody has left");
            drop(inside.remove(0));
            let (number, guest) = entered.recv().unwrap();
            assert_eq!((number, guest.status()), (turn, 101));
            inside.push(guest);
            until_wait(&sluice, 5 - turn);
        }
    });
    assert!(
        servers.iter().all(|server| server.peak() == 2),
        "{:?}",
        servers.iter().map(Server::peak).collect::<Vec<_>>()
    );
    assert_eq!(servers.iter().map(Server::requests).sum::<u64>(), 10);
    drop(inside);
    nobody_is_left(&sluice);
}

#[test]
fn who_waits_in_vain_is_told_when_to_come_again() {
    let servers = Server::several(1).unwrap();
    let sluice = start(&servers, Via::Copy, 1, "length = 3, timeout = '200ms'", "");
    let inside = join(&sluice, Via::Copy);
    for via in [Via::Copy, Via::Tls, Via::Http2, Via::Http2Tls] {
        for answer in [join(&sluice, via), Guest::get(&sluice, via, "/", "").unwrap()] {
            assert_eq!(answer.outcome(), "503 queue-timeout");
            let retry: u32 = answer.head.field("retry-after").unwrap().parse().unwrap();
            assert!((1..=5).contains(&retry), "{:?}", answer.head);
            assert_eq!(answer.head.field("cache-control"), Some("no-store"));
        }
    }
    let outcomes = count(crowd(9, 9, |_| join(&sluice, Via::Copy).outcome()));
    assert!(outcomes.keys().all(|outcome| ["503 queue-timeout", "503 servers-full"].contains(&outcome.as_str())));
    assert!(outcomes["503 queue-timeout"] >= 3, "{outcomes:?}");
    assert_eq!(servers[0].requests(), 1, "the server has not been asked");
    assert_eq!(waiting(&sluice), 0);
    drop(inside);
    nobody_is_left(&sluice);
}

/// One is inside, one waits, the first goes: by its own end, by the server's, and with a reset.
fn a_place_is_free_when_its_pair_ends(via: Via) {
    let mut servers = vec![Server::start("a").unwrap()];
    let sluice = start(&servers, via, 1, ONE, "");
    let mut inside = join(&sluice, via);
    for round in 0..3 {
        assert_eq!(inside.status(), 101, "{:?}", inside.head);
        inside = scope(|scope| {
            let next = scope.spawn(|| join(&sluice, via));
            until_wait(&sluice, 1);
            assert_eq!(join(&sluice, via).outcome(), "503 servers-full");
            match round {
                0 => drop(inside),
                1 => inside.stream.reset().unwrap(),
                _ => {
                    // Both directions end one after the other.
                    inside.stream.finish().unwrap();
                    assert_eq!(inside.stream.read(&mut [0]).unwrap(), 0);
                    drop(inside);
                }
            }
            next.join().unwrap()
        });
    }
    assert_eq!((servers[0].peak(), servers[0].requests()), (1, 4), "{via:?}");
    // The server dies, of which its client hears, and is back.
    servers[0].stop();
    let _ended = inside.stream.read(&mut [0]);
    drop(inside);
    nobody_is_left(&sluice);
    servers[0].resume().unwrap();
    assert_eq!(join(&sluice, via).status(), 101);
    nobody_is_left(&sluice);
}

#[test]
fn places_are_freed_whatever_carries_a_pair() {
    for via in [Via::Sockmap, Via::Copy, Via::Tls, Via::Ktls, Via::Http2, Via::Http2Tls] {
        via.run(a_place_is_free_when_its_pair_ends);
    }
}

#[test]
fn places_are_freed_by_answers_and_by_clients_that_leave() {
    let servers = Server::several(1).unwrap();
    let sluice = start(&servers, Via::Copy, 1, "length = 2, timeout = '60s'", "");
    let server = &servers[0];
    for via in [Via::Copy, Via::Tls, Via::Http2, Via::Http2Tls] {
        let before = server.requests();
        let until_asked = |number| {
            eventually(&format!("{number} are asked for"), || (server.requests() - before == number).then_some(()));
        };
        // The answers to plain requests.
        server.set(Way::Held);
        scope(|scope| {
            let get = || Guest::get(&sluice, via, "/", "").unwrap().outcome();
            let one = scope.spawn(get);
            until_asked(1);
            let [two, three] = [scope.spawn(get), scope.spawn(|| join(&sluice, via).outcome())];
            until_wait(&sluice, 2);
            until_asked(1);
            server.set(Way::Well);
            assert_eq!([one, two, three].map(|asked| asked.join().unwrap()), ["a", "a", "a"]);
        });
        nobody_is_left(&sluice);
        // A refusal of a handshake.
        server.set(Way::Status(403));
        assert_eq!([join(&sluice, via), join(&sluice, via)].map(|guest| guest.status()), [403, 403]);
        nobody_is_left(&sluice);
        // Whoever leaves: in the queue, and while the server thinks.
        server.set(Way::Held);
        let request = http::upgrade("localhost", "/", "");
        let mut asks: Vec<_> = (0..3).map(|_| sluice.connect(via).unwrap()).collect();
        for (waiting, stream) in (0..).zip(&mut asks) {
            stream.write_all(request.as_bytes()).unwrap();
            stream.flush().unwrap();
            until_wait(&sluice, waiting);
            until_asked(6);
        }
        drop(asks.remove(1));
        until_wait(&sluice, 1);
        drop(asks.remove(0));
        until_asked(7);
        until_wait(&sluice, 0);
        drop(asks);
        nobody_is_left(&sluice);
        server.set(Way::Well);
        for _ in 0..3 {
            assert_eq!(Guest::get(&sluice, via, "/", "").unwrap().outcome(), "a");
        }
        nobody_is_left(&sluice);
    }
}

#[test]
fn pairs_that_outlive_a_gate_keep_their_places() {
    for via in [Via::Sockmap, Via::Copy] {
        via.run(|via| {
            let servers = Server::several(2).unwrap();
            let sluice = start(&servers, via, 2, ONE, "balance = 'least-connections'");
            let mut inside: Vec<Guest> = (0..4).map(|_| join(&sluice, via)).collect();
            eventually("the keeper has them", || (sluice.connections().unwrap().len() == 4).then_some(()));
            sluice.kill_gate();
            scope(|scope| {
                let next = scope.spawn(|| join(&sluice, via));
                eventually("it waits", || sluice.metrics().is_ok_and(|_| waiting(&sluice) == 1).then_some(()));
                assert_eq!(join(&sluice, via).outcome(), "503 servers-full");
                let gone = inside.remove(0);
                let name = gone.server().to_owned();
                drop(gone);
                let next = next.join().unwrap();
                assert_eq!((next.status(), next.server()), (101, name.as_str()));
                inside.push(next);
            });
            // One that waits when its gate is killed loses its connection, and no place is lost with it.
            scope(|scope| {
                let lost = scope.spawn(|| Guest::join(&sluice, via, "/", "").is_err());
                until_wait(&sluice, 1);
                signal_pid(sluice.gate().unwrap(), Signal::KILL).unwrap();
                assert!(lost.join().unwrap());
            });
            inside.clear();
            eventually("there is a gate again", || sluice.metrics().is_ok().then_some(()));
            nobody_is_left(&sluice);
            inside.extend((0..4).map(|_| join(&sluice, via)));
            assert!(inside.iter().all(|guest| guest.status() == 101));
            assert!(servers.iter().all(|server| server.peak() == 2));
        });
    }
}
