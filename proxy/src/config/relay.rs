//! How established connections are carried.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::Span;
use super::{Bound, duration};

/// How established connections are carried.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Which engine carries plain pairs. `auto`: a kernel or a privilege that is missing costs memory, not connections.
    pub engine: EngineChoice,
    /// Who keeps the keys of pairs that speak TLS on either side. `auto`: as above.
    pub tls_engine: TlsEngineChoice,
    /// Records that are sent with one TLS key before it is changed, or the connection closed where it cannot be.
    /// 2^24: as many as AES-GCM is good for (RFC 8446 §5.5), which no setting exceeds; 64 at least.
    #[schemars(range(min = 64), extend("x-unit" = "records"))]
    pub tls_key_records: u64,
    /// Bytes that one direction may have waiting in the kernel between both sockets (`sockmap` engine).
    /// 256 KiB: enough for one full loopback segment per wake-up of the kernel worker with room to spare, and
    /// small enough that a hundred thousand stalled pairs do not matter beside their socket buffers.
    #[schemars(range(min = 65536), extend("x-unit" = "bytes"))]
    pub backlog_limit: u32,
    /// A pair with no byte in either direction for this long is closed. Off: a WebSocket may be silent for hours.
    #[serde(with = "duration::optional")]
    #[schemars(with = "Bound")]
    pub idle_timeout: Option<Duration>,
    /// A pair this old is closed. Off: age alone is no fault.
    #[serde(with = "duration::optional")]
    #[schemars(with = "Bound")]
    pub max_lifetime: Option<Duration>,
    /// TCP keepalive begins after this much silence. 60 s: below the idle limits of common NATs and load balancers.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub keepalive: Duration,
    /// A peer that acknowledges nothing for this long is dead (TCP_USER_TIMEOUT; keepalive probes obey it too).
    /// 120 s: two keepalive periods; a phone that changes networks needs less. A peer that is alive and does not read
    /// is not dead, however long. But a client that takes nothing of an answer in plain HTTP for this long has no use
    /// for it, and its connection or stream is reset.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub user_timeout: Duration,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            tls_engine: TlsEngineChoice::Auto,
            tls_key_records: 1 << 24,
            backlog_limit: 256 * 1024,
            idle_timeout: None,
            max_lifetime: None,
            keepalive: Duration::from_secs(60),
            user_timeout: Duration::from_secs(120),
        }
    }
}

/// The setting `relay.engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The best that the probe finds.
    #[default]
    Auto,
    /// The kernel relay, or a failed start.
    Sockmap,
    /// Userspace.
    Copy,
}

/// The setting `relay.tls_engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsEngineChoice {
    /// The kernel where it can, else userspace.
    #[default]
    Auto,
    /// The kernel, or a failed start. (A connection whose cipher the kernel lacks is still served.)
    Ktls,
    /// Userspace.
    Copy,
}
