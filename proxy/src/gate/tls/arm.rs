//! A TLS session's keys go to the kernel, right behind its handshake.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::KeyLog;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::kernel::KernelTls;
use super::records::Records;
use super::user::UserTls;
use crate::gate::stream::Stream;
use crate::handoff::WhyNot;
use crate::ktls::{Ability, Handshaken, Keys, Leg, Ready, Refused, Role, Secret, Suite};
use crate::sys::socket::is_unix;

/// What the kernel does for this gate's TLS.
pub(in crate::gate) struct Arming {
    ability: Ability,
    /// Why sessions stay in userspace where the kernel can do nothing.
    otherwise: WhyNot,
    /// Records to send with one key.
    key_records: u64,
    /// The suites, a bit each, of which the kernel has refused keys although the trial went well: it is not asked for
    /// those again.
    refused: AtomicU8,
}

impl Arming {
    pub(in crate::gate) fn new(ability: Ability, otherwise: WhyNot, key_records: u64) -> Self {
        Self { ability, otherwise, key_records, refused: AtomicU8::new(0) }
    }

    /// Why the keys of a session with this suite cannot go to the kernel, if they cannot.
    fn why_not(&self, suite: Suite) -> Option<WhyNot> {
        if !self.ability.any() {
            Some(self.otherwise)
        } else if !self.ability.can(suite) || self.refused.load(Ordering::Relaxed) & bit(suite) != 0 {
            Some(WhyNot::KtlsSuite)
        } else {
            None
        }
    }

    /// Gives the keys to the kernel where that can be done; else they stay in this process.
    ///
    /// # Errors
    /// The kernel refused them half-way, or the peer has begun something that does not end with its handshake: the
    /// connection can only be closed.
    pub(super) fn arm(&self, tls: TlsStream<Records>, secrets: &Secrets) -> io::Result<Stream> {
        let (tcp, done) = finished(tls, secrets)?;
        match self.install(&tcp, &done)? {
            Ok(leg) => Ok(Stream::Kernel(Box::new(KernelTls::new(tcp, leg)))),
            Err(why) => Ok(Stream::User(Box::new(UserTls::new(tcp, done, self.key_records)), why)),
        }
    }

    fn install(&self, tcp: &TcpStream, done: &Handshaken) -> io::Result<Result<Leg, WhyNot>> {
        if is_unix(tcp) {
            return Ok(Err(WhyNot::UnixSocket));
        }
        if let Some(why) = self.why_not(done.suite) {
            return Ok(Err(why));
        }
        let ready = match Ready::make(tcp.as_fd()) {
            Ok(ready) => ready,
            Err(error) => {
                tracing::debug!(%error, "a socket does not take the tls ULP");
                return Ok(Err(WhyNot::NoKtls));
            }
        };
        let refused = match ready.arm(tcp.as_fd(), done, self.ability.rekey, self.key_records) {
            Ok(leg) => return Ok(Ok(leg)),
            Err(refused) => refused,
        };
        self.refused.fetch_or(bit(done.suite), Ordering::Relaxed);
        tracing::warn!(%refused, suite = ?done.suite, "userspace keeps the keys of this cipher from now on");
        match refused {
            Refused::Sending(_) => Ok(Err(WhyNot::KtlsSuite)),
            Refused::Receiving(error) => Err(error),
        }
    }
}

fn bit(suite: Suite) -> u8 {
    Suite::all().position(|known| known == suite).map_or(0, |place| 1 << place)
}

/// Takes a session apart behind its handshake.
fn finished(mut tls: TlsStream<Records>, secrets: &Secrets) -> io::Result<(TcpStream, Handshaken)> {
    let (records, session) = tls.get_ref();
    let (boundary, suite) =
        (records.between_records(), Suite::of(session.protocol_version(), session.negotiated_cipher_suite()));
    let nothing_waits = match &mut tls {
        TlsStream::Server(tls) => nothing_waits(tls.get_mut().1.process_new_packets(), tls.get_ref().1.wants_write()),
        TlsStream::Client(tls) => nothing_waits(tls.get_mut().1.process_new_packets(), tls.get_ref().1.wants_write()),
    };
    if !(boundary && nothing_waits) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there is more behind the TLS handshake than its end"));
    }
    let (records, extracted, role) = match tls {
        TlsStream::Server(tls) => {
            let (records, session) = tls.into_inner();
            (records, session.dangerous_extract_secrets(), Role::Server)
        }
        TlsStream::Client(tls) => {
            let (records, session) = tls.into_inner();
            (records, session.dangerous_extract_secrets(), Role::Client)
        }
    };
    let unknown = || io::Error::other("rustls has agreed on a cipher that is not known here");
    let extracted = extracted.map_err(io::Error::other)?;
    let keys = |(sequence, secrets)| Keys::of(sequence, &secrets).ok_or_else(unknown);
    let (tx, rx) = (keys(extracted.tx)?, keys(extracted.rx)?);
    let done = Handshaken { suite: suite.ok_or_else(unknown)?, role, tx, rx, secrets: secrets.take(role) };
    Ok((records.into_tcp(), done))
}

/// Whether a session has given out everything that it has read, and written everything that it is to write.
fn nothing_waits(state: Result<rustls::IoState, rustls::Error>, wants_write: bool) -> bool {
    state.is_ok_and(|state| state.plaintext_bytes_to_read() == 0) && !wants_write
}

/// The traffic secrets of one session of TLS 1.3, as rustls tells its key log: later keys are made from them.
#[derive(Default)]
pub(super) struct Secrets(Mutex<[Option<Secret>; 2]>);

const LABELS: [&str; 2] = ["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"];

impl Secrets {
    /// What this side sends with, and what it receives with.
    fn take(&self, role: Role) -> Option<(Secret, Secret)> {
        let [client, server] = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        match role {
            Role::Client => client.zip(server),
            Role::Server => server.zip(client),
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if let Some(place) = LABELS.iter().position(|known| *known == label) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(Secret::new(secret));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        LABELS.contains(&label)
    }
}

/// A session's own copy of what its side has in common with others, with a place for its secrets.
pub(super) fn with_secrets<C: Clone>(shared: &C, set: impl FnOnce(&mut C, Arc<Secrets>)) -> (Arc<C>, Arc<Secrets>) {
    let secrets = Arc::new(Secrets::default());
    let mut own = shared.clone();
    set(&mut own, secrets.clone());
    (Arc::new(own), secrets)
}
