//! HTTP/2.

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};

use super::bench::{ACCEPT, Bench, NEVER, Setup, asked, backend, read_exact, read_head, until};
use crate::gate::refusal::{Outcome, Refusal};
use crate::handoff::stats::Http2Event;
use crate::handoff::{EndReason, ToKeeper, WhyNot};

struct Client {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// Speaks HTTP/2 without asking first (RFC 9113 §3.3).
async fn client(bench: &Bench) -> Client {
    // A client whose streams share a window of 64 KiB holds them back itself.
    let (mut send, mut connection): (_, Connection<TcpStream>) = h2::client::Builder::new()
        .initial_connection_window_size(1 << 20)
        .handshake(bench.connect().await)
        .await
        .unwrap();
    // Until the server's settings have come: extended CONNECT is not to be used before (RFC 8441 §4).
    while !send.is_extended_connect_protocol_enabled() {
        tokio::select! {
            ended = &mut connection => panic!("{ended:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    send = timeout(NEVER, send.ready()).await.unwrap().unwrap();
    Client { send, connection: tokio::spawn(connection) }
}

fn websocket(path: &str) -> Request<()> {
    let mut request = Request::connect(format!("http://app.test{path}")).body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request
}

impl Client {
    async fn ask(&mut self, request: Request<()>, over: bool) -> (Response<RecvStream>, SendStream<Bytes>) {
        let (answer, send) = self.send.send_request(request, over).unwrap();
        (timeout(NEVER, answer).await.expect("no answer").unwrap(), send)
    }

    /// Opens a WebSocket, and gives the backend's end of it.
    async fn open(&mut self, listener: &TcpListener) -> (SendStream<Bytes>, RecvStream, TcpStream) {
        let server = async {
            let (mut server, head) = asked(listener).await;
            let line = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
            let accept = tungstenite::handshake::derive_accept_key(line.as_bytes());
            let answer = super::bench::switching("Sec-WebSocket-Protocol: chat\r\n").replace(ACCEPT, &accept);
            server.write_all(answer.as_bytes()).await.unwrap();
            server
        };
        let mut request = websocket("/ws");
        request.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
        let (server, (answer, send)) = tokio::join!(server, self.ask(request, false));
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        for absent in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!answer.headers().contains_key(absent), "{absent}");
        }
        let status = answer.headers()["proxy-websocket-status"].to_str().unwrap();
        assert!(status.starts_with("upgraded; relay=copy; conn="), "{status}");
        (send, answer.into_body(), server)
    }
}

/// Reads so many bytes of a stream, giving the window back.
async fn bytes(stream: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let data = timeout(NEVER, stream.data()).await.expect("no data").expect("an end").unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

async fn bench(more: &str) -> (Bench, TcpListener) {
    let (server, listener) = backend().await;
    (Setup::plain(&[server], more).ready().await, listener)
}

const FORWARD: &str = "[[route]]\nbackend = \"app\"\nhttp = \"forward\"\n";

/// The gate's next words to the keeper, which must be of a carried pair that has ended.
async fn ended(bench: &mut Bench) -> EndReason {
    loop {
        match bench.next().await.0 {
            ToKeeper::CarriedClosed { reason, .. } => return reason,
            ToKeeper::CarriedOpen { why_not, .. } => assert_eq!(why_not, WhyNot::Http2),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn several_websockets_and_requests_share_a_connection() {
    let (mut bench, listener) = bench(FORWARD).await;
    let mut client = client(&bench).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(client.open(&listener).await);
    }
    for (at, (send, receive, server)) in open.iter_mut().enumerate() {
        let text = format!("to the backend {at}");
        send.send_data(Bytes::from(text.clone()), false).unwrap();
        assert_eq!(read_exact(server, text.len()).await, text.as_bytes());
        server.write_all(format!("to client {at}").as_bytes()).await.unwrap();
        assert_eq!(bytes(receive, 11).await, format!("to client {at}").as_bytes());
    }
    let request =
        Request::get("http://app.test/page").header("cookie", "a=1").header("cookie", "b=2").body(()).unwrap();
    let (head, answer) = tokio::join!(
        async {
            let (mut server, head) = asked(&listener).await;
            server
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npage\r\n0\r\n\r\n")
                .await
                .unwrap();
            head
        },
        client.ask(request, true)
    );
    assert!(head.starts_with("GET /page HTTP/1.1\r\n") && head.contains("host: app.test\r\n"), "{head}");
    assert!(head.contains("cookie: a=1; b=2\r\n"), "{head}");
    let (answer, _) = answer;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("transfer-encoding"));
    assert_eq!(bytes(&mut answer.into_body(), 4).await, b"page");
    // An end each way, one after the other.
    let (mut send, mut receive, mut server) = open.pop().unwrap();
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    server.write_all(b"still").await.unwrap();
    drop(server);
    assert_eq!(bytes(&mut receive, 5).await, b"still");
    // END_STREAM may come on a frame of its own.
    while let Some(data) = timeout(NEVER, receive.data()).await.unwrap() {
        assert_eq!(data.unwrap(), b""[..]);
    }
    assert_eq!(ended(&mut bench).await, EndReason::Finished);
    bench.counted(Outcome::Upgraded, 5).await;
    bench.counted(Outcome::Forwarded, 1).await;
}

#[tokio::test]
async fn a_reset_passes_both_ways() {
    let (mut bench, listener) = bench("").await;
    let mut client = client(&bench).await;
    let (mut send, _receive, mut server) = client.open(&listener).await;
    send.send_reset(Reason::CANCEL);
    assert!(timeout(NEVER, server.read(&mut [0; 1])).await.unwrap().is_err(), "the backend is reset");
    assert_eq!(ended(&mut bench).await, EndReason::ClientFailed);

    let (_send, mut receive, server) = client.open(&listener).await;
    server.set_zero_linger().unwrap();
    drop(server);
    let error = timeout(NEVER, receive.data()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    assert_eq!(ended(&mut bench).await, EndReason::BackendFailed);

    // While nothing is read of it, since the backend takes nothing.
    let (mut send, _receive, server) = client.open(&listener).await;
    let flood = Bytes::from(vec![7; 16 * 1024]);
    while timeout(Duration::from_millis(200), ready(&mut send)).await.is_ok() {
        send.send_data(flood.clone(), false).unwrap();
    }
    send.send_reset(Reason::CANCEL);
    assert_eq!(ended(&mut bench).await, EndReason::ClientFailed);
    drop(server);
}

/// Waits until the stream takes 16 KiB.
async fn ready(send: &mut SendStream<Bytes>) {
    send.reserve_capacity(16 * 1024);
    while send.capacity() < 16 * 1024 {
        std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_back_no_other() {
    let (bench, listener) = bench("").await;
    let mut client = client(&bench).await;
    let (mut stalled, _receive, _silent) = client.open(&listener).await;
    let (_send, stalled_receive, mut talker) = client.open(&listener).await;
    let (mut send, mut receive, mut server) = client.open(&listener).await;
    // A backend that reads nothing, and a client's stream that is not read.
    while timeout(Duration::from_millis(200), ready(&mut stalled)).await.is_ok() {
        stalled.send_data(Bytes::from(vec![1; 16 * 1024]), false).unwrap();
    }
    let flood = vec![2; 64 * 1024];
    let mut flooded = 0;
    while let Ok(written) = timeout(Duration::from_millis(200), talker.write(&flood)).await {
        flooded += written.unwrap();
        assert!(flooded < 64 << 20, "the gate takes everything");
    }
    for round in 0..200_u32 {
        send.send_data(Bytes::from(vec![round as u8; 1000]), false).unwrap();
        assert_eq!(read_exact(&mut server, 1000).await, vec![round as u8; 1000]);
        server.write_all(&vec![round as u8; 3000]).await.unwrap();
        assert_eq!(bytes(&mut receive, 3000).await, vec![round as u8; 3000]);
    }
    drop(stalled_receive);
}

#[tokio::test]
async fn what_is_refused_is_told_on_its_stream() {
    let (bench, _listener) = bench("").await;
    let mut client = client(&bench).await;
    let mut other = websocket("/");
    other.extensions_mut().insert(h2::ext::Protocol::from_static("connect-udp"));
    let mut denied = websocket("/");
    denied.headers_mut().insert("origin", "https://evil.test".parse().unwrap());
    let mut version = websocket("/");
    version.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
    let mut host = websocket("/");
    host.headers_mut().insert("host", "other.test".parse().unwrap());
    let cases = [
        (other, Refusal::Protocol),
        (denied, Refusal::OriginDenied),
        (version, Refusal::Version),
        (host, Refusal::Host),
        (Request::connect("app.test:80").body(()).unwrap(), Refusal::Method),
        (Request::get("http://app.test/").body(()).unwrap(), Refusal::NotWebSocket),
        (Request::get("http://app.test/a/../b").body(()).unwrap(), Refusal::Path),
        (Request::builder().method("post").uri("http://app.test/").body(()).unwrap(), Refusal::Malformed),
        (Request::builder().method("Connect").uri("http://app.test/").body(()).unwrap(), Refusal::Malformed),
    ];
    for (request, refusal) in cases {
        let (answer, _) = client.ask(request, false).await;
        assert_eq!(answer.status(), refusal.status(), "{refusal:?}");
        let status = answer.headers()["proxy-status"].to_str().unwrap();
        assert!(status.starts_with(&format!("sluice; error={}; details=", refusal.error())), "{status}");
        assert!(!answer.headers().contains_key("connection") && !answer.headers().contains_key("upgrade"));
        let text = format!("{}\n", refusal.text());
        assert_eq!(bytes(&mut answer.into_body(), text.len()).await, text.as_bytes());
    }
    bench.counted(Outcome::Refused(Refusal::Protocol), 1).await;
}

#[tokio::test]
async fn a_refusal_of_a_head_has_no_body() {
    let (bench, _listener) = bench("[[route]]\nbackend = \"app\"\nhttp = \"forward\"\nhost = \"app.test\"\n").await;
    let mut client = client(&bench).await;
    for (target, refusal) in [("http://app.test/a/../b", Refusal::Path), ("http://other.test/", Refusal::NoRoute)] {
        let (answer, _) = client.ask(Request::head(target).body(()).unwrap(), true).await;
        assert_eq!(answer.status(), refusal.status());
        let length = refusal.text().len() + 1;
        assert_eq!(answer.headers()["content-length"], length.to_string().as_str(), "that of a GET");
        let body = answer.into_body();
        assert!(body.is_end_stream(), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_told_so_and_its_connection_lives_on() {
    let (bench, listener) = bench(&format!("{FORWARD}[timeouts]\nhttp_response = \"150ms\"\n")).await;
    let mut client = client(&bench).await;
    let request = Request::post("http://app.test/").header("content-length", 100).body(()).unwrap();
    let (answer, mut send) = client.send.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let (_server, head) = asked(&listener).await;
    assert!(head.contains("content-length: 100\r\n"), "{head}");
    let answer = timeout(NEVER, answer).await.expect("no answer").unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    bench.counted(Outcome::Refused(Refusal::BodyTimeout), 1).await;
    let (next, _) = client.ask(Request::get("http://app.test/a/../b").body(()).unwrap(), true).await;
    assert_eq!(next.status(), Refusal::Path.status());
}

#[tokio::test]
async fn streams_count_as_connections() {
    let (server, listener) = backend().await;
    let mut setup = Setup::plain(&[server], "");
    setup.capacity = 3;
    let bench = setup.ready().await;
    let mut client = client(&bench).await;
    let open = [client.open(&listener).await, client.open(&listener).await];
    let (answer, _) = client.ask(websocket("/"), false).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(open);
    until(|| bench.stats.handshakes()[Outcome::Refused(Refusal::Full).index()] == 1).await;
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_told_so_on_its_stream() {
    let (bench, _listener) = bench(&format!("{FORWARD}[limits]\nheader_count = 40\n")).await;
    let mut client = client(&bench).await;
    let long = ["x".repeat(20_000), "x".repeat(60_000)];
    let many = vec!["y".to_owned(); 50];
    for values in [&long[..1], &long[1..], &many] {
        let mut request = Request::get("http://app.test/").body(()).unwrap();
        for value in values {
            request.headers_mut().append("x", value.parse().unwrap());
        }
        let (answer, _) = client.ask(request, true).await;
        assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let status = answer.headers()["proxy-websocket-status"].to_str().unwrap();
        assert!(status.starts_with("rejected; reason=head-too-large; "), "{status}");
    }
    bench.counted(Outcome::Refused(Refusal::HeadTooLarge), 3).await;
}

#[tokio::test]
async fn who_takes_back_more_requests_than_fit_is_told_to_calm_down() {
    let (bench, listener) = bench(&format!("{FORWARD}[limits]\nhttp2_resets = 20\n")).await;
    let Client { mut send, connection } = client(&bench).await;
    // A backend that takes whatever comes and answers nothing.
    tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Ok((server, _)) = listener.accept().await {
            asked.push(server);
        }
    });
    for _ in 0..100 {
        // Behind the end of the connection nothing can be sent.
        let Ok(ready) = send.ready().await else { break };
        send = ready;
        let asked = send.send_request(Request::get("http://app.test/").body(()).unwrap(), true);
        let Ok((answer, mut stream)) = asked else { break };
        let [before, ..] = bench.stats.http2();
        // So that most are dialled before they are taken back.
        let _ = timeout(Duration::from_millis(20), answer).await;
        stream.send_reset(Reason::CANCEL);
        until(|| matches!(bench.stats.http2(), [resets, floods, _] if resets > before || floods > 0)).await;
    }
    let ended = timeout(NEVER, connection).await.expect("the connection lives").unwrap().unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{ended:?}");
    // One more may be on its way when the end is.
    let [resets, floods, full] = bench.stats.http2();
    assert!((21..=22).contains(&resets) && floods == 1 && full == 0, "{resets} {floods} {full}");
}

#[tokio::test]
async fn a_connection_with_all_its_streams_is_counted() {
    let (bench, listener) = bench("[limits]\nhttp2_streams = 2\n").await;
    let mut client = client(&bench).await;
    let first = client.open(&listener).await;
    assert_eq!(bench.stats.http2()[Http2Event::Full as usize], 0);
    let second = client.open(&listener).await;
    assert_eq!(bench.stats.http2()[Http2Event::Full as usize], 1);
    drop((first, second));
}

#[tokio::test]
async fn the_switch_turns_it_off() {
    let (server, _listener) = backend().await;
    let mut setup = Setup::plain(&[server], "");
    setup.config = setup.config.replacen("[[listener]]\n", "[[listener]]\nhttp2 = false\n", 1);
    let bench = setup.ready().await;
    let answer = bench.ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    super::refusals::expect(&answer, Refusal::Malformed);
}

#[tokio::test]
async fn a_preface_in_pieces_is_one() {
    let (bench, listener) = bench("").await;
    let mut raw = bench.connect().await;
    for byte in crate::gate::http2::PREFACE {
        raw.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // An empty SETTINGS frame; the server's begins with its length and type 4 (RFC 9113 §6.5).
    raw.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(read_exact(&mut raw, 4).await[3], 4);
    // And what only begins like one is HTTP/1.1.
    let mut other = bench.connect().await;
    for piece in ["P", "R", "I / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        other.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read_head(&mut other).await.starts_with("HTTP/1.1 405 "));
    drop(listener);
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go() {
    let (bench, listener) = bench("[timeouts]\nkeep_alive = \"150ms\"\n").await;
    let mut client = client(&bench).await;
    let (send, receive, server) = client.open(&listener).await;
    // Not while there is a WebSocket on it, however silent.
    assert!(timeout(Duration::from_millis(600), &mut client.connection).await.is_err());
    drop((send, receive, server));
    let ended = timeout(NEVER, client.connection).await.expect("it stays").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}
