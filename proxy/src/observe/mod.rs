//! What an operator sees: the admin listener with `GET /metrics` (Prometheus) and `GET /connections` (JSON).

mod admin;
mod connections;
mod metrics;
mod snapshots;

pub use admin::{Admin, serve};
pub use snapshots::Snapshots;
