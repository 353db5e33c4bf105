//! Conditions on header fields and on the query's parameters.

use http::header::{HeaderMap, HeaderName};
use regex::bytes::Regex;

use crate::config::Condition;

/// What a value must be.
#[derive(Debug)]
pub(super) enum Test {
    Present(bool),
    Value(Vec<u8>),
    Prefix(Vec<u8>),
    Pattern(Regex),
}

/// A condition on header fields.
#[derive(Debug)]
pub(super) struct OnHeader {
    pub(super) name: HeaderName,
    pub(super) test: Test,
}

/// A condition on the query's parameters.
#[derive(Debug)]
pub(super) struct OnQuery {
    pub(super) name: Vec<u8>,
    pub(super) test: Test,
}

impl Test {
    fn read(condition: &Condition) -> anyhow::Result<Self> {
        let bytes = |text: &String| text.clone().into_bytes();
        let tests = [
            condition.present.map(Self::Present),
            condition.value.as_ref().map(|text| Self::Value(bytes(text))),
            condition.prefix.as_ref().map(|text| Self::Prefix(bytes(text))),
            condition.pattern.as_ref().map(|pattern| pattern.compile(false).map(Self::Pattern)).transpose()?,
        ];
        let test = tests.into_iter().flatten().next();
        test.ok_or_else(|| anyhow::anyhow!("the condition on {:?} says nothing of its value", condition.name))
    }

    /// Whether one of the values fits.
    fn holds<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        match self {
            Self::Present(wanted) => values.next().is_some() == *wanted,
            Self::Value(text) => values.any(|value| value == text.as_slice()),
            Self::Prefix(text) => values.any(|value| value.starts_with(text)),
            Self::Pattern(pattern) => values.any(|value| pattern.is_match(value)),
        }
    }
}

impl OnHeader {
    pub(super) fn read(condition: &Condition) -> anyhow::Result<Self> {
        let name = condition.name.parse().map_err(|_| anyhow::anyhow!("{:?} is no header name", condition.name))?;
        Ok(Self { name, test: Test::read(condition)? })
    }

    pub(super) fn holds(&self, headers: &HeaderMap) -> bool {
        self.test.holds(headers.get_all(&self.name).iter().map(http::HeaderValue::as_bytes))
    }
}

impl OnQuery {
    pub(super) fn read(condition: &Condition) -> anyhow::Result<Self> {
        Ok(Self { name: condition.name.clone().into_bytes(), test: Test::read(condition)? })
    }

    pub(super) fn holds(&self, parameters: &[(Vec<u8>, Vec<u8>)]) -> bool {
        let named = parameters.iter().filter(|(name, _)| *name == self.name);
        self.test.holds(named.map(|(_, value)| value.as_slice()))
    }
}

/// The parameters of a query in their order: `a=1&b` is `a` with `1` and `b` with nothing. `+` is a space, and
/// percent-encoded bytes are decoded; a `%` that begins no such byte stands for itself.
pub(in crate::gate) fn parameters(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (form(name), form(value)))
        .collect()
}

/// A name or a value of a query, decoded.
pub(in crate::gate) fn form(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, behind @ ..] = rest {
        let encoded = match behind {
            [high, low, behind @ ..] if *byte == b'%' => {
                let digit = |b: &u8| char::from(*b).to_digit(16);
                digit(high).zip(digit(low)).map(|(high, low)| ((high << 4 | low) as u8, behind))
            }
            _ => None,
        };
        let (plain, behind) = encoded.unwrap_or((if *byte == b'+' { b' ' } else { *byte }, behind));
        decoded.push(plain);
        rest = behind;
    }
    decoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn texts(query: &str) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        parameters(query).into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn queries_are_read_as_forms_are() {
        let expected = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(texts("a=1&b=2"), expected(&[("a", "1"), ("b", "2")]));
        assert_eq!(texts("a&&=x&a=b=c"), expected(&[("a", ""), ("", "x"), ("a", "b=c")]));
        assert_eq!(texts("%61%20b=c+d%2B"), expected(&[("a b", "c d+")]));
        assert_eq!(texts("a=%&b=%4&c=%zz"), expected(&[("a", "%"), ("b", "%4"), ("c", "%zz")]));
        assert_eq!(texts(""), expected(&[]));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(name in "[ -~]{1,12}", value in "[ -~]{0,12}") {
            let encode = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
            prop_assert_eq!(texts(&format!("{}={}", encode(&name), encode(&value))), vec![(name, value)]);
        }

        #[test]
        fn no_query_panics(query in "[%+&=a-f0-9]{0,40}") {
            let _ = parameters(&query);
        }
    }
}
