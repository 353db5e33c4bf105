//! Finds out, by trying, what this kernel and these privileges allow.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

use rustix::net::sockopt;
use rustix::thread::CapabilitySet;

use super::Kernel;
use crate::config::EngineChoice;
use crate::handoff::WhyNot;
use crate::sys::socket;

/// Why pairs will not be relayed by the kernel: a word, and what a person needs to know.
#[derive(Debug)]
pub struct Refusal {
    /// The word.
    pub why_not: WhyNot,
    /// The explanation.
    pub detail: String,
}

/// The loaded program, proven on a trial pair.
///
/// # Errors
/// Why the kernel will not relay: it was not asked to, or something that it needs is missing.
pub fn kernel(choice: EngineChoice, capacity: u32, backlog_limit: u32) -> Result<Kernel, Refusal> {
    if choice == EngineChoice::Copy {
        return Err(Refusal { why_not: WhyNot::Configured, detail: "relay.engine is \"copy\"".into() });
    }
    let mut kernel = Kernel::load(capacity, backlog_limit)
        .map_err(|error| Refusal { why_not: error.why_not(), detail: format!("{error:#}") })?;
    trial(&mut kernel).map_err(|detail| Refusal { why_not: WhyNot::TrialFailed, detail })?;
    Ok(kernel)
}

/// The capabilities that loading takes, and whether this process has each.
#[must_use]
pub fn capabilities() -> Vec<(&'static str, bool)> {
    let held = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    [
        ("CAP_BPF", CapabilitySet::BPF),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_PERFMON", CapabilitySet::PERFMON),
    ]
    .map(|(name, bit)| (name, held.contains(bit)))
    .to_vec()
}

/// The payload of one frame: more than one segment, less than a fresh socket's buffers.
const LATER: u16 = 48 * 1024;

/// What was read ahead of the pair, and a small frame behind it in the same segment.
const HEAD: &[u8; 5] = b"head:";
const FIRST: &[u8] = b"\x82\x05first";

/// Lets slot 0 carry bytes both ways, among them a segment that has been read in part before.
fn trial(kernel: &mut Kernel) -> Result<(), String> {
    let sockets = || -> io::Result<_> { Ok((socket::loopback_pair()?, socket::loopback_pair()?)) };
    let ((mut client, mut left), (right, mut backend)) =
        sockets().map_err(|error| format!("no loopback sockets for a trial pair: {error}"))?;
    let cookies = [&left, &right].map(|socket| sockopt::socket_cookie(socket).unwrap_or(0));
    let outcome = (|| -> Result<(), String> {
        let said = |what: &'static str| move |error: io::Error| format!("the trial pair failed to {what}: {error}");
        client.write_all(&[HEAD, FIRST].concat()).map_err(said("send"))?;
        let mut head = [0; HEAD.len()];
        left.read_exact(&mut head).map_err(said("read a head"))?;
        kernel.insert(0, [left.as_fd(), right.as_fd()], cookies).map_err(|error| error.to_string())?;
        socket::kick(&left).and_then(|()| socket::kick(&right)).map_err(said("start"))?;
        // One frame, and no thousands: the kernel program leaves those to userspace.
        let later = [b"\x82\x7e".as_slice(), &LATER.to_be_bytes(), &vec![b'x'; LATER.into()]].concat();
        exchange(&mut client, b"", &mut backend, FIRST).map_err(said("carry what was there before"))?;
        exchange(&mut client, &later, &mut backend, &later).map_err(said("carry"))?;
        exchange(&mut backend, &later, &mut client, &later).map_err(said("carry back"))
    })();
    kernel.remove(0, cookies);
    drop((client, left, right, backend));
    kernel.clear(0);
    while kernel.next_event().is_some() {}
    outcome
}

fn exchange(from: &mut TcpStream, bytes: &[u8], to: &mut TcpStream, expected: &[u8]) -> io::Result<()> {
    from.write_all(bytes)?;
    let mut got = vec![0; expected.len()];
    to.read_exact(&mut got)?;
    if got == expected { Ok(()) } else { Err(io::Error::other("other bytes arrived than were sent")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_configured_copy_engine_is_no_failure_of_the_kernel() {
        assert_eq!(kernel(EngineChoice::Copy, 4, 65536).err().unwrap().why_not, WhyNot::Configured);
    }

    #[test]
    fn a_refusal_says_why() {
        // Whether this machine can or cannot: both answers are whole.
        match kernel(EngineChoice::Auto, 4, 256 * 1024) {
            Ok(mut kernel) => assert!(kernel.next_event().is_none(), "the trial left an event behind"),
            Err(refusal) => assert!(!refusal.detail.is_empty()),
        }
    }
}
