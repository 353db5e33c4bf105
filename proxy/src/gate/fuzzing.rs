//! What the fuzz targets drive: the gate's readers, from the bytes of a stranger to what becomes of them.
//!
//! Only cargo-fuzz builds this (`cfg(fuzzing)`), and the tests, which feed it the seeds. Everything happens in memory and in one thread, so that the same bytes
//! always take the same way; only [`response`] has a socket, since the code for backends is written for one.

#![allow(clippy::panic, reason = "a fuzz target tells what it found by panicking")]

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, FORWARDED, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;

pub use super::auth::fuzzing::credentials;
use super::exchange::Exchange;
use super::handshake::{Opening, Scheme, Visitor, check_framing, check_switch, forward, http2, key, settle};
use super::http2::Screened;
use super::judge::{Kind, Verdict};
use super::policy::Routes;
use super::proxy_header::{self, Progress};
use super::session::after;
use super::spelling::Spelling;
use super::sticky::Sticky;
use super::stream::Stream;
use super::upstream::{self, Answer};
use crate::config::{self, Config, Forwarded, ForwardedHeader, Peers, SendProxy};
use crate::handoff::{CookieKey, Peer};

/// Routes of most kinds, plain HTTP on all but one.
const CONFIG: &str = r#"
[[listener]]
bind = "127.0.0.1:1"
[[route]]
backend = "app"
http = "forward"
[[route]]
path = "/prefix"
rewrite = { prefix = "/other" }
backend = "app"
http = "forward"
[[route]]
path = { pattern = "/rooms/([^/]+)/ws" }
rewrite = { replace = "/ws/$1" }
request_headers = { set = { host = "inner.test" }, remove = ["cookie"] }
backend = "app"
http = "forward"
[[route]]
path = "/ws"
backend = "app"
[[backend]]
name = "app"
servers = ["127.0.0.1:2"]
[forwarded]
trusted = ["127.0.0.0/8"]
send = ["x-forwarded", "forwarded"]
"#;

/// What all targets share.
struct Setting {
    config: Config,
    routes: Routes,
    runtime: Runtime,
}

#[expect(clippy::expect_used, reason = "a fuzz target that cannot be set up must stop")]
static SETTING: LazyLock<Setting> = LazyLock::new(|| {
    let config = Config::parse(CONFIG, "fuzzing").expect("the configuration");
    let routes = Routes::new(&config).expect("its routes");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    Setting { config, routes, runtime }
});

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(86_400);

/// One direction has these bytes and then nothing, but no end; the other one is written down.
#[derive(Clone)]
struct Memory {
    front: Bytes,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Memory {
    fn new(bytes: &[u8]) -> Self {
        Self { front: Bytes::copy_from_slice(bytes), written: Arc::default() }
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.front.is_empty() {
            return Poll::Pending;
        }
        let fits = self.front.len().min(buffer.remaining());
        buffer.put_slice(&self.front.split_to(fits));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether anything has happened that a future waits for.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls until there is an output, or until nothing will ever happen again.
fn exhaust<T>(work: impl Future<Output = T>) -> Option<T> {
    let _timers = SETTING.runtime.enter();
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = woken.clone().into();
    let mut work = pin!(work);
    while woken.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
    }
    None
}

fn client() -> Peer {
    SocketAddr::from(([127, 0, 0, 1], 3)).into()
}

/// A request's head, judged and written anew as the gate does it.
fn judged<B>(head: &mut Parts, body: B) -> Option<Request<B>> {
    let Setting { config, routes, .. } = &*SETTING;
    settle(head, client().inet()).ok()?;
    let visitor = Visitor::judge(&config.forwarded, client(), Scheme::Plain, &head.headers);
    let verdict = Verdict::judge(routes, head, &visitor).ok()?;
    let hop_by_hop = match &verdict.kind {
        Kind::Handshake(opening) => &opening.hop_by_hop,
        Kind::Plain(plain) => &plain.hop_by_hop,
    };
    let mut request = forward::request(head, verdict.target, hop_by_hop, &visitor, &config.forwarded, body);
    verdict.rule.request_edits.apply(request.headers_mut());
    Some(request)
}

/// Writes a request as it goes to a backend that never answers, for as long as there is something to write.
async fn write<B>(request: Request<B>, backend: Memory)
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(backend)).await else {
        return;
    };
    let (mut answer, mut connection) = (pin!(sender.send_request(request)), pin!(connection));
    poll_fn(|cx| {
        let over = connection.as_mut().poll(cx).is_ready();
        answer.as_mut().poll(cx).map(drop).map(|()| over)
    })
    .await;
}

/// What a backend gets of the first request in a stream.
#[must_use]
pub fn request(bytes: &[u8]) -> Vec<u8> {
    let backend = Memory::new(b"");
    let to_backend = backend.clone();
    exhaust(async move {
        let exchange = Exchange::new(Memory::new(bytes), Bytes::new(), &SETTING.config.limits);
        let (mut exchange, mut head) = exchange.read_head(after(NEVER)).await.ok()?;
        let body = exchange.take_body()?;
        let request = judged(&mut head, body)?;
        exchange.while_there(write(request, to_backend)).await.ok()
    });
    backend.take()
}

fn as_http1(head: Parts, protocol: Option<&str>) -> Option<Parts> {
    http2::as_http1(head, protocol, key([7; 16]), &SETTING.config.limits).ok()
}

/// What backends get of the heads of all requests on an HTTP/2 connection. `bytes` stand behind the preface.
#[must_use]
pub fn http2_requests(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    let whole = [super::http2::PREFACE, bytes].concat();
    exhaust(async {
        let mut session = super::http2::builder(&SETTING.config)
            .handshake::<_, Bytes>(Screened::new(Memory::new(&whole)))
            .await
            .ok()?;
        while let Some(Ok((request, respond))) = session.accept().await {
            let (mut head, body) = request.into_parts();
            let protocol = head.extensions.remove::<h2::ext::Protocol>();
            let protocol = protocol.as_ref().map(h2::ext::Protocol::as_str);
            if let Some(request) =
                as_http1(head, protocol).and_then(|mut head| judged(&mut head, Empty::<Bytes>::new()))
            {
                let backend = Memory::new(b"");
                exhaust(write(request, backend.clone()));
                sent.push(backend.take());
            }
            drop((respond, body));
        }
        Some(())
    });
    sent
}

/// A backend's answer, to a handshake and to a plain request.
///
/// # Panics
/// What goes on to the client tells its length in two ways.
pub fn response(bytes: &[u8]) {
    SETTING.runtime.block_on(async {
        let _ = handshake_answered(bytes).await;
        let _ = plain_answered(bytes).await;
    });
}

/// A backend that has said this, and its own end, which takes what is written to it.
fn said(bytes: &[u8]) -> Option<(Stream, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().ok()?;
    theirs.set_nonblocking(true).ok()?;
    // What does not fit its buffer is as if it had not been said.
    let _ = io::Write::write(&mut &theirs, bytes);
    theirs.shutdown(std::net::Shutdown::Write).ok()?;
    ours.set_nonblocking(true).ok()?;
    let ours = std::net::TcpStream::from(OwnedFd::from(ours));
    Some((Stream::Unix(tokio::net::TcpStream::from_std(ours).ok()?), theirs))
}

fn asked(path: &'static str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static(path);
    request
}

async fn handshake_answered(bytes: &[u8]) -> Option<()> {
    let mut head = Request::get("http://a/").header("host", "a").header("upgrade", "websocket");
    for (name, value) in [
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "chat"),
    ] {
        head = head.header(name, value);
    }
    let (head, ()) = head.body(()).ok()?.into_parts();
    let visitor = Visitor::judge(&SETTING.config.forwarded, client(), Scheme::Plain, &head.headers);
    let opening = Opening::check(&head, &visitor).ok()?;
    let (stream, _theirs) = said(bytes)?;
    match upstream::ask(stream, asked("/"), &SETTING.config.limits, Spelling::LOWER, after(NEVER)).await.ok()? {
        Answer::Switch(switched) => check_switch(&switched.head, &opening).ok(),
        Answer::Other(answer) => {
            check_framing(answer.headers()).ok()?;
            drain(answer).await
        }
    }
}

async fn plain_answered(bytes: &[u8]) -> Option<()> {
    let (stream, _theirs) = said(bytes)?;
    let (mut sender, connection, _) = upstream::begin(stream, &SETTING.config.limits, Spelling::LOWER).await.ok()?;
    let ask = async {
        let answer = sender.send_request(asked("/")).await.ok()?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return None;
        }
        check_framing(answer.headers()).ok()?;
        drain(answer).await
    };
    let (_ended, answered) = tokio::join!(connection, ask);
    answered
}

/// Reads an answer to its end.
async fn drain<B: Body<Data = Bytes> + Unpin>(answer: http::Response<B>) -> Option<()> {
    let (head, mut body) = answer.into_parts();
    let headers = forward::plain_response(&head);
    let lengths: Vec<_> = headers.get_all("content-length").iter().collect();
    assert!(lengths.len() <= 1 && !headers.contains_key("transfer-encoding"), "{headers:?}");
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.ok()?.data_ref().map_or(0, Bytes::len);
    }
    let length = lengths.first().and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    assert!(bodiless || length.is_none_or(|length| length == read), "{length:?}, and {read} bytes came");
    Some(())
}

/// A PROXY header, byte by byte as it may come: read in one piece or in many it is the same, and what is written of it is
/// read back.
///
/// # Panics
/// It is not.
pub fn proxy_header(bytes: &[u8]) {
    let mut have = 0;
    let ends = loop {
        let Some(front) = bytes.get(..have) else { return };
        match proxy_header::read(front) {
            Progress::More(0) | Progress::Line(0) => panic!("nothing more belongs to {front:?}, and it is not done"),
            Progress::More(more) => have += more,
            Progress::Line(most) => {
                let rest = bytes.get(have..(have + most).min(bytes.len())).unwrap_or_default();
                let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return };
                have += end + 1;
            }
            Progress::Malformed => return,
            Progress::Done(ends) => break ends,
        }
    };
    for version in [SendProxy::V1, SendProxy::V2] {
        let Ok(again) = proxy_header::write(version, ends) else { panic!("{ends:?} cannot be written") };
        assert!(matches!(proxy_header::read(&again), Progress::Done(_)), "{again:?}");
    }
}

/// Cookie headers, one a line: whatever they are, none of ours is left for the backend, and ours is found among them.
///
/// # Panics
/// It is not so.
pub fn cookie(lines: &[u8]) {
    let sticky = Sticky::new(
        &config::Sticky::default(),
        "app",
        &[(0, "a:1".into()), (1, "b:2".into())],
        &[CookieKey([7; 32]), CookieKey([8; 32])],
    );
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(COOKIE, line);
    }
    assert_eq!(sticky.read(&headers, 1), None, "a stranger made a cookie of ours: {headers:?}");
    let issued =
        sticky.issue(1, true, 1).map(|cookie| cookie.as_bytes().split(|byte| *byte == b';').next().map(<[u8]>::to_vec));
    if let Some(own) = issued.flatten().and_then(|own| HeaderValue::from_bytes(&own).ok()) {
        headers.append(COOKIE, own);
    }
    assert_eq!(sticky.read(&headers, 1).map(|kept| kept.server), Some(1), "{headers:?}");
    sticky.strip(&mut headers);
    assert_eq!(sticky.read(&headers, 1), None, "{headers:?}");
}

/// A configuration, and the routes that it describes.
pub fn config(text: &str) {
    if let Ok(config) = Config::parse(text, "fuzzing") {
        let _ = Routes::new(&config);
    }
}

/// Lists of proxies, one header a line: what the backend is told is read back as the same client by one who trusts us.
///
/// # Panics
/// It is not.
pub fn forwarded(lines: &[u8]) {
    let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].map(HeaderName::from_static);
    for read in [ForwardedHeader::XForwarded, ForwardedHeader::Forwarded] {
        let mut headers = HeaderMap::new();
        for line in lines.split(|byte| *byte == b'\n') {
            let Some((which, Ok(value))) =
                line.split_first().map(|(which, rest)| (which, HeaderValue::from_bytes(rest)))
            else {
                continue;
            };
            headers.append(names.get(usize::from(which % 4)).unwrap_or(&FORWARDED), value);
        }
        let trusted: Vec<Peers> =
            ["127.0.0.0/8", "10.0.0.0/8"].iter().filter_map(|net| net.parse().ok().map(Peers::Net)).collect();
        let settings = Forwarded { trusted, read, send: vec![read], ..Forwarded::default() };
        let visitor = Visitor::judge(&settings, client(), Scheme::Tls, &headers);
        let mut told = HeaderMap::new();
        visitor.tell(&settings, Some(&HeaderValue::from_static("a")), &mut told);
        let again = Visitor::judge(&settings, client(), Scheme::Tls, &told);
        assert_eq!(visitor.client.ip(), again.client.ip(), "{headers:?} became {told:?}");
    }
}

#[cfg(test)]
#[path = "fuzzing_tests.rs"]
mod tests;
