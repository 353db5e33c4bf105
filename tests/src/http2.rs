//! A client that speaks HTTP/1.1, put on a stream of HTTP/2: the scenarios for other ways hold for RFC 8441 as they are.
//!
//! Between the test's end and Sluice stands one task: it writes a handshake as an extended CONNECT and its answer as a
//! 101 (and a GET without a body as a GET), and moves bytes, ends and resets. It holds no more than the stream's window.

use std::future::{pending, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tungstenite::handshake::derive_accept_key;

/// The window of a stream (RFC 9113 §6.9.2), of which every connection here has one.
const WINDOW: usize = 65_535;

fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// Connects to a proxy that speaks HTTP/2, behind TLS if there are settings for it. What is returned has the local address
/// that the proxy sees.
///
/// # Errors
/// Nobody listens there.
pub fn connect(proxy: SocketAddr, tls: Option<Arc<ClientConfig>>) -> io::Result<std::net::TcpStream> {
    let runtime = runtime()?;
    let (near, far, to_proxy) = runtime.block_on(connections(proxy))?;
    runtime.spawn(async move {
        if let Err(error) = serve(far, to_proxy, tls).await {
            eprintln!("a client over HTTP/2 failed: {error:#}");
        }
    });
    let near = near.into_std()?;
    near.set_nonblocking(false)?;
    Ok(near)
}

/// The two ends of a connection within this process, and one to the proxy from the address of the first.
async fn connections(proxy: SocketAddr) -> io::Result<(TcpStream, TcpStream, TcpStream)> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // Two sockets may have one address if both say so and neither listens.
    let from = |address: SocketAddr| {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        io::Result::Ok(socket)
    };
    let near = from((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = near.local_addr()?;
    let to_proxy = from(address)?;
    let near = near.connect(listener.local_addr()?).await?;
    let (far, _) = listener.accept().await?;
    let to_proxy = to_proxy.connect(proxy).await?;
    for stream in [&near, &far, &to_proxy] {
        stream.set_nodelay(true)?;
    }
    Ok((near, far, to_proxy))
}

async fn serve(mut far: TcpStream, to_proxy: TcpStream, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<()> {
    let (head, behind) = read_head(&mut far).await?;
    let (request, key) = as_http2(&head)?;
    let mut send = match tls {
        None => begin(to_proxy).await?,
        Some(config) => {
            let mut config = ClientConfig::clone(&config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            let name = ServerName::try_from("localhost")?;
            begin(TlsConnector::from(Arc::new(config)).connect(name, to_proxy).await?).await?
        }
    };
    let plain = key.is_empty();
    let (answer, up) = send.send_request(request, plain)?;
    let answer = tokio::select! {
        answer = answer => answer?,
        // What is dropped here resets the stream.
        () = gone(&far) => return Ok(()),
    };
    let (head, mut down) = answer.into_parts();
    let upgraded = head.status == http::StatusCode::OK && !key.is_empty();
    far.write_all(&http1(&Response::from_parts(head, ()), &key)).await?;
    if !upgraded {
        while let Some(data) = down.data().await {
            far.write_all(&data?).await?;
        }
        return Ok(());
    }
    carry(far, up, down, behind).await;
    Ok(())
}

/// Until the client has closed. One that sends more meanwhile is taken for one that stays.
async fn gone(far: &TcpStream) {
    if far.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0) {
        pending().await
    }
}

/// Reads up to the end of a head; what came behind it comes along.
async fn read_head(far: &mut TcpStream) -> anyhow::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let behind = bytes.split_off(end + 4);
            return Ok((String::from_utf8(bytes)?, behind));
        }
        anyhow::ensure!(far.read_buf(&mut bytes).await? > 0, "an end within the head");
    }
}

/// An extended CONNECT for a handshake, a GET for a GET, and the handshake's key.
fn as_http2(head: &str) -> anyhow::Result<(Request<()>, String)> {
    let mut lines = head.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).context("a request line")?;
    let fields: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
        .collect();
    let of = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let key = of("sec-websocket-key").unwrap_or_default().to_owned();
    let target = format!("http://{}{path}", of("host").context("a Host")?);
    let mut request = if key.is_empty() { Request::get(target) } else { Request::connect(target) };
    for (name, value) in &fields {
        if !["host", "connection", "upgrade", "sec-websocket-key"].contains(&name.as_str()) {
            request = request.header(name, *value);
        }
    }
    if !key.is_empty() {
        request = request.extension(h2::ext::Protocol::from_static("websocket"));
    }
    Ok((request.body(())?, key))
}

async fn begin<S>(io: S) -> anyhow::Result<SendRequest<bytes::Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, mut connection) = h2::client::handshake(io).await?;
    // Extended CONNECT is not to be used before the server's settings have come (RFC 8441 §4).
    while !send.is_extended_connect_protocol_enabled() {
        tokio::select! {
            ended = &mut connection => anyhow::bail!("the connection ended: {ended:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    tokio::spawn(connection);
    poll_fn(|cx| send.poll_ready(cx)).await?;
    Ok(send)
}

fn http1(response: &Response<()>, key: &str) -> Vec<u8> {
    let upgraded = response.status() == http::StatusCode::OK && !key.is_empty();
    let mut out = if upgraded {
        let accept = derive_accept_key(key.as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n"
        )
        .into_bytes()
    } else {
        format!("HTTP/1.1 {} Answered\r\nconnection: close\r\n", response.status().as_str()).into_bytes()
    };
    for (name, value) in response.headers() {
        out.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Moves bytes until both directions have ended or one side has reset.
async fn carry(far: TcpStream, mut up: SendStream<bytes::Bytes>, mut down: RecvStream, behind: Vec<u8>) {
    let (sending, receiving) = (send_up(&far, &mut up, behind), receive_down(&far, &mut down));
    let broken = async {
        // Also while nothing is read of it.
        let _ = far.ready(Interest::ERROR).await;
    };
    let both = async { tokio::try_join!(sending, receiving) };
    let ended = tokio::select! {
        ended = both => ended.map(|_| ()),
        () = broken => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if ended.is_err() {
        up.send_reset(Reason::CANCEL);
        // Fails only on a socket that is gone.
        let _ = far.set_zero_linger();
    }
}

async fn send_up(far: &TcpStream, up: &mut SendStream<bytes::Bytes>, behind: Vec<u8>) -> io::Result<()> {
    let mut bytes = behind;
    loop {
        let mut left = bytes::Bytes::from(std::mem::take(&mut bytes));
        while !left.is_empty() {
            up.reserve_capacity(left.len());
            if up.capacity() == 0 {
                let granted = poll_fn(|cx| up.poll_capacity(cx)).await;
                granted.ok_or(io::ErrorKind::BrokenPipe)?.map_err(io::Error::other)?;
                continue;
            }
            let part = left.split_to(up.capacity().min(left.len()));
            up.send_data(part, false).map_err(io::Error::other)?;
        }
        let mut space = vec![0; WINDOW];
        let got = loop {
            // A stream that is reset while nothing is sent on it.
            tokio::select! {
                ready = far.readable() => ready?,
                _ = poll_fn(|cx| up.poll_reset(cx)) => return Err(io::ErrorKind::ConnectionReset.into()),
            }
            match far.try_read(&mut space) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        if got == 0 {
            return up.send_data(bytes::Bytes::new(), true).map_err(io::Error::other);
        }
        space.truncate(got);
        bytes = space;
    }
}

async fn receive_down(far: &TcpStream, down: &mut RecvStream) -> io::Result<()> {
    while let Some(data) = down.data().await {
        let data = data.map_err(io::Error::other)?;
        let mut left = &data[..];
        while !left.is_empty() {
            far.writable().await?;
            match far.try_write(left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        down.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
    }
    socket2::SockRef::from(far).shutdown(std::net::Shutdown::Write)
}
