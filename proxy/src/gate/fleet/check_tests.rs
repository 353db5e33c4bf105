#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::gate::fleet::tests::fleet;

fn site(address: &str, weight: u32) -> Site {
    Site { address: address.parse().unwrap(), host: Some("a.test".into()), entry: 0, weight, backup: false, most: 0 }
}

/// The name stands for these from now on.
fn list(fleet: &Arc<Fleet>, sites: Vec<Site>) {
    let placed = fleet.place(sites);
    fleet.list(0, &placed, false);
}

#[test]
fn another_weight_is_no_other_server() {
    let more = "check = { kind = 'tcp', rise = 1, fall = 1 }";
    let fleet = fleet("'srv:_ws._tcp.app.test'", more);
    let check = fleet.settings.check.clone().unwrap();
    let [start, later] = [0, 1].map(|after| Instant::now() + std::time::Duration::from_secs(after));
    list(&fleet, vec![site("10.0.0.1:80", 1), site("10.0.0.2:80", 1)]);
    let mut plan = Plan::new();
    revise(&mut plan, &fleet, |_| start);
    // One of them is being checked while its weight changes.
    let asked = plan.get_mut(&1).unwrap();
    let site_then = asked.site.clone();
    asked.due = None;
    list(&fleet, vec![site("10.0.0.1:80", 5), site("10.0.0.2:80", 5), site("10.0.0.3:80", 5)]);
    revise(&mut plan, &fleet, |_| later);
    assert_eq!(plan.values().map(|planned| planned.due).collect::<Vec<_>>(), [None, Some(start), Some(later)]);
    let result = Err(anyhow::anyhow!("it hangs"));
    let checked = Checked { server: 1, site: site_then, began: start, result };
    assert_eq!(conclude(&mut plan, &fleet, &check, checked), Some(false));
    assert!(plan.values().all(|planned| planned.due.is_some()));
    let states: Vec<_> = fleet.row().servers.into_iter().map(|server| server.state).collect();
    assert_eq!(states, ["down", "up", "new"]);
    // Under another name it is another.
    list(&fleet, vec![Site { host: Some("b.test".into()), ..site("10.0.0.1:80", 5) }]);
    revise(&mut plan, &fleet, |_| later);
    assert_eq!(plan.values().map(|planned| planned.due).collect::<Vec<_>>(), [Some(later)]);
}
