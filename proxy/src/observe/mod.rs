//! What an operator sees: the admin listener with `GET /metrics` (Prometheus) and `GET /connections` (JSON).

mod admin;
mod certificates;
mod connections;
mod metrics;
mod snapshots;

pub use admin::{Admin, serve};
pub use certificates::{CertificateRow, Certificates};
pub use snapshots::Snapshots;
