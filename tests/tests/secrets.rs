//! Files with secrets that are damaged: what is wrong is said, and nothing of what they hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sluice_tests::Via;
use sluice_tests::certificate::Identity;
use sluice_tests::process::Program;
use sluice_tests::sluice::{Folder, Setup, Sluice, binary};
use sluice_tests::wait::eventually;

/// Bytes that no message may show so many of in a row.
const WINDOW: usize = 8;

/// A file that holds a secret when all is well, or by mistake.
struct Kept {
    name: &'static str,
    good: Vec<u8>,
    /// What is secret of it, in the forms that a message could show it in.
    secrets: Vec<Vec<u8>>,
}

const SECRET: &str = "kM3vQ9xZ2bT7wR5nY8cJ4hL6pS1dF0gA";
const HASH: &str = "$2b$04$Q7Vw3mXzK1nR5tY9uJ2e8eCp4sWqZbLdHfGgTkNvMxAyEoUiPlSrO";
const DIGITS: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn kept() -> Vec<Kept> {
    let text = |name, good: String, secret: &str| Kept {
        name,
        good: good.into_bytes(),
        secrets: vec![secret.as_bytes().to_vec()],
    };
    let key = |name: &'static str, pem: &str| {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap().secret_der().to_vec();
        Kept { name, good: pem.into(), secrets: vec![body.into_bytes(), der] }
    };
    let written = |identity: &Identity| {
        let folder = Folder::make().unwrap();
        let files = identity.write(folder.path(), ["c", "k"]).unwrap();
        (std::fs::read_to_string(files.certificate).unwrap(), std::fs::read_to_string(files.key).unwrap())
    };
    let (certificate, listener) = written(&Identity::make().unwrap());
    let (of_proxy, backend) = written(&Identity::make_rsa().unwrap());
    let public = |name, pem: String| Kept { name, good: pem.into_bytes(), secrets: Vec::new() };
    let set = format!("{{\"keys\":[\n{{\"kty\":\"oct\",\"kid\":\"1\",\"k\":\"{SECRET}{SECRET}\"}}\n]}}\n");
    vec![
        public("listener.pem", certificate),
        key("listener.key", &listener),
        public("backend.pem", of_proxy),
        key("backend.key", &backend),
        text("cookie.key", format!("{SECRET}{SECRET}\n"), &format!("{SECRET}{SECRET}")),
        text("jwks.json", set, &format!("{SECRET}{SECRET}")),
        text("jwt.secret", format!("{SECRET}{SECRET}\n"), &format!("{SECRET}{SECRET}")),
        text("users", format!("ada:{HASH}\nbob:{HASH}\n"), HASH),
        text("keys", format!("one:{DIGITS}\n"), DIGITS),
    ]
}

/// The settings that name all of them.
const FILES: &str = "[[route]]\npath = \"/1\"\nbackend = \"app\"\nauth = [\"set\", \"secret\", \"users\", \"keys\"]\n\
    [[auth]]\nname = \"set\"\njwt = { keys = \"F/jwks.json\" }\n\
    [[auth]]\nname = \"secret\"\njwt = { secret = \"F/jwt.secret\" }\n\
    [[auth]]\nname = \"users\"\nbasic = { users = \"F/users\" }\n\
    [[auth]]\nname = \"keys\"\napi_key = { keys = \"F/keys\" }\n";

fn setup(folder: &Path) -> Setup {
    let at = folder.display().to_string();
    let listener = format!("certificates = [{{ certificate = \"{at}/listener.pem\", key = \"{at}/listener.key\" }}]");
    let backend = format!("ca = \"{at}/listener.pem\", certificate = \"{at}/backend.pem\", key = \"{at}/backend.key\"");
    Setup::via(([127, 0, 0, 1], 9).into(), Via::Tls)
        .tls(&listener)
        .backend_tls(&backend)
        .backend(&format!("sticky = {{ keys = [\"{at}/cookie.key\"] }}\n"))
        .more(&FILES.replace('F', &at))
}

fn replaced(bytes: &[u8], what: &str, with: &str) -> Vec<u8> {
    String::from_utf8_lossy(bytes).replace(what, with).into_bytes()
}

/// What becomes of files.
fn damages(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let half = good.len() / 2;
    let mut lines: Vec<&[u8]> = good.split(|byte| *byte == b'\n').collect();
    let without_last = lines[..lines.len().saturating_sub(2)].join(&b'\n');
    let inner = lines.len().saturating_sub(2).max(1);
    lines[1..inner].reverse();
    let mixed = lines.join(&b'\n');
    let labels = replaced(good, "PRIVATE KEY", "NONSENSE");
    vec![
        ("one line", replaced(good, "\n", "")),
        ("one line with blanks", replaced(good, "\n", " ")),
        ("backslash and n for line breaks", replaced(good, "\n", "\\n")),
        ("truncated", good[..half].to_vec()),
        ("without its first line", good.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default().to_vec()),
        ("without its last line", without_last),
        ("wrong label", labels),
        ("public label", replaced(good, "PRIVATE KEY", "PUBLIC KEY")),
        ("certificate's label", replaced(good, "PRIVATE KEY", "CERTIFICATE")),
        ("encrypted label", replaced(good, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY")),
        ("binary", [&[0xff, 0, 0xfe], good].concat()),
        ("byte order mark", [b"\xef\xbb\xbf".as_slice(), good].concat()),
        ("CRLF", replaced(good, "\n", "\r\n")),
        ("UTF-16", good.iter().flat_map(|byte| [*byte, 0]).collect()),
        ("wrong base64", [&good[..half], b"!%", &good[half..]].concat()),
        ("wrong order", mixed),
        ("wrong bytes", replaced(&replaced(good, "A", "B"), "$04$", "$99$")),
        ("quoted", [b"\"", good, b"\"\n"].concat()),
        ("empty", Vec::new()),
        ("huge", good.repeat((1 << 20) / good.len() + 2)),
        ("twice", good.repeat(2)),
        ("without colons", replaced(good, ":", "")),
    ]
}

/// Everything that would be a piece of a secret.
#[derive(Default)]
struct Forbidden {
    /// As it is, and in base64.
    text: HashSet<Vec<u8>>,
    /// Their bytes, as numbers of two hexadecimal digits or in a list of decimals.
    bytes: HashSet<Vec<u8>>,
}

impl Forbidden {
    fn of(kept: &[Kept]) -> Self {
        let mut all = Self::default();
        for secret in kept.iter().flat_map(|kept| &kept.secrets) {
            all.bytes.extend(secret.windows(WINDOW).map(<[u8]>::to_vec));
            all.text.extend(secret.windows(WINDOW).map(<[u8]>::to_vec));
        }
        all
    }

    /// The first piece that is in a text.
    fn find(&self, said: &str) -> Option<String> {
        let shown = |window: &[u8]| String::from_utf8_lossy(window).into_owned();
        let as_it_is = said.as_bytes().windows(WINDOW).find(|window| self.text.contains(*window)).map(shown);
        let numbers: Vec<u8> = said.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        let decimals = numbers.windows(WINDOW).find(|window| self.bytes.contains(*window)).map(|w| format!("{w:?}"));
        let hex = said.as_bytes().windows(2 * WINDOW).find(|digits| {
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
            bytes.is_some_and(|bytes| self.bytes.contains(&bytes))
        });
        as_it_is.or(decimals).or(hex.map(shown))
    }

    fn check(&self, said: &str, what: &str) {
        assert_eq!(self.find(said), None, "{what}: {said}");
    }
}

#[test]
fn what_is_looked_for_would_be_found() {
    let all = kept();
    let forbidden = Forbidden::of(&all);
    let der = &all[1].secrets[1];
    let hex: String = der.iter().map(|byte| format!("{byte:02X}")).collect();
    for said in
        [format!("x {SECRET} y"), format!("{der:?}"), hex, format!("bcrypt {HASH}"), format!("{:?}", &der[40..50])]
    {
        assert!(forbidden.find(&said).is_some(), "{said}");
    }
    assert_eq!(forbidden.find("cannot read the private key: it must be PEM, line 1, 2, 3, 4, 5, 6, 7, 8, 9"), None);
}

/// Every file with every damage: the file's name, the damage's, and the bytes. Certificates are replaced by keys as well.
fn cases(all: &[Kept]) -> Vec<(&'static str, String, Vec<u8>)> {
    let damaged = |kept: &Kept| {
        let name = kept.name;
        damages(&kept.good).into_iter().map(move |(what, bytes)| (name, what.to_owned(), bytes))
    };
    let mut cases: Vec<_> = all.iter().filter(|kept| !kept.secrets.is_empty()).flat_map(damaged).collect();
    for (certificate, key) in [(0, 1), (2, 3)] {
        let name = all[certificate].name;
        let instead = damages(&all[key].good).into_iter();
        cases.extend(instead.map(|(what, bytes)| (name, format!("the key, {what}"), bytes)));
        cases.push((name, "the key".into(), all[key].good.clone()));
    }
    cases
}

fn write_all(all: &[Kept], folder: &Path) {
    all.iter().for_each(|kept| std::fs::write(folder.join(kept.name), &kept.good).unwrap());
}

#[test]
fn a_check_and_a_start_repeat_nothing_of_a_damaged_secret() {
    let (all, folder) = (kept(), Folder::make().unwrap());
    let forbidden = Forbidden::of(&all);
    write_all(&all, folder.path());
    // The whole of them is good, and where its configuration is the harness knows.
    let config = folder.path().join("sluice.toml");
    std::fs::write(&config, setup(folder.path()).written(folder.path()).unwrap()).unwrap();
    let mut refused = 0;
    for (name, what, bytes) in cases(&all) {
        let file = folder.path().join(name);
        std::fs::write(&file, &bytes).unwrap();
        let mut check = Command::new(binary());
        check.args(["check", "--files", "--config"]).arg(&config).stdin(Stdio::null());
        let checked = check.output().unwrap();
        let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        forbidden.check(&said, &format!("check, {name}, {what}"));
        assert!(!said.contains("panicked"), "{name}, {what}: {said}");
        if !checked.status.success() {
            refused += 1;
            assert!(said.contains(name) || said.contains("[[auth]]"), "{name}, {what}: {said}");
            let command = ["run", "--config"].map(String::from);
            let command = [vec![binary().display().to_string()], command.to_vec(), vec![config.display().to_string()]];
            let mut program = Program::start(&command.concat()).unwrap();
            assert!(!program.wait().success(), "{name}, {what}");
            forbidden.check(&program.last_log(), &format!("start, {name}, {what}"));
        }
        std::fs::write(&file, &all.iter().find(|kept| kept.name == name).unwrap().good).unwrap();
    }
    assert!(refused > 120, "{refused}");
}

#[test]
fn a_reload_repeats_nothing_of_a_damaged_secret() {
    let (all, folder) = (kept(), Folder::make().unwrap());
    let forbidden = Forbidden::of(&all);
    write_all(&all, folder.path());
    let sluice = Sluice::start(&setup(folder.path())).unwrap();
    let reloads =
        |result: &str| sluice.metrics().unwrap().sum("sluice_certificate_reloads_total", &[("result", result)]);
    let reload = |what: &str| {
        let before = reloads("ok") + reloads("failed");
        eventually(what, || {
            sluice.program.signal(Signal::HUP).unwrap();
            (reloads("ok") + reloads("failed") > before).then_some(())
        });
    };
    for (name, what, bytes) in cases(&all) {
        std::fs::write(folder.path().join(name), &bytes).unwrap();
        reload(&format!("{name}, {what}"));
        let good = &all.iter().find(|kept| kept.name == name).unwrap().good;
        std::fs::write(folder.path().join(name), good).unwrap();
    }
    reload("all are good again");
    assert!(reloads("failed") > 120, "{}", reloads("failed"));
    let log = sluice.program.log();
    assert!(log.contains("listener.key: cannot read the private key: it must be PEM, not encrypted, and"), "{log}");
    forbidden.check(&log, "reload");
}

#[test]
fn a_key_in_the_place_of_a_files_name_is_not_repeated() {
    let all = kept();
    let key = String::from_utf8_lossy(&all[1].good).into_owned();
    let settings = format!("certificates = [{{ certificate = \"cert.pem\", key = \"\"\"{key}\"\"\" }}]");
    let said = format!("{:#}", Sluice::start(&Setup::new(([127, 0, 0, 1], 9).into()).tls(&settings)).err().unwrap());
    assert!(said.contains("put it into a file"), "{said}");
    Forbidden::of(&all).check(&said, "inline");
    assert!(CertificateDer::from_pem_slice(key.as_bytes()).is_err());
}
