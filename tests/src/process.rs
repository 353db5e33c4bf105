//! Child processes that do not outlive their test, and what /proc says of processes.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal};

use crate::wait::eventually;

/// A running program and all that it has printed. Dropping it kills it and whatever it has started.
pub struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
    /// Those that read what it prints.
    readers: Vec<JoinHandle<()>>,
    name: String,
}

impl Program {
    /// Starts a program in a process group of its own; `command` is the program, then its arguments.
    ///
    /// It dies when the calling thread dies, however that happens, if the system has `setpriv` (util-linux).
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &[String]) -> std::io::Result<Self> {
        let mut full = Vec::new();
        if let Ok(setpriv) = crate::needs::program("setpriv") {
            full.extend([setpriv.display().to_string(), "--pdeathsig".into(), "KILL".into(), "--".into()]);
        }
        full.extend_from_slice(command);
        let (program, args) = full.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(program)
            .args(args)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let log = Arc::new(Mutex::new(String::new()));
        let readers = [collect(child.stdout.take(), &log), collect(child.stderr.take(), &log)];
        Ok(Self { child, log, readers: readers.into_iter().flatten().collect(), name: command.join(" ") })
    }

    /// Its process id. Wrappers such as `setpriv` become the program, so it is the program's own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has printed so far, stdout and stderr in the order of arrival.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has printed these words: what a program prints comes when it comes.
    ///
    /// # Panics
    /// It does not; what it has printed instead is printed with that.
    pub fn says(&self, words: &str) {
        eventually(&format!("{} says {words:?}", self.name), || self.log().contains(words).then_some(()));
    }

    /// All that it and whatever it started have printed, once all of them have ended.
    ///
    /// # Panics
    /// They do not end.
    #[must_use]
    pub fn last_log(&self) -> String {
        let what = format!("{} and its children have closed their output", self.name);
        eventually(&what, || self.readers.iter().all(JoinHandle::is_finished).then_some(()));
        self.log()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// It does not.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, || self.ended())
    }

    /// Sends a signal to the program itself.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        signal_pid(self.pid(), signal)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let descendants = descendants(self.pid());
        if let Some(group) = pid(self.pid()) {
            // Whoever is gone already needs no signal.
            let _gone = rustix::process::kill_process_group(group, Signal::KILL);
        }
        for child in descendants {
            let _gone = signal_pid(child, Signal::KILL);
        }
        let _already_reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- {} printed:\n{}----", self.name, self.log());
        }
    }
}

fn collect(stream: Option<impl Read + Send + 'static>, log: &Arc<Mutex<String>>) -> Option<JoinHandle<()>> {
    let stream = stream?;
    let log = Arc::clone(log);
    Some(std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&String::from_utf8_lossy(&line));
            log.push('\n');
        }
    }))
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// Sends a signal to a process.
///
/// # Errors
/// It is gone, or not ours.
pub fn signal_pid(number: u32, signal: Signal) -> std::io::Result<()> {
    let pid = pid(number).ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// A field of `/proc/PID/status`, without the space around it.
#[must_use]
pub fn status_field(process: &str, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(Path::new("/proc").join(process).join("status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
}

/// The processes that a process has started, and theirs, and so on. Zombies are not counted.
#[must_use]
pub fn descendants(parent: u32) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|process: u32| Some((process, parent_of(process)?)))
        .collect();
    let mut wave = vec![parent];
    while !wave.is_empty() {
        wave = all.iter().filter(|(_, of)| wave.contains(of)).map(|(process, _)| *process).collect();
        found.extend(&wave);
    }
    found
}

fn parent_of(process: u32) -> Option<u32> {
    let process = process.to_string();
    let zombie = status_field(&process, "State")?.starts_with('Z');
    if zombie { None } else { status_field(&process, "PPid")?.parse().ok() }
}

/// How many file descriptors a process has open.
#[must_use]
pub fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().count()
}

/// Addresses on loopback at which nothing listens now. Another program may take one before it is used.
///
/// # Errors
/// No port is free.
pub fn free_addresses<const N: usize>() -> std::io::Result<[SocketAddr; N]> {
    // All are held until all are known, so that they differ.
    let mut listeners = Vec::new();
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for address in &mut addresses {
        let listener = std::net::TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(addresses)
}

/// An address on loopback that refuses connections for as long as this lives: it is taken, and nobody listens.
pub struct Refusing {
    /// The address.
    pub address: SocketAddr,
    _bound: socket2::Socket,
}

impl Refusing {
    /// Takes an address.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> std::io::Result<Self> {
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let address = bound.local_addr()?.as_socket().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, _bound: bound })
    }
}
