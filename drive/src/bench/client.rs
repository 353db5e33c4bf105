//! The load generator: one thread, one epoll, at most one echo outstanding on each connection.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::ClientConfig;
use sluice_tests::stream::Stream;

use super::client_tls;
use super::control::{Answer, Door, FLOOD_PATH, Order, Sample, Window, answer};
use super::frame::{self, MASK};
use super::pace::{Pace, Tally};
use super::poller::{self, Poller};
use super::procfs::{self, CpuTime};
use super::{process, stats, visitors};

const SCRATCH: usize = 64 * 1024;
/// Every so many echoes of a connection, the whole payload is compared, else its length, header and stamp.
const COMPARE_EVERY: u32 = 64;
/// How long a handshake, or the last echoes after a measurement, may take before the target counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// The example of RFC 6455 §1.3 and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Payload of the echo that every new connection carries.
const FIRST_PAYLOAD: usize = 128;
const STAMP: usize = 8;
/// The most that the answer to an upgrade request may take: proxies add little to some 200 bytes.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// A message as it is sent and as it must come back. Its first payload bytes are a stamp of connection and number.
struct Message {
    sent: Vec<u8>,
    sent_header: usize,
    back: Vec<u8>,
    back_header: usize,
}

impl Message {
    fn new(payload: usize) -> Result<Self> {
        ensure!(payload >= STAMP, "a message needs {STAMP} bytes of payload for its stamp");
        let clear: Vec<u8> = (0..payload).map(|index| (index * 31 + 7) as u8).collect();
        let (mut sent, mut back) = (Vec::new(), Vec::new());
        frame::append(&mut sent, frame::BINARY, &clear, Some(MASK));
        frame::append(&mut back, frame::BINARY, &clear, None);
        Ok(Self { sent_header: sent.len() - payload, back_header: back.len() - payload, sent, back })
    }

    fn stamp(&mut self, connection: usize, number: u32) {
        let mut stamp = stamp(connection, number);
        frame::apply_mask(&mut stamp, MASK);
        self.sent[self.sent_header..self.sent_header + STAMP].copy_from_slice(&stamp);
    }

    /// Whether `part` is what must come at `offset` of the echo.
    fn matches(&mut self, connection: usize, number: u32, offset: usize, part: &[u8]) -> bool {
        let checked = self.back_header + STAMP;
        self.back[self.back_header..checked].copy_from_slice(&stamp(connection, number));
        let Some(expected) = self.back.get(offset..offset + part.len()) else { return false };
        let limit = if number.is_multiple_of(COMPARE_EVERY) { part.len() } else { checked.saturating_sub(offset) };
        let limit = limit.min(part.len());
        expected[..limit] == part[..limit]
    }
}

fn stamp(connection: usize, number: u32) -> [u8; STAMP] {
    ((connection as u64) << 32 | u64::from(number)).to_be_bytes()
}

struct Connection {
    stream: Stream,
    number: u32,
    sent_at: Instant,
    received: usize,
    outstanding: bool,
    /// When messages were due that were not sent, because an echo was outstanding.
    missed: Vec<Instant>,
    /// What the stream did not take.
    unsent: Vec<u8>,
    /// The socket is full: there is something unsent, or something of it is in the TLS session.
    full: bool,
}

impl Connection {
    /// Counts its echo, which has just come back.
    fn count(&mut self, tally: &mut Tally) {
        tally.count(self.sent_at, &mut self.missed, Instant::now());
    }
}

struct Load {
    poller: Poller,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    outstanding: usize,
    /// What nobody reads.
    flooded: Vec<Stream>,
}

/// Obeys orders until its standard input ends.
pub(super) fn run() -> Result<()> {
    process::prepare_helper()?;
    let mut load = Load {
        poller: Poller::new()?,
        connections: Vec::new(),
        scratch: vec![0; SCRATCH],
        outstanding: 0,
        flooded: Vec::new(),
    };
    for line in io::stdin().lock().lines() {
        let done = match serde_json::from_str(&line?)? {
            Order::Connect { door, connections } => load.connect(&door, connections).map(|()| Answer::Connected),
            Order::Measure(window) => load.measure(&window).map(Answer::Measured),
            Order::Flood { door, connections } => load.flood(&door, connections).map(|()| Answer::Connected),
            Order::Visit(visits) => visitors::measure(&visits).map(Answer::Visited),
            Order::Count => bail!("the load generator does not count connections"),
        };
        match done {
            Ok(done) => answer(&done)?,
            Err(error) => return answer(&Answer::Failed(format!("{error:#}"))),
        }
    }
    Ok(())
}

impl Load {
    fn connect(&mut self, door: &Door, count: usize) -> Result<()> {
        let tls = tls(door)?;
        let old = self.connections.len();
        for token in old..old + count {
            let stream =
                upgrade(door, "/", tls.clone()).with_context(|| format!("connection {token} to {}", door.to))?;
            self.poller.watch(stream.tcp(), token)?;
            self.connections.push(Connection {
                stream,
                number: 0,
                sent_at: Instant::now(),
                received: 0,
                outstanding: false,
                missed: Vec::new(),
                unsent: Vec::new(),
                full: false,
            });
        }
        let mut message = Message::new(FIRST_PAYLOAD)?;
        for token in old..old + count {
            self.send(token, &mut message)?;
        }
        self.drain(&mut message, &mut Tally::new(None, Instant::now()))
    }

    fn flood(&mut self, door: &Door, count: usize) -> Result<()> {
        let tls = tls(door)?;
        for number in 0..count {
            let stream = upgrade(door, FLOOD_PATH, tls.clone());
            self.flooded.push(stream.with_context(|| format!("connection {number} to be flooded"))?);
        }
        Ok(())
    }

    fn measure(&mut self, window: &Window) -> Result<Sample> {
        let mut message = Message::new(window.payload)?;
        if window.every.is_none() {
            for token in 0..self.connections.len() {
                self.send(token, &mut message)?;
            }
        }
        self.echo(&mut message, &mut Tally::new(window.every, Instant::now() + window.warm_up))?;

        let (_, switches) = procfs::threads(&window.proxy);
        let proxy_us = procfs::scheduled_us(&window.proxy);
        let before = CpuTime::now()?;
        let start = Instant::now();
        let mut tally = Tally::new(window.every, start + window.measured);
        self.echo(&mut message, &mut tally)?;
        let spent = CpuTime::now()?.since(&before);
        let proxy_us = procfs::scheduled_us(&window.proxy) - proxy_us;
        let (threads, switches_now) = procfs::threads(&window.proxy);
        let mut late = Tally::new(window.every, tally.end);
        self.drain(&mut message, &mut late)?;

        let mut latencies = tally.nanoseconds;
        if window.every.is_some() {
            // Messages that were due count even if their echo came later: else a target that stops would look fast.
            latencies.append(&mut late.nanoseconds);
        }
        ensure!(!latencies.is_empty(), "no echo came back within {:?}", window.measured);
        latencies.sort_unstable();
        Ok(Sample {
            round_trips: latencies.len() as u64,
            seconds: spent.elapsed.as_secs_f64(),
            p50_us: stats::percentile(&latencies, 0.50) / 1e3,
            p99_us: stats::percentile(&latencies, 0.99) / 1e3,
            busy_us: spent.busy_us,
            busy_ticks_us: spent.busy_ticks_us,
            proxy_us,
            switches: switches_now.saturating_sub(switches),
            threads,
        })
    }

    /// Sends and receives until the tally's end: at the pace of its interval, or the next message for each echo.
    fn echo(&mut self, message: &mut Message, tally: &mut Tally) -> Result<()> {
        let mut pace = tally.every.map(|every| Pace::new(Instant::now(), every, self.connections.len()));
        let mut tokens = Vec::new();
        loop {
            let now = Instant::now();
            if now >= tally.end {
                return Ok(());
            }
            let mut wake = tally.end;
            if let Some(pace) = &mut pace {
                self.send_due(pace, now, message)?;
                wake = wake.min(pace.next());
            }
            self.poller.ready(Some(wake.saturating_duration_since(Instant::now())), &mut tokens)?;
            for &token in &tokens {
                if self.turn(token, message)? {
                    self.connections[token].count(tally);
                    if pace.is_none() {
                        self.send(token, message)?;
                    }
                }
            }
        }
    }

    /// Sends what is due, except where the echo before it is not back.
    fn send_due(&mut self, pace: &mut Pace, now: Instant, message: &mut Message) -> Result<()> {
        while let Some((token, since)) = pace.due(now) {
            if self.connections[token].outstanding {
                self.connections[token].missed.push(since);
            } else {
                self.send(token, message)?;
            }
        }
        Ok(())
    }

    /// Waits until no echo is outstanding.
    fn drain(&mut self, message: &mut Message, tally: &mut Tally) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut tokens = Vec::new();
        while self.outstanding > 0 {
            let now = Instant::now();
            ensure!(now < end, "{} echoes have not come back within {PATIENCE:?}", self.outstanding);
            self.poller.ready(Some(end - now), &mut tokens)?;
            for &token in &tokens {
                if self.turn(token, message)? {
                    self.connections[token].count(tally);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, token: usize, message: &mut Message) -> Result<()> {
        let connection = &mut self.connections[token];
        connection.number = connection.number.wrapping_add(1);
        connection.received = 0;
        connection.outstanding = true;
        connection.sent_at = Instant::now();
        self.outstanding += 1;
        message.stamp(token, connection.number);
        let written = poller::write(&mut connection.stream, &message.sent)?;
        if written < message.sent.len() || !poller::flush(&mut connection.stream)? {
            connection.unsent.extend_from_slice(&message.sent[written..]);
            connection.full = true;
            self.poller.wait_for_room(connection.stream.tcp(), token, true)?;
        }
        Ok(())
    }

    /// One read or one write of a connection that is ready; `true` when its echo is complete.
    fn turn(&mut self, token: usize, message: &mut Message) -> Result<bool> {
        let connection = &mut self.connections[token];
        if connection.full {
            if !connection.unsent.is_empty() {
                let written = poller::write(&mut connection.stream, &connection.unsent)?;
                connection.unsent.drain(..written);
            }
            if connection.unsent.is_empty() && poller::flush(&mut connection.stream)? {
                connection.full = false;
                self.poller.wait_for_room(connection.stream.tcp(), token, false)?;
            }
            return Ok(false);
        }
        let Some(count) = poller::read(&mut connection.stream, &mut self.scratch)? else { return Ok(false) };
        ensure!(count > 0, "connection {token} was closed after {} messages", connection.number);
        let part = &self.scratch[..count];
        ensure!(
            connection.outstanding && message.matches(token, connection.number, connection.received, part),
            "connection {token}: message {} came back changed within {count} bytes at {}",
            connection.number,
            connection.received
        );
        connection.received += count;
        if connection.received < message.back.len() {
            return Ok(false);
        }
        connection.outstanding = false;
        self.outstanding -= 1;
        Ok(true)
    }
}

/// What a client of this door needs to speak TLS, if it does.
fn tls(door: &Door) -> Result<Option<Arc<ClientConfig>>> {
    door.certificate.as_deref().map(|file| client_tls::config(file, false)).transpose()
}

/// One connection, upgraded by RFC 6455 §4.1, then non-blocking. What comes with the 101 of a flooded one is dropped.
fn upgrade(door: &Door, path: &str, tls: Option<Arc<ClientConfig>>) -> Result<Stream> {
    const END: &[u8] = b"\r\n\r\n";
    let mut stream = Stream::connect(door.to, tls).context("cannot connect")?;
    stream.write_all(&upgrade_request(door, path))?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(END.len()).any(|window| window == END) {
        ensure!(head.len() < MAX_HEAD, "the answer to the upgrade request does not end");
        let count = stream.read(&mut buffer).context("no answer to the upgrade request")?;
        ensure!(count > 0, "closed in the middle of the upgrade");
        head.extend_from_slice(&buffer[..count]);
    }
    check_upgraded(&head)?;
    ensure!(path == FLOOD_PATH || head.ends_with(END), "more than an answer came to the upgrade request");
    stream.tcp().set_nonblocking(true)?;
    Ok(stream)
}

/// The request of RFC 6455 §4.1.
pub(super) fn upgrade_request(door: &Door, path: &str) -> Vec<u8> {
    let to = door.to;
    let scheme = if door.certificate.is_some() { "https" } else { "http" };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\nOrigin: {scheme}://{to}\r\n\r\n"
    )
    .into_bytes()
}

/// Fails unless this is the answer that agrees to [`upgrade_request`].
pub(super) fn check_upgraded(head: &[u8]) -> Result<()> {
    let head = String::from_utf8_lossy(head);
    ensure!(
        head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT),
        "the upgrade was refused: {}",
        head.lines().next().unwrap_or_default()
    );
    Ok(())
}
