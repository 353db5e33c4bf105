//! Names of the environment variables by which `cargo xtask` tells the tests something. It compiles this file as well.

/// The program under test; without it, it is looked for beside the test's own.
pub const BINARY: &str = "SLUICE_BIN";

/// The file that `needs::skip` appends to; the runner counts its lines.
pub const SKIPS: &str = "SLUICE_SKIPS";

/// The folder into which the runner installs programs for tests.
pub const TOOLS: &str = "SLUICE_TEST_TOOLS";

/// By how much less than elsewhere is to be sent here: an emulated machine sets it.
pub const SHARE: &str = "SLUICE_TEST_SHARE";
