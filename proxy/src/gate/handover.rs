//! Pairs whose keys are not in this process go to the keeper.

use std::io;
use std::os::fd::AsFd;

use super::Gate;
use super::session::Quiesced;
use crate::handoff::{NewPair, ToKeeper};

/// Hands a pair over.
///
/// # Errors
/// The keeper is gone, or a side cannot leave this process: the pair is closed.
pub(super) async fn hand_over(pair: Quiesced, gate: &Gate) -> io::Result<()> {
    // Out of this process's epoll before the keeper has them.
    let ((client, client_leg), (backend, backend_leg)) = (pair.client.into_socket()?, pair.backend.into_socket()?);
    let new = NewPair {
        facts: pair.facts,
        to_backend: pair.to_backend.into(),
        to_client: pair.to_client.into(),
        tls: [client_leg, backend_leg],
    };
    gate.control.send(&ToKeeper::Pair(Box::new(new)), &[client.as_fd(), backend.as_fd()]).await?;
    pair.permit.hand_over();
    pair.berth.hand_over();
    Ok(())
}
