//! Servers that are found by names, with a DNS server that no one here wrote.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use sluice_tests::backend::RawBackend;
use sluice_tests::certificate::Identity;
use sluice_tests::dns::Dns;
use sluice_tests::pattern::Pattern;
use sluice_tests::site::{Site, ask, becomes, expected, join, spread};
use sluice_tests::sluice::{Setup, Sluice};
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;
use sluice_tests::{Via, namespace, needs};

/// Starts Sluice with these servers and a DNS server with this zone, unless this machine has none.
fn start(zone: &str, servers: &[&str], backend: &str) -> Option<(Dns, Sluice)> {
    let dns = dns(zone)?;
    let sluice = with(&dns, servers, backend, "");
    Some((dns, sluice))
}

fn dns(zone: &str) -> Option<Dns> {
    Dns::start(zone).inspect_err(|missing| needs::skip(missing)).ok()
}

/// Starts Sluice with these servers; `dns` adds to the settings.
fn with(dns: &Dns, servers: &[&str], backend: &str, more: &str) -> Sluice {
    let setup = Setup::via(dns.address, Via::Copy).servers(servers).backend(backend);
    Sluice::start(&setup.more(&format!("{}{more}", dns.settings()))).unwrap()
}

/// Sends bytes and reads them back.
fn echoes(client: &mut Stream, seed: u64) {
    let bytes = Pattern(seed).bytes(100_000);
    let mut back = vec![0; bytes.len()];
    for (sent, back) in bytes.chunks(10_000).zip(back.chunks_mut(10_000)) {
        client.write_all(sent).unwrap();
        client.read_exact(back).unwrap();
    }
    assert!(bytes == back, "the bytes came back changed");
}

fn lines(sluice: &Sluice, of: &str) -> usize {
    sluice.program.log().lines().filter(|line| line.contains(of)).count()
}

/// Waits until so many lines of the log have this: they come through a pipe, a moment behind everything else.
fn logs(sluice: &Sluice, of: &str, count: usize) {
    eventually(&format!("{of:?} is logged {count} times"), || (lines(sluice, of) == count).then_some(()));
}

#[test]
fn all_addresses_of_a_name_are_servers() {
    let [a, b, six] = Site::all(["127.0.0.2", "127.0.0.3", "::1"]).unwrap();
    let port = a.address.port();
    let zone = "app.test. 60 A 127.0.0.2\napp.test. 60 A 127.0.0.3\napp.test. 60 AAAA ::1\n\
                six.test. 60 AAAA ::1\nfour.test. 60 A 127.0.0.3\nalias.test. 60 CNAME app.test.\n\
                blocked.test. 60 A 0.0.0.0\nblocked.test. 60 A 127.0.0.2\n";
    let Some(dns) = dns(zone) else { return };
    let all = expected(&[(&a, 2), (&b, 2), (&six, 2)]);
    for (name, expected) in [
        ("app.test", all.clone()),
        ("APP.test.", all.clone()),
        ("alias.test", all),
        ("six.test", expected(&[(&six, 6)])),
        ("four.test", expected(&[(&b, 6)])),
        ("blocked.test", expected(&[(&a, 6)])),
    ] {
        let sluice = with(&dns, &[&format!("{name}:{port}")], "", "");
        assert_eq!(spread(&sluice, 6), expected, "{name}");
    }
}

#[test]
fn a_service_has_ports_weights_and_backups() {
    let [a, b, backup] = ["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"].map(|at| Site::at(at.parse().unwrap()).unwrap());
    let port = |site: &Site| site.address.port();
    let zone = format!(
        "a.test. 60 A 127.0.0.2\nb.test. 60 A 127.0.0.3\nc.test. 60 A 127.0.0.4\n\
         _ws._tcp.app.test. 60 SRV 10 30 {} a.test.\n_ws._tcp.app.test. 60 SRV 10 10 {} b.test.\n\
         _ws._tcp.app.test. 60 SRV 20 65535 {} c.test.\n_ws._tcp.app.test. 60 SRV 20 0 {} nowhere.test.\n\
         _no._tcp.app.test. 60 SRV 0 0 0 .\n",
        port(&a),
        port(&b),
        port(&backup),
        port(&backup)
    );
    let Some(dns) = dns(&zone) else { return };
    let ejection = "ejection = { failures = 1, time = \"10m\", max_time = \"10m\" }";
    let sluice = with(&dns, &["srv:_ws._tcp.app.test"], ejection, "");
    assert_eq!(spread(&sluice, 8), expected(&[(&a, 6), (&b, 2)]));
    dns.asked_again("SRV", 3);
    logs(&sluice, "nowhere.test.: there is no such name", 1);
    drop((a, b));
    assert_eq!(spread(&sluice, 4), expected(&[(&backup, 4)]), "nobody else is there");
    // The DNS says that there is no such service.
    let none = with(&dns, &["srv:_no._tcp.app.test"], "", "");
    let (_client, head) = ask(&none, "");
    assert_eq!(head.status(), 503, "{head:?}");
    logs(&none, "its SRV records name no server", 1);
}

#[test]
fn an_address_that_two_entries_give_is_told_of_and_shown_once() {
    let site = Site::at("127.0.0.2:0".parse().unwrap()).unwrap();
    let (address, name) = (site.address.to_string(), format!("app.test:{}", site.address.port()));
    let Some((dns, sluice)) = start("app.test. 0 A 127.0.0.2\n", &[&name, &address], "") else { return };
    assert_eq!(spread(&sluice, 6), expected(&[(&site, 6)]));
    dns.asked_again("A", 3);
    logs(&sluice, "by another entry as well", 1);
    let page = sluice.metrics().unwrap();
    let series = format!("sluice_server_picks_total{{backend=\"app\",server=\"{address}\"}}");
    let values: Vec<&str> = page.0.lines().filter_map(|line| line.strip_prefix(&*series)).collect();
    assert_eq!(values, [" 6"]);
}

#[test]
fn a_name_is_asked_for_again_when_its_time_is_over_and_not_before() {
    let site = Site::at("127.0.0.2:0".parse().unwrap()).unwrap();
    let port = site.address.port();
    let Some(dns) = dns("two.test. 2 A 127.0.0.2\nhour.test. 3600 A 127.0.0.2\nnone.test. 0 A 127.0.0.2\n") else {
        return;
    };
    let address = dns.address;
    // In seconds, between one question for a name's addresses and the next.
    let gaps = |name: &str, more: &str, least: usize| {
        let dotted = format!("{name}.");
        let asked = || {
            let asked = dns.asked().into_iter().filter(|asked| asked.kind == "A" && asked.name == dotted);
            asked.map(|asked| asked.at).collect::<Vec<f64>>()
        };
        let before = asked().len();
        let setup = Setup::via(site.address, Via::Copy).servers(&[&format!("{name}:{port}")]);
        let dns = format!("[dns]\nservers = [\"{address}\"]\n{more}");
        let sluice = Sluice::start(&setup.more(&dns)).unwrap();
        assert_eq!(spread(&sluice, 1), expected(&[(&site, 1)]));
        let times = eventually("it has been asked for", || Some(asked()).filter(|times| times.len() >= before + least));
        times[before..].windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<f64>>()
    };
    let at_least = |gaps: &[f64], seconds: f64| assert!(gaps.iter().all(|gap| *gap >= seconds), "{gaps:?}");
    at_least(&gaps("two.test", "min_ttl = \"100ms\"", 3), 1.99);
    // An hour is more than any test takes: it is the upper bound that has it asked for again.
    at_least(&gaps("hour.test", "min_ttl = \"100ms\"\nmax_ttl = \"500ms\"", 4), 0.49);
    at_least(&gaps("none.test", "min_ttl = \"700ms\"", 4), 0.69);
}

#[test]
fn a_name_that_gains_a_server_gives_it_its_share() {
    let [old, new] = Site::all(["127.0.0.2", "127.0.0.3"]).unwrap();
    let name = format!("app.test:{}", old.address.port());
    let Some((dns, sluice)) = start("app.test. 0 A 127.0.0.2\n", &[&name], "") else { return };
    assert_eq!(spread(&sluice, 3), expected(&[(&old, 3)]));
    dns.set("app.test. 0 A 127.0.0.3\napp.test. 0 A 127.0.0.2\n");
    becomes(&sluice, &new, Some("up"));
    assert_eq!(spread(&sluice, 6), expected(&[(&old, 3), (&new, 3)]));
    logs(&sluice, "the name stands for a server ", 2);
}

#[test]
fn where_servers_are_checked_a_new_one_gets_nothing_before_its_first_good_check() {
    let [old, new] = Site::all(["127.0.0.2", "127.0.0.3"]).unwrap();
    let (name, address) = (format!("app.test:{}", old.address.port()), new.address);
    drop(new);
    let check = "check = { kind = \"websocket\", interval = \"200ms\", rise = 3 }";
    let Some((dns, sluice)) = start("app.test. 0 A 127.0.0.2\n", &[&name], check) else { return };
    dns.set("app.test. 0 A 127.0.0.3\napp.test. 0 A 127.0.0.2\n");
    let listed = format!("sluice_server_state{{backend=\"app\",server=\"{address}\",state=\"new\"}} 1");
    eventually("the new one is listed", || sluice.metrics().unwrap().0.contains(&listed).then_some(()));
    assert_eq!(spread(&sluice, 10), expected(&[(&old, 10)]), "without a failure, either");
    let new = Site::at(address).unwrap();
    becomes(&sluice, &new, Some("up"));
    assert_eq!(spread(&sluice, 6), expected(&[(&old, 3), (&new, 3)]));
}

#[test]
fn a_server_that_a_name_no_longer_stands_for_keeps_its_connections() {
    for via in [Via::Sockmap, Via::Copy] {
        via.run(|via| {
            let [stays, goes] = Site::all(["127.0.0.2", "127.0.0.3"]).unwrap();
            let both = "app.test. 0 A 127.0.0.2\napp.test. 0 A 127.0.0.3\n";
            let Some(dns) = dns(both) else { return };
            let name = format!("app.test:{}", stays.address.port());
            let setup = Setup::via(dns.address, via).servers(&[&name]).more(&dns.settings());
            let sluice = Sluice::start(&setup).unwrap();
            let (one, two) = (join(&sluice), join(&sluice));
            let (mut client, server) = if one.1 == goes.address.to_string() { one } else { two };
            assert_eq!(server, goes.address.to_string());
            echoes(&mut client, 1);
            dns.set("app.test. 0 A 127.0.0.2\n");
            becomes(&sluice, &goes, Some("gone"));
            assert_eq!(spread(&sluice, 4), expected(&[(&stays, 4)]));
            echoes(&mut client, 2);
            // Also past the gate that knew it.
            sluice.kill_gate();
            assert_eq!(spread(&sluice, 4), expected(&[(&stays, 4)]));
            becomes(&sluice, &goes, Some("gone"));
            echoes(&mut client, 3);
            assert_eq!(sluice.connection(client.tcp().local_addr().unwrap())["server"], server.as_str());
            drop(client);
            becomes(&sluice, &goes, None);
            dns.set(both);
            becomes(&sluice, &goes, Some("up"));
            assert_eq!(spread(&sluice, 4), expected(&[(&stays, 2), (&goes, 2)]));
        });
    }
}

#[test]
fn whatever_the_dns_does_the_servers_stay_and_it_is_said_once() {
    let [old, new] = Site::all(["127.0.0.2", "127.0.0.3"]).unwrap();
    let name = format!("app.test:{}", old.address.port());
    let (first, second) = ("app.test. 0 A 127.0.0.2\n", "app.test. 0 A 127.0.0.3\n");
    let Some(mut dns) = dns(first) else { return };
    let setup = Setup::via(old.address, Via::Copy).servers(&[&name]);
    let settings = dns.settings().replace("2s", "300ms");
    let sluice = Sluice::start(&setup.more(&settings)).unwrap();
    let warning = "a name cannot be looked up";
    let zones = ["!servfail *\n", "other.test. 0 A 127.0.0.3\n", "!empty *\n", "!garbage *\n", "!silent *\n"];
    for (number, trouble) in zones.iter().map(Some).chain([None]).enumerate() {
        match trouble {
            Some(zone) => {
                dns.set(zone);
                eventually("there is trouble", || (lines(&sluice, warning) > number).then_some(()));
                dns.asked_again("A", 5);
            }
            None => {
                dns.stop();
                eventually("there is trouble", || (lines(&sluice, warning) > number).then_some(()));
            }
        }
        assert_eq!(spread(&sluice, 2), expected(&[(&old, 2)]), "{trouble:?}");
        // The same trouble, many questions later.
        logs(&sluice, warning, number + 1);
        dns.set(second);
        if trouble.is_none() {
            dns.resume();
        }
        becomes(&sluice, &new, Some("up"));
        becomes(&sluice, &old, None);
        assert_eq!(spread(&sluice, 2), expected(&[(&new, 2)]), "{trouble:?}");
        dns.set(first);
        becomes(&sluice, &old, Some("up"));
        becomes(&sluice, &new, None);
    }
    logs(&sluice, "without trouble again", zones.len() + 1);
    assert_eq!(lines(&sluice, "hickory"), 0, "{}", sluice.program.log());
}

#[test]
fn what_is_not_answered_for_is_not_gone() {
    let [four, six, other] = Site::all(["127.0.0.2", "::1", "127.0.0.3"]).unwrap();
    let name = format!("app.test:{}", four.address.port());
    let all = "app.test. 0 A 127.0.0.2\napp.test. 0 AAAA ::1\n";
    let Some((dns, sluice)) = start(all, &[&name], "") else { return };
    for (kind, records) in [("AAAA", "app.test. 0 A 127.0.0.2\n"), ("A", "app.test. 0 AAAA ::1\n")] {
        dns.set(&format!("!servfail {kind}\n{all}"));
        dns.asked_again(kind, 6);
        assert_eq!(spread(&sluice, 4), expected(&[(&four, 2), (&six, 2)]), "the servers of {kind} stay");
        // What is answered for counts.
        dns.set(&format!("!servfail {kind}\n{all}app.test. 0 A 127.0.0.3\napp.test. 0 AAAA ::1\n"));
        if kind == "AAAA" {
            becomes(&sluice, &other, Some("up"));
        }
        // Said to be gone, it is.
        dns.set(records);
        let (stays, goes) = if kind == "AAAA" { (&four, &six) } else { (&six, &four) };
        becomes(&sluice, goes, None);
        becomes(&sluice, &other, None);
        assert_eq!(spread(&sluice, 2), expected(&[(stays, 2)]));
        dns.set(all);
        becomes(&sluice, goes, Some("up"));
    }
    logs(&sluice, "a part of a name cannot be looked up", 2);
}

#[test]
fn a_thousand_servers_are_found_and_no_more() {
    let one = Site::at("127.1.0.0:0".parse().unwrap()).unwrap();
    let record = |number: u32| format!("app.test. 0 A 127.1.{}.{}\n", number / 256, number % 256);
    let zone: String = (0..1200).rev().map(record).collect();
    let name = format!("app.test:{}", one.address.port());
    let Some((dns, sluice)) = start(&zone, &[&name], "") else { return };
    let known = || sluice.metrics().unwrap().0.matches("sluice_server_picks_total{").count();
    assert_eq!(known(), 1000);
    assert!(dns.asked().iter().any(|asked| asked.over == "tcp"), "it does not fit a packet: {:?}", dns.asked());
    dns.asked_again("A", 6);
    assert_eq!(lines(&sluice, "it names 1200 servers"), 1);
    sluice.kill_gate();
    eventually("the next gate has them", || (known() == 1000).then_some(()));
    dns.set("app.test. 0 A 127.1.0.0\n");
    eventually("one is left", || (known() == 1).then_some(()));
    assert_eq!(spread(&sluice, 2), expected(&[(&one, 2)]));
    // The places of those that are gone are free for others.
    dns.set(&(0..900).map(|number| record(2000 + number)).collect::<String>());
    eventually("there are others", || (known() == 900).then_some(()));
}

#[test]
fn it_starts_without_an_answer_and_serves_when_there_is_one() {
    let site = Site::at("127.0.0.2:0".parse().unwrap()).unwrap();
    let name = format!("app.test:{}", site.address.port());
    let Some(mut dns) = dns("app.test. 0 A 127.0.0.2\n") else { return };
    dns.stop();
    let sluice = with(&dns, &[&name], "", "");
    let (_client, head) = ask(&sluice, "");
    assert_eq!(head.status(), 503, "{head:?}");
    assert!(head.field("proxy-websocket-status").unwrap().contains("reason=no-server"), "{head:?}");
    dns.resume();
    becomes(&sluice, &site, Some("up"));
    assert_eq!(spread(&sluice, 2), expected(&[(&site, 2)]));
}

#[test]
fn the_next_gate_knows_the_servers_and_who_is_on_them() {
    let [a, b] = Site::all(["127.0.0.2", "127.0.0.3"]).unwrap();
    let name = format!("app.test:{}", a.address.port());
    let both = "app.test. 0 A 127.0.0.2\napp.test. 0 A 127.0.0.3\n";
    let balance = "balance = \"least-connections\"";
    let Some((mut dns, sluice)) = start(both, &[&name], balance) else { return };
    let mut clients: Vec<_> = (0..6).map(|_| join(&sluice)).collect();
    // Three on each; then three and one.
    let on_b = b.address.to_string();
    for _ in 0..2 {
        let place = clients.iter().position(|(_, server)| *server == on_b).unwrap();
        drop(clients.remove(place));
    }
    eventually("two have gone", || (sluice.connections().unwrap().len() == 4).then_some(()));
    dns.stop();
    sluice.kill_gate();
    // At once, and without a DNS.
    for _ in 0..2 {
        let (client, server) = join(&sluice);
        assert_eq!(server, on_b, "it has the fewest connections");
        clients.push((client, server));
    }
    for (client, server) in &mut clients {
        assert_eq!(sluice.connection(client.tcp().local_addr().unwrap())["server"], server.as_str());
        echoes(client, 7);
    }
}

#[test]
fn a_cookie_leads_back_to_a_server_that_was_found() {
    let sites = Site::all(["127.0.0.2", "127.0.0.3", "127.0.0.4"]).unwrap();
    let name = format!("app.test:{}", sites[0].address.port());
    let zone = "app.test. 0 A 127.0.0.2\napp.test. 0 A 127.0.0.3\napp.test. 0 A 127.0.0.4\n";
    let Some((dns, sluice)) = start(zone, &[&name], "sticky = {}") else { return };
    let (client, head) = ask(&sluice, "");
    drop(client);
    let (first, cookie) = (head.field("x-server").unwrap().to_owned(), head.field("set-cookie").unwrap());
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let comes_back = || {
        for _ in 0..6 {
            let (_client, head) = ask(&sluice, &cookie);
            assert_eq!(head.field("x-server"), Some(&*first));
        }
    };
    comes_back();
    sluice.kill_gate();
    comes_back();
    // It is of no use while the name does not stand for the server, and of use again when it does.
    let gone = sites.iter().find(|site| site.address.to_string() == first).unwrap();
    let others: String =
        zone.lines().filter(|line| !line.ends_with(&gone.address.ip().to_string())).collect::<Vec<_>>().join("\n");
    dns.set(&others);
    becomes(&sluice, gone, None);
    let (_client, head) = ask(&sluice, &cookie);
    assert!(head.field("set-cookie").is_some(), "{head:?}");
    assert_ne!(head.field("x-server"), Some(&*first));
    dns.set(zone);
    becomes(&sluice, gone, Some("up"));
    comes_back();
}

#[test]
fn tls_to_a_named_server_verifies_its_name() {
    let Some(dns) = dns("app.test. 0 A 127.0.0.1\n_ws._tcp.app.test. 0 SRV 0 0 1 app.test.\n") else { return };
    let by_name = Identity::named(&["app.test"], "app").unwrap();
    let by_address = Identity::named(&["127.0.0.1"], "app").unwrap();
    for (identity, trailing, good) in [(&by_name, "", true), (&by_name, ".", true), (&by_address, "", false)] {
        let backend = RawBackend::with_tls(identity.server_for("app.test").unwrap()).unwrap();
        let port = backend.address.port();
        dns.set(&format!("app.test. 0 A 127.0.0.1\n_ws._tcp.app.test. 0 SRV 0 0 {port} app.test.\n"));
        for server in [format!("app.test{trailing}:{port}"), "srv:_ws._tcp.app.test".into()] {
            let setup = Setup::via(backend.address, Via::Copy).servers(&[&server]).more(&dns.settings());
            let setup = setup.file(identity, ["backend.pem", "backend.key"]).backend_tls("ca = \"backend.pem\"");
            let sluice = Sluice::start(&setup).unwrap();
            if good {
                let (mut client, mut server) = sluice.tunnel(Via::Copy, &backend).unwrap();
                client.write_all(b"hello").unwrap();
                let mut five = [0; 5];
                server.read_exact(&mut five).unwrap();
                assert_eq!(five, *b"hello");
                continue;
            }
            std::thread::scope(|scope| {
                // Without the name in SNI, or with another, it has no certificate to show.
                scope.spawn(|| drop(backend.accept_request()));
                let (_client, head) = ask(&sluice, "");
                let error = head.field("proxy-status").unwrap_or_default();
                assert!(error.contains("error=tls_certificate_error"), "{head:?}");
            });
        }
    }
}

#[test]
fn the_system_knows_names_too() {
    let four = Site::at("127.0.0.1:0".parse().unwrap()).unwrap();
    let name = format!("localhost:{}", four.address.port());
    let sluice = Sluice::start(&Setup::via(four.address, Via::Copy).servers(&[&name])).unwrap();
    // Where ::1 is localhost too, nobody listens there: the other one is tried.
    assert_eq!(spread(&sluice, 4), expected(&[(&four, 4)]));
}

#[test]
fn names_in_etc_hosts_need_no_dns() {
    // Nobody answers there (RFC 5737), and nothing is sent: the namespace has no way out.
    let script = "d=$(mktemp -d)\nprintf 'nameserver 192.0.2.53\\n' > $d/resolv.conf\n\
                  printf '127.0.0.1 localhost\\n127.0.0.5 db.internal other\\n' > $d/hosts\n\
                  mount --bind $d/resolv.conf /etc/resolv.conf\nmount --bind $d/hosts /etc/hosts\n\
                  rm -r $d\nip link set lo up";
    namespace::inside(&["-n", "-m"], script, "names_in_etc_hosts_need_no_dns", || {
        let site = Site::at("127.0.0.5:0".parse().unwrap()).unwrap();
        let name = format!("db.internal:{}", site.address.port());
        let setup = Setup::via(site.address, Via::Copy).servers(&[&name]);
        let sluice = Sluice::start(&setup.clone().more("[dns]\nmax_ttl = \"200ms\"\nmin_ttl = \"100ms\"\n")).unwrap();
        assert_eq!(spread(&sluice, 2), expected(&[(&site, 2)]));
        assert_eq!(lines(&sluice, "WARN"), 0, "{}", sluice.program.log());
    });
}
