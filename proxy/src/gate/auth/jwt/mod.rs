//! Signed tokens (RFC 7519, in the compact form of RFC 7515 §7.1).

mod claims;
mod ed25519;
mod keys;

use std::num::NonZeroU64;

use anyhow::ensure;
use http::header::HeaderName;
use serde_json::{Map, Value};

use self::claims::{Tell, has};
use self::keys::Keys;
use super::place::{Asked, Place};
use super::{Entry, Look, first, strip};
use crate::config::AuthJwt;
use crate::gate::refusal::Refusal;

/// What the settings say.
pub(super) struct Rules {
    places: Vec<Place>,
    pass: bool,
    tell: Vec<Tell>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    /// Claims, and the values of which each must have one.
    required: Vec<(String, Vec<String>)>,
    require_expiry: bool,
    leeway_ms: u64,
    end_at_expiry: bool,
}

/// A check of tokens.
pub(super) struct Jwt {
    rules: Rules,
    keys: Keys,
}

impl Rules {
    /// Reads what is configured.
    ///
    /// # Errors
    /// A name that nothing can have.
    pub(super) fn read(settings: &AuthJwt) -> anyhow::Result<Self> {
        let mut tell: Vec<Tell> = Vec::new();
        for (header, claim) in &settings.claims {
            let new = Tell::read(header, claim)?;
            ensure!(tell.iter().all(|other| other.header != new.header), "claims: {header:?} is there twice");
            tell.push(new);
        }
        Ok(Self {
            places: settings.from.iter().map(Place::read).collect::<anyhow::Result<_>>()?,
            pass: settings.pass,
            tell,
            issuers: settings.issuer.0.clone(),
            audiences: settings.audience.0.clone(),
            required: settings.require.iter().map(|(claim, values)| (claim.clone(), values.clone())).collect(),
            require_expiry: settings.require_expiry,
            leeway_ms: u64::try_from(settings.leeway.as_millis()).unwrap_or(u64::MAX),
            end_at_expiry: settings.end_at_expiry,
        })
    }

    /// Judges what a token whose signature is good says. `now`: milliseconds since the Unix epoch.
    fn judge(&self, claims: &Map<String, Value>, now: u64) -> Result<Entry, Refusal> {
        let (expires, begins) = (moment(claims, "exp")?, moment(claims, "nbf")?);
        if expires.is_none() && self.require_expiry
            || begins.is_some_and(|begins| now.saturating_add(self.leeway_ms) < begins)
            || !self.is_ours(claims)
        {
            return Err(Refusal::AuthInvalid);
        }
        // Not the token's own end: who enters behind it, within the leeway, would be thrown out at once.
        let expires = expires.map(|expires| expires.saturating_add(self.leeway_ms));
        if expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::TokenExpired);
        }
        // RFC 6750 §3.1: a token that is good, and not for this.
        if !self.required.iter().all(|(claim, values)| values.iter().any(|value| has(claims, claim, value))) {
            return Err(Refusal::AuthDenied);
        }
        let tell = self.tell.iter().filter_map(|tell| tell.of(claims)).collect();
        let expires_ms = expires.filter(|_| self.end_at_expiry).and_then(NonZeroU64::new);
        let name = claims.get("sub").and_then(Value::as_str).map(str::to_owned);
        Ok(Entry { name, tell, expires_ms })
    }

    /// Whether it is from whom and for whom it must be.
    fn is_ours(&self, claims: &Map<String, Value>) -> bool {
        let text = |value: &Value, list: &[String]| value.as_str().is_some_and(|text| list.iter().any(|it| it == text));
        let issued = self.issuers.is_empty() || claims.get("iss").is_some_and(|issuer| text(issuer, &self.issuers));
        let meant = match claims.get("aud") {
            None => self.audiences.is_empty(),
            Some(Value::Array(several)) => several.iter().any(|one| text(one, &self.audiences)),
            Some(one) => text(one, &self.audiences),
        };
        issued && meant
    }
}

impl Jwt {
    /// `file`: the keys, or the secret.
    ///
    /// # Errors
    /// The settings or the file cannot be used.
    pub(super) fn new(settings: &AuthJwt, file: &[u8]) -> anyhow::Result<Self> {
        Ok(Self { rules: Rules::read(settings)?, keys: Keys::read(settings, file)? })
    }

    pub(super) fn tells(&self) -> impl Iterator<Item = &HeaderName> {
        self.rules.tell.iter().map(|tell| &tell.header)
    }

    pub(super) fn look(&self, asked: &Asked<'_>, now: u64) -> Look<'_> {
        let Some(token) = first(&self.rules.places, asked) else { return Look::Absent };
        match token.and_then(|token| self.judge(&token, now)) {
            Ok(entry) => Look::Enter(entry),
            Err(refusal) => Look::Refused(refusal),
        }
    }

    pub(super) fn strip(&self, asked: &mut Asked<'_>) -> Option<String> {
        if self.rules.pass { None } else { strip(&self.rules.places, asked) }
    }

    /// Judges a token: its signature before anything that it says.
    fn judge(&self, token: &[u8], now: u64) -> Result<Entry, Refusal> {
        let claims = self.keys.claims(token).ok_or(Refusal::AuthInvalid)?;
        self.rules.judge(&claims, now)
    }
}

/// A claim that is a time (RFC 7519 §2: seconds since the Unix epoch, perhaps with a fraction), in milliseconds.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let whole = value.as_u64().map(|seconds| seconds.saturating_mul(1000));
    let broken = || value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| (seconds * 1000.0) as u64);
    whole.or_else(broken).map(Some).ok_or(Refusal::AuthInvalid)
}
