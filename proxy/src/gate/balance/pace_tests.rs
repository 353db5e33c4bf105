use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_slow_start_is_a_straight_line() {
    let start = Instant::now();
    let at = |seconds: f64| share(Some(start), start + SECOND.mul_f64(seconds), Some(10 * SECOND));
    for (seconds, share) in [(0.0, 0.1), (1.0, 0.19), (5.0, 0.55), (9.0, 0.91), (10.0, 1.0), (99.0, 1.0)] {
        assert!((at(seconds) - share).abs() < 1e-9, "{seconds}: {}", at(seconds));
    }
    assert_eq!(share(Some(start + SECOND), start, Some(SECOND)), 0.1, "one that is to come up");
    assert_eq!(share(None, start, Some(SECOND)), 1.0);
    assert_eq!(share(Some(start), start, None), 1.0);
    assert_eq!(share(Some(start), start, Some(Duration::ZERO)), 1.0);
}

#[test]
fn no_duration_is_too_long() {
    let now = Instant::now();
    for span in [after(now, Duration::MAX), first_check(now, Duration::MAX, u64::MAX)] {
        assert!(span > now + 99 * 365 * 86_400 * SECOND);
    }
    assert!(next_check(now, Duration::MAX, 1.0, u64::MAX) > now);
    assert!(share(Some(now), now + SECOND, Some(Duration::MAX)) < 0.2);
}

proptest! {
    #[test]
    fn checks_are_spread(random: u64, jitter in 0.0f64..=1.0) {
        let now = Instant::now();
        let first = first_check(now, SECOND, random) - now;
        prop_assert!(first < SECOND);
        let next = (next_check(now, SECOND, jitter, random) - now).as_secs_f64();
        prop_assert!((next - 1.0).abs() <= jitter + 1e-8);
        // Two extremes, and the middle.
        for (random, expected) in [(0, 1.0 - jitter), (1 << 63, 1.0), (u64::MAX, 1.0 + jitter)] {
            let next = (next_check(now, SECOND, jitter, random) - now).as_secs_f64();
            prop_assert!((next - expected).abs() < 1e-8);
        }
    }
}
