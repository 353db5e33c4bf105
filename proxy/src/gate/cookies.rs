//! The cookies of a request, by name, and the request without one of them. Pure.

use http::HeaderValue;
use http::header::{COOKIE, HeaderMap};

/// The values of all cookies of a name (RFC 6265 §4.2.1), without the quotes that may stand around them.
pub(super) fn values<'a>(headers: &'a HeaderMap, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let crumbs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    crumbs.filter(move |crumb| is(crumb, name)).map(|crumb| {
        let value = crumb.iter().position(|byte| *byte == b'=').and_then(|at| crumb.get(at + 1..));
        let value = value.unwrap_or_default().trim_ascii();
        value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
    })
}

/// Takes all cookies of a name out of a request.
pub(super) fn strip(headers: &mut HeaderMap, name: &[u8]) {
    if values(headers, name).next().is_none() {
        return;
    }
    let without = |value: &HeaderValue| {
        let crumbs = value.as_bytes().split(|byte| *byte == b';').filter(|crumb| !is(crumb, name));
        crumbs.collect::<Vec<_>>().join(&b';').trim_ascii().to_vec()
    };
    let kept: Vec<Vec<u8>> =
        headers.get_all(COOKIE).iter().map(without).filter(|value: &Vec<u8>| !value.is_empty()).collect();
    headers.remove(COOKIE);
    for value in kept {
        // Parts of a header value are one too.
        let _ = HeaderValue::from_bytes(&value).map(|value| headers.append(COOKIE, value));
    }
}

fn is(crumb: &[u8], name: &[u8]) -> bool {
    crumb.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii() == name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn cookies_are_found_and_taken_out() {
        let mut headers = HeaderMap::new();
        for value in ["a=1; t=x=y ;b=2", "t=\"quoted\"", "tt=3; t"] {
            headers.append(COOKIE, HeaderValue::from_static(value));
        }
        let found = |headers: &HeaderMap| -> Vec<String> {
            values(headers, b"t").map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
        };
        assert_eq!(found(&headers), ["x=y", "quoted", ""]);
        strip(&mut headers, b"t");
        assert_eq!(found(&headers), Vec::<String>::new());
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1;b=2", "tt=3"]);
    }
}
