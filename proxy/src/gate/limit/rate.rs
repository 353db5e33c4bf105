//! Token buckets, each of which is one number.

use crate::config::HandshakeRate;

/// Nanoseconds since the gate began.
pub(in crate::gate) type Moment = u64;

/// A rate and a burst. A bucket of this rate is the [`Moment`] at which it will be full, or was; 0: always full.
///
/// This is the generic cell rate algorithm in its form of a virtual schedule (ITU-T I.371, annex A): the same verdicts
/// as a bucket that is filled with `rate` tokens in each `per` and holds `burst` of them, without a refill to compute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// In which one token comes back. Rounded up: a rate is never exceeded.
    interval: u64,
    /// In which an empty bucket fills.
    span: u64,
}

impl Rate {
    pub(super) fn new(settings: &HandshakeRate) -> Self {
        let per = u64::try_from(settings.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = per.div_ceil(settings.rate.max(1).into()).max(1);
        Self { interval, span: interval.saturating_mul(settings.burst.unwrap_or(settings.rate).max(1).into()) }
    }

    /// Takes a token from a bucket that will be full at `full`. Returns when it will be full without that token.
    ///
    /// # Errors
    /// There is none: the next one comes after so many nanoseconds.
    pub(super) fn take(self, full: Moment, now: Moment) -> Result<Moment, u64> {
        let next = full.max(now).saturating_add(self.interval);
        match next.saturating_sub(now).saturating_sub(self.span) {
            0 => Ok(next),
            wait => Err(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn settings(rate: u32, per: Duration, burst: Option<u32>) -> HandshakeRate {
        HandshakeRate { rate, per, burst }
    }

    #[test]
    fn a_burst_and_then_the_rate_to_the_token() {
        for (rate, burst, per) in [(500, 1000, 1), (5, 5, 1), (1, 3, 60), (1_000_000, 1, 1), (8, 1, 3600)] {
            let bucket = Rate::new(&settings(rate, Duration::from_secs(per), Some(burst)));
            // A flood that asks four times for each token there is.
            let (interval, begun) = (per * SECOND / u64::from(rate), 7 * SECOND);
            let (mut full, mut let_in) = (0, 0);
            for now in (0..=8_000).map(|step| begun + step * interval / 4) {
                if let Ok(next) = bucket.take(full, now) {
                    (full, let_in) = (next, let_in + 1);
                }
            }
            assert_eq!(let_in, burst + 2_000, "{rate} in {per} s");
        }
    }

    #[test]
    fn the_wait_is_when_the_next_token_comes() {
        let bucket = Rate::new(&settings(4, Duration::from_secs(1), Some(2)));
        let now = 10 * SECOND;
        let full = bucket.take(bucket.take(0, now).unwrap(), now).unwrap();
        let wait = bucket.take(full, now).unwrap_err();
        assert_eq!(wait, SECOND / 4);
        assert_eq!(bucket.take(full, now + wait - 1), Err(1));
        assert!(bucket.take(full, now + wait).is_ok());
        let full_again = bucket.take(full, now + 60 * SECOND).unwrap();
        assert_eq!(full_again, now + 60 * SECOND + SECOND / 4, "no more than the burst is saved up");
    }

    #[test]
    fn without_a_burst_it_is_one_spans_worth() {
        let bucket = Rate::new(&settings(3, Duration::from_secs(1), None));
        let taken = std::iter::successors(Some(0), |full| bucket.take(*full, 0).ok()).count() - 1;
        assert_eq!(taken, 3);
    }

    /// Tokens, as one would write them down: so many in the bucket, in units of 1/`per` of a token.
    struct Naive {
        tokens: u128,
        last: u64,
    }

    impl Naive {
        fn take(&mut self, rate: &HandshakeRate, now: u64) -> bool {
            let (per, most) = (rate.per.as_nanos(), u128::from(rate.burst.unwrap()) * rate.per.as_nanos());
            self.tokens = most.min(self.tokens + u128::from(now - self.last) * u128::from(rate.rate));
            self.last = now;
            let enough = self.tokens >= per;
            self.tokens -= if enough { per } else { 0 };
            enough
        }
    }

    proptest! {
        #[test]
        fn it_decides_as_a_bucket_that_is_filled_does(
            (rate, burst) in (prop::sample::select(vec![1, 2, 5, 8, 10, 500, 1000]), 1_u32..50),
            steps in prop::collection::vec(0_u64..2 * SECOND / 3, 1..300),
        ) {
            // Rates that divide a second: nothing is rounded.
            let settings = settings(rate, Duration::from_secs(1), Some(burst));
            let bucket = Rate::new(&settings);
            let mut naive = Naive { tokens: u128::from(burst) * u128::from(SECOND), last: 0 };
            let (mut full, mut now) = (0, 0);
            for step in steps {
                now += step / u64::from(rate);
                let taken = bucket.take(full, now);
                prop_assert_eq!(taken.is_ok(), naive.take(&settings, now));
                full = taken.unwrap_or(full);
            }
        }

        #[test]
        fn no_rate_is_exceeded(
            rate in 1_u32..=1_000_000, burst in 1_u32..=100, per in 1_u64..=3_600_000,
            steps in prop::collection::vec(0_u64..4, 1..200),
        ) {
            let settings = settings(rate, Duration::from_millis(per), Some(burst));
            let bucket = Rate::new(&settings);
            let (mut full, mut now, mut let_in) = (0, 0, 0_u128);
            for step in steps {
                now += step * (settings.per.as_nanos() as u64 / u64::from(rate)) / 3;
                if let Ok(next) = bucket.take(full, now) {
                    (full, let_in) = (next, let_in + 1);
                }
                let most = u128::from(burst) + u128::from(now) * u128::from(rate) / settings.per.as_nanos();
                prop_assert!(let_in <= most);
            }
        }
    }
}
