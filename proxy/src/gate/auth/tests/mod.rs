//! Credentials in requests, judged. The tokens are made by another implementation, the crate `jsonwebtoken`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod files;
mod jwt;
mod lists;
mod places;
mod service;
pub(in crate::gate) mod signer;

use http::header::{HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;

use super::{Asked, Check, Entry, Look};
use crate::config::Config;
use crate::gate::refusal::Refusal;

/// Milliseconds since the Unix epoch: 2026-01-01.
pub(super) const NOW: u64 = 1_767_225_600_000;
/// The same in seconds, as tokens have it.
pub(super) const SECONDS: u64 = NOW / 1000;

pub(super) fn config(kind: &str) -> Config {
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\nauth = [\"users\"]\n\
         [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n[[auth]]\nname = \"users\"\n{kind}\n"
    );
    Config::parse(&text, "test").unwrap()
}

/// The check of these settings and this file.
pub(super) fn made(kind: &str, file: &[u8]) -> anyhow::Result<Check> {
    let config = config(kind);
    Check::new(&config, &config.auth[0], file)
}

/// Why a file or a setting is refused.
pub(super) fn wrong(kind: &str, file: &[u8]) -> String {
    match made(kind, file) {
        Ok(_) => panic!("{kind} is taken"),
        Err(error) => format!("{error:#}"),
    }
}

/// A request on its way through a check.
pub(super) struct Sent {
    headers: HeaderMap,
    target: PathAndQuery,
    protocols: Vec<String>,
}

impl Sent {
    pub(super) fn new(target: &str, headers: &[(&'static str, &str)]) -> Self {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let offered = map.get_all(SEC_WEBSOCKET_PROTOCOL).iter().flat_map(|value| value.to_str().unwrap().split(','));
        let protocols = offered.map(|text| text.trim().to_owned()).collect();
        Self { headers: map, target: target.parse().unwrap(), protocols }
    }

    pub(super) fn bearer(token: &str) -> Self {
        Self::new("/", &[("authorization", &format!("Bearer {token}"))])
    }

    fn asked(&mut self) -> Asked<'_> {
        Asked { headers: &mut self.headers, target: &mut self.target, protocols: &mut self.protocols }
    }

    /// What a check makes of it; `None`: it shows nothing.
    pub(super) fn look(&mut self, check: &Check) -> Option<Result<Entry, Refusal>> {
        self.look_at(check, NOW)
    }

    pub(super) fn look_at(&mut self, check: &Check, now: u64) -> Option<Result<Entry, Refusal>> {
        match check.look(&self.asked(), now) {
            Look::Absent => None,
            Look::Enter(entry) => Some(Ok(entry)),
            Look::Refused(refusal) => Some(Err(refusal)),
            Look::Password(users, claimed) => {
                let good = users.verify(&claimed);
                Some(if good { Ok(claimed.into_entry()) } else { Err(Refusal::AuthInvalid) })
            }
            Look::Ask(_) => panic!("a service is asked"),
        }
    }

    pub(super) fn strip(&mut self, check: &Check) -> Option<String> {
        check.clear(true, &mut self.headers);
        check.strip(&mut self.asked())
    }

    pub(super) fn header(&self, name: &'static str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

/// What the backend is told.
pub(super) fn told(entry: &Entry) -> Vec<(&str, &[u8])> {
    entry.tell.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}
