//! Keys of programs. The file has their hashes only: who reads it cannot enter.

use std::collections::HashSet;

use anyhow::{Context as _, ensure};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderValue;
use http::header::HeaderName;

use super::place::{Asked, Place};
use super::{Entry, Look, first, strip, user_header};
use crate::config::AuthApiKey;
use crate::gate::refusal::Refusal;

/// What the settings say.
pub(super) struct Rules {
    places: Vec<Place>,
    user_header: Option<HeaderName>,
    pass: bool,
}

/// A check of keys.
pub(super) struct ApiKeys {
    rules: Rules,
    keys: Vec<Known>,
}

struct Known {
    name: HeaderValue,
    hash: [u8; 32],
}

impl Rules {
    /// Reads what is configured.
    ///
    /// # Errors
    /// A name that nothing can have.
    pub(super) fn read(settings: &AuthApiKey) -> anyhow::Result<Self> {
        Ok(Self {
            places: settings.from.iter().map(Place::read).collect::<anyhow::Result<_>>()?,
            user_header: user_header(settings.user_header.as_deref())?,
            pass: settings.pass,
        })
    }
}

impl ApiKeys {
    /// # Errors
    /// The settings or a line of the file cannot be used.
    pub(super) fn new(settings: &AuthApiKey, file: &[u8]) -> anyhow::Result<Self> {
        let path = settings.keys.display();
        let text = std::str::from_utf8(file).map_err(|_| anyhow::anyhow!("{path}: it is not UTF-8"))?;
        let mut keys = Vec::new();
        let mut seen = HashSet::new();
        for (number, line) in lines(text) {
            let known = Known::read(line).with_context(|| format!("{path}: line {number}"))?;
            ensure!(seen.insert(known.hash), "{path}: line {number}: this key is there twice");
            keys.push(known);
        }
        ensure!(!keys.is_empty(), "{path}: there is no key in it: a line is `name:hash`");
        Ok(Self { rules: Rules::read(settings)?, keys })
    }

    pub(super) fn tells(&self) -> impl Iterator<Item = &HeaderName> {
        self.rules.user_header.iter()
    }

    pub(super) fn look(&self, asked: &Asked<'_>) -> Look<'_> {
        let Some(key) = first(&self.rules.places, asked) else { return Look::Absent };
        match key.and_then(|key| self.find(&key).ok_or(Refusal::AuthInvalid)) {
            Ok(known) => {
                let tell = self.rules.user_header.clone().map(|header| (header, known.name.clone()));
                let name = String::from_utf8_lossy(known.name.as_bytes()).into_owned();
                Look::Enter(Entry { name: Some(name), tell: tell.into_iter().collect(), expires_ms: None })
            }
            Err(refusal) => Look::Refused(refusal),
        }
    }

    pub(super) fn strip(&self, asked: &mut Asked<'_>) -> Option<String> {
        if self.rules.pass { None } else { strip(&self.rules.places, asked) }
    }

    /// All are compared, in constant time, whichever it is.
    fn find(&self, key: &[u8]) -> Option<&Known> {
        let hash = digest(&SHA256, key);
        let equal = |known: &Known| verify_slices_are_equal(hash.as_ref(), &known.hash).is_ok();
        self.keys.iter().fold(None, |found, known| if equal(known) { Some(known) } else { found })
    }
}

impl Known {
    fn read(line: &str) -> anyhow::Result<Self> {
        let (name, hash) = line.split_once(':').context("it must be `name:hash`")?;
        let name = name.trim();
        ensure!(!name.is_empty(), "the key has no name");
        // What is there instead may be the key itself, so it is not repeated.
        let hash = digits(hash.trim()).context("the hash must be the 64 hexadecimal digits of a SHA-256")?;
        let name = HeaderValue::from_bytes(name.as_bytes()).context("the name cannot stand in a header")?;
        Ok(Self { name, hash })
    }
}

fn digits(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let byte = |pair: &[u8]| Some((digit(pair.first()?)? << 4 | digit(pair.get(1)?)?) as u8);
    text.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// The lines of a list with their numbers, without empty ones and those that begin with `#`.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines().map(str::trim));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}
