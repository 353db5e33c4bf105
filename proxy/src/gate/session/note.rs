//! What a log line says of a connection.

use http::header::{HOST, HeaderMap, ORIGIN, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode};
use tracing::field::{DisplayValue, display};

use crate::config::Address;
use crate::gate::policy::Way;
use crate::handoff::{ConnId, Peer};
use crate::logging::{Shown, shown};

/// What a log line says of a connection.
#[derive(Clone)]
pub(in crate::gate) struct Note {
    pub(in crate::gate) id: ConnId,
    pub(in crate::gate) client: Peer,
    pub(in crate::gate) listener: u16,
    /// Seconds until it is worth to try again, if it is refused; 0: not known.
    pub(in crate::gate) wait: u32,
    /// Boxed: most connections say it in no line.
    pub(super) detail: Option<Box<Detail>>,
}

/// What is known once a request has come, or has failed to.
#[derive(Clone, Debug, Default)]
pub(in crate::gate) struct Detail {
    host: Option<HeaderValue>,
    target: Option<PathAndQuery>,
    origin: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    /// The route that serves it.
    pub(in crate::gate) way: Option<Way>,
    /// The backend's server that it is on.
    pub(in crate::gate) server: Option<Address>,
    /// The status of the answer, if it is another one than the refusal's.
    pub(in crate::gate) status: Option<StatusCode>,
    /// What went wrong, if there is more to say than a refusal does.
    pub(in crate::gate) why: Option<String>,
}

impl Note {
    /// A request has come.
    pub(super) fn begin(&mut self, head: &Parts) {
        self.detail = Some(Box::new(Detail::of(head)));
    }

    /// A request has been answered, and another one may come.
    pub(super) fn end(&mut self) {
        self.detail = None;
    }

    /// What is known.
    pub(super) fn detail(&mut self) -> &mut Detail {
        self.detail.get_or_insert_default()
    }

    /// The same, to read.
    pub(in crate::gate) fn known(&self) -> Option<&Detail> {
        self.detail.as_deref()
    }
}

impl Detail {
    fn of(head: &Parts) -> Self {
        let headers = &head.headers;
        // An HTTP/2 request says it in its target.
        let authority = || HeaderValue::from_str(head.uri.authority()?.as_str()).ok();
        Self {
            host: headers.get(HOST).cloned().or_else(authority),
            target: head.uri.path_and_query().cloned(),
            origin: first(headers, ORIGIN),
            user_agent: first(headers, USER_AGENT),
            ..Self::default()
        }
    }

    /// What Host says, without a user and a password, which have no place there.
    pub(in crate::gate) fn host(&self) -> Option<DisplayValue<Shown<'_>>> {
        let host = self.host.as_ref()?.as_bytes();
        let begin = host.iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
        Some(display(shown(host.get(begin..).unwrap_or_default())))
    }

    /// The path, without the query, which may hold a token.
    pub(in crate::gate) fn path(&self) -> Option<DisplayValue<Shown<'_>>> {
        Some(display(shown(self.target.as_ref()?.path())))
    }

    /// What Origin says.
    pub(in crate::gate) fn origin(&self) -> Option<DisplayValue<Shown<'_>>> {
        Some(display(shown(self.origin.as_ref()?)))
    }

    /// What User-Agent says.
    pub(in crate::gate) fn user_agent(&self) -> Option<DisplayValue<Shown<'_>>> {
        Some(display(shown(self.user_agent.as_ref()?)))
    }
}

fn first(headers: &HeaderMap, name: http::HeaderName) -> Option<HeaderValue> {
    headers.get(name).cloned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn neither_queries_nor_users_are_shown() {
        let request = http::Request::get("http://u:passw0rd@a.test/p?token=secret")
            .header("host", "u:passw0rd@a.test")
            .header("origin", "https://\u{e9}.test")
            .body(());
        let detail = Detail::of(&request.unwrap().into_parts().0);
        assert_eq!(detail.host().unwrap().to_string(), "\"a.test\"");
        assert_eq!(detail.path().unwrap().to_string(), "\"/p\"");
        assert_eq!(detail.origin().unwrap().to_string(), "\"https://\\xc3\\xa9.test\"");
        assert!(detail.user_agent().is_none());
    }
}
