//! Snapshots of the keeper's counters, shared by those who ask at the same time.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::handoff::Snapshot;

/// How long the keeper may take. 5 s: half of Prometheus's own default limit on a scrape.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests that may wait to be sent: one is on its way at a time, a new one follows only when it is given up.
const QUEUE: usize = 4;

/// Asks for snapshots. A clone asks through the same queue.
#[derive(Clone)]
pub struct Snapshots {
    asked: Arc<Mutex<Asked>>,
    requests: mpsc::Sender<u64>,
}

#[derive(Default)]
struct Asked {
    last_request: u64,
    /// The request that is on its way, and who waits for its answer.
    waiting: Option<(u64, Vec<oneshot::Sender<Arc<Snapshot>>>)>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum NoSnapshot {
    /// The keeper did not answer in time.
    #[error("the keeper did not answer within {} s", PATIENCE.as_secs())]
    Late,
    /// The keeper's answer cannot be read.
    #[error("the keeper's answer cannot be read; the log says why")]
    Broken,
}

impl Snapshots {
    /// The asker, and the queue of requests that somebody must send to the keeper.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<u64>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        (Self { asked: Arc::default(), requests }, queue)
    }

    /// A snapshot not older than this call, or than the request of somebody else that is still on its way.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`NoSnapshot`].
    pub async fn fetch(&self) -> Result<Arc<Snapshot>, NoSnapshot> {
        let (sender, receiver) = oneshot::channel();
        let request = self.join(sender);
        match timeout(PATIENCE, receiver).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(_)) => Err(NoSnapshot::Broken),
            Err(_) => {
                self.give_up(request);
                Err(NoSnapshot::Late)
            }
        }
    }

    fn join(&self, sender: oneshot::Sender<Arc<Snapshot>>) -> u64 {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((request, waiting)) = &mut asked.waiting {
            waiting.push(sender);
            return *request;
        }
        asked.last_request += 1;
        let request = asked.last_request;
        asked.waiting = Some((request, vec![sender]));
        // Fails when requests are not sent on any more, or not fast enough: then nobody answers in time.
        let _ = self.requests.try_send(request);
        request
    }

    /// Without an answer in time the next one asks anew.
    fn give_up(&self, request: u64) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.waiting = asked.waiting.take().filter(|(other, _)| *other != request);
    }

    /// The keeper has answered a request: the descriptor is a memfd with the snapshot.
    pub fn arrived(&self, request: u64, fds: Vec<OwnedFd>) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, waiting)) = asked.waiting.take_if(|(other, _)| *other == request) else { return };
        drop(asked);
        tokio::task::spawn_blocking(move || match Snapshot::read(fds) {
            Ok(snapshot) => {
                let snapshot = Arc::new(snapshot);
                for waiter in waiting {
                    // Who has gone does not wait.
                    let _ = waiter.send(snapshot.clone());
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the keeper's snapshot"),
        });
    }
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
