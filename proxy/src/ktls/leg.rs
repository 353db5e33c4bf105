//! One socket whose records the kernel makes and opens.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::SendFlags;
use serde::{Deserialize, Serialize};

use super::post::{
    ALERT, APPLICATION_DATA, Asked, BAD_RECORD_MAC, CLOSE_NOTIFY, FATAL, HANDSHAKE, KEY_UPDATE, NO_RENEGOTIATION, Post,
    RECORD_OVERFLOW, UNEXPECTED_MESSAGE, WARNING,
};
use super::secret::Secret;
use super::suite::{Keys, Role, Suite};
use crate::sys::ktls::{self, Way};
use crate::sys::socket;

/// Content of a full record (RFC 8446 §5.1), which is what the kernel cuts longer writes into.
const RECORD: u64 = 1 << 14;

/// What a finished handshake leaves behind.
pub struct Handshaken {
    /// Version and cipher.
    pub suite: Suite,
    /// Which side this end was.
    pub role: Role,
    /// Keys of what this end sends.
    pub tx: Keys,
    /// Keys of what it receives.
    pub rx: Keys,
    /// In TLS 1.3, the traffic secrets of both, to make later keys from: sending, receiving.
    pub secrets: Option<(Secret, Secret)>,
}

/// A socket that is ready for keys: it has the `tls` ULP and stands at a record boundary both ways.
#[derive(Debug)]
pub struct Ready {
    base: u64,
}

/// A socket with keys: what must be known of it beside what the kernel knows. It goes along when the socket changes
/// hands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Leg {
    suite: Suite,
    role: Role,
    tx: Option<Secret>,
    rx: Option<Secret>,
    /// The kernel can change keys.
    rekey: bool,
    /// Records to send with one key.
    limit: u64,
    post: Post,
    /// The peer wants to see our keys change, and there was no room to tell it.
    owes_update: bool,
    /// close_notify or a fatal alert has been sent.
    tx_closed: bool,
    /// The limit is lifted for what is said before the end.
    last_words: bool,
    /// What TCP had accepted when the first key was installed, in bytes.
    base: u64,
    /// Content that the kernel has accepted since, in bytes.
    content: u64,
    /// Records sent with earlier keys.
    earlier: u64,
    /// The number of the first record of the present key.
    first: u64,
    /// No more records than this have been sent with it.
    bound: u64,
    /// The socket's error (`errno`), of which the kernel tells ahead of records that came before it.
    failed: Option<i32>,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes of application data, at least one.
    Data(usize),
    /// close_notify, or a FIN without it: what a FIN is on a plain connection. Frames have their own lengths and their
    /// own Close, so a truncation by a third party is seen one layer up.
    End,
}

/// How far the end of what is sent has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is no room for the close_notify: try again when the socket is writable.
    Full,
    /// TCP does not have everything yet: try again soon.
    Draining,
    /// TCP has all of it: a FIN may follow.
    Done,
}

/// Why a socket cannot be read, or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The socket's own error; `EAGAIN` is none.
    Socket(Errno),
    /// The TLS connection's.
    Tls(Why),
}

/// Why a TLS connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The peer gave up, with this alert.
    Alert(u8),
    /// The peer sent what is no TLS, or what has no place here. It has been told, with this alert.
    Protocol(u8),
    /// The peer has changed its keys, and this kernel cannot.
    KeyUpdate,
    /// As many records have been sent as the key is good for, and it cannot be changed.
    KeyLimit,
}

/// The kernel does not take keys.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Those to send with, the first that it was given: the socket carries bytes as they are, and userspace can keep
    /// the keys.
    #[error("the kernel does not take the keys to send with: {0}")]
    Sending(#[source] io::Error),
    /// Those to receive with. The peer has been sent a close_notify; the connection can only be closed.
    #[error("the kernel does not take the keys to receive with: {0}")]
    Receiving(#[source] io::Error),
}

impl Refused {
    /// What the kernel said.
    #[must_use]
    pub fn into_inner(self) -> io::Error {
        match self {
            Self::Sending(error) | Self::Receiving(error) => error,
        }
    }
}

impl Ready {
    /// Gets a socket ready. The last handshake record must have been read exactly to its end, and everything that is
    /// to be sent with userspace's keys must have been written. On failure the socket is as it was.
    ///
    /// # Errors
    /// This kernel has no TLS, or the connection is not established any more.
    pub fn make(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let Some(base) = socket::accepted_exactly(socket) else {
            return Err(io::Error::other("what TCP has accepted cannot be told"));
        };
        socket::set_ulp(socket, c"tls")?;
        Ok(Self { base })
    }

    /// Installs the keys. `rekey`: this kernel can change them later. `limit`: records to send with one key, at most
    /// what the cipher allows.
    ///
    /// # Errors
    /// The kernel refuses; [`Refused`] says how far it came.
    pub fn arm(self, socket: BorrowedFd<'_>, done: &Handshaken, rekey: bool, limit: u64) -> Result<Leg, Refused> {
        let &Handshaken { suite, role, ref tx, ref rx, ref secrets } = done;
        ktls::install(socket, Way::Tx, suite.crypto_info(tx).as_ref()).map_err(Refused::Sending)?;
        if let Err(error) = ktls::install(socket, Way::Rx, suite.crypto_info(rx).as_ref()) {
            // Nothing else can be said, and a socket that was just set up has room for it.
            let _ = ktls::send_record(socket, ALERT, &[WARNING, CLOSE_NOTIFY]);
            return Err(Refused::Receiving(error));
        }
        let (tx_secret, rx_secret) = secrets.clone().unzip();
        Ok(Leg {
            suite,
            role,
            rekey: rekey && tx_secret.is_some(),
            tx: tx_secret,
            rx: rx_secret,
            limit: limit.min(suite.record_limit()),
            post: Post::default(),
            owes_update: false,
            tx_closed: false,
            last_words: false,
            base: self.base,
            content: 0,
            earlier: 0,
            first: tx.sequence,
            bound: 0,
            failed: None,
        })
    }
}

fn socket_failure(errno: i32) -> Failure {
    Failure::Socket(Errno::from_raw_os_error(errno))
}

impl Leg {
    /// Version and cipher.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether it can be what [`Ready::arm`] makes, as far as anything relies on that: it comes from another process.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        /// No secret of a suite is longer: SHA-384's output.
        const LONGEST_SECRET: usize = 48;
        let secrets = [&self.tx, &self.rx].into_iter().flatten();
        secrets.map(Secret::length).all(|length| length <= LONGEST_SECRET) && self.limit <= self.suite.record_limit()
    }

    /// Receives without waiting, and deals with everything that is no application data.
    ///
    /// # Errors
    /// [`Failure`]; `EAGAIN` when nothing has come.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<Received, Failure> {
        loop {
            let (got, kind) = match ktls::receive(socket, into) {
                Ok(received) => received,
                Err(error) => {
                    self.unreadable(socket, error)?;
                    continue;
                }
            };
            let Some(kind) = kind.or((got > 0).then_some(APPLICATION_DATA)) else {
                return self.failed.map_or(Ok(Received::End), |errno| Err(socket_failure(errno)));
            };
            let asked = if kind == APPLICATION_DATA && got > 0 {
                self.post.data().map_err(|alert| self.give_up(socket, alert))?;
                return Ok(Received::Data(got));
            } else if kind == APPLICATION_DATA {
                self.post.nothing()
            } else {
                self.post.take(self.suite.version, self.role, kind, into.get(..got).unwrap_or_default())
            };
            match asked {
                Asked::Nothing => {}
                Asked::Close => return Ok(Received::End),
                Asked::KeyUpdate { answer } => self.follow(socket, answer)?,
                Asked::Renegotiation => {
                    // Without room for the warning the peer waits until it gives up, as it would without one.
                    let _ = self.control(socket, ALERT, &[WARNING, NO_RENEGOTIATION]);
                }
                Asked::Alert(description) => return Err(Failure::Tls(Why::Alert(description))),
                Asked::Broken(alert) => return Err(self.give_up(socket, alert)),
            }
        }
    }

    /// What an error means; `Ok`: read again.
    fn unreadable(&mut self, socket: BorrowedFd<'_>, error: Errno) -> Result<(), Failure> {
        Err(match (error, self.failed) {
            (Errno::BADMSG, _) => self.give_up(socket, BAD_RECORD_MAC),
            (Errno::MSGSIZE, _) => self.give_up(socket, RECORD_OVERFLOW),
            (Errno::INVAL, _) => self.give_up(socket, UNEXPECTED_MESSAGE),
            // The kernel took a record for a KeyUpdate that was none.
            (Errno::KEYEXPIRED, _) => Failure::Tls(Why::KeyUpdate),
            (Errno::AGAIN, None) => Failure::Socket(error),
            // It tells of a reset once, and then gives what came before: data, or the alert that says why.
            (_, None) => {
                self.failed = Some(error.raw_os_error());
                return Ok(());
            }
            (_, Some(errno)) => socket_failure(errno),
        })
    }

    /// Tells the peer, if there is room, that its records cannot be understood.
    fn give_up(&mut self, socket: BorrowedFd<'_>, alert: u8) -> Failure {
        // The kernel notes a record that it cannot open as the socket's own error, which would be the answer to a send.
        let _noted = rustix::net::sockopt::socket_error(socket);
        let _ = self.control(socket, ALERT, &[FATAL, alert]);
        self.tx_closed = true;
        Failure::Tls(Why::Protocol(alert))
    }

    /// The peer has changed its keys.
    fn follow(&mut self, socket: BorrowedFd<'_>, answer: bool) -> Result<(), Failure> {
        const UNABLE: Failure = Failure::Tls(Why::KeyUpdate);
        if !self.rekey {
            return Err(UNABLE);
        }
        let next = self.rx.as_ref().and_then(|secret| secret.next(self.suite)).ok_or(UNABLE)?;
        let keys = next.keys(self.suite).ok_or(UNABLE)?;
        ktls::install(socket, Way::Rx, self.suite.crypto_info(&keys).as_ref()).map_err(|_| UNABLE)?;
        self.rx = Some(next);
        self.owes_update |= answer;
        match self.pay(socket) {
            Err(Failure::Socket(Errno::AGAIN)) => Ok(()),
            other => other,
        }
    }

    /// Sends what the socket takes without waiting: how many bytes.
    ///
    /// # Errors
    /// [`Failure`]; `EAGAIN` when there is no room.
    pub fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Failure> {
        self.pay(socket)?;
        let records = (bytes.len() as u64).div_ceil(RECORD) + 1;
        if self.bound.saturating_add(records) > self.limit {
            self.renew(socket, records)?;
        }
        let sent = loop {
            match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => break other.map_err(Failure::Socket)?,
            }
        };
        self.content = self.content.wrapping_add(sent as u64);
        // The kernel may have had to cut one record shorter.
        self.bound = self.bound.saturating_add(records);
        Ok(sent)
    }

    /// The key may be worn out: counts exactly, and changes it if so.
    fn renew(&mut self, socket: BorrowedFd<'_>, records: u64) -> Result<(), Failure> {
        self.bound = self.sequence(socket).map_err(Failure::Socket)?.saturating_sub(self.first);
        if self.bound.saturating_add(records) <= self.limit || self.last_words {
            return Ok(());
        }
        if !self.rekey {
            return Err(Failure::Tls(Why::KeyLimit));
        }
        self.change_key(socket)
    }

    /// Sends the KeyUpdate that the peer has asked for, if it has.
    fn pay(&mut self, socket: BorrowedFd<'_>) -> Result<(), Failure> {
        if self.owes_update && !self.tx_closed { self.change_key(socket) } else { Ok(()) }
    }

    /// Tells the peer, with the old key, that a new one follows, and installs it (RFC 8446 §4.6.3).
    pub(super) fn change_key(&mut self, socket: BorrowedFd<'_>) -> Result<(), Failure> {
        /// `update_not_requested`: what the peer sends is the peer's to count.
        const NOT_REQUESTED: u8 = 0;
        const UNABLE: Failure = Failure::Tls(Why::KeyLimit);
        let next = self.tx.as_ref().and_then(|secret| secret.next(self.suite)).ok_or(UNABLE)?;
        let keys = next.keys(self.suite).ok_or(UNABLE)?;
        self.control(socket, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, NOT_REQUESTED]).map_err(Failure::Socket)?;
        let sequence = self.sequence(socket).map_err(Failure::Socket)?;
        // From here on the peer expects the new key: if it cannot be had, nothing more can be said.
        ktls::install(socket, Way::Tx, self.suite.crypto_info(&keys).as_ref())
            .map_err(|error| Failure::Socket(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        self.earlier = self.earlier.wrapping_add(sequence.saturating_sub(self.first));
        self.tx = Some(next);
        (self.first, self.bound, self.owes_update) = (0, 0, false);
        Ok(())
    }

    /// Sends a record that is no application data.
    fn control(&mut self, socket: BorrowedFd<'_>, kind: u8, bytes: &[u8]) -> Result<(), Errno> {
        if self.tx_closed {
            return Ok(());
        }
        ktls::send_record(socket, kind, bytes)?;
        self.content = self.content.wrapping_add(bytes.len() as u64);
        self.bound = self.bound.saturating_add(1);
        Ok(())
    }

    /// Sends close_notify, once, and says whether a FIN may follow: the kernel sends a FIN ahead of records that it
    /// has accepted and that TCP had no room for, and loses those.
    ///
    /// # Errors
    /// The socket's own.
    pub fn finish(&mut self, socket: BorrowedFd<'_>) -> Result<Progress, Errno> {
        match self.control(socket, ALERT, &[WARNING, CLOSE_NOTIFY]) {
            Ok(()) => self.tx_closed = true,
            Err(Errno::AGAIN) => return Ok(Progress::Full),
            Err(error) => return Err(error),
        }
        Ok(if self.settled(socket)? { Progress::Done } else { Progress::Draining })
    }

    /// Whether TCP has accepted every record that the kernel has made. It may say no when acknowledgements come in at
    /// the moment; ask again then.
    ///
    /// # Errors
    /// The socket's own.
    pub fn settled(&self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        let records = self.earlier.wrapping_add(self.sequence(socket)?.saturating_sub(self.first));
        let made = self.content.wrapping_add(records.wrapping_mul(self.suite.overhead()));
        let accepted = socket::accepted(socket).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(accepted.bytes.wrapping_sub(self.base) >= made)
    }

    /// The number of the next record to send.
    fn sequence(&self, socket: BorrowedFd<'_>) -> Result<u64, Errno> {
        let mut info = self.suite.question();
        ktls::installed(socket, Way::Tx, info.as_mut())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(info.sequence())
    }

    /// The connection is about to be ended: the key's limit no longer stands against the few records that are left to
    /// send. (It has room: RFC 8446 §5.5 says 2^24.5, the limit is 2^24.)
    pub fn allow_last_words(&mut self) {
        self.last_words = true;
    }
}
