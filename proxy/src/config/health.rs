//! Which servers of a backend are well.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::is_token;
use super::duration;
use super::schema::Span;

/// Every server is asked at times whether it is well. One that says no, or nothing, is used only if too few others are
/// up (`ejection.min_up`). At a start all count as up, so that it need not wait for answers; a server that is found
/// later counts once its first answer is good.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// How it is asked.
    pub kind: CheckKind,
    /// The path, and query, that `http` and `websocket` ask for. None: `/`.
    #[serde(default)]
    pub path: Option<String>,
    /// The Host that they ask for. None: the server's address.
    #[serde(default)]
    pub host: Option<String>,
    /// The subprotocols that `websocket` offers, as `["mqtt"]`. None: no subprotocol; some servers then refuse the
    /// handshake, and are down by this check.
    #[serde(default)]
    pub protocols: Vec<String>,
    /// The statuses that are good with `http`, as `["200-299", "404"]`. None: `["200-299"]`; with `websocket` only 101
    /// is good.
    #[serde(default)]
    pub status: Vec<Statuses>,
    /// From one check of a server to its next. 5 s: with `fall` and `timeout`, a server that hangs is found out after
    /// some 17 s at the latest, and a hundred servers cost 20 requests a second.
    #[serde(default = "interval", with = "duration")]
    #[schemars(with = "Span")]
    pub interval: Duration,
    /// How long an answer may take, connecting included. 2 s: more than a lost packet costs, and less than clients wait.
    #[serde(default = "timeout", with = "duration")]
    #[schemars(with = "Span")]
    pub timeout: Duration,
    /// Good answers in a row after which a server is up again. 2: one may be luck.
    #[serde(default = "rise")]
    #[schemars(range(min = 1), extend("x-unit" = "checks"))]
    pub rise: u32,
    /// Bad ones in a row after which it is down. 3: a restart that is quick is not noticed.
    #[serde(default = "fall")]
    #[schemars(range(min = 1), extend("x-unit" = "checks"))]
    pub fall: u32,
    /// By how much of itself each interval is shortened or lengthened at random. 0.1: enough for several Sluices to fall
    /// out of step.
    #[serde(default = "jitter")]
    pub jitter: Share,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// It takes a TCP connection, and with `tls` a TLS handshake: the machine is there, and something listens.
    Tcp,
    /// It answers a GET with a good status.
    Http,
    /// It answers a WebSocket handshake with 101; what is then sent is a Close. The application sees a client that
    /// leaves at once.
    Websocket,
}

/// Servers on which connections fail are left out for a while, whether they are checked or not. A failure is a
/// connection that cannot be made, a request that gets no answer, a WebSocket handshake that is answered with a status
/// from 500 on, or another request that is answered with 502, 503 or 504. On by default: without it, every client that is
/// sent to a dead server waits for `timeouts.dial` first. A server with nobody to take its place is never left out, so
/// a backend of one server is never touched by this.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// Failures in a row after which a server is left out. 5: chance does not do that, a herd of clients does within
    /// moments. 0: never.
    #[schemars(extend("x-unit" = "failures"))]
    pub failures: u32,
    /// For how long, the first time. Then it is tried again, by one request at a time: the first failure leaves it out again, for twice as long as
    /// last time. A success makes it one like the others, and each time that it lasts as long as it was out takes one
    /// doubling back. 10 s: what a restart takes.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub time: Duration,
    /// No longer than this. 5 min: nobody wants to wait longer for a server that is back.
    #[serde(with = "duration")]
    #[schemars(with = "Span")]
    pub max_time: Duration,
    /// The share of the servers that stays whatever fails: nobody is left out below it, and if `check` finds fewer up
    /// than this, all are used as if they were well, and the metrics say so. If most fail at once, it is rather the
    /// check or the network, and the few left would fail under the load of all. While a backup server is up, it takes
    /// the load instead. 0.5: two servers of which one is dead are the usual case. One server stays in any case.
    pub min_up: Share,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 5, time: Duration::from_secs(10), max_time: Duration::from_secs(300), min_up: Share(0.5) }
    }
}

fn interval() -> Duration {
    Duration::from_secs(5)
}

fn timeout() -> Duration {
    Duration::from_secs(2)
}

const fn rise() -> u32 {
    2
}

const fn fall() -> u32 {
    3
}

const fn jitter() -> Share {
    Share(0.1)
}

impl Check {
    /// What it asks for.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("/")
    }

    /// Whether this status is a good answer.
    #[must_use]
    pub fn is_good(&self, status: u16) -> bool {
        match self.kind {
            CheckKind::Tcp => false,
            CheckKind::Websocket => status == 101,
            CheckKind::Http if self.status.is_empty() => (200..=299).contains(&status),
            CheckKind::Http => self.status.iter().any(|statuses| statuses.0.contains(&status)),
        }
    }

    /// What is wrong with it by itself.
    pub(super) fn wrong(&self) -> Option<String> {
        if self.kind == CheckKind::Tcp && (self.path.is_some() || self.host.is_some()) {
            return Some("check.path and check.host are for http and websocket".into());
        }
        if self.kind != CheckKind::Websocket && !self.protocols.is_empty() {
            return Some("check.protocols is for websocket".into());
        }
        if let Some(protocol) = self.protocols.iter().find(|protocol| !is_token(protocol)) {
            return Some(format!("check.protocols: {protocol:?} is no subprotocol; write one as in \"mqtt\""));
        }
        if self.kind != CheckKind::Http && !self.status.is_empty() {
            return Some("check.status is for http".into());
        }
        let target = http::uri::PathAndQuery::try_from(self.path()).is_ok_and(|_| self.path().starts_with('/'));
        if !target {
            return Some(format!("check.path {:?} is no path of a request; write one as in \"/healthz\"", self.path()));
        }
        if let Some(host) = self.host.as_ref().filter(|host| http::uri::Authority::try_from(host.as_str()).is_err()) {
            return Some(format!("check.host {host:?} is no Host; write one as in \"app.example\""));
        }
        (self.rise == 0 || self.fall == 0).then(|| "check.rise and check.fall are 1 at least".into())
    }
}

impl Ejection {
    /// What is wrong with it by itself.
    pub(super) fn wrong(&self) -> Option<String> {
        (self.max_time < self.time).then(|| "ejection.max_time is below ejection.time".into())
    }
}

/// A part of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

impl Share {
    /// From 0 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        // Not of NaN, either.
        let fits = (0.0..=1.0).contains(&number);
        fits.then_some(Self(number)).ok_or_else(|| format!("{number} is no share: it is a number from 0 to 1"))
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.0
    }
}

/// A status, or all from one to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Statuses(RangeInclusive<u16>);

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|status| digits && (100..=599).contains(status))
        };
        let range = status(first).zip(status(last)).filter(|(first, last)| first <= last);
        let range = range.ok_or_else(|| format!("{text:?} is no status; write \"204\" or \"200-299\""))?;
        Ok(Self(range.0..=range.1))
    }
}

impl TryFrom<String> for Statuses {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (first, last) if first == last => first.fmt(f),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl From<Statuses> for String {
    fn from(statuses: Statuses) -> Self {
        statuses.to_string()
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
