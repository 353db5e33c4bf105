//! What a person sees of a WebSocket's journey.

use sluice_tests::counters::Tally;

use super::{Journey, conversation};

/// Prints what carried a WebSocket, why, and what was counted.
pub(super) fn journey(journey: &Journey) {
    let row = &journey.row;
    let text = |name: &str| row[name].as_str().unwrap_or("?").to_owned();
    let why = row["why"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
    let keeper = if text("engine") == "sockmap" { "the kernel program" } else { "userspace" };
    println!("{}  relayed by {}{why}, counted by {keeper}", journey.url, text("engine"));
    let route = row["route"]["path"].as_str().unwrap_or("?");
    println!("  conn {}   {} -> route {route} -> {}", text("id"), text("client"), text("server"));
    println!("  said: {}", conversation());
    let [up, down] = journey.counted();
    println!("  {:<26}{:>18}{:>20}", "", "client to backend", "backend to client");
    line("bytes", up.bytes, down.bytes);
    line("messages", up.messages, down.messages);
    for opcode in ["text", "binary", "continuation", "ping", "pong", "close"] {
        let frames = |tally: &Tally| tally.frames.get(opcode).copied().unwrap_or(0);
        line(&format!("frames: {opcode}"), frames(&up), frames(&down));
    }
    let mut limits: Vec<u64> = up.sizes.keys().chain(down.sizes.keys()).copied().collect();
    limits.sort_unstable();
    limits.dedup();
    for limit in limits {
        let frames = |tally: &Tally| tally.sizes.get(&limit).copied().unwrap_or(0);
        line(&range(limit), frames(&up), frames(&down));
    }
    line("close code", up.close_code.unwrap_or(0), down.close_code.unwrap_or(0));
    println!();
}

fn line(name: &str, up: u64, down: u64) {
    println!("  {name:<26}{up:>18}{down:>20}");
}

/// The payload lengths of a bucket, from its largest.
fn range(largest: u64) -> String {
    match largest {
        0 | 1 => format!("payload {largest} B"),
        u64::MAX => "payload larger".into(),
        _ => format!("payload {}-{largest} B", largest / 2 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_bucket_is_named_by_its_lengths() {
        assert_eq!(range(0), "payload 0 B");
        assert_eq!(range(3), "payload 2-3 B");
        assert_eq!(range(255), "payload 128-255 B");
    }
}
