//! What carries a pair, decided by who holds the keys of its two sides.

use std::io;
use std::sync::Arc;

use super::carry::{self, Place};
use super::refusal::Refusal;
use super::session::Quiesced;
use super::stream::Keys;
use super::{Gate, handover};
use crate::handoff::{Engine, WhyNot};

/// What will carry a pair: known, and with room for it, before the client is told that it is upgraded.
pub(super) enum Carrier {
    /// The keeper, with this engine. It has a slot for every permit.
    Keeper(Engine),
    /// This gate, since only it has the keys of one side; and why that is so.
    Gate(Place, WhyNot),
}

impl Carrier {
    /// Finds one for a pair of such sides.
    ///
    /// # Errors
    /// The gate can carry no more.
    pub(super) fn find(gate: &Arc<Gate>, client: Keys, backend: Keys) -> Result<Self, Refusal> {
        match (client, backend) {
            (Keys::None, Keys::None) => Ok(Self::Keeper(gate.engine)),
            (Keys::User(why), _) | (_, Keys::User(why)) => Ok(Self::Gate(Place::take(gate)?, why)),
            (Keys::Kernel, _) | (_, Keys::Kernel) => Ok(Self::Keeper(Engine::Ktls)),
            (Keys::Unix, _) | (_, Keys::Unix) => Ok(Self::Keeper(Engine::Copy)),
        }
    }

    /// What the client is told.
    pub(super) const fn engine(&self) -> Engine {
        match self {
            Self::Keeper(engine) => *engine,
            Self::Gate(..) => Engine::Copy,
        }
    }

    /// Gives it the pair. When this returns, nothing of the pair is left here.
    ///
    /// # Errors
    /// The keeper is gone, or the sockets are: the pair is closed.
    pub(super) async fn relay(self, pair: Quiesced, gate: &Arc<Gate>) -> io::Result<()> {
        match self {
            Self::Keeper(_) => handover::hand_over(pair, gate).await,
            Self::Gate(place, why) => carry::begin(pair, place, why, gate).await,
        }
    }
}
