//! A DNS server that no one here wrote, whose zone a test changes while it runs.

use std::net::SocketAddr;

use crate::needs;
use crate::process::Program;
use crate::sluice::Folder;
use crate::wait::eventually;

/// PyPI's dnslib, as `tests/clients/dns_server.py` serves it, on loopback.
pub struct Dns {
    /// Where it listens, on UDP and TCP.
    pub address: SocketAddr,
    folder: Folder,
    program: Option<Program>,
    /// Keeps the port while the server is stopped.
    _port: socket2::Socket,
}

/// A question that it was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// `udp` or `tcp`.
    pub over: String,
    /// `A`, say.
    pub kind: String,
    /// In lower case, with a dot at its end.
    pub name: String,
    /// In seconds, since some moment.
    pub at: f64,
}

impl Dns {
    /// Starts it with this zone, which is in the format of RFC 1035 §5.1; the script says what else may stand in it.
    ///
    /// # Errors
    /// This machine cannot run it, and why.
    ///
    /// # Panics
    /// It does not start.
    #[expect(clippy::expect_used, reason = "a test fails by panicking")]
    pub fn start(zone: &str) -> Result<Self, String> {
        needs::tool("venv/bin/python")?;
        let folder = Folder::make().expect("a folder can be made");
        let (port, address) = taken().expect("a port is free");
        let mut dns = Self { address, folder, program: None, _port: port };
        dns.set(zone);
        dns.resume();
        Ok(dns)
    }

    /// Has this zone from the next question on.
    ///
    /// # Panics
    /// The file cannot be written.
    #[expect(clippy::expect_used, reason = "a test fails by panicking")]
    pub fn set(&self, zone: &str) {
        let [new, file] = ["new", "zone"].map(|name| self.folder.path().join(name));
        std::fs::write(&new, zone).expect("a zone can be written");
        // The server never sees a half of it.
        std::fs::rename(new, file).expect("a zone can be renamed");
    }

    /// Kills it. What it has been asked is forgotten.
    pub fn stop(&mut self) {
        self.program = None;
    }

    /// Starts it again, where it was before.
    ///
    /// # Panics
    /// It does not start.
    #[expect(clippy::expect_used, reason = "a test fails by panicking")]
    pub fn resume(&mut self) {
        let python = needs::tool("venv/bin/python").expect("it was there before");
        let command = [
            python.display().to_string(),
            format!("{}/clients/dns_server.py", env!("CARGO_MANIFEST_DIR")),
            self.folder.path().join("zone").display().to_string(),
            self.address.port().to_string(),
        ];
        let mut program = Program::start(&command).expect("Python can be started");
        eventually("the DNS server prints its port", || {
            assert!(program.ended().is_none(), "the DNS server ended:\n{}", program.log());
            program.log().lines().next().map(drop)
        });
        self.program = Some(program);
    }

    /// All that it has been asked since it was started.
    #[must_use]
    pub fn asked(&self) -> Vec<Question> {
        let log = self.program.as_ref().map(Program::log).unwrap_or_default();
        log.lines().filter_map(question).collect()
    }

    /// How often it has been asked for records of this type.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.asked().iter().filter(|question| question.kind == kind).count()
    }

    /// Waits until it has been asked for them so many times more.
    pub fn asked_again(&self, kind: &str, times: usize) {
        let enough = self.count(kind) + times;
        let what = format!("the DNS server is asked for {kind} {times} times more");
        eventually(&what, || (self.count(kind) >= enough).then_some(()));
    }

    /// The tables and settings that make Sluice ask it, and often.
    #[must_use]
    pub fn settings(&self) -> String {
        let address = self.address;
        format!("[dns]\nservers = [\"{address}\"]\nmin_ttl = \"100ms\"\nmax_ttl = \"300ms\"\ntimeout = \"2s\"\n")
    }
}

/// A port of TCP that is nobody else's, but for a server that may share it (`SO_REUSEADDR`).
fn taken() -> std::io::Result<(socket2::Socket, SocketAddr)> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let address = socket.local_addr()?.as_socket().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, address))
}

fn question(line: &str) -> Option<Question> {
    let mut words = line.strip_prefix("asked ")?.split(' ');
    let mut word = || words.next().map(str::to_owned);
    Some(Question { over: word()?, kind: word()?, name: word()?, at: word()?.parse().ok()? })
}
