//! Finds out, by trying, which TLS this kernel takes over, and whether it can change keys.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd as _;

use serde::{Deserialize, Serialize};

use super::leg::{Handshaken, Ready, Received};
use super::suite::{Cipher, Keys, Role, Suite, Version};
use super::{Failure, Leg, Secret};
use crate::sys::socket;

/// Why a suite cannot be armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lack {
    /// The kernel has no TLS at all, or may not load it.
    Ktls(String),
    /// The kernel has not this version with this cipher.
    Suite(String),
}

impl Lack {
    /// What a person needs to know.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Ktls(why) | Self::Suite(why) => why,
        }
    }
}

/// One suite, and whether it can be armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteAbility {
    /// The suite.
    pub suite: Suite,
    /// Why not, if it cannot.
    pub lack: Option<Lack>,
}

/// What this kernel can do with TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    /// Every suite that there is a question about.
    pub suites: Vec<SuiteAbility>,
    /// Keys can be changed on a live socket (kernel 6.14 and later).
    pub rekey: bool,
}

impl Ability {
    /// Tries every suite on a connection to itself: a record each way must come through. Loads the kernel's modules
    /// if they are not there, for which it needs CAP_NET_ADMIN.
    #[must_use]
    pub fn find() -> Self {
        let mut ability = Self::default();
        for suite in Suite::all() {
            let lack = match trial(suite) {
                Ok(rekey) => {
                    ability.rekey |= rekey;
                    None
                }
                Err(lack) => Some(lack),
            };
            ability.suites.push(SuiteAbility { suite, lack });
        }
        ability
    }

    /// Whether connections of this suite can be armed.
    #[must_use]
    pub fn can(&self, suite: Suite) -> bool {
        self.suites.iter().any(|known| known.suite == suite && known.lack.is_none())
    }

    /// Whether any can.
    #[must_use]
    pub fn any(&self) -> bool {
        self.suites.iter().any(|known| known.lack.is_none())
    }

    /// Why none can.
    #[must_use]
    pub fn why_none(&self) -> Option<&str> {
        if self.any() {
            return None;
        }
        self.suites.iter().find_map(|known| known.lack.as_ref().map(Lack::text))
    }
}

/// A suite on a real connection. Whether its keys could be changed.
fn trial(suite: Suite) -> Result<bool, Lack> {
    let said = |error: io::Error| Lack::Suite(format!("the trial connection: {error}"));
    let (near, far) = socket::loopback_pair().map_err(said)?;
    let mut ready = Vec::new();
    for end in [&near, &far] {
        ready.push(Ready::make(end.as_fd()).map_err(no_ulp)?);
    }
    let mut legs = Vec::new();
    for ((end, ready), role) in [&near, &far].into_iter().zip(ready).zip([Role::Client, Role::Server]) {
        let leg = ready
            .arm(end.as_fd(), &made_up(suite, role), true, u64::MAX)
            .map_err(|refused| no_suite(&refused.into_inner()))?;
        legs.push(leg);
    }
    let [client, server] = legs.as_mut_slice() else { return Err(Lack::Suite("two ends are not two".into())) };
    carry(client, &near, server, &far).map_err(said)?;
    carry(server, &far, client, &near).map_err(said)?;
    Ok(suite.version == Version::Tls13 && change(client, &near, server, &far))
}

/// One message from end to end.
fn carry(from: &mut Leg, out: &TcpStream, to: &mut Leg, into: &TcpStream) -> io::Result<()> {
    const SAID: &[u8] = b"sluice";
    let broken = |failure: Failure| io::Error::other(format!("{failure:?}"));
    from.send(out.as_fd(), SAID).map_err(broken)?;
    let mut heard = [0; 2 * SAID.len()];
    socket::wait_readable(into, socket::TRIAL_PATIENCE)?;
    match to.receive(into.as_fd(), &mut heard).map_err(broken)? {
        Received::Data(got) if heard.get(..got) == Some(SAID) => Ok(()),
        other => Err(io::Error::other(format!("other bytes arrived than were sent ({other:?})"))),
    }
}

/// A change of keys, and a message behind it.
fn change(from: &mut Leg, out: &TcpStream, to: &mut Leg, into: &TcpStream) -> bool {
    from.change_key(out.as_fd()).is_ok() && carry(from, out, to, into).is_ok()
}

/// Keys that both ends know without a handshake, to try things with.
#[must_use]
pub fn made_up(suite: Suite, role: Role) -> Handshaken {
    let length = if suite.cipher == Cipher::Aes256Gcm { 48 } else { 32 };
    let [of_client, of_server] = [1, 2].map(|fill| Secret::new(&vec![fill; length]));
    let (tx, rx) = match role {
        Role::Client => (of_client, of_server),
        Role::Server => (of_server, of_client),
    };
    let none = || Keys { key: [0; 32], iv: [0; 12], sequence: 0 };
    let keys = |secret: &Secret| secret.keys(suite).unwrap_or_else(none);
    let (tx_keys, rx_keys) = (keys(&tx), keys(&rx));
    let secrets = (suite.version == Version::Tls13).then_some((tx, rx));
    Handshaken { suite, role, tx: tx_keys, rx: rx_keys, secrets }
}

fn no_ulp(error: io::Error) -> Lack {
    Lack::Ktls(match error.raw_os_error() {
        Some(libc::ENOENT) => "the kernel has no TLS module, or may not load it (CONFIG_TLS, CAP_NET_ADMIN)".into(),
        _ => format!("TCP_ULP: {error}"),
    })
}

fn no_suite(error: &io::Error) -> Lack {
    Lack::Suite(match error.raw_os_error() {
        Some(libc::ENOENT) => "the kernel lacks the cipher's module".into(),
        Some(libc::EINVAL) => "the kernel does not know it".into(),
        _ => format!("installing keys: {error}"),
    })
}

/// An end that receives with made-up keys and sends as it is told: a peer that may say what no library says.
#[cfg(test)]
pub(crate) fn receive_only(socket: std::os::fd::BorrowedFd<'_>, suite: Suite, role: Role) -> io::Result<()> {
    socket::set_ulp(socket, c"tls")?;
    crate::sys::ktls::install(socket, crate::sys::ktls::Way::Rx, suite.crypto_info(&made_up(suite, role).rx).as_ref())
}
