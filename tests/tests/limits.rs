//! Who may come, how many, and how fast, as clients see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sluice_tests::backend::{Echo, RawBackend};
use sluice_tests::client::Client;
use sluice_tests::http::{self, Head};
use sluice_tests::process::{free_addresses, status_field};
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::stream::{Stream, patient, reset};
use sluice_tests::wait::{amount, eventually};
use sluice_tests::{Via, needs};
use socket2::{Domain, Socket, Type};

/// A connection from this address.
fn from(address: &str, to: SocketAddr) -> TcpStream {
    let own: SocketAddr = SocketAddr::new(address.parse().unwrap(), 0);
    let socket = Socket::new(Domain::for_address(own), Type::STREAM, None).unwrap();
    socket.bind(&own.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    patient(socket.into()).unwrap()
}

/// A client's handshake on a connection, and what it is answered.
fn handshake(mut stream: TcpStream) -> (TcpStream, Head) {
    stream.write_all(http::upgrade("app.test", "/", "").as_bytes()).unwrap();
    let head = Head::read(&mut stream).unwrap();
    (stream, head)
}

/// The reason of a refusal.
fn reason(head: &Head) -> &str {
    let status = head.field("proxy-websocket-status").unwrap_or_default();
    status.split("reason=").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default()
}

fn retry_after(head: &Head) -> u64 {
    head.field("retry-after").expect("no Retry-After").parse().unwrap()
}

fn refusals(sluice: &Sluice, reason: &str) -> u64 {
    sluice.metrics().unwrap().sum("sluice_handshakes_total", &[("reason", reason)])
}

#[test]
fn a_clients_connections_outlive_a_gate_in_the_kernel() {
    Via::Sockmap.run(outlive);
}

#[test]
fn a_clients_connections_outlive_a_gate_in_userspace() {
    Via::Copy.run(outlive);
}

/// Two of one client, and the gate is killed: the next gate knows them.
fn outlive(via: Via) {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::via(echo.address, via).more("[limits.per_client]\nconnections = 2\n")).unwrap();
    let open = |address: &str| handshake(from(address, sluice.ws));
    let mut held: Vec<_> = (0..2).map(|_| open("127.0.0.1")).collect();
    for (stream, head) in &held {
        assert_eq!(head.status(), 101, "{}", head.line);
        let _handed_over = sluice.connection(stream.local_addr().unwrap());
    }
    let full = |address: &str| {
        let (_, head) = open(address);
        (head.status() == 429).then(|| reason(&head).to_owned())
    };
    assert_eq!(full("127.0.0.1").as_deref(), Some("client-full"));
    for gates in 2..4 {
        sluice.kill_gate();
        eventually("there is another gate", || {
            let metrics = sluice.metrics().ok()?;
            (metrics.sum("sluice_gate_starts_total", &[]) == gates).then_some(())
        });
        assert_eq!(full("127.0.0.1").as_deref(), Some("client-full"), "gate {gates}");
        // Another client's end at once.
        let (other, head) = open("127.0.0.2");
        assert_eq!(head.status(), 101, "{}", head.line);
        drop(other);
    }
    // The end of one, of which the gate that let it in never hears, makes room for one.
    drop(held.pop());
    let again = eventually("there is room", || Some(open("127.0.0.1")).filter(|(_, head)| head.status() == 101));
    let _handed_over = sluice.connection(again.0.local_addr().unwrap());
    assert_eq!(full("127.0.0.1").as_deref(), Some("client-full"));
}

#[test]
fn one_address_is_one_client_on_every_listener() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return needs::skip("this machine has no IPv6");
    }
    let echo = Echo::start().unwrap();
    let [both] = free_addresses().unwrap().map(|free: SocketAddr| free.port());
    let more = format!(
        "[[listener]]\nbind = \"[::]:{both}\"\n\
         [limits.per_client]\nhandshakes = {{ rate = 1, per = \"1h\", burst = 2 }}\n"
    );
    let sluice = Sluice::start(&Setup::new(echo.address).more(&more)).unwrap();
    let (four, six) = (SocketAddr::from(([127, 0, 0, 1], both)), SocketAddr::from((Ipv6Addr::LOCALHOST, both)));
    let status = |own: &str, to: SocketAddr| handshake(from(own, to)).1.status();
    assert_eq!([status("127.0.0.1", sluice.ws), status("127.0.0.1", four), status("127.0.0.1", four)], [101, 101, 429]);
    assert_eq!([status("127.0.0.7", four), status("127.0.0.7", sluice.ws), status("127.0.0.7", four)], [101, 101, 429]);
    assert_eq!([status("::1", six), status("::1", six), status("::1", six)], [101, 101, 429]);
    assert_eq!(refusals(&sluice, "client-rate"), 3);
}

#[test]
fn with_tls_a_client_beyond_its_limits_gets_no_handshake() {
    let echo = Echo::start().unwrap();
    let more = "[limits.per_client]\nconnections = 1\n[access]\ndeny = [\"127.0.0.9\"]\n";
    let sluice = Sluice::start(&Setup::new(echo.address).more(more)).unwrap();
    let mut client = Client::open(Stream::connect(sluice.wss, Some(sluice.tls.clone())).unwrap(), sluice.wss).unwrap();
    client.converse().unwrap();
    assert!(Client::open(Stream::connect(sluice.wss, Some(sluice.tls.clone())).unwrap(), sluice.wss).is_err());
    assert_eq!(refusals(&sluice, "client-full"), 1);
    let mut denied = from("127.0.0.9", sluice.wss);
    assert_eq!(denied.read(&mut [0; 1]).unwrap_or(0), 0);
    let (_, answered) = handshake(from("127.0.0.9", sluice.ws));
    assert_eq!((answered.status(), reason(&answered)), (403, "address-denied"));
    assert_eq!(refusals(&sluice, "address-denied"), 2);
    assert_eq!(refusals(&sluice, "tls"), 0);
    client.converse().unwrap();
}

/// What came of one client of a herd.
struct Visit {
    /// When it was let in, since the herd began.
    let_in: Duration,
    /// How often it was told to come back.
    tries: u32,
    /// The longest Retry-After that it was told.
    longest: u64,
}

/// A client that comes back when it is told to, until it is let in.
fn visit(address: SocketAddr, begun: Instant) -> Visit {
    let (mut tries, mut longest) = (0, 0);
    loop {
        let (_, head) = handshake(patient(TcpStream::connect(address).unwrap()).unwrap());
        if head.status() == 101 {
            return Visit { let_in: begun.elapsed(), tries, longest };
        }
        assert_eq!((head.status(), reason(&head)), (503, "rate"), "{}", head.line);
        let wait = retry_after(&head);
        (tries, longest) = (tries + 1, longest.max(wait));
        std::thread::sleep(Duration::from_secs(wait));
    }
}

/// Two thousand at once, with a limit of two hundred each second: nobody hangs, and nobody is let in beyond the rate.
#[test]
fn a_herd_is_let_in_at_the_rate() {
    const HERD: usize = 2_000;
    const RATE: u128 = 200;
    const BURST: u128 = 300;
    let echo = Echo::start().unwrap();
    let limits = format!("[limits]\nhandshakes = {{ rate = {RATE}, burst = {BURST} }}\n");
    let sluice = Sluice::start(&Setup::new(echo.address).more(&limits)).unwrap();
    let (visits, begun) = (Mutex::new(Vec::new()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..HERD {
            let client = || {
                let visit = visit(sluice.ws, begun);
                visits.lock().unwrap().push(visit);
            };
            std::thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, client).unwrap();
        }
    });
    let mut visits = visits.into_inner().unwrap();
    visits.sort_by_key(|visit| visit.let_in);
    assert_eq!(visits.len(), HERD);
    // The bucket began before the herd did, and a client knows that it was let in only after it was: so at any moment
    // there can be no more than the bucket held at first and what it has got since.
    for (before, visit) in visits.iter().enumerate() {
        let most = BURST + (RATE * visit.let_in.as_micros()).div_ceil(1_000_000);
        assert!(before as u128 <= most, "{before} were let in within {:?}", visit.let_in);
    }
    // A bucket that was never asked more than it gives would show nothing.
    let tries: u32 = visits.iter().map(|visit| visit.tries).sum();
    assert!(tries > 0, "nobody was refused");
    assert_eq!(refusals(&sluice, "rate"), u64::from(tries));
    // One second, which is when there is room for two hundred, and the spread.
    assert!(visits.iter().all(|visit| visit.longest <= 5));
    let last = visits.last().unwrap().let_in;
    let seconds = (0..=last.as_secs()).map(|second| visits.iter().filter(|v| v.let_in.as_secs() == second).count());
    println!("let in each second: {:?}; {tries} were told to come back", seconds.collect::<Vec<_>>());
}

/// One connection for this address, as a proxy tells it: the status of the answer.
fn told(to: SocketAddr, client: Ipv6Addr) -> std::io::Result<String> {
    let mut stream = patient(TcpStream::connect(to)?)?;
    let header = format!("PROXY TCP6 {client} 2001:db8::1 1024 443\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(header.as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    // So that no port is kept for a while.
    reset(&stream)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn gate_rss(sluice: &Sluice) -> u64 {
    let gate = sluice.gate().expect("there is no gate").to_string();
    let field = status_field(&gate, "VmRSS").expect("no VmRSS");
    field.split_whitespace().next().unwrap().parse().unwrap()
}

/// A proxy tells of two hundred thousand clients in as many networks. The gate remembers those it was told to.
#[test]
fn a_flood_of_addresses_costs_a_bounded_memory() {
    const THREADS: u64 = 8;
    let flood = amount(200_000) / THREADS * THREADS;
    let backend = RawBackend::start().unwrap();
    let limits = "[limits.per_client]\nconnections = 10\naddresses = 10000\n\
                  handshakes = { rate = 1, per = \"1h\", burst = 1 }\n";
    let trust = "proxy_protocol = { from = [\"127.0.0.0/8\"] }";
    let sluice = Sluice::start(&Setup::new(backend.address).listeners(trust).more(limits)).unwrap();
    let network = |number: u64| Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (u128::from(number) << 64) | 1);
    let come = |numbers: std::ops::Range<u64>| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (numbers, ws) = (numbers.clone(), sluice.ws);
                scope.spawn(move || {
                    for number in numbers.skip(thread as usize).step_by(THREADS as usize) {
                        let answer = told(ws, network(number)).unwrap();
                        assert_eq!(answer, "HTTP/1.1 426", "client {number}");
                    }
                });
            }
        });
    };
    let warm = flood / 10;
    come(0..warm);
    let before = gate_rss(&sluice);
    come(warm..flood);
    let after = gate_rss(&sluice);
    // The last is still known by another address of its network, the first is forgotten.
    let neighbour = Ipv6Addr::from_bits(network(flood - 1).to_bits() + 5);
    assert_eq!(told(sluice.ws, neighbour).unwrap(), "HTTP/1.1 429");
    assert_eq!(told(sluice.ws, network(0)).unwrap(), "HTTP/1.1 426");
    let metrics = eventually("all connections have ended", || {
        let metrics = sluice.metrics().unwrap();
        (metrics.sum("sluice_client_addresses", &[]) == 10_000.min(flood + 1)).then_some(metrics)
    });
    assert_eq!(metrics.sum("sluice_client_addresses_evicted_total", &[]), (flood + 1).saturating_sub(10_000));
    println!("{flood} clients: the gate had {before} KiB after {warm}, and {after} KiB at the end");
    // If each were remembered in 58 bytes, it would be 10 MiB more; the allocator is granted some of that.
    assert!(after < before + 6 * 1024, "{before} KiB became {after} KiB");
}

#[test]
fn a_routes_limits_are_told_from_those_of_all() {
    let echo = Echo::start().unwrap();
    let limited = "handshakes = { rate = 2, per = \"1h\" }";
    let routes = format!(
        "[[route]]\nbackend = \"app\"\n[[route]]\npath = \"/few\"\nbackend = \"app\"\nlimits = {{ {limited} }}\n\
         [[route]]\npath = \"/office\"\nbackend = \"app\"\nallow = [\"127.0.0.2\"]\n"
    );
    let sluice = Sluice::start(&Setup::new(echo.address).routes(&routes)).unwrap();
    let ask = |own: &str, path: &str| {
        let mut stream = from(own, sluice.ws);
        stream.write_all(http::upgrade("app.test", path, "").as_bytes()).unwrap();
        Head::read(&mut stream).unwrap()
    };
    let statuses = [1, 2, 3].map(|last| ask(&format!("127.0.0.{last}"), "/few"));
    assert_eq!(statuses.each_ref().map(Head::status), [101, 101, 503]);
    assert_eq!(reason(&statuses[2]), "route-rate");
    assert!((1_700..=1_805).contains(&retry_after(&statuses[2])), "{:?}", statuses[2]);
    assert_eq!(ask("127.0.0.1", "/").status(), 101);
    assert_eq!(ask("127.0.0.2", "/office").status(), 101);
    let denied = ask("127.0.0.1", "/office");
    assert_eq!((denied.status(), reason(&denied)), (403, "address-denied"));
}
