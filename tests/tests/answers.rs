//! What becomes of a backend's answer, and of our own, on its way to a client: none is lost, and none is changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sluice_tests::Via;
use sluice_tests::backend::{RawBackend, switching};
use sluice_tests::http::{self, Head, Response};
use sluice_tests::needs;
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::stream::Stream;

/// A route that refuses everybody who names an Origin, one for WebSockets alone, and one that passes everything on.
const ROUTES: &str = "[[route]]\npath = \"/refused\"\nhttp = \"forward\"\norigins = [\"https://nobody.test\"]\nbackend = \"app\"\n\
                      [[route]]\npath = \"/sockets\"\nbackend = \"app\"\n\
                      [[route]]\nhttp = \"forward\"\nbackend = \"app\"\n";

/// Bytes of a body that no buffer on the way holds.
const LONG: usize = 4_000_000;

/// Plain and TLS.
const BOTH: [Via; 2] = [Via::Copy, Via::Tls];

fn start(backend: &RawBackend) -> Sluice {
    Sluice::start(&Setup::via(backend.address, Via::Copy).routes(ROUTES).backend("ejection = { failures = 0 }\n"))
        .unwrap()
}

fn request(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: a.test\r\n{more}\r\n")
}

/// Serves each connection on a thread of its own.
fn serve(backend: RawBackend, each: impl Fn(Stream) + Send + Sync + 'static) {
    let each = Arc::new(each);
    // Ends with the process: nothing waits for it.
    std::thread::spawn(move || {
        while let Ok(stream) = backend.accept() {
            let each = each.clone();
            std::thread::spawn(move || each(stream));
        }
    });
}

/// Answers each request with what `answer` makes of its head.
fn answers(backend: RawBackend, answer: impl Fn(&Head) -> String + Send + Sync + 'static) {
    serve(backend, move |mut stream| {
        while let Ok(head) = Head::read(&mut stream) {
            stream.write_all(answer(&head).as_bytes()).unwrap();
        }
    });
}

/// Sends a request with a long body as a client does that looks for no answer before it has sent everything.
fn upload(sluice: &Sluice, via: Via, line: &str, more: &str) -> std::io::Result<Response> {
    let mut stream = sluice.connect(via)?;
    stream.write_all(request(line, &format!("Content-Length: {LONG}\r\n{more}")).as_bytes())?;
    for piece in vec![b'x'; LONG].chunks(16 * 1024) {
        stream.write_all(piece)?;
    }
    stream.flush()?;
    http::respond(&mut stream)
}

#[test]
fn a_refusal_reaches_a_client_that_is_sending_its_body_still() {
    let sluice = start(&RawBackend::start().unwrap());
    let handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
    for via in BOTH {
        for (line, more, status) in [
            ("POST /refused", "Origin: https://a.test\r\n", 403),
            ("POST /sockets", "", 405),
            ("GET /sockets", handshake, 400),
            ("NO NSENSE", "", 400),
        ] {
            for _ in 0..3 {
                let answer = upload(&sluice, via, line, more).unwrap_or_else(|error| panic!("{via:?} {line}: {error}"));
                assert_eq!(answer.head.status(), status, "{via:?} {line}");
                assert!(answer.head.field("proxy-websocket-status").is_some(), "{:?}", answer.head);
            }
        }
    }
}

/// What a server does behind its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// Reads the rest of the body, and the next request.
    ReadsOn,
    /// Says that it closes, and reads until the client does.
    Drains,
    /// Says that it closes, and closes with unread bytes: that is an RST.
    Resets,
}

#[test]
fn a_backends_early_answer_reaches_such_a_client_too() {
    for behind in [Behind::ReadsOn, Behind::Drains, Behind::Resets] {
        let backend = RawBackend::start().unwrap();
        let sluice = start(&backend);
        serve(backend, move |mut stream| {
            while Head::read(&mut stream).is_ok() {
                stream.read_exact(&mut [0; 10_000]).unwrap();
                let close = if behind == Behind::ReadsOn { "" } else { "Connection: close\r\n" };
                write!(stream, "HTTP/1.1 413 Too Much\r\n{close}Content-Length: 4\r\n\r\nless").unwrap();
                match behind {
                    Behind::ReadsOn => stream.read_exact(&mut vec![0; LONG - 10_000]).unwrap(),
                    Behind::Drains => return drop(std::io::copy(&mut stream, &mut std::io::sink())),
                    Behind::Resets => return,
                }
            }
        });
        for via in BOTH {
            for _ in 0..3 {
                let answer = upload(&sluice, via, "POST /", "")
                    .unwrap_or_else(|error| panic!("{via:?} {behind:?}: {error}\n{}", sluice.program.log()));
                assert_eq!((answer.head.status(), answer.body.as_str()), (413, "less"), "{via:?} {behind:?}");
            }
        }
    }
}

/// A backend that answers, and neither reads nor closes.
#[test]
fn nor_does_a_client_wait_for_a_backend_that_takes_no_more_of_its_body() {
    // More than all buffers on the way.
    const LONGER: usize = 40_000_000;
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    let stuck = std::thread::spawn(move || {
        let (mut stream, _) = backend.accept_request().unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\n\r\nless").unwrap();
        stream
    });
    let mut client = sluice.connect(Via::Copy).unwrap();
    client.write_all(request("POST /", &format!("Content-Length: {LONGER}\r\n")).as_bytes()).unwrap();
    for piece in vec![b'x'; LONGER].chunks(100_000) {
        client.write_all(piece).unwrap();
    }
    assert_eq!(http::respond(&mut client).unwrap().body, "less");
    drop(stuck.join().unwrap());
}

#[test]
fn curl_reads_early_answers_over_both_versions() {
    let Ok(curl) = needs::program("curl").map_err(|reason| needs::skip(&reason)) else { return };
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    serve(backend, |mut stream| {
        let _head = Head::read(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 4\r\n\r\nless").unwrap();
    });
    let folder = Folder::make().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, vec![b'x'; LONG]).unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (path, origin, status) in [("refused", "Origin: https://a.test", "403"), ("", "X-A: b", "413")] {
            let mut command = Command::new(&curl);
            command.args(["--silent", "--show-error", "--max-time", "30", version, "--write-out", "%{http_code}"]);
            command.args(["--output", "/dev/null", "--header", origin, "--form"]);
            let url = format!("http://{}/{path}", sluice.ws);
            let output = command.arg(format!("f=@{}", file.display())).arg(url).output().unwrap();
            let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(said, (status.into(), "".into()), "{version} /{path}\n{}", sluice.program.log());
        }
    }
}

#[test]
fn a_chunked_body_goes_on_with_every_method() {
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    for (number, method) in ["GET", "HEAD", "POST", "DELETE"].into_iter().enumerate() {
        for via in BOTH {
            let mut client = sluice.connect(via).unwrap();
            let body = "4\r\nbody\r\n0\r\n\r\n";
            let asks = request(&format!("{method} /{number}"), "Transfer-Encoding: chunked\r\n") + body;
            client.write_all(asks.as_bytes()).unwrap();
            client.flush().unwrap();
            // Of a connection on which a body means nothing no other request follows: each has its own.
            let (mut server, head) = backend.accept_request().unwrap();
            assert_eq!(head.line, format!("{method} /{number} HTTP/1.1"));
            assert_eq!((head.field("transfer-encoding"), head.field("content-length")), (Some("chunked"), None));
            let mut got = vec![0; body.len()];
            server.read_exact(&mut got).unwrap();
            assert_eq!(String::from_utf8_lossy(&got), body);
            let close = if method == "POST" { "Connection: close\r\n" } else { "" };
            write!(server, "HTTP/1.1 204 No Content\r\n{close}\r\n").unwrap();
            assert_eq!(http::respond(&mut client).unwrap().head.status(), 204);
        }
    }
}

/// The heads of all answers to this request, up to the end of the connection.
fn heads(sluice: &Sluice, via: Via, request: &str) -> Vec<Head> {
    let mut client = sluice.connect(via).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    client.flush().unwrap();
    let mut heads = Vec::new();
    while heads.last().is_none_or(|head: &Head| (100..200).contains(&head.status()) && head.status() != 101) {
        heads.push(Head::read(&mut client).unwrap_or_else(|error| panic!("{heads:?}, then {error}")));
    }
    heads
}

#[test]
fn interim_answers_are_passed_on() {
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    answers(backend, |head| {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
                     Proxy-WebSocket-Status: upgraded\r\nContent-Length: 7\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
        let upgrades = head.field("upgrade").is_some() && !head.line.contains("/no");
        early.to_owned()
            + &if upgrades { switching(head, "") } else { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into() }
    });
    for via in BOTH {
        for (asked, last) in [
            (request("GET /", ""), 200),
            (http::upgrade("a.test", "/", ""), 101),
            (http::upgrade("a.test", "/no", ""), 200),
        ] {
            let heads = heads(&sluice, via, &asked);
            let statuses: Vec<u16> = heads.iter().map(Head::status).collect();
            assert_eq!(statuses, [103, 102, last], "{via:?} {asked}");
            assert_eq!(heads[0].line, "HTTP/1.1 103 Early Hints");
            assert_eq!(heads[0].fields, [("link".to_owned(), "</a.css>; rel=preload".to_owned())]);
        }
    }
    let Ok(curl) = needs::program("curl").map_err(|reason| needs::skip(&reason)) else { return };
    let mut command = Command::new(curl);
    command.args(["--silent", "--include", "--max-time", "30", "--http2-prior-knowledge"]);
    let output = command.arg(format!("http://{}/", sluice.ws)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let statuses: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("HTTP/2 ")).map(str::trim).collect();
    assert_eq!(statuses, ["103", "102", "200"], "{said}");
    assert!(said.contains("link: </a.css>; rel=preload") && !said.contains("x-hop"), "{said}");
}

/// Many, at once and one behind the other, and never within another message.
#[test]
fn however_many_interim_answers_there_are_the_answer_is_behind_them() {
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    answers(backend, |_| {
        let early: String =
            (0..200).map(|number| format!("HTTP/1.1 103 Early Hints\r\nX-N: {number}\r\n\r\n")).collect();
        early + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    });
    for via in BOTH {
        let heads = heads(&sluice, via, &request("GET /", ""));
        let numbers: Vec<u32> = heads.iter().filter_map(|head| head.field("x-n")?.parse().ok()).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>());
        assert_eq!(heads.last().unwrap().status(), 200);
    }
}

#[test]
fn statuses_and_reasons_are_the_backends() {
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    answers(backend, |head| {
        let line = head.line.split(' ').nth(1).unwrap().trim_start_matches('/').replace('_', " ");
        format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n")
    });
    for line in ["600_Weird", "200_Awesome", "200_OK", "999_", "404_not_here,_sorry", "299_x"] {
        for asked in [request(&format!("GET /{line}"), ""), http::upgrade("a.test", &format!("/{line}"), "")] {
            let head = heads(&sluice, Via::Copy, &asked).pop().unwrap();
            assert_eq!(head.line, format!("HTTP/1.1 {}", line.replace('_', " ")));
        }
    }
}

#[test]
fn a_426_says_what_to_upgrade_to() {
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    answers(backend, |_| {
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3, foo/2\r\nConnection: upgrade, x-hop\r\nX-Hop: 1\r\n\
         Content-Length: 0\r\n\r\n"
            .into()
    });
    for (asked, options) in [
        (request("GET /", ""), vec!["upgrade"]),
        (request("POST /", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", vec!["upgrade", "close"]),
        (http::upgrade("a.test", "/", ""), vec!["upgrade", "close"]),
    ] {
        let head = heads(&sluice, Via::Copy, &asked).pop().unwrap();
        let all = |name: &str| -> Vec<String> {
            head.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.clone()).collect()
        };
        assert_eq!((all("upgrade"), all("x-hop").len()), (vec!["TLS/1.3, foo/2".to_owned()], 0), "{head:?}");
        let said = all("connection").join(", ");
        assert_eq!(said.split(", ").collect::<Vec<_>>(), options, "{head:?}");
    }
}

#[test]
fn an_answer_whose_body_begins_broken_is_a_bad_gateway() {
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    answers(backend, |head| {
        let good = if head.line.contains("/good") { "3\r\nabc\r\n" } else { "" };
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{good}ZZZ\r\nhello\r\n")
    });
    for via in BOTH {
        for asked in [request("GET /", ""), http::upgrade("a.test", "/", "")] {
            let answer = {
                let mut client = sluice.connect(via).unwrap();
                client.write_all(asked.as_bytes()).unwrap();
                http::respond(&mut client).unwrap()
            };
            assert_eq!(answer.head.status(), 502, "{via:?} {asked}");
            let status = answer.head.field("proxy-websocket-status").unwrap();
            assert!(status.contains("reason=backend-protocol"), "{status}");
        }
        // What was good has gone on: the client sees a message without its end.
        let mut client = sluice.connect(via).unwrap();
        client.write_all(request("GET /good", "").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _end = client.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n3\r\nabc\r\n"),
            "{via:?} {answer}"
        );
    }
}

#[test]
fn who_ends_its_direction_behind_a_request_is_answered() {
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    serve(backend, |mut stream| {
        while let Ok(head) = Head::read(&mut stream) {
            let length = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            // The client's end has come meanwhile.
            std::thread::sleep(Duration::from_millis(300));
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    for via in BOTH {
        for wait in [Duration::ZERO, Duration::from_millis(50)] {
            for (asked, status, body) in [
                (request("GET /", ""), 200, ""),
                (request("POST /", "Content-Length: 4\r\n") + "body", 200, "body"),
                (request("GET /refused", "Origin: https://a.test\r\n"), 403, "-"),
                (http::upgrade("a.test", "/refused", "Origin: https://a.test\r\n"), 403, "-"),
            ] {
                let mut client = sluice.connect(via).unwrap();
                client.write_all(asked.as_bytes()).unwrap();
                client.flush().unwrap();
                std::thread::sleep(wait);
                client.shutdown_write().unwrap();
                let answer =
                    http::respond(&mut client).unwrap_or_else(|error| panic!("{via:?} {wait:?} {asked}: {error}"));
                assert_eq!(answer.head.status(), status, "{via:?} {asked}");
                assert_eq!(answer.head.field("connection"), Some("close"), "{:?}", answer.head);
                assert!(body == "-" || answer.body == body, "{answer:?}");
                assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "nobody waits for another request");
            }
        }
    }
}

/// A body that ends before its end is no whole request, however its client goes.
#[test]
fn half_a_body_is_no_request() {
    let backend = RawBackend::start().unwrap();
    let sluice = start(&backend);
    let mut client = sluice.connect(Via::Copy).unwrap();
    client.write_all((request("POST /", "Content-Length: 5\r\n") + "body").as_bytes()).unwrap();
    let (mut server, _) = backend.accept_request().unwrap();
    client.shutdown_write().unwrap();
    let mut body = Vec::new();
    let _reset = server.read_to_end(&mut body);
    assert_eq!(body, b"body", "and then the end of the connection");
}

/// With `keep_alive = "off"` no connection is used twice, and the server is told.
#[test]
fn a_backend_may_have_a_connection_for_each_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let setup = Setup::via(address, Via::Copy).routes(ROUTES).backend("keep_alive = \"off\"\n");
    let sluice = Sluice::start(&setup).unwrap();
    for _ in 0..3 {
        let mut client = sluice.connect(Via::Copy).unwrap();
        client.write_all(request("GET /", "").as_bytes()).unwrap();
        let mut server = Stream::serve(listener.accept().unwrap().0, None).unwrap();
        assert_eq!(Head::read(&mut server).unwrap().field("connection"), Some("close"));
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        let answer = http::respond(&mut client).unwrap();
        assert_eq!((answer.body.as_str(), answer.head.field("connection")), ("ok", None), "the client's is kept");
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    }
}
