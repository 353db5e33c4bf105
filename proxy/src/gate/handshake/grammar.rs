//! The few grammar rules of RFC 9110 §5.6 and RFC 6455 §9.1 that a handshake is made of.

use http::header::{AsHeaderName, HeaderMap, HeaderValue};

/// The only value of a header.
///
/// # Errors
/// How many there are, if not one.
pub(super) fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Result<&HeaderValue, usize> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(0),
        _ => Err(2 + values.count()),
    }
}

/// Whether these bytes are a token (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The tokens of all values of a header that is a list of tokens; empty elements count for nothing (RFC 9110 §5.6.1).
/// `None` if anything in it is no token.
pub(super) fn tokens(headers: &HeaderMap, name: impl AsHeaderName) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    for value in headers.get_all(name) {
        let elements = value.to_str().ok()?.split(',').map(trim).filter(|element| !element.is_empty());
        for element in elements {
            found.push(is_token(element).then_some(element)?);
        }
    }
    Some(found)
}

/// Whether a list header names a token, whatever its case. Elements that are no tokens (`h2c/1`) are passed over.
pub(super) fn names(headers: &HeaderMap, header: impl AsHeaderName, token: &str) -> bool {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|element| trim(element).eq_ignore_ascii_case(token))
}

/// The names of all extensions in Sec-WebSocket-Extensions (RFC 6455 §9.1). `None` if it is malformed.
pub(super) fn extensions(headers: &HeaderMap, name: impl AsHeaderName) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    for value in headers.get_all(name) {
        for element in split(value.to_str().ok()?, ',')? {
            if !element.is_empty() {
                found.push(extension(element)?);
            }
        }
    }
    Some(found)
}

/// `token *( ";" token [ "=" ( token | quoted-string ) ] )`: the first token.
fn extension(text: &str) -> Option<&str> {
    let mut parts = split(text, ';')?.into_iter();
    let name = parts.next().filter(|name| is_token(name))?;
    for parameter in parts {
        let (key, value) = parameter.split_once('=').map_or((parameter, None), |(key, value)| (key, Some(value)));
        // RFC 6455 §9.1: a quoted value must be a token once it is unquoted.
        let value_fits = value.map(trim).is_none_or(|value| is_token(value) || unquoted_is_token(value));
        if !is_token(trim(key)) || !value_fits {
            return None;
        }
    }
    Some(name)
}

fn unquoted_is_token(text: &str) -> bool {
    let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inside.is_some_and(|inside| is_token(&inside.replace('\\', "")))
}

/// Splits at a separator that stands outside of quoted strings. `None` if a quoted string has no end.
pub(super) fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == separator && !quoted => {
                parts.push(trim(&text[start..at]));
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(trim(&text[start..]));
    (!quoted).then_some(parts)
}

/// Without optional white space (RFC 9110 §5.6.3).
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use http::header::{CONNECTION, SEC_WEBSOCKET_EXTENSIONS};
    use proptest::prelude::*;

    use super::*;

    fn header(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn parsed(values: &[&str]) -> Option<Vec<String>> {
        let headers = header(values);
        extensions(&headers, SEC_WEBSOCKET_EXTENSIONS).map(|names| names.into_iter().map(String::from).collect())
    }

    #[test]
    fn extensions_as_browsers_send_them() {
        assert_eq!(parsed(&["permessage-deflate; client_max_window_bits"]).unwrap(), ["permessage-deflate"]);
        assert_eq!(parsed(&["a; b=1, c", "d;e=\"10\""]).unwrap(), ["a", "c", "d"]);
        assert_eq!(parsed(&["a;b=\"x\\y\" , ,c"]).unwrap(), ["a", "c"]);
    }

    #[test]
    fn malformed_extensions() {
        for text in ["a b", "a;", "a;=1", "a;b=", "a;b=\"x", "a;b=\"x,y\"", ";a", "a=1", "a;b=\"\""] {
            assert_eq!(parsed(&[text]), None, "{text}");
        }
    }

    #[test]
    fn tokens_over_several_values() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive,, Upgrade"));
        headers.append(CONNECTION, HeaderValue::from_static("x"));
        assert_eq!(tokens(&headers, CONNECTION).unwrap(), ["keep-alive", "Upgrade", "x"]);
        assert!(names(&headers, CONNECTION, "upgrade"));
        assert!(!names(&headers, CONNECTION, "up"));
        headers.append(CONNECTION, HeaderValue::from_static("not a token"));
        assert_eq!(tokens(&headers, CONNECTION), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[ -~]{0,60}") {
            let _ = parsed(&[&text]);
            let headers = header(&[&text]);
            let _ = tokens(&headers, SEC_WEBSOCKET_EXTENSIONS);
        }

        #[test]
        fn well_formed_lists_are_read_back(names in prop::collection::vec("[a-z][a-z0-9-]{0,10}", 1..5)) {
            let text = names.join("; p=\"1\" , ");
            prop_assert_eq!(parsed(&[&text]).unwrap(), names);
        }
    }
}
