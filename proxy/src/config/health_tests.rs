#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::config::{Backend, Config};

fn read(lines: &str) -> Result<Backend, String> {
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nbackend = \"app\"\n\
         [[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n{lines}\n"
    );
    let config = Config::parse(&text, "test").map_err(|error| error.to_string())?;
    // As the keeper sends it to the gate.
    let mut sent: Config = postcard::from_bytes(&postcard::to_stdvec(&config).unwrap()).unwrap();
    assert_eq!(format!("{config:?}"), format!("{sent:?}"));
    Ok(sent.backends.remove(0))
}

#[test]
fn checks_are_off_and_ejection_is_on() {
    let backend = read("").unwrap();
    assert!(backend.check.is_none() && backend.slow_start.is_none());
    assert_eq!((backend.ejection.failures, backend.ejection.min_up.get()), (5, 0.5));
}

#[test]
fn a_check_takes_what_is_written() {
    let check = read("check = { kind = \"tcp\" }").unwrap().check.unwrap();
    assert_eq!((check.rise, check.fall, check.interval, check.path()), (2, 3, Duration::from_secs(5), "/"));
    let text =
        "kind = 'http', path = '/healthz?full', host = 'app.example:80', status = ['204', '300-399'], jitter = 0";
    let check = read(&format!("check = {{ {text} }}")).unwrap().check.unwrap();
    let good: Vec<u16> = (100..600).filter(|status| check.is_good(*status)).collect();
    assert_eq!(good, [204].into_iter().chain(300..=399).collect::<Vec<_>>());
    assert_eq!((check.path(), check.jitter.get()), ("/healthz?full", 0.0));
    let good = |kind: &str| read(&format!("check = {{ kind = {kind:?} }}")).unwrap().check.unwrap();
    assert!(good("http").is_good(299) && !good("http").is_good(300) && !good("http").is_good(101));
    assert!(good("websocket").is_good(101) && !good("websocket").is_good(200));
}

#[test]
fn what_cannot_be_is_told_so() {
    for (bad, says) in [
        ("check = {}", "missing field `kind`"),
        ("check = { kind = 'icmp' }", "unknown value `icmp`"),
        ("check = { kind = 'tcp', path = '/' }", "check.path and check.host are for http"),
        ("check = { kind = 'websocket', status = ['101'] }", "check.status is for http"),
        ("check = { kind = 'http', subprotocol = 'echo' }", "is for websocket"),
        ("check = { kind = 'websocket', subprotocol = 'a, b' }", "the name of one subprotocol"),
        ("check = { kind = 'http', path = 'healthz' }", "no path of a request"),
        ("check = { kind = 'http', path = '/a b' }", "no path of a request"),
        ("check = { kind = 'http', host = 'a b' }", "no Host"),
        ("check = { kind = 'http', status = ['2xx'] }", "\"2xx\" is no status"),
        ("check = { kind = 'http', status = ['299-200'] }", "is no status"),
        ("check = { kind = 'http', status = ['+20'] }", "is no status"),
        ("check = { kind = 'http', status = ['600'] }", "is no status"),
        ("check = { kind = 'tcp', rise = 0 }", "1 at least"),
        ("check = { kind = 'tcp', fall = 0 }", "1 at least"),
        ("check = { kind = 'tcp', jitter = 1.5 }", "1.5 is no share"),
        ("check = { kind = 'tcp', interval = '0s' }", "no time at all"),
        ("ejection = { min_up = -0.1 }", "no share"),
        ("ejection = { min_up = nan }", "no share"),
        ("ejection = { time = '10m' }", "ejection.max_time is below ejection.time"),
        ("slow_start = 30", "expected a text in quotes"),
    ] {
        let error = read(bad).unwrap_err();
        assert!(error.contains(says), "{bad}: {error}");
    }
    assert!(read("ejection = { failures = 0, min_up = 1, time = '1s' }\nslow_start = '30s'").is_ok());
}
