//! Plain pairs go to the keeper.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::Gate;
use super::handshake::Scheme;
use super::refusal::Refusal;
use super::session::{Quiesced, Transport};
use crate::handoff::{Engine, NewPair, ToKeeper};

impl Transport for TcpStream {
    const SCHEME: Scheme = Scheme::Plain;

    /// The keeper has a slot for every permit.
    type Place = ();

    fn place(_: &Arc<Gate>) -> Result<(), Refusal> {
        Ok(())
    }

    fn engine(gate: &Gate) -> Engine {
        gate.engine
    }

    async fn relay(pair: Quiesced<Self>, (): (), gate: &Arc<Gate>) -> io::Result<()> {
        // Out of this process's epoll before the keeper has them.
        let (client, backend) = (pair.client.into_std()?, pair.backend.into_std()?);
        let new = NewPair {
            facts: pair.facts,
            to_backend: pair.to_backend.into(),
            to_client: pair.to_client.into(),
            tls: [None, None],
        };
        gate.control.send(&ToKeeper::Pair(Box::new(new)), &[client.as_fd(), backend.as_fd()]).await?;
        pair.permit.hand_over();
        Ok(())
    }
}
