//! Time and size.
