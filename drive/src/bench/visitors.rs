//! The load generator for handshakes: visitors that connect, do the TLS handshake and the upgrade, and leave.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use super::client::{MAX_HEAD, check_upgraded, upgrade_request};
use super::client_tls;
use super::control::{Door, Handshakes, Visits};
use super::poller::{self, Poller};
use super::procfs::{self, CpuTime};
use super::stats;

/// How long nobody may get any further before the target counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// One visitor under way.
struct Visitor {
    stream: StreamOwned<ClientConnection, TcpStream>,
    head: Vec<u8>,
    began: Instant,
}

struct Crowd<'run> {
    door: &'run Door,
    poller: Poller,
    /// One for each visitor at a time, so that each resumes the session of the one before it in its place.
    configs: Vec<Arc<ClientConfig>>,
    visitors: Vec<Visitor>,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    /// In nanoseconds, from connect to 101.
    times: Vec<u32>,
    resumed: u64,
}

/// Runs visitors for as long as is asked for.
pub(super) fn measure(visits: &Visits) -> Result<Handshakes> {
    let certificate = visits.door.certificate.as_deref().context("handshakes are measured with TLS alone")?;
    let configs = (0..visits.at_once).map(|_| client_tls::config(certificate, visits.resume));
    let mut crowd = Crowd {
        door: &visits.door,
        poller: Poller::new()?,
        configs: configs.collect::<Result<_>>()?,
        visitors: Vec::new(),
        tally: Tally::default(),
    };
    for token in 0..visits.at_once {
        let visitor = crowd.arrive(token)?;
        crowd.visitors.push(visitor);
    }
    crowd.run_until(Instant::now() + visits.warm_up)?;

    crowd.tally = Tally::default();
    let myself = [std::process::id()];
    let (proxy, own) = (procfs::cpu_us(&visits.proxy), procfs::cpu_us(&myself));
    let before = CpuTime::now()?;
    crowd.run_until(Instant::now() + visits.measured)?;
    let spent = CpuTime::now()?.since(&before);
    let (proxy_us, generator_us) = (procfs::cpu_us(&visits.proxy) - proxy, procfs::cpu_us(&myself) - own);

    let Tally { mut times, resumed } = crowd.tally;
    ensure!(!times.is_empty(), "nobody got a 101 within {:?}", visits.measured);
    times.sort_unstable();
    Ok(Handshakes {
        count: times.len() as u64,
        resumed,
        seconds: spent.elapsed.as_secs_f64(),
        p50_us: stats::percentile(&times, 0.50) / 1e3,
        p99_us: stats::percentile(&times, 0.99) / 1e3,
        proxy_us,
        generator_us,
        busy_us: spent.busy_us,
    })
}

impl Crowd<'_> {
    /// Lets a new visitor connect; its request waits in its TLS session for the handshake.
    fn arrive(&self, token: usize) -> Result<Visitor> {
        let began = Instant::now();
        let config = self.configs.get(token).context("more visitors than settings")?;
        let mut tls = ClientConnection::new(config.clone(), ServerName::try_from("localhost")?)?;
        tls.writer().write_all(&upgrade_request(self.door, "/"))?;
        let socket = TcpStream::connect(self.door.to).with_context(|| format!("cannot connect to {}", self.door.to))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        self.poller.watch(&socket, token)?;
        let mut stream = StreamOwned::new(tls, socket);
        // A first flight of some 250 bytes, or 500 with a ticket, fits an empty socket.
        stream.conn.write_tls(&mut stream.sock)?;
        Ok(Visitor { stream, head: Vec::new(), began })
    }

    /// Answers every 101 with a new visitor.
    fn run_until(&mut self, end: Instant) -> Result<()> {
        let mut tokens = Vec::new();
        let mut moved = Instant::now();
        while Instant::now() < end {
            self.poller.ready(Some(end.saturating_duration_since(Instant::now())), &mut tokens)?;
            ensure!(moved.elapsed() < PATIENCE, "nobody got any further for {PATIENCE:?}");
            for &token in &tokens {
                moved = Instant::now();
                let Some(visitor) = self.visitors.get_mut(token) else { bail!("an event for nobody") };
                if visitor.turn()? {
                    visitor.leave(&mut self.tally)?;
                    // What is still reported of the old socket finds the new one with nothing to read.
                    let next = self.arrive(token)?;
                    if let Some(place) = self.visitors.get_mut(token) {
                        *place = next;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Visitor {
    /// Takes what has come, and sends what is due; `true` when the 101 is complete.
    fn turn(&mut self) -> Result<bool> {
        let mut part = [0; 1024];
        while let Some(count) = poller::read(&mut self.stream, &mut part)? {
            ensure!(count > 0, "a visitor was turned away after {} bytes of its answer", self.head.len());
            self.head.extend_from_slice(part.get(..count).unwrap_or_default());
            if self.head.ends_with(b"\r\n\r\n") {
                return Ok(true);
            }
            ensure!(self.head.len() < MAX_HEAD, "the answer to the upgrade request does not end");
        }
        Ok(false)
    }

    fn leave(&mut self, tally: &mut Tally) -> Result<()> {
        let nanoseconds = self.began.elapsed().as_nanos();
        check_upgraded(&self.head)?;
        tally.times.push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
        tally.resumed += u64::from(self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed));
        self.stream.conn.send_close_notify();
        poller::flush(&mut self.stream)?;
        Ok(())
    }
}
