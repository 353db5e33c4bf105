//! Sluice itself, started as an operator starts it.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use rustls::ClientConfig;
use serde_json::Value;

use crate::Via;
use crate::backend::RawBackend;
use crate::certificate::{Certificate, Identity, of_backends, of_the_proxy};
use crate::http::{self, Head};
use crate::http2;
use crate::process::{Program, descendants, free_addresses, signal_pid, status_field};
use crate::stream::{Stream, patient};
use crate::variables;
use crate::wait::eventually;

/// How often a start is repeated because another program took a port first.
const PORT_ATTEMPTS: usize = 5;

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    servers: Vec<String>,
    ws: String,
    wss: String,
    wss_tls: String,
    backend: String,
    backend_tls: String,
    identities: Vec<(Identity, [&'static str; 2])>,
    routes: String,
    engine: &'static str,
    tls_engine: &'static str,
    relay: String,
    more: String,
    wrapper: Vec<String>,
    program: Option<PathBuf>,
    keys_for_everybody: bool,
    silent: bool,
}

impl Setup {
    /// Two listeners, ws:// and wss://, one route for everything, one backend with this server.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        let servers = vec![format!("\"{server}\"")];
        Self { servers, engine: "auto", tls_engine: "auto", ..Self::default() }
    }

    /// With the engine for this way, and TLS to the backend if it needs that.
    #[must_use]
    pub fn via(server: SocketAddr, via: Via) -> Self {
        let setup = Self { engine: via.setting(), tls_engine: via.tls_setting(), ..Self::new(server) };
        if !via.tls_backend() {
            return setup;
        }
        let setup = setup.file(of_backends(), ["backend.pem", "backend.key"]);
        let named = "ca = \"backend.pem\", server_name = \"localhost\"";
        if !via.shows_certificate() {
            return setup.backend_tls(named);
        }
        let shown = "certificate = \"proxy.pem\", key = \"proxy.key\"";
        setup.file(of_the_proxy(), ["proxy.pem", "proxy.key"]).backend_tls(&format!("{named}, {shown}"))
    }

    /// TLS to the backend, with these settings.
    #[must_use]
    pub fn backend_tls(mut self, settings: &str) -> Self {
        self.backend_tls = format!("tls = {{ {settings} }}\n");
        self
    }

    /// These two files beside the configuration.
    #[must_use]
    pub fn file(mut self, identity: &Identity, names: [&'static str; 2]) -> Self {
        self.identities.push((identity.clone(), names));
        self
    }

    /// One more server of the backend.
    #[must_use]
    pub fn server(mut self, server: SocketAddr) -> Self {
        self.servers.push(format!("\"{server}\""));
        self
    }

    /// These servers instead: addresses or names, or tables and texts as they stand in the configuration.
    #[must_use]
    pub fn servers(mut self, entries: &[impl AsRef<str>]) -> Self {
        let entry = |entry: &str| if entry.starts_with(['{', '"']) { entry.to_owned() } else { format!("{entry:?}") };
        self.servers = entries.iter().map(|text| entry(text.as_ref())).collect();
        self
    }

    /// This server alone, a Unix socket.
    #[must_use]
    pub fn unix_server(mut self, path: &Path) -> Self {
        self.servers = vec![format!("{:?}", format!("unix:{}", path.display()))];
        self
    }

    /// These settings of both listeners.
    #[must_use]
    pub fn listeners(mut self, toml: &str) -> Self {
        (self.ws, self.wss) = (toml.into(), toml.into());
        self
    }

    /// These settings of the wss:// listener's TLS.
    #[must_use]
    pub fn tls(mut self, toml: &str) -> Self {
        self.wss_tls = toml.into();
        self
    }

    /// These settings of the backend.
    #[must_use]
    pub fn backend(mut self, toml: &str) -> Self {
        self.backend = toml.into();
        self
    }

    /// These `[[route]]` tables instead of the one; the backend is called `app`.
    #[must_use]
    pub fn routes(mut self, toml: &str) -> Self {
        self.routes = toml.into();
        self
    }

    /// These lines in `[relay]`.
    #[must_use]
    pub fn relay(mut self, toml: &str) -> Self {
        self.relay = toml.into();
        self
    }

    /// These tables behind all others.
    #[must_use]
    pub fn more(mut self, toml: &str) -> Self {
        self.more = toml.into();
        self
    }

    /// Started by this command, which gets the program and its arguments behind its own.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// This program instead of the usual one.
    #[must_use]
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// With a private key that every user may read.
    #[must_use]
    pub fn keys_for_everybody(mut self) -> Self {
        self.keys_for_everybody = true;
        self
    }

    /// Its standard error leads elsewhere: that it serves is all that is known of its start.
    #[must_use]
    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    /// The configuration, beside which a certificate is written into a folder; its addresses are free now.
    ///
    /// # Errors
    /// The folder is not writable, or no port is free.
    pub fn written(&self, folder: &Path) -> anyhow::Result<String> {
        Certificate::make(folder)?;
        Ok(self.toml(free_addresses()?))
    }

    fn toml(&self, [ws, wss, admin]: [SocketAddr; 3]) -> String {
        let Self { ws: ws_more, wss: wss_more, wss_tls, .. } = self;
        let default_route = "[[route]]\npath = \"/\"\nbackend = \"app\"\n";
        let routes = if self.routes.is_empty() { default_route } else { &self.routes };
        format!(
            "[admin]\nlisten = \"{admin}\"\n[[listener]]\nbind = \"{ws}\"\n{ws_more}\n\
             [[listener]]\nbind = \"{wss}\"\n{wss_more}\n[listener.tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n\
             {wss_tls}\n{routes}\n[[backend]]\nname = \"app\"\n\
             servers = [{}]\n{}\n{}[relay]\nengine = \"{}\"\ntls_engine = \"{}\"\n{}\n{}\n",
            self.servers.join(", "),
            self.backend,
            self.backend_tls,
            self.engine,
            self.tls_engine,
            self.relay,
            self.more
        )
    }
}

/// A running Sluice. Dropping it kills it.
pub struct Sluice {
    /// The ws:// listener.
    pub ws: SocketAddr,
    /// The wss:// listener.
    pub wss: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The process that was started.
    pub program: Program,
    /// The PEM file of its certificate.
    pub certificate: PathBuf,
    /// The settings of clients that trust its certificate.
    pub tls: Arc<ClientConfig>,
    _folder: Folder,
}

impl Sluice {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// It ends instead; the message has what it printed.
    pub fn start(setup: &Setup) -> anyhow::Result<Self> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::attempt(setup)? {
                Ok(started) => return Ok(started),
                Err(log) if log.contains("in use") && attempts < PORT_ATTEMPTS => {}
                Err(log) => anyhow::bail!("sluice did not start:\n{log}"),
            }
        }
    }

    fn attempt(setup: &Setup) -> anyhow::Result<Result<Self, String>> {
        let folder = Folder::make()?;
        let certificate = Certificate::make(folder.path())?;
        let others = setup.identities.iter().map(|(identity, names)| identity.write(folder.path(), *names));
        for made in std::iter::once(Ok(certificate.clone())).chain(others) {
            if !setup.keys_for_everybody {
                // The keeper must be able to read it; the gate's user need not.
                std::fs::set_permissions(&made?.key, std::fs::Permissions::from_mode(0o600))?;
            }
        }
        let addresses = free_addresses()?;
        let config = folder.path().join("sluice.toml");
        std::fs::write(&config, setup.toml(addresses))?;
        let mut command = setup.wrapper.clone();
        let program = setup.program.clone().unwrap_or_else(binary);
        command.extend([program.display().to_string(), "run".into(), "--config".into(), config.display().to_string()]);
        let mut program = Program::start(&command)?;
        let [ws, wss, admin] = addresses;
        let ready = eventually("sluice serves or ends", || match program.ended() {
            Some(_) => Some(false),
            // Somebody else may have taken the port, and would answer as well.
            None if !setup.silent && !program.log().contains(" ready listening=") => None,
            None => http::get(admin, "/metrics").is_ok_and(|answer| answer.head.status() == 200).then_some(true),
        });
        if !ready {
            return Ok(Err(program.last_log()));
        }
        let tls = certificate.client()?;
        Ok(Ok(Self { ws, wss, admin, program, certificate: certificate.certificate, tls, _folder: folder }))
    }

    /// The address of the listener for this way.
    #[must_use]
    pub fn address(&self, via: Via) -> SocketAddr {
        if via.tls_client() { self.wss } else { self.ws }
    }

    /// Connects a client.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self, via: Via) -> io::Result<Stream> {
        let tls = via.tls_client().then(|| Arc::clone(&self.tls));
        if via.http2() {
            return Ok(Stream::Plain(patient(http2::connect(self.address(via), tls)?)?));
        }
        Stream::connect(self.address(via), tls)
    }

    /// Connects a client and sends an upgrade request, with `behind` in the same write.
    ///
    /// # Errors
    /// The connection fails.
    pub fn ask(&self, via: Via, behind: &[u8]) -> io::Result<Stream> {
        let mut stream = self.connect(via)?;
        let request = http::upgrade(&self.address(via).to_string(), "/", "");
        stream.write_all(&[request.as_bytes(), behind].concat())?;
        stream.flush()?;
        Ok(stream)
    }

    /// An established tunnel: the client's end and the backend's.
    ///
    /// # Errors
    /// The handshake fails on either side.
    pub fn tunnel(&self, via: Via, backend: &RawBackend) -> anyhow::Result<(Stream, Stream)> {
        let mut client = self.ask(via, b"")?;
        let server = backend.accept_upgrade(b"")?;
        let head = Head::read(&mut client)?;
        anyhow::ensure!(head.status() == 101, "the upgrade was answered with {}", head.line);
        Ok((client, server))
    }

    /// What `/metrics` says.
    ///
    /// # Errors
    /// The admin listener does not answer with 200.
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        let answer = http::get(self.admin, "/metrics")?;
        anyhow::ensure!(answer.head.status() == 200, "GET /metrics: {}", answer.head.line);
        Ok(Metrics(answer.body))
    }

    /// What `/connections` says: one object per live pair.
    ///
    /// # Errors
    /// The admin listener does not answer with 200 and a list.
    pub fn connections(&self) -> anyhow::Result<Vec<Value>> {
        let answer = http::get(self.admin, "/connections")?;
        anyhow::ensure!(answer.head.status() == 200, "GET /connections: {}", answer.head.line);
        match serde_json::from_str(&answer.body)? {
            Value::Array(rows) => Ok(rows),
            other => anyhow::bail!("GET /connections is no list: {other}"),
        }
    }

    /// The live pair of this client, once it is listed.
    #[must_use]
    pub fn connection(&self, client: SocketAddr) -> Value {
        let client = client.to_string();
        let what = format!("{client} is in /connections");
        eventually(&what, || self.connections().ok()?.into_iter().find(|row| row["client"] == client.as_str()))
    }

    /// The process id of the keeper, if it runs.
    #[must_use]
    pub fn keeper(&self) -> Option<u32> {
        self.named("sluice-keeper")
    }

    /// The process id of the gate, if it runs.
    #[must_use]
    pub fn gate(&self) -> Option<u32> {
        self.named("sluice-gate")
    }

    /// Kills the gate and waits for the next one.
    ///
    /// # Panics
    /// There is no gate to kill, or no other one comes.
    #[expect(clippy::expect_used, reason = "a test fails by panicking")]
    pub fn kill_gate(&self) {
        let first = eventually("there is a gate", || self.gate());
        signal_pid(first, Signal::KILL).expect("the gate can be killed");
        eventually("there is another gate", || self.gate().filter(|&gate| gate != first));
    }

    fn named(&self, name: &str) -> Option<u32> {
        let all = [vec![self.program.pid()], descendants(self.program.pid())].concat();
        all.into_iter().find(|pid| status_field(&pid.to_string(), "Name").as_deref() == Some(name))
    }
}

/// A metrics page in the Prometheus text format.
#[derive(Clone, Debug)]
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of all samples of a metric that have these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter(|rest| labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\""))))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>() as u64
    }
}

/// The program under test.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(given) = std::env::var_os(variables::BINARY) {
        return given.into();
    }
    // A test is target/debug/deps/name-hash; cargo puts programs one folder up.
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors().nth(2).unwrap_or(Path::new(".")).join("sluice")
}

/// A folder of a test's own, removed with all that is in it.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one.
    ///
    /// # Errors
    /// The system's folder for such things is full or not writable.
    pub fn make() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("sluice-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// A plain connection to an address, without a request.
///
/// # Errors
/// Nobody listens.
pub fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    patient(TcpStream::connect(address)?)
}
