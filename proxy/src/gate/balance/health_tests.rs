use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Checks with a rise of 2 and a fall of 3; ejection after 3 failures for 10 s, 80 s at most.
fn rules(checks: bool) -> Rules {
    Rules { checks: checks.then_some((2, 3)), failures: 3, time: 10 * SECOND, max_time: 80 * SECOND }
}

fn fail(health: &mut Health, times: usize, now: Instant) -> Vec<bool> {
    (0..times).map(|_| health.observed(false, now, now)).collect()
}

/// Ejects it now, and returns for how many seconds.
fn eject(health: &mut Health, now: Instant) -> u64 {
    health.eject(now);
    assert_eq!(health.standing(now), Standing::Ejected);
    let until = health.ejected_until().unwrap_or(now);
    assert_eq!((health.standing(until - SECOND / 1000), health.standing(until)), (Standing::Ejected, Standing::Up));
    (until - now).as_secs()
}

/// Whether a server with these results is up, told from the end: the last run that was long enough decides.
fn naive(results: &[bool], from_start: bool) -> Standing {
    let run = |end: usize| results[..=end].iter().rev().take_while(|ok| **ok == results[end]).count();
    let mut up = from_start.then_some(true);
    for (end, result) in results.iter().enumerate() {
        match (up, *result) {
            (None, true) => up = Some(true),
            (Some(false), true) if run(end) >= 2 => up = Some(true),
            (Some(true), false) if run(end) >= 3 => up = Some(false),
            _ => {}
        }
    }
    up.map_or(Standing::New, |up| if up { Standing::Up } else { Standing::Down })
}

#[test]
fn checks_rise_and_fall_in_every_order() {
    let now = Instant::now();
    for (found, from_start) in [(Found::AtStart, true), (Found::Later, false)] {
        for bits in 0..1u32 << 12 {
            let results: Vec<bool> = (0..12).map(|place| bits >> place & 1 == 1).collect();
            let mut health = Health::new(rules(true), found, now);
            for count in 0..results.len() {
                health.checked(results[count], now);
                assert_eq!(health.standing(now), naive(&results[..=count], from_start), "{:?}", &results[..=count]);
            }
        }
    }
}

#[test]
fn servers_begin_as_they_were_found() {
    let now = Instant::now();
    let new = |checks, found| Health::new(rules(checks), found, now);
    for checks in [false, true] {
        let there = new(checks, Found::AtStart);
        assert_eq!((there.standing(now), there.up_since()), (Standing::Up, None));
    }
    assert_eq!(new(false, Found::Down).standing(now), Standing::Up);
    let mut down = new(true, Found::Down);
    for standing in [Standing::Down, Standing::Down, Standing::Up] {
        assert_eq!(down.standing(now), standing, "it rises like any other");
        down.checked(true, now);
    }
    let found = new(false, Found::Later);
    assert_eq!((found.standing(now), found.up_since()), (Standing::Up, Some(now)));
    let mut unproven = new(true, Found::Later);
    assert_eq!(unproven.standing(now), Standing::New);
    assert!(!unproven.observed(false, now, now) && unproven.standing(now) == Standing::New);
    unproven.checked(true, now + SECOND);
    assert_eq!((unproven.standing(now), unproven.up_since()), (Standing::Up, Some(now + SECOND)));
}

#[test]
fn failures_in_a_row_ask_for_ejection() {
    let now = Instant::now();
    let mut health = Health::new(rules(false), Found::AtStart, now);
    assert_eq!(fail(&mut health, 2, now), [false, false]);
    assert!(!health.observed(true, now, now));
    assert_eq!(fail(&mut health, 4, now), [false, false, true, true], "not granted, it asks again");
    assert_eq!(health.standing(now), Standing::Up);
    assert_eq!(eject(&mut health, now), 10);
    // What was on its way says nothing.
    assert!(!health.observed(true, now + SECOND, now + SECOND));
    assert_eq!(fail(&mut health, 9, now + SECOND), [false; 9]);
    assert_eq!(health.up_since(), Some(now + 10 * SECOND));
}

#[test]
fn what_began_before_it_came_back_says_nothing() {
    let now = Instant::now();
    let back = now + 10 * SECOND;
    let mut health = Health::new(rules(true), Found::AtStart, now);
    assert_eq!(eject(&mut health, now), 10);
    for since in [now, back - SECOND] {
        // Neither the failure nor the success of a request that was on its way for long.
        assert!(!health.observed(false, since, back) && !health.observed(true, since, back + SECOND));
    }
    assert!(health.observed(false, back, back + SECOND), "it is on probation still");
    // Nor does what went there while its checks were bad.
    let mut health = Health::new(rules(true), Found::AtStart, now);
    (0..3).for_each(|_| health.checked(false, now));
    (0..2).for_each(|_| health.checked(true, back));
    for _ in 0..9 {
        assert!(!health.observed(false, now + SECOND, back + SECOND));
    }
    assert_eq!(fail(&mut health, 3, back), [false, false, true]);
}

#[test]
fn on_probation_one_result_is_enough() {
    let mut now = Instant::now();
    let mut health = Health::new(rules(false), Found::AtStart, now);
    for length in [10, 20, 40, 80, 80] {
        assert_eq!(eject(&mut health, now), length);
        now += length.try_into().map_or(SECOND, |length: u32| length * SECOND);
        assert_eq!(fail(&mut health, 1, now), [true]);
    }
    // However long nobody has come: without a success there is no pardon.
    now += 10_000 * SECOND;
    assert_eq!(fail(&mut health, 1, now), [true]);
    assert!(!health.observed(true, now, now));
    assert_eq!(fail(&mut health, 3, now), [false, false, true]);
}

#[test]
fn time_without_failures_is_forgiveness() {
    let start = Instant::now();
    // Out for 10, 20 and 40 s, then good for so long: the next time.
    for (good, next) in [(0, 80), (39, 80), (40, 40), (79, 40), (80, 20), (120, 10), (100_000, 10)] {
        let mut health = Health::new(rules(false), Found::AtStart, start);
        let mut now = start;
        for length in [10, 20, 40] {
            assert_eq!(eject(&mut health, now), u64::from(length));
            now += length * SECOND;
        }
        assert!(!health.observed(true, now, now));
        now += good * SECOND;
        assert!(!health.observed(true, now, now), "it counts from the first success on");
        assert_eq!(eject(&mut health, now), next, "after {good} s");
    }
}

#[test]
fn forgiveness_takes_no_longer_for_having_been_out_long() {
    let mut now = Instant::now();
    let mut health = Health::new(rules(false), Found::AtStart, now);
    for _ in 0..40 {
        now += Duration::from_secs(eject(&mut health, now));
    }
    assert!(!health.observed(true, now, now));
    // Three doublings led to 80 s, and each of them is forgiven.
    assert_eq!(eject(&mut health, now + 3 * 80 * SECOND), 10);
}

#[test]
fn checks_do_not_end_an_ejection_and_coming_up_begins_anew() {
    let now = Instant::now();
    let mut health = Health::new(rules(true), Found::AtStart, now);
    assert_eq!(eject(&mut health, now), 10);
    (0..5).for_each(|_| health.checked(true, now));
    assert_eq!(health.standing(now), Standing::Ejected, "it answers checks and fails clients");
    (0..3).for_each(|_| health.checked(false, now));
    assert_eq!(health.standing(now), Standing::Down);
    assert_eq!(fail(&mut health, 9, now + 20 * SECOND), [false; 9], "it is out already");
    (0..2).for_each(|_| health.checked(true, now + 20 * SECOND));
    assert_eq!(health.standing(now + 20 * SECOND), Standing::Up);
    assert_eq!(health.up_since(), Some(now + 20 * SECOND));

    let mut health = Health::new(rules(true), Found::AtStart, now);
    assert_eq!(fail(&mut health, 2, now), [false; 2]);
    (0..3).for_each(|_| health.checked(false, now));
    (0..2).for_each(|_| health.checked(true, now));
    assert_eq!(fail(&mut health, 3, now), [false, false, true], "what failed before it was down is forgotten");
}

#[test]
fn without_ejection_nothing_is_asked() {
    let now = Instant::now();
    let mut health = Health::new(Rules { failures: 0, ..rules(false) }, Found::AtStart, now);
    assert_eq!(fail(&mut health, 9, now), [false; 9]);
}

#[test]
fn no_count_and_no_time_overflows() {
    let now = Instant::now();
    let forever = Rules { time: Duration::MAX, max_time: Duration::MAX, ..rules(false) };
    let mut health = Health::new(forever, Found::AtStart, now);
    (0..100).for_each(|_| health.eject(now));
    assert_eq!(health.standing(now + 99 * 365 * 86_400 * SECOND), Standing::Ejected);
    let mut health = Health::new(Rules { time: Duration::ZERO, ..rules(false) }, Found::AtStart, now);
    (0..100).for_each(|_| health.eject(now));
    assert!(!health.observed(true, now, now) && health.standing(now) == Standing::Up);
}
