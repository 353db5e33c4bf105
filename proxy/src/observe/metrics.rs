//! `GET /metrics`: the counters of live and ended pairs in the OpenMetrics text format.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use proxy_common::layout::{DirCounters, Direction, PairCounters};
use proxy_common::scan::{OPCODES, bucket_limit};

use super::{BackendRow, CertificateRow, ServerRow};
use crate::handoff::close::{CODES, CloseCounts};
use crate::handoff::stats::{Http2Event, Process, Short};
use crate::handoff::{ByEngine, Engine, Snapshot, add_to_engine};

/// What only the gate knows, at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct PageOfGate {
    /// Handshakes by `result` and `reason`.
    pub(super) handshakes: Vec<(&'static str, &'static str, u64)>,
    /// Clients that are remembered for their limits, and those forgotten.
    pub(super) clients: [u64; 2],
    /// Log lines that were lost, by [`Process::ALL`].
    pub(super) lost_lines: [u64; Process::ALL.len()],
    /// What befell HTTP/2 connections, by [`Http2Event::ALL`].
    pub(super) http2: [u64; Http2Event::ALL.len()],
    /// How often something was short, by [`Short::ALL`].
    pub(super) shortages: [u64; Short::ALL.len()],
    pub(super) certificates: Vec<CertificateRow>,
    pub(super) backends: Vec<BackendRow>,
}

/// The whole page.
///
/// # Errors
/// None that writing to a string can have.
pub(super) fn render(snapshot: &Snapshot, of_gate: PageOfGate) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page::new(snapshot, of_gate)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// A snapshot summed up: one number per series.
#[derive(Debug)]
struct Page {
    /// By [`Engine::ALL`].
    live: [u64; Engine::ALL.len()],
    by_engine: ByEngine,
    totals: PairCounters,
    ends: Vec<(String, u64)>,
    close_codes: CloseCounts,
    flips: u64,
    gate_starts: u64,
    slow_turns: u64,
    reloads: [u64; 2],
    of_gate: PageOfGate,
}

impl Page {
    fn new(snapshot: &Snapshot, mut of_gate: PageOfGate) -> Self {
        for backend in &mut of_gate.backends {
            backend.servers = merged(std::mem::take(&mut backend.servers));
        }
        let (mut live, mut by_engine) = ([0; Engine::ALL.len()], snapshot.ended);
        for row in &snapshot.pairs {
            live[row.engine.place()] += 1;
            add_to_engine(&mut by_engine, row.engine, &row.counters.dirs, row.copied);
        }
        let mut totals = PairCounters::ZERO;
        for counters in &by_engine {
            add(&mut totals, counters);
        }
        Self {
            live,
            by_engine,
            totals,
            ends: snapshot.ends.clone(),
            close_codes: snapshot.close_codes,
            flips: snapshot.flips,
            gate_starts: snapshot.gate_starts,
            slow_turns: snapshot.slow_turns,
            reloads: snapshot.reloads,
            of_gate,
        }
    }

    fn directions(&self) -> impl Iterator<Item = (&'static str, &DirCounters)> {
        Direction::ALL.into_iter().map(|direction| (direction.label(), &self.totals.dirs[direction as usize]))
    }
}

fn add(sum: &mut PairCounters, more: &PairCounters) {
    for (mine, theirs) in sum.dirs.iter_mut().zip(&more.dirs) {
        mine.add(theirs);
    }
}

/// Writes one counter with its series. The encoder adds `_total` to the name.
fn counter<S: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (S, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// As [`counter`], for one without labels.
fn lone_counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.connections(encoder)?;
        self.traffic(encoder)?;
        self.sizes(encoder)?;
        self.events(encoder)?;
        self.limits(encoder)?;
        self.http2(encoder)?;
        self.files(encoder)?;
        self.backends(encoder)
    }
}

impl Page {
    fn connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("sluice_connections", "Established connections by what carries them");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (engine, count) in Engine::ALL.iter().zip(self.live) {
            ConstGauge::new(count).encode(metric.encode_family(&[("engine", engine.label())])?)?;
        }
        let (name, help) = ("sluice_build", "The program that runs");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Info)?;
        metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let bytes = Direction::ALL.into_iter().flat_map(|direction| {
            Engine::ALL.iter().zip(&self.by_engine).map(move |(engine, counters)| {
                let labels = [("direction", direction.label()), ("engine", engine.label())];
                (labels, counters.dirs[direction as usize].bytes)
            })
        });
        counter(encoder, "sluice_relay_bytes", "Bytes of frames, headers included", bytes)?;
        let frames = self.directions().flat_map(|(direction, counters)| {
            let frames = OPCODES.into_iter().zip(counters.frames);
            frames.map(move |(opcode, count)| ([("direction", direction), ("opcode", opcode)], count))
        });
        counter(encoder, "sluice_frames", "WebSocket frames by opcode", frames)?;
        let messages = self.directions().map(|(direction, counters)| ([("direction", direction)], counters.messages));
        counter(encoder, "sluice_messages", "WebSocket data messages that are complete", messages)
    }

    fn sizes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let name = "sluice_frame_payload_bytes";
        let help = "Frames by payload length; the sum is of all bytes relayed, frame headers included";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (direction, counters) in self.directions() {
            let limits = (0..).map(|bucket| bucket_limit(bucket).map_or(f64::INFINITY, |limit| limit as f64));
            let buckets: Vec<(f64, u64)> = limits.zip(counters.sizes).collect();
            let count = counters.sizes.iter().sum();
            let labels = [("direction", direction)];
            let mut family = metric.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(counters.bytes as f64, count, &buckets, None)?;
        }
        Ok(())
    }

    fn events(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let handshakes = self.of_gate.handshakes.iter();
        let handshakes = handshakes.map(|(result, reason, count)| ([("result", *result), ("reason", *reason)], *count));
        counter(encoder, "sluice_handshakes", "Handshakes by how they ended", handshakes)?;
        let codes = Direction::ALL.into_iter().zip(self.close_codes).flat_map(|(direction, counts)| {
            let counts = CODES.into_iter().zip(counts);
            counts.map(move |(code, count)| ([("direction", direction.label()), ("code", code)], count))
        });
        counter(encoder, "sluice_close_codes", "Last Close frames of ended pairs by status code", codes)?;
        let ends = self.ends.iter().map(|(reason, count)| ([("reason", reason.as_str())], *count));
        counter(encoder, "sluice_pairs_ended", "Ended pairs by reason", ends)?;
        let help = "Directions moved from the kernel to userspace because the receiver was congested";
        lone_counter(encoder, "sluice_relay_flips", help, self.flips)?;
        let slow = "Turns of the keeper's loop that took 100 ms or longer, during which pairs that it carries waited";
        lone_counter(encoder, "sluice_keeper_slow_turns", slow, self.slow_turns)?;
        lone_counter(encoder, "sluice_gate_starts", "Gate processes started", self.gate_starts)?;
        let lost = Process::ALL.into_iter().zip(self.of_gate.lost_lines);
        let lost = lost.map(|(process, lines)| ([("process", process.label())], lines));
        let help = "Log lines that were lost because standard error did not take them";
        counter(encoder, "sluice_log_lines_lost", help, lost)
    }

    fn limits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let shortages = Short::ALL.into_iter().zip(self.of_gate.shortages);
        let shortages = shortages.map(|(what, times)| ([("of", what.label())], times));
        counter(encoder, "sluice_shortages", "Connections that something was short for", shortages)?;
        let (name, help) = ("sluice_client_addresses", "Clients that are remembered for their limits");
        let gauge = ConstGauge::new(self.of_gate.clients[0]);
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        let help =
            "Clients that were forgotten while their rate was still to be remembered: limits.per_client.addresses";
        lone_counter(encoder, "sluice_client_addresses_evicted", help, self.of_gate.clients[1])
    }

    fn http2(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |event| self.of_gate.http2[event as usize];
        let help = "Requests over HTTP/2 that their client took back before they were answered";
        lone_counter(encoder, "sluice_http2_requests_reset", help, of(Http2Event::Reset))?;
        let help = "HTTP/2 connections that were ended with ENHANCE_YOUR_CALM: for too many of these, say (limits.http2_resets)";
        lone_counter(encoder, "sluice_http2_connections_calmed", help, of(Http2Event::Flood))?;
        let help = "Times that an HTTP/2 connection had as many requests and WebSockets as limits.http2_streams allows";
        lone_counter(encoder, "sluice_http2_connections_full", help, of(Http2Event::Full))
    }

    fn files(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let reloads =
            ["ok", "failed"].into_iter().zip(self.reloads).map(|(result, count)| ([("result", result)], count));
        let help = "Times that certificates and other files were read again, by whether they could be used";
        counter(encoder, "sluice_certificate_reloads", help, reloads)?;
        let (name, help) = ("sluice_certificate_not_after_timestamp_seconds", "When a listener's certificate ends");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for row in &self.of_gate.certificates {
            let labels = [("listener", row.listener.as_str()), ("certificate", row.certificate.as_str())];
            ConstGauge::new(row.not_after).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The states that a server can be in, the best first.
const STATES: [&str; 6] = ["up", "new", "ejected", "down", "draining", "gone"];

/// One row for each address, for there is one series of it: what several entries of the configuration have there is
/// summed up, and the best of their states is shown.
fn merged(rows: Vec<ServerRow>) -> Vec<ServerRow> {
    let rank = |row: &ServerRow| STATES.iter().position(|state| *state == row.state);
    let mut merged = BTreeMap::<String, ServerRow>::new();
    for row in rows {
        let Some(sum) = merged.get_mut(&row.address) else {
            merged.insert(row.address.clone(), row);
            continue;
        };
        sum.connections += row.connections;
        sum.picks += row.picks;
        sum.failures += row.failures;
        if rank(&row) < rank(sum) {
            sum.state = row.state;
        }
    }
    merged.into_values().collect()
}

impl Page {
    fn servers(&self) -> impl Iterator<Item = ([(&'static str, &str); 2], &ServerRow)> {
        self.of_gate.backends.iter().flat_map(|backend| {
            let own = ("backend", backend.name.as_str());
            backend.servers.iter().map(move |server| ([own, ("server", server.address.as_str())], server))
        })
    }

    fn backends(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("sluice_server_connections", "Connections and requests on a server");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, server) in self.servers() {
            ConstGauge::new(server.connections).encode(metric.encode_family(&labels)?)?;
        }
        let (name, help) = ("sluice_server_state", "1 for the state that a server is in");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for ([backend, address], server) in self.servers() {
            for state in STATES {
                let labels = [backend, address, ("state", state)];
                ConstGauge::new(u64::from(server.state == state)).encode(metric.encode_family(&labels)?)?;
            }
        }
        let picks = self.servers().map(|(labels, server)| (labels, server.picks));
        counter(encoder, "sluice_server_picks", "Requests that this gate has sent to a server", picks)?;
        let failures = self.servers().map(|(labels, server)| (labels, server.failures));
        counter(encoder, "sluice_server_failures", "Of these, those that the server failed", failures)?;
        self.pressure(encoder)
    }

    fn pressure(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("sluice_backend_queue", "Requests that wait for a place on a server");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for backend in &self.of_gate.backends {
            ConstGauge::new(backend.waiting).encode(metric.encode_family(&[("backend", backend.name.as_str())])?)?;
        }
        let (name, help) = ("sluice_backend_panic", "1: too few servers are up, and some are used that are not");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for backend in &self.of_gate.backends {
            let panic = u64::from(backend.panic);
            ConstGauge::new(panic).encode(metric.encode_family(&[("backend", backend.name.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
