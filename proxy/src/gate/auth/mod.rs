//! Who may enter: what a request shows, and what it is worth. Pure: headers and `now` in, a verdict out; what takes long (a
//! password's hash, a service that must be asked) is for whoever asks.
//!
//! * [`place`]: where credentials stand in a request, and the request without them.
//! * [`jwt`], [`api_key`], [`basic`], [`forward`]: one for each kind of [[auth]].

mod api_key;
mod basic;
mod forward;
#[cfg(any(fuzzing, test))]
pub(super) mod fuzzing;
mod jwt;
mod place;

use std::num::NonZeroU64;
use std::sync::Arc;

use anyhow::Context as _;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use http::{HeaderMap, HeaderValue};

pub(super) use self::basic::{Claimed, Users};
pub(super) use self::forward::{Forward, Ruling, Subject};
pub(super) use self::place::Asked;

use self::api_key::ApiKeys;
use self::basic::Basic;
use self::jwt::Jwt;
use super::handshake::as_cgi;
use super::refusal::Refusal;
use crate::config::{self, Config};

/// One [[auth]], ready for use.
pub(super) struct Check {
    /// SHA-256 of its file.
    digest: Digest,
    realm: String,
    /// The headers that tell the backend of the client. What the client says under these names is not believed.
    tells: Vec<HeaderName>,
    kind: Kind,
}

enum Kind {
    Jwt(Box<Jwt>),
    ApiKey(ApiKeys),
    Basic(Basic),
    Forward(Box<Forward>),
}

/// What a request has shown.
pub(super) enum Look<'a> {
    /// Nothing for this check.
    Absent,
    /// What lets it enter.
    Enter(Entry),
    /// What does not.
    Refused(Refusal),
    /// A password, whose hash takes time.
    Password(&'a Arc<Users>, Claimed),
    /// A service decides.
    Ask(&'a Forward),
}

/// What is known of a client that may enter.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// The client's name, for the log: a subject, a user, a key's name. None: it has said none.
    pub(super) name: Option<String>,
    /// For the backend.
    pub(super) tell: Vec<(HeaderName, HeaderValue)>,
    /// When an established connection ends: milliseconds since the Unix epoch.
    pub(super) expires_ms: Option<NonZeroU64>,
}

/// Checks what only the gate can: that the settings could be used, whatever the files hold.
///
/// # Errors
/// What is wrong with which [[auth]].
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let settings = |auth: &config::Auth| -> anyhow::Result<()> {
        if let Some(jwt) = &auth.jwt {
            jwt::Rules::read(jwt)?;
        }
        if let Some(keys) = &auth.api_key {
            api_key::Rules::read(keys)?;
        }
        if let Some(basic) = &auth.basic {
            user_header(basic.user_header.as_deref())?;
        }
        auth.forward.as_ref().map(|forward| Forward::new(config, forward).map(drop)).unwrap_or(Ok(()))
    };
    config.auth.iter().try_for_each(|auth| settings(auth).with_context(|| label(auth)))
}

fn label(auth: &config::Auth) -> String {
    format!("[[auth]] {:?}", auth.name)
}

/// The header that names the client to the backend.
fn user_header(name: Option<&str>) -> anyhow::Result<Option<HeaderName>> {
    name.map(super::policy::free_name).transpose().context("user_header")
}

impl Check {
    /// Makes it of its settings and of the bytes of its file, if it has one.
    ///
    /// # Errors
    /// The settings or the file cannot be used; the message says why, and holds nothing of a secret.
    pub(super) fn new(config: &Config, auth: &config::Auth, file: &[u8]) -> anyhow::Result<Self> {
        let what = || label(auth);
        let kind = Self::kind(config, auth, file).with_context(what)?;
        let tells = match &kind {
            Kind::Jwt(jwt) => jwt.tells().cloned().collect(),
            Kind::ApiKey(keys) => keys.tells().cloned().collect(),
            Kind::Basic(basic) => basic.tells().cloned().collect(),
            Kind::Forward(forward) => forward.tells().to_vec(),
        };
        let realm = auth.realm.as_ref().unwrap_or(&auth.name).clone();
        Ok(Self { digest: digest(&SHA256, file), realm, tells, kind })
    }

    /// Whether it was made of these bytes.
    pub(super) fn is_of(&self, file: &[u8]) -> bool {
        self.digest.as_ref() == digest(&SHA256, file).as_ref()
    }

    fn kind(config: &Config, auth: &config::Auth, file: &[u8]) -> anyhow::Result<Kind> {
        if let Some(jwt) = &auth.jwt {
            return Ok(Kind::Jwt(Box::new(Jwt::new(jwt, file)?)));
        }
        if let Some(keys) = &auth.api_key {
            return Ok(Kind::ApiKey(ApiKeys::new(keys, file)?));
        }
        if let Some(basic) = &auth.basic {
            return Ok(Kind::Basic(Basic::new(basic, file)?));
        }
        let forward = auth.forward.as_ref().context("it is of no kind")?;
        Ok(Kind::Forward(Box::new(Forward::new(config, forward)?)))
    }

    /// Looks at a request. `now`: milliseconds since the Unix epoch.
    pub(super) fn look(&self, asked: &Asked<'_>, now: u64) -> Look<'_> {
        // Of whatever schemes: who knows which one the backend, or a service, would read? There is to be one (RFC 9110 §11.6.2).
        if asked.headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
            return Look::Refused(Refusal::AuthInvalid);
        }
        match &self.kind {
            Kind::Jwt(jwt) => jwt.look(asked, now),
            Kind::ApiKey(keys) => keys.look(asked),
            Kind::Basic(basic) => basic.look(asked.headers),
            Kind::Forward(forward) => Look::Ask(forward),
        }
    }

    /// Takes away what a client says of itself under the names by which this check tells of clients. On other routes than
    /// its own (not `here`), a client's credentials are for the backend to verify.
    pub(super) fn clear(&self, here: bool, headers: &mut HeaderMap) {
        let credential = |name: &HeaderName| [AUTHORIZATION, COOKIE].contains(name);
        self.tells.iter().filter(|name| here || !credential(name)).for_each(|name| remove(headers, name));
    }

    /// Takes the credentials of this check out of a request. Returns the subprotocol that the client must be told if no
    /// other is chosen.
    pub(super) fn strip(&self, asked: &mut Asked<'_>) -> Option<String> {
        match &self.kind {
            Kind::Jwt(jwt) => jwt.strip(asked),
            Kind::ApiKey(keys) => keys.strip(asked),
            Kind::Basic(basic) => {
                basic.strip(asked.headers);
                None
            }
            Kind::Forward(_) => None,
        }
    }

    /// What it is called in the log.
    pub(super) fn realm(&self) -> &str {
        &self.realm
    }

    /// The WWW-Authenticate of a 401 (RFC 9110 §11.6.1), if that is ours to say.
    pub(super) fn challenge(&self, refusal: Refusal) -> Option<HeaderValue> {
        let realm = self.realm.replace('\\', "\\\\").replace('"', "\\\"");
        let text = match &self.kind {
            // RFC 6750 §3: no error where nothing was shown.
            Kind::Jwt(_) => match refusal {
                Refusal::TokenExpired => {
                    format!(
                        "Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"the token has expired\""
                    )
                }
                Refusal::AuthInvalid => format!("Bearer realm=\"{realm}\", error=\"invalid_token\""),
                _ => format!("Bearer realm=\"{realm}\""),
            },
            // RFC 7617 §2.1.
            Kind::Basic(_) => format!("Basic realm=\"{realm}\", charset=\"UTF-8\""),
            // Not registered; but a 401 needs one.
            Kind::ApiKey(_) => format!("ApiKey realm=\"{realm}\""),
            Kind::Forward(_) => return None,
        };
        HeaderValue::try_from(text).ok()
    }
}

/// Takes a header away, in every spelling that a backend may read as the same name.
fn remove(headers: &mut HeaderMap, name: &HeaderName) {
    let sent: Vec<HeaderName> = headers.keys().filter(|sent| as_cgi(sent).eq(as_cgi(name))).cloned().collect();
    for name in sent {
        headers.remove(name);
    }
}

/// One place's credential. Two of them are as bad as a wrong one: who knows which of them the backend would read?
fn only(mut found: Vec<place::Secret>) -> Option<Result<place::Secret, Refusal>> {
    let last = found.pop()?;
    Some(if found.is_empty() { Ok(last) } else { Err(Refusal::AuthInvalid) })
}

/// What stands in the first of these places that has anything.
fn first(places: &[place::Place], asked: &Asked<'_>) -> Option<Result<place::Secret, Refusal>> {
    places.iter().find_map(|place| only(place.find(asked)))
}

/// Takes out what stands in any of these places.
fn strip(places: &[place::Place], asked: &mut Asked<'_>) -> Option<String> {
    // All of them, and the first that is to be told of.
    places.iter().fold(None, |told, place| told.or(place.strip(asked)))
}

#[cfg(test)]
pub(super) mod tests;
