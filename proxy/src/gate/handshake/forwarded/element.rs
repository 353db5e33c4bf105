//! Elements of the Forwarded header (RFC 7239 §4).

use super::super::grammar::{is_token, split, trim};
use super::Hop;
use super::node::Node;

/// The elements of one line, from its end: those that the nearest proxies wrote come first, and are found whatever
/// a stranger wrote before them.
pub(super) fn backwards(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    let elements = std::iter::from_fn(move || {
        let text = rest?;
        let comma = last_comma(text);
        rest = comma.and_then(|at| text.get(..at));
        text.get(comma.map_or(0, |at| at + 1)..).map(trim)
    });
    // RFC 9110 §5.6.1: empty elements count for nothing.
    elements.filter(|element| !element.is_empty())
}

/// The last comma that stands outside of quoted strings, as they look from the end of the text.
fn last_comma(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quoted = false;
    for at in (0..bytes.len()).rev() {
        match bytes[at] {
            b'"' => {
                let escapes = bytes[..at].iter().rev().take_while(|b| **b == b'\\').count();
                // Inside, a quote behind an odd number of backslashes is one of the content.
                quoted = !quoted || escapes % 2 == 1;
            }
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Reads `token "=" value *( ";" token "=" value )`. `None` if it is not that, or says one thing twice.
pub(super) fn read(element: &str) -> Option<Hop> {
    let (mut node, mut scheme, mut host) = (None, None, None);
    let mut names: Vec<String> = Vec::new();
    for pair in split(element, ';')?.into_iter().filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.to_ascii_lowercase(), unquoted(value)?);
        if !is_token(&name) || names.contains(&name) {
            return None;
        }
        match name.as_str() {
            "for" => node = Some(Node::read(&value)?),
            "proto" => scheme = Some(value),
            "host" => host = Some(value),
            _ => {}
        }
        names.push(name);
    }
    Some(Hop { node: node.unwrap_or(Node::Unknown), scheme, host })
}

/// A token, or what a quoted string says (RFC 9110 §5.6.4).
fn unquoted(value: &str) -> Option<String> {
    let Some(inside) = value.strip_prefix('"') else { return is_token(value).then(|| value.to_owned()) };
    let inside = inside.strip_suffix('"')?;
    let mut text = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next()?),
            '"' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}
