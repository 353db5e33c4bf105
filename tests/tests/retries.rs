//! A request goes to another server when the first one cannot have read it, and never when it can.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sluice_tests::Via;
use sluice_tests::backend::Echo;
use sluice_tests::certificate::of_backends;
use sluice_tests::http::{self, Head};
use sluice_tests::process::Refusing;
use sluice_tests::recorder::Recorder;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::stream::patient;

/// Nobody is left out for what it does here.
const NOBODY_IS_OUT: &str = "ejection = { failures = 0 }\n";

/// Sluice before these servers, which takes plain requests too.
fn start(servers: &[SocketAddr], backend: &str) -> Sluice {
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let setup = Setup::via(SocketAddr::from(([127, 0, 0, 1], 9)), Via::Copy).servers(&servers);
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n";
    Sluice::start(&setup.routes(routes).backend(&format!("{backend}{NOBODY_IS_OUT}"))).unwrap()
}

/// What a server does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rude {
    /// A reset, as soon as it has the connection.
    Resets,
    /// The end, as soon as it has the connection.
    Closes,
    /// The same, behind the request.
    ClosesBehind,
    /// A reset behind the request.
    ResetsBehind,
    /// A half of a head behind the request.
    HalfAHead,
    /// An answer to the first request, and the end behind the second.
    ClosesBehindSecond,
    /// The same, behind a half of a head.
    HalfAHeadBehindSecond,
    /// An answer to the first request, and the end behind that.
    ClosesIdle,
}

/// A server without manners. It remembers the requests that it has read.
struct Server {
    address: SocketAddr,
    read: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(rude: Rude) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, read) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let of_thread = read.clone();
        // Ends with the process: nothing waits for it.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let read = of_thread.clone();
                std::thread::spawn(move || serve(&patient(stream).unwrap(), rude, &read));
            }
        });
        Self { address, read }
    }

    /// How often it has read a request with this in its first line.
    fn times(&self, path: &str) -> usize {
        self.read.lock().unwrap().iter().filter(|line| line.contains(path)).count()
    }
}

fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

fn serve(mut stream: &TcpStream, rude: Rude, read: &Mutex<Vec<String>>) {
    match rude {
        Rude::Resets => return reset(stream),
        Rude::Closes => return,
        _ => {}
    }
    let mut answered = false;
    while let Ok(head) = Head::read(&mut stream) {
        let length = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        read.lock().unwrap().push(head.line);
        match rude {
            Rude::ClosesBehindSecond | Rude::HalfAHeadBehindSecond | Rude::ClosesIdle if !answered => {
                let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                answered = true;
                if rude == Rude::ClosesIdle {
                    return;
                }
            }
            Rude::ResetsBehind => return reset(stream),
            Rude::HalfAHead | Rude::HalfAHeadBehindSecond => {
                return drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le"));
            }
            _ => return,
        }
    }
}

/// A request whose target is told from all others: a handshake, or a POST with a body.
fn request(handshake: bool) -> (String, String) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    if handshake {
        let path = format!("/ws-{number}-");
        return (http::upgrade("x", &path, ""), path);
    }
    let path = format!("/post-{number}-");
    (format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"), path)
}

/// Sends it, and returns the status of the answer.
fn send(sluice: &Sluice, request: &str) -> u16 {
    let mut client = sluice.connect(Via::Copy).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    Head::read(&mut client).unwrap().status()
}

/// How often a good server has got a request with this in its first line.
fn times(good: &Recorder, path: &str) -> usize {
    good.requests().iter().filter(|request| request.target.contains(path)).count()
}

#[test]
fn no_request_arrives_twice() {
    for rude in [Rude::Resets, Rude::Closes, Rude::ClosesBehind, Rude::ResetsBehind, Rude::HalfAHead] {
        let (bad, good) = (Server::start(rude), Recorder::start().unwrap());
        let sluice = start(&[bad.address, good.address], "");
        let (mut answered, mut failed) = (0, 0);
        for number in 0..24 {
            let (request, path) = request(number % 2 == 0);
            let status = send(&sluice, &request);
            let arrived = (bad.times(&path), times(&good, &path));
            match status {
                101 | 200 => {
                    assert_eq!(arrived, (0, 1), "{rude:?} {path}");
                    answered += 1;
                }
                502 => {
                    assert!(arrived.0 <= 1 && arrived.1 == 0, "{rude:?} {path}: {arrived:?}");
                    failed += 1;
                }
                other => panic!("{rude:?} {path}: {other}"),
            }
        }
        // Half of them, but for those of which it was seen before a byte was written that there is nobody to read it.
        assert!(answered >= 12, "{rude:?}: {answered} answered");
        if matches!(rude, Rude::ClosesBehind | Rude::ResetsBehind | Rude::HalfAHead) {
            assert_eq!((answered, failed), (12, 12), "{rude:?}");
        }
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_replaced() {
    let (refusing, good) = (Refusing::start().unwrap(), Recorder::start().unwrap());
    let sluice = start(&[refusing.address, good.address], "");
    for number in 0..8 {
        let (request, path) = request(number % 2 == 0);
        assert!(matches!(send(&sluice, &request), 101 | 200));
        assert_eq!(times(&good, &path), 1, "{path}");
    }
}

#[test]
fn whoever_reaches_nobody_else_reaches_a_backup() {
    let (nobody, backup) = ([0; 2].map(|_| Refusing::start().unwrap()), Recorder::start().unwrap());
    let entry = |address: SocketAddr, backup: bool| format!("{{ address = \"{address}\", backup = {backup} }}");
    let [one, other] = nobody.each_ref().map(|server| entry(server.address, false));
    let setup = Setup::via(backup.address, Via::Copy).servers(&[one, other, entry(backup.address, true)]);
    let routes = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n";
    let sluice = Sluice::start(&setup.routes(routes).backend(NOBODY_IS_OUT)).unwrap();
    for number in 0..4 {
        let (request, path) = request(number % 2 == 0);
        assert!(matches!(send(&sluice, &request), 101 | 200));
        assert_eq!(times(&backup, &path), 1, "{path}");
    }
    assert_eq!(sluice.metrics().unwrap().sum("sluice_server_failures_total", &[]), 8, "both were tried each time");
}

#[test]
fn so_is_one_with_which_there_is_no_tls() {
    let good = Echo::via(Via::TlsBackend).unwrap();
    // It reads a ClientHello, and takes it for a request that never ends, or answers it with a reset.
    for rude in [Rude::Closes, Rude::Resets] {
        let bad = Server::start(rude);
        let setup = Setup::via(bad.address, Via::TlsBackend).server(good.address).backend(NOBODY_IS_OUT);
        let sluice = Sluice::start(&setup).unwrap();
        for _ in 0..6 {
            assert_eq!(send(&sluice, &request(true).0), 101, "{rude:?}");
        }
        let failed = sluice.metrics().unwrap().sum("sluice_server_failures_total", &[]);
        assert_eq!(failed, 3, "every other one was tried there first");
    }
    // A certificate for somebody else: no byte of a request has been sent.
    let stranger = sluice_tests::certificate::Identity::make().unwrap();
    let wrong = sluice_tests::backend::RawBackend::with_tls(stranger.server(None).unwrap()).unwrap();
    let setup = Setup::via(wrong.address, Via::TlsBackend).server(good.address).backend(NOBODY_IS_OUT);
    let setup = setup.file(of_backends(), ["backend.pem", "backend.key"]);
    let sluice = Sluice::start(&setup).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(wrong.accept_request().is_err(), "a request was sent"));
        for _ in 0..2 {
            assert_eq!(send(&sluice, &request(true).0), 101);
        }
    });
}

#[test]
fn there_are_so_many_retries() {
    let nobody = [0; 5].map(|_| Refusing::start().unwrap());
    for retries in [0, 1, 3, 9] {
        let sluice = start(&nobody.each_ref().map(|server| server.address), &format!("retries = {retries}\n"));
        for (round, handshake) in [(1, true), (2, false)] {
            assert_eq!(send(&sluice, &request(handshake).0), 502);
            let failed = sluice.metrics().unwrap().sum("sluice_server_failures_total", &[]);
            // No server is tried twice.
            assert_eq!(failed, round * (retries + 1).min(5), "with {retries} retries");
        }
    }
}

#[test]
fn on_a_connection_that_was_used_before_no_post_is_repeated_either() {
    let bad = Server::start(Rude::ClosesBehindSecond);
    let sluice = start(&[bad.address], "");
    let mut failed = 0;
    for _ in 0..10 {
        let (request, path) = request(false);
        let status = send(&sluice, &request);
        assert_eq!(bad.times(&path), 1, "{path} was answered with {status}");
        failed += usize::from(status == 502);
    }
    assert!(failed > 0, "no connection was used twice");
}

/// What means the same however often it is asked, and has no body, is asked once more over a new connection.
#[test]
fn a_get_over_such_a_connection_is_answered() {
    let bad = Server::start(Rude::ClosesBehindSecond);
    let sluice = start(&[bad.address], "");
    let mut twice = 0;
    for number in 0..60 {
        let method = ["GET", "OPTIONS", "PUT", "DELETE"][number % 4];
        let path = format!("/twice-{number}-");
        let status = send(&sluice, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!(status, 200, "{method}");
        twice += usize::from(bad.times(&path) == 2);
        assert!(bad.times(&path) <= 2, "{path}");
    }
    assert!(twice > 0, "no connection was used twice");
}

/// Whoever has begun to answer has acted on it.
#[test]
fn nor_is_a_get_repeated_of_whose_answer_something_has_come() {
    let bad = Server::start(Rude::HalfAHeadBehindSecond);
    let sluice = start(&[bad.address], "");
    let mut failed = 0;
    for number in 0..10 {
        let path = format!("/half-{number}-");
        let status = send(&sluice, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!(bad.times(&path), 1, "{path} was answered with {status}");
        failed += usize::from(status == 502);
    }
    assert!(failed > 0, "no connection was used twice");
}

#[test]
fn a_connection_that_the_server_closes_meanwhile_costs_no_request() {
    let closes = Server::start(Rude::ClosesIdle);
    let sluice = start(&[closes.address], "");
    for _ in 0..20 {
        let (request, path) = request(false);
        let status = send(&sluice, &request);
        // Closed at the moment at which it is written to, nobody can know whether the server has read it.
        assert!(matches!(status, 200 | 502), "{status}");
        assert!(closes.times(&path) <= 1, "{path}");
    }
    let answered = closes.read.lock().unwrap().len();
    assert!(answered >= 10, "{answered} of 20 were answered");
}
