//! The demo backend: a WebSocket server that sends every message back.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use tungstenite::protocol::WebSocketConfig;

/// What an echo server takes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The largest message in bytes, in one frame or in many. 64 MiB: tungstenite's own limit on a message; its limit
    /// on one frame is lower.
    pub max_message: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_message: 64 * 1024 * 1024 }
    }
}

/// After a failed accept: long enough not to spin while no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts WebSockets from `listener` and sends back what they send, until the future is dropped, which also ends
/// the connections.
///
/// Text and binary messages come back as they came, pings as pongs, and a Close frame with its code (RFC 6455 §5.5).
/// Of the subprotocols that a client offers, the first is chosen.
///
/// # Errors
/// The listener's address cannot be read. A failed accept or connection ends nothing but itself.
pub async fn serve(listener: TcpListener, options: Options) -> anyhow::Result<Infallible> {
    let address = listener.local_addr().context("the echo server's listener has no address")?;
    tracing::info!(%address, "echo server ready");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(echo(stream, options))),
                Err(error) => {
                    tracing::warn!(%error, "the echo server cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => if let Ok(Err(error)) = ended {
                tracing::debug!(%error, "echo connection failed");
            },
        }
    }
}

async fn echo(stream: TcpStream, options: Options) -> Result<(), tungstenite::Error> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(options.max_message))
        .max_frame_size(Some(options.max_message));
    let mut socket = tokio_tungstenite::accept_hdr_async_with_config(stream, first_protocol, Some(config)).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        // tungstenite answers pings and Close frames by itself.
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

#[expect(clippy::result_large_err, reason = "tungstenite's callback has this type")]
fn first_protocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let first = offered.and_then(|list| list.split(',').next()).map(str::trim).map(HeaderValue::from_str);
    if let Some(Ok(protocol)) = first {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use tungstenite::client::IntoClientRequest as _;
    use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    use tungstenite::{Bytes, Message};

    async fn connect(protocols: &'static str) -> (tokio_tungstenite::WebSocketStream<TcpStream>, Option<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Options::default()));
        let mut request = format!("ws://{address}/").into_client_request().unwrap();
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
        let config = WebSocketConfig::default().max_frame_size(None);
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, response) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await.unwrap();
        let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL).map(|value| value.to_str().unwrap().to_owned());
        (socket, chosen)
    }

    #[tokio::test]
    async fn every_kind_of_message_comes_back() {
        let (mut socket, chosen) = connect("chat.v2, chat.v1").await;
        assert_eq!(chosen.as_deref(), Some("chat.v2"));
        let large = Bytes::from(vec![7; 16 * 1024 * 1024 + 1]);
        for message in [Message::text("grüße"), Message::binary(vec![0, 255]), Message::Binary(large)] {
            socket.send(message.clone()).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap() == message, "a message came back changed");
        }
        socket.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"p")));
    }

    #[tokio::test]
    async fn a_close_frame_comes_back_with_its_code() {
        let (mut socket, _) = connect("any").await;
        let frame = CloseFrame { code: CloseCode::Library(4000), reason: "done".into() };
        socket.close(Some(frame.clone())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Close(Some(frame)));
        assert!(socket.next().await.is_none());
    }
}
