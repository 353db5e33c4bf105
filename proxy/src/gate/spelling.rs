//! How the names of header fields are written for a backend.

use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use anyhow::Context as _;
use bytes::{Buf as _, Bytes};
use http::{Extensions, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::{Backend, HeaderCase};

/// Names that are not written as the words in them are.
const STANDARD: [&str; 9] = [
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "Sec-CH-UA",
    "Sec-CH-UA-Mobile",
    "Sec-CH-UA-Platform",
    "Sec-GPC",
    "DNT",
];

/// How many fields of one name are written as it is wanted; those behind them as `header_case` says. 16: a list that is
/// sent in lines of its own, X-Forwarded-For for one.
const FIELDS: usize = 16;

/// How the names of header fields are written.
#[derive(Clone, Debug)]
pub(super) struct Spelling {
    title: bool,
    /// What hyper goes by for single names.
    names: Option<Extensions>,
}

impl Spelling {
    /// That of the HTTP library.
    pub(super) const LOWER: &Spelling = &Spelling { title: false, names: None };

    /// That of a backend.
    ///
    /// # Errors
    /// One of its names is none, which [`crate::config::Config`] has seen to.
    pub(super) fn new(backend: &Backend) -> anyhow::Result<Self> {
        let title = backend.header_case == HeaderCase::Title;
        let own = backend.header_names.iter().map(String::as_str);
        let own_too = |name: &&str| backend.header_names.iter().any(|own| own.eq_ignore_ascii_case(name));
        let standard = STANDARD.into_iter().filter(|name| title && !own_too(name));
        let names: Vec<&str> = own.chain(standard).collect();
        let names = if names.is_empty() { None } else { Some(known(&names).context("header_names")?) };
        Ok(Self { title, names })
    }

    /// Whether words begin with a capital letter, in names that are not known one by one.
    pub(super) fn is_title(&self) -> bool {
        self.title
    }

    /// Has a request's names written so.
    pub(super) fn apply<B>(&self, request: &mut Request<B>) {
        if let Some(names) = &self.names {
            request.extensions_mut().extend(names.clone());
        }
    }
}

/// What hyper keeps of the names of a request's fields to write them so again. It has no other way to be told: so it
/// reads a request with these names.
fn known(names: &[&str]) -> anyhow::Result<Extensions> {
    let fields: String = names.iter().map(|name| format!("{name}: x\r\n").repeat(FIELDS)).collect();
    let found = Arc::new(Mutex::new(None));
    let note = found.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        *note.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.into_parts().0.extensions);
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).header_read_timeout(None).max_headers(names.len() * FIELDS);
    let connection =
        builder.serve_connection(TokioIo::new(Text(format!("GET / HTTP/1.1\r\n{fields}\r\n").into())), service);
    // Everything is at hand: there is nothing to wait for.
    let _ = pin!(connection).poll(&mut Context::from_waker(Waker::noop()));
    found.lock().unwrap_or_else(PoisonError::into_inner).take().context("they are no names of header fields")
}

/// A text to be read, and then the end.
struct Text(Bytes);

impl AsyncRead for Text {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let fits = self.0.remaining().min(buf.remaining());
        buf.put_slice(&self.0.split_to(fits));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Text {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Config;

    fn spelling(more: &str) -> Spelling {
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n[[backend]]\nname = \"app\"\n\
             servers = [\"127.0.0.1:9\"]\n{more}"
        );
        Spelling::new(&Config::parse(&text, "test").unwrap().backends[0]).unwrap()
    }

    #[test]
    fn names_are_known_if_they_are_to_be() {
        assert!(spelling("").names.is_none() && !spelling("").is_title());
        assert!(spelling("header_case = \"title\"").names.is_some());
        let own = spelling("header_names = [\"SOAPAction\", \"x-ID\"]");
        let told = format!("{:?}", own.names);
        assert!(!own.is_title() && own.names.is_some(), "{told}");
        let mut request = Request::new(());
        own.apply(&mut request);
        assert!(!request.extensions().is_empty());
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_configuration() {
        for (names, what) in [("\"a b\"", "no name"), ("\"\"", "no name"), ("\"X-A\", \"x-a\"", "twice")] {
            let text = format!(
                "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n[[backend]]\nname = \"app\"\n\
                 servers = [\"127.0.0.1:9\"]\nheader_names = [{names}]\n"
            );
            let error = Config::parse(&text, "test").unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
