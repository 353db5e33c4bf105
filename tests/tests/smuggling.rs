//! Nothing is smuggled: what a backend gets is what was judged, whatever the bytes were that it was made of.
//!
//! The cases are in `tests/corpus`, where a person can read them. Every one is sent to a real Sluice twice: to a route that
//! passes plain HTTP on, and to one that does not. The backend writes down every byte on every connection, and reads as
//! strictly as can be: in the end its whole log must be what the cases say, without a byte that is no request.
//!
//! What the cases say beside what is sent:
//!
//! * `forward`, `reject`, `both`: the answers on that route, `status` or `status:reason` (the reason in
//!   Proxy-WebSocket-Status; `-` for the HTTP library's own), and what becomes of the connection: `keep` (another request
//!   on it is answered), `close`, or `open` (it is a tunnel now).
//! * `backend`: what the backend gets on the route that forwards, and on both if they answer alike.
//!   See [`Recorder`] for the words.
//! * `backend?`: what it gets perhaps, since a request flows before its end is known.
//! * `end = fin`: the sender closes its direction behind the bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context as _, ensure};
use sluice_tests::Via;
use sluice_tests::corpus::{self, Case};
use sluice_tests::http::{self, Head};
use sluice_tests::http2_frames::{self, Answer};
use sluice_tests::recorder::Recorder;
use sluice_tests::sluice::{Setup, Sluice, dial};

/// What must never be a request, in any case's bytes.
const MARK: &str = "/smuggled";

/// A Sluice, its backend, and what the backend must have got so far.
struct Rig {
    backend: Recorder,
    sluice: Sluice,
    forwards: bool,
    expected: Vec<String>,
    perhaps: Vec<String>,
}

impl Rig {
    fn start(forwards: bool) -> Self {
        let backend = Recorder::start().unwrap();
        let http = if forwards { "http = \"forward\"\n" } else { "" };
        let setup = Setup::via(backend.address, Via::Copy).routes(&format!("[[route]]\nbackend = \"app\"\n{http}"));
        Self { sluice: Sluice::start(&setup).unwrap(), backend, forwards, expected: vec![], perhaps: vec![] }
    }

    /// What a case says for this route, and whether the backend is asked.
    fn verdict<'a>(&self, case: &'a Case) -> (Vec<&'a str>, bool) {
        let both = case.value("both");
        let own = case.value(if self.forwards { "forward" } else { "reject" });
        let verdict = own.or(both).unwrap_or_else(|| panic!("{}: no verdict", case.name));
        (verdict.split(' ').collect(), self.forwards || both.is_some())
    }

    /// The backend has got what this case says, and nothing else.
    fn check(&mut self, case: &Case, lines: Vec<String>) -> anyhow::Result<()> {
        self.perhaps.extend(case.all("backend?").map(str::to_owned));
        let before = self.expected.len();
        let log = self.backend.log(|log| sure(log, &self.perhaps).len() >= before + lines.len());
        let mut got = sure(&log, &self.perhaps);
        let new = got.split_off(before.min(got.len()));
        self.expected.extend(new.iter().cloned());
        ensure!(new == lines, "the backend got {new:?} instead of {lines:?}");
        Ok(())
    }

    /// Ends Sluice, and judges all that the backend has ever got.
    fn finish(self) {
        let Self { sluice, backend, expected, perhaps, .. } = self;
        drop(sluice);
        assert_eq!(sure(&backend.finish(), &perhaps), expected);
        let requests = backend.requests();
        assert_eq!(requests.is_empty(), expected.is_empty());
        for request in requests {
            assert!(!request.target.contains(MARK), "{request:?}");
            let hop_by_hop =
                ["x-secret", "keep-alive", "te", "trailer", "proxy-connection", "http2-settings", "expect"];
            for (name, value) in &request.fields {
                assert!(!hop_by_hop.contains(&name.as_str()), "{request:?}");
                let upgrades = request.all("upgrade").eq(["websocket"]) && value == "Upgrade";
                assert!(name != "connection" || upgrades, "{request:?}");
            }
        }
    }
}

/// A log without what may come or not, and when it likes.
fn sure(log: &[String], perhaps: &[String]) -> Vec<String> {
    log.iter().filter(|line| !perhaps.contains(line)).cloned().collect()
}

/// Reads one answer as the word that the cases have for it; `-` if there is none any more.
fn answer(client: &mut TcpStream, to_head: bool) -> anyhow::Result<String> {
    let Ok(head) = Head::read(client) else { return Ok("-".into()) };
    let length = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    if !to_head && !(100..200).contains(&head.status()) {
        client.take(length).read_to_end(&mut body)?;
        ensure!(body.len() as u64 == length, "{head:?} with {} bytes", body.len());
    }
    let Some(reason) = reason(&head) else {
        let ours = if head.status() == 400 { ":-" } else { "" };
        return Ok(format!("{}{ours}", head.status()));
    };
    ensure!(head.field("proxy-status").is_some_and(|value| value.starts_with("sluice; error=")), "{head:?}");
    ensure!(head.field("connection").is_some_and(|value| value.contains("close")), "{head:?}");
    Ok(format!("{}:{reason}", head.status()))
}

/// Why we refused it, if we did.
fn reason(head: &Head) -> Option<&str> {
    let refused = head.field("proxy-websocket-status")?.strip_prefix("rejected; reason=")?;
    refused.split(';').next().filter(|reason| *reason != "backend-answer")
}

fn over_http1(rig: &mut Rig, case: &Case) -> anyhow::Result<()> {
    let (mut verdict, asks) = rig.verdict(case);
    let end = verdict.pop().context("no verdict")?;
    let mut client = dial(rig.sluice.ws)?;
    // Whoever is refused early may be gone before the last byte.
    let _gone = client.write_all(&case.bytes);
    if case.value("end") == Some("fin") {
        client.shutdown(Shutdown::Write)?;
    }
    let to_head = case.bytes.starts_with(b"HEAD ");
    let answers = verdict.iter().map(|_| answer(&mut client, to_head)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut lines: Vec<String> = if asks { case.all("backend").map(str::to_owned).collect() } else { Vec::new() };
    match end {
        "keep" => {
            client.write_all(b"GET /still HTTP/1.1\r\nHost: a\r\n\r\n")?;
            let still = answer(&mut client, false)?;
            ensure!(still == "200" && answers == verdict, "{answers:?}, and the next request: {still}");
            lines.push("GET /still \"\"".into());
        }
        "close" => {
            let mut rest = Vec::new();
            // A reset is an end too.
            let _reset = client.read_to_end(&mut rest);
            ensure!(rest.is_empty(), "{answers:?}, and behind it {:?}", String::from_utf8_lossy(&rest));
        }
        "open" => drop(client),
        other => anyhow::bail!("what is {other:?}?"),
    }
    ensure!(answers == verdict, "{answers:?} instead of {verdict:?}");
    rig.check(case, lines)
}

/// Sends all cases, and tells all that went wrong.
fn all(rig: &mut Rig, cases: &[Case], one: fn(&mut Rig, &Case) -> anyhow::Result<()>) {
    let mut wrong = Vec::new();
    for case in cases {
        if let Err(error) = one(rig, case) {
            wrong.push(format!("{}, forward = {}: {error:#}\n", case.name, rig.forwards));
            rig.expected = sure(&rig.backend.log(|_| true), &rig.perhaps);
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.concat());
}

/// Runs cases over both kinds of routes.
fn run(text: &str, one: fn(&mut Rig, &Case) -> anyhow::Result<()>) {
    let cases = corpus::read(text);
    for forwards in [true, false] {
        let mut rig = Rig::start(forwards);
        all(&mut rig, &cases, one);
        rig.finish();
    }
}

#[test]
fn the_end_of_a_body_has_one_reading() {
    run(include_str!("../corpus/framing.txt"), over_http1);
}

#[test]
fn chunks_have_one_reading() {
    run(include_str!("../corpus/chunks.txt"), over_http1);
}

#[test]
fn lines_names_and_values_have_one_reading() {
    run(include_str!("../corpus/grammar.txt"), over_http1);
}

#[test]
fn targets_have_one_reading() {
    run(include_str!("../corpus/target.txt"), over_http1);
}

#[test]
fn upgrades_open_no_way_around() {
    run(include_str!("../corpus/upgrade.txt"), over_http1);
}

/// A line of a case as a field: a colon at the start belongs to the name.
fn field(line: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let colon = 1 + line[1..].windows(2).position(|window| window == b": ").expect("a field");
    (line[..colon].to_vec(), line[colon + 2..].to_vec())
}

fn over_http2(rig: &mut Rig, case: &Case) -> anyhow::Result<()> {
    let (verdict, asks) = rig.verdict(case);
    let fields: Vec<_> = case.lines.iter().map(|line| field(line)).collect();
    let bodies: Vec<_> = case.all("data").map(corpus::unescape).collect();
    let mut client = dial(rig.sluice.ws)?;
    client.write_all(&http2_frames::request(&fields, &bodies))?;
    let expected = match verdict[..] {
        ["reset"] => Answer::Reset,
        ["ended"] => Answer::Ended,
        [status] => Answer::Status(status.parse()?),
        _ => anyhow::bail!("what is {verdict:?}?"),
    };
    let got = http2_frames::answer(&mut client, 1)?;
    ensure!(got == expected, "{got:?} instead of {expected:?}");
    let mut lines: Vec<String> = if asks { case.all("backend").map(str::to_owned).collect() } else { Vec::new() };
    if got != Answer::Ended {
        // Whatever becomes of one stream, the next request is answered.
        let (path, status) = if rig.forwards { ("/still", 200) } else { ("/../still", 400) };
        let next = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "a")];
        let next = next.map(|(name, value)| (name.into(), value.into()));
        client.write_all(&http2_frames::another(3, &next))?;
        let still = http2_frames::answer(&mut client, 3)?;
        ensure!(still == Answer::Status(status), "and the next request: {still:?}");
        lines.extend(rig.forwards.then(|| "GET /still \"\"".to_owned()));
    }
    rig.check(case, lines)
}

#[test]
fn http2_is_no_way_around() {
    run(include_str!("../corpus/http2.txt"), over_http2);
}

/// How many other clients ask behind every answer of a backend, over the same pool.
const OTHERS: usize = 3;

#[test]
fn an_answer_reaches_only_who_asked_for_it() {
    let mut rig = Rig::start(true);
    all(&mut rig, &corpus::read(include_str!("../corpus/answers.txt")), answered);
    rig.finish();
}

fn answered(rig: &mut Rig, case: &Case) -> anyhow::Result<()> {
    rig.backend.script(&case.bytes, case.value("end") == Some("fin"));
    let method = case.value("ask").unwrap_or("GET");
    let request = |method, path| format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut client = dial(rig.sluice.ws)?;
    client.write_all(request(method, "/scripted").as_bytes())?;
    let got = told(&mut client, method == "HEAD");
    let mut lines = vec![format!("{method} /scripted \"\"")];
    for _ in 0..OTHERS {
        let next = http::exchange(rig.sluice.ws, request("GET", "/next").as_bytes())?;
        ensure!((next.head.status(), next.body.as_str()) == (200, "ok"), "another client got {next:?}");
        lines.push("GET /next \"\"".into());
    }
    let got = got?;
    ensure!(case.all("client").any(|allowed| allowed == got), "the client got {got}");
    rig.check(case, lines)
}

#[test]
fn an_answer_that_is_too_long_reaches_nobody_wherever_it_is_cut() {
    let mut rig = Rig::start(true);
    let fake = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    // Around the sizes that buffers have.
    let sizes = (9..18).flat_map(|power| [-60, -30, -1, 0, 1].map(|more: i32| ((1 << power) + more) as usize));
    for size in (0..4).chain(sizes) {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{}{fake}", "x".repeat(size));
        rig.backend.script(answer.as_bytes(), false);
        for (path, body) in [("/scripted", "x".repeat(size)), ("/next", "ok".into())] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let answer = http::exchange(rig.sluice.ws, request.as_bytes()).unwrap();
            assert!(answer.head.status() == 200 && answer.body == body, "{size} {path}: {:?}", answer.head);
            rig.expected.push(format!("GET {path} \"\""));
        }
    }
    rig.finish();
}

/// What a client gets of an answer, up to the end of its connection: the statuses of interim answers, the status, and the
/// reason or the body; `cut` if it can see that there was more; `closed` if there was nothing.
fn told(client: &mut TcpStream, to_head: bool) -> anyhow::Result<String> {
    let Ok(head) = Head::read(client) else { return Ok("closed".into()) };
    if (100..200).contains(&head.status()) {
        let framed = ["content-length", "transfer-encoding"].iter().any(|name| head.field(name).is_some());
        ensure!(!framed, "an interim answer with a body: {head:?}");
        return Ok(format!("{} {}", head.status(), told(client, to_head)?));
    }
    let mut rest = Vec::new();
    let broken = client.read_to_end(&mut rest).is_err();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    ensure!(!rest.contains("smuggled") && head.field("x-secret").is_none(), "{head:?} {rest}");
    let framing = |name: &str| ["content-length", "transfer-encoding"].contains(&name);
    ensure!(head.fields.iter().filter(|(name, _)| framing(name)).count() <= 1, "two lengths: {head:?}");
    if let Some(reason) = reason(&head) {
        return Ok(format!("{}:{reason}", head.status()));
    }
    let length: Option<usize> = head.field("content-length").and_then(|length| length.parse().ok());
    let bodiless = to_head || [204, 304].contains(&head.status());
    let body = match (length, head.field("transfer-encoding")) {
        _ if bodiless => Some(rest.as_str()),
        (Some(length), None) => Some(rest.as_str()).filter(|rest| rest.len() == length),
        (None, Some("chunked")) => rest.strip_suffix("0\r\n\r\n").and_then(|chunk| chunk.split("\r\n").nth(1)),
        _ => anyhow::bail!("no length: {head:?}"),
    };
    let body = body.filter(|_| !broken).unwrap_or("cut");
    Ok(format!("{} {body}", head.status()).trim_end().to_owned())
}
