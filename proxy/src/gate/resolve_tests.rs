#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

fn record(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
    SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())
}

fn target(host: &str, weight: u32, backup: bool) -> Target {
    Target { host: host.into(), port: 80, weight, backup }
}

fn settings(min: u64, max: u64) -> Dns {
    Dns { min_ttl: Duration::from_secs(min), max_ttl: Duration::from_secs(max), ..Dns::default() }
}

fn no_records() -> NetError {
    let query = Query::query(Name::root(), RecordType::A);
    let code = hickory_resolver::proto::op::ResponseCode::NXDomain;
    NetError::from(hickory_resolver::net::NoRecords::new(query, code))
}

#[test]
fn shares_keep_their_proportions() {
    for (weights, expected) in [
        (&[0, 0][..], &[1, 1][..]),
        (&[5, 10], &[5, 10]),
        (&[0, 10], &[1, 100]),
        (&[0, 1, 3], &[1, 33, 99]),
        (&[100, 50], &[100, 50]),
        (&[65_535, 32_768, 0], &[100, 51, 1]),
    ] {
        let of = Weights::of(weights.iter().copied());
        let shares: Vec<u32> = weights.iter().map(|weight| of.share(*weight)).collect();
        assert_eq!(shares, expected, "{weights:?}");
    }
}

proptest! {
    #[test]
    fn every_share_is_small_and_none_is_nothing(weights in proptest::collection::vec(any::<u16>(), 1..20)) {
        let of = Weights::of(weights.iter().copied());
        for pair in weights.windows(2) {
            let [a, b] = [of.share(pair[0]), of.share(pair[1])];
            prop_assert!((1..=MOST_WEIGHT).contains(&a));
            prop_assert!((a >= b) == (pair[0] >= pair[1]) || a == b, "{pair:?} became {a} and {b}");
        }
    }
}

#[test]
fn the_lowest_priority_serves_and_the_weights_of_backups_are_their_own() {
    let records = [
        record(20, 65_535, 80, "b1.test."),
        record(10, 3, 80, "a1.test."),
        record(30, 0, 80, "b2.test."),
        record(10, 1, 80, "a2.test."),
        record(10, 1, 0, "no.port."),
        record(0, 1, 80, "."),
    ];
    let expected = [
        target("a1.test.", 3, false),
        target("a2.test.", 1, false),
        target("b1.test.", 100, true),
        target("b2.test.", 1, true),
    ];
    assert_eq!(targets(records.iter()), expected);
    assert_eq!(targets([record(0, 0, 80, ".")].iter()), []);
}

#[test]
fn an_answer_is_the_same_whatever_the_order_of_its_records() {
    let [one, two] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let parts = [
        (target("b.test.", 1, true), vec![one, two]),
        (target("a.test", 1, false), vec![two]),
        (target("c.test", 5, false), vec![two]),
        (target("blocked.test", 5, false), vec!["0.0.0.0".parse().unwrap(), "::".parse().unwrap()]),
    ];
    let gather = |parts: &mut dyn Iterator<Item = &(Target, Vec<IpAddr>)>| {
        let mut gathered = Gathered::nothing();
        for (target, ips) in parts {
            let mut more = Gathered::nothing();
            more.take(target, ips.clone());
            gathered.merge(target, Ok(more));
        }
        gathered.answer(Instant::now(), &settings(1, 60))
    };
    let answer = gather(&mut parts.iter());
    assert_eq!(answer, gather(&mut parts.iter().rev()));
    let named =
        |ip, host: &str, weight, backup| Named { address: SocketAddr::new(ip, 80), host: host.into(), weight, backup };
    // Who serves is no backup, whoever else has its address; and a name has no dot at its end.
    assert_eq!(answer.servers, [named(one, "b.test", 1, true), named(two, "c.test", 5, false)]);
}

#[test]
fn an_answer_is_good_between_the_bounds() {
    let now = Instant::now();
    let good_for = |ttl, min, max, partial| {
        let valid_until = now + Duration::from_secs(ttl);
        let gathered = Gathered { valid_until, partial, ..Gathered::nothing() };
        gathered.answer(now, &settings(min, max)).good_for.as_secs()
    };
    assert_eq!(good_for(0, 1, 60, false), 1);
    assert_eq!(good_for(30, 1, 60, false), 30);
    assert_eq!(good_for(86_400, 1, 60, false), 60);
    assert_eq!(good_for(30, 90, 60, false), 90, "the lower bound wins");
    assert_eq!(good_for(30, 1, 60, true), 1, "what is missing is soon asked for again");
}

#[test]
fn a_target_without_an_address_is_gone_and_one_without_an_answer_is_not() {
    let one = "10.0.0.1".parse::<IpAddr>().unwrap();
    let gathered = |answer| {
        let mut gathered = Gathered::nothing();
        gathered.take(&target("a.test", 1, false), [one]);
        gathered.merge(&target("b.test", 1, false), answer);
        gathered.answer(Instant::now(), &settings(1, 60))
    };
    let gone = gathered(Err(no_records()));
    assert_eq!((gone.partial, gone.trouble.as_deref()), (false, Some("b.test: there is no such name")));
    let late = gathered(Err(NetError::Timeout));
    assert_eq!((late.partial, late.trouble.as_deref()), (true, Some("b.test: request timed out")));
}

#[test]
fn what_is_of_one_family_may_lack_the_other() {
    let other = |ips: &[&str]| other_family(ips.iter().map(|ip| ip.parse().unwrap()));
    assert_eq!(other(&["10.0.0.1", "10.0.0.2"]), Some(RecordType::AAAA));
    assert_eq!(other(&["::1"]), Some(RecordType::A));
    assert_eq!(other(&["::1", "10.0.0.1"]), None);
    assert_eq!(other(&[]), None);
}
