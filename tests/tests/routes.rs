//! Which requests go where, how they are changed on the way, and how much each route may take: seen by real backends
//! and clients.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use sluice_tests::Via;
use sluice_tests::backend::{Echo, RawBackend, switching};
use sluice_tests::certificate::Certificate;
use sluice_tests::http::{self, Head};
use sluice_tests::process::{Program, Refusing};
use sluice_tests::sluice::{Folder, Setup, Sluice, binary};
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;

fn start(routes: &str, more: &str) -> (RawBackend, Sluice) {
    let backend = RawBackend::start().unwrap();
    let sluice = Sluice::start(&Setup::new(backend.address).routes(routes).more(more)).unwrap();
    (backend, sluice)
}

/// Asks for a WebSocket.
fn ask(sluice: &Sluice, via: Via, host: &str, path: &str, more: &str) -> Stream {
    let mut client = sluice.connect(via).unwrap();
    client.write_all(http::upgrade(host, path, more).as_bytes()).unwrap();
    client
}

/// What the backend reads of such a request.
fn seen(backend: &RawBackend, sluice: &Sluice, host: &str, path: &str, more: &str) -> Head {
    let _client = ask(sluice, Via::Copy, host, path, more);
    backend.accept_request().unwrap().1
}

/// All values of a header.
fn all<'a>(head: &'a Head, name: &str) -> Vec<&'a str> {
    head.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn every_kind_of_route_is_found_and_its_path_rewritten() {
    let tag = |name: &str| format!("request_headers = {{ set = {{ x-route = \"{name}\" }} }}\nbackend = \"app\"\n");
    let table = |name: &str, settings: &str| format!("[[route]]\n{settings}\n{}", tag(name));
    let routes = [
        table("any", ""),
        table("prefix", "path = \"/app\"\nrewrite = { strip_prefix = true }"),
        table("longer", "path = \"/app/v1\"\nrewrite = { prefix = \"/v2\" }"),
        table("exact", "path = { exact = \"/app/one\" }"),
        table("pattern", "path = { pattern = \"/rooms/([0-9]+)/ws\" }\nrewrite = { replace = \"/ws/$1\" }"),
        table("hosts", "host = [\"a.test\", \"*.b.test\"]"),
        table("header", "headers = [{ name = \"x-client\", prefix = \"app/\" }]"),
        table("query", "query = [{ name = \"v\", value = \"a b\" }]"),
        table("first", "host = \"a.test\"\npath = \"/first\"\npriority = -1"),
    ];
    let (backend, sluice) = start(&routes.concat(), "");
    for (host, path, more, route, target) in [
        ("x", "/", "", "any", "/"),
        ("x", "/app?q=1", "", "prefix", "/?q=1"),
        ("x", "/app/a%20b?/app", "", "prefix", "/a%20b?/app"),
        ("x", "/%61pp/c", "", "prefix", "/c"),
        ("x", "/apple", "", "any", "/apple"),
        ("x", "/app/v1/x", "", "longer", "/v2/x"),
        ("x", "/app/one", "", "exact", "/app/one"),
        ("x", "/app/one/more", "", "prefix", "/one/more"),
        ("x", "/rooms/17/ws?t=s", "", "pattern", "/ws/17?t=s"),
        ("x", "/rooms/a/ws", "", "any", "/rooms/a/ws"),
        ("A.test:80", "/app", "", "hosts", "/app"),
        ("c.b.test", "/", "", "hosts", "/"),
        ("b.test", "/", "", "any", "/"),
        ("x", "/", "X-Client: app/7\r\n", "header", "/"),
        ("x", "/?v=a+b", "", "query", "/?v=a+b"),
        ("a.test", "/first", "", "hosts", "/first"),
    ] {
        let request = seen(&backend, &sluice, host, path, more);
        assert_eq!(
            (all(&request, "x-route"), request.line.as_str()),
            (vec![route], &*format!("GET {target} HTTP/1.1"))
        );
    }
    // What no server should be asked for is not rewritten into something else, but refused.
    let answer = http::exchange(sluice.ws, http::upgrade("x", "/app/%2e%2e/secret", "").as_bytes()).unwrap();
    assert_eq!(answer.head.status(), 400, "{answer:?}");
}

#[test]
fn headers_are_edited_both_ways() {
    let routes = "[[route]]\nbackend = \"app\"\n\
        [route.request_headers]\nset = { host = \"inner.test\", x-set = \"new\" }\nadd = { x-add = \"2\" }\n\
        remove = [\"cookie\", \"X-Forwarded-Proto\"]\n\
        [route.response_headers]\nset = { strict-transport-security = \"max-age=60\" }\nremove = [\"server\"]\n";
    let (backend, sluice) = start(routes, "");
    let more = "X-Set: old\r\nX-Set: older\r\nX-Add: 1\r\nCookie: a=b\r\nOrigin: http://outer.test\r\n";
    for other in [false, true] {
        let mut client = ask(&sluice, Via::Copy, "outer.test", "/", more);
        let (mut server, request) = backend.accept_request().unwrap();
        assert_eq!(all(&request, "host"), ["inner.test"]);
        assert_eq!((all(&request, "x-set"), all(&request, "x-add")), (vec!["new"], vec!["1", "2"]));
        assert!(all(&request, "cookie").is_empty() && all(&request, "x-forwarded-proto").is_empty());
        assert_eq!(all(&request, "x-forwarded-host"), ["outer.test"]);
        let answer = if other {
            "HTTP/1.1 403 Forbidden\r\nServer: secret/1.0\r\nContent-Length: 0\r\n\r\n".into()
        } else {
            switching(&request, "Server: secret/1.0\r\n")
        };
        server.write_all(answer.as_bytes()).unwrap();
        let head = Head::read(&mut client).unwrap();
        assert_eq!(head.status(), if other { 403 } else { 101 });
        assert_eq!(all(&head, "strict-transport-security"), ["max-age=60"]);
        assert!(all(&head, "server").is_empty(), "{head:?}");
    }
    // Sluice's own answers are not edited.
    let answer = http::exchange(sluice.ws, http::upgrade("x", "/", "Origin: http://evil.test\r\n").as_bytes()).unwrap();
    assert_eq!(answer.head.status(), 403);
    assert_eq!(answer.head.field("strict-transport-security"), None);
}

#[test]
fn a_trusted_proxy_says_who_the_client_is() {
    let forwarded = "[forwarded]\ntrusted = [\"127.0.0.0/8\"]\nsend = [\"x-forwarded\", \"forwarded\"]\n";
    let (backend, sluice) = start("[[route]]\nbackend = \"app\"\n", forwarded);
    let told = "X-Forwarded-For: 6.6.6.6, 198.51.100.7, 127.0.0.9\r\nX-Forwarded-Proto: https\r\n\
                X-Forwarded-Host: public.test\r\nOrigin: https://public.test\r\nForwarded: for=9.9.9.9\r\n";
    let mut client = ask(&sluice, Via::Copy, "inner.test", "/", told);
    let proxy = client.tcp().local_addr().unwrap();
    let (mut server, request) = backend.accept_request().unwrap();
    assert_eq!(all(&request, "x-forwarded-for"), ["198.51.100.7, 127.0.0.9, 127.0.0.1"]);
    assert_eq!(all(&request, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&request, "x-forwarded-host"), ["public.test"]);
    let expected = format!(
        "for=198.51.100.7;proto=https;host=\"public.test\", for=127.0.0.9, for=\"{proxy}\";proto=http;host=\"inner.test\""
    );
    assert_eq!(all(&request, "forwarded"), [expected]);
    server.write_all(switching(&request, "").as_bytes()).unwrap();
    assert_eq!(Head::read(&mut client).unwrap().status(), 101);
    // The same in /connections and in the log.
    let row = sluice.connection("198.51.100.7:0".parse().unwrap());
    assert_eq!(row["backend"], "app", "{row}");
    let denied = "X-Forwarded-For: 198.51.100.8\r\nOrigin: https://evil.test\r\n";
    let answer = http::exchange(sluice.ws, http::upgrade("x", "/", denied).as_bytes()).unwrap();
    assert_eq!(answer.head.status(), 403, "{answer:?}");
    eventually("the log names the client", || sluice.program.log().contains("198.51.100.8").then_some(()));
}

#[test]
fn the_forwarded_header_is_read_and_the_other_one_is_a_claim() {
    let forwarded = "[forwarded]\ntrusted = [\"127.0.0.1/32\"]\nread = \"forwarded\"\n";
    let (backend, sluice) = start("[[route]]\nbackend = \"app\"\n", forwarded);
    let told = "Forwarded: for=6.6.6.6, for=\"[2001:db8::1]:4711\";proto=https;host=\"public.test\"\r\n\
                X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-User: alice\r\nOrigin: https://public.test\r\n";
    let request = seen(&backend, &sluice, "inner.test", "/", told);
    assert_eq!(all(&request, "x-forwarded-for"), ["2001:db8::1, 127.0.0.1"]);
    assert_eq!(all(&request, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&request, "x-forwarded-user"), ["alice"]);
    assert!(all(&request, "forwarded").is_empty(), "{request:?}");
}

/// Asks for a WebSocket with an echo server behind, and reads the head of the answer.
fn join(sluice: &Sluice, via: Via, path: &str) -> (Stream, Head) {
    let mut client = ask(sluice, via, "localhost", path, "");
    let head = Head::read(&mut client).unwrap();
    if head.status() == 101 {
        // The client has its 101 a moment before the keeper has the pair.
        let _handed_over = sluice.connection(client.tcp().local_addr().unwrap());
    }
    (client, head)
}

fn joins(sluice: &Sluice, via: Via, path: &str) -> Stream {
    let (client, head) = join(sluice, via, path);
    assert_eq!(head.status(), 101, "{head:?}");
    client
}

fn is_full(sluice: &Sluice, via: Via) {
    let (_, head) = join(sluice, via, "/few");
    assert_eq!(head.status(), 503, "{head:?}");
    assert!(head.field("proxy-websocket-status").unwrap().contains("reason=route-full"), "{head:?}");
    let retry: u32 = head.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=5).contains(&retry), "{head:?}");
}

/// The route has room again as soon as the end of a pair is known.
fn joins_at_last(sluice: &Sluice, via: Via) -> Stream {
    eventually("the route has room again", || {
        let (client, head) = join(sluice, via, "/few");
        (head.status() == 101).then_some(client)
    })
}

#[test]
fn a_route_has_so_many_connections_whatever_carries_them() {
    for via in [Via::Sockmap, Via::Copy, Via::Tls] {
        via.run(|via| {
            let echo = Echo::via(via).unwrap();
            let few = "[[route]]\npath = \"/few\"\nbackend = \"app\"\nlimits = { connections = 2 }\n";
            let routes = format!("{few}[[route]]\nbackend = \"app\"\n");
            let sluice = Sluice::start(&Setup::via(echo.address, via).routes(&routes)).unwrap();
            let (one, two) = (joins(&sluice, via, "/few"), joins(&sluice, via, "/few/x"));
            is_full(&sluice, via);
            let _other = joins(&sluice, via, "/other");
            drop(one);
            let three = joins_at_last(&sluice, via);
            is_full(&sluice, via);
            sluice.kill_gate();
            if via.ends_with_the_gate() {
                // They are gone, and nobody counts them any more.
                let _again = (joins(&sluice, via, "/few"), joins(&sluice, via, "/few"));
                return is_full(&sluice, via);
            }
            // The pairs live on, and the next gate counts them.
            is_full(&sluice, via);
            drop(two);
            let _next = joins_at_last(&sluice, via);
            is_full(&sluice, via);
            drop(three);
        });
    }
}

#[test]
fn a_routes_own_idle_limit_ends_its_pairs_only() {
    for via in [Via::Sockmap, Via::Copy, Via::Tls] {
        via.run(|via| {
            let echo = Echo::via(via).unwrap();
            let routes = "[[route]]\npath = \"/short\"\nbackend = \"app\"\nrelay = { idle_timeout = \"300ms\" }\n\
                          [[route]]\npath = \"/old\"\nbackend = \"app\"\nrelay = { max_lifetime = \"300ms\" }\n\
                          [[route]]\nbackend = \"app\"\nrelay = { idle_timeout = \"off\" }\n";
            let setup = Setup::via(echo.address, via).routes(routes).relay("idle_timeout = \"400ms\"");
            let sluice = Sluice::start(&setup).unwrap();
            let stays = joins(&sluice, via, "/");
            for path in ["/short", "/old"] {
                let mut client = ask(&sluice, via, "localhost", path, "");
                assert_eq!(Head::read(&mut client).unwrap().status(), 101);
                let _end = client.read(&mut [0]);
            }
            eventually("only the other one is left", || (sluice.connections().unwrap().len() == 1).then_some(()));
            let _still = sluice.connection(stays.tcp().local_addr().unwrap());
            let metrics = sluice.metrics().unwrap().0;
            assert!(metrics.contains("idle-timeout\"} 1") && metrics.contains("max-lifetime\"} 1"), "{metrics}");
        });
    }
}

#[test]
fn error_bodies_are_the_operators() {
    let pages = Folder::make().unwrap();
    let page = pages.path().join("down.html");
    std::fs::write(&page, "<h1>Back soon</h1>\n").unwrap();
    let errors = format!(
        "[[error]]\nstatus = [502, 403]\nfile = {page:?}\n\
         [[error]]\nreason = \"origin-denied\"\ncontent_type = \"application/json\"\nbody = '{{\"error\":\"origin\"}}'\n"
    );
    let nobody = Refusing::start().unwrap();
    let sluice = Sluice::start(&Setup::new(nobody.address).more(&errors)).unwrap();
    let answer = |more: &str| http::exchange(sluice.ws, http::upgrade("x", "/", more).as_bytes()).unwrap();
    let down = answer("");
    assert_eq!((down.head.status(), down.body.as_str()), (502, "<h1>Back soon</h1>\n"));
    assert_eq!(down.head.field("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(down.head.field("cache-control"), Some("no-store"));
    assert!(down.head.field("proxy-status").unwrap().contains("error=connection_refused"), "{down:?}");
    assert!(down.head.field("proxy-websocket-status").unwrap().contains("reason=backend-refused"), "{down:?}");
    let denied = answer("Origin: http://evil.test\r\n");
    assert_eq!((denied.head.status(), denied.body.as_str()), (403, "{\"error\":\"origin\"}"));
    assert_eq!(denied.head.field("content-type"), Some("application/json"));
    // Also where the HTTP library has not even read a request.
    let plain = http::exchange(sluice.ws, b"garbage\r\n\r\n").unwrap();
    assert_eq!((plain.head.status(), plain.head.field("content-type")), (400, Some("text/plain; charset=utf-8")));
}

/// Runs `sluice check` with these tables behind a listener and a backend; returns whether all is good, and what it printed.
fn check(folder: &Folder, tables: &str, more: &[&str]) -> (bool, String) {
    let config = folder.path().join("sluice.toml");
    let base = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n";
    std::fs::write(&config, format!("{base}{tables}")).unwrap();
    let mut words =
        vec![binary().display().to_string(), "check".into(), "--config".into(), config.display().to_string()];
    words.extend(more.iter().map(|&word| word.to_owned()));
    let mut program = Program::start(&words).unwrap();
    let success = program.wait().success();
    let log = eventually("it has printed something", || Some(program.log()).filter(|log| !log.is_empty()));
    (success, log)
}

#[test]
fn wrong_routes_are_named_before_anything_starts() {
    let folder = Folder::make().unwrap();
    std::fs::write(folder.path().join("page.html"), "x".repeat(70_000)).unwrap();
    let route = "[[route]]\nbackend = \"app\"\n";
    for (tables, says) in [
        (format!("{route}path = {{ pattern = \"/(\" }}\n"), "unclosed group"),
        (format!("{route}path = {{ pattern = \"/(\" }}\n"), "line 8"),
        (format!("{route}{route}"), "two routes"),
        (format!("{route}path = \"/a/../b\"\n"), "not a plain path"),
        (format!("{route}host = \"a.test:80\"\n"), "no host name"),
        (format!("{route}headers = [{{ name = \"x\" }}]\n"), "exactly one of"),
        (format!("{route}rewrite = {{ replace = \"/x\" }}\n"), "rewrite takes"),
        (format!("{route}request_headers = {{ set = {{ upgrade = \"x\" }} }}\n"), "cannot be changed"),
        (format!("{route}relay = {{ idle_timeout = \"0s\" }}\n"), "no time at all"),
        (format!("{route}timeouts = {{ dial = \"off\" }}\n"), "no duration"),
        (format!("{route}[forwarded]\ntrusted = [\"10.0.0.0/33\"]\n"), "trusted"),
        (format!("{route}[forwarded]\nread = \"x-real-ip\"\n"), "x-real-ip"),
        (format!("{route}[[error]]\nreason = \"fulll\"\nbody = \"\"\n"), "fulll"),
        (format!("{route}[[error]]\nstatus = [502]\nfile = \"nowhere.html\"\n"), "nowhere.html"),
        (format!("{route}[[error]]\nstatus = [502]\nfile = \"page.html\"\n"), "longer than 65536"),
    ] {
        let (success, log) = check(&folder, &tables, &[]);
        assert!(!success && log.contains(says), "{tables}: {log}");
        assert!(log.contains("sluice.toml") || log.contains(".html"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
    std::fs::write(folder.path().join("page.html"), "short").unwrap();
    let (success, log) = check(&folder, &format!("{route}[[error]]\nstatus = [502]\nfile = \"page.html\"\n"), &[]);
    assert!(success, "{log}");
}

#[test]
fn wrong_files_are_named_before_anything_starts() {
    let folder = Folder::make().unwrap();
    let tables = "[[listener]]\nbind = \"127.0.0.1:1\"\ntls = { certificate = \"cert.pem\", key = \"key.pem\" }\n\
                  [[backend]]\nname = \"kept\"\nservers = [\"127.0.0.1:9\"]\nsticky = { keys = [\"cookie.key\"] }\n\
                  [[auth]]\nname = \"token\"\njwt = { secret = \"jwt.key\" }\n[[route]]\nbackend = \"app\"\n";
    let (success, log) = check(&folder, tables, &[]);
    assert!(success, "no file is looked at unasked: {log}");
    let check = || check(&folder, tables, &["--files"]);
    // Whatever cannot be read is told at once, and then what cannot be used.
    let (success, log) = check();
    let all = ["cert.pem", "key.pem", "cookie.key", "jwt.key"].iter().all(|name| log.contains(name));
    assert!(!success && all, "{log}");
    Certificate::make(folder.path()).unwrap();
    let write = |name: &str, bytes: &str| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("jwt.key", "short");
    write("cookie.key", "short");
    let (success, log) = check();
    assert!(!success && log.contains("cookie.key: a key for cookies has"), "{log}");
    write("cookie.key", &"x".repeat(32));
    let (success, log) = check();
    assert!(!success && log.contains("the secret has 5 bytes"), "{log}");
    write("jwt.key", &"x".repeat(32));
    let (success, log) = check();
    assert!(success && log.contains("good"), "{log}");
}
