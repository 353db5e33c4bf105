//! What an operator sees: the admin listener with `GET /metrics` (Prometheus) and `GET /connections` (JSON).

mod admin;
mod backends;
mod certificates;
mod connections;
mod guests;
mod metrics;
mod snapshots;

pub use admin::{Admin, OfGate, serve};
pub use backends::{BackendRow, Backends, ServerRow};
pub use certificates::{CertificateRow, Certificates};
pub use snapshots::Snapshots;
