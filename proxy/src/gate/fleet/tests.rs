#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use super::*;
use crate::config::Config;
use crate::gate::balance::Ask;

const ANY: Wish<'_> = Wish { ask: Ask { key: None, random: [0; 2] }, kept: None, tried: &[] };

pub(super) fn fleet(servers: &str, more: &str) -> Arc<Fleet> {
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n\
         [[backend]]\nname = \"app\"\nservers = [{servers}]\n{more}\n"
    );
    let backend = Config::parse(&text, "test").unwrap().backends.remove(0);
    Arc::new(Fleet::new(&backend, [], Vec::new()).unwrap())
}

/// Lets all others go on until they wait.
async fn others() {
    for _ in 0..9 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_a_place_when_its_patience_ends_is_served() {
    let fleet = fleet("{ address = '10.0.0.1:80', max_connections = 1 }", "queue = { length = 2, timeout = '5s' }");
    let wait = || {
        let fleet = fleet.clone();
        tokio::spawn(async move { fleet.take(ANY).await.map(|berth| berth.server()) })
    };
    // Often enough that it is not luck.
    for _ in 0..16 {
        let first = fleet.take(ANY).await.ok().unwrap();
        let begin = tokio::time::Instant::now();
        let second = wait();
        others().await;
        sleep(Duration::from_secs(1)).await;
        // It would have the place if the second did not want it.
        let third = wait();
        others().await;
        assert_eq!(fleet.row().waiting, 2);
        // This task is the first to wake at that moment.
        tokio::time::sleep_until(begin + Duration::from_secs(5)).await;
        drop(first);
        assert_eq!(second.await.unwrap(), Ok(0));
        assert_eq!(third.await.unwrap(), Ok(0));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_is_told_so() {
    let fleet = fleet("{ address = '10.0.0.1:80', max_connections = 1 }", "queue = { length = 1, timeout = '5s' }");
    let _first = fleet.take(ANY).await.ok().unwrap();
    assert_eq!(fleet.take(ANY).await.err(), Some(Refusal::QueueTimeout));
    assert_eq!((fleet.row().waiting, fleet.row().servers[0].connections), (0, 1));
}
