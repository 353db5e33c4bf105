//! TLS to backends, as an operator sets it up and sees it fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use sluice_tests::Via;
use sluice_tests::backend::{Echo, RawBackend};
use sluice_tests::certificate::{Identity, of_backends};
use sluice_tests::client::Client;
use sluice_tests::http::{self, Response};
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::wait::eventually;

/// Of a backend that nobody dials.
const TIMED_OUT: std::io::ErrorKind = std::io::ErrorKind::TimedOut;

const NAMED: &str = "ca = \"backend.pem\", server_name = \"localhost\"";

/// What an upgrade over ws:// is answered with.
fn upgrade(sluice: &Sluice) -> Response {
    http::exchange(sluice.ws, http::upgrade("x", "/", "").as_bytes()).unwrap()
}

/// Checks that an upgrade is answered with 502 and this error, and that nothing of the backend is told.
fn refused(sluice: &Sluice, error: &str, backend: &RawBackend) {
    let answer = upgrade(sluice);
    assert_eq!(answer.head.status(), 502, "{answer:?}");
    let told = answer.head.field("proxy-status").unwrap_or_default();
    assert!(told.contains(&format!("error={error};")), "{told}");
    assert!(!format!("{answer:?}").contains(&backend.address.to_string()), "a backend's address was told: {answer:?}");
}

#[test]
fn the_systems_root_certificates_are_trusted_without_a_ca() {
    let folder = Folder::make().unwrap();
    let roots = of_backends().write(folder.path(), ["roots.pem", "roots.key"]).unwrap().certificate;
    let roots = format!("SSL_CERT_FILE={}", roots.display());
    let echo = Echo::via(Via::TlsBackend).unwrap();
    // Without a name either: the certificate is for the server's address too.
    for settings in ["", "server_name = \"localhost\""] {
        let setup = Setup::new(echo.address).backend_tls(settings).under(&["env", "-u", "SSL_CERT_DIR", &roots]);
        let sluice = Sluice::start(&setup).unwrap();
        Client::open(sluice.connect(Via::TlsBackend).unwrap(), sluice.ws).unwrap().converse().unwrap();
    }
}

#[test]
fn without_root_certificates_it_does_not_start() {
    let setup = Setup::new(([127, 0, 0, 1], 9).into()).backend_tls("");
    let error = Sluice::start(&setup.under(&["env", "-u", "SSL_CERT_DIR", "SSL_CERT_FILE=/nonexistent"]))
        .err()
        .expect("it started");
    let text = format!("{error:#}");
    assert!(text.contains("backend \"app\"") && text.contains("ca-certificates"), "{text}");
}

#[test]
fn a_missing_file_is_named() {
    let named = "certificate = \"missing.pem\", key = \"missing.key\"";
    let setup = Setup::new(([127, 0, 0, 1], 9).into()).file(of_backends(), ["backend.pem", "backend.key"]);
    for settings in ["ca = \"missing.pem\"".to_owned(), format!("{NAMED}, {named}")] {
        let error = Sluice::start(&setup.clone().backend_tls(&settings)).err().expect("it started");
        let text = format!("{error:#}");
        assert!(text.contains("cannot open") && text.contains("missing.pem"), "{text}");
    }
}

#[test]
fn verification_cannot_be_switched_off() {
    for settings in ["verify = false", "insecure = true", "server_name = \"no name\"", "key = \"backend.key\""] {
        let setup = Setup::new(([127, 0, 0, 1], 9).into()).backend_tls(settings);
        let error = Sluice::start(&setup).err().expect("it started");
        let word = settings.split(' ').next().unwrap();
        assert!(format!("{error:#}").contains(word), "{settings}: {error:#}");
    }
}

#[test]
fn a_server_that_cannot_be_trusted_is_named_in_the_log_with_the_reason() {
    let backend = RawBackend::via(Via::TlsBackend).unwrap();
    let address = backend.address.to_string();
    let stranger = Identity::make().unwrap();
    let setup = Setup::new(backend.address).backend_tls(NAMED).file(&stranger, ["backend.pem", "backend.key"]);
    let sluice = Sluice::start(&setup).unwrap();
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| backend.accept_request().err().expect("the handshake succeeded"));
        refused(&sluice, "tls_certificate_error", &backend);
        assert_ne!(accepted.join().unwrap().kind(), TIMED_OUT, "nobody dialled");
    });
    let line = eventually("the log has it", || {
        sluice.program.log().lines().find(|line| line.contains(&address)).map(str::to_owned)
    });
    assert!(line.contains("app") && line.contains("invalid peer certificate") && line.contains("conn="), "{line}");
    let labels = [("result", "failed"), ("reason", "backend-certificate")];
    assert_eq!(sluice.metrics().unwrap().sum("sluice_handshakes_total", &labels), 1);
}

#[test]
fn a_backend_that_demands_a_certificate_refuses_a_proxy_without() {
    let backend = RawBackend::via(Via::TlsBoth).unwrap();
    let setup = Setup::new(backend.address).backend_tls(NAMED).file(of_backends(), ["backend.pem", "backend.key"]);
    let sluice = Sluice::start(&setup).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| backend.accept_request().err().expect("the handshake succeeded"));
        refused(&sluice, "tls_alert_received", &backend);
    });
}
