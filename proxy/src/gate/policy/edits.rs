//! Changes of header fields.

use anyhow::{anyhow, ensure};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};

use crate::config::HeaderEdits;
use crate::gate::handshake::forward;

/// Whose header fields are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Request,
    Response,
}

/// Changes of header fields: first some are removed, then some set, then some added.
#[derive(Debug, Default)]
pub(in crate::gate) struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    /// Reads what is configured.
    ///
    /// # Errors
    /// A name or value that HTTP does not know, or a field that nobody but Sluice may write.
    pub(super) fn read(edits: &HeaderEdits, of: Of) -> anyhow::Result<Self> {
        let remove = edits.remove.iter().map(|text| free_name(text)).collect::<anyhow::Result<_>>()?;
        let field = |(text, value): (&String, &String), also: fn(&HeaderName) -> bool| {
            let made =
                // Not repeated: it may be a password for the backend.
                HeaderValue::from_str(value).map_err(|_| anyhow!("the value of {text:?} is no header value"));
            anyhow::Ok((name(text, also)?, made?))
        };
        // A request has exactly one Host: it can be another one, and no second one.
        let host = |name: &HeaderName| *name == HOST;
        let also: fn(&HeaderName) -> bool = if of == Of::Request { host } else { |_| false };
        Ok(Self {
            remove,
            set: edits.set.iter().map(|pair| field(pair, also)).collect::<anyhow::Result<_>>()?,
            add: edits.add.iter().map(|pair| field(pair, |_| false)).collect::<anyhow::Result<_>>()?,
        })
    }

    /// Makes the changes.
    pub(in crate::gate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// Reads the name of a header that Sluice may write for the operator.
///
/// # Errors
/// It is none, or it is for HTTP, the handshake or Sluice itself.
pub(in crate::gate) fn free_name(text: &str) -> anyhow::Result<HeaderName> {
    name(text, |_| false)
}

fn name(text: &str, also: fn(&HeaderName) -> bool) -> anyhow::Result<HeaderName> {
    let name: HeaderName = text.parse().map_err(|_| anyhow!("{text:?} is no header name"))?;
    let free = also(&name) || !(forward::is_ours(&name) || name == HOST);
    ensure!(free, "the header {text:?} cannot be changed here: HTTP, the handshake or Sluice needs it as it is");
    Ok(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn read(toml: &str, of: Of) -> anyhow::Result<Edits> {
        Edits::read(&toml::from_str(toml)?, of)
    }

    #[test]
    fn removed_then_set_then_added() {
        let edits = read(
            "remove = [\"X-A\"]\nset = { x-b = \"new\", host = \"app.internal\" }\nadd = { x-a = \"2\", x-b = \"more\" }",
            Of::Request,
        );
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-a", "0"), ("x-a", "1"), ("x-b", "old"), ("x-b", "older"), ("host", "a.test"), ("x-c", "c")]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        edits.unwrap().apply(&mut headers);
        let all = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("x-a"), all("x-b"), all("x-c")), (vec!["2"], vec!["new", "more"], vec!["c"]));
        assert_eq!(all("host"), ["app.internal"]);
    }

    #[test]
    fn what_is_not_the_operators_is_refused() {
        let names = [
            "connection",
            "Upgrade",
            "transfer-encoding",
            "content-length",
            "te",
            "trailer",
            "keep-alive",
            "proxy-connection",
            "expect",
            "sec-websocket-key",
            "Sec-WebSocket-Protocol",
            "proxy-status",
            "proxy-websocket-status",
            ":path",
            "a b",
            "",
        ];
        for name in names {
            for edit in [
                format!("set = {{ {name:?} = \"x\" }}"),
                format!("add = {{ {name:?} = \"x\" }}"),
                format!("remove = [{name:?}]"),
            ] {
                for of in [Of::Request, Of::Response] {
                    assert!(read(&edit, of).is_err(), "{edit}");
                }
            }
        }
        for edit in ["add = { host = \"x\" }", "remove = [\"host\"]"] {
            assert!(read(edit, Of::Request).is_err(), "{edit}");
        }
        assert!(read("set = { host = \"x\" }", Of::Response).is_err());
        assert!(read("set = { x-a = \"a\\nb\" }", Of::Request).is_err());
        assert!(read("sets = {}", Of::Request).is_err());
    }
}
