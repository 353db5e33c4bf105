#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use proxy_common::scan::Scanner;

use super::*;
use crate::handoff::{ConnId, Facts, PairRow};

fn row(engine: Engine) -> PairRow {
    let mut counters = PairCounters::ZERO;
    // A masked text frame of 5 bytes, and a Close with code 1000.
    let (mut up, mut down) = (Scanner::START, Scanner::START);
    up.feed(&[0x81, 0x85, 0, 0, 0, 0, 1, 2, 3, 4, 5], &mut counters.dirs[0]);
    down.feed(&[0x88, 2, 3, 232], &mut counters.dirs[1]);
    PairRow {
        facts: Facts {
            id: ConnId(1),
            client: std::net::SocketAddr::from(([127, 0, 0, 1], 9)).into(),
            listener: 0,
            route: 0,
            backend: 0,
            server: 0,
            accepted_ms: 0,
            expires_ms: None,
        },
        engine,
        why_not: None,
        counters,
        copied: [0; 2],
        user_mode: [false; 2],
    }
}

#[test]
fn an_idle_proxy_shows_every_series() {
    let page = PageOfGate {
        handshakes: vec![("upgraded", "none", 0)],
        clients: [7, 3],
        lost_lines: [5, 0],
        http2: [5, 1, 2],
        shortages: [0, 1, 2],
        ..PageOfGate::default()
    };
    let text = render(&Snapshot::default(), page).unwrap();
    for line in [
        "sluice_connections{engine=\"sockmap\"} 0",
        "sluice_connections{engine=\"copy\"} 0",
        "sluice_relay_bytes_total{direction=\"client_to_backend\",engine=\"sockmap\"} 0",
        "sluice_relay_bytes_total{direction=\"backend_to_client\",engine=\"copy\"} 0",
        "sluice_messages_total{direction=\"backend_to_client\"} 0",
        "sluice_frame_payload_bytes_count{direction=\"client_to_backend\"} 0",
        "sluice_frame_payload_bytes_bucket{le=\"+Inf\",direction=\"client_to_backend\"} 0",
        "sluice_handshakes_total{result=\"upgraded\",reason=\"none\"} 0",
        "sluice_relay_flips_total 0",
        "sluice_gate_starts_total 0",
        "sluice_keeper_slow_turns_total 0",
        "sluice_client_addresses 7",
        "sluice_shortages_total{of=\"connections\"} 0",
        "sluice_shortages_total{of=\"dial-files-or-ports\"} 2",
        "sluice_log_lines_lost_total{process=\"keeper\"} 5",
        "sluice_log_lines_lost_total{process=\"gate\"} 0",
        "sluice_client_addresses_evicted_total 3",
        "sluice_http2_requests_reset_total 5",
        "sluice_http2_connections_calmed_total 1",
        "sluice_http2_connections_full_total 2",
        "sluice_certificate_reloads_total{result=\"ok\"} 0",
        "sluice_certificate_reloads_total{result=\"failed\"} 0",
        concat!("sluice_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "# TYPE sluice_relay_bytes counter",
        "# EOF",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    for direction in Direction::ALL {
        for opcode in OPCODES {
            let line = format!("sluice_frames_total{{direction=\"{}\",opcode=\"{opcode}\"}} 0", direction.label());
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}

#[test]
fn live_and_ended_pairs_are_summed() {
    let mut snapshot =
        Snapshot { pairs: vec![row(Engine::Sockmap), row(Engine::Copy), row(Engine::Copy)], ..Snapshot::default() };
    snapshot.ended[0] = row(Engine::Sockmap).counters;
    snapshot.ends = vec![("client-closed".into(), 1)];
    snapshot.reloads = [3, 2];
    let certificate = CertificateRow { listener: "[::]:443".into(), certificate: "/a.pem".into(), not_after: 99 };
    snapshot.close_codes[1][0] = 4;
    let server = ServerRow { address: "10.0.0.1:80".into(), state: "ejected", connections: 3, picks: 9, failures: 5 };
    let backend = BackendRow { name: "app".into(), waiting: 2, panic: true, servers: vec![server] };
    let page = PageOfGate { certificates: vec![certificate], backends: vec![backend], ..PageOfGate::default() };
    let text = render(&snapshot, page).unwrap();
    for line in [
        "sluice_server_connections{backend=\"app\",server=\"10.0.0.1:80\"} 3",
        "sluice_server_state{backend=\"app\",server=\"10.0.0.1:80\",state=\"up\"} 0",
        "sluice_server_state{backend=\"app\",server=\"10.0.0.1:80\",state=\"ejected\"} 1",
        "sluice_server_picks_total{backend=\"app\",server=\"10.0.0.1:80\"} 9",
        "sluice_server_failures_total{backend=\"app\",server=\"10.0.0.1:80\"} 5",
        "sluice_backend_queue{backend=\"app\"} 2",
        "sluice_backend_panic{backend=\"app\"} 1",
        "sluice_connections{engine=\"sockmap\"} 1",
        "sluice_connections{engine=\"copy\"} 2",
        "sluice_relay_bytes_total{direction=\"client_to_backend\",engine=\"sockmap\"} 22",
        "sluice_relay_bytes_total{direction=\"backend_to_client\",engine=\"copy\"} 8",
        "sluice_frames_total{direction=\"client_to_backend\",opcode=\"text\"} 4",
        "sluice_frames_total{direction=\"backend_to_client\",opcode=\"close\"} 4",
        "sluice_messages_total{direction=\"client_to_backend\"} 4",
        "sluice_frame_payload_bytes_bucket{le=\"3.0\",direction=\"client_to_backend\"} 0",
        "sluice_frame_payload_bytes_bucket{le=\"7.0\",direction=\"client_to_backend\"} 4",
        "sluice_close_codes_total{direction=\"backend_to_client\",code=\"1000\"} 4",
        "sluice_pairs_ended_total{reason=\"client-closed\"} 1",
        "sluice_certificate_reloads_total{result=\"failed\"} 2",
        "sluice_certificate_not_after_timestamp_seconds{listener=\"[::]:443\",certificate=\"/a.pem\"} 99",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
}

#[test]
fn an_address_that_two_entries_give_is_one_server() {
    let row = |address: &str, state, connections| ServerRow {
        address: address.into(),
        state,
        connections,
        picks: 10 * connections,
        failures: 100 * connections,
    };
    let servers = vec![row("10.0.0.1:80", "ejected", 1), row("10.0.0.2:80", "gone", 5), row("10.0.0.1:80", "up", 2)];
    let backend = |name: &str| BackendRow { name: name.into(), waiting: 0, panic: false, servers: servers.clone() };
    let page = PageOfGate { backends: vec![backend("app"), backend("other")], ..PageOfGate::default() };
    let text = render(&Snapshot::default(), page).unwrap();
    let series: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    for series in series.iter().filter(|series| series.starts_with("sluice_server")) {
        assert_eq!(text.lines().filter(|line| line.split(' ').next() == Some(*series)).count(), 1, "{series}");
    }
    for line in [
        "sluice_server_connections{backend=\"app\",server=\"10.0.0.1:80\"} 3",
        "sluice_server_connections{backend=\"other\",server=\"10.0.0.2:80\"} 5",
        "sluice_server_state{backend=\"app\",server=\"10.0.0.1:80\",state=\"up\"} 1",
        "sluice_server_state{backend=\"app\",server=\"10.0.0.1:80\",state=\"ejected\"} 0",
        "sluice_server_picks_total{backend=\"app\",server=\"10.0.0.1:80\"} 30",
        "sluice_server_failures_total{backend=\"app\",server=\"10.0.0.1:80\"} 300",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
}

#[test]
fn no_sum_goes_down_when_a_pair_changes_its_engine() {
    let bytes = |pair: PairRow| {
        let snapshot = Snapshot { pairs: vec![pair], ..Snapshot::default() };
        let text = render(&snapshot, PageOfGate::default()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("sluice_relay_bytes_total{"));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).collect::<Vec<_>>()
    };
    let before = bytes(row(Engine::Copy));
    let promoted = PairRow { copied: [11, 4], ..row(Engine::Sockmap) };
    assert_eq!(before, bytes(promoted.clone()));
    let mut later = promoted;
    later.counters.dirs[0].bytes += 5;
    assert!(before.iter().zip(bytes(later)).all(|(before, after)| *before <= after));
}
