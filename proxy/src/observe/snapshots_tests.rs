#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::Write as _;

use super::*;

fn raw(bytes: &[u8]) -> Vec<OwnedFd> {
    let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(memory);
    file.write_all(bytes).unwrap();
    vec![file.into()]
}

fn encoded(gate_starts: u64) -> Vec<OwnedFd> {
    vec![Snapshot { gate_starts, ..Snapshot::default() }.write().unwrap()]
}

#[tokio::test]
async fn those_who_ask_at_the_same_time_share_an_answer() {
    let (snapshots, mut queue) = Snapshots::new();
    let answering = async {
        let request = queue.recv().await.unwrap();
        // Both have asked before there is an answer; one request is all there is.
        snapshots.arrived(request, encoded(7));
        queue
    };
    let (first, second, mut queue) = tokio::join!(snapshots.fetch(), snapshots.fetch(), answering);
    assert_eq!((first.unwrap().gate_starts, second.unwrap().gate_starts), (7, 7));
    assert!(queue.try_recv().is_err());
}

#[tokio::test]
async fn an_answer_to_another_request_is_nobodys() {
    let (snapshots, mut queue) = Snapshots::new();
    let answering = async {
        let request = queue.recv().await.unwrap();
        snapshots.arrived(request + 1, encoded(1));
        snapshots.arrived(request, encoded(2));
    };
    let (fetched, ()) = tokio::join!(snapshots.fetch(), answering);
    assert_eq!(fetched.unwrap().gate_starts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_does_not_answer_is_waited_for_five_seconds_and_asked_again() {
    let (snapshots, mut queue) = Snapshots::new();
    assert!(matches!(snapshots.fetch().await, Err(NoSnapshot::Late)));
    let first = queue.recv().await.unwrap();
    assert!(matches!(snapshots.fetch().await, Err(NoSnapshot::Late)));
    assert_ne!(queue.recv().await.unwrap(), first);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_an_error() {
    let (snapshots, mut queue) = Snapshots::new();
    for broken in [Vec::new(), raw(b"\xff\xff\xff")] {
        let answering = async {
            let request = queue.recv().await.unwrap();
            snapshots.arrived(request, broken);
        };
        let (fetched, ()) = tokio::join!(snapshots.fetch(), answering);
        assert!(matches!(fetched, Err(NoSnapshot::Broken)));
    }
}
