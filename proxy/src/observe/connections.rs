//! `GET /connections`: one JSON object per live pair.

use std::collections::{BTreeMap, HashMap};

use proxy_common::layout::{DirCounters, Direction};
use proxy_common::scan::{OPCODES, bucket_limit};
use serde::Serialize;

use crate::config::Config;
use crate::handoff::{PairRow, Snapshot};
use crate::sys::clock::epoch_ms;

#[derive(Serialize)]
struct Connection<'a> {
    id: String,
    client: String,
    listener: String,
    route: Option<Route>,
    backend: Option<&'a str>,
    server: Option<String>,
    tls: bool,
    engine: &'static str,
    why: Option<&'static str>,
    age_seconds: f64,
    idle_seconds: f64,
    /// `null`: it does not end with a token.
    expires_in_seconds: Option<f64>,
    client_to_backend: Traffic,
    backend_to_client: Traffic,
}

#[derive(Serialize)]
struct Route {
    /// `null`: every host.
    host: Option<String>,
    path: String,
}

#[derive(Serialize)]
struct Traffic {
    bytes: u64,
    messages: u64,
    frames: BTreeMap<&'static str, u64>,
    payload_sizes: Vec<Size>,
    close_code: Option<u32>,
    last_activity_seconds_ago: Option<f64>,
    mode: &'static str,
}

/// How many frames had a payload of at most `le` bytes and more than the size before.
#[derive(Serialize)]
struct Size {
    /// `null`: more than any other.
    le: Option<u64>,
    count: u64,
}

/// The list as JSON. Sizes that no frame had are left out.
///
/// # Errors
/// None that the types allow.
pub(super) fn render(snapshot: &Snapshot, config: &Config) -> serde_json::Result<String> {
    let now_ms = epoch_ms();
    let found = snapshot.found.iter().map(|found| ((found.backend, found.server), found));
    let found: HashMap<_, _> = found.collect();
    let list: Vec<_> = snapshot
        .pairs
        .iter()
        .map(|row| {
            let server = (row.facts.backend, row.facts.server);
            let found = found.get(&server).map(|found| found.address.to_string());
            let server = found.or_else(|| config.server(server.0, server.1).map(ToString::to_string));
            connection(row, config, server, now_ms, snapshot.now_ns)
        })
        .collect();
    serde_json::to_string(&list)
}

fn connection<'a>(
    row: &PairRow,
    config: &'a Config,
    server: Option<String>,
    now_ms: u64,
    now_ns: u64,
) -> Connection<'a> {
    let facts = &row.facts;
    let listener = config.listeners.get(usize::from(facts.listener));
    let backend = config.backends.get(usize::from(facts.backend));
    let age_seconds = now_ms.saturating_sub(facts.accepted_ms) as f64 / 1e3;
    let last = row.counters.dirs.iter().map(|counters| counters.last_activity_ns).max().unwrap_or_default();
    let [to_backend, to_client] = Direction::ALL.map(|direction| {
        let index = direction as usize;
        traffic(&row.counters.dirs[index], row.user_mode[index], now_ns)
    });
    Connection {
        id: facts.id.to_string(),
        client: facts.client.to_string(),
        listener: listener.map_or_else(|| facts.listener.to_string(), |listener| listener.bind.to_string()),
        route: config.routes.get(usize::from(facts.route)).map(|route| Route {
            host: Some(route.host.0.join(", ")).filter(|host| !host.is_empty()),
            path: route.path.to_string(),
        }),
        backend: backend.map(|backend| backend.name.as_str()),
        server,
        tls: listener.is_some_and(|listener| listener.tls.is_some()),
        engine: row.engine.label(),
        why: row.why_not.map(|why| why.label()),
        age_seconds,
        // A pair without a byte has been silent since it was accepted.
        idle_seconds: if last == 0 { age_seconds } else { ago(now_ns, last) },
        expires_in_seconds: facts.expires_ms.map(|at| at.get().saturating_sub(now_ms) as f64 / 1e3),
        client_to_backend: to_backend,
        backend_to_client: to_client,
    }
}

fn traffic(counters: &DirCounters, user_mode: bool, now_ns: u64) -> Traffic {
    let sizes = counters.sizes.iter().enumerate().filter(|(_, count)| **count > 0);
    Traffic {
        bytes: counters.bytes,
        messages: counters.messages,
        frames: OPCODES.into_iter().zip(counters.frames).collect(),
        payload_sizes: sizes.map(|(bucket, count)| Size { le: bucket_limit(bucket), count: *count }).collect(),
        close_code: (counters.close_code != 0).then_some(counters.close_code),
        last_activity_seconds_ago: (counters.last_activity_ns != 0).then(|| ago(now_ns, counters.last_activity_ns)),
        mode: if user_mode { "user" } else { "kernel" },
    }
}

/// Seconds between two readings of the same clock in nanoseconds.
fn ago(now_ns: u64, then_ns: u64) -> f64 {
    now_ns.saturating_sub(then_ns) as f64 / 1e9
}
