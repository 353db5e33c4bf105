//! Certificates as OpenSSL sees them: by name, by key, of clients; versions, ciphers, tickets; and files that change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use sluice_tests::backend::{Echo, RawBackend};
use sluice_tests::certificate::Identity;
use sluice_tests::client::Client;
use sluice_tests::http::upgrade;
use sluice_tests::process::signal_pid;
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

/// Runs `openssl s_client`, has it send a request, and waits until the connection is closed: what it has printed. `None`:
/// there is no openssl here, which has been reported.
fn s_client(sluice: &Sluice, request: &str, options: &[&str]) -> Option<String> {
    let program = needs::program("openssl").map_err(|why| needs::skip(&why)).ok()?;
    let mut child = Command::new(program)
        .args(["s_client", "-connect", &sluice.wss.to_string(), "-ign_eof"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended already, because there was no session.
    let _ended = child.stdin.take().unwrap().write_all(request.as_bytes());
    let output = child.wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// A request that is answered with 426, and the connection closed.
fn get() -> String {
    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".into()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Puts an identity into the place of the listener's, each file at once.
fn replace(sluice: &Sluice, identity: &Identity) {
    let folder = sluice.certificate.parent().unwrap();
    identity.write(folder, ["new.pem", "new.key"]).unwrap();
    std::fs::rename(folder.join("new.pem"), &sluice.certificate).unwrap();
    std::fs::rename(folder.join("new.key"), folder.join("key.pem")).unwrap();
}

fn reloads(sluice: &Sluice, result: &str) -> u64 {
    sluice.metrics().unwrap().sum("sluice_certificate_reloads_total", &[("result", result)])
}

fn until_reloads(sluice: &Sluice, result: &str, count: u64) {
    let what = format!("{count} reloads are {result}");
    // There is no one to answer while a gate starts again.
    let seen = || {
        sluice.metrics().ok()?.sum("sluice_certificate_reloads_total", &[("result", result)]).ge(&count).then_some(())
    };
    eventually(&what, seen);
    assert_eq!(reloads(sluice, result), count);
}

/// A client that trusts this identity alone converses.
fn served_by(sluice: &Sluice, identity: &Identity) {
    let connected =
        eventually("the gate accepts", || Stream::connect(sluice.wss, Some(identity.client().unwrap())).ok());
    Client::open(connected, sluice.wss).unwrap().converse().unwrap();
}

#[test]
fn changed_files_are_used_for_new_connections_and_bad_ones_are_not() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::via(echo.address, Via::Tls)).unwrap();
    let mut before = Client::open(sluice.connect(Via::Tls).unwrap(), sluice.wss).unwrap();
    let ends = |metrics: &str| metrics.contains("sluice_certificate_not_after_timestamp_seconds{listener=");
    assert!(ends(&sluice.metrics().unwrap().0));

    let second = Identity::make().unwrap();
    replace(&sluice, &second);
    until_reloads(&sluice, "ok", 1);
    served_by(&sluice, &second);

    std::fs::write(&sluice.certificate, "no certificate").unwrap();
    until_reloads(&sluice, "failed", 1);
    sluice.program.says("cert.pem: there is no certificate in it");
    served_by(&sluice, &second);

    // Whoever asks is answered, whether anything has changed or not.
    sluice.program.signal(Signal::HUP).unwrap();
    until_reloads(&sluice, "failed", 2);
    std::fs::remove_file(&sluice.certificate).unwrap();
    until_reloads(&sluice, "failed", 3);
    sluice.program.says("cannot open");
    served_by(&sluice, &second);
    before.converse().unwrap();

    // A gate that starts anew has the last good ones, whatever the files are now.
    signal_pid(sluice.gate().unwrap(), Signal::KILL).unwrap();
    eventually("another gate serves", || {
        (sluice.metrics().ok()?.sum("sluice_gate_starts_total", &[]) == 2).then_some(())
    });
    served_by(&sluice, &second);

    let third = Identity::make().unwrap();
    replace(&sluice, &third);
    until_reloads(&sluice, "ok", 2);
    served_by(&sluice, &third);
}

#[test]
fn pairs_whose_keys_are_in_the_kernel_go_on_over_a_reload() {
    Via::Ktls.run(|via| {
        let echo = Echo::via(via).unwrap();
        let sluice = Sluice::start(&Setup::via(echo.address, via)).unwrap();
        let mut before = Client::open(sluice.connect(via).unwrap(), sluice.wss).unwrap();
        let second = Identity::make().unwrap();
        replace(&sluice, &second);
        until_reloads(&sluice, "ok", 1);
        before.converse().unwrap();
        served_by(&sluice, &second);
    });
}

/// A Sluice whose wss:// listener has more certificates: `a.test` and `*.b.test`, and one with an RSA key.
fn with_certificates(echo: &Echo) -> Sluice {
    let a = Identity::named(&["a.test"], "a").unwrap();
    let b = Identity::named(&["unused.test"], "b").unwrap();
    let rsa = Identity::make_rsa().unwrap();
    let setup = Setup::new(echo.address)
        .file(&a, ["a.pem", "a.key"])
        .file(&b, ["b.pem", "b.key"])
        .file(&rsa, ["rsa.pem", "rsa.key"])
        .tls(
            "certificates = [\n{ certificate = \"a.pem\", key = \"a.key\" },\n\
             { certificate = \"b.pem\", key = \"b.key\", names = [\"*.b.test\"] },\n\
             { certificate = \"rsa.pem\", key = \"rsa.key\" },\n]",
        );
    Sluice::start(&setup).unwrap()
}

#[test]
fn openssl_gets_the_certificate_for_the_name_it_asks_for() {
    let echo = Echo::start().unwrap();
    let sluice = with_certificates(&echo);
    let beside = |name: &str| text(&sluice.certificate.with_file_name(name));
    for (name, file) in [
        ("a.test", "a.pem"),
        ("A.TEST", "a.pem"),
        ("x.b.test", "b.pem"),
        ("x.y.b.test", "cert.pem"),
        ("b.test", "cert.pem"),
        ("localhost", "cert.pem"),
    ] {
        let file = beside(file);
        let Some(said) = s_client(&sluice, &get(), &["-servername", name, "-CAfile", &file]) else { return };
        assert!(said.contains("Verify return code: 0 (ok)"), "{name}: {said}");
    }
    let said = s_client(&sluice, &get(), &["-noservername", "-CAfile", &beside("cert.pem")]).unwrap();
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    // The same name, and only signatures by RSA.
    for version in ["-tls1_2", "-tls1_3"] {
        let only = ["-servername", "localhost", "-sigalgs", "RSA-PSS+SHA256", version, "-CAfile", &beside("rsa.pem")];
        let said = s_client(&sluice, &get(), &only).unwrap();
        assert!(said.contains("Verify return code: 0 (ok)") && said.contains("RSA-PSS"), "{version}: {said}");
    }
}

#[test]
fn openssl_speaks_the_versions_and_ciphers_that_are_set() {
    let echo = Echo::start().unwrap();
    let settings =
        "min_version = \"1.3\"\ncipher_suites = [\"TLS_CHACHA20_POLY1305_SHA256\", \"TLS_AES_128_GCM_SHA256\"]";
    let sluice = Sluice::start(&Setup::new(echo.address).tls(settings)).unwrap();
    for (options, goes) in [
        (&["-tls1_2"][..], false),
        (&["-tls1_3"], true),
        (&["-ciphersuites", "TLS_AES_256_GCM_SHA384"], false),
        (&["-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], true),
        (&["-ciphersuites", "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"], true),
    ] {
        let Some(said) = s_client(&sluice, &get(), options) else { return };
        assert_eq!(said.contains("426 Upgrade Required"), goes, "{options:?}: {said}");
    }
}

/// Makes a session and comes back with it: whether it was resumed.
fn resumes(sluice: &Sluice, folder: &Folder, options: &[&str]) -> Option<bool> {
    let session = text(&folder.path().join("session"));
    let first = s_client(sluice, &get(), &[options, &["-sess_out", &session]].concat())?;
    assert!(first.contains("426 Upgrade Required") && first.contains("New, TLSv1."), "{first}");
    if !Path::new(&session).exists() {
        return Some(false);
    }
    let second = s_client(sluice, &get(), &[options, &["-sess_in", &session]].concat())?;
    assert!(second.contains("426 Upgrade Required"), "{second}");
    Some(second.contains("Reused, TLSv1."))
}

#[test]
fn openssl_resumes_its_session() {
    Via::Tls.run(may_resume);
}

#[test]
fn openssl_resumes_its_session_with_keys_in_the_kernel() {
    Via::Ktls.run(may_resume);
}

fn may_resume(via: Via) {
    let (echo, folder) = (Echo::via(via).unwrap(), Folder::make().unwrap());
    let sluice = Sluice::start(&Setup::via(echo.address, via)).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let Some(resumed) = resumes(&sluice, &folder, &[version]) else { return };
        assert!(resumed, "{via:?} {version}");
    }
}

#[test]
fn openssl_resumes_no_session_where_it_may_not() {
    let (echo, folder) = (Echo::start().unwrap(), Folder::make().unwrap());
    let sluice = Sluice::start(&Setup::new(echo.address).tls("session_tickets = false")).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let Some(resumed) = resumes(&sluice, &folder, &[version]) else { return };
        assert!(!resumed, "{version}");
    }
}

/// An identity of a client's in files.
fn client(folder: &Folder) -> (Identity, [PathBuf; 2]) {
    let ann = Identity::named(&["ann.test"], "Ann, of \u{c5}rhus").unwrap();
    let written = ann.write(folder.path(), ["ann.pem", "ann.key"]).unwrap();
    (ann, [written.certificate, written.key])
}

#[test]
fn a_backend_is_told_who_openssl_is() {
    let folder = Folder::make().unwrap();
    let (ann, [certificate, key]) = client(&folder);
    let (certificate, key) = (text(&certificate), text(&key));
    for (mode, version) in [("required", "-tls1_3"), ("optional", "-tls1_2")] {
        let backend = RawBackend::start().unwrap();
        let setup = Setup::new(backend.address).file(&ann, ["clients.pem", "unused.key"]);
        let setup = setup.tls(&format!("client_auth = {{ ca = \"clients.pem\", mode = \"{mode}\" }}"));
        let sluice = Sluice::start(&setup).unwrap();
        let request = upgrade("localhost", "/", "X-Client-Cert-Subject: CN=root\r\nClient-Cert: :AA==:\r\n");
        let ask = |options: &[&str]| {
            std::thread::scope(|scope| {
                let asking = scope.spawn(|| s_client(&sluice, &request, options));
                let head = backend.accept_request().map(|(_, head)| head);
                (asking.join().unwrap(), head.unwrap())
            })
        };
        if needs::program("openssl").is_err() {
            return needs::skip("needs the program openssl");
        }
        let (_, head) = ask(&["-cert", &certificate, "-key", &key, version]);
        assert_eq!(head.field("x-client-cert-subject"), Some("CN=Ann\\, of \\C3\\85rhus"), "{head:?}");
        assert!(head.field("client-cert").is_some_and(|der| der.starts_with(":MII") && der.ends_with(':')), "{head:?}");
        assert_eq!(head.fields.iter().filter(|(name, _)| name.contains("cert")).count(), 2, "{head:?}");
        if mode == "optional" {
            let (_, head) = ask(&[version]);
            assert!(!head.fields.iter().any(|(name, _)| name.contains("cert")), "{head:?}");
        } else {
            let said = s_client(&sluice, &request, &[version]).unwrap();
            assert!(said.contains("certificate required"), "{said}");
            let labels = [("result", "failed"), ("reason", "tls")];
            eventually("it is counted", || {
                (sluice.metrics().unwrap().sum("sluice_handshakes_total", &labels) == 1).then_some(())
            });
        }
    }
}

#[test]
fn what_could_not_be_read_again_is_not_read_at_the_start() {
    if let Err(why) = needs::root() {
        return needs::skip(&why);
    }
    let folder = Folder::make().unwrap();
    let (ann, [certificate, key]) = client(&folder);
    drop(ann);
    // Nobody in particular, as long as it is not root.
    std::os::unix::fs::chown(&key, Some(65_533), None).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let more =
        format!("certificates = [{{ certificate = \"{}\", key = \"{}\" }}]", certificate.display(), key.display());
    let error = Sluice::start(&Setup::new(([127, 0, 0, 1], 9).into()).tls(&more)).err().expect("it started");
    assert!(format!("{error:#}").contains("ann.key, which is another user's"), "{error:#}");
}

#[test]
fn a_missing_or_useless_file_stops_the_start_and_is_named() {
    let nobody = ([127, 0, 0, 1], 9).into();
    for (settings, says) in [
        ("certificates = [{ certificate = \"gone.pem\", key = \"gone.key\" }]", "gone.pem"),
        ("client_auth = { ca = \"gone.pem\" }", "gone.pem"),
        ("client_auth = { ca = \"key.pem\" }", "key.pem: there is no certificate"),
        ("client_auth = { ca = \".\" }", "no regular file"),
        ("cipher_suites = [\"TLS_NONE\"]", "there is TLS_AES"),
    ] {
        let error = Sluice::start(&Setup::new(nobody).tls(settings)).err().expect("it started");
        assert!(format!("{error:#}").contains(says), "{settings}: {error:#}");
    }
}
