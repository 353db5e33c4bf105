//! The admin listener.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::metrics::PageOfGate;
use super::{Backends, Certificates, Snapshots, connections, metrics};
use crate::config::Config;
use crate::handoff::Snapshot;
use crate::handoff::stats::Stats;

/// Connections at one time: a few scrapers and a few people.
const CONNECTIONS: usize = 16;

/// From accept to the end of the answer, which is some megabytes at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait when the listener fails, so as not to spin.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What the OpenMetrics text format is served as (`prometheus-client`'s own examples).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin listener shows, and where it has it from.
pub struct Admin {
    snapshots: Snapshots,
    of_gate: OfGate,
    config: Config,
}

/// What only the gate knows.
pub struct OfGate {
    /// Its counters.
    pub stats: Arc<Stats>,
    /// What the places of [`Stats::handshakes`] mean: the labels `result` and `reason`.
    pub handshakes: Vec<(usize, &'static str, &'static str)>,
    /// The certificates of its listeners.
    pub certificates: Certificates,
    /// The servers behind it.
    pub backends: Backends,
}

impl Admin {
    /// Where everything is had from.
    #[must_use]
    pub fn new(snapshots: Snapshots, of_gate: OfGate, config: Config) -> Self {
        Self { snapshots, of_gate, config }
    }
}

/// Serves the admin listener for ever. Whoever reaches it sees clients' addresses.
pub async fn serve(listener: TcpListener, admin: Admin) {
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot watch the admin listener"),
    };
    let (admin, room) = (Arc::new(admin), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        // Never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(async move {
                    converse(stream, admin).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept on the admin listener");
                sleep(BACK_OFF).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, admin: Arc<Admin>) {
    let service = service_fn(|request: Request<Incoming>| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(answer(&request, &admin).await) }
    });
    // One request per connection: idle ones would take the places of others.
    let connection = http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(PATIENCE, connection).await {
        tracing::debug!(%error, "an admin connection failed");
    }
}

async fn answer(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    let (render, kind): (fn(&Snapshot, &Rendering) -> Option<String>, _) = match request.uri().path() {
        "/metrics" => (metrics_text, OPEN_METRICS),
        "/connections" => (connections_text, "application/json"),
        _ => return plain(StatusCode::NOT_FOUND, "there is /metrics and /connections\n".into()),
    };
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "this is only for GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let snapshot = match admin.snapshots.fetch().await {
        Ok(snapshot) => snapshot,
        Err(error) => return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    let rendering = Rendering { page: admin.of_gate.page(), config: admin.config.clone() };
    // Ten thousand pairs take some tens of milliseconds, which belong to no handshake's thread.
    let rendered = tokio::task::spawn_blocking(move || render(&snapshot, &rendering)).await;
    match rendered {
        Ok(Some(text)) => with_type(StatusCode::OK, text, kind),
        _ => plain(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written\n".into()),
    }
}

/// What is needed beside the snapshot.
struct Rendering {
    page: PageOfGate,
    config: Config,
}

impl OfGate {
    fn page(&self) -> PageOfGate {
        let counts = self.stats.handshakes();
        let handshakes = self.handshakes.iter();
        let handshakes =
            handshakes.filter_map(|(place, result, reason)| Some((*result, *reason, *counts.get(*place)?))).collect();
        PageOfGate {
            handshakes,
            clients: self.stats.clients(),
            lost_lines: self.stats.lost_lines(),
            shortages: self.stats.shortages(),
            certificates: self.certificates.rows(),
            backends: (self.backends)(),
        }
    }
}

fn metrics_text(snapshot: &Snapshot, rendering: &Rendering) -> Option<String> {
    metrics::render(snapshot, rendering.page.clone()).ok()
}

fn connections_text(snapshot: &Snapshot, rendering: &Rendering) -> Option<String> {
    connections::render(snapshot, &rendering.config).ok()
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    with_type(status, text, "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, text: String, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
