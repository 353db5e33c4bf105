//! Whole-program tests: what they stand on.
//!
//! Everything here starts real processes and speaks over real sockets on loopback. Nothing knows the inside of the
//! proxy: what a test sees is what a client, a backend or an operator would see. `cargo xtask run` stands on it too.

pub mod backend;
pub mod certificate;
pub mod client;
pub mod counters;
pub mod frame;
pub mod http;
pub mod needs;
pub mod pattern;
pub mod process;
pub mod sluice;
pub mod stream;
pub mod wait;

/// How a pair is carried: a scenario that holds for one must hold for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// ws://, carried by the kernel.
    Sockmap,
    /// ws://, carried by the keeper in userspace.
    Copy,
    /// wss://, carried by the gate in userspace.
    Tls,
}

impl Via {
    /// The setting `relay.engine` that brings it about.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Sockmap => "sockmap",
            Self::Copy => "copy",
            Self::Tls => "auto",
        }
    }

    /// The engine that metrics and `/connections` name.
    #[must_use]
    pub const fn engine(self) -> &'static str {
        match self {
            Self::Sockmap => "sockmap",
            Self::Copy | Self::Tls => "copy",
        }
    }

    /// Runs a scenario, or reports that this machine cannot run it this way.
    pub fn run(self, scenario: impl FnOnce(Self)) {
        if self == Self::Sockmap
            && let Err(reason) = needs::sockmap()
        {
            return needs::skip(&reason);
        }
        scenario(self);
    }
}

/// Makes one test per engine of each scenario, a function that takes a [`Via`].
#[macro_export]
macro_rules! over_every_engine {
    ($($scenario:ident),* $(,)?) => {
        mod sockmap {
            $(#[test] fn $scenario() { $crate::Via::Sockmap.run(super::$scenario) })*
        }
        mod copy {
            $(#[test] fn $scenario() { $crate::Via::Copy.run(super::$scenario) })*
        }
        mod copy_behind_tls {
            $(#[test] fn $scenario() { $crate::Via::Tls.run(super::$scenario) })*
        }
    };
}
