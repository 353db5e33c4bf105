//! Durations as people write them: `"10s"`, `"1m 30s"`, `"500ms"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// `also`: what else could have been written.
fn parse<E: Error>(text: &str, also: &str) -> Result<Duration, E> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| E::custom(format!("{text:?} is no duration such as \"10s\" or \"2m\"{also}: {error}")))?;
    if duration.is_zero() {
        return Err(E::custom(format!("{text:?} would leave no time at all; write a duration such as \"10s\"{also}")));
    }
    Ok(duration)
}

pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_duration(*value))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(from)?, "")
}

/// One that may be nothing at all: `"0s"`.
pub(super) mod or_none {
    use super::{Deserialize, Deserializer, Duration, Serializer, parse};

    pub(in super::super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        super::serialize(value, to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        let nothing = humantime::parse_duration(&text).is_ok_and(|duration| duration.is_zero());
        if nothing { Ok(Duration::ZERO) } else { parse(&text, "") }
    }
}

/// The same, and `"off"`.
pub(super) mod optional {
    use super::{Deserialize, Deserializer, Duration, Serializer, parse};

    pub(in super::super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::serialize(value, to),
            None => to.serialize_str("off"),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(from)?;
        if text == "off" { Ok(None) } else { parse(&text, ", or \"off\"").map(Some) }
    }
}

/// One that need not be there. (A setting that is not there is not read at all: its default is `None`.)
pub(super) mod maybe {
    use super::{Deserialize, Deserializer, Duration, Serialize, Serializer, parse};

    pub(in super::super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value.map(|value| humantime::format_duration(value).to_string()).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| parse(&text, "")).transpose()
    }
}

/// A limit in place of another: `"off"`, or a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bound(#[serde(with = "optional")] pub Option<Duration>);
