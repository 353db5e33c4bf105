//! Segments that overlap, as retransmissions may: each byte arrives once, over every engine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::Command;

use sluice_tests::needs;
use sluice_tests::sluice::binary;

fn overlapping(engine: &str) {
    let python = match needs::root().and_then(|()| needs::program("unshare")).and_then(|_| needs::program("python3")) {
        Ok(python) => python,
        Err(missing) => return needs::skip(&missing),
    };
    if !Path::new("/dev/net/tun").exists() {
        return needs::skip("there is no /dev/net/tun");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/overlap.py");
    // A network namespace of its own: it ends with the script, and the TUN device with it.
    let output = Command::new("unshare").arg("-n").arg(python).arg(script).arg(binary()).arg(engine).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("arrived as they were sent"), "{said}");
}

#[test]
fn overlapping_segments_are_delivered_once_by_the_kernel() {
    match needs::sockmap() {
        Ok(()) => overlapping("sockmap"),
        Err(missing) => needs::skip(&missing),
    }
}

#[test]
fn overlapping_segments_are_delivered_once_by_userspace() {
    overlapping("copy");
}
