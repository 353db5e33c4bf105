//! Names and passwords (RFC 7617). To verify a password is meant to be slow, so it happens elsewhere, and what was found
//! good is remembered for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow, bail, ensure};
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordVerifier as _, Version};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use super::api_key::lines;
use super::place::{authorization, strip_authorization};
use super::{Entry, Look, only, user_header};
use crate::config::AuthBasic;
use crate::gate::refusal::Refusal;

/// With padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The highest cost of bcrypt: 15 takes seconds, which a handshake has not.
const BCRYPT_COST: u32 = 14;

/// The most memory of Argon2, in KiB: several are verified at one time.
const ARGON2_MEMORY: u32 = 256 * 1024;

/// The most passes of Argon2 over its memory, and the most lanes.
const ARGON2_PASSES: u32 = 16;

/// How long a good password is remembered, in milliseconds. 5 min: a herd that reconnects costs no hashes; a password
/// that is taken out of the file is forgotten with the file.
const REMEMBERED: u64 = 5 * 60 * 1000;

/// How many are remembered, in some 100 bytes each.
const MOST: usize = 8192;

/// A check of passwords.
pub(super) struct Basic {
    users: Arc<Users>,
    user_header: Option<HeaderName>,
    pass: bool,
}

/// The users of a file, and who of them has been here.
pub(in crate::gate) struct Users {
    hashes: HashMap<String, Hash>,
    /// What a password is verified with if there is no such user, so that it takes as long: the first of the file.
    decoy: Hash,
    /// Made at random: what is remembered tells nobody a password, or how much of one is right.
    key: hmac::Key,
    remembered: Mutex<HashMap<[u8; 32], u64>>,
}

#[derive(Clone)]
enum Hash {
    Bcrypt(String),
    Argon2(Box<PasswordHash>),
}

/// A name and a password, as a client says them. It shows itself to no log: it has no Debug.
pub(in crate::gate) struct Claimed {
    name: String,
    password: Zeroizing<Vec<u8>>,
    entry: Entry,
}

impl Basic {
    /// # Errors
    /// The settings or a line of the file cannot be used.
    pub(super) fn new(settings: &AuthBasic, file: &[u8]) -> anyhow::Result<Self> {
        let users = Users::read(file).with_context(|| settings.users.display().to_string())?;
        let user_header = user_header(settings.user_header.as_deref())?;
        Ok(Self { users: Arc::new(users), user_header, pass: settings.pass })
    }

    pub(super) fn tells(&self) -> impl Iterator<Item = &HeaderName> {
        self.user_header.iter()
    }

    pub(super) fn look(&self, headers: &HeaderMap) -> Look<'_> {
        let found = authorization(headers, b"basic").map(|text| Zeroizing::new(text.to_vec())).collect();
        match only(found) {
            None => Look::Absent,
            Some(text) => match text.ok().and_then(|text| self.claimed(&text)) {
                Some(claimed) => Look::Password(&self.users, claimed),
                None => Look::Refused(Refusal::AuthInvalid),
            },
        }
    }

    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        if !self.pass {
            strip_authorization(headers, b"basic");
        }
    }

    /// Reads the credentials (RFC 7617 §2). Neither part may have control characters.
    fn claimed(&self, text: &[u8]) -> Option<Claimed> {
        let pair = Zeroizing::new(BASE64.decode(text).ok()?);
        let colon = pair.iter().position(|byte| *byte == b':')?;
        let (name, password) = (pair.get(..colon)?, pair.get(colon + 1..)?);
        if pair.iter().any(u8::is_ascii_control) {
            return None;
        }
        let tell = self.user_header.clone().map(|header| Some((header, HeaderValue::from_bytes(name).ok()?)));
        Some(Claimed {
            name: String::from_utf8(name.to_vec()).ok()?,
            password: Zeroizing::new(password.to_vec()),
            entry: Entry {
                name: String::from_utf8(name.to_vec()).ok(),
                tell: tell.flatten().into_iter().collect(),
                expires_ms: None,
            },
        })
    }
}

impl Claimed {
    /// What is known of the client, if its password is good.
    pub(in crate::gate) fn into_entry(self) -> Entry {
        self.entry
    }
}

impl Users {
    fn read(file: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(file).map_err(|_| anyhow!("it is not UTF-8"))?;
        let (mut hashes, mut decoy) = (HashMap::new(), None);
        for (number, line) in lines(text) {
            let what = || format!("line {number}");
            let (name, hash) = line.split_once(':').context("it must be `name:hash`").with_context(what)?;
            ensure!(!name.is_empty() && !name.bytes().any(|byte| byte.is_ascii_control()), "line {number}: no name");
            let hash = Hash::read(hash).with_context(what)?;
            decoy.get_or_insert_with(|| hash.clone());
            ensure!(hashes.insert(name.to_owned(), hash).is_none(), "line {number}: {name:?} is there twice");
        }
        let decoy = decoy.context("there is no user in it: a line is `name:hash`, as `htpasswd -B` writes it")?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        Ok(Self { hashes, decoy, key, remembered: Mutex::default() })
    }

    /// Whether this is a user's password. It takes as long as it takes, for a name that is none as well.
    pub(in crate::gate) fn verify(&self, claimed: &Claimed) -> bool {
        let hash = self.hashes.get(&claimed.name);
        let good = hash.unwrap_or(&self.decoy).verify(&claimed.password);
        good && hash.is_some()
    }

    /// Whether it was found good a while ago. `now`: milliseconds since the Unix epoch.
    pub(in crate::gate) fn remembers(&self, claimed: &Claimed, now: u64) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(&self.mark(claimed)).is_some_and(|until| (now..=now.saturating_add(REMEMBERED)).contains(until))
    }

    /// Remembers one that is good.
    pub(in crate::gate) fn remember(&self, claimed: &Claimed, now: u64) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST {
            remembered.retain(|_, until| *until > now);
        }
        if remembered.len() >= MOST {
            // More users than that, all of the last minutes: they begin anew.
            remembered.clear();
        }
        remembered.insert(self.mark(claimed), now.saturating_add(REMEMBERED));
    }

    #[cfg(test)]
    pub(super) fn remembered_in_all(&self) -> usize {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn mark(&self, claimed: &Claimed) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(claimed.name.as_bytes());
        // Not in a name.
        context.update(&[0]);
        context.update(&claimed.password);
        let mut mark = [0; 32];
        mark.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        mark
    }
}

impl Hash {
    fn read(text: &str) -> anyhow::Result<Self> {
        if ["$2a$", "$2b$", "$2y$"].iter().any(|kind| text.starts_with(kind)) {
            let parts: bcrypt::HashParts = text.parse().map_err(|_| anyhow!("the bcrypt hash is broken"))?;
            let cost = parts.get_cost();
            ensure!(
                (4..=BCRYPT_COST).contains(&cost),
                "bcrypt's cost is {cost}; it must be 4 to {BCRYPT_COST}, or a login would take longer than it may"
            );
            return Ok(Self::Bcrypt(text.to_owned()));
        }
        if !text.starts_with("$argon2id$") {
            bail!(
                "the hash is neither bcrypt nor argon2id: others can be guessed too fast (`htpasswd -B` makes bcrypt)"
            );
        }
        let hash = PasswordHash::new(text).map_err(|_| anyhow!("the argon2id hash is broken"))?;
        let params = Params::try_from(&hash).map_err(|_| anyhow!("argon2id has parameters that it cannot have"))?;
        ensure!(
            params.m_cost() <= ARGON2_MEMORY && params.t_cost() <= ARGON2_PASSES && params.p_cost() <= ARGON2_PASSES,
            "argon2id may take {ARGON2_MEMORY} KiB, {ARGON2_PASSES} passes and {ARGON2_PASSES} lanes at most"
        );
        ensure!(
            hash.version == Some(Version::V0x13.into()) && hash.salt.is_some() && hash.hash.is_some(),
            "the argon2id hash is broken, or not of version 19"
        );
        Ok(Self::Argon2(Box::new(hash)))
    }

    fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Argon2(hash) => {
                // The hash says with which memory and how many passes.
                Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default())
                    .verify_password(password, &**hash)
                    .is_ok()
            }
        }
    }
}
