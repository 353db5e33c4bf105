//! Clients that come back to the server that they were on, through every change, and through several Sluices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::PathBuf;

use rustix::process::Signal;
use sluice_tests::Via;
use sluice_tests::fleet::{Guest, Server, Way, count, crowd, entry, nobody_is_left};
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::wait::eventually;

const AT_ONCE: usize = 8;
const PLAIN: &str = "[[route]]\nbackend = 'app'\nhttp = 'forward'\n";

/// Files with the keys of cookies: the one that signs, the one that did, the one that will.
struct Keys(Folder);

impl Keys {
    fn make() -> Self {
        let keys = Self(Folder::make().unwrap());
        ["current", "previous", "next"].iter().for_each(|name| keys.write(name, &"one-".repeat(8)));
        keys
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts a key into the place of another, as tools that care do.
    fn write(&self, name: &str, key: &str) {
        std::fs::write(self.path("new"), key).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn setting(&self) -> String {
        let keys = ["current", "previous", "next"].map(|name| self.path(name));
        format!("sticky = {{ keys = {keys:?} }}\n")
    }
}

fn start(entries: &[String], backend: &str) -> Sluice {
    let nobody = "127.0.0.1:9".parse().unwrap();
    Sluice::start(&Setup::new(nobody).servers(entries).routes(PLAIN).backend(backend)).unwrap()
}

fn entries(servers: &[Server]) -> Vec<String> {
    servers.iter().map(|server| entry(server, "")).collect()
}

/// A client: the cookie that it has, and the server that it was on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    cookie: String,
    server: String,
}

/// Clients that come without a cookie, on connections that drop at once.
fn newcomers(sluice: &Sluice, number: usize) -> Vec<Kept> {
    crowd(AT_ONCE, number, |_| {
        let guest = Guest::join(sluice, Via::Copy, "/", "").unwrap();
        assert_eq!(guest.status(), 101, "{:?}", guest.head);
        Kept { cookie: guest.cookie().expect("a cookie"), server: guest.server().to_owned() }
    })
}

/// All of them come again, in every way, to the same server, and get no other cookie.
fn all_come_back(sluice: &Sluice, clients: &[Kept]) {
    let vias = [Via::Copy, Via::Tls, Via::Http2, Via::Http2Tls];
    crowd(AT_ONCE, clients.len(), |number| {
        let (client, via) = (&clients[number], vias[number % 4]);
        let again = Guest::join(sluice, via, "/", &client.cookie).unwrap();
        let plain = Guest::get(sluice, via, "/", &client.cookie).unwrap();
        for guest in [again, plain] {
            assert_eq!((guest.outcome(), guest.cookie()), (client.server.clone(), None), "{via:?}");
        }
    });
}

#[test]
fn every_client_is_back_on_its_server_after_whatever_happens() {
    let (servers, keys) = (Server::several(4).unwrap(), Keys::make());
    let mut listed = entries(&servers);
    let backend = format!("{}balance = 'least-connections'\n", keys.setting());
    let first = start(&listed, &backend);
    let clients = newcomers(&first, 80);
    assert_eq!(count(clients.iter().map(|client| client.server.clone())).len(), 4);
    all_come_back(&first, &clients);
    first.kill_gate();
    all_come_back(&first, &clients);
    // Another node, which lists the servers in another order, at the same time.
    listed.reverse();
    let second = start(&listed, &backend);
    all_come_back(&second, &clients);
    nobody_is_left(&first);
    // The whole of Sluice is killed, and started again.
    drop(first);
    let third = start(&listed, &backend);
    all_come_back(&third, &clients);
    nobody_is_left(&second);
    nobody_is_left(&third);
}

#[test]
fn nodes_that_share_nothing_send_a_room_to_the_same_server() {
    let servers = Server::several(5).unwrap();
    let weights = [1, 2, 1, 3, 1];
    let mut listed: Vec<String> =
        servers.iter().zip(weights).map(|(server, weight)| entry(server, &format!("weight = {weight}"))).collect();
    for on in ["{ header = 'x-room' }", "{ query = 'room' }", "'path'", "{ cookie = 'room' }"] {
        let backend = format!("balance = {{ maglev = {on} }}\n");
        let one = start(&listed, &backend);
        listed.reverse();
        let other = start(&listed, &backend);
        let rooms = crowd(AT_ONCE, 240, |room| {
            let path = format!("/room-{room}?room={room}");
            let more = format!("X-Room: {room}\r\nCookie: room={room}\r\n");
            let at = |sluice: &Sluice| Guest::join(sluice, Via::Copy, &path, &more).unwrap().server().to_owned();
            assert_eq!(at(&one), at(&other), "{on}: room {room}");
            at(&one)
        });
        assert_eq!(count(rooms).len(), 5);
        nobody_is_left(&one);
        nobody_is_left(&other);
    }
}

/// Has the files read again, as they are now.
fn reload(sluice: &Sluice, result: &str) {
    let read = || sluice.metrics().unwrap().sum("sluice_certificate_reloads_total", &[("result", result)]);
    let before = read();
    sluice.program.signal(Signal::HUP).unwrap();
    eventually("the files are read again", || (read() > before).then_some(()));
}

/// What becomes of a client's cookie: it is on its server, and whether it has a new cookie.
fn again(sluice: &Sluice, client: &Kept) -> (bool, Option<Kept>) {
    let guest = Guest::join(sluice, Via::Copy, "/", &client.cookie).unwrap();
    let server = guest.server().to_owned();
    (server == client.server, guest.cookie().map(|cookie| Kept { cookie, server }))
}

#[test]
fn keys_are_changed_while_running() {
    let (servers, keys) = (Server::several(3).unwrap(), Keys::make());
    let (one, two) = ("one-".repeat(8), "two-".repeat(8));
    let nodes: Vec<Sluice> = (0..2).map(|_| start(&entries(&servers), &keys.setting())).collect();
    let old = newcomers(&nodes[0], 1).remove(0);
    // Everybody believes the next key before anybody signs with it.
    keys.write("next", &two);
    nodes.iter().for_each(|node| reload(node, "ok"));
    assert!(nodes.iter().all(|node| again(node, &old) == (true, None)));
    keys.write("current", &two);
    reload(&nodes[0], "ok");
    let (same, new) = again(&nodes[0], &old);
    let new = new.expect("a cookie of the new key");
    assert!(same && new.server == old.server);
    // The other node signs with the old one still, and believes both.
    assert_eq!(again(&nodes[1], &old), (true, None));
    let (same, renewed) = again(&nodes[1], &new);
    assert!(same && renewed.is_some(), "it is not what this node signs with");
    reload(&nodes[1], "ok");
    assert!(nodes.iter().all(|node| again(node, &new) == (true, None)));
    // What is no key changes nothing, not even for the next gate.
    keys.write("previous", "short");
    nodes.iter().for_each(|node| reload(node, "failed"));
    nodes.iter().for_each(|node| node.program.says("has 32 bytes at least, and this one 5"));
    nodes[0].kill_gate();
    for node in &nodes {
        assert!(again(node, &old).0 && again(node, &new) == (true, None));
    }
    // The time of the old one is over.
    keys.write("previous", &two);
    nodes.iter().for_each(|node| reload(node, "ok"));
    for node in &nodes {
        assert!(again(node, &old).1.is_some(), "it is as good as none");
        assert_eq!(again(node, &new), (true, None));
        nobody_is_left(node);
        assert!(![&one, &two].iter().any(|key| node.program.log().contains(key.as_str())));
    }
}

#[test]
fn clients_of_a_server_that_is_gone_or_draining_get_another_and_keep_it() {
    let (mut servers, keys) = (Server::several(3).unwrap(), Keys::make());
    let check = "check = { kind = 'tcp', interval = '50ms', rise = 1, fall = 1 }\n";
    let backend = format!("{}{check}", keys.setting());
    let sluice = start(&entries(&servers), &backend);
    let clients = newcomers(&sluice, 30);
    let of = |name: &str| clients.iter().filter(|client| client.server == name).cloned().collect::<Vec<_>>();
    let (moved, stay): (Vec<_>, Vec<_>) = clients.iter().cloned().partition(|client| client.server == "a");
    assert_eq!((moved.len(), of("b").len(), of("c").len()), (10, 10, 10));
    let state = |server: &Server, state| {
        let labels = [("server", server.address.to_string()), ("state", String::from(state))];
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        eventually(state, || (sluice.metrics().unwrap().sum("sluice_server_state", &labels) == 1).then_some(()));
    };
    let move_all = |sluice: &Sluice| -> Vec<Kept> {
        let moved = moved.iter().map(|client| again(sluice, client).1.expect("another cookie"));
        moved.inspect(|client| assert_ne!(client.server, "a")).collect()
    };
    // Gone by its checks.
    servers[0].stop();
    state(&servers[0], "down");
    all_come_back(&sluice, &stay);
    let now = move_all(&sluice);
    servers[0].resume().unwrap();
    state(&servers[0], "up");
    all_come_back(&sluice, &now);
    all_come_back(&sluice, &moved);
    // Gone without anybody knowing: the connect fails, and another is tried.
    let unchecked = start(&entries(&servers), &keys.setting());
    servers[0].stop();
    let now = move_all(&unchecked);
    all_come_back(&unchecked, &now);
    servers[0].resume().unwrap();
    // Draining, and not in the list at all.
    let mut listed = entries(&servers);
    listed[0] = entry(&servers[0], "weight = 0");
    for listed in [&listed[..], &listed[1..]] {
        let next = start(listed, &backend);
        let now = move_all(&next);
        all_come_back(&next, &now);
        all_come_back(&next, &stay);
        nobody_is_left(&next);
    }
    nobody_is_left(&sluice);
    nobody_is_left(&unchecked);
}

#[test]
fn clients_of_a_server_that_fails_them_get_another() {
    let (servers, keys) = (Server::several(2).unwrap(), Keys::make());
    let sluice = start(&entries(&servers), &format!("{}ejection = {{ failures = 3, time = '5m' }}\n", keys.setting()));
    let client = newcomers(&sluice, 2).into_iter().find(|client| client.server == "a").unwrap();
    servers[0].set(Way::Status(500));
    let outcomes: Vec<String> =
        (0..5).map(|_| Guest::join(&sluice, Via::Copy, "/", &client.cookie).unwrap().outcome()).collect();
    assert_eq!(outcomes, ["500 a", "500 a", "500 a", "b", "b"]);
    let now = again(&sluice, &client).1.unwrap();
    assert_eq!(now.server, "b");
    all_come_back(&sluice, &[now]);
    nobody_is_left(&sluice);
}

#[test]
fn a_full_server_is_waited_for_and_then_another_one_serves() {
    let (servers, keys) = (Server::several(2).unwrap(), Keys::make());
    let listed = [entry(&servers[0], "max_connections = 1"), entry(&servers[1], "")];
    let client = newcomers(&start(&listed[..1], &keys.setting()), 1).remove(0);
    // Without a queue nobody waits.
    let sluice = start(&listed, &keys.setting());
    let inside = Guest::join(&sluice, Via::Copy, "/", &client.cookie).unwrap();
    assert_eq!(inside.server(), "a");
    let (same, new) = again(&sluice, &client);
    assert!(!same);
    assert_eq!(new.expect("another cookie").server, "b");
    drop(inside);
    nobody_is_left(&sluice);
    for (timeout, server) in [("60s", "a"), ("100ms", "b")] {
        let queue = format!("queue = {{ length = 1, timeout = '{timeout}' }}\n");
        let sluice = start(&listed, &format!("{}{queue}", keys.setting()));
        let inside = Guest::join(&sluice, Via::Copy, "/", &client.cookie).unwrap();
        let waiting = || sluice.metrics().unwrap().sum("sluice_backend_queue", &[]);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| Guest::join(&sluice, Via::Copy, "/", &client.cookie).unwrap());
            if server == "a" {
                eventually("it waits", || (waiting() == 1).then_some(()));
                assert_eq!(
                    Guest::join(&sluice, Via::Copy, "/", "").unwrap().server(),
                    "b",
                    "who has no server waits for none"
                );
                drop(inside);
                let came = waits.join().unwrap();
                assert_eq!((came.server(), came.cookie()), ("a", None));
            } else {
                let came = waits.join().unwrap();
                assert_eq!(came.server(), "b");
                assert!(came.cookie().is_some());
                drop(inside);
            }
        });
        nobody_is_left(&sluice);
    }
}
