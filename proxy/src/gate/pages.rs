//! Bodies of an operator's own for the answers that refuse.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::refusal::Refusal;
use crate::config::Config;

/// The configured bodies.
#[derive(Default)]
pub(super) struct Pages {
    by_reason: HashMap<Refusal, Page>,
    by_status: HashMap<StatusCode, Page>,
}

/// A body and its type.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) content_type: HeaderValue,
    pub(super) body: Bytes,
}

impl Pages {
    /// Reads what is configured.
    ///
    /// # Errors
    /// A status or reason that no answer has, or that has two bodies; a type that is no header value.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let mut pages = Self::default();
        for configured in &config.errors {
            let content_type = HeaderValue::from_str(&configured.content_type);
            let content_type = content_type.context("an [[error]]'s content_type is no header value")?;
            let body = Bytes::from(configured.body.clone().unwrap_or_default());
            let page = Page { content_type, body };
            for reason in &configured.reason.0 {
                let known = Refusal::ALL.iter().find(|refusal| refusal.reason() == reason);
                let refusal = known.with_context(|| format!("[[error]]: no answer has the reason {reason:?}"))?;
                let first = pages.by_reason.insert(*refusal, page.clone()).is_none();
                ensure!(first, "two [[error]]s are for the reason {reason:?}");
            }
            for status in &configured.status {
                let known = Refusal::ALL.iter().map(|refusal| refusal.status()).find(|known| known.as_u16() == *status);
                let status =
                    known.with_context(|| format!("[[error]]: no answer of Sluice's own has status {status}"))?;
                let first = pages.by_status.insert(status, page.clone()).is_none();
                ensure!(first, "two [[error]]s are for the status {}", status.as_u16());
            }
        }
        Ok(pages)
    }

    /// The body for a refusal: that for its reason before that for its status. `None`: its own text.
    pub(super) fn find(&self, refusal: Refusal) -> Option<&Page> {
        self.by_reason.get(&refusal).or_else(|| self.by_status.get(&refusal.status()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn pages(tables: &str) -> anyhow::Result<Pages> {
        let more = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"a\"\n\
                    [[backend]]\nname = \"a\"\nservers = [\"127.0.0.1:1\"]\n";
        Pages::new(&Config::parse(&format!("{more}{tables}"), "test")?)
    }

    #[test]
    fn the_reason_goes_before_the_status() {
        let pages = pages(
            "[[error]]\nstatus = [502, 403]\nbody = \"status\"\n\
             [[error]]\nreason = \"origin-denied\"\nbody = \"reason\"\ncontent_type = \"text/plain\"\n\
             [[error]]\nreason = [\"full\", \"route-full\"]\nbody = \"full\"\n",
        );
        let pages = pages.unwrap();
        let body = |refusal| pages.find(refusal).map(|page| page.body.clone());
        assert_eq!(body(Refusal::OriginDenied).unwrap(), "reason");
        assert_eq!(body(Refusal::OriginMissing).unwrap(), "status");
        assert_eq!(body(Refusal::BackendRefused).unwrap(), "status");
        assert_eq!(body(Refusal::RouteFull).unwrap(), "full");
        assert_eq!(body(Refusal::NoRoute), None);
        assert_eq!(pages.find(Refusal::OriginDenied).unwrap().content_type, "text/plain");
        assert_eq!(pages.find(Refusal::Full).unwrap().content_type, "text/html; charset=utf-8");
    }

    #[test]
    fn wrong_bodies_stop_the_start() {
        let long = format!("body = {:?}\n", "x".repeat(40_000));
        for (tables, says) in [
            ("[[error]]\nstatus = [418]\nbody = \"\"\n".to_owned(), "has status 418"),
            ("[[error]]\nstatus = [200]\nbody = \"\"\n".into(), "has status 200"),
            ("[[error]]\nreason = \"orgin-denied\"\nbody = \"\"\n".into(), "no answer has the reason \"orgin-denied\""),
            ("[[error]]\nbody = \"\"\n".into(), "needs status"),
            ("[[error]]\nstatus = [502]\n".into(), "a body or a file"),
            ("[[error]]\nstatus = [502]\nbody = \"\"\nfile = \"a\"\n".into(), "a body or a file"),
            ("[[error]]\nstatus = [502]\nbody = \"\"\ncontent_type = \"a\\nb\"\n".into(), "content_type"),
            ("[[error]]\nstatus = [502, 502]\nbody = \"\"\n".into(), "two [[error]]s are for the status 502"),
            ("[[error]]\nreason = [\"full\", \"full\"]\nbody = \"\"\n".into(), "for the reason \"full\""),
            (format!("[[error]]\nstatus = [502]\n{long}[[error]]\nstatus = [503]\n{long}"), "65536"),
        ] {
            let error = pages(&tables).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(says), "{tables:.200}: {error:?}");
        }
    }
}
