//! Who asked, and how they are answered.

use std::future::Future;
use std::io;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use tokio::time::{Instant, timeout_at};

use super::{ANSWER_PATIENCE, after};
use crate::gate::exchange::{AnswerBody, Exchange, Finished, Gone};
use crate::gate::http2::Call;
use crate::gate::linger;
use crate::gate::pool::RequestBody;
use crate::gate::stream::Stream;

/// A client that is owed an answer.
pub(in crate::gate) enum Client {
    /// On a connection of its own.
    Http1(Exchange<Stream>),
    /// On one stream of an HTTP/2 connection.
    Http2(Box<Call>),
}

impl Client {
    /// Does something on the client's behalf for as long as the client is there.
    ///
    /// # Errors
    /// The client is gone; `work` is dropped.
    pub(super) async fn while_there<F: Future>(&mut self, work: F) -> Result<F::Output, Gone> {
        match self {
            Self::Http1(exchange) => exchange.while_there(work).await,
            Self::Http2(call) => call.while_there(work).await,
        }
    }

    /// The body of its request. What is not taken by the time of the answer is not read.
    pub(super) fn take_body(&mut self) -> RequestBody {
        let body = match self {
            Self::Http1(exchange) => exchange.take_body().map(UnsyncBoxBody::new),
            Self::Http2(call) => call.take_body().map(UnsyncBoxBody::new),
        };
        body.unwrap_or_else(|| UnsyncBoxBody::new(nothing()))
    }

    /// Has the client given the interim answers to a request that goes to a backend on its behalf, as they come.
    pub(super) fn follow<B>(&self, request: &mut Request<B>) {
        let interims = match self {
            Self::Http1(exchange) => exchange.interims(),
            Self::Http2(call) => Some(call.interims()),
        };
        if let Some(interims) = interims {
            interims.follow(request);
        }
    }

    /// From here on a client that ends its direction is of no use: it has gone.
    pub(super) fn needs_both_directions(&mut self) {
        if let Self::Http1(exchange) = self {
            exchange.needs_both_directions();
        }
    }

    /// Answers a handshake with its 101, and gives the stream behind it.
    ///
    /// # Errors
    /// The client is gone, or was too slow.
    pub(super) async fn switch(self, head: Response<()>, deadline: Instant) -> Result<Finished<Stream>, Gone> {
        match self {
            Self::Http1(exchange) => exchange.answer(head.map(|()| UnsyncBoxBody::new(nothing())), deadline).await,
            Self::Http2(call) => {
                let tunnel = call.open(head)?;
                Ok(Finished { io: Stream::Http2(Box::new(tunnel)), read_ahead: Bytes::new() })
            }
        }
    }

    /// Answers, and lets the client go.
    pub(super) async fn answer(self, response: Response<AnswerBody>) {
        let patience = after(ANSWER_PATIENCE);
        match self {
            Self::Http1(exchange) => {
                if let Ok(finished) = exchange.answer(response, patience).await {
                    linger::close_answered(finished.io).await;
                }
            }
            // A client that does not take it is reset.
            Self::Http2(call) => drop(timeout_at(patience, call.answer(response, ANSWER_PATIENCE)).await),
        }
    }
}

pub(super) fn nothing() -> impl hyper::body::Body<Data = Bytes, Error = io::Error> + Send + 'static {
    Empty::new().map_err(|never| match never {})
}
