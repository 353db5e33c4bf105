//! The echo backend: one thread, one epoll, whole frames in, whole frames out.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};
use tungstenite::handshake::derive_accept_key;

use super::control::{Answer, Order, answer};
use super::poller::{self, Poller};
use super::{frame, process};

const LISTENER: usize = 0;
const ORDERS: usize = 1;
const FIRST_CONNECTION: usize = 2;
/// More than one 16 KiB frame, so that a frame mostly comes with one read.
const SCRATCH: usize = 64 * 1024;
/// The benchmark's own request heads have some 200 bytes, plus what a proxy adds.
const MAX_HEAD: usize = 8 * 1024;

struct Connection {
    stream: TcpStream,
    upgraded: bool,
    /// A head or frame that has not come whole.
    inbox: Vec<u8>,
    /// What the socket did not take. While there is any, nothing more is read.
    outbox: Vec<u8>,
}

struct Echo {
    poller: Poller,
    listener: TcpListener,
    connections: HashMap<usize, Connection>,
    next: usize,
    scratch: Vec<u8>,
    out: Vec<u8>,
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
    let connections = HashMap::new();
    let mut echo =
        Echo { poller, listener, connections, next: FIRST_CONNECTION, scratch: vec![0; SCRATCH], out: Vec::new() };
    let mut tokens = Vec::new();
    loop {
        echo.poller.ready(None, &mut tokens)?;
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the echo backend cannot accept"),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            self.poller.watch(&stream, self.next)?;
            let connection = Connection { stream, upgraded: false, inbox: Vec::new(), outbox: Vec::new() };
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
            Order::Count => answer(&Answer::Open(self.connections.len()))?,
            other => bail!("the echo backend does not take {other:?}"),
        }
        Ok(true)
    }

    fn serve(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.turn(token, &self.poller, &mut self.scratch, &mut self.out) {
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
    fn turn(&mut self, token: usize, poller: &Poller, scratch: &mut [u8], out: &mut Vec<u8>) -> Result<bool> {
        if !self.outbox.is_empty() {
            let written = poller::write(&mut self.stream, &self.outbox)?;
            self.outbox.drain(..written);
            if self.outbox.is_empty() {
                self.outbox = Vec::new();
                poller.wait_for_room(&self.stream, token, false)?;
            }
            return Ok(true);
        }
        let count = match poller::read(&mut self.stream, scratch) {
            Ok(None) => return Ok(true),
            Ok(Some(0)) => return Ok(false),
            Ok(Some(count)) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        out.clear();
        let open = self.take(&scratch[..count], out)?;
        let written = poller::write(&mut self.stream, out)?;
        if written < out.len() {
            self.outbox.extend_from_slice(&out[written..]);
            poller.wait_for_room(&self.stream, token, true)?;
        }
        Ok(open)
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
            used = upgrade(bytes, out)?;
            self.upgraded = used > 0;
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

/// Answers an upgrade request; 0 while its head has not come whole.
fn upgrade(bytes: &[u8], out: &mut Vec<u8>) -> Result<usize> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        if bytes.len() > MAX_HEAD {
            bail!("a request head is longer than {MAX_HEAD} bytes");
        }
        return Ok(0);
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
    Ok(end + 4)
}
