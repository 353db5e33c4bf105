//! The cookie that brings a client back to its server. Pure: headers and `now` in, a server or a cookie out.
//!
//! The value is opaque and cannot be made by others: base64url of
//! `version (1) | expiry, Unix seconds, big-endian (4) | server's tag (8) | HMAC-SHA256 (32)`.
//! A server's tag is an HMAC of its address, so that nothing of the inside can be read in it, and several Sluices with the
//! same key and the same servers understand each other's cookies in whatever order they list the servers.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie::{Cookie, SameSite};
use http::header::{HeaderMap, HeaderValue};

use super::cookies;
use crate::config;
use crate::handoff::CookieKey;

const VERSION: u8 = 1;
const TAG: usize = 8;
const SIGNED: usize = 1 + 4 + TAG;
const MAC: usize = 32;

/// A backend's cookie: its settings, its keys, and the tags of its servers.
pub(super) struct Sticky {
    name: String,
    lifetime: Duration,
    same_site: SameSite,
    /// The first one signs; all are believed.
    keys: Vec<Signer>,
}

/// The fewest bytes that a file with a key may have: as many as HMAC-SHA256 gives out (RFC 2104 §3).
pub(super) const LEAST: usize = 32;

/// The key that a file holds. White space around it is no part of it.
///
/// # Errors
/// How many bytes there are, if that is too few.
pub(super) fn key(file: &[u8]) -> Result<CookieKey, usize> {
    let bytes = file.trim_ascii();
    if bytes.len() < LEAST {
        return Err(bytes.len());
    }
    let mut key = CookieKey([0; 32]);
    // Of whatever length they are, as HMAC itself does with long keys.
    key.0.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    Ok(key)
}

/// A key with what it makes of the servers.
struct Signer {
    key: hmac::Key,
    /// By the servers' indices.
    tags: Vec<(u16, [u8; TAG])>,
}

/// What a client's cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// The index of the client's server.
    pub(super) server: u16,
    /// The cookie is good still, but a new one is due: half of its time is over, or its key is on its way out.
    pub(super) renew: bool,
}

impl Signer {
    fn new(secret: &CookieKey, backend: &str, servers: &[(u16, String)]) -> Self {
        // A key of its own for every backend: the cookie of one is nothing to another.
        let root = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
        let own = hmac::sign(&root, format!("sluice sticky {backend}").as_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, own.as_ref());
        let tag = |(index, server): &(u16, String)| {
            let mac = hmac::sign(&key, format!("server {server}").as_bytes());
            let mut tag = [0; TAG];
            tag.iter_mut().zip(mac.as_ref()).for_each(|(to, from)| *to = *from);
            (*index, tag)
        };
        Self { tags: servers.iter().map(tag).collect(), key }
    }

    fn server(&self, tag: &[u8]) -> Option<u16> {
        self.tags.iter().find(|(_, known)| known == tag).map(|(index, _)| *index)
    }
}

impl Sticky {
    /// `servers`: their indices and their addresses, as the configuration writes them. `secrets`: one at least.
    pub(super) fn new(
        settings: &config::Sticky,
        backend: &str,
        servers: &[(u16, String)],
        secrets: &[CookieKey],
    ) -> Self {
        let same_site = match settings.same_site {
            config::SameSite::Lax => SameSite::Lax,
            config::SameSite::Strict => SameSite::Strict,
            config::SameSite::None => SameSite::None,
        };
        Self {
            name: settings.cookie.clone(),
            lifetime: settings.lifetime,
            same_site,
            keys: secrets.iter().map(|secret| Signer::new(secret, backend, servers)).collect(),
        }
    }

    /// The server that a client's cookie names. `None` without one, or with one that is foreign, forged, expired, or of a
    /// server that is not there any more. `now`: Unix seconds.
    pub(super) fn read(&self, headers: &HeaderMap, now: u64) -> Option<Kept> {
        cookies::values(headers, self.name.as_bytes()).find_map(|value| self.open(value, now))
    }

    fn open(&self, value: &[u8], now: u64) -> Option<Kept> {
        let bytes = URL_SAFE_NO_PAD.decode(value).ok().filter(|bytes| bytes.len() == SIGNED + MAC)?;
        let (signed, mac) = bytes.split_at_checked(SIGNED)?;
        let place = self.keys.iter().position(|signer| hmac::verify(&signer.key, signed, mac).is_ok())?;
        let (version, rest) = signed.split_first()?;
        let (expiry, tag) = rest.split_first_chunk::<4>()?;
        let left = u64::from(u32::from_be_bytes(*expiry)).checked_sub(now).filter(|left| *left > 0)?;
        if *version != VERSION {
            return None;
        }
        let server = self.keys.get(place)?.server(tag)?;
        Some(Kept { server, renew: place > 0 || left < self.lifetime.as_secs() / 2 })
    }

    /// The Set-Cookie for a client of this server. `secure`: the client's connection is. `now`: Unix seconds.
    /// `None` only for a server that is not there.
    pub(super) fn issue(&self, server: u16, secure: bool, now: u64) -> Option<HeaderValue> {
        let signer = self.keys.first()?;
        let (_, tag) = signer.tags.iter().find(|(index, _)| *index == server)?;
        let expiry = u32::try_from(now.saturating_add(self.lifetime.as_secs())).unwrap_or(u32::MAX);
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&expiry.to_be_bytes());
        bytes.extend_from_slice(tag);
        let mac = hmac::sign(&signer.key, &bytes);
        bytes.extend_from_slice(mac.as_ref());
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let cookie = Cookie::build((self.name.as_str(), URL_SAFE_NO_PAD.encode(bytes)))
            .path("/")
            .max_age(cookie::time::Duration::seconds(lifetime))
            .http_only(true)
            // Browsers take SameSite=None only together with Secure.
            .secure(secure || self.same_site == SameSite::None)
            .same_site(self.same_site);
        HeaderValue::try_from(cookie.to_string()).ok()
    }

    /// Takes the cookie out of a request: it is nothing to the backend.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        cookies::strip(headers, self.name.as_bytes());
    }
}

#[cfg(test)]
#[path = "sticky_tests.rs"]
mod tests;
