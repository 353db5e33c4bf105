//! Without TLS in the kernel, or without a cipher of it, every connection is served all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use rustls::crypto::aws_lc_rs::{self, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256};
use sluice_tests::backend::Echo;
use sluice_tests::certificate::client_with;
use sluice_tests::client::Client;
use sluice_tests::needs;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::stream::Stream;

/// Which program the kernel starts to load a module.
const LOADER: &str = "/proc/sys/kernel/modprobe";

/// The kernel loads no modules while this lives.
struct NoLoading(String);

impl NoLoading {
    fn begin() -> Self {
        let before = std::fs::read_to_string(LOADER).unwrap();
        std::fs::write(LOADER, "/bin/false").unwrap();
        Self(before)
    }
}

impl Drop for NoLoading {
    fn drop(&mut self) {
        std::fs::write(LOADER, self.0.trim()).unwrap();
    }
}

fn unload(module: &str) -> Result<(), String> {
    let output = Command::new("rmmod").arg(module).output().map_err(|error| format!("rmmod: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn load(module: &str) {
    assert!(Command::new("modprobe").arg(module).status().unwrap().success(), "{module} cannot be loaded again");
}

/// Engine and reason of a wss:// connection, with this cipher only if one is named.
fn shown(sluice: &Sluice, cipher: Option<rustls::SupportedCipherSuite>) -> (String, Option<String>) {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|known| cipher.is_none_or(|cipher| cipher == *known));
    let tls = client_with(provider, &sluice.certificate).unwrap();
    let stream = Stream::connect(sluice.wss, Some(tls)).unwrap();
    let mut client = Client::open(stream, sluice.wss).unwrap();
    client.converse().unwrap();
    let row = sluice.connection(client.address().unwrap());
    (row["engine"].as_str().unwrap().into(), row["why"].as_str().map(str::to_owned))
}

fn ktls() -> (String, Option<String>) {
    ("ktls".into(), None)
}

fn copy(why: &str) -> (String, Option<String>) {
    ("copy".into(), Some(why.into()))
}

/// One test: what it takes away, it takes from the whole machine.
#[test]
fn whatever_the_kernel_lacks_connections_are_served() {
    if let Err(why) = needs::root().and_then(|()| needs::ktls()) {
        return needs::skip(&why);
    }
    if let Err(why) = unload("tls") {
        return needs::skip(&format!("the module tls cannot be unloaded here: {why}"));
    }
    let echo = Echo::start().unwrap();
    let start = |wrapper: &[&str]| Sluice::start(&Setup::new(echo.address).under(wrapper)).unwrap();
    {
        let _frozen = NoLoading::begin();
        assert_eq!(shown(&start(&[]), None), copy("no-ktls"), "the module is missing");
    }
    // Whoever asks for the ULP needs CAP_NET_ADMIN to have it loaded.
    let unprivileged = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    if !std::path::Path::new("/proc/net/tls_stat").exists() {
        assert_eq!(shown(&start(&unprivileged), None), copy("no-ktls"), "the module may not be loaded");
    }
    load("tls");
    assert_eq!(shown(&start(&[]), None), ktls());

    // A cipher that goes away while Sluice runs: the first connection that wants it finds out.
    let running = start(&[]);
    if let Err(why) = unload("chacha20poly1305").or_else(|_| unload("chacha20_poly1305")) {
        return needs::skip(&format!("the cipher's module cannot be unloaded: {why}"));
    }
    {
        let _frozen = NoLoading::begin();
        let without = start(&[]);
        assert_eq!(shown(&without, Some(TLS13_CHACHA20_POLY1305_SHA256)), copy("ktls-suite"));
        assert_eq!(shown(&without, None), ktls(), "the others are not worse for it");
        // The first is refused when its keys are installed, the second is not tried.
        for _ in 0..2 {
            assert_eq!(shown(&running, Some(TLS13_CHACHA20_POLY1305_SHA256)), copy("ktls-suite"));
        }
        assert_eq!(shown(&running, None), ktls());
    }
    load("chacha20poly1305");
}
