//! `cargo xtask run`: the whole main job, on whatever machine this is.

mod report;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustls::ClientConfig;
use serde_json::Value;
use sluice_tests::certificate::Certificate;
use sluice_tests::client::{CONVERSATION, Client};
use sluice_tests::counters::Tally;
use sluice_tests::http;
use sluice_tests::process::{Program, free_addresses};
use sluice_tests::sluice::Metrics;
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;

use crate::this_program;

/// Where the demonstration listens if nobody else does: ws://, wss:// and admin.
const PORTS: [u16; 3] = [8080, 8443, 9900];

/// How long the counters may lag behind the bytes.
const LAG: Duration = Duration::from_secs(10);

/// Everything that is up.
struct Demo {
    ws: SocketAddr,
    wss: SocketAddr,
    admin: SocketAddr,
    tls: Arc<ClientConfig>,
    folder: PathBuf,
    sluice: Program,
    _echo: Program,
}

/// One WebSocket's journey.
struct Journey {
    /// `ws://…` or `wss://…`.
    url: String,
    client: Client,
    /// What `/connections` shows of it.
    row: Value,
    /// What its client sent and received.
    sent: [Tally; 2],
}

/// Starts everything, drives frames through it and checks the counters; then stays up, unless `once`.
pub(crate) fn run(once: bool) -> anyhow::Result<ExitCode> {
    let (this, target) = this_program()?;
    let mut demo = Demo::start(&this.with_file_name("sluice"), target.join("demo"))?;
    println!("{}\n", first_line(&demo.sluice.log()));
    let journeys = [demo.travel("ws", demo.ws, None)?, demo.travel("wss", demo.wss, Some(Arc::clone(&demo.tls)))?];
    let mut wrong = Vec::new();
    for journey in &journeys {
        report::journey(journey);
        wrong.extend(journey.contradictions());
    }
    wrong.extend(demo.metrics()?.map_or_else(|| vec!["GET /metrics fails".into()], |page| compare(&page, &journeys)));
    if !wrong.is_empty() {
        wrong.iter().for_each(|line| println!("WRONG: {line}"));
        return Ok(ExitCode::FAILURE);
    }
    println!("Every echo came back byte for byte, and every counter equals what the clients sent and received.");
    if !once {
        drop(journeys);
        demo.stay_up()?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Demo {
    fn start(program: &Path, folder: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let certificate = Certificate::make(&folder)?;
        let program = program.display().to_string();
        let mut echo = Program::start(&[program.clone(), "echo".into(), "--listen".into(), "127.0.0.1:0".into()])?;
        let backend = eventually("the echo server prints its address", || match echo.ended() {
            Some(status) => Some(Err(anyhow::anyhow!("`sluice echo` ended with {status}:\n{}", echo.log()))),
            None => echo.log().lines().find_map(|line| line.strip_prefix("echo server on ")?.parse().ok()).map(Ok),
        })?;
        let addresses @ [ws, wss, admin] = addresses()?;
        let config = folder.join("sluice.toml");
        std::fs::write(&config, configuration(addresses, backend))?;
        let mut sluice = Program::start(&[program, "run".into(), "--config".into(), config.display().to_string()])?;
        eventually("sluice serves", || match sluice.ended() {
            Some(status) => Some(Err(anyhow::anyhow!("`sluice run` ended with {status}:\n{}", sluice.log()))),
            None => http::get(admin, "/metrics").is_ok_and(|answer| answer.head.status() == 200).then_some(Ok(())),
        })?;
        Ok(Self { ws, wss, admin, tls: certificate.client()?, folder, sluice, _echo: echo })
    }

    /// Opens a WebSocket, speaks, closes it with 1000, and waits for its counters.
    fn travel(&self, scheme: &str, at: SocketAddr, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<Journey> {
        let url = format!("{scheme}://{at}/");
        let mut client = Client::open(Stream::connect(at, tls)?, at).with_context(|| url.clone())?;
        client.converse().with_context(|| url.clone())?;
        // The client's end stays open, so that the pair is still listed when its Close frames have been counted.
        client.send_close(1000).with_context(|| url.clone())?;
        let address = client.address()?.to_string();
        let sent = client.tallies()?;
        let start = Instant::now();
        loop {
            let row = self.connections()?.into_iter().find(|row| row["client"] == address.as_str());
            let row = row.with_context(|| format!("{url}: the live pair of {address} is not in /connections"))?;
            let journey = Journey { url: url.clone(), client, row, sent: sent.clone() };
            if journey.contradictions().is_empty() || start.elapsed() > LAG {
                return Ok(journey);
            }
            client = journey.client;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connections(&self) -> anyhow::Result<Vec<Value>> {
        let answer = http::get(self.admin, "/connections")?;
        serde_json::from_str(&answer.body).with_context(|| format!("/connections answered {}", answer.head.line))
    }

    fn metrics(&self) -> anyhow::Result<Option<Metrics>> {
        let answer = http::get(self.admin, "/metrics")?;
        Ok((answer.head.status() == 200).then_some(Metrics(answer.body)))
    }

    /// Prints the addresses and waits until the process is interrupted, which ends the children too.
    fn stay_up(&mut self) -> anyhow::Result<()> {
        println!("\nUp until Ctrl-C:");
        println!("  ws://{}/   wss://{}/ (certificate: {})", self.ws, self.wss, self.folder.join("cert.pem").display());
        println!("  http://{}/connections   http://{}/metrics", self.admin, self.admin);
        loop {
            if let Some(status) = self.sluice.ended() {
                bail!("sluice ended with {status}:\n{}", self.sluice.log());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Journey {
    /// What the proxy has counted, by direction: client to backend, backend to client.
    fn counted(&self) -> [Tally; 2] {
        ["client_to_backend", "backend_to_client"].map(|direction| Tally::shown(&self.row[direction]))
    }

    /// What of the proxy's counters is not what the client saw.
    fn contradictions(&self) -> Vec<String> {
        let directions = ["client to backend", "backend to client"];
        let pairs = directions.into_iter().zip(self.counted()).zip(&self.sent);
        pairs
            .filter(|((_, counted), sent)| counted != *sent)
            .map(|((direction, counted), sent)| {
                format!("{} {direction}: counted {counted:?}, but on the wire were {sent:?}", self.url)
            })
            .collect()
    }
}

/// What of the metrics page is not the sum of the journeys.
fn compare(page: &Metrics, journeys: &[Journey]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, direction) in ["client_to_backend", "backend_to_client"].into_iter().enumerate() {
        let tallies = || journeys.iter().filter_map(|journey| journey.sent.get(index));
        let mut expect = |name: &str, labels: &[(&str, &str)], expected: u64| {
            let seen = page.sum(name, labels);
            if seen != expected {
                wrong.push(format!("/metrics: {name}{labels:?} is {seen}, but on the wire were {expected}"));
            }
        };
        let bytes = tallies().map(|tally| tally.bytes).sum();
        expect("sluice_relay_bytes_total", &[("direction", direction)], bytes);
        for opcode in ["continuation", "text", "binary", "close", "ping", "pong"] {
            let frames = tallies().filter_map(|tally| tally.frames.get(opcode)).sum();
            expect("sluice_frames_total", &[("direction", direction), ("opcode", opcode)], frames);
        }
    }
    let upgraded = page.sum("sluice_handshakes_total", &[("result", "upgraded")]);
    if upgraded != journeys.len() as u64 {
        wrong.push(format!("/metrics: {upgraded} handshakes, but {} WebSockets", journeys.len()));
    }
    wrong
}

fn configuration([ws, wss, admin]: [SocketAddr; 3], backend: SocketAddr) -> String {
    format!(
        "# Written by `cargo xtask run`.\n[admin]\nlisten = \"{admin}\"\n\n[[listener]]\nbind = \"{ws}\"\n\n\
         [[listener]]\nbind = \"{wss}\"\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}\n\n\
         [[route]]\npath = \"/\"\norigins = [\"same-origin\"]\nbackend = \"echo\"\n\n\
         [[backend]]\nname = \"echo\"\nservers = [\"{backend}\"]\n"
    )
}

/// The usual ports if all of them are free, else any.
fn addresses() -> anyhow::Result<[SocketAddr; 3]> {
    let usual = PORTS.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let free = usual.iter().all(|address| TcpListener::bind(address).is_ok());
    if free { Ok(usual) } else { free_addresses().context("no free ports") }
}

/// The proxy's own word on what it found here.
fn first_line(log: &str) -> &str {
    log.lines().find(|line| line.contains("engine")).unwrap_or_default()
}

/// What every journey consists of.
fn conversation() -> String {
    format!("{CONVERSATION}, close 1000")
}
