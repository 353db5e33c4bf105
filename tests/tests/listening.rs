//! Listeners and servers of every kind: Unix sockets, both families of IP on one socket, PROXY headers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use sluice_tests::backend::{Echo, RawBackend, switching};
use sluice_tests::client::Client;
use sluice_tests::http::{self, Head};
use sluice_tests::pattern::soak;
use sluice_tests::process::{Program, free_addresses};
use sluice_tests::sluice::{Folder, Setup, Sluice, dial};
use sluice_tests::stream::Stream;
use sluice_tests::wait::{amount, eventually};
use sluice_tests::{Via, needs};

const TRUST: &str = "proxy_protocol = { from = [\"127.0.0.0/8\", \"unix\"] }";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x1f\x90\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A listener at this Unix socket, with these settings.
fn at(path: &Path, settings: &str) -> String {
    format!("[[listener]]\nbind = \"unix:{}\"\n{settings}\n", path.display())
}

/// An established tunnel between a client's stream and a server's.
fn tunnel(mut client: Stream, accept: impl FnOnce() -> Stream) -> (Stream, Stream) {
    client.write_all(http::upgrade("x", "/", "").as_bytes()).unwrap();
    client.flush().unwrap();
    let mut server = accept();
    let request = Head::read(&mut server).unwrap();
    server.write_all(switching(&request, "").as_bytes()).unwrap();
    server.flush().unwrap();
    assert_eq!(Head::read(&mut client).unwrap().status(), 101);
    (client, server)
}

/// Runs one of `tests/clients` in the virtual environment of websockets, or reports that there is none.
fn websockets(role: &str, args: &[String]) -> Option<Program> {
    let python = needs::tool("venv/bin/python").map_err(|why| needs::skip(&why)).ok()?;
    let script = format!("{}/clients/websockets_{role}.py", env!("CARGO_MANIFEST_DIR"));
    Some(Program::start(&[&[python.display().to_string(), script], args].concat()).unwrap())
}

/// Both sides, one side, or with TLS over the client's: every byte arrives, and the pair is shown as what it is.
#[test]
fn bytes_pass_between_unix_sockets_and_others() {
    let folder = Folder::make().unwrap();
    let (front, secure, back) =
        (folder.path().join("f.sock"), folder.path().join("s.sock"), folder.path().join("b.sock"));
    let unix_backend = UnixListener::bind(&back).unwrap();
    // Sluice's gate may run as another user.
    std::fs::set_permissions(&back, std::fs::Permissions::from_mode(0o666)).unwrap();
    let backend = RawBackend::start().unwrap();
    let tls = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }";
    let more = at(&front, "mode = \"0606\"") + &at(&secure, tls);
    for unix_server in [true, false] {
        let setup = Setup::new(backend.address).more(&more);
        let setup = if unix_server { setup.unix_server(&back) } else { setup };
        let sluice = Sluice::start(&setup).unwrap();
        assert_eq!(std::fs::metadata(&front).unwrap().permissions().mode() & 0o777, 0o606);
        let accept = || {
            if unix_server {
                Stream::unix(unix_backend.accept().unwrap().0).unwrap()
            } else {
                backend.accept().unwrap()
            }
        };
        let front = || Stream::unix(UnixStream::connect(&front).unwrap()).unwrap();
        let clients: [(bool, &dyn Fn() -> Stream); 3] = [
            (true, &front),
            (false, &|| Stream::connect(sluice.ws, None).unwrap()),
            (false, &|| Stream::connect(sluice.wss, Some(sluice.tls.clone())).unwrap()),
        ];
        for (place, (unix_client, connect)) in clients.into_iter().enumerate() {
            if !unix_client && !unix_server {
                continue;
            }
            let (mut client, mut server) = tunnel(connect(), accept);
            let row = eventually("the pair is listed", || sluice.connections().unwrap().into_iter().next());
            if unix_client {
                assert_eq!(row["client"], "unix", "{row}");
            }
            if place < 2 {
                assert_eq!((row["engine"].as_str(), row["why"].as_str()), (Some("copy"), Some("unix-socket")), "{row}");
            }
            soak(&mut client, &mut server, amount(4 << 20), 7);
            // An end of one direction, and then of the other.
            client.finish().unwrap();
            assert_eq!(server.read(&mut [0; 9]).unwrap(), 0);
            server.write_all(b"last words").unwrap();
            drop(server);
            let mut words = [0; 10];
            client.read_exact(&mut words).unwrap();
            assert_eq!(&words, b"last words");
            assert_eq!(client.read(&mut words).unwrap(), 0);
            drop(client);
            eventually("the pair is gone", || sluice.connections().unwrap().is_empty().then_some(()));
        }
    }
}

#[test]
fn keys_in_the_kernel_on_one_side_go_with_a_unix_socket_on_the_other() {
    Via::Ktls.run(|via| {
        let folder = Folder::make().unwrap();
        let back = folder.path().join("b.sock");
        let backend = UnixListener::bind(&back).unwrap();
        std::fs::set_permissions(&back, std::fs::Permissions::from_mode(0o666)).unwrap();
        let sluice = Sluice::start(&Setup::via(([127, 0, 0, 1], 9).into(), via).unix_server(&back)).unwrap();
        let accept = || Stream::unix(backend.accept().unwrap().0).unwrap();
        let (mut client, mut server) = tunnel(sluice.connect(via).unwrap(), accept);
        let row = eventually("the pair is listed", || sluice.connections().unwrap().into_iter().next());
        assert_eq!(row["engine"], "ktls", "{row}");
        soak(&mut client, &mut server, amount(4 << 20), 11);
    });
}

/// A Unix socket has no RST: an end that is given up has its stream ended, and what was sent before still comes.
#[test]
fn one_side_that_breaks_ends_the_other() {
    let folder = Folder::make().unwrap();
    let back = folder.path().join("b.sock");
    let backend = UnixListener::bind(&back).unwrap();
    std::fs::set_permissions(&back, std::fs::Permissions::from_mode(0o666)).unwrap();
    let sluice = Sluice::start(&Setup::new(([127, 0, 0, 1], 9).into()).unix_server(&back)).unwrap();
    let accept = || Stream::unix(backend.accept().unwrap().0).unwrap();

    let (mut client, mut server) = tunnel(Stream::connect(sluice.ws, None).unwrap(), accept);
    client.write_all(b"before").unwrap();
    let mut before = [0; 6];
    server.read_exact(&mut before).unwrap();
    client.reset().unwrap();
    assert_eq!(server.read(&mut before).unwrap(), 0);
    let ended = |reason| sluice.metrics().unwrap().sum("sluice_pairs_ended_total", &[("reason", reason)]);
    eventually("the client has failed", || (ended("client-failed") == 1).then_some(()));

    let (mut client, server) = tunnel(Stream::connect(sluice.ws, None).unwrap(), accept);
    client.write_all(b"never read").unwrap();
    eventually("the server has it", || {
        let waiting = sluice.connections().unwrap().first().map(|row| row["client_to_backend"]["bytes"].clone());
        (waiting == Some(10.into())).then_some(())
    });
    drop(server);
    let error = client.read(&mut before).expect_err("the end of a broken stream is no clean one");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("the backend has failed", || (ended("backend-failed") == 1).then_some(()));
}

#[test]
fn websockets_speaks_over_unix_sockets_to_one() {
    let folder = Folder::make().unwrap();
    let (front, secure, back) =
        (folder.path().join("f.sock"), folder.path().join("s.sock"), folder.path().join("b.sock"));
    let Some(server) = websockets("server", &[format!("unix:{}", back.display())]) else { return };
    eventually("the server listens", || server.log().contains("b.sock").then_some(()));
    std::fs::set_permissions(&back, std::fs::Permissions::from_mode(0o666)).unwrap();
    let tls = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }";
    let setup = Setup::new(([127, 0, 0, 1], 9).into()).unix_server(&back).more(&(at(&front, "") + &at(&secure, tls)));
    let sluice = Sluice::start(&setup).unwrap();
    for (url, path) in [("ws://localhost/", &front), ("wss://localhost/", &secure)] {
        let args = [url.to_owned(), sluice.certificate.display().to_string(), path.display().to_string()];
        let mut client = websockets("client", &args).unwrap();
        assert!(client.wait().success(), "the client failed:\n{}\n{}", client.log(), sluice.program.log());
    }
    let labels = [("direction", "client_to_backend"), ("code", "4xxx")];
    let counted = || sluice.metrics().ok()?.sum("sluice_close_codes_total", &labels).eq(&2).then_some(());
    eventually("their Close frames are counted", counted);
}

#[test]
fn a_socket_file_is_ours_alone_and_goes_with_us() {
    let (folder, echo) = (Folder::make().unwrap(), Echo::start().unwrap());
    let front = folder.path().join("f.sock");
    // What a program that was killed has left behind.
    drop(UnixListener::bind(&front).unwrap());
    let setup = Setup::new(echo.address).more(&at(&front, ""));
    let mut sluice = Sluice::start(&setup).unwrap();
    assert_eq!(std::fs::metadata(&front).unwrap().permissions().mode() & 0o777, 0o660);
    let second = Program::start(&[
        sluice_tests::sluice::binary().display().to_string(),
        "run".into(),
        "--listen".into(),
        format!("unix:{}", front.display()),
        "--backend".into(),
        "127.0.0.1:9".into(),
    ]);
    let mut second = second.unwrap();
    assert!(!second.wait().success());
    assert!(second.last_log().contains("in use"), "{}", second.log());
    assert!(front.exists());
    sluice.program.signal(Signal::TERM).unwrap();
    assert!(sluice.program.wait().success());
    assert!(!front.exists());
}

#[test]
fn a_unix_server_that_is_not_there_is_a_backend_that_refuses() {
    let folder = Folder::make().unwrap();
    let back = folder.path().join("b.sock");
    let sluice = Sluice::start(&Setup::new(([127, 0, 0, 1], 9).into()).unix_server(&back)).unwrap();
    let asked = || http::exchange(sluice.ws, http::upgrade("x", "/", "").as_bytes()).unwrap();
    let answer = asked();
    assert_eq!(answer.head.status(), 502, "{answer:?}");
    assert!(answer.head.field("proxy-status").unwrap().contains("connection_refused"), "{answer:?}");
    drop(UnixListener::bind(&back).unwrap());
    assert_eq!(asked().head.status(), 502);
    sluice.program.says("b.sock");
}

#[test]
fn one_socket_takes_both_families_and_shows_each_as_it_is() {
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else {
        return needs::skip("this machine has no IPv6");
    };
    drop(probe);
    let echo = Echo::start().unwrap();
    let [both, six] = free_addresses().unwrap().map(|free: SocketAddr| free.port());
    let more = format!("[[listener]]\nbind = \"[::]:{both}\"\n[[listener]]\nbind = \"[::]:{six}\"\nipv6_only = true\n");
    let sluice = Sluice::start(&Setup::new(echo.address).more(&more)).unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{both}").parse().unwrap();
        let mut client = Client::open(Stream::connect(address, None).unwrap(), address).unwrap();
        client.converse().unwrap();
        // As the client sees it itself.
        assert_eq!(sluice.connection(client.address().unwrap())["listener"], format!("[::]:{both}"));
    }
    assert!(dial(SocketAddr::from(([127, 0, 0, 1], six))).is_err());
    assert!(dial(format!("[::1]:{six}").parse().unwrap()).is_ok());
}

#[test]
fn two_that_say_so_share_an_address() {
    let echo = Echo::start().unwrap();
    let [shared]: [SocketAddr; 1] = free_addresses().unwrap();
    let setup =
        |more: &str| Setup::new(echo.address).more(&format!("[[listener]]\nbind = \"{shared}\"\nbacklog = 16\n{more}"));
    let first = Sluice::start(&setup("reuse_port = true\n")).unwrap();
    let second = Sluice::start(&setup("reuse_port = true\n")).unwrap();
    let served = |sluice: &Sluice| sluice.metrics().unwrap().sum("sluice_handshakes_total", &[("result", "upgraded")]);
    eventually("both have had a client", || {
        Client::open(Stream::connect(shared, None).unwrap(), shared).unwrap().converse().unwrap();
        (served(&first) > 0 && served(&second) > 0).then_some(())
    });
    assert!(format!("{:#}", Sluice::start(&setup("")).err().expect("it started")).contains("in use"));
}

#[test]
fn curl_comes_through_a_proxy_that_is_believed() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address).listeners(TRUST)).unwrap();
    let curl = match needs::program("curl") {
        Ok(curl) => curl,
        Err(why) => return needs::skip(&why),
    };
    for url in [format!("http://{}/", sluice.ws), format!("https://{}/", sluice.wss)] {
        let run = |option: &[&str]| {
            let common = ["--silent", "--include", "--insecure", "--http1.1", "--max-time", "30", &url];
            Command::new(&curl).args(common).args(option).output().unwrap()
        };
        let answer = String::from_utf8_lossy(&run(&["--haproxy-protocol"]).stdout).into_owned();
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        let bare = run(&[]);
        let answer = String::from_utf8_lossy(&bare.stdout).into_owned();
        if url.starts_with("https") {
            assert!(!bare.status.success() && answer.is_empty(), "{answer}");
        } else {
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("reason=proxy-header"), "{answer}");
        }
    }
    let labels = [("result", "refused"), ("reason", "proxy-header")];
    eventually("both are counted", || {
        (sluice.metrics().unwrap().sum("sluice_handshakes_total", &labels) == 2).then_some(())
    });
}

#[test]
fn who_a_header_names_is_the_client_everywhere() {
    let folder = Folder::make().unwrap();
    let front = folder.path().join("f.sock");
    let backend = RawBackend::start().unwrap();
    let setup = Setup::new(backend.address).listeners(TRUST).backend("send_proxy = \"v2\"").more(&at(&front, TRUST));
    let sluice = Sluice::start(&setup).unwrap();
    let over_unix = |header: &[u8]| {
        let mut client = Stream::unix(UnixStream::connect(&front).unwrap()).unwrap();
        client.write_all(header).unwrap();
        client
    };
    let over_tcp = |header: &[u8]| {
        let mut client = Stream::connect(sluice.ws, None).unwrap();
        client.write_all(header).unwrap();
        client
    };
    // The client, the header that it came with, what is shown, and the header that the server gets.
    for (client, shown, sent) in
        [(over_tcp(V2), "192.0.2.1:8080", V2), (over_unix(V2), "192.0.2.1:8080", V2), (over_unix(LOCAL), "unix", LOCAL)]
    {
        let (mut client, mut server) = tunnel(client, || {
            let mut server = backend.accept().unwrap();
            let mut header = vec![0; sent.len()];
            server.read_exact(&mut header).unwrap();
            assert_eq!(header, sent);
            server
        });
        let row = eventually("the pair is listed", || sluice.connections().unwrap().into_iter().next());
        assert_eq!(row["client"], shown, "{row}");
        soak(&mut client, &mut server, amount(1 << 20), 3);
        drop((client, server));
        eventually("the pair is gone", || sluice.connections().unwrap().is_empty().then_some(()));
    }
}

#[test]
fn a_server_with_tls_gets_the_header_before_it() {
    let via = Via::TlsBackend;
    let backend = RawBackend::start().unwrap();
    let sluice = Sluice::start(&Setup::via(backend.address, via).backend("send_proxy = \"v1\"")).unwrap();
    let client = dial(sluice.ws).unwrap();
    let port = client.local_addr().unwrap().port();
    (&client).write_all(http::upgrade("x", "/", "").as_bytes()).unwrap();
    let mut server = backend.accept().unwrap();
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\n\x16\x03", sluice.ws.port());
    let mut seen = vec![0; expected.len()];
    server.read_exact(&mut seen).unwrap();
    assert_eq!(String::from_utf8_lossy(&seen), expected);
}
