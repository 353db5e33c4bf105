//! The messages between gate and keeper, and the few things that both must do alike.
//!
//! They cross one `SOCK_SEQPACKET` socket pair, each message in one packet, file descriptors beside it
//! (SCM_RIGHTS). The keeper trusts nothing in what the gate sends: indices are checked, texts are bounded, and a
//! gate that sends what cannot be understood is ended.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy_common::layout::PairCounters;
use serde::{Deserialize, Serialize};
use zeroize::ZeroizeOnDrop;

use crate::config::Config;
use crate::ktls::{Ability, Leg, Why};
use files::FileRole;

pub mod close;
pub mod files;
mod found;
pub mod memory;
mod peer;
mod snapshot;
pub mod stats;
mod tally;
pub mod wire;

pub use found::{Found, Held, MOST_FOUND};
pub use peer::{Peer, canonical};
pub use snapshot::{ByEngine, PairRow, Snapshot, SnapshotWriter, add_to_engine};
pub use tally::{TALLIES, Tally};

/// The most that one message holds, in bytes: below the default limit of 212,992 on a Unix socket's buffer, with
/// room for what either side sent behind its handshake, twice.
pub const MAX_MESSAGE: usize = 160 * 1024;

/// The most bytes that may be handed over per direction with a pair: two of them fit a message.
pub const MAX_LEFTOVER: usize = 72 * 1024;

/// What carries an established pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The kernel: a verdict program redirects between both sockets.
    Sockmap,
    /// The kernel makes and opens the TLS records of at least one side; the keeper moves their content.
    Ktls,
    /// Userspace copies.
    Copy,
}

impl Engine {
    /// All, in the order of preference.
    pub const ALL: [Self; 3] = [Self::Sockmap, Self::Ktls, Self::Copy];

    /// Where it stands in [`Engine::ALL`].
    #[must_use]
    pub const fn place(self) -> usize {
        match self {
            Self::Sockmap => 0,
            Self::Ktls => 1,
            Self::Copy => 2,
        }
    }

    /// The value of the `engine` label and of `relay=` in `Proxy-WebSocket-Status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sockmap => "sockmap",
            Self::Ktls => "ktls",
            Self::Copy => "copy",
        }
    }
}

/// Why a pair is not in the best engine there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhyNot {
    /// The setting `relay.engine` says so.
    Configured,
    /// The process lacks CAP_BPF, CAP_NET_ADMIN or CAP_PERFMON.
    NoPrivilege,
    /// The kernel refused the program or a map.
    KernelRefused,
    /// The kernel has no BTF at /sys/kernel/btf/vmlinux.
    NoBtf,
    /// A trial pair did not carry its bytes.
    TrialFailed,
    /// One side speaks TLS, and the kernel has none.
    NoKtls,
    /// One side speaks TLS with a version or cipher that the kernel lacks.
    KtlsSuite,
    /// The kernel refused this pair's sockets.
    InsertFailed,
    /// The client speaks HTTP/2: its connection is not this pair's alone.
    Http2,
    /// One side is a Unix socket, where the kernel has neither the relay nor TLS.
    UnixSocket,
}

impl WhyNot {
    /// The word in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::NoPrivilege => "no-privilege",
            Self::KernelRefused => "kernel-refused",
            Self::NoBtf => "no-btf",
            Self::TrialFailed => "trial-failed",
            Self::NoKtls => "no-ktls",
            Self::KtlsSuite => "ktls-suite",
            Self::InsertFailed => "insert-failed",
            Self::Http2 => "http2",
            Self::UnixSocket => "unix-socket",
        }
    }
}

/// Why a pair ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// Both sides sent FIN.
    Finished,
    /// The client's connection was reset or timed out.
    ClientFailed,
    /// The backend's connection was reset or timed out.
    BackendFailed,
    /// `relay.idle_timeout`.
    Idle,
    /// `relay.max_lifetime`.
    Lifetime,
    /// Sluice was told to stop.
    Shutdown,
    /// The kernel had to give up a byte of the stream (it was out of memory).
    KernelBroken,
    /// The gate that carried it has ended.
    GateLost,
    /// A peer gave its TLS connection up, with an alert.
    TlsAlert,
    /// A peer sent what is no TLS record, or one that has no place there.
    TlsProtocol,
    /// A peer changed its TLS keys, which this kernel cannot follow.
    TlsKeyUpdate,
    /// As many records were sent as a TLS key is good for, and this kernel or TLS version cannot change it.
    TlsKeyLimit,
    /// The token that the client has entered with has expired (`end_at_expiry`).
    TokenExpired,
}

impl EndReason {
    /// All, in the order of their values.
    pub const ALL: [Self; 13] = [
        Self::Finished,
        Self::ClientFailed,
        Self::BackendFailed,
        Self::Idle,
        Self::Lifetime,
        Self::Shutdown,
        Self::KernelBroken,
        Self::GateLost,
        Self::TlsAlert,
        Self::TlsProtocol,
        Self::TlsKeyUpdate,
        Self::TlsKeyLimit,
        Self::TokenExpired,
    ];

    /// Of a pair with a TLS connection that cannot go on.
    #[must_use]
    pub const fn of_tls(why: Why) -> Self {
        match why {
            Why::Alert(_) => Self::TlsAlert,
            Why::Protocol(_) => Self::TlsProtocol,
            Why::KeyUpdate => Self::TlsKeyUpdate,
            Why::KeyLimit => Self::TlsKeyLimit,
        }
    }

    /// The word in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ClientFailed => "client-failed",
            Self::BackendFailed => "backend-failed",
            Self::Idle => "idle-timeout",
            Self::Lifetime => "max-lifetime",
            Self::Shutdown => "shutdown",
            Self::KernelBroken => "kernel-broken",
            Self::GateLost => "gate-lost",
            Self::TlsAlert => "tls-alert",
            Self::TlsProtocol => "tls-protocol",
            Self::TlsKeyUpdate => "tls-key-update",
            Self::TlsKeyLimit => "tls-key-limit",
            Self::TokenExpired => "token-expired",
        }
    }
}

/// The name of one connection, the same in logs, headers, metrics and the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);

impl std::fmt::Display for ConnId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is known of a pair beside its sockets. Indices are into the configuration's lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its name.
    pub id: ConnId,
    /// The client.
    pub client: Peer,
    /// Which listener took it.
    pub listener: u16,
    /// Which route admitted it.
    pub route: u16,
    /// Which backend.
    pub backend: u16,
    /// Which of the backend's servers.
    pub server: u16,
    /// When the client's connection was accepted: milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// When it ends, whatever else is so, if it has such an end: milliseconds since the Unix epoch.
    pub expires_ms: Option<NonZeroU64>,
}

impl Facts {
    /// How long the pair may last, if it has an end of its own. Wall clocks jump: this is for the one moment at which it is
    /// taken over.
    #[must_use]
    pub fn time_left(&self, now: SystemTime) -> Option<Duration> {
        let ends = UNIX_EPOCH.checked_add(Duration::from_millis(self.expires_ms?.get()))?;
        Some(ends.duration_since(now).unwrap_or_default())
    }
}

/// A pair whose handshakes are done on both sides, and whose TLS keys, if it has any, are in the kernel. Two descriptors
/// go with it: the client's socket, then the backend's.
#[derive(Serialize, Deserialize)]
pub struct NewPair {
    /// What is known of it.
    pub facts: Facts,
    /// What the client sent behind its request head: the first bytes for the backend. At most [`MAX_LEFTOVER`].
    pub to_backend: Vec<u8>,
    /// What the backend sent behind its response head: the first bytes for the client. At most [`MAX_LEFTOVER`].
    pub to_client: Vec<u8>,
    /// What goes with a socket that has TLS keys: the client's, then the backend's.
    pub tls: [Option<Leg>; 2],
}

impl std::fmt::Debug for NewPair {
    /// Without what the sides have sent.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lengths = [&self.to_backend, &self.to_client].map(Vec::len);
        f.debug_struct("NewPair").field("facts", &self.facts).field("leftovers", &lengths).finish_non_exhaustive()
    }
}

/// From the keeper to the gate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToGate {
    /// The first message. One descriptor: the shared [`stats`].
    Hello(Box<Hello>),
    /// A listening socket: one descriptor.
    Listener {
        /// Its index in the configuration.
        index: u16,
    },
    /// Files that the configuration names: a sealed memfd for each, in this order. They are used with the next
    /// [`ToGate::Start`] or [`ToGate::Reload`].
    Files {
        /// What they are for. At most [`wire::MAX_FDS`].
        roles: Vec<FileRole>,
    },
    /// The admin listening socket: one descriptor.
    Admin,
    /// What the keeper holds from earlier gates. One descriptor: a [`memory`] with a [`Held`], since that may be more than
    /// the socket takes before the gate reads.
    Held,
    /// Everything has been sent: begin.
    Start,
    /// The files that have been sent since the last such message, together all that there are, take the place of the
    /// others, if all of them are good.
    Reload {
        /// Comes back with the answer.
        reload: u64,
    },
    /// These pairs of the keeper have ended.
    Closed {
        /// At most [`TALLIES`].
        pairs: Vec<Tally>,
    },
    /// Whether the gate still lives.
    Ping {
        /// Comes back with the answer.
        number: u64,
    },
    /// The answer to [`ToKeeper::Snapshot`]. One descriptor: a [`memory`] with a [`Snapshot`].
    Snapshot {
        /// The number from the request.
        request: u64,
    },
}

impl ToGate {
    /// What it is, without what it says: a configuration may hold passwords for backends.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Listener { .. } => "Listener",
            Self::Files { .. } => "Files",
            Self::Admin => "Admin",
            Self::Held => "Held",
            Self::Start => "Start",
            Self::Reload { .. } => "Reload",
            Self::Closed { .. } => "Closed",
            Self::Snapshot { .. } => "Snapshot",
            Self::Ping { .. } => "Ping",
        }
    }
}

/// What a new gate must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The whole configuration.
    pub config: Config,
    /// The engine that plain pairs get.
    pub engine: Engine,
    /// Why it is not `sockmap`, if it is not.
    pub why_not: Option<WhyNot>,
    /// What the kernel can do with TLS; nothing, where it is not to.
    pub ktls: Ability,
    /// How many pairs the keeper can hold.
    pub capacity: u32,
    /// Made at random when the keeper started: every gate of its makes and believes the same cookies.
    pub secret: CookieKey,
}

/// What cookies are signed with. It shows itself to no log, and is wiped when it is dropped.
#[derive(Clone, Serialize, Deserialize, ZeroizeOnDrop)]
pub struct CookieKey(pub [u8; 32]);

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKey")
    }
}

/// From the gate to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToKeeper {
    /// The gate is listening.
    Ready,
    /// Take over this pair. Two descriptors.
    Pair(Box<NewPair>),
    /// The gate itself carries a pair (TLS in userspace), with its counters in this slot of the shared [`stats`].
    CarriedOpen {
        /// The slot.
        slot: u32,
        /// What is known of it.
        facts: Facts,
        /// Why the keeper does not carry it.
        why_not: WhyNot,
    },
    /// A pair that the gate carried has ended. Its slot may have another tenant by the time that this is read, so
    /// the counts go along.
    CarriedClosed {
        /// The slot.
        slot: u32,
        /// What the pair counted.
        counters: Box<PairCounters>,
        /// Why it ended.
        reason: EndReason,
    },
    /// The answer to [`ToGate::Reload`].
    Reloaded {
        /// The number from the request.
        reload: u64,
        /// Whether the files are in use now. If not, the others still are.
        ok: bool,
    },
    /// A server that was found by a name, or that the name stands for no more. It comes before the first pair that is on
    /// it.
    Found(Found),
    /// Checks have found that a server is up or down, which it was not before. Indices are as in [`Facts`].
    Checked {
        /// Which backend.
        backend: u16,
        /// Which of its servers.
        server: u16,
        /// Whether it is up.
        up: bool,
    },
    /// Send a [`ToGate::Snapshot`], when there is time for it. Of several, the last is answered.
    Snapshot {
        /// Comes back with the answer.
        request: u64,
    },
    /// The answer to [`ToGate::Ping`].
    Pong {
        /// The number from the question.
        number: u64,
    },
}
