//! The admin listener of a whole gate.

use std::os::fd::AsFd as _;

use proxy_common::layout::PairCounters;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::bench::{Bench, Setup, nobody, read_all};
use crate::handoff::{ConnId, Engine, Facts, PairRow, Snapshot, ToGate, ToKeeper, WhyNot};

async fn admin() -> Bench {
    Setup::plain(&[nobody().await], "[admin]\nlisten = \"127.0.0.1:0\"\n").ready().await
}

async fn get(bench: &Bench, request: &str) -> String {
    let mut stream = TcpStream::connect(bench.admin.unwrap()).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

/// Plays the keeper for one snapshot.
async fn answer(bench: &mut Bench, snapshot: &Snapshot) {
    let (message, _) = bench.next().await;
    let ToKeeper::Snapshot { request } = message else { panic!("{message:?}") };
    let memory = snapshot.write().unwrap();
    bench.send(&ToGate::Snapshot { request }, &[memory.as_fd()]).await;
}

/// Asks while the test plays the keeper.
async fn asked(bench: &mut Bench, request: &str, snapshot: &Snapshot) -> String {
    let address = bench.admin.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let client = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    });
    answer(bench, snapshot).await;
    client.await.unwrap()
}

fn pair() -> PairRow {
    let mut counters = PairCounters::ZERO;
    counters.dirs[0].bytes = 11;
    counters.dirs[0].messages = 1;
    counters.dirs[0].frames[1] = 1;
    counters.dirs[0].sizes[3] = 1;
    counters.dirs[0].last_activity_ns = 3_000_000_000;
    counters.dirs[1].close_code = 1001;
    PairRow {
        facts: Facts {
            id: ConnId(0xabc),
            client: std::net::SocketAddr::from(([192, 0, 2, 1], 5000)).into(),
            listener: 0,
            route: 0,
            backend: 0,
            server: 0,
            accepted_ms: 0,
            expires_ms: std::num::NonZeroU64::new(1),
        },
        engine: Engine::Copy,
        why_not: Some(WhyNot::NoBtf),
        counters,
        copied: [0; 2],
        user_mode: [true, false],
    }
}

#[tokio::test]
async fn metrics_and_connections() {
    let mut bench = admin().await;
    let snapshot = Snapshot { pairs: vec![pair()], now_ns: 5_000_000_000, ..Snapshot::default() };
    let answer = asked(&mut bench, "GET /metrics", &snapshot).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(answer.contains("\nsluice_connections{engine=\"copy\"} 1\n"), "{answer}");
    assert!(answer.contains("\nsluice_handshakes_total{result=\"refused\",reason=\"origin-denied\"} 0\n"), "{answer}");

    let answer = asked(&mut bench, "GET /connections", &snapshot).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{answer}");
    let list: serde_json::Value = serde_json::from_str(body).unwrap();
    let row = &list[0];
    assert_eq!(row["expires_in_seconds"], 0.0, "its time is over");
    assert_eq!(row["id"], "0000000000000abc");
    assert_eq!(row["client"], "192.0.2.1:5000");
    assert_eq!(row["route"]["path"], "/");
    assert_eq!(row["backend"], "app");
    assert_eq!((&row["engine"], &row["why"]), (&"copy".into(), &"no-btf".into()));
    assert_eq!(row["tls"], false);
    assert_eq!(row["idle_seconds"], 2.0);
    assert_eq!(row["client_to_backend"]["frames"]["text"], 1);
    assert_eq!(row["client_to_backend"]["payload_sizes"], serde_json::json!([{ "le": 7, "count": 1 }]));
    assert_eq!(row["client_to_backend"]["mode"], "user");
    assert_eq!(row["client_to_backend"]["close_code"], serde_json::Value::Null);
    assert_eq!(row["backend_to_client"]["close_code"], 1001);
    assert_eq!(row["backend_to_client"]["mode"], "kernel");
}

#[tokio::test]
async fn other_paths_and_methods() {
    let bench = admin().await;
    assert!(get(&bench, "GET /").await.starts_with("HTTP/1.1 404 "));
    let answer = get(&bench, "POST /metrics").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
}

#[tokio::test]
async fn a_head_is_answered_as_a_get_without_its_body() {
    let mut bench = admin().await;
    for path in ["/metrics", "/connections"] {
        let whole = asked(&mut bench, &format!("GET {path}"), &Snapshot::default()).await;
        let answer = asked(&mut bench, &format!("HEAD {path}"), &Snapshot::default()).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        let names = |answer: &str| -> Vec<String> {
            let head = answer.split("\r\n\r\n").next().unwrap_or_default();
            head.lines().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect()
        };
        assert_eq!(names(&answer), names(&whole));
        assert!(names(&answer).contains(&"content-length".to_owned()), "{answer}");
    }
}
