//! A service that decides: what it is asked, and what its answer means.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, LOCATION, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, response};

use super::Entry;
use crate::config::{Address, AuthForward, Backend, Config, ServerAddress};
use crate::gate::handshake::Visitor;
use crate::gate::policy::free_name;

/// The headers of the question that nobody but Sluice writes.
const METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ASKED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A service that is asked.
pub(in crate::gate) struct Forward {
    /// Whose servers it is: an index into the configuration.
    pub(in crate::gate) backend: u16,
    /// How long it may take.
    pub(in crate::gate) timeout: Duration,
    target: PathAndQuery,
    host: HeaderValue,
    asks: Vec<HeaderName>,
    tells: Vec<HeaderName>,
    passes: Vec<HeaderName>,
}

/// Whom it is asked about.
#[derive(Clone, Copy)]
pub(in crate::gate) struct Subject<'a> {
    /// The request as the client sent it.
    pub(in crate::gate) head: &'a Parts,
    pub(in crate::gate) visitor: &'a Visitor,
}

/// What its answer means.
#[derive(Debug)]
pub(in crate::gate) enum Ruling {
    Enter(Entry),
    /// The client gets the answer.
    Deny,
    /// It is none.
    Nonsense,
}

impl Forward {
    /// # Errors
    /// A name, a target or a backend that there cannot be.
    pub(super) fn new(config: &Config, settings: &AuthForward) -> anyhow::Result<Self> {
        let place = config.backends.iter().position(|backend| backend.name == settings.backend);
        let place = place.with_context(|| format!("forward: backend {:?} is not defined", settings.backend))?;
        let backend = config.backends.get(place).context("forward has no backend")?;
        let target = settings.path.parse().ok().filter(|target: &PathAndQuery| target.path().starts_with('/'));
        let list = |names: &[String]| names.iter().map(|name| free_name(name)).collect::<anyhow::Result<Vec<_>>>();
        let asks = settings.request_headers.iter().map(|name| asked_name(name)).collect::<anyhow::Result<Vec<_>>>();
        Ok(Self {
            backend: u16::try_from(place)?,
            timeout: settings.timeout,
            target: target.with_context(|| format!("forward.path {:?} is no target", settings.path))?,
            host: host(settings, backend)?,
            asks: asks.context("forward.request_headers")?,
            tells: list(&settings.response_headers).context("forward.response_headers")?,
            passes: list(&settings.refusal_headers).context("forward.refusal_headers")?,
        })
    }

    pub(super) fn tells(&self) -> &[HeaderName] {
        &self.tells
    }

    /// The question.
    pub(in crate::gate) fn question<B>(&self, subject: Subject<'_>, body: B) -> Request<B> {
        let Subject { head, visitor } = subject;
        let mut request = Request::new(body);
        *request.uri_mut() = Uri::from(self.target.clone());
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("sluice"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        copy(&self.asks, &head.headers, headers);
        // All of it was part of a request's head.
        let mut put = |name: HeaderName, text: &str| {
            let _ = HeaderValue::from_str(text).map(|value| headers.insert(name, value));
        };
        put(METHOD, head.method.as_str());
        put(PROTO, visitor.scheme.http());
        put(URI, head.uri.path_and_query().map_or("/", PathAndQuery::as_str));
        if let Some(address) = visitor.client.ip() {
            put(FOR, &address.to_string());
        }
        match (&visitor.host, head.headers.get(HOST)) {
            (Some(host), _) => put(ASKED_HOST, host),
            (None, Some(host)) => drop(headers.insert(ASKED_HOST, host.clone())),
            (None, None) => {}
        }
        request
    }

    /// What an answer means.
    pub(in crate::gate) fn ruling(&self, head: &response::Parts) -> Ruling {
        let status = head.status;
        if status.is_success() {
            let mut told = HeaderMap::new();
            copy(&self.tells, &head.headers, &mut told);
            let tell = told.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            return Ruling::Enter(Entry { name: None, tell, expires_ms: None });
        }
        let denied = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
        // A 304, for one, is a redirection to nowhere.
        let sent_away = status.is_redirection() && head.headers.contains_key(LOCATION);
        if denied || sent_away { Ruling::Deny } else { Ruling::Nonsense }
    }

    /// The answer to the client: `ours`, with the service's status and some of its headers, and its body if it has one.
    pub(in crate::gate) fn denial(
        &self,
        mut ours: Response<Bytes>,
        head: &response::Parts,
        body: Bytes,
    ) -> Response<Bytes> {
        *ours.status_mut() = head.status;
        copy(&self.passes, &head.headers, ours.headers_mut());
        if !body.is_empty() {
            ours.headers_mut().remove(CONTENT_TYPE);
            copy(&[CONTENT_TYPE], &head.headers, ours.headers_mut());
            ours.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            *ours.body_mut() = body;
        }
        ours
    }
}

/// Copies the headers of these names, each in the place of what is there.
fn copy(names: &[HeaderName], from: &HeaderMap, to: &mut HeaderMap) {
    for name in names {
        let mut values = from.get_all(name).iter();
        if let Some(first) = values.next() {
            to.insert(name, first.clone());
        }
        for more in values {
            to.append(name, more.clone());
        }
    }
}

/// A header that the service is shown. The handshake's are good too: a token may be among the subprotocols.
fn asked_name(text: &str) -> anyhow::Result<HeaderName> {
    let name = match text.parse::<HeaderName>() {
        Ok(name) if name.as_str().starts_with("sec-websocket-") => name,
        _ => free_name(text)?,
    };
    ensure!(!name.as_str().starts_with("x-forwarded-"), "{text:?} is Sluice's own to say");
    Ok(name)
}

fn host(settings: &AuthForward, backend: &Backend) -> anyhow::Result<HeaderValue> {
    let name = settings.host.clone().or_else(|| backend.tls.as_ref()?.server_name.clone());
    let address = || {
        backend.servers.iter().find_map(|server| match &server.address {
            address @ (ServerAddress::At(Address::Inet(_)) | ServerAddress::Name { .. }) => Some(address.to_string()),
            ServerAddress::At(Address::Unix(_)) | ServerAddress::Service(_) => None,
        })
    };
    let text = name.or_else(address).unwrap_or_else(|| "localhost".into());
    let good = !text.is_empty() && crate::config::split_authority(&text).is_ok();
    ensure!(good, "forward.host {text:?} is no host");
    Ok(HeaderValue::try_from(text)?)
}
