//! Whom a request is for: what every request says, WebSocket handshake or not.

use http::header::HOST;
use http::request::Parts;

use super::forwarded::Visitor;
use super::grammar;
use super::path::PlainPath;
use crate::config::{Origin, split_authority, split_origin};
use crate::gate::refusal::Refusal;

/// Whom a request is for.
#[derive(Clone, Debug)]
pub(in crate::gate) struct Target {
    /// The Host's name, in lower case, without its port.
    pub(in crate::gate) host: String,
    /// The origin that pages of this very server have, as the client sees it.
    pub(in crate::gate) own_origin: Origin,
    /// The path, for the route.
    pub(in crate::gate) path: PlainPath,
}

impl Target {
    /// Reads it.
    ///
    /// # Errors
    /// [`Refusal::Host`] without exactly one Host, or with another in the target (RFC 9112 §3.2.2 lets the target win;
    /// two that differ are how requests are smuggled past a check, so they are refused). [`Refusal::Path`] without a
    /// plain path.
    pub(in crate::gate) fn read(head: &Parts, visitor: &Visitor) -> Result<Self, Refusal> {
        let value = grammar::only(&head.headers, HOST).map_err(|_| Refusal::Host)?;
        let text = value.to_str().map_err(|_| Refusal::Host)?;
        let (name, _) = split_authority(text).map_err(|_| Refusal::Host)?;
        let other = head.uri.authority().is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(text));
        if other {
            return Err(Refusal::Host);
        }
        let seen = visitor.host.as_deref().unwrap_or(text);
        let own_origin = split_origin(&format!("{}://{seen}", visitor.scheme.http())).map_err(|_| Refusal::Host)?;
        let path = PlainPath::read(head.uri.path()).ok_or(Refusal::Path)?;
        Ok(Self { host: name.strip_suffix('.').map(String::from).unwrap_or(name), own_origin, path })
    }
}
