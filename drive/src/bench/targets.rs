//! What is measured: a direct connection, and proxies in front of the echo backend.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use sluice_tests::certificate::Certificate;

use super::control::Door;
use super::paths::{Paths, debian_program};
use super::process::{POLL_EVERY, Proxy};

/// The order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Target {
    /// The load generator talks to the echo backend.
    Direct,
    /// Sluice, relaying in the kernel.
    SluiceSockmap,
    /// Sluice, with TLS in the kernel.
    SluiceKtls,
    /// Sluice, relaying in userspace.
    SluiceCopy,
    /// NGINX in HTTP mode.
    Nginx,
    /// HAProxy in HTTP mode.
    Haproxy,
}

/// How long a proxy may take until it accepts connections.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a pair may take from its 101 to its engine.
const ENGINE_PATIENCE: Duration = Duration::from_secs(5);
/// HAProxy computes its file descriptors from this and refuses to start when they are more than it may have.
const MAX_PAIRS: u64 = 9_500;

impl Target {
    /// All that relay without TLS.
    pub(super) const PLAIN: [Self; 5] =
        [Self::Direct, Self::SluiceSockmap, Self::SluiceCopy, Self::Nginx, Self::Haproxy];

    /// All that relay with TLS, but for Sluice's `ktls`, which not every kernel has.
    pub(super) const TLS: [Self; 4] = [Self::Direct, Self::SluiceCopy, Self::Nginx, Self::Haproxy];

    /// Those of [`Target::PLAIN`] that were asked for, without a wish all, in the order of the tables. The direct
    /// connection, which the others are compared with, is always among them.
    pub(super) fn plain(asked: &[Self]) -> Result<Vec<Self>> {
        ensure!(!asked.contains(&Self::SluiceKtls), "ktls carries TLS alone: leave sluice-ktls out");
        Ok(Self::of(&Self::PLAIN, asked))
    }

    /// As [`Target::plain`], of those that relay with TLS. The direct connection has none.
    pub(super) fn tls(asked: &[Self]) -> Result<Vec<Self>> {
        ensure!(!asked.contains(&Self::SluiceSockmap), "sockmap does not carry TLS: leave sluice-sockmap out");
        Ok(Self::of(&Self::TLS, asked))
    }

    fn of(all: &[Self], asked: &[Self]) -> Vec<Self> {
        let mut targets = if asked.is_empty() { all } else { asked }.to_vec();
        targets.push(Self::Direct);
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    /// Its name in the tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::SluiceSockmap => "Sluice sockmap",
            Self::SluiceKtls => "Sluice ktls",
            Self::SluiceCopy => "Sluice copy",
            Self::Nginx => "NGINX",
            Self::Haproxy => "HAProxy",
        }
    }

    /// The engine that Sluice is told to use, and that must carry all connections.
    const fn engine(self) -> Option<&'static str> {
        match self {
            Self::SluiceSockmap => Some("sockmap"),
            Self::SluiceKtls => Some("ktls"),
            Self::SluiceCopy => Some("copy"),
            Self::Direct | Self::Nginx | Self::Haproxy => None,
        }
    }
}

/// A target that accepts connections.
pub(super) struct Running {
    /// Where clients connect, and what they speak there.
    pub(super) door: Door,
    engine: Option<(SocketAddr, &'static str)>,
    proxy: Option<Proxy>,
}

/// Starts a target in front of `backend` and waits until it accepts. What is asked for [`super::control::FLOOD_PATH`]
/// goes to `flood`, if there is one. With a certificate, a proxy's clients speak TLS.
pub(super) fn start(
    target: Target,
    paths: &Paths,
    backend: SocketAddr,
    flood: Option<SocketAddr>,
    tls: Option<&Certificate>,
) -> Result<Running> {
    let listen = free_port()?;
    let front = Front { listen, backend, flood: flood.unwrap_or(backend), tls };
    let admin = free_port()?;
    let file = |name: &str| paths.work.join(name);
    let (command, log) = match target {
        Target::Direct => {
            let door = Door { to: backend, certificate: None };
            return Ok(Running { door, engine: None, proxy: None });
        }
        Target::Nginx => {
            let config = file("nginx.conf");
            fs::create_dir_all(file("nginx-temp"))?;
            front.write_config(&config, include_str!("conf/nginx.conf"), &[])?;
            let program = debian_program("nginx", "nginx-light")?;
            (
                command(&program, &["-p", &text(&paths.work), "-e", "nginx-error.log", "-c", &text(&config)]),
                "nginx.log".to_owned(),
            )
        }
        Target::Haproxy => {
            let config = file("haproxy.cfg");
            front.write_config(&config, include_str!("conf/haproxy.cfg"), &[])?;
            let program = debian_program("haproxy", "haproxy")?;
            (command(&program, &["-db", "-f", &text(&config)]), "haproxy.log".to_owned())
        }
        Target::SluiceSockmap | Target::SluiceKtls | Target::SluiceCopy => {
            ensure!(paths.sluice.is_file(), "there is no {}", paths.sluice.display());
            let engine = target.engine().unwrap_or_default();
            let config = file(&format!("sluice-{engine}.toml"));
            // One of the two settings carries nothing: `copy` then, so that it also costs nothing.
            let (plain, secured) = if engine == "ktls" { ("copy", engine) } else { (engine, "copy") };
            let more =
                [("@ADMIN@", admin.to_string()), ("@ENGINE@", plain.to_owned()), ("@TLS_ENGINE@", secured.to_owned())];
            front.write_config(&config, include_str!("conf/sluice.toml"), &more)?;
            (command(&paths.sluice, &["run", "--config", &text(&config)]), format!("sluice-{engine}.log"))
        }
    };
    let log = file(&log);
    let mut proxy = Proxy::start(paths, &command, &log)?;
    wait_until_it_accepts(&mut proxy, listen).with_context(|| {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let error = said.lines().find(|line| line.to_ascii_lowercase().contains("error"));
        let line = error.or_else(|| said.lines().last()).unwrap_or("nothing");
        format!("it did not start; its log {} says: {line}", log.display())
    })?;
    let engine = target.engine().map(|engine| (admin, engine));
    let door = Door { to: listen, certificate: tls.map(|files| files.certificate.clone()) };
    let running = Running { door, engine, proxy: Some(proxy) };
    // Sluice's listener is open before its gate runs; the gate answers for /metrics.
    running.check_engine(0)?;
    Ok(running)
}

impl Running {
    /// The proxy's processes as they are now: NGINX accepts before all of its workers run. None for a direct connection.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        self.proxy.as_ref().map_or(Ok(Vec::new()), Proxy::pids)
    }

    /// For Sluice: how many pairs the wanted engine carries now.
    pub(super) fn carried(&self) -> Result<Option<f64>> {
        self.engine.map(|(admin, engine)| carried_by(admin, engine)).transpose()
    }

    /// For Sluice: waits until its own count says that the wanted engine carries this many pairs.
    pub(super) fn check_engine(&self, pairs: usize) -> Result<()> {
        let Some((admin, engine)) = self.engine else { return Ok(()) };
        let end = Instant::now() + ENGINE_PATIENCE;
        loop {
            let carried = carried_by(admin, engine);
            match carried {
                Ok(carried) if carried >= pairs as f64 => return Ok(()),
                Ok(carried) if Instant::now() > end => {
                    bail!("the {engine} engine carries {carried} of {pairs} pairs, says /metrics")
                }
                Err(error) if Instant::now() > end => return Err(error),
                Ok(_) | Err(_) => thread::sleep(POLL_EVERY),
            }
        }
    }
}

/// `sluice_connections{engine="…"}` of /metrics.
fn carried_by(admin: SocketAddr, engine: &str) -> Result<f64> {
    let mut stream = TcpStream::connect(admin).with_context(|| format!("cannot reach the admin listener {admin}"))?;
    stream.set_read_timeout(Some(ENGINE_PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics)?;
    let gauges = metrics.lines().filter(|line| line.starts_with("sluice_connections{"));
    let wanted = format!("engine=\"{engine}\"");
    let values = gauges.filter(|line| line.contains(&wanted)).filter_map(|line| line.rsplit(' ').next());
    Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum())
}

/// What a proxy stands between.
struct Front<'run> {
    listen: SocketAddr,
    backend: SocketAddr,
    flood: SocketAddr,
    tls: Option<&'run Certificate>,
}

impl Front<'_> {
    fn write_config(&self, path: &Path, template: &str, more: &[(&str, String)]) -> Result<()> {
        let (kept, left_out) = if self.tls.is_some() { ("@TLS@", "@PLAIN@") } else { ("@PLAIN@", "@TLS@") };
        let lines = template.lines().filter(|line| !line.trim_start().starts_with(left_out));
        let template: String = lines.flat_map(|line| [line, "\n"]).collect();
        let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(1 << 20);
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let file = |name: fn(&Certificate) -> &Path| self.tls.map(|files| text(name(files))).unwrap_or_default();
        let common = [
            (kept, String::new()),
            ("@LISTEN@", self.listen.to_string()),
            ("@BACKEND@", self.backend.to_string()),
            ("@FLOOD@", self.flood.to_string()),
            ("@CERTIFICATE@", file(|files| &files.certificate)),
            ("@KEY@", file(|files| &files.key)),
            ("@OPEN_FILES@", open_files.to_string()),
            ("@PAIRS@", MAX_PAIRS.min(open_files / 2).to_string()),
            ("@CPUS@", cpus.to_string()),
        ];
        let config = common.iter().chain(more).fold(template, |text, (name, value)| text.replace(name, value));
        fs::write(path, config).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn command(program: &Path, args: &[&str]) -> Vec<String> {
    [text(program)].into_iter().chain(args.iter().map(|arg| (*arg).to_owned())).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A port that nobody listens on now. The proxies cannot say which port they got for port 0.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

fn wait_until_it_accepts(proxy: &mut Proxy, address: SocketAddr) -> Result<()> {
    let end = Instant::now() + START_PATIENCE;
    loop {
        proxy.still_runs()?;
        match TcpStream::connect(address) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => {
                return Err(error).context(format!("it does not accept on {address} within {START_PATIENCE:?}"));
            }
            Err(_) => thread::sleep(POLL_EVERY),
        }
    }
}
