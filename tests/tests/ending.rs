//! When one side ends, the other side sees what it would have seen without a proxy, and nothing is cut off.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use sluice_tests::Via;
use sluice_tests::backend::RawBackend;
use sluice_tests::pattern::Pattern;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;

sluice_tests::over_every_engine![
    a_fin_of_the_client_reaches_the_backend,
    a_fin_of_the_backend_reaches_the_client,
    the_backend_may_speak_after_the_client_has_finished,
    the_client_may_speak_after_the_backend_has_finished,
    a_reset_of_the_client_reaches_the_backend,
    a_reset_of_the_backend_reaches_the_client,
    what_the_backend_sent_before_it_closed_arrives,
    what_the_client_sent_before_it_closed_arrives,
    a_pair_whose_both_sides_finish_at_once_is_gone,
];

const MUCH: usize = 8 * 1024 * 1024;

/// A tunnel, and what keeps it up.
struct Tunnel {
    client: Stream,
    server: Stream,
    sluice: Sluice,
    _backend: RawBackend,
}

fn tunnel(via: Via) -> Tunnel {
    let backend = RawBackend::start().unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, via)).unwrap();
    let (client, server) = sluice.tunnel(via, &backend).unwrap();
    Tunnel { client, server, sluice, _backend: backend }
}

/// Reads up to the clean end of the stream, and checks that exactly `length` bytes of the pattern were there.
fn reads_all(from: &mut impl Read, pattern: Pattern, length: usize) {
    let mut seen = Vec::new();
    from.read_to_end(&mut seen).unwrap();
    pattern.check(0, &seen);
    assert_eq!(seen.len(), length, "the stream was cut off");
}

fn ends(from: &mut impl Read) {
    assert_eq!(from.read(&mut [0; 16]).unwrap(), 0);
}

fn is_reset(from: &mut Stream) {
    match from.read(&mut [0; 16]) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        Ok(count) => panic!("{count} bytes instead of a reset"),
    }
}

fn is_gone(sluice: &Sluice) {
    eventually("the pair is gone", || sluice.connections().unwrap().is_empty().then_some(()));
}

fn a_fin_of_the_client_reaches_the_backend(via: Via) {
    let mut t = tunnel(via);
    t.client.write_all(b"last words").unwrap();
    t.client.shutdown_write().unwrap();
    let mut seen = String::new();
    t.server.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "last words");
    drop(t.server);
    ends(&mut t.client);
    is_gone(&t.sluice);
}

fn a_fin_of_the_backend_reaches_the_client(via: Via) {
    let mut t = tunnel(via);
    t.server.write_all(b"last words").unwrap();
    t.server.shutdown_write().unwrap();
    let mut seen = String::new();
    t.client.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "last words");
    t.client.shutdown_write().unwrap();
    ends(&mut t.server);
    is_gone(&t.sluice);
}

fn the_backend_may_speak_after_the_client_has_finished(via: Via) {
    let mut t = tunnel(via);
    t.client.write_all(b"that was all").unwrap();
    t.client.shutdown_write().unwrap();
    let mut seen = String::new();
    t.server.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "that was all");
    let sender = std::thread::spawn(move || {
        t.server.write_all(&Pattern(3).bytes(MUCH)).unwrap();
        t.server.shutdown_write().unwrap();
        t.server
    });
    reads_all(&mut t.client, Pattern(3), MUCH);
    sender.join().unwrap();
    is_gone(&t.sluice);
}

fn the_client_may_speak_after_the_backend_has_finished(via: Via) {
    let mut t = tunnel(via);
    t.server.shutdown_write().unwrap();
    ends(&mut t.client);
    let receiver = std::thread::spawn(move || reads_all(&mut t.server, Pattern(4), MUCH));
    t.client.write_all(&Pattern(4).bytes(MUCH)).unwrap();
    t.client.shutdown_write().unwrap();
    receiver.join().unwrap();
    is_gone(&t.sluice);
}

fn a_reset_of_the_client_reaches_the_backend(via: Via) {
    let mut t = tunnel(via);
    t.client.reset().unwrap();
    is_reset(&mut t.server);
    is_gone(&t.sluice);
}

fn a_reset_of_the_backend_reaches_the_client(via: Via) {
    let mut t = tunnel(via);
    t.server.reset().unwrap();
    is_reset(&mut t.client);
    is_gone(&t.sluice);
}

/// The backend has said everything and is gone before a slow client has read a tenth of it.
fn what_the_backend_sent_before_it_closed_arrives(via: Via) {
    let mut t = tunnel(via);
    let sender = std::thread::spawn(move || {
        t.server.write_all(&Pattern(5).bytes(MUCH)).unwrap();
        drop(t.server);
    });
    reads_all(&mut Slow(&mut t.client), Pattern(5), MUCH);
    sender.join().unwrap();
    drop(t.client);
    is_gone(&t.sluice);
}

fn what_the_client_sent_before_it_closed_arrives(via: Via) {
    let mut t = tunnel(via);
    let sender = std::thread::spawn(move || {
        t.client.write_all(&Pattern(6).bytes(MUCH)).unwrap();
        t.client.shutdown_write().unwrap();
        drop(t.client);
    });
    reads_all(&mut Slow(&mut t.server), Pattern(6), MUCH);
    sender.join().unwrap();
    drop(t.server);
    is_gone(&t.sluice);
}

fn a_pair_whose_both_sides_finish_at_once_is_gone(via: Via) {
    let mut t = tunnel(via);
    t.client.shutdown_write().unwrap();
    t.server.tcp().shutdown(Shutdown::Write).unwrap();
    ends(&mut t.client);
    ends(&mut t.server);
    is_gone(&t.sluice);
}

/// Reads little at a time, with pauses that let everything else happen first.
struct Slow<R>(R);

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(1));
        let most = buffer.len().min(32 * 1024);
        self.0.read(buffer.get_mut(..most).unwrap_or_default())
    }
}
