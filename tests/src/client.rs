//! Clients that tungstenite makes, and what they do to every proxied echo server.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Bytes, Message, WebSocket};

use crate::counters::{Recorded, Tally};
use crate::pattern::Pattern;
use crate::stream::Stream;

/// A WebSocket client that remembers its bytes.
pub struct Client {
    socket: WebSocket<Recorded<Stream>>,
    /// The response to its handshake.
    pub response: tungstenite::handshake::client::Response,
}

/// Which exchanges are made by [`Client::converse`], as a person would name them.
pub const CONVERSATION: &str = "text, binary, ping, fragmented text, 1 MiB binary, empty binary";

impl Client {
    /// Opens a WebSocket over a connection.
    ///
    /// # Errors
    /// The handshake is refused, or the connection fails.
    pub fn open(stream: Stream, address: SocketAddr) -> anyhow::Result<Self> {
        // The stream brings its own TLS; the scheme says what tungstenite should do about it: nothing.
        let request = format!("ws://{address}/").into_client_request()?;
        let config = WebSocketConfig::default().max_frame_size(None);
        let (mut socket, response) =
            tungstenite::client::client_with_config(request, Recorded::new(stream), Some(config))
                .context("the WebSocket handshake failed")?;
        socket.get_mut().start();
        Ok(Self { socket, response })
    }

    /// Sends one message of each kind and checks that it comes back unchanged: [`CONVERSATION`].
    ///
    /// # Errors
    /// Something else comes back, or nothing.
    pub fn converse(&mut self) -> anyhow::Result<()> {
        self.echo(Message::text("grüß Gott"))?;
        self.echo(Message::binary((0..=255).collect::<Vec<u8>>()))?;
        self.ping(b"are you there?")?;
        self.fragmented(&["one ", "", "two ", "three"])?;
        self.echo(Message::binary(Pattern(1).bytes(1024 * 1024)))?;
        self.echo(Message::Binary(Bytes::new()))
    }

    /// Sends a message and checks that it comes back.
    ///
    /// # Errors
    /// As [`Client::converse`].
    pub fn echo(&mut self, message: Message) -> anyhow::Result<()> {
        self.socket.send(message.clone())?;
        self.expect(&message)
    }

    fn ping(&mut self, payload: &'static [u8]) -> anyhow::Result<()> {
        self.socket.send(Message::Ping(Bytes::from_static(payload)))?;
        self.expect(&Message::Pong(Bytes::from_static(payload)))
    }

    fn fragmented(&mut self, parts: &[&str]) -> anyhow::Result<()> {
        for (index, part) in parts.iter().enumerate() {
            let opcode = OpCode::Data(if index == 0 { Data::Text } else { Data::Continue });
            let header = FrameHeader { is_final: index + 1 == parts.len(), opcode, ..FrameHeader::default() };
            let frame = Frame::from_payload(header, Bytes::copy_from_slice(part.as_bytes()));
            self.socket.send(Message::Frame(frame))?;
        }
        self.expect(&Message::text(parts.concat()))
    }

    fn expect(&mut self, message: &Message) -> anyhow::Result<()> {
        let seen = self.socket.read()?;
        ensure!(seen == *message, "{} bytes came back changed as {} bytes", message.len(), seen.len());
        Ok(())
    }

    /// Closes with this code, and reads until the server has closed too.
    ///
    /// # Errors
    /// The server answers with another code, or the connection fails.
    pub fn close(&mut self, code: u16) -> anyhow::Result<()> {
        self.send_close(code)?;
        match self.socket.read() {
            Err(tungstenite::Error::ConnectionClosed) => Ok(()),
            other => anyhow::bail!("behind the Close frames came {other:?}"),
        }
    }

    /// Sends a Close frame and reads the one that answers; leaves the connection open.
    ///
    /// # Errors
    /// As [`Client::close`].
    pub fn send_close(&mut self, code: u16) -> anyhow::Result<()> {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "done".into() };
        self.socket.close(Some(frame.clone()))?;
        self.expect(&Message::Close(Some(frame)))
    }

    /// What has crossed the wire since the handshake, by direction: to the server, from the server.
    ///
    /// # Errors
    /// A frame is not complete.
    pub fn tallies(&self) -> anyhow::Result<[Tally; 2]> {
        let recorded = self.socket.get_ref();
        Ok([Tally::of(&recorded.written)?, Tally::of(&recorded.read)?])
    }

    /// The client's own address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.get_ref().inner().tcp().local_addr()
    }
}
