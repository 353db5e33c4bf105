//! A socket that the `epoll` refuses is offered to it again.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use proxy_common::layout::Direction;
use rustix::event::epoll::EventFlags;

use super::super::Source;
use super::rig::{Rig, connected};
use crate::config::Config;

#[test]
fn a_socket_that_could_not_be_watched_at_first_is_watched_later() {
    let mut rig = Rig::new(&Config::default(), None, None);
    let ((mut client, near), (mut backend, far)) = (connected(), connected());
    let sockets: [OwnedFd; 2] = [near.into(), far.into()];
    // It refuses them as long as they are there already: EEXIST.
    let nobody = Source::Socket { index: u32::MAX, generation: 0 };
    for socket in &sockets {
        rig.relay.reactor.add(socket, nobody, EventFlags::empty()).unwrap();
    }
    rig.take(sockets, [None, None], b"", b"");
    let watched = |rig: &Rig| rig.relay.table.get(0).unwrap().watched;
    assert_eq!(watched(&rig), [EventFlags::empty(); 2], "both were to be refused");
    for direction in Direction::ALL {
        rig.relay.reactor.remove(rig.relay.table.get(0).unwrap().source(direction));
    }
    rig.until("both are watched", |rig| watched(rig).iter().all(|watched| !watched.is_empty()));
    client.write_all(b"ping").unwrap();
    let mut got = [0; 4];
    let reading = std::thread::spawn(move || {
        backend.read_exact(&mut got).unwrap();
        got
    });
    assert_eq!(rig.join("what the client says has arrived", reading), *b"ping");
}
