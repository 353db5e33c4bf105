//! What crosses an established pair arrives, whole and in order, whichever engine carries it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use sluice_tests::Via;
use sluice_tests::backend::{Echo, RawBackend, switching};
use sluice_tests::client::Client;
use sluice_tests::counters::Tally;
use sluice_tests::frame::{BINARY, Frame, TEXT};
use sluice_tests::http::Head;
use sluice_tests::pattern::{Pattern, soak};
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::stream::Stream;
use sluice_tests::wait::{amount, eventually};

sluice_tests::over_every_way![
    every_kind_of_message_comes_back,
    what_is_sent_behind_the_handshake_arrives_first,
    split_headers_are_counted,
    every_form_of_length_is_counted,
    thousands_of_tiny_frames_are_counted,
    random_bytes_both_ways_arrive_exactly,
    close_codes_are_recorded,
];

fn start(via: Via) -> (RawBackend, Sluice) {
    let backend = RawBackend::via(via).unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, via)).unwrap();
    (backend, sluice)
}

fn every_kind_of_message_comes_back(via: Via) {
    let echo = Echo::via(via).unwrap();
    let sluice = Sluice::start(&Setup::via(echo.address, via)).unwrap();
    let mut client = Client::open(sluice.connect(via).unwrap(), sluice.address(via)).unwrap();
    let told = client.response.headers()["proxy-websocket-status"].to_str().unwrap();
    assert!(told.starts_with(&format!("upgraded; relay={}", via.engine())), "{told}");
    client.converse().unwrap();
    shows(&sluice, via, client.address().unwrap(), &client.tallies().unwrap());
    client.close(1000).unwrap();
    drop(client);
    eventually("the closed pair is gone", || sluice.connections().unwrap().is_empty().then_some(()));
}

/// Waits until `/connections` shows exactly these counters: the last bytes may have arrived a moment ago.
fn shows(sluice: &Sluice, via: Via, client: std::net::SocketAddr, expected: &[Tally; 2]) {
    let row = sluice.connection(client);
    assert_eq!(row["engine"], via.engine(), "{row}");
    let mut seen = [Tally::default(), Tally::default()];
    for _ in 0..500 {
        let row = sluice.connection(client);
        seen = ["client_to_backend", "backend_to_client"].map(|direction| Tally::shown(&row[direction]));
        if seen == *expected {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(seen, *expected);
}

/// A client that does not wait for its 101, and a backend whose first frames share a segment with it.
fn what_is_sent_behind_the_handshake_arrives_first(via: Via) {
    let (backend, sluice) = start(via);
    let [from_client, from_backend] = [Pattern(1).bytes(9_000), Pattern(2).bytes(20_000)];
    let mut client = sluice.ask(via, &from_client).unwrap();
    let (mut server, request) = backend.accept_request().unwrap();
    server.write_all(&[switching(&request, "").as_bytes(), &from_backend].concat()).unwrap();
    server.write_all(b"and then this").unwrap();
    assert_eq!(Head::read(&mut client).unwrap().status(), 101);
    client.write_all(b"and then that").unwrap();
    client.flush().unwrap();
    let mut seen = vec![0; from_client.len() + 13];
    server.read_exact(&mut seen).unwrap();
    assert!(seen == [&from_client[..], b"and then that"].concat(), "the backend received other bytes");
    let mut seen = vec![0; from_backend.len() + 13];
    client.read_exact(&mut seen).unwrap();
    assert!(seen == [&from_backend[..], b"and then this"].concat(), "the client received other bytes");
}

/// Sends frames from the client in pieces as they are given, and compares what is counted.
fn counts(via: Via, pieces: &[&[u8]], one_by_one: bool) {
    let (backend, sluice) = start(via);
    let (mut client, mut server) = sluice.tunnel(via, &backend).unwrap();
    let whole = pieces.concat();
    let mut seen = Vec::new();
    for piece in pieces {
        client.write_all(piece).unwrap();
        client.flush().unwrap();
        if one_by_one {
            // The piece has crossed before the next one leaves, so that they cannot share a segment.
            let mut crossed = vec![0; piece.len()];
            server.read_exact(&mut crossed).unwrap();
            seen.extend(crossed);
        }
    }
    if !one_by_one {
        seen.resize(whole.len(), 0);
        server.read_exact(&mut seen).unwrap();
    }
    assert!(seen == whole, "the backend received other bytes");
    let answer = Frame::server(TEXT, b"ok").encode();
    server.write_all(&answer).unwrap();
    client.read_exact(&mut vec![0; answer.len()]).unwrap();
    let expected = [Tally::of(&whole).unwrap(), Tally::of(&answer).unwrap()];
    shows(&sluice, via, client.tcp().local_addr().unwrap(), &expected);
    let metrics = sluice.metrics().unwrap();
    // What comes before the pair is in its engine is counted where it is carried.
    assert_eq!(metrics.sum("sluice_relay_bytes_total", &[("direction", "client_to_backend")]), expected[0].bytes);
    for (opcode, count) in &expected[0].frames {
        let labels = [("direction", "client_to_backend"), ("opcode", opcode.as_str())];
        assert_eq!(metrics.sum("sluice_frames_total", &labels), *count, "{opcode}");
    }
}

fn split_headers_are_counted(via: Via) {
    let frames = [
        Frame::client(TEXT, b"abc").encode(),
        Frame::client(BINARY, &[1; 300]).encode(),
        Frame::client(BINARY, &[2; 5]).encode_long(),
        Frame::client(8, &Frame::close_payload(4000, "x")).encode(),
    ]
    .concat();
    let bytes: Vec<&[u8]> = frames.chunks(1).collect();
    counts(via, &bytes, true);
}

fn every_form_of_length_is_counted(via: Via) {
    let long = Frame::client(BINARY, &[3; 70_000]).encode();
    let short_as_long = Frame::client(BINARY, &[4; 3]).encode_long();
    let empty = Frame::client(TEXT, b"").encode();
    let medium = Frame::client(TEXT, &[b'x'; 126]).encode();
    counts(via, &[&long, &short_as_long, &empty, &medium, &empty], false);
}

fn thousands_of_tiny_frames_are_counted(via: Via) {
    // Unmasked on purpose: two bytes each. What a client must not do (RFC 6455 §5.1) is not the relay's affair.
    let tiny = Frame::server(TEXT, b"").encode();
    assert_eq!(tiny.len(), 2);
    counts(via, &[&tiny.repeat(5_000)], false);
}

fn random_bytes_both_ways_arrive_exactly(via: Via) {
    let (backend, sluice) = start(via);
    let (mut client, mut server) = sluice.tunnel(via, &backend).unwrap();
    let peer = client.tcp().local_addr().unwrap();
    // A pair that is never idle stays with userspace.
    eventually("the pair is in its engine", || (sluice.connection(peer)["engine"] == via.engine()).then_some(()));
    // Several times what all buffers on the way hold.
    let total = amount(128 * 1024 * 1024).min(64 * 1024 * 1024);
    soak(&mut client, &mut server, total, 0x51_0ce5);
    let row = sluice.connection(peer);
    for direction in ["client_to_backend", "backend_to_client"] {
        assert_eq!(row[direction]["bytes"], total, "{row}");
    }
    if via == Via::Sockmap {
        let flips = sluice.metrics().unwrap().sum("sluice_relay_flips_total", &[]);
        assert!(flips > 0, "the readers' stalls never moved a direction to userspace and back");
    }
}

fn close_codes_are_recorded(via: Via) {
    let echo = Echo::via(via).unwrap();
    let sluice = Sluice::start(&Setup::via(echo.address, via)).unwrap();
    for code in [1000, 1001, 4000] {
        let mut client = Client::open(sluice.connect(via).unwrap(), sluice.address(via)).unwrap();
        client.close(code).unwrap();
    }
    eventually("all pairs are gone", || sluice.connections().unwrap().is_empty().then_some(()));
    let metrics = sluice.metrics().unwrap();
    for code in ["1000", "1001", "4xxx"] {
        for direction in ["client_to_backend", "backend_to_client"] {
            let labels = [("direction", direction), ("code", code)];
            assert_eq!(metrics.sum("sluice_close_codes_total", &labels), 1, "{direction} {code}\n{}", metrics.0);
        }
    }
    assert_eq!(metrics.sum("sluice_connections", &[]), 0);
}

/// Two tunnels at once do not hear each other.
#[test]
fn pairs_are_kept_apart() {
    Via::Copy.run(apart);
    Via::Sockmap.run(apart);
}

fn apart(via: Via) {
    let (backend, sluice) = start(via);
    let mut tunnels: Vec<(Stream, Stream)> = (0..20).map(|_| sluice.tunnel(via, &backend).unwrap()).collect();
    for (number, (client, _)) in tunnels.iter_mut().enumerate() {
        client.write_all(&Pattern(number as u64).bytes(1_000)).unwrap();
    }
    for (number, (_, server)) in tunnels.iter_mut().enumerate() {
        let mut seen = vec![0; 1_000];
        server.read_exact(&mut seen).unwrap();
        Pattern(number as u64).check(0, &seen);
    }
}
