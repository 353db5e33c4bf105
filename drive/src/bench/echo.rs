//! The echo backend: one thread, one epoll, whole frames in, whole frames out. Connections to [`FLOOD_PATH`] it floods
//! with frames instead, as fast as their sockets take them.

use std::collections::HashMap;
use std::io::{self, BufRead, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};
use tungstenite::handshake::derive_accept_key;

use super::control::{Answer, FLOOD_PATH, Order, answer};
use super::poller::{self, Poller};
use super::{frame, process};

const LISTENER: usize = 0;
const ORDERS: usize = 1;
const FIRST_CONNECTION: usize = 2;
/// More than one 16 KiB frame, so that a frame mostly comes with one read.
const SCRATCH: usize = 64 * 1024;
/// The benchmark's own request heads have some 200 bytes, plus what a proxy adds.
const MAX_HEAD: usize = 8 * 1024;
/// Payload of each frame of a flood, and how many of them one write offers to a socket.
const FLOOD_PAYLOAD: usize = 1024;
const FLOOD_FRAMES: usize = 64;

struct Connection {
    stream: TcpStream,
    upgraded: bool,
    /// A head or frame that has not come whole.
    inbox: Vec<u8>,
    /// What the socket did not take. While there is any, nothing more is read.
    outbox: Vec<u8>,
    /// Where in the flood's frames the next write begins; `None`: this connection gets echoes.
    flood: Option<usize>,
}

/// What all connections share.
struct Shared {
    poller: Poller,
    scratch: Vec<u8>,
    out: Vec<u8>,
    /// The frames that floods repeat.
    frames: Vec<u8>,
    /// Bytes that floods have sent so far.
    flooded: u64,
}

struct Echo {
    listener: TcpListener,
    connections: HashMap<usize, Connection>,
    next: usize,
    shared: Shared,
}

/// Serves until its standard input ends.
pub(super) fn run() -> Result<()> {
    process::prepare_helper()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("the echo backend cannot listen")?;
    listener.set_nonblocking(true)?;
    let poller = Poller::new()?;
    poller.watch(&listener, LISTENER)?;
    poller.watch(io::stdin(), ORDERS)?;
    answer(&Answer::Listening(listener.local_addr()?))?;
    let mut frames = Vec::new();
    for _ in 0..FLOOD_FRAMES {
        frame::append(&mut frames, frame::BINARY, &[0x55; FLOOD_PAYLOAD], None);
    }
    let shared = Shared { poller, scratch: vec![0; SCRATCH], out: Vec::new(), frames, flooded: 0 };
    let mut echo = Echo { listener, connections: HashMap::new(), next: FIRST_CONNECTION, shared };
    let mut tokens = Vec::new();
    loop {
        echo.shared.poller.ready(None, &mut tokens)?;
        for &token in &tokens {
            match token {
                LISTENER => echo.accept()?,
                ORDERS => {
                    if !echo.obey()? {
                        return Ok(());
                    }
                }
                connection => echo.serve(connection),
            }
        }
    }
}

impl Echo {
    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the echo backend cannot accept"),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            self.shared.poller.watch(&stream, self.next)?;
            let connection = Connection { stream, upgraded: false, inbox: Vec::new(), outbox: Vec::new(), flood: None };
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
    }

    /// Answers one order; `false` at the end of the standard input.
    fn obey(&self) -> Result<bool> {
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(false);
        }
        match serde_json::from_str(&line)? {
            Order::Count => {
                answer(&Answer::Open { connections: self.connections.len(), flooded: self.shared.flooded })?;
            }
            other => bail!("the echo backend does not take {other:?}"),
        }
        Ok(true)
    }

    fn serve(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.turn(token, &mut self.shared) {
            Ok(true) => {}
            Ok(false) => drop(self.connections.remove(&token)),
            Err(error) => {
                eprintln!("echo backend: {error:#}");
                self.connections.remove(&token);
            }
        }
    }
}

impl Connection {
    /// One read or one write; `false` when the connection has ended.
    fn turn(&mut self, token: usize, shared: &mut Shared) -> Result<bool> {
        if !self.outbox.is_empty() {
            let written = poller::write(&mut self.stream, &self.outbox)?;
            self.outbox.drain(..written);
            if self.outbox.is_empty() {
                self.outbox = Vec::new();
                shared.poller.wait_for_room(&self.stream, token, self.flood.is_some())?;
            }
            return Ok(true);
        }
        if self.flood.is_some() {
            return self.pour(shared);
        }
        let count = match poller::read(&mut self.stream, &mut shared.scratch) {
            Ok(None) => return Ok(true),
            Ok(Some(0)) => return Ok(false),
            Ok(Some(count)) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        shared.out.clear();
        let open = self.take(&shared.scratch[..count], &mut shared.out)?;
        let written = poller::write(&mut self.stream, &shared.out)?;
        self.outbox.extend_from_slice(&shared.out[written..]);
        if !self.outbox.is_empty() || self.flood.is_some() {
            shared.poller.wait_for_room(&self.stream, token, true)?;
        }
        Ok(open)
    }

    /// One write of a flood: others get their turn before the next.
    fn pour(&mut self, shared: &mut Shared) -> Result<bool> {
        let start = self.flood.unwrap_or_default();
        match poller::write(&mut self.stream, &shared.frames[start..]) {
            Ok(written) => {
                shared.flooded += written as u64;
                self.flood = Some((start + written) % shared.frames.len());
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Turns what came into what is answered; `false` after a Close frame.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        if self.inbox.is_empty() {
            let (used, open) = self.answer(bytes, out)?;
            self.inbox.extend_from_slice(&bytes[used..]);
            return Ok(open);
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.extend_from_slice(bytes);
        let (used, open) = self.answer(&inbox, out)?;
        if used < inbox.len() {
            inbox.drain(..used);
            self.inbox = inbox;
        }
        Ok(open)
    }

    /// Answers all that is whole in `bytes` and returns how many bytes that were.
    fn answer(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool)> {
        let mut used = 0;
        if !self.upgraded {
            let path;
            (used, path) = upgrade(bytes, out)?;
            self.upgraded = used > 0;
            self.flood = (path == Some(FLOOD_PATH)).then_some(0);
        }
        while self.upgraded {
            let Some(header) = frame::parse(&bytes[used..])? else { break };
            let start = used + header.length;
            let Some(payload) = bytes.get(start..start + header.payload) else {
                // Room for the whole frame at once; the rest of it comes with the next reads.
                self.inbox.reserve_exact(header.length + header.payload);
                break;
            };
            let first = if header.first == frame::PING { frame::PONG } else { header.first };
            frame::append(out, first, payload, None);
            let echoed = out.len() - header.payload;
            frame::apply_mask(&mut out[echoed..], header.mask);
            used = start + header.payload;
            if header.first == frame::CLOSE {
                return Ok((used, false));
            }
        }
        Ok((used, true))
    }
}

/// Answers an upgrade request and returns its length and path; 0 and none while its head has not come whole.
fn upgrade<'head>(bytes: &'head [u8], out: &mut Vec<u8>) -> Result<(usize, Option<&'head str>)> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        if bytes.len() > MAX_HEAD {
            bail!("a request head is longer than {MAX_HEAD} bytes");
        }
        return Ok((0, None));
    };
    let head = std::str::from_utf8(&bytes[..end]).context("a request head is not UTF-8")?;
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim()))
        .context("a request has no Sec-WebSocket-Key")?;
    let accept = derive_accept_key(key.as_bytes());
    out.extend_from_slice(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .as_bytes(),
    );
    Ok((end + 4, head.split(' ').nth(1)))
}
