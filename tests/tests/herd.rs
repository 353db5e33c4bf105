//! What becomes of 5,000 clients when the server dies that they are all on: they come back within a second, to servers
//! that cannot take them all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sluice_tests::fleet::{Counts, Server, count, entry, nobody_is_left, outcome};
use sluice_tests::http::{Head, upgrade};
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::sleep;

const HERD: u64 = 5000;

/// What each of the other four servers takes: 500 clients too few in all.
const MOST: u64 = 1125;

/// How long the herd takes to come back; each client begins at its own moment within.
const WITHIN: Duration = Duration::from_secs(1);

/// A client that stays where it is until its server is gone, and then comes back until somebody takes it.
struct Client {
    sluice: SocketAddr,
    /// What it has seen, told each time.
    told: mpsc::UnboundedSender<String>,
    /// Clients that have been taken.
    inside: Arc<AtomicU64>,
}

impl Client {
    /// Comes once, and says how it went.
    async fn come(&self) -> (String, Option<TcpStream>, Duration) {
        match self.ask().await {
            Ok((head, stream)) => {
                let seconds = head.field("retry-after").and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
                let stream = (head.status() == 101).then_some(stream);
                (outcome(&head), stream, Duration::from_secs(seconds))
            }
            Err(error) => (format!("no answer: {}", error.kind()), None, Duration::from_secs(1)),
        }
    }

    async fn ask(&self) -> std::io::Result<(Head, TcpStream)> {
        let mut stream = TcpStream::connect(self.sluice).await?;
        stream.write_all(upgrade("localhost", "/", "").as_bytes()).await?;
        let mut bytes = Vec::new();
        while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((Head::read(&mut bytes.as_slice())?, stream))
    }

    /// Comes until it is taken, each time after as long as it was told.
    async fn enter(&self) -> TcpStream {
        loop {
            let (outcome, stream, pause) = self.come().await;
            let _ended = self.told.send(outcome);
            match stream {
                Some(stream) => {
                    self.inside.fetch_add(1, Ordering::Relaxed);
                    return stream;
                }
                None => sleep(pause).await,
            }
        }
    }

    /// Lives through the death of its server.
    async fn live(self, moment: Duration) {
        let mut stream = self.enter().await;
        let _ended = stream.read(&mut [0]).await;
        drop(stream);
        self.inside.fetch_sub(1, Ordering::Relaxed);
        sleep(moment).await;
        let mut stream = self.enter().await;
        let _ended = stream.read(&mut [0]).await;
    }
}

/// All that has been told so far.
fn heard(told: &mut mpsc::UnboundedReceiver<String>) -> Counts {
    count(std::iter::from_fn(|| told.try_recv().ok()))
}

fn until(sluice: &Sluice, server: &Server, state: &str) {
    let labels = [("server", &*server.address.to_string()), ("state", state)];
    let is = || sluice.metrics().is_ok_and(|metrics| metrics.sum("sluice_server_state", &labels) == 1);
    eventually(&format!("{} is {state}", server.name), || is().then_some(()));
}

/// The gate dies while clients come back, wait, and are refused: nobody is counted twice, or for ever.
#[test]
fn a_gate_that_dies_in_a_herd_loses_no_count() {
    const CLIENTS: u64 = 600;
    const PLACES: u64 = 120;
    let mut servers = Server::several(5).unwrap();
    let most = format!("max_connections = {PLACES}");
    let listed: Vec<String> = servers.iter().map(|server| entry(server, &most)).collect();
    let backend = "balance = 'least-connections'\nqueue = { length = 200, timeout = '1s' }\n\
                   ejection = { time = '300ms', max_time = '1s' }\n";
    let sluice = Sluice::start(&Setup::new(servers[0].address).servers(&listed).backend(backend)).unwrap();
    let runtime = Runtime::new().unwrap();
    let ((sender, mut told), inside) = (mpsc::unbounded_channel(), Arc::new(AtomicU64::new(0)));
    let until_inside = |number: u64| {
        eventually(&format!("{number} are inside"), || (inside.load(Ordering::Relaxed) == number).then_some(()));
    };
    for number in 0..CLIENTS {
        let client = Client { sluice: sluice.ws, told: sender.clone(), inside: inside.clone() };
        runtime.spawn(client.live(Duration::from_millis(number % 300)));
    }
    until_inside(CLIENTS);
    println!("{CLIENTS} clients came: {:?}", heard(&mut told));
    // Three of five die, and while their clients wait for the other two, which are full, so does the gate.
    servers[..3].iter_mut().for_each(Server::stop);
    until_inside(2 * PLACES);
    sluice.kill_gate();
    servers[..2].iter_mut().for_each(|server| server.resume().unwrap());
    until_inside(4 * PLACES);
    sluice.kill_gate();
    servers[2].resume().unwrap();
    until_inside(CLIENTS);
    println!("three servers died, and the gate twice: {:?}", heard(&mut told));
    // A client whose pair has died with the gate may not have noticed, and count as inside, until it comes back.
    let live = || servers.iter().map(Server::live).collect::<Vec<_>>();
    eventually(&format!("each has its {PLACES}, not {:?}", live()), || (live() == [PLACES; 5]).then_some(()));
    assert!(servers.iter().all(|server| server.peak() == PLACES));
    let of = |server: &Server| {
        sluice.metrics().unwrap().sum("sluice_server_connections", &[("server", &server.address.to_string())])
    };
    eventually("they are counted right", || servers.iter().all(|server| of(server) == PLACES).then_some(()));
    runtime.shutdown_background();
    nobody_is_left(&sluice);
}

#[test]
fn a_herd_comes_back_and_no_server_gets_more_than_it_takes() {
    let mut servers = Server::several(5).unwrap();
    let most = format!("max_connections = {MOST}");
    let listed: Vec<String> =
        servers.iter().map(|server| entry(server, if server.name == "a" { "" } else { &most })).collect();
    let backend = "balance = 'least-connections'\nqueue = { length = 300, timeout = '2s' }\n\
                   check = { kind = 'tcp', interval = '100ms', timeout = '2s', rise = 1, fall = 1 }\n\
                   ejection = { min_up = 0.0 }\n";
    let setup = Setup::new(servers[0].address).servers(&listed).backend(backend);
    for server in &mut servers[1..] {
        server.stop();
    }
    let sluice = Sluice::start(&setup).unwrap();
    for server in &servers[1..] {
        until(&sluice, server, "down");
    }
    // All come to the only server that is up, and then there are others.
    let runtime = Runtime::new().unwrap();
    let ((sender, mut told), inside) = (mpsc::unbounded_channel(), Arc::new(AtomicU64::new(0)));
    for number in 0..HERD {
        let client = Client { sluice: sluice.ws, told: sender.clone(), inside: inside.clone() };
        runtime.spawn(client.live(WITHIN.mul_f64(number as f64 / HERD as f64)));
    }
    eventually("all are inside", || (inside.load(Ordering::Relaxed) == HERD).then_some(()));
    assert_eq!(servers[0].live(), HERD);
    println!("{HERD} clients came to one server: {:?}", heard(&mut told));
    for server in &mut servers[1..] {
        server.resume().unwrap();
    }
    for server in &servers[1..] {
        until(&sluice, server, "up");
    }
    let began = Instant::now();
    servers[0].stop();
    let full = 4 * MOST;
    eventually("the others are full", || (inside.load(Ordering::Relaxed) == full).then_some(()));
    println!("{full} of them were inside again after {:.1} s", began.elapsed().as_secs_f64());
    let seen = heard(&mut told);
    println!("meanwhile clients heard {seen:?}");
    for server in &servers {
        let (name, accepted, peak) = (&server.name, server.accepted(), server.peak());
        println!(
            "server {name}: {} requests, {} at most at one time, {accepted} connections with its checks",
            server.requests(),
            peak
        );
    }
    for server in &servers[1..] {
        assert_eq!((server.peak(), server.live(), server.requests()), (MOST, MOST, MOST), "{}", server.name);
    }
    let known =
        ["b", "c", "d", "e", "503 queue-timeout", "503 servers-full", "502 backend-refused", "502 backend-closed"];
    assert!(seen.keys().all(|outcome| known.contains(&outcome.as_str())), "{seen:?}");
    // Those that are left out come again as they were told, until the first server is back.
    servers[0].resume().unwrap();
    eventually("all are inside", || (inside.load(Ordering::Relaxed) == HERD).then_some(()));
    println!("until the first server was back, the others heard {:?}", heard(&mut told));
    assert_eq!(servers.iter().map(Server::live).sum::<u64>(), HERD);
    let connections = sluice.metrics().unwrap().sum("sluice_server_connections", &[]);
    assert_eq!(connections, HERD);
    // The dead server was asked by nobody but its own clients.
    assert_eq!(servers[0].requests(), HERD + HERD - full);
    runtime.shutdown_background();
    nobody_is_left(&sluice);
    eventually("every server is empty", || servers.iter().all(|server| server.live() == 0).then_some(()));
}
