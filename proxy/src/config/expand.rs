//! `${NAME}` and `${file:path}` in the texts of a configuration: what stands elsewhere, such as secrets.
//!
//! It is done behind TOML's own parser: what a value holds can neither break the file nor add to it, and lines stay
//! what they are.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::text;

/// The most that a file may hold, in bytes: no secret is longer, and `/dev/zero` has an end.
const MOST: u64 = 64 * 1024;

/// Settings whose texts have a `${…}` of their own (groups of a pattern), or may be programs (an error page's script).
const LEFT_ALONE: [&str; 3] = ["replace", "pattern", "body"];

/// The shortest value that is looked for in messages, in bytes: shorter ones are in every other word.
const SHORTEST: usize = 4;

/// What has been put in, so that no message shows it.
#[derive(Clone, Default)]
pub struct Hidden(Vec<(String, String)>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

impl Hidden {
    /// The same text with what was written in the place of what it stood for, in messages about a configuration.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (value, written)| {
            text.replace(value, written).replace(&value.escape_debug().to_string(), written)
        })
    }

    fn note(&mut self, value: &str, written: &str) {
        if value.len() >= SHORTEST {
            self.0.push((value.to_owned(), written.to_owned()));
            // What holds another is replaced first.
            self.0.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        }
    }
}

/// What is wrong, and at which byte of the file.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) what: String,
}

/// Puts in what stands elsewhere. Relative paths begin at `folder`. Returns where something was put in.
///
/// # Errors
/// A name that has no value, a file that cannot be read, or a `${` that is neither.
pub(super) fn expand(table: &mut DeTable<'_>, folder: &Path, hidden: &mut Hidden) -> Result<Vec<Range<usize>>, Wrong> {
    let mut places = Vec::new();
    let mut fetch = |written: &str| {
        let value = fetch(written, folder)?;
        hidden.note(&value, &format!("${{{written}}}"));
        Ok(value)
    };
    in_table(table, &mut fetch, &mut places).map(|()| places)
}

type Fetch<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

fn in_table(table: &mut DeTable<'_>, fetch: Fetch<'_>, places: &mut Vec<Range<usize>>) -> Result<(), Wrong> {
    for (key, value) in table.iter_mut() {
        if !LEFT_ALONE.contains(&key.get_ref().as_ref()) {
            let span = value.span();
            in_value(value.get_mut(), span, fetch, places)?;
        }
    }
    Ok(())
}

fn in_value(
    value: &mut DeValue<'_>,
    span: Range<usize>,
    fetch: Fetch<'_>,
    places: &mut Vec<Range<usize>>,
) -> Result<(), Wrong> {
    match value {
        DeValue::String(text) if text.contains("${") => {
            let whole = in_text(text, fetch).map_err(|what| Wrong { at: span.start, what })?;
            *text = whole.into();
            places.push(span);
            Ok(())
        }
        DeValue::Array(items) => items.iter_mut().try_for_each(|item| {
            let span = item.span();
            in_value(item.get_mut(), span, fetch, places)
        }),
        DeValue::Table(table) => in_table(table, fetch, places),
        _ => Ok(()),
    }
}

/// One text: `$${` is `${`, and what was put in is not looked at again.
fn in_text(text: &str, fetch: Fetch<'_>) -> Result<String, String> {
    let (mut whole, mut rest) = (String::new(), text);
    while let Some((before, behind)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            whole.push_str(before);
            whole.push_str("${");
            rest = behind;
            continue;
        }
        let (written, behind) =
            behind.split_once('}').ok_or("a `${` has no `}` behind it; write `$${` for the text itself")?;
        whole.push_str(before);
        whole.push_str(&fetch(written)?);
        rest = behind;
    }
    whole.push_str(rest);
    Ok(whole)
}

/// What stands for this.
fn fetch(written: &str, folder: &Path) -> Result<String, String> {
    if let Some(path) = written.strip_prefix("file:") {
        let path = folder.join(path);
        return read(&path).map_err(|reason| format!("`${{{written}}}`: cannot read {}: {reason}", path.display()));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if written.is_empty() || written.as_bytes()[0].is_ascii_digit() || !written.bytes().all(plain) {
        return Err(format!(
            "`${{{written}}}` is neither the name of an environment variable nor `file:` and a path; write `$${{` for \
             the text itself"
        ));
    }
    std::env::var(written).map_err(|error| match error {
        std::env::VarError::NotPresent => format!("the environment has no variable {written}"),
        std::env::VarError::NotUnicode(_) => format!("the environment's variable {written} is no UTF-8"),
    })
}

/// The text of a file, without the line's end that editors put behind it.
fn read(path: &Path) -> io::Result<String> {
    let text = text::read(std::fs::File::open(path)?, MOST)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn whole(text: &str) -> Result<String, String> {
        in_text(text, &mut |written| match written {
            "A" => Ok("one".into()),
            "B" => Ok("${A}".into()),
            other => fetch(other, Path::new("/nowhere")),
        })
    }

    #[test]
    fn a_text_is_put_together_once() {
        for (text, is) in [
            ("", ""),
            ("no dollar", "no dollar"),
            ("$ $A $1 {A} }", "$ $A $1 {A} }"),
            ("${A}", "one"),
            ("<${A}${A}>", "<oneone>"),
            ("${B}", "${A}"),
            ("$${A} $$${A} $$", "${A} $${A} $$"),
            ("ü${A}ü", "üoneü"),
        ] {
            assert_eq!(whole(text).as_deref(), Ok(is), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (text, says) in [
            ("${", "no `}`"),
            ("${A", "no `}`"),
            ("${}", "neither the name"),
            ("${1}", "neither the name"),
            ("${A B}", "neither the name"),
            ("${A:-default}", "neither the name"),
            ("${SLUICE_TEST_IS_NOT_SET}", "no variable SLUICE_TEST_IS_NOT_SET"),
            ("${file:gone}", "`${file:gone}`: cannot read /nowhere/gone: No such file"),
            ("${file:/dev/zero}", "longer than 65536 bytes"),
            ("${file:/}", "Is a directory"),
        ] {
            assert!(whole(text).is_err_and(|what| what.contains(says)), "{text}: {:?}", whole(text));
        }
    }

    #[test]
    fn what_was_put_in_is_hidden() {
        let mut hidden = Hidden::default();
        hidden.note("abc", "${SHORT}");
        hidden.note("hunter2", "${INNER}");
        hidden.note("a\"hunter2", "${OUTER}");
        assert_eq!(hidden.hide("abc \"a\\\"hunter2\" hunter2"), "abc \"${OUTER}\" ${INNER}");
        assert_eq!(format!("{hidden:?}"), "Hidden(…)");
    }
}
