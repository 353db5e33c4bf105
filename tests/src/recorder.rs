//! A backend that writes down everything it gets on every connection, as the strictest reader reads it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::backend::switching;
use crate::http::Head;
use crate::strict::{self, Progress, Request};
use crate::wait::eventually;

/// What it answers with, if nothing else has been asked for.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The backend. It answers every request with 200 and `ok`, but for:
///
/// * one with Upgrade: 101, and it reads on until the end;
/// * `/no…`: 403;
/// * `/scripted…`: what [`Recorder::script`] says.
///
/// Its log has a line for everything that it got: `GET /path "body"` for a request; `cut POST /path "bo"` for one that
/// ended with its connection; `tunnel "bytes"` for what came behind a 101; and whatever it could not read, behind
/// `NOT HTTP`.
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Vec<String>>,
    requests: Mutex<Vec<Request>>,
    script: Mutex<(Vec<u8>, bool)>,
    connections: Mutex<Vec<JoinHandle<()>>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Listens on loopback.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        // Ends with the process: nothing waits for it.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = of_thread.clone();
                let serve = std::thread::spawn(move || Connection { stream, shared, got: Vec::new() }.serve());
                lock(&of_thread.connections).push(serve);
            }
        });
        Ok(Self { address, shared })
    }

    /// What the next requests for `/scripted…` are answered with, and whether the connection ends behind it.
    pub fn script(&self, answer: &[u8], end: bool) {
        *lock(&self.shared.script) = (answer.to_vec(), end);
    }

    /// The log, once there is enough in it. Lines of different connections stand in the order in which they were complete.
    ///
    /// # Panics
    /// It does not get there.
    #[must_use]
    pub fn log(&self, enough: impl Fn(&[String]) -> bool) -> Vec<String> {
        let look = || Some(lock(&self.shared.log).clone()).filter(|log| enough(log));
        eventually("the backend has got all that it should", look)
    }

    /// All requests that were complete.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// The whole log, once all connections have ended: whoever held them must be gone.
    #[must_use]
    pub fn finish(&self) -> Vec<String> {
        loop {
            // One by one: a connection may be accepted still.
            let Some(next) = lock(&self.shared.connections).pop() else { return lock(&self.shared.log).clone() };
            let _panicked = next.join();
        }
    }
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    got: Vec<u8>,
}

impl Connection {
    fn note(&self, line: String) {
        lock(&self.shared.log).push(line);
    }

    /// Whether there was more to read.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes).unwrap_or(0);
        self.got.extend_from_slice(&bytes[..count]);
        count > 0
    }

    fn serve(mut self) {
        while self.read() {
            match strict::read(&self.got) {
                Err(why) => return self.give_up(&why),
                Ok(Progress::Whole(request, length)) => {
                    self.got.drain(..length);
                    self.note(line(&request));
                    lock(&self.shared.requests).push(request.clone());
                    if !self.got.is_empty() {
                        return self.give_up("something stands behind a request that has no answer yet");
                    }
                    if !self.answer(&request) {
                        return;
                    }
                }
                Ok(Progress::Head(_) | Progress::Part) => {}
            }
        }
        match strict::read(&self.got) {
            Ok(Progress::Head(request)) => self.note(format!("cut {}", line(&request))),
            _ if self.got.is_empty() => {}
            _ => self.give_up("the end"),
        }
    }

    fn give_up(&mut self, why: &str) {
        while self.read() {}
        self.note(format!("NOT HTTP, {why}: {:?}", String::from_utf8_lossy(&self.got)));
    }

    /// Whether another request may follow.
    fn answer(&mut self, request: &Request) -> bool {
        if request.all("upgrade").next().is_some() && request.target.starts_with("/ws") {
            let head = Head { line: String::new(), fields: request.fields.clone() };
            let _gone = self.stream.write_all(switching(&head, "").as_bytes());
            while self.read() {}
            self.note(format!("tunnel {:?}", String::from_utf8_lossy(&self.got)));
            return false;
        }
        let (bytes, end) = match &request.target {
            target if target.starts_with("/scripted") => lock(&self.shared.script).clone(),
            target if target.starts_with("/no") => (b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno".to_vec(), false),
            _ if request.method == "HEAD" => (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_vec(), false),
            _ => (OK.to_vec(), false),
        };
        self.stream.write_all(&bytes).is_ok() && !end
    }
}

fn line(request: &Request) -> String {
    format!("{} {} {:?}", request.method, request.target, String::from_utf8_lossy(&request.body))
}
