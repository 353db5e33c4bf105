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
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::Gate;
use super::dial::Errand;
use super::exchange::AnswerBody;
use super::fleet::Berth;
use super::handshake::check_framing;
use super::pool::{Place, RequestBody, Sender};
use super::refusal::Refusal;
use super::upload::{Turn, Turns, Upload};
use super::upstream::{self, Failure};

/// Sends a request to a server, and gives its answer. The answer's body carries its connection, and gives it back when it
/// has been read.
///
/// Once the request may have been written nothing is tried again: the backend may have acted on it.
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
    let mut search = gate.search(errand)?;
    loop {
        let berth = search.next().await?;
        let site = berth.site().ok_or(Refusal::Internal)?;
        let place = (errand.way.backend, site.address.clone());
        match send(gate, &errand, &berth, &place, request, &turns).await {
            Ok((sender, response)) => return answered(response, Lease { sender, place, berth, gate: gate.clone() }),
            Err(Unanswered::Unsent(back, failure)) => {
                request = *back;
                search.failed(&berth, &failure);
            }
            Err(Unanswered::Failed(failure)) => {
                berth.failed(&failure);
                let server = tracing::field::display(&place.1);
                tracing::info!(conn = %errand.id, server, %failure, "no answer of the backend");
                return Err(failure.refusal);
            }
        }
    }
}

/// Sends a request to the server that it has a place on: over a connection that others have used, if there is one.
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
        match ask(&mut sender, request, turns, errand.left(patience)).await {
            // The server closed it before the request was written, which says nothing of a new one.
            Err(Unanswered::Unsent(back, _)) => request = *back,
            done => return done.map(|response| (sender, response)),
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
    let spelling = gate.spelling(errand.way.backend);
    let (sender, connection) = upstream::begin::<RequestBody>(stream, &gate.config.limits, spelling).await?;
    // Ends with the connection, which ends when its sender and its answer are dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a backend failed");
        }
    });
    Ok(sender)
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
    let mut answer = pin!(sender.try_send_request(request));
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

fn answered(response: Response<Incoming>, lease: Lease) -> Result<(u16, Response<AnswerBody>), Refusal> {
    let checked = match response.status() {
        // Nobody asked for that.
        StatusCode::SWITCHING_PROTOCOLS => Err(Refusal::BackendUpgrade),
        _ => check_framing(response.headers()),
    };
    if let Err(refusal) = checked {
        lease.berth.failed(&refusal.into());
        return Err(refusal);
    }
    lease.berth.answered(response.status());
    let server = lease.berth.server();
    Ok((server, response.map(|body| AnswerBody::new(Leased { body, lease: Some(lease) }))))
}

/// A connection that an answer is still coming over.
struct Lease {
    sender: Sender,
    place: Place,
    berth: Berth,
    gate: Arc<Gate>,
}

impl Lease {
    /// The answer has ended: the next request may use it.
    fn end(mut self) {
        // One that began with a PROXY header is this client's.
        let backend = self.gate.config.backends.get(usize::from(self.place.0));
        let keep = backend.filter(|backend| backend.send_proxy.is_none()).map(|backend| backend.keep_alive);
        let Some(keep) = keep else { return };
        drop(self.berth);
        tokio::spawn(async move {
            if poll_fn(|cx| self.sender.poll_ready(cx)).await.is_ok() {
                self.gate.pool.put(self.place, self.sender, keep);
            }
        });
    }
}

/// A backend's body with its connection.
struct Leased {
    body: Incoming,
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
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
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
