//! Bodies for the answers that are Sluice's own.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::matching::short_or_whole;
use super::schema::{File, ShortOr};
use super::{ConfigError, Texts, text};

/// The most that all bodies may have together, in bytes. 64 KiB: they go to the gate in one message, with everything
/// else in the configuration.
pub const ERROR_BODIES: usize = 64 * 1024;

/// A body for some of the answers with which Sluice refuses, instead of its line of plain text. Status and header
/// fields stay as they are, but for Content-Type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorPage {
    /// The statuses that it is for, as `[502, 504]`. None: `reason` says it.
    #[serde(default)]
    #[schemars(inner(range(min = 400, max = 599)))]
    pub status: Vec<u16>,
    /// The reasons that it is for: the word behind `reason=` in Proxy-WebSocket-Status, or a list of such;
    /// docs/answers.md has them all. A page for the reason goes before one for the status. None: `status` says it.
    #[serde(default, deserialize_with = "short_or_whole")]
    #[schemars(with = "ShortOr<Texts>")]
    pub reason: Texts,
    /// The Content-Type. `text/html; charset=utf-8`: pages for people.
    #[serde(default = "html")]
    pub content_type: String,
    /// The body. All bodies together may have 65536 bytes. None: `file` has it.
    #[serde(default)]
    pub body: Option<String>,
    /// A file with the body, in UTF-8, instead of `body`. It is read once, at the start. None: `body` has it.
    #[serde(default)]
    #[schemars(with = "Option<File>")]
    pub file: Option<PathBuf>,
}

fn html() -> String {
    "text/html; charset=utf-8".into()
}

impl ErrorPage {
    /// What is wrong with it by itself.
    pub(super) fn wrong(&self) -> Option<String> {
        if self.status.is_empty() && self.reason.0.is_empty() {
            return Some("it needs status = [..] or reason = \"..\"".into());
        }
        let one = self.body.is_some() != self.file.is_some();
        (!one).then(|| "it needs a body or a file, and not both".into())
    }

    /// Reads the file, if it has one: from then on it is as if its text had been the body.
    ///
    /// # Errors
    /// It cannot be read, is no UTF-8, or is longer than all bodies may be.
    pub(super) fn load(&mut self, folder: &Path) -> Result<(), ConfigError> {
        let Some(file) = self.file.take().map(|file| folder.join(file)) else { return Ok(()) };
        let body = std::fs::File::open(&file).and_then(|open| text::read(open, ERROR_BODIES as u64));
        self.body = Some(body.map_err(|reason| ConfigError::ErrorBody { path: file, reason })?);
        Ok(())
    }
}
