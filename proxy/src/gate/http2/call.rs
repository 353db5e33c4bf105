//! One request over HTTP/2 that waits for its answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Body as _;

use super::Tunnel;
use super::body::{self, Received};
use super::calls::Counted;
use crate::gate::exchange::{AnswerBody, Gone};
use crate::gate::handshake::http2;
use crate::gate::interim::{Interim, Interims};

/// Interim answers to one request. 256: the HTTP/2 library keeps those that a client does not read in memory.
const MOST_INTERIMS: usize = 256;

/// A stream on which a request has come and no answer has gone.
pub(in crate::gate) struct Call {
    respond: SendResponse<Bytes>,
    /// The request's body, until somebody takes it; a handshake's is what the client sends through its tunnel.
    body: Option<Received>,
    /// The interim answers to the request.
    interims: Interims,
    /// The request is a HEAD: no answer to it has a body (RFC 9110 §9.3.2), whatever its Content-Length says.
    is_head: bool,
    counted: Counted,
}

impl Call {
    pub(super) fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>, counted: Counted) -> (Self, Parts) {
        let (head, stream) = request.into_parts();
        let body = Some(Received::new(stream, &head.headers));
        let is_head = head.method == Method::HEAD;
        (Self { respond, body, interims: Interims::default(), is_head, counted }, head)
    }

    /// The body of the request. What is not taken by the time of the answer is not read.
    pub(in crate::gate) fn take_body(&mut self) -> Option<Received> {
        self.body.take()
    }

    /// Where interim answers to the request may come: the client is given them while something is done on its behalf.
    pub(in crate::gate) fn interims(&self) -> Interims {
        self.interims.clone()
    }

    /// Gives the client the interim answers that have come.
    ///
    /// # Errors
    /// The client has gone.
    fn say_interims(&mut self, cx: &Context<'_>) -> Result<(), Gone> {
        while let Poll::Ready(Interim { status, headers }) = self.interims.poll_next(cx) {
            if self.interims.given() <= MOST_INTERIMS {
                let mut interim = Response::new(());
                (*interim.status_mut(), *interim.headers_mut()) = (status, headers);
                self.respond.send_informational(in_http2(interim)).map_err(|_| Gone)?;
            }
        }
        Ok(())
    }

    /// Does something on the client's behalf for as long as the client waits for it.
    ///
    /// # Errors
    /// The client reset the stream, or its connection is gone; `work` is dropped.
    pub(in crate::gate) async fn while_there<F: Future>(&mut self, work: F) -> Result<F::Output, Gone> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(ended) = self.respond.poll_reset(cx) {
                // An error is the end of the whole connection.
                if ended.is_ok() {
                    self.counted.taken_back();
                }
                return Poll::Ready(Err(Gone));
            }
            if self.say_interims(cx).is_err() {
                return Poll::Ready(Err(Gone));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Answers with a tunnel's head. What is sent behind it is in the tunnel's hands.
    ///
    /// # Errors
    /// The client has gone.
    pub(in crate::gate) fn open(mut self, response: Response<()>) -> Result<Tunnel, Gone> {
        self.say_interims(&Context::from_waker(Waker::noop()))?;
        let body = self.body.take().and_then(Received::into_stream).ok_or(Gone)?;
        let send = self.respond.send_response(in_http2(response), false).map_err(|_| Gone)?;
        Ok(Tunnel::new(body, send, self.counted))
    }

    /// Answers, and comes back when the last byte of the answer is under way. `patience`: how long the client may take
    /// nothing of it.
    ///
    /// # Errors
    /// The client has gone or takes nothing, or the body broke.
    pub(in crate::gate) async fn answer(
        mut self,
        response: Response<AnswerBody>,
        patience: Duration,
    ) -> Result<(), Gone> {
        self.say_interims(&Context::from_waker(Waker::noop()))?;
        let (head, body) = in_http2(response).into_parts();
        let over = self.is_head || body.is_end_stream();
        let send = self.respond.send_response(Response::from_parts(head, ()), over).map_err(|_| Gone)?;
        if over { Ok(()) } else { body::send(send, body, patience).await.map_err(|_| Gone) }
    }
}

fn in_http2<B>(response: Response<B>) -> Response<B> {
    let (mut head, body) = response.into_parts();
    http2::answer(&mut head);
    Response::from_parts(head, body)
}
