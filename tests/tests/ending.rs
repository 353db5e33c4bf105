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
use sluice_tests::wait::{amount, eventually, until_still};

sluice_tests::over_every_way![
    a_fin_of_the_client_reaches_the_backend,
    a_fin_of_the_backend_reaches_the_client,
    the_backend_may_speak_after_the_client_has_finished,
    the_client_may_speak_after_the_backend_has_finished,
    a_reset_of_the_client_reaches_the_backend,
    a_reset_of_the_backend_reaches_the_client,
    what_the_backend_sent_before_it_closed_arrives,
    what_the_client_sent_before_it_closed_arrives,
    a_pair_whose_both_sides_finish_at_once_is_gone,
    an_end_that_leaves_the_connection_open_is_a_half_close,
    a_client_that_breaks_after_it_has_finished_ends_the_pair,
    a_backend_that_breaks_after_it_has_finished_ends_the_pair,
    a_client_that_breaks_while_the_backend_does_not_read_ends_the_pair,
    a_peer_that_does_not_read_is_not_taken_for_dead,
];

/// More than is taken off somebody's hands at once.
fn much() -> usize {
    amount(64 * 1024 * 1024).min(8 * 1024 * 1024) as usize
}

/// A tunnel, and what keeps it up.
struct Tunnel {
    client: Stream,
    server: Stream,
    sluice: Sluice,
    _backend: RawBackend,
}

fn tunnel(via: Via) -> Tunnel {
    tunnel_with(via, "")
}

/// As [`tunnel`], with these lines in `[relay]`.
fn tunnel_with(via: Via, relay: &str) -> Tunnel {
    let backend = RawBackend::via(via).unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, via).relay(relay)).unwrap();
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

/// As [`is_reset`], behind an end of the stream: a read goes on telling that.
fn is_broken(stream: &Stream) {
    let error = eventually("the connection is broken", || stream.tcp().take_error().unwrap());
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
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
        t.server.write_all(&Pattern(3).bytes(much())).unwrap();
        t.server.shutdown_write().unwrap();
        t.server
    });
    reads_all(&mut t.client, Pattern(3), much());
    sender.join().unwrap();
    is_gone(&t.sluice);
}

fn the_client_may_speak_after_the_backend_has_finished(via: Via) {
    let mut t = tunnel(via);
    t.server.shutdown_write().unwrap();
    ends(&mut t.client);
    let receiver = std::thread::spawn(move || reads_all(&mut t.server, Pattern(4), much()));
    t.client.write_all(&Pattern(4).bytes(much())).unwrap();
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
        t.server.write_all(&Pattern(5).bytes(much())).unwrap();
        drop(t.server);
    });
    reads_all(&mut Slow(&mut t.client), Pattern(5), much());
    sender.join().unwrap();
    drop(t.client);
    is_gone(&t.sluice);
}

fn what_the_client_sent_before_it_closed_arrives(via: Via) {
    let mut t = tunnel(via);
    let sender = std::thread::spawn(move || {
        t.client.write_all(&Pattern(6).bytes(much())).unwrap();
        t.client.shutdown_write().unwrap();
        drop(t.client);
    });
    reads_all(&mut Slow(&mut t.server), Pattern(6), much());
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

/// Where there is TLS, a close_notify without a FIN.
fn an_end_that_leaves_the_connection_open_is_a_half_close(via: Via) {
    for client_first in [true, false] {
        let t = tunnel(via);
        let (mut first, mut last) = if client_first { (t.client, t.server) } else { (t.server, t.client) };
        first.write_all(b"that was all").unwrap();
        first.finish().unwrap();
        let mut seen = String::new();
        last.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "that was all");
        last.write_all(b"not quite").unwrap();
        last.finish().unwrap();
        seen.clear();
        first.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "not quite");
        is_gone(&t.sluice);
    }
}

/// The reason for which the only pair of a Sluice ended.
fn ended_as(sluice: &Sluice, reason: &str) {
    is_gone(sluice);
    let metrics = sluice.metrics().unwrap();
    assert_eq!(metrics.sum("sluice_pairs_ended_total", &[("reason", reason)]), 1, "{}", metrics.0);
}

fn a_client_that_breaks_after_it_has_finished_ends_the_pair(via: Via) {
    let mut t = tunnel(via);
    t.client.shutdown_write().unwrap();
    ends(&mut t.server);
    t.client.reset().unwrap();
    is_broken(&t.server);
    ended_as(&t.sluice, "client-failed");
}

fn a_backend_that_breaks_after_it_has_finished_ends_the_pair(via: Via) {
    let mut t = tunnel(via);
    t.server.shutdown_write().unwrap();
    ends(&mut t.client);
    t.server.reset().unwrap();
    is_broken(&t.client);
    ended_as(&t.sluice, "backend-failed");
}

/// Writes until no more is taken, and says how much was.
fn fill(to: &mut Stream, pattern: Pattern) -> usize {
    to.tcp().set_nonblocking(true).unwrap();
    let mut sent = 0;
    let most = until_still("the flood", Duration::from_secs(1), || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            pattern.fill(sent as u64, &mut buffer);
            match to.write(&buffer) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return sent as u64,
                Err(error) => panic!("cannot send behind byte {sent}: {error}"),
            }
        }
    });
    to.tcp().set_nonblocking(false).unwrap();
    most as usize
}

fn a_client_that_breaks_while_the_backend_does_not_read_ends_the_pair(via: Via) {
    let mut t = tunnel(via);
    let sent = fill(&mut t.client, Pattern(7));
    t.client.reset().unwrap();
    // The backend is told by then, and still reads nothing: the pair must not need it to.
    ended_as(&t.sluice, "client-failed");
    let (mut seen, mut buffer) = (0, vec![0; 64 * 1024]);
    while let Ok(count @ 1..) = t.server.read(&mut buffer) {
        Pattern(7).check(seen as u64, &buffer[..count]);
        seen += count;
    }
    assert!(seen <= sent);
}

/// The kernel would end the connection after `user_timeout`, while its probes are answered.
fn a_peer_that_does_not_read_is_not_taken_for_dead(via: Via) {
    let tunnels = [true, false].map(|client_sends| {
        let t = tunnel_with(via, "user_timeout = \"1s\"\n");
        let (mut sender, receiver) = if client_sends { (t.client, t.server) } else { (t.server, t.client) };
        let sent = fill(&mut sender, Pattern(8));
        (sender, receiver, sent, t.sluice)
    });
    // The pauses between the probes grow: this is several of them.
    std::thread::sleep(Duration::from_secs(5));
    for (mut sender, mut receiver, sent, _sluice) in tunnels {
        let reader = std::thread::spawn(move || {
            let mut seen = vec![0; sent];
            receiver.read_exact(&mut seen).unwrap();
            Pattern(8).check(0, &seen);
        });
        // TLS may still hold what it has taken.
        sender.flush().unwrap();
        reader.join().unwrap();
    }
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
