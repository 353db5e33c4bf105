//! What this kernel and these privileges allow, and which engine carries what, is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use sluice_tests::backend::Echo;
use sluice_tests::client::Client;
use sluice_tests::sluice::{Setup, Sluice, binary};
use sluice_tests::{Via, needs};

#[test]
fn the_probe_says_what_is_possible() {
    let output = Command::new(binary()).arg("probe").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for engine in ["sockmap", "ktls"] {
        assert!(text.contains(engine), "{text}");
    }
    if needs::sockmap().is_err() {
        assert!(text.contains("no-privilege") || text.contains("no-btf"), "{text}");
    }
}

/// Engine and reason that `/connections` shows for a pair made this way with this setting.
fn shown(setting: Via, via: Via) -> (String, Option<String>) {
    let echo = Echo::via(via).unwrap();
    let sluice = Sluice::start(&Setup::via(echo.address, setting)).unwrap();
    let mut client = Client::open(sluice.connect(via).unwrap(), sluice.address(via)).unwrap();
    client.converse().unwrap();
    let row = sluice.connection(client.address().unwrap());
    assert_eq!(sluice.metrics().unwrap().sum("sluice_connections", &[("engine", via.engine())]), 1);
    (row["engine"].as_str().unwrap().into(), row["why"].as_str().map(str::to_owned))
}

#[test]
fn a_forced_engine_is_shown_with_its_reason() {
    assert_eq!(shown(Via::Copy, Via::Copy), ("copy".into(), Some("configured".into())));
}

#[test]
fn the_kernel_needs_no_reason() {
    Via::Sockmap.run(|via| assert_eq!(shown(via, via), ("sockmap".into(), None)));
}

#[test]
fn with_tls_the_kernel_needs_no_reason_and_userspace_has_one() {
    for via in [Via::Tls, Via::TlsBackend, Via::TlsBoth] {
        assert_eq!(shown(via, via), ("copy".into(), Some("configured".into())), "{via:?}");
    }
    for via in [Via::Ktls, Via::KtlsBackend, Via::KtlsBoth] {
        via.run(|via| assert_eq!(shown(via, via), ("ktls".into(), None), "{via:?}"));
    }
}

#[test]
fn without_tls_in_the_kernel_userspace_does_it_and_says_why() {
    if needs::ktls().is_ok() {
        return needs::skip("this kernel has TLS");
    }
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    let mut client = Client::open(sluice.connect(Via::Tls).unwrap(), sluice.wss).unwrap();
    client.converse().unwrap();
    let row = sluice.connection(client.address().unwrap());
    assert_eq!((row["engine"].as_str(), row["why"].as_str()), (Some("copy"), Some("no-ktls")));
    let refused = Sluice::start(&Setup::via(echo.address, Via::Ktls)).err().unwrap().to_string();
    assert!(refused.contains("relay.tls_engine is \"ktls\", which cannot be had"), "{refused}");
}

#[test]
fn the_admin_listener_knows_two_pages_and_one_method() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    assert_eq!(sluice_tests::http::get(sluice.admin, "/other").unwrap().head.status(), 404);
    let post = b"POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(sluice_tests::http::exchange(sluice.admin, post).unwrap().head.status(), 405);
    let metrics = sluice.metrics().unwrap().0;
    for series in [
        "sluice_connections{engine=\"sockmap\"} 0",
        "sluice_connections{engine=\"copy\"} 0",
        "sluice_relay_bytes_total{",
        "sluice_frames_total{",
        "sluice_handshakes_total{",
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
}
