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
    /// ws://, to a backend that speaks TLS, carried by the gate in userspace.
    TlsBackend,
    /// wss://, to a backend that speaks TLS and demands a certificate, carried by the gate in userspace.
    TlsBoth,
}

impl Via {
    /// The setting `relay.engine` that brings it about.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Sockmap => "sockmap",
            Self::Copy => "copy",
            Self::Tls | Self::TlsBackend | Self::TlsBoth => "auto",
        }
    }

    /// The engine that metrics and `/connections` name.
    #[must_use]
    pub const fn engine(self) -> &'static str {
        match self {
            Self::Sockmap => "sockmap",
            Self::Copy | Self::Tls | Self::TlsBackend | Self::TlsBoth => "copy",
        }
    }

    /// Whether the client speaks TLS.
    #[must_use]
    pub const fn tls_client(self) -> bool {
        matches!(self, Self::Tls | Self::TlsBoth)
    }

    /// Whether the backend does.
    #[must_use]
    pub const fn tls_backend(self) -> bool {
        matches!(self, Self::TlsBackend | Self::TlsBoth)
    }

    /// Whether the backend demands a certificate of Sluice.
    #[must_use]
    pub const fn shows_certificate(self) -> bool {
        matches!(self, Self::TlsBoth)
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
        mod copy_before_tls {
            $(#[test] fn $scenario() { $crate::Via::TlsBackend.run(super::$scenario) })*
        }
        mod copy_between_tls {
            $(#[test] fn $scenario() { $crate::Via::TlsBoth.run(super::$scenario) })*
        }
    };
}
