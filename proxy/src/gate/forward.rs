//! Plain HTTP requests go to a backend as they are, and its answers come back as they come.
//!
//! Bodies are passed on piece by piece in both directions: who reads slowly holds back who sends, and nothing is
//! gathered here.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::MapErr;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::Gate;
use super::begun::Begun;
use super::dial::Errand;
use super::exchange::AnswerBody;
use super::fleet::Berth;
use super::handshake::check_framing;
use super::pool::{Place, RequestBody};
use super::refusal::Refusal;
use super::sender::Sender;
use super::upload::{Turn, Turns, Upload};
use super::upstream::{self, Failure};

/// How long the rest of a request's body may stand still behind the whole answer. 5 s, as NGINX's `lingering_timeout`: the
/// server or the client does without it.
const REST_PATIENCE: Duration = Duration::from_secs(5);

/// Sends a request to a server, and gives its answer. The answer's body carries its connection, and gives it back when it
/// has been read.
///
/// Once the request may have been written nothing is tried again, since the backend may have acted on it: but for what
/// [`copy`] says.
/// Cancel safe: the connection is closed.
///
/// # Errors
/// No server can be reached; or the one that was asked closed, was late, or sent something that is no HTTP answer.
pub(super) async fn forward(
    gate: &Arc<Gate>,
    errand: Errand,
    request: Request<RequestBody>,
) -> Result<(u16, Response<AnswerBody>), Refusal> {
    let turns = Turns::new();
    let mut request = request.map(|body| RequestBody::new(Upload::new(body, turns.clone())));
    gate.spelling(errand.way.backend).apply(&mut request);
    let keep = keep(gate, errand.way.backend, &mut request);
    let mut search = gate.search(errand)?;
    loop {
        let berth = search.next().await?;
        let site = berth.site().ok_or(Refusal::Internal)?;
        let place = (errand.purpose, errand.way.backend, site.address.clone());
        match send(gate, &errand, &berth, &place, request, &turns).await {
            Ok((sender, response)) => {
                return answered(response, Lease { sender, place, berth, turns, keep, gate: gate.clone() }).await;
            }
            Err(Unanswered::Unsent(back, failure)) => {
                request = *back;
                search.failed(&berth, &failure);
            }
            Err(Unanswered::Failed(failure)) => {
                berth.failed(&failure);
                let server = tracing::field::display(&place.2);
                tracing::info!(conn = %errand.id, server, %failure, "no answer of the backend");
                return Err(failure.refusal);
            }
        }
    }
}

/// For how long the connection of a request is kept behind it, if it is at all.
fn keep(gate: &Gate, backend: u16, request: &mut Request<RequestBody>) -> Option<Duration> {
    let backend = gate.config.backends.get(usize::from(backend))?;
    if backend.keep_alive.is_none() {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // One that begins with a PROXY header is this client's. And where a body means nothing (RFC 9110 §9.3.1, §9.3.2, §9.3.5)
    // a server may take it for the next request: nobody else's comes behind it.
    let odd =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE) && !request.body().is_end_stream();
    backend.keep_alive.filter(|_| backend.send_proxy.is_none() && !odd)
}

/// A request that may reach a server twice: it asks for the same, however often it is asked (RFC 9110 §9.2.2), and has no
/// body.
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.method().is_idempotent() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::new(Empty::new().map_err(|never| match never {})));
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    Some(copy)
}

/// Sends a request to the server that it has a place on: over a connection that others have used, if there is one.
///
/// Servers close such a connection when they like, perhaps as the request is written. One that may reach a server twice is
/// sent again then, once, over a connection of its own.
async fn send(
    gate: &Arc<Gate>,
    errand: &Errand,
    berth: &Berth,
    place: &Place,
    mut request: Request<RequestBody>,
    turns: &Turns,
) -> Result<(Sender, Response<Incoming>), Unanswered> {
    let patience = gate.config.timeouts(errand.way.route).http_response;
    if let Some(mut sender) = gate.pool.take(place) {
        let (again, heard) = (copy(&request), sender.heard());
        match (ask(&mut sender, request, turns, errand.left(patience)).await, again) {
            // The server closed it before the request was written, which says nothing of a new one.
            (Err(Unanswered::Unsent(back, _)), _) => request = *back,
            (Err(Unanswered::Failed(failure)), Some(again))
                if failure.refusal == Refusal::BackendClosed && sender.heard() == heard =>
            {
                tracing::debug!(conn = %errand.id, %failure, "a kept connection had ended: the request is sent once more");
                request = again;
            }
            (done, _) => return done.map(|response| (sender, response)),
        }
    }
    let mut sender = match connect(gate, errand, berth).await {
        Ok(sender) => sender,
        Err(failure) => return Err(Unanswered::Unsent(Box::new(request), failure)),
    };
    ask(&mut sender, request, turns, errand.left(patience)).await.map(|response| (sender, response))
}

/// A new connection to a server.
async fn connect(gate: &Arc<Gate>, errand: &Errand, berth: &Berth) -> Result<Sender, Failure> {
    let stream = gate.connect(errand, berth).await?;
    // Without a user timeout: a server that lives and takes nothing of a body at present is `http_response`'s to judge.
    // One that the kernel refuses is one whose peer is gone.
    let _ = stream.watch_for_death(gate.config.relay.keepalive, Duration::ZERO);
    Sender::to_server(stream, &gate.config.limits, gate.spelling(errand.way.backend)).await
}

/// Why there is no answer.
enum Unanswered {
    /// Nothing has been written. The request is good for another connection; this is why it is not for this one.
    Unsent(Box<Request<RequestBody>>, Failure),
    Failed(Failure),
}

/// Waits for the head of the answer. The server may take this long for it once the request's last byte has come; the client
/// may be silent for as long in the middle of its body, and may send one for as long as it likes.
async fn ask(
    sender: &mut Sender,
    request: Request<RequestBody>,
    turns: &Turns,
    patience: Duration,
) -> Result<Response<Incoming>, Unanswered> {
    turns.servers();
    let mut answer = pin!(sender.send(request));
    loop {
        let (_, waited) = turns.now();
        match timeout(patience.saturating_sub(waited), answer.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut error)) => {
                return Err(match error.take_message() {
                    Some(request) => Unanswered::Unsent(Box::new(request), Refusal::BackendClosed.into()),
                    None => Unanswered::Failed(upstream::broken(error.into_error())),
                });
            }
            Err(_) => match turns.now() {
                // Somebody else's turn, or a new one, has begun meanwhile.
                (_, waited) if waited < patience => {}
                (Turn::Client, _) => return Err(Unanswered::Failed(Refusal::BodyTimeout.into())),
                (Turn::Server, _) => return Err(Unanswered::Failed(Refusal::ResponseTimeout.into())),
            },
        }
    }
}

async fn answered(response: Response<Incoming>, lease: Lease) -> Result<(u16, Response<AnswerBody>), Refusal> {
    let checked = match response.status() {
        // Nobody asked for that.
        StatusCode::SWITCHING_PROTOCOLS => Err(Refusal::BackendUpgrade),
        _ => check_framing(response.headers()),
    };
    if let Err(refusal) = checked {
        lease.berth.failed(&refusal.into());
        return Err(refusal);
    }
    // What came with the head is looked at before the head goes on.
    lease.sender.settle().await;
    let ((head, body), server) = (response.into_parts(), lease.berth.server());
    match Begun::look(body.map_err(to_io as fn(_) -> _)).await {
        Ok(body) => {
            lease.berth.answered(head.status);
            let body = Leased { body, lease: Some(lease) };
            Ok((server, Response::from_parts(head, AnswerBody::new(body))))
        }
        Err(error) => {
            let failure = upstream::broken_body(error);
            lease.berth.failed(&failure);
            tracing::info!(server = tracing::field::display(&lease.place.2), %failure, "no answer of the backend");
            Err(failure.refusal)
        }
    }
}

fn to_io(error: hyper::Error) -> io::Error {
    io::Error::other(error)
}

/// A connection that an answer is still coming over.
struct Lease {
    sender: Sender,
    place: Place,
    berth: Berth,
    turns: Turns,
    /// For how long it is kept, if it is.
    keep: Option<Duration>,
    gate: Arc<Gate>,
}

impl Lease {
    /// The answer has ended: the next request may use it, once the rest of this one's body has gone.
    fn end(self) {
        let Self { mut sender, place, berth, turns, keep, gate } = self;
        drop(berth);
        tokio::spawn(async move {
            match (is_free(&mut sender, &turns, REST_PATIENCE).await, keep) {
                (true, Some(keep)) => {
                    sender.rest();
                    gate.pool.put(place, sender, keep);
                }
                (true, None) => drop(sender),
                (false, _) => sender.close(),
            }
        });
    }
}

/// Waits until a connection can take another request: a server may have answered before it has the whole body, and read on.
/// Whether it can; not when the rest stands still for so long.
async fn is_free(sender: &mut Sender, turns: &Turns, patience: Duration) -> bool {
    turns.servers();
    loop {
        let (_, waited) = turns.now();
        match timeout(patience.saturating_sub(waited), poll_fn(|cx| sender.poll_ready(cx))).await {
            Ok(ready) => return ready.is_ok(),
            Err(_) if turns.now().1 >= patience => return false,
            Err(_) => {}
        }
    }
}

/// A backend's body, as it comes.
type Coming = MapErr<Incoming, fn(hyper::Error) -> io::Error>;

/// A backend's body with its connection.
struct Leased {
    body: Begun<Coming>,
    lease: Option<Lease>,
}

impl Leased {
    fn ended(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.end();
        }
    }
}

impl Body for Leased {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                self.ended();
                return Poll::Ready(None);
            };
            // Trailers end at this hop: Trailer, which announces them, is not passed on either.
            if let Ok(data) = frame?.into_data() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        // Whoever knows the length does not ask for the end.
        if self.body.is_end_stream() {
            self.ended();
        }
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
