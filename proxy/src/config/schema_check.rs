//! Whether a value is what a JSON schema allows: as much of draft 2020-12 as the configuration's schema uses. A keyword
//! that it does not know fails the test, so none is passed over.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use regex::bytes::RegexBuilder;
use serde_json::Value;

/// What is wrong with a value, with its place; nothing if it is good.
pub(super) fn faults(root: &Value, value: &Value) -> Vec<String> {
    let mut checker = Checker { root, faults: Vec::new() };
    checker.check(root, value, "");
    checker.faults
}

/// Whether every default and every example is what its own schema allows, and every pattern can be read.
pub(super) fn inconsistent(root: &Value) -> Vec<String> {
    let mut checker = Checker { root, faults: Vec::new() };
    checker.walk(root);
    checker.faults
}

struct Checker<'a> {
    root: &'a Value,
    faults: Vec<String>,
}

impl Checker<'_> {
    fn walk(&mut self, schema: &Value) {
        match schema {
            Value::Object(keywords) => {
                let samples = keywords.get("default").into_iter();
                let examples = keywords.get("examples").and_then(Value::as_array).into_iter().flatten();
                for sample in samples.chain(examples) {
                    self.check(schema, sample, &format!("{sample}"));
                }
                keywords.iter().filter(|(name, _)| *name != "default").for_each(|(_, inner)| self.walk(inner));
            }
            Value::Array(schemas) => schemas.iter().for_each(|inner| self.walk(inner)),
            _ => {}
        }
    }

    fn check(&mut self, schema: &Value, value: &Value, at: &str) {
        for (keyword, rule) in schema.as_object().expect("a schema is an object") {
            if let Some(what) = self.broken(schema, keyword, rule, value, at) {
                self.faults.push(format!("{at}: {what}"));
            }
        }
    }

    /// What a value breaks of one keyword. What is inside of the value goes to the faults itself.
    fn broken(&mut self, schema: &Value, keyword: &str, rule: &Value, value: &Value, at: &str) -> Option<String> {
        let good = match keyword {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" | "x-unit" | "x-watched" => true,
            "$ref" => {
                let place = rule.as_str().and_then(|text| text.strip_prefix('#')).expect("a place in this schema");
                let root = self.root;
                self.check(root.pointer(place).expect("the place is there"), value, at);
                true
            }
            "properties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    if let Some(property) = rule.get(name) {
                        self.check(property, inner, &format!("{at}.{name}"));
                    }
                }
                true
            }
            "additionalProperties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    match (schema.pointer(&format!("/properties/{name}")), rule) {
                        (Some(_), _) => {}
                        (None, Value::Bool(false)) => self.faults.push(format!("{at}: no such setting: {name}")),
                        (None, rule) => self.check(rule, inner, &format!("{at}.{name}")),
                    }
                }
                true
            }
            "items" => {
                value.as_array().into_iter().flatten().for_each(|item| self.check(rule, item, &format!("{at}[]")));
                true
            }
            "anyOf" => self.fitting(rule, value) > 0,
            "oneOf" => self.fitting(rule, value) == 1,
            _ => holds(keyword, rule, value),
        };
        (!good).then(|| format!("{value} breaks {keyword}: {rule}"))
    }

    fn fitting(&self, schemas: &Value, value: &Value) -> usize {
        let fits = |schema: &&Value| {
            let mut checker = Checker { root: self.root, faults: Vec::new() };
            checker.check(schema, value, "");
            checker.faults.is_empty()
        };
        schemas.as_array().expect("a list of schemas").iter().filter(fits).count()
    }
}

/// The keywords that look at one value alone. One for another type of value holds (draft 2020-12, validation, §6).
fn holds(keyword: &str, rule: &Value, value: &Value) -> bool {
    let least =
        |length: Option<usize>| length.is_none_or(|length| rule.as_u64().is_some_and(|rule| length as u64 >= rule));
    match keyword {
        "type" => match rule.as_str().expect("one type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            other => panic!("type {other:?}"),
        },
        "const" => value == rule,
        "required" => {
            let mut names = rule.as_array().expect("a list").iter().filter_map(Value::as_str);
            value.as_object().is_none_or(|object| names.all(|name| object.contains_key(name)))
        }
        "pattern" => value.as_str().is_none_or(|text| {
            let pattern = rule.as_str().expect("a pattern");
            let pattern = RegexBuilder::new(pattern).unicode(false).build().expect("a pattern");
            pattern.is_match(text.as_bytes())
        }),
        "minimum" => value.as_f64().is_none_or(|number| rule.as_f64().is_some_and(|least| number >= least)),
        "maximum" => value.as_f64().is_none_or(|number| rule.as_f64().is_some_and(|most| number <= most)),
        "minItems" => least(value.as_array().map(Vec::len)),
        other => panic!("the keyword {other:?} is not known here"),
    }
}
