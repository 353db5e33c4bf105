//! TLS as OpenSSL speaks it: every version and cipher, keys that a peer changes, and plain HTTP inside.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use sluice_tests::backend::Echo;
use sluice_tests::frame::{Frame, TEXT};
use sluice_tests::http::upgrade;
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

/// Version, cipher, and the options that make OpenSSL insist on them.
const SUITES: [(&str, &str, [&str; 3]); 6] = [
    ("TLSv1.2", "AES_GCM_128", ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]),
    ("TLSv1.2", "AES_GCM_256", ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"]),
    ("TLSv1.2", "CHACHA20_POLY1305", ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]),
    ("TLSv1.3", "AES_GCM_128", ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"]),
    ("TLSv1.3", "AES_GCM_256", ["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"]),
    ("TLSv1.3", "CHACHA20_POLY1305", ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"]),
];

/// `openssl s_client`, and what it has printed.
struct Client {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Client {
    /// `None`: there is no openssl here, which has been reported.
    fn start(sluice: &Sluice, options: &[&str]) -> Option<Self> {
        let program = match needs::program("openssl") {
            Ok(program) => program,
            Err(why) => {
                needs::skip(&why);
                return None;
            }
        };
        let mut child = Command::new(program)
            .args(["s_client", "-connect", &sluice.wss.to_string(), "-servername", "localhost"])
            .args(["-verify_return_error", "-CAfile", &sluice.certificate.display().to_string()])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), &said);
        collect(child.stderr.take().unwrap(), &said);
        Some(Self { child, said })
    }

    /// Has the client change its keys. It says so on its stderr, and has read no more of its input then.
    fn change_keys(&mut self, command: &str) {
        const DONE: &[u8] = b"KEYUPDATE\n";
        let times = |said: &[u8]| said.windows(DONE.len()).filter(|window| *window == DONE).count();
        let before = times(&self.said.lock().unwrap());
        self.send(command.as_bytes());
        eventually("openssl has changed its keys", || (times(&self.said.lock().unwrap()) > before).then_some(()));
    }

    /// Sends these bytes, in one write: s_client takes its input's first letter for a command.
    fn send(&mut self, bytes: &[u8]) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(bytes).unwrap();
        input.flush().unwrap();
    }

    /// Waits until these bytes have come.
    fn sees(&mut self, bytes: &[u8]) {
        let what = format!("openssl has received {:?}", String::from_utf8_lossy(bytes));
        eventually(&what, || {
            let said = self.said.lock().unwrap();
            let seen = said.windows(bytes.len()).any(|window| window == bytes);
            assert!(
                seen || self.child.try_wait().unwrap().is_none(),
                "openssl ended: {}",
                String::from_utf8_lossy(&said)
            );
            seen.then_some(())
        });
    }

    /// Upgrades.
    fn open(&mut self, sluice: &Sluice) {
        // It says so when its handshake is done, and reads its input from then on.
        self.sees(b"---\n");
        self.send(upgrade(&sluice.wss.to_string(), "/", "").as_bytes());
        self.sees(b"101 Switching Protocols");
    }

    /// One message there and back.
    fn echoes(&mut self, text: &str) {
        self.send(&Frame::client(TEXT, text.as_bytes()).encode());
        self.sees(&Frame::server(TEXT, text.as_bytes()).encode());
    }
}

fn collect(mut from: impl std::io::Read + Send + 'static, said: &Arc<Mutex<Vec<u8>>>) {
    let sink = Arc::clone(said);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(got @ 1..) = from.read(&mut buffer) {
            sink.lock().unwrap().extend_from_slice(&buffer[..got]);
        }
    });
}

impl Drop for Client {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn start(via: Via) -> (Echo, Sluice) {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::via(echo.address, via)).unwrap();
    (echo, sluice)
}

/// Every suite, carried as the way says.
fn every_suite(via: Via) {
    let (_echo, sluice) = start(via);
    for (version, cipher, options) in SUITES {
        let Some(mut client) = Client::start(&sluice, &options) else { return };
        client.open(&sluice);
        client.echoes(&format!("{version} {cipher}"));
        let row = eventually("the pair is listed", || sluice.connections().unwrap().into_iter().next());
        assert_eq!(row["engine"], via.engine(), "{version} {cipher}: {row}");
        client.send(b"Q\n");
        eventually("the pair is gone", || sluice.connections().unwrap().is_empty().then_some(()));
    }
}

#[test]
fn every_version_and_cipher_in_userspace() {
    Via::Tls.run(every_suite);
}

#[test]
fn every_version_and_cipher_in_the_kernel() {
    Via::Ktls.run(every_suite);
}

/// The client changes its keys, and asks for the same (`K`) or not (`k`). `follows`: Sluice can.
fn keys_change(via: Via, follows: bool) {
    for command in ["k\n", "K\n"] {
        let (_echo, sluice) = start(via);
        let Some(mut client) = Client::start(&sluice, &["-tls1_3"]) else { return };
        client.open(&sluice);
        client.echoes("with the first key");
        for round in 0..3 {
            client.change_keys(command);
            if !follows {
                // 1012 to both sides, each at the end of its last frame.
                client.sees(&[0x88, 2, 0x03, 0xf4]);
                let ended =
                    || sluice.metrics().unwrap().sum("sluice_pairs_ended_total", &[("reason", "tls-key-update")]);
                eventually("the end is counted with its reason", || (ended() == 1).then_some(()));
                break;
            }
            client.echoes(&format!("with key {round} after that"));
        }
    }
}

#[test]
fn keys_that_the_client_changes_in_userspace() {
    Via::Tls.run(|via| keys_change(via, true));
}

#[test]
fn keys_that_the_client_changes_in_the_kernel() {
    Via::Ktls.run(|via| {
        let probe = Command::new(sluice_tests::sluice::binary()).args(["probe", "--json"]).output().unwrap();
        let probe: serde_json::Value = serde_json::from_slice(&probe.stdout).unwrap();
        // Kernels can from 6.14 on; one that can and is not used so would be a fault of ours.
        let can = kernel_is_at_least([6, 14]);
        assert_eq!(probe["ktls"]["rekey"], can, "{probe}");
        keys_change(via, can);
    });
}

fn kernel_is_at_least(floor: [u32; 2]) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    [numbers.next().unwrap(), numbers.next().unwrap()] >= floor
}

/// curl gets our own answer, over TLS of either version.
fn curl_is_answered(via: Via) {
    let (_echo, sluice) = start(via);
    let curl = match needs::program("curl") {
        Ok(curl) => curl,
        Err(why) => return needs::skip(&why),
    };
    for version in ["1.2", "1.3"] {
        let output = Command::new(&curl)
            .args(["--silent", "--show-error", "--include", "--http1.1", "--tls-max", version, "--cacert"])
            .arg(&sluice.certificate)
            .arg(format!("https://localhost:{}/", sluice.wss.port()))
            .args(["--resolve", &format!("localhost:{}:127.0.0.1", sluice.wss.port())])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.starts_with("http/1.1 426") && text.contains("proxy-status:"), "{text}");
        assert!(text.contains("this server speaks websocket"), "the body is missing: {text}");
    }
}

#[test]
fn curl_is_answered_in_userspace() {
    Via::Tls.run(curl_is_answered);
}

#[test]
fn curl_is_answered_in_the_kernel() {
    Via::Ktls.run(curl_is_answered);
}
