//! The gate's side towards a backend server: dial, ask, read the answer's head.

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body_util::Empty;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use super::begun::Begun;
use super::fleet::Berth;
use super::refusal::Refusal;
use super::source::Sources;
use super::spelling::Spelling;
use super::stream::Stream;
use super::tls::{self, Arming, Connector};
use super::unix;
use super::wire::{Heard, Wire};
use crate::config::{Address, Limits};
use crate::sys::socket;

/// A connection that hyper speaks on, as long as somebody polls it.
pub(super) type Connection<S, B> = http1::Connection<TokioIo<Wire<S>>, B>;

/// What a backend says to a handshake.
pub(super) enum Answer {
    /// 101: not yet checked.
    Switch(Switched),
    /// Anything else, with its body as it comes.
    Other(Response<Begun<Bounded>>),
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Switch(_) => StatusCode::SWITCHING_PROTOCOLS,
            Self::Other(response) => response.status(),
        }
    }
}

/// A backend that has answered 101.
pub(super) struct Switched {
    /// The head.
    pub(super) head: response::Parts,
    /// The connection.
    pub(super) io: Stream,
    /// What the backend sent behind its head.
    pub(super) read_ahead: Bytes,
}

/// Why there is no answer: what it would mean if this was the last server to try, and what was said.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the client is told.
    pub(super) refusal: Refusal,
    /// What the log is told, if there is more to say.
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    fn new(refusal: Refusal, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { refusal, cause: Some(cause.into()) }
    }
}

impl Failure {
    /// What was said.
    pub(super) fn cause(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().map(|cause| &**cause as &(dyn Error + 'static))
    }

    /// Whether the server is at fault: not we, who are short of ports, nor the client, whose body broke off or did not
    /// come.
    pub(super) fn is_the_servers(&self) -> bool {
        !matches!(self.refusal, Refusal::Full | Refusal::Internal | Refusal::Framing | Refusal::BodyTimeout)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, cause: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.refusal.text())?;
        causes(self.cause()).try_for_each(|cause| write!(f, ": {cause}"))
    }
}

/// An error, what caused it, and so on.
fn causes<'a>(first: Option<&'a (dyn Error + 'static)>) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(first, |error| (*error).source())
}

/// How the servers of a backend are connected to.
pub(super) struct Dialling<'a> {
    /// What is sent before anything else: a PROXY header, or nothing.
    pub(super) hello: &'a [u8],
    /// With it, TLS is spoken.
    pub(super) tls: Option<&'a Connector>,
    pub(super) arming: &'a Arming,
    pub(super) sources: &'a Sources,
    /// How long the connect may take, and then the TLS handshake.
    pub(super) patience: Duration,
}

impl Dialling<'_> {
    /// Connects to one server, whose name this is if it has one. Cancel safe.
    ///
    /// # Errors
    /// It cannot be reached, or no TLS session comes of it: nothing has been asked of it then.
    pub(super) async fn dial(&self, server: &Address, host: Option<&str>) -> Result<Stream, Failure> {
        let connect = async {
            let mut stream = match server {
                Address::Inet(address) => {
                    let stream = self.sources.connect(*address).await?;
                    socket::prepare_for_messages(&stream)?;
                    stream
                }
                Address::Unix(path) => unix::connect(path).await?,
            };
            // It fits the buffer of a socket that nothing has been written to.
            stream.write_all(self.hello).await?;
            Ok(stream)
        };
        let connected = timeout(self.patience, connect).await.map_err(|_| Refusal::BackendTimeout)?;
        let stream = connected.map_err(|error| Failure::new(unreached(&error), error))?;
        let ip = server.inet().map(|address| address.ip());
        let Some(connector) = self.tls else {
            return Ok(if ip.is_some() { Stream::Plain(stream) } else { Stream::Unix(stream) });
        };
        let secured = timeout(self.patience, tls::connect(stream, connector, (host, ip), self.arming)).await;
        let late = |_| Failure::new(Refusal::BackendTimeout, "its TLS handshake");
        // Closed or reset before the end of the handshake, it has failed as well.
        secured.map_err(late)?.map_err(|error| {
            let refusal = tls::failure(&error).unwrap_or(Refusal::BackendTls);
            match tls::hint(&error) {
                Some(hint) => Failure::new(refusal, format!("{error}: {hint}")),
                None => Failure::new(refusal, error),
            }
        })
    }
}

fn unreached(error: &io::Error) -> Refusal {
    use io::ErrorKind::{AddrNotAvailable, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    match (error.kind(), error.raw_os_error()) {
        (_, Some(libc::EMFILE | libc::ENFILE)) | (AddrNotAvailable, _) => Refusal::Full,
        (HostUnreachable | NetworkUnreachable, _) => Refusal::BackendUnreachable,
        (TimedOut, _) => Refusal::BackendTimeout,
        (ConnectionReset, _) => Refusal::BackendClosed,
        _ => Refusal::BackendRefused,
    }
}

/// Sends the request and reads the head of the answer. Once the request may have been written nothing is tried
/// again elsewhere: the backend may have acted on it.
///
/// # Errors
/// The backend closed, was late, or sent something that is no HTTP head within the limits.
pub(super) async fn ask(
    stream: Stream,
    request: Request<Empty<Bytes>>,
    limits: &Limits,
    spelling: &Spelling,
    deadline: Instant,
) -> Result<Answer, Failure> {
    timeout_at(deadline, exchange(stream, request, limits, spelling)).await.map_err(|_| Refusal::ResponseTimeout)?
}

/// Begins to speak HTTP/1.1 on a connection. Requests on it must have been through [`Spelling::apply`].
///
/// # Errors
/// hyper's own; none is known.
pub(super) async fn begin<S, B>(
    io: S,
    limits: &Limits,
    spelling: &Spelling,
) -> Result<(http1::SendRequest<B>, Connection<S, B>, Heard), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (wire, heard) = Wire::new(io);
    let begun = http1::Builder::new()
        .max_headers(limits.response_header_count)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes)
        .title_case_headers(spelling.is_title())
        .handshake(TokioIo::new(wire))
        .await;
    let (sender, connection) = begun.map_err(broken)?;
    Ok((sender, connection, heard))
}

async fn exchange(
    stream: Stream,
    mut request: Request<Empty<Bytes>>,
    limits: &Limits,
    spelling: &Spelling,
) -> Result<Answer, Failure> {
    spelling.apply(&mut request);
    let (mut sender, mut connection, _) = begin(stream, limits, spelling).await?;
    let response = {
        let mut answer = pin!(sender.send_request(request));
        let mut closed = false;
        poll_fn(|cx| {
            closed = closed || connection.poll_without_shutdown(cx).is_ready();
            match answer.as_mut().poll(cx) {
                // hyper answers every request before it ends; should it not, nobody waits for it.
                Poll::Pending if closed => Poll::Ready(Err(Refusal::BackendClosed.into())),
                other => other.map_err(broken),
            }
        })
        .await?
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switched(response, connection).await.map(Answer::Switch);
    }
    let left = limits.response_body;
    let (head, body) = response.into_parts();
    let body = Bounded { body, connection: Some(Box::new(connection)), left, cut: false, _berth: None };
    let body = Begun::look(body).await.map_err(broken_body)?;
    Ok(Answer::Other(Response::from_parts(head, body)))
}

async fn switched(
    response: Response<Incoming>,
    mut connection: Connection<Stream, Empty<Bytes>>,
) -> Result<Switched, Failure> {
    // Ends as soon as hyper has seen the 101: the head is read, and nothing is left to write.
    poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(broken)?;
    let parts = connection.into_parts();
    Ok(Switched { head: response.into_parts().0, io: parts.io.into_inner().into_inner(), read_ahead: parts.read_buf })
}

/// What it means that a backend's connection failed with this error.
pub(super) fn broken(error: hyper::Error) -> Failure {
    // When the connection broke before the request was written, the error says so and the cause is behind it.
    let causes = || causes(Some(&error));
    let is = |kind: fn(&hyper::Error) -> bool| causes().filter_map(|cause| cause.downcast_ref()).any(kind);
    // A server that wants a client certificate says so behind the end of the handshake (RFC 8446 §4.4.2.4), with an
    // alert that is read in the place of its answer.
    let of_tls = causes().filter_map(|cause| cause.downcast_ref()).find_map(tls::failure);
    let refusal = if let Some(refusal) = of_tls {
        refusal
    } else if is(hyper::Error::is_parse_too_large) {
        Refusal::BackendHeadTooLarge
    } else if is(hyper::Error::is_parse) {
        Refusal::BackendProtocol
    } else if is(hyper::Error::is_user) {
        // Not the backend's failure: the body that it was being sent broke off, or was none.
        Refusal::Framing
    } else {
        Refusal::BackendClosed
    };
    Failure::new(refusal, error)
}

/// What it means that the body of a backend's answer broke before anything of the answer was passed on.
pub(super) fn broken_body(error: io::Error) -> Failure {
    use io::ErrorKind::{InvalidData, InvalidInput};
    let causes = causes(Some(&error)).filter_map(|cause| cause.downcast_ref::<io::Error>());
    let malformed = causes.map(io::Error::kind).any(|kind| matches!(kind, InvalidData | InvalidInput));
    Failure::new(if malformed { Refusal::BackendProtocol } else { Refusal::BackendClosed }, error)
}

/// A backend's body, cut at `limits.response_body`. It carries its connection, which moves only when the body is
/// asked for more: a client that does not read holds back the backend, not our memory.
pub(super) struct Bounded {
    body: Incoming,
    /// Until it has ended.
    connection: Option<Box<Connection<Stream, Empty<Bytes>>>>,
    left: usize,
    /// It is longer than that.
    cut: bool,
    /// The place on the server that it comes from.
    _berth: Option<Berth>,
}

impl Bounded {
    /// With the place on its server, which is taken as long as the body is there.
    pub(super) fn on(self, berth: Berth) -> Self {
        Self { _berth: Some(berth), ..self }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.cut {
            // An error, so that the client sees a message without its end instead of a shorter one.
            return Poll::Ready(Some(Err(io::Error::other("the body is longer than limits.response_body"))));
        }
        if this.connection.as_mut().is_some_and(|connection| connection.poll_without_shutdown(cx).is_ready()) {
            this.connection = None;
        }
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { return Poll::Ready(None) };
        let Ok(mut data) = frame.map_err(io::Error::other)?.into_data() else {
            // Trailers end at this hop: Trailer, which announces them, is not passed on either.
            return Poll::Ready(None);
        };
        if data.len() > this.left {
            this.cut = true;
            data.truncate(this.left);
        }
        this.left -= data.len();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        !self.cut && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
