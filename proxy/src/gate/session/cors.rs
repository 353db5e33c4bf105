//! Refusals that the developer of a page can read: without CORS fields (Fetch §3.3.3) a script is told nothing but that its
//! request has failed.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};

use super::Client;
use super::note::Note;
use super::states::Stopped;
use crate::gate::Gate;
use crate::gate::admission::Permit;
use crate::gate::exchange;
use crate::gate::refusal::Refusal;

/// What a page of a named origin may read beside the status and the body.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("proxy-status, proxy-websocket-status, retry-after, www-authenticate");

/// Whose script may read a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Nobody's: it is not known yet whether the page may be here.
    Nobody,
    /// Everybody's, if the browser has sent no credentials: then it says what whoever asks is told.
    Anybody,
    /// That of a page that the route names.
    Named,
}

/// The CORS fields of a request's refusals.
#[derive(Clone, Debug)]
pub(super) struct Cors {
    /// As it was sent, if it was sent once.
    origin: Option<HeaderValue>,
    pub(super) reader: Reader,
}

impl Cors {
    /// Those for a request with this header.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut origins = headers.get_all(ORIGIN).iter();
        let origin = origins.next().filter(|_| origins.next().is_none()).cloned();
        Self { origin, reader: Reader::Nobody }
    }

    /// Puts the fields into a refusal. Another's, such as an authentication service's, stay as they are.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let Some(origin) = self.origin.as_ref().filter(|_| self.reader != Reader::Nobody) else { return };
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if self.reader == Reader::Named {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    /// Refuses a request.
    pub(super) fn refuse(&self, gate: &Gate, client: Client, refusal: Refusal, note: &Note, permit: Permit) -> Stopped {
        let mut answer = refusal.answer(note.id, note.wait, &gate.pages);
        self.tell(answer.headers_mut());
        Stopped::Denied(client, Box::new(exchange::whole(answer)), refusal, permit)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn told(origins: &[&'static str], reader: Reader, there: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_static(origin));
        }
        let cors = Cors { reader, ..Cors::of(&headers) };
        let mut answer = HeaderMap::new();
        for (name, value) in there {
            answer.insert(*name, HeaderValue::from_static(value));
        }
        cors.tell(&mut answer);
        answer.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn only_a_named_page_reads_with_credentials() {
        let one = ["https://a.test"];
        assert!(told(&one, Reader::Nobody, &[]).is_empty() && told(&[], Reader::Named, &[]).is_empty());
        assert!(told(&["https://a.test", "https://b.test"], Reader::Named, &[]).is_empty());
        let open = ["access-control-allow-origin: https://a.test", "vary: Origin"];
        assert_eq!(told(&one, Reader::Anybody, &[]), open);
        let named = told(&one, Reader::Named, &[]);
        assert!(named.starts_with(&open.map(String::from)) && named.len() == 4, "{named:?}");
        let theirs = ("access-control-allow-origin", "https://b.test");
        assert_eq!(told(&one, Reader::Named, &[theirs]), ["access-control-allow-origin: https://b.test"]);
    }
}
