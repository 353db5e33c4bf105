//! What a client's opening handshake must be (RFC 6455 §4.2.1).

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Version};

use super::{Target, Visitor, forward, grammar};
use crate::config::{Origin, split_origin};
use crate::gate::refusal::Refusal;

/// Padding is part of RFC 4648 §4; bits behind the last byte do not change what it decodes to, so they may be set.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// What the listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gate) enum Scheme {
    /// ws://
    Plain,
    /// wss://
    Tls,
}

impl Scheme {
    /// The scheme of an Origin that is the same, and the value of X-Forwarded-Proto.
    pub(in crate::gate) const fn http(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls => "https",
        }
    }

    /// Reads what a proxy says that a client speaks.
    pub(super) fn read(text: &str) -> Option<Self> {
        let is = |names: [&str; 2]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
        is(["http", "ws"]).then_some(Self::Plain).or_else(|| is(["https", "wss"]).then_some(Self::Tls))
    }
}

/// What the Origin header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gate) enum Caller {
    /// There is none: a program, not a browser.
    None,
    /// `null`: a page that has no origin of its own, or whose site has it not tell it (RFC 6454 §7.1; Fetch, "append a
    /// request Origin header", with the referrer policy `no-referrer`).
    Null {
        /// The browser says that the page is of this very server. Pages cannot write Sec-Fetch-Site (Fetch Metadata
        /// §2.3), and a sandboxed page is `cross-site`.
        same_origin: bool,
    },
    /// Something that is no origin.
    Opaque,
    /// An origin.
    Origin(Origin),
}

/// A request that is a WebSocket handshake: only [`Opening::check`] makes one.
#[derive(Clone, Debug)]
pub(in crate::gate) struct Opening {
    /// Sec-WebSocket-Key as it was sent.
    pub(in crate::gate) key: HeaderValue,
    /// The subprotocols offered.
    pub(in crate::gate) protocols: Vec<String>,
    /// The names of the extensions offered.
    pub(in crate::gate) extensions: Vec<String>,
    /// Whom it is for.
    pub(in crate::gate) target: Target,
    /// The page that the client belongs to.
    pub(in crate::gate) caller: Caller,
    /// The headers that Connection names, in lower case: they end here.
    pub(in crate::gate) hop_by_hop: Vec<String>,
}

impl Opening {
    /// Judges a request head.
    ///
    /// # Errors
    /// The first thing that is wrong with it. What makes it no HTTP/1.1 request is looked at before what makes it no
    /// WebSocket handshake, so that a plain HTTP client reads 426, not a complaint about a missing key.
    pub(in crate::gate) fn check(head: &Parts, visitor: &Visitor) -> Result<Self, Refusal> {
        let headers = &head.headers;
        if head.version != Version::HTTP_11 {
            return Err(Refusal::HttpVersion);
        }
        if head.method != Method::GET {
            return Err(Refusal::Method);
        }
        let target = Target::read(head, visitor)?;
        no_body(headers)?;
        if !grammar::names(headers, UPGRADE, "websocket") {
            return Err(Refusal::NotWebSocket);
        }
        let connection = grammar::tokens(headers, CONNECTION).ok_or(Refusal::Connection)?;
        if !connection.iter().any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return Err(Refusal::Connection);
        }
        let hop_by_hop = forward::named_hop_by_hop(&connection);
        version(headers)?;
        Ok(Self {
            key: key_of(headers)?,
            protocols: protocols(headers)?,
            extensions: extensions(headers)?,
            caller: caller(headers)?,
            target,
            hop_by_hop,
        })
    }
}

fn no_body(headers: &HeaderMap) -> Result<(), Refusal> {
    let empty = |value: &HeaderValue| value.as_bytes() == b"0";
    if headers.contains_key(TRANSFER_ENCODING) || !headers.get_all(CONTENT_LENGTH).iter().all(empty) {
        return Err(Refusal::Body);
    }
    Ok(())
}

fn version(headers: &HeaderMap) -> Result<(), Refusal> {
    let value = grammar::only(headers, SEC_WEBSOCKET_VERSION).map_err(|_| Refusal::VersionMissing)?;
    if value.as_bytes() == b"13" { Ok(()) } else { Err(Refusal::Version) }
}

/// A Sec-WebSocket-Key of these random bytes.
pub(in crate::gate) fn key(nonce: [u8; 16]) -> HeaderValue {
    // Base64 is printable ASCII.
    HeaderValue::try_from(BASE64.encode(nonce)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn key_of(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let value = grammar::only(headers, SEC_WEBSOCKET_KEY).map_err(|_| Refusal::Key)?;
    let decoded = BASE64.decode(value.as_bytes()).map_err(|_| Refusal::Key)?;
    if decoded.len() == 16 { Ok(value.clone()) } else { Err(Refusal::Key) }
}

fn protocols(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    let offered = grammar::tokens(headers, SEC_WEBSOCKET_PROTOCOL).ok_or(Refusal::Subprotocol)?;
    let empty = offered.is_empty() && headers.contains_key(SEC_WEBSOCKET_PROTOCOL);
    let repeated = offered.iter().enumerate().any(|(at, token)| offered.iter().take(at).any(|other| other == token));
    if empty || repeated { Err(Refusal::Subprotocol) } else { Ok(owned(&offered)) }
}

fn extensions(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    let offered = grammar::extensions(headers, SEC_WEBSOCKET_EXTENSIONS).ok_or(Refusal::Extension)?;
    let empty = offered.is_empty() && headers.contains_key(SEC_WEBSOCKET_EXTENSIONS);
    if empty { Err(Refusal::Extension) } else { Ok(owned(&offered)) }
}

pub(super) fn caller(headers: &HeaderMap) -> Result<Caller, Refusal> {
    match grammar::only(headers, ORIGIN) {
        Err(0) => Ok(Caller::None),
        Err(_) => Err(Refusal::Origins),
        Ok(value) if value.as_bytes() == b"null" => {
            let site = grammar::only(headers, HeaderName::from_static("sec-fetch-site"));
            Ok(Caller::Null { same_origin: site.is_ok_and(|site| site.as_bytes() == b"same-origin") })
        }
        Ok(value) => {
            let origin = value.to_str().ok().and_then(|text| split_origin(text).ok());
            Ok(origin.map_or(Caller::Opaque, Caller::Origin))
        }
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
