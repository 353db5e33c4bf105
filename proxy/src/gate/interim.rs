//! Interim answers (1xx, RFC 9110 §15.2) on their way from a backend to a client.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode};

use super::handshake::forward as headers;

/// Bytes of heads that may wait for one client. 64 KiB: one head of the largest size. What a backend sends beyond it, to a
/// client that reads more slowly, is left out: nothing depends on an interim answer.
const MOST: usize = 64 * 1024;

/// What a field costs in memory beside its name and value.
const FIELD: usize = 64;

/// One of them.
pub(super) struct Interim {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

impl Interim {
    fn size(&self) -> usize {
        let fields = self.headers.iter().map(|(name, value)| FIELD + name.as_str().len() + value.len());
        FIELD + fields.sum::<usize>()
    }
}

/// Those to one request that the client has not been given yet, in their order.
#[derive(Clone, Default)]
pub(super) struct Interims(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Queue {
    heads: VecDeque<Interim>,
    bytes: usize,
    /// How many the client has been given.
    given: usize,
}

impl Interims {
    /// Has those to a request come here.
    pub(super) fn follow<B>(&self, request: &mut Request<B>) {
        let interims = self.clone();
        hyper::ext::on_informational(request, move |answer| {
            interims.push(Interim { status: answer.status(), headers: headers::interim(answer.headers()) });
        });
    }

    pub(super) fn push(&self, interim: Interim) {
        let size = interim.size();
        let mut queue = self.queue();
        if queue.bytes + size > MOST {
            tracing::debug!(status = interim.status.as_u16(), "too many interim answers wait for a client");
            return;
        }
        queue.bytes += size;
        queue.heads.push_back(interim);
        drop(queue);
        self.0.waker.wake();
    }

    /// The next one.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Interim> {
        self.0.waker.register(cx.waker());
        let mut queue = self.queue();
        let Some(interim) = queue.heads.pop_front() else { return Poll::Pending };
        queue.bytes = queue.bytes.saturating_sub(interim.size());
        queue.given += 1;
        Poll::Ready(interim)
    }

    /// How many have been taken from here.
    pub(super) fn given(&self) -> usize {
        self.queue().given
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::task::Waker;

    use http::HeaderValue;

    use super::*;

    #[test]
    fn they_come_in_their_order_and_wait_in_bounded_memory() {
        let (interims, cx) = (Interims::default(), Context::from_waker(Waker::noop()));
        let next = || match interims.poll_next(&cx) {
            Poll::Ready(interim) => Some(interim.status.as_u16()),
            Poll::Pending => None,
        };
        for round in 0..3 {
            for number in 0..2000 {
                let mut headers = HeaderMap::new();
                headers.insert("link", HeaderValue::from_str(&"x".repeat(100)).unwrap());
                let status = StatusCode::from_u16(102 + number % 50).unwrap();
                interims.push(Interim { status, headers });
            }
            let given: Vec<u16> = std::iter::from_fn(next).collect();
            assert!((100..1000).contains(&given.len()), "round {round}: {}", given.len());
            assert!(given.iter().enumerate().all(|(at, status)| usize::from(*status) == 102 + at % 50), "{given:?}");
        }
    }
}
