//! Which requests a route serves.

use std::fmt;
use std::marker::PhantomData;

use regex::bytes::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// What a compiled pattern may take, in bytes. 256 KiB: a thousand times what paths are told apart by, and a
/// configuration with a thousand of them still fits the gate.
const PATTERN_SIZE: usize = 256 * 1024;

/// A text, or a list of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Texts(pub Vec<String>);

impl From<String> for Texts {
    fn from(name: String) -> Self {
        Self(vec![name])
    }
}

/// The paths of a route. A text alone is a prefix. A request's path is compared in its plain form: percent-encoded
/// bytes decoded, repeated slashes as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathRule {
    /// This path and all below it, cut at `/`: `/chat` serves `/chat` and `/chat/x`, not `/chatter`.
    Prefix(String),
    /// This path alone.
    Exact(String),
    /// The paths that this regular expression matches from their first byte to their last.
    Pattern(Pattern),
}

impl From<String> for PathRule {
    fn from(prefix: String) -> Self {
        Self::Prefix(prefix)
    }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(text) => f.write_str(text),
            Self::Exact(text) => write!(f, "exactly {text}"),
            Self::Pattern(pattern) => write!(f, "pattern {}", pattern.0),
        }
    }
}

/// A regular expression in the syntax of the crate `regex`, over bytes: `.` is any byte, `\d`, `\w` and `\s` are ASCII.
/// It must match the whole text, as if it stood between `^` and `$`. It takes time linear in the text, whatever it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// What it was written as.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Makes it ready to match, perhaps whatever the case of letters is.
    ///
    /// # Errors
    /// Only texts that [`Pattern`] does not take.
    pub fn compile(&self, any_case: bool) -> Result<Regex, regex::Error> {
        RegexBuilder::new(&format!(r"\A(?:{})\z", self.0))
            .unicode(false)
            .case_insensitive(any_case)
            .dot_matches_new_line(true)
            .size_limit(PATTERN_SIZE)
            .build()
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // By itself first: `a)(b` would be whole only inside of the brackets that `compile` adds.
        let alone = RegexBuilder::new(&text).unicode(false).size_limit(PATTERN_SIZE).build().map(drop);
        let pattern = Self(text);
        match alone.and_then(|()| pattern.compile(true).map(drop)) {
            Ok(()) => Ok(pattern),
            Err(error) => Err(format!("{:?} is no pattern: {error}", pattern.0)),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

/// What a header field or a query parameter must be. Exactly one of `value`, `prefix`, `pattern` and `present`. If the
/// name occurs several times, one of them that fits is enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The name: of a header in any case, of a query parameter exactly, percent-encoding decoded and `+` read as a
    /// space in names and values.
    pub name: String,
    /// The value is this.
    #[serde(default)]
    pub value: Option<String>,
    /// The value begins with this.
    #[serde(default)]
    pub prefix: Option<String>,
    /// This regular expression matches the whole value.
    #[serde(default)]
    pub pattern: Option<Pattern>,
    /// `true`: the name occurs, with whatever value. `false`: it does not occur.
    #[serde(default)]
    pub present: Option<bool>,
}

impl Condition {
    /// How many of the four tests it has; one is right.
    pub(super) fn tests(&self) -> usize {
        [self.value.is_some(), self.prefix.is_some(), self.pattern.is_some(), self.present.is_some()]
            .into_iter()
            .filter(|there| *there)
            .count()
    }
}

/// Reads a setting that has a short form: a text that stands for the whole.
pub(super) fn short_or_whole<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + TryFrom<String, Error: fmt::Display>,
{
    // What the keeper sends the gate does not describe itself, and always has the long form.
    if from.is_human_readable() { from.deserialize_any(Short(PhantomData)) } else { T::deserialize(from) }
}

struct Short<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + TryFrom<String, Error: fmt::Display>> Visitor<'de> for Short<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text in quotes, or what docs/settings.md has beside it")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.to_owned().try_into().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::deserialize(SeqAccessDeserializer::new(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<T, A::Error> {
        let value = T::deserialize(MapAccessDeserializer::new(&mut table))?;
        // An enum takes its one key, and would not look at another.
        match table.next_key::<String>()? {
            Some(more) => Err(A::Error::custom(format!("`{more}` is one too many: there may be one key only"))),
            None => Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn pattern(text: &str) -> Result<Pattern, String> {
        text.to_owned().try_into()
    }

    #[test]
    fn patterns_match_the_whole_text() {
        let matches =
            |pattern: &str, text: &[u8]| self::pattern(pattern).unwrap().compile(false).unwrap().is_match(text);
        assert!(matches("/rooms/[0-9]+", b"/rooms/12"));
        assert!(!matches("/rooms/[0-9]+", b"/rooms/12/x") && !matches("/rooms/[0-9]+", b"x/rooms/12"));
        assert!(!matches("/a|/b", b"/ax"), "an alternative is not cut off by what holds the ends");
        assert!(matches("/.*", b"/\xff\n"));
        assert!(!matches("/a", b"/a\n"));
    }

    #[test]
    fn bad_patterns_say_why() {
        assert!(pattern("/(a").unwrap_err().contains("unclosed group"));
        assert!(pattern("a)(b").is_err() && pattern("a)|(?:b").is_err());
        assert!(pattern("[a-z]{1000}{1000}").unwrap_err().contains("size limit"));
        assert!(pattern("(?=x)").unwrap_err().contains("look-ar"));
    }
}
