//! A little HTTP, enough to see exactly what crosses the wire.

use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::stream::patient;

/// The first line and the header fields of a message.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The request line or the status line.
    pub line: String,
    /// Names in lower case, in the order of arrival.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Reads up to the empty line and not a byte further.
    ///
    /// # Errors
    /// The stream ends before, or fails.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            from.read_exact(&mut byte).map_err(|error| {
                io::Error::new(error.kind(), format!("{error}; so far: {:?}", String::from_utf8_lossy(&bytes)))
            })?;
            bytes.extend(byte);
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter_map(|line| line.split_once(':'));
        Ok(Self { line, fields: fields.map(|(k, v)| (k.trim().to_lowercase(), v.trim().to_owned())).collect() })
    }

    /// The status of a response; 0 if there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The first field of this name (in lower case).
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its head.
    pub head: Head,
    /// Its body: all up to the end of the connection.
    pub body: String,
}

/// Sends bytes and reads one response, up to the end of the connection.
///
/// # Errors
/// Nobody listens, or the connection fails or stays open.
pub fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<Response> {
    let mut stream = patient(TcpStream::connect(address)?)?;
    stream.write_all(request)?;
    respond(&mut stream)
}

/// Reads one response, up to the end of the connection.
///
/// # Errors
/// The connection fails or stays open.
pub fn respond(stream: &mut impl Read) -> io::Result<Response> {
    let head = Head::read(stream)?;
    let mut body = Vec::new();
    match head.field("content-length").and_then(|length| length.parse().ok()) {
        Some(length) => stream.take(length).read_to_end(&mut body)?,
        None => stream.read_to_end(&mut body)?,
    };
    Ok(Response { head, body: String::from_utf8_lossy(&body).into_owned() })
}

/// GET with `Connection: close`.
///
/// # Errors
/// As [`exchange`].
pub fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// The key of the handshake in RFC 6455 §1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A request to upgrade, with further header lines (each ending in CRLF).
#[must_use]
pub fn upgrade(host: &str, path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}
