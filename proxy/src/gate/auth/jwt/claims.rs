//! Claims as headers for the backend.

use anyhow::{Context as _, ensure};
use http::HeaderValue;
use http::header::HeaderName;
use serde_json::{Map, Value};

use crate::gate::policy::free_name;

/// A header, and the claim that it gets.
pub(super) struct Tell {
    pub(super) header: HeaderName,
    claim: String,
}

impl Tell {
    /// Reads what is configured.
    ///
    /// # Errors
    /// The header is none, or not for claims.
    pub(super) fn read(header: &str, claim: &str) -> anyhow::Result<Self> {
        ensure!(!claim.is_empty(), "claims: the header {header:?} has no claim");
        Ok(Self { header: free_name(header).context("claims")?, claim: claim.to_owned() })
    }

    /// The header of these claims. `None` if the claim is not there, or is nothing that a header can say without a doubt: a
    /// table, a text with control characters or with spaces at an end, a list with one of those or with a comma.
    pub(super) fn of(&self, claims: &Map<String, Value>) -> Option<(HeaderName, HeaderValue)> {
        let text = match find(claims, &self.claim)? {
            Value::Array(items) => {
                let items: Option<Vec<String>> = items
                    .iter()
                    .map(|item| scalar(item).filter(|text| !text.contains(',') && is_plain(text)))
                    .collect();
                items?.join(",")
            }
            single => scalar(single)?,
        };
        let value = is_plain(&text).then(|| HeaderValue::from_bytes(text.as_bytes()).ok()).flatten()?;
        Some((self.header.clone(), value))
    }
}

/// Whether a claim is this value, or has it as a word or an element.
pub(super) fn has(claims: &Map<String, Value>, claim: &str, value: &str) -> bool {
    let is = |one: &Value| scalar(one).is_some_and(|text| text == value);
    match find(claims, claim) {
        Some(Value::Array(items)) => items.iter().any(is),
        Some(Value::String(text)) => text == value || text.split(' ').any(|word| word == value),
        Some(single) => is(single),
        None => false,
    }
}

/// A reader would cut spaces off.
fn is_plain(text: &str) -> bool {
    text.trim_ascii() == text
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// The claim of this whole name (names may have dots, as those that are URLs do), or else the one that the dots lead to.
fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    claims.get(path).or_else(|| {
        let (mut steps, mut inside) = (path.split('.'), None);
        let first = steps.next()?;
        for step in steps {
            let table = inside.unwrap_or(claims.get(first)?);
            inside = Some(table.get(step)?);
        }
        inside
    })
}
