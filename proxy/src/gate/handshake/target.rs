//! Whom a request is for: what every request says, WebSocket handshake or not.

use http::Method;
use http::header::HOST;
use http::request::Parts;

use super::forwarded::Visitor;
use super::grammar;
use super::path::PlainPath;
use crate::config::{Origin, split_authority, split_origin};
use crate::gate::refusal::Refusal;

/// The target of a request for the server as a whole (RFC 9112 §3.2.4).
const ASTERISK: &str = "*";

/// Whether a request is for the server as a whole: `OPTIONS *`.
pub(in crate::gate) fn is_for_the_server(head: &Parts) -> bool {
    head.method == Method::OPTIONS && head.uri.path_and_query().is_some_and(|target| target.as_str() == ASTERISK)
}

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
    /// Reads it from a request in origin form ([`super::settle`], [`super::http2::as_http1`]).
    ///
    /// # Errors
    /// [`Refusal::Host`] without exactly one Host. [`Refusal::Path`] without a plain path; that of `OPTIONS *` is `/`,
    /// which stands for the whole server.
    pub(in crate::gate) fn read(head: &Parts, visitor: &Visitor) -> Result<Self, Refusal> {
        let value = grammar::only(&head.headers, HOST).map_err(|_| Refusal::Host)?;
        let text = value.to_str().map_err(|_| Refusal::Host)?;
        let (name, _) = split_authority(text).map_err(|_| Refusal::Host)?;
        let seen = visitor.host.as_deref().unwrap_or(text);
        let own_origin = split_origin(&format!("{}://{seen}", visitor.scheme.http())).map_err(|_| Refusal::Host)?;
        let sent = if is_for_the_server(head) { "/" } else { head.uri.path() };
        let path = PlainPath::read(sent).ok_or(Refusal::Path)?;
        Ok(Self { host: name.strip_suffix('.').map(String::from).unwrap_or(name), own_origin, path })
    }
}
