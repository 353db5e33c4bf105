//! The limits on a carried pair's age and silence.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::config::Ages;
use crate::handoff::EndReason;

/// How long both sides' last bytes may take when it was Sluice that ended the pair.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the time asks for.
pub(super) enum Due {
    /// A limit is reached: both sides are to get an end of stream.
    Farewell,
    /// And the time for that is over.
    Close,
}

/// The limits of one pair, if it has any.
pub(super) struct Limits {
    timer: Pin<Box<Sleep>>,
    idle: Option<Duration>,
    /// When it ends whatever moves, and why.
    ends: Option<(Instant, EndReason)>,
    last_activity: Instant,
    /// Which limit has been reached.
    reached: Option<EndReason>,
}

impl Limits {
    /// `None` without limits, which costs nothing. `left`: how long the pair's own end is away, if it has one.
    pub(super) fn new(ages: Ages, left: Option<Duration>) -> Option<Box<Self>> {
        let (now, idle) = (Instant::now(), ages.idle);
        let at = |after: Option<Duration>, reason| Some((now.checked_add(after?)?, reason));
        let both = [at(ages.lifetime, EndReason::Lifetime), at(left, EndReason::TokenExpired)];
        let ends = both.into_iter().flatten().min_by_key(|(at, _)| *at);
        let due = first(ends.map(|(at, _)| at), idle.and_then(|idle| now.checked_add(idle)))?;
        Some(Box::new(Self { timer: Box::pin(sleep_until(due)), idle, ends, last_activity: now, reached: None }))
    }

    /// Those of a pair that is being ended for this reason, whatever its limits were.
    pub(super) fn reached_already(reason: EndReason) -> Box<Self> {
        let (now, timer) = (Instant::now(), Box::pin(sleep(FAREWELL)));
        Box::new(Self { timer, idle: None, ends: None, last_activity: now, reached: Some(reason) })
    }

    /// Why Sluice ends the pair, if it does.
    pub(super) fn reached(&self) -> Option<EndReason> {
        self.reached
    }

    /// Bytes have moved.
    pub(super) fn moved(&mut self) {
        self.last_activity = Instant::now();
    }

    /// Whether the time is over. Activity does not touch the timer: only when it fires is it looked how long the pair
    /// has been silent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Due> {
        while let Poll::Ready(()) = self.timer.as_mut().poll(cx) {
            if self.reached.is_some() {
                return Some(Due::Close);
            }
            let now = Instant::now();
            let silent = self.idle.and_then(|idle| self.last_activity.checked_add(idle));
            match first(self.ends.map(|(at, _)| at), silent) {
                Some(due) if due > now => self.timer.as_mut().reset(due),
                _ => {
                    let over = self.ends.filter(|(at, _)| *at <= now);
                    self.reached = Some(over.map_or(EndReason::Idle, |(_, reason)| reason));
                    self.timer.as_mut().reset(now + FAREWELL);
                    // Only a timer that was polled wakes.
                    let _ = self.timer.as_mut().poll(cx);
                    return Some(Due::Farewell);
                }
            }
        }
        None
    }
}

fn first(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn due(limits: &mut Limits) -> Due {
        poll_fn(|cx| limits.poll(cx).map_or(Poll::Pending, Poll::Ready)).await
    }

    #[test]
    fn no_limits_are_no_timer() {
        assert!(Limits::new(Ages::default(), None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn activity_puts_the_idle_limit_off() {
        let ages = Ages { idle: Some(10 * SECOND), lifetime: None };
        let (mut limits, begin) = (Limits::new(ages, None).unwrap(), Instant::now());
        sleep(7 * SECOND).await;
        limits.moved();
        assert!(matches!(due(&mut limits).await, Due::Farewell));
        assert_eq!(begin.elapsed().as_secs(), 17);
        assert!(matches!(due(&mut limits).await, Due::Close));
        assert_eq!(begin.elapsed().as_secs(), 22);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lifetime_ends_whatever_moves() {
        let ages = Ages { lifetime: Some(5 * SECOND), idle: Some(60 * SECOND) };
        let (mut limits, begin) = (Limits::new(ages, None).unwrap(), Instant::now());
        sleep(4 * SECOND).await;
        limits.moved();
        assert!(matches!(due(&mut limits).await, Due::Farewell));
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_both_ends_counts() {
        for (left, seconds, reason) in [(3, 3, EndReason::TokenExpired), (9, 5, EndReason::Lifetime)] {
            let ages = Ages { lifetime: Some(5 * SECOND), idle: None };
            let (mut limits, begin) = (Limits::new(ages, Some(left * SECOND)).unwrap(), Instant::now());
            assert!(matches!(due(&mut limits).await, Due::Farewell));
            assert_eq!((begin.elapsed().as_secs(), limits.reached()), (seconds, Some(reason)));
        }
        let mut limits = Limits::new(Ages::default(), Some(Duration::ZERO)).unwrap();
        assert!(matches!(due(&mut limits).await, Due::Farewell), "an end that is over is now");
    }
}
