//! The admin listener.

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::guests::{Guest, Guests};
use super::metrics::PageOfGate;
use super::{Backends, Certificates, Snapshots, connections, metrics};
use crate::config::{Config, split_authority};
use crate::handoff::Snapshot;
use crate::handoff::stats::Stats;

/// From accept to the complete head of the request. 2 s: who asks here is near.
const HEAD: Duration = Duration::from_secs(2);

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
    let (admin, guests) = (Arc::new(admin), Guests::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, admin.clone(), guests.enter()));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept on the admin listener");
                sleep(BACK_OFF).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, admin: Arc<Admin>, guest: Guest) {
    let service = service_fn(|request: Request<Incoming>| {
        let (admin, guest) = (&admin, &guest);
        async move {
            guest.ask().await;
            Ok::<_, Infallible>(answer(&request, admin).await)
        }
    });
    // One request per connection: idle ones would take the places of others.
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = guest.must_leave() => tracing::debug!("an admin connection was closed for another one"),
        ended = timeout(PATIENCE, connection) => {
            if let Ok(Err(error)) = ended {
                tracing::debug!(%error, "an admin connection failed");
            }
        }
    }
}

/// Whether a request is for this listener by its own name: each Host (RFC 9110 §7.2) is an IP address, `localhost`, or one
/// of these names. Programs that send none are no browsers.
fn is_own(request: &Request<Incoming>, names: &[String]) -> bool {
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let hosts = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    hosts.chain(target).all(|host| std::str::from_utf8(host).is_ok_and(|host| is_own_name(host, names)))
}

fn is_own_name(host: &str, names: &[String]) -> bool {
    let Ok((name, _)) = split_authority(host) else { return false };
    let name = name.strip_suffix('.').unwrap_or(&name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || names.iter().any(|own| own.strip_suffix('.').unwrap_or(own).eq_ignore_ascii_case(name))
}

async fn answer(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    let names = admin.config.admin.as_ref().map_or(&[][..], |admin| &admin.hosts);
    if !is_own(request, names) {
        let text = "this listener has no such name: use its address, or add the name to hosts in [admin]\n";
        return plain(StatusCode::MISDIRECTED_REQUEST, text.into());
    }
    let (render, kind): (fn(&Snapshot, &Rendering) -> Option<String>, _) = match request.uri().path() {
        "/metrics" => (metrics_text, OPEN_METRICS),
        "/connections" => (connections_text, "application/json"),
        _ => return plain(StatusCode::NOT_FOUND, "there is /metrics and /connections\n".into()),
    };
    // The HTTP library leaves the body out of what answers a HEAD.
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "this is only for GET and HEAD\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
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
            http2: self.stats.http2(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_configured_names_are_its_own() {
        let names = ["sluice.internal".to_owned(), "Metrics.Example.".to_owned()];
        for own in [
            "127.0.0.1:9900",
            "192.0.2.7",
            "[::1]:9900",
            "localhost:9900",
            "LOCALHOST",
            "a.localhost",
            "sluice.internal:9900",
            "SLUICE.internal.",
            "metrics.example",
        ] {
            assert!(is_own_name(own, &names), "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:9900",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "xlocalhost",
            "",
            "a b",
            "0x7f.1",
        ] {
            assert!(!is_own_name(other, &names), "{other}");
        }
        assert!(!is_own_name("sluice.internal", &[]));
    }
}
