//! The rounds of handshakes: every proxy in turn, again and again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::control::{Answer, Handshakes, Order, Visits};
use super::memory::{start_echo, wait_until_closed};
use super::paths::Paths;
use super::process::Helper;
use super::relay::Failure;
use super::rounds::{busy_share, start_checked};
use super::stats::{Summary, summary};
use super::targets::{Running, Target};
use super::tls::{Key, Kind, Plan, Record};

/// No round begins after this much of the whole run.
const TIME_LIMIT: Duration = Duration::from_secs(12 * 60);
/// The least share of visitors (0–1) that must have resumed, where they were to: some of the first come without a
/// ticket.
const RESUMED: f64 = 0.99;

/// Measures all kinds of handshakes; also returns the share (0–1) of the machine that was busy without us.
pub(super) fn measure(
    plan: &Plan,
    paths: &Paths,
    began: Instant,
    failures: &mut Vec<Failure>,
) -> Result<(Vec<Record>, Option<Summary>)> {
    let (mut records, mut background) = (Vec::new(), Vec::new());
    let keys = if plan.rounds > 0 { Key::ALL.as_slice() } else { &[] };
    for &key in keys {
        let certificate = key.certificate(paths)?;
        let (mut echo, backend) = start_echo(paths)?;
        let mut running = Vec::new();
        for &target in plan.targets.iter().filter(|target| **target != Target::Direct) {
            match start_checked(target, paths, backend, Some(&certificate)) {
                Ok(started) => running.push((target, started)),
                Err(error) => failures.push(Failure { target, cell: None, why: format!("{error:#}") }),
            }
        }
        for round in 0..plan.rounds {
            if began.elapsed() > TIME_LIMIT {
                eprintln!("stopping before round {}: {TIME_LIMIT:?} are over", round + 1);
                break;
            }
            eprintln!("handshakes with {key:?}, round {} of {}", round + 1, plan.rounds);
            background.push(busy_share()?);
            for resume in [false, true] {
                let kind = Kind { key, resume };
                for (target, started) in &running {
                    match visit(plan, paths, started, kind) {
                        Ok(found) => records.push(Record { target: *target, kind, found }),
                        Err(error) => failures.push(Failure {
                            target: *target,
                            cell: Some(format!("{kind}, round {}", round + 1)),
                            why: format!("{error:#}"),
                        }),
                    }
                    wait_until_closed(&mut echo)?;
                }
            }
            // Whoever comes first now comes later the next time, so that drift hits everyone alike.
            let count = running.len();
            running.rotate_left(1.min(count));
        }
    }
    Ok((records, summary(background)))
}

fn visit(plan: &Plan, paths: &Paths, target: &Running, kind: Kind) -> Result<Handshakes> {
    let mut client = Helper::start(paths, "client")?;
    let order = Order::Visit(Visits {
        door: target.door.clone(),
        at_once: plan.at_once,
        resume: kind.resume,
        warm_up: plan.warm_up,
        measured: plan.measured,
        proxy: target.pids()?,
    });
    match client.ask(&order, plan.warm_up + plan.measured + Duration::from_secs(20))? {
        Answer::Visited(found) => {
            let resumed = found.resumed as f64 / found.count as f64;
            let expected = if kind.resume { resumed >= RESUMED } else { resumed == 0.0 };
            ensure!(expected, "{} of {} sessions were resumed", found.resumed, found.count);
            Ok(found)
        }
        other => bail!("the load generator visited with {other:?}"),
    }
}
