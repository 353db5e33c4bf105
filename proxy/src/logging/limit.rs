//! Lines that strangers cause, and what becomes of them when there are too many.
//!
//! Such is every line of INFO and above that has a `conn`, which is about one connection, and every one of a library's,
//! which may warn of each frame that is not as it should be. Each kind of line (the place in
//! the source that it comes from, and its `reason`) has a token bucket of its own, so that one that comes too often
//! takes no place from the others. What was left out is told once for each kind and [`REPORT`].

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::queue::Queue;

/// How many lines of a kind may come at once. 50: each of them, when one page with its WebSockets is refused.
const BURST: u32 = 50;

/// How many lines of a kind may come each second, once the burst is over. 10: a person cannot read more.
const PER_SECOND: u32 = 10;

/// How often it is told what was left out.
const REPORT: Duration = Duration::from_secs(10);

/// The most kinds. There are fewer reasons in the program.
const KINDS: usize = 256;

/// The most bytes of a reason or a message that are kept.
const WORD: usize = 80;

/// Asks for each line about a connection whether it is one too many.
pub(super) struct Limit(&'static Queue);

impl Limit {
    pub(super) const fn new(queue: &'static Queue) -> Self {
        Self(queue)
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if !is_a_strangers(metadata) {
            return true;
        }
        let mut words = Words::default();
        event.record(&mut words);
        self.0.admits((metadata.callsite(), words.reason), || words.message, Instant::now())
    }
}

fn is_a_strangers(metadata: &Metadata<'_>) -> bool {
    let of_a_library = !metadata.target().starts_with(env!("CARGO_PKG_NAME"));
    *metadata.level() <= Level::INFO && (of_a_library || metadata.fields().field("conn").is_some())
}

/// What is looked at of a line.
#[derive(Default)]
struct Words {
    message: String,
    reason: String,
}

impl Words {
    fn field(&mut self, name: &str) -> Option<&mut String> {
        match name {
            "message" => Some(&mut self.message),
            "reason" => Some(&mut self.reason),
            _ => None,
        }
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(word) = self.field(field.name()) {
            word.extend(value.chars().take(WORD));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(word) = self.field(field.name()) {
            let mut text = String::new();
            let _infallible = write!(text, "{value:?}");
            word.extend(text.chars().take(WORD));
        }
    }
}

/// The place that a line comes from, and its `reason`.
pub(super) type Kind = (Identifier, String);

/// The buckets of all kinds.
#[derive(Default)]
pub(super) struct Limits {
    buckets: Option<HashMap<Kind, Bucket>>,
    /// When to tell what was left out: only while something was.
    due: Option<Instant>,
}

struct Bucket {
    message: String,
    tokens: u32,
    /// When the tokens were what they are.
    filled: Instant,
    left_out: u64,
}

impl Limits {
    pub(super) const fn new() -> Self {
        Self { buckets: None, due: None }
    }

    /// Whether a line of this kind may be written.
    pub(super) fn admits(&mut self, kind: Kind, message: impl FnOnce() -> String, now: Instant) -> bool {
        let buckets = self.buckets.get_or_insert_default();
        if buckets.len() >= KINDS && !buckets.contains_key(&kind) {
            return true;
        }
        let new = || Bucket { message: message(), tokens: BURST, filled: now, left_out: 0 };
        let bucket = buckets.entry(kind).or_insert_with(new);
        let admitted = bucket.take(now);
        if !admitted {
            self.due.get_or_insert(now + REPORT);
        }
        admitted
    }

    /// When there is something to tell.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells what was left out since it was last asked: a text for each kind.
    pub(super) fn report(&mut self) -> Vec<String> {
        self.due = None;
        let buckets = self.buckets.iter_mut().flatten().filter(|(_, bucket)| bucket.left_out > 0);
        buckets
            .map(|((_, reason), bucket)| {
                let (message, lines) = (&bucket.message, std::mem::take(&mut bucket.left_out));
                let reason = if reason.is_empty() { String::new() } else { format!(" reason={reason:?}") };
                format!("too many lines of one kind: some were left out lines={lines} of={message:?}{reason}")
            })
            .collect()
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let per_token = Duration::from_secs(1) / PER_SECOND;
        let since = now.saturating_duration_since(self.filled);
        let fresh = u32::try_from(since.as_nanos() / per_token.as_nanos()).unwrap_or(u32::MAX);
        self.filled += per_token.saturating_mul(fresh.min(BURST));
        self.tokens = self.tokens.saturating_add(fresh).min(BURST);
        if fresh >= BURST {
            self.filled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => {
                self.left_out += 1;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn kind(reason: &str) -> Kind {
        static CALLSITE: tracing::callsite::DefaultCallsite = {
            static METADATA: Metadata<'static> = tracing::metadata! {
                name: "test", target: "test", level: Level::INFO, fields: &[],
                callsite: &CALLSITE, kind: tracing::metadata::Kind::EVENT
            };
            tracing::callsite::DefaultCallsite::new(&METADATA)
        };
        (Identifier(&CALLSITE), reason.into())
    }

    fn admitted(limits: &mut Limits, reason: &str, lines: usize, now: Instant) -> usize {
        (0..lines).filter(|_| limits.admits(kind(reason), || "refused".into(), now)).count()
    }

    #[test]
    fn a_flood_of_one_kind_takes_no_line_from_another() {
        let (mut limits, now) = (Limits::new(), Instant::now());
        assert_eq!(admitted(&mut limits, "no-route", 10_000, now), 50);
        assert_eq!(admitted(&mut limits, "method", 3, now), 3);
        assert_eq!(limits.due(), Some(now + REPORT));
        let told = "too many lines of one kind: some were left out lines=9950 of=\"refused\" reason=\"no-route\"";
        assert_eq!(limits.report(), [told]);
        assert_eq!((limits.due(), limits.report()), (None, Vec::new()));
    }

    #[test]
    fn tokens_come_back_ten_a_second_up_to_the_burst() {
        let (mut limits, start) = (Limits::new(), Instant::now());
        assert_eq!(admitted(&mut limits, "", 60, start), 50);
        let mut seen = 0;
        for step in 1..=100 {
            seen += admitted(&mut limits, "", 7, start + Duration::from_millis(30 * step));
        }
        assert_eq!(seen, 30, "3 s");
        assert_eq!(admitted(&mut limits, "", 1000, start + Duration::from_secs(3600)), 50);
        assert_eq!(admitted(&mut limits, "", 1000, start + Duration::from_secs(1)), 0, "a clock that went back");
    }

    #[test]
    fn lines_of_libraries_and_of_connections_are_limited_and_others_are_not() {
        macro_rules! metadata {
            ($target:literal, $level:expr, $fields:expr) => {{
                static CALLSITE: tracing::callsite::DefaultCallsite = {
                    static METADATA: Metadata<'static> = tracing::metadata! {
                        name: "test", target: $target, level: $level, fields: $fields,
                        callsite: &CALLSITE, kind: tracing::metadata::Kind::EVENT
                    };
                    tracing::callsite::DefaultCallsite::new(&METADATA)
                };
                tracing::callsite::Callsite::metadata(&CALLSITE)
            }};
        }
        assert!(is_a_strangers(metadata!("sluice::gate", Level::INFO, &["conn", "reason"])));
        assert!(is_a_strangers(metadata!("h2::proto::ping_pong", Level::WARN, &["message"])));
        assert!(!is_a_strangers(metadata!("sluice::keeper", Level::ERROR, &["message"])));
        assert!(!is_a_strangers(metadata!("sluice::gate", Level::DEBUG, &["conn"])));
    }

    #[test]
    fn kinds_are_bounded() {
        let (mut limits, now) = (Limits::new(), Instant::now());
        for number in 0..10_000 {
            assert!(limits.admits(kind(&number.to_string()), String::new, now));
        }
        assert_eq!(limits.buckets.unwrap().len(), KINDS);
    }
}
