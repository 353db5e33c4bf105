//! Where connections to servers come from, in network namespaces with few ports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use sluice_tests::http::{self, Head};
use sluice_tests::site::Site;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::stream::{Stream, patient};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, namespace};

/// How many ports an address has here for connections to one server.
const PORTS: usize = 20;

/// A namespace with two more addresses of IPv6. All of 127.0.0.0/8 is there anyway.
fn inside(name: &str, body: impl FnOnce()) {
    let script = "ip link set lo up\nip addr add fd00::1/128 dev lo\nip addr add fd00::2/128 dev lo";
    namespace::inside(&["-n"], script, name, body);
}

/// From which of its ports the system chooses.
fn ports(from: usize, to: usize) {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{from} {to}")).unwrap();
}

/// Runs something while there are only so many.
fn with_few_ports<T>(run: impl FnOnce() -> T) -> T {
    ports(60_001, 60_000 + PORTS);
    let done = run();
    ports(30_000, 50_000);
    done
}

/// Opens WebSockets, from ports that the system would not choose, and returns those that were opened, and how the others were
/// refused.
fn open(sluice: &Sluice, count: usize, first: u16) -> (Vec<Stream>, Vec<String>) {
    let (mut opened, mut refused) = (Vec::new(), Vec::new());
    for (port, _) in (first..).zip(0..count) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 9], port)).into()).unwrap();
        socket.connect(&sluice.ws.into()).unwrap();
        let mut client = Stream::Plain(patient(TcpStream::from(socket)).unwrap());
        client.write_all(http::upgrade("x", "/", "").as_bytes()).unwrap();
        let head = Head::read(&mut client).unwrap();
        match head.status() {
            101 => opened.push(client),
            _ => refused.push(format!("{} {}", head.status(), head.field("proxy-websocket-status").unwrap())),
        }
    }
    (opened, refused)
}

/// How many of a server's connections came from which address.
fn sources(site: &Site) -> BTreeMap<String, usize> {
    let mut sources = BTreeMap::new();
    for peer in site.peers() {
        *sources.entry(peer.ip().to_string()).or_default() += 1;
    }
    sources
}

fn start(site: &Site, backend: &str) -> Sluice {
    let setup = Setup::via(site.address, Via::Copy).backend(backend);
    let log = "RUST_LOG=info,sluice::gate::fleet=debug";
    Sluice::start(&setup.under(&["env", log])).unwrap()
}

fn all_full(refused: &[String]) -> bool {
    refused.iter().all(|refused| refused.starts_with("503 ") && refused.contains("reason=full"))
}

#[test]
fn without_ports_clients_are_refused_and_the_server_is_not_blamed() {
    inside("without_ports_clients_are_refused_and_the_server_is_not_blamed", || {
        let site = Site::at("127.0.0.1:0".parse().unwrap()).unwrap();
        // What one failure does, and another server to which a backend of one would not be known.
        let blame =
            "ejection = { failures = 1, min_up = 0 }\ncheck = { kind = \"tcp\", interval = \"50ms\", fall = 1 }";
        let sluice = start(&site, blame);
        let (clients, refused) = with_few_ports(|| {
            let opened = open(&sluice, PORTS + 10, 10_000);
            eventually("a check finds no port", || sluice.program.log().contains("could not be made").then_some(()));
            opened
        });
        // Some are checks', which keep theirs for a while behind their end (TIME_WAIT).
        assert!((PORTS / 2..=PORTS).contains(&clients.len()), "{} opened, {refused:?}", clients.len());
        assert!(all_full(&refused), "{refused:?}");
        assert!(!sluice.program.log().contains("a server is"), "{}", sluice.program.log());
        let metrics = sluice.metrics().unwrap();
        assert_eq!(metrics.sum("sluice_server_failures_total", &[]), 0);
        assert_eq!(open(&sluice, 5, 11_000).0.len(), 5, "with ports there are connections again");
    });
}

#[test]
fn several_sources_have_as_many_ports_each() {
    inside("several_sources_have_as_many_ports_each", || {
        let site = Site::at("127.0.0.1:0".parse().unwrap()).unwrap();
        let sluice = start(&site, "source = [\"127.0.0.2\", \"fd00::1\", \"127.0.0.3\"]");
        let (clients, refused) = with_few_ports(|| open(&sluice, 2 * PORTS + 3, 10_000));
        assert_eq!(clients.len(), 2 * PORTS, "{refused:?}");
        assert!(all_full(&refused), "{refused:?}");
        assert_eq!(sources(&site), BTreeMap::from([("127.0.0.2".into(), PORTS), ("127.0.0.3".into(), PORTS)]));
    });
}

#[test]
fn ports_are_counted_by_server() {
    inside("ports_are_counted_by_server", || {
        let [one, two] = ["127.0.0.1:0", "127.0.0.1:0"].map(|at| Site::at(at.parse().unwrap()).unwrap());
        let setup = Setup::via(one.address, Via::Copy).server(two.address).backend("source = [\"127.0.0.2\"]");
        let sluice = Sluice::start(&setup).unwrap();
        let (clients, refused) = with_few_ports(|| open(&sluice, 2 * PORTS, 10_000));
        assert_eq!((clients.len(), refused.len()), (2 * PORTS, 0), "{refused:?}");
    });
}

#[test]
fn sources_of_ipv6_do_the_same() {
    inside("sources_of_ipv6_do_the_same", || {
        let site = Site::at("[::1]:0".parse().unwrap()).unwrap();
        let sluice = start(&site, "source = [\"127.0.0.2\", \"fd00::1\", \"fd00::2\"]");
        let (clients, refused) = with_few_ports(|| open(&sluice, 2 * PORTS + 3, 10_000));
        assert_eq!(clients.len(), 2 * PORTS, "{refused:?}");
        assert!(all_full(&refused), "{refused:?}");
        assert_eq!(sources(&site), BTreeMap::from([("fd00::1".into(), PORTS), ("fd00::2".into(), PORTS)]));
    });
}

#[test]
fn a_source_that_is_not_here_is_passed_over() {
    inside("a_source_that_is_not_here_is_passed_over", || {
        let site = Site::at("127.0.0.1:0".parse().unwrap()).unwrap();
        // For documentation (RFC 5737, RFC 3849), on no machine.
        let sluice = start(&site, "source = [\"192.0.2.1\", \"127.0.0.2\", \"2001:db8::1\"]");
        let (clients, refused) = open(&sluice, 6, 10_000);
        assert_eq!((clients.len(), refused.len()), (6, 0), "{refused:?}");
        assert_eq!(sources(&site), BTreeMap::from([("127.0.0.2".into(), 6)]));
        // None of the server's family: the system chooses.
        let other = start(&site, "source = [\"2001:db8::1\"]");
        assert_eq!(open(&other, 1, 11_000).0.len(), 1);
        // None that is here.
        let nowhere = start(&site, "source = [\"192.0.2.1\"]");
        let (clients, refused) = open(&nowhere, 1, 12_000);
        assert!(clients.is_empty() && all_full(&refused), "{refused:?}");
        eventually("the log names the source", || nowhere.program.log().contains("192.0.2.1").then_some(()));
    });
}
