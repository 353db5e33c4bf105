//! Connections that are told no.
