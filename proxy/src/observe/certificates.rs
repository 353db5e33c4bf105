//! The certificates that listeners show, as the gate has loaded them.

use std::sync::{Arc, PoisonError, RwLock};

/// One certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRow {
    /// Where the listener is.
    pub listener: String,
    /// The certificate's file.
    pub certificate: String,
    /// When it ends, in seconds since the Unix epoch.
    pub not_after: i64,
}

/// All that are in use now. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Certificates(Arc<RwLock<Vec<CertificateRow>>>);

impl Certificates {
    /// These are in use from now on.
    pub fn set(&self, rows: Vec<CertificateRow>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    /// Those in use.
    #[must_use]
    pub fn rows(&self) -> Vec<CertificateRow> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
