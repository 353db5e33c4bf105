//! Configurations as operators write them: of several files, with values from elsewhere, and with what is probably not
//! meant.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

use sluice_tests::Via;
use sluice_tests::backend::Echo;
use sluice_tests::client::Client;
use sluice_tests::http;
use sluice_tests::process::{Program, free_addresses};
use sluice_tests::sluice::{Folder, Setup, Sluice, binary};
use sluice_tests::stream::Stream;
use sluice_tests::wait::eventually;

const LISTENER: &str = "[[listener]]\nbind = \"127.0.0.1:0\"\n";
const REST: &str = "[[route]]\nbackend = \"app\"\n[[backend]]\nname = \"app\"\nservers = [\"127.0.0.1:9\"]\n";

/// The value of an environment variable that nobody is to see.
const SECRET: &str = "hunter2-and-more";

fn check(folder: &Folder, more: &[&str], environment: &[(&str, &str)]) -> Output {
    let config = folder.path().join("sluice.toml");
    let mut command = Command::new(binary());
    command.args(["check", "--config"]).arg(config).args(more);
    command.envs(environment.iter().copied()).output().unwrap()
}

fn folder(files: &[(&str, &str)]) -> Folder {
    let folder = Folder::make().unwrap();
    for (file, text) in files {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_check_warns_and_is_good_all_the_same() {
    let doubtful = format!(
        "{LISTENER}[timeouts]\nresponse = \"60s\"\n{}",
        REST.replace("\"app\"\n[[b", "\"app\"\npath = \"/ws/*\"\n[[b")
    );
    let output = check(&folder(&[("sluice.toml", &doubtful)]), &[], &[]);
    let (out, err) = said(&output);
    assert!(output.status.success() && out.contains("1 listeners, 1 routes, 1 backends: good"), "{out}{err}");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines.iter().all(|line| line.starts_with("warning: ") && line.contains("sluice.toml: ")), "{err}");
    assert!(err.contains("timeouts.response") && err.contains("the * at the end of its path"), "{err}");
    let output = check(&folder(&[("sluice.toml", &format!("{LISTENER}{REST}"))]), &[], &[]);
    assert_eq!(said(&output).1, "", "an ordinary configuration");
}

#[test]
fn a_start_warns_once_in_the_log() {
    let echo = Echo::start().unwrap();
    let doubtful = Setup::new(echo.address).more("[timeouts]\nresponse = \"60s\"");
    let sluice = Sluice::start(&doubtful).unwrap();
    let log = sluice.program.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert!(matches!(warnings[..], [one] if one.contains("timeouts.response (1m) is longer")), "{log}");
    let sluice = Sluice::start(&Setup::new(echo.address)).unwrap();
    assert!(!sluice.program.log().contains(" WARN "), "{}", sluice.program.log());
}

#[test]
fn a_log_filter_that_cannot_be_read_is_told() {
    let echo = Echo::start().unwrap();
    let sluice = Sluice::start(&Setup::new(echo.address).under(&["env", "RUST_LOG=sluice=loud"])).unwrap();
    let log = sluice.program.log();
    assert!(log.contains("RUST_LOG=\"sluice=loud\" cannot be read"), "{log}");
    let sluice = Sluice::start(&Setup::new(echo.address).under(&["env", "RUST_LOG=info,sluice=info"])).unwrap();
    assert!(!sluice.program.log().contains("RUST_LOG"), "{}", sluice.program.log());
}

#[test]
fn a_secret_of_the_environment_is_used_and_not_shown() {
    let text = |set: &str| {
        format!(
            "{LISTENER}[[route]]\nbackend = \"{set}\"\n[[backend]]\nname = \"${{TOKEN}}\"\nservers = [\"127.0.0.1:9\"]\n"
        )
    };
    let good = check(&folder(&[("sluice.toml", &text("${TOKEN}"))]), &[], &[("TOKEN", SECRET)]);
    assert!(good.status.success(), "{:?}", said(&good));
    let bad = check(&folder(&[("sluice.toml", &text("x${TOKEN}"))]), &[], &[("TOKEN", SECRET)]);
    let (out, err) = said(&bad);
    assert!(!bad.status.success() && err.contains("there is no backend \"x${TOKEN}\""), "{err}");
    assert!(!out.contains(SECRET) && !err.contains(SECRET), "{out}{err}");
    // What a check and a start cannot read is named as it is written.
    for wrong in [
        "[[error]]\nstatus = [502]\nfile = \"/nowhere/${TOKEN}\"\n",
        "[[auth]]\nname = \"tokens\"\njwt = { secret = \"/nowhere/${TOKEN}\" }\n",
        "[[listener]]\nbind = \"unix:/nowhere/${TOKEN}\"\n",
    ] {
        let folder = folder(&[("sluice.toml", &format!("{}{wrong}", text("${TOKEN}")))]);
        let run = ["run", "--config", "sluice.toml"];
        let mut command = Command::new(binary());
        let output = command.args(run).current_dir(folder.path()).env("TOKEN", SECRET).output().unwrap();
        let (out, err) = said(&output);
        assert!(!output.status.success() && err.contains("/nowhere/${TOKEN}"), "{wrong}: {err}");
        assert!(!out.contains(SECRET) && !err.contains(SECRET), "{out}{err}");
    }
    let missing = check(&folder(&[("sluice.toml", &text("${TOKEN_THAT_IS_NOT_SET}"))]), &[], &[("TOKEN", SECRET)]);
    assert!(said(&missing).1.contains("line 4: the environment has no variable TOKEN_THAT_IS_NOT_SET"));
}

/// Started with a configuration of two files, the first of them on standard input.
#[test]
fn a_configuration_comes_from_standard_input_and_from_what_it_includes() {
    let echo = Echo::start().unwrap();
    let [address, admin] = free_addresses().unwrap();
    let main =
        format!("include = [\"conf.d/*.toml\"]\n[admin]\nlisten = \"{admin}\"\n[[listener]]\nbind = \"{address}\"\n");
    let app = REST.replace("127.0.0.1:9", &echo.address.to_string());
    let folder = folder(&[("main.toml", &main), ("conf.d/app.toml", &app)]);
    let script = format!("cd {} && exec {} run --config - < main.toml", folder.path().display(), binary().display());
    let mut program = Program::start(&["sh".into(), "-c".into(), script]).unwrap();
    eventually("sluice serves", || {
        assert!(program.ended().is_none(), "{}", program.log());
        http::get(admin, "/metrics").is_ok_and(|answer| answer.head.status() == 200).then_some(())
    });
    let mut client = Client::open(Stream::connect(address, None).unwrap(), address).unwrap();
    client.converse().unwrap();
}

#[test]
fn an_include_is_read_or_told() {
    let with = |include: &str| format!("include = [\"{include}\"]\n{LISTENER}{REST}");
    let linked = folder(&[("sluice.toml", &with("conf.d/*.toml")), ("conf.d/a.toml", "")]);
    std::os::unix::fs::symlink("/nowhere", linked.path().join("conf.d/auth.toml")).unwrap();
    let output = check(&linked, &[], &[]);
    assert!(!output.status.success() && said(&output).1.contains("conf.d/auth.toml"), "{output:?}");
    // Of a configuration in this folder.
    let here = folder(&[("sluice.toml", &with("more*.toml")), ("more.toml", "")]);
    let mut command = Command::new(binary());
    let output = command.args(["check", "--config", "sluice.toml"]).current_dir(here.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for include in ["${TOKEN}", "${TOKEN}/*.toml", "conf.d/${TOKEN}.toml"] {
        let output = check(&folder(&[("sluice.toml", &with(include))]), &[], &[("TOKEN", SECRET)]);
        let (_, err) = said(&output);
        assert!(!output.status.success() && err.contains("${TOKEN}") && !err.contains(SECRET), "{err}");
    }
    let (_, err) = said(&check(&folder(&[("sluice.toml", &with("/dev/zero"))]), &[], &[]));
    assert!(err.contains("/dev/zero") && err.contains("longer than"), "{err}");
}

#[test]
fn a_user_who_is_not_is_told() {
    let text = format!("[process]\nuser = \"nosuchuser\"\n{LISTENER}{REST}");
    let output = check(&folder(&[("sluice.toml", &text)]), &["--files"], &[]);
    assert!(!output.status.success() && said(&output).1.contains("nosuchuser"), "{output:?}");
}

#[test]
fn a_check_reads_standard_input() {
    let mut command = Command::new(binary());
    let piped =
        command.args(["check", "--config", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{LISTENER}\nbindd = 1\n{REST}").as_bytes())
        .unwrap();
    let (_, err) = said(&child.wait_with_output().unwrap());
    assert!(err.contains("standard input: line 4, column 1") && err.contains("bindd"), "{err}");
}

#[test]
fn the_ca_of_a_backend_is_not_doubted() {
    let sluice = Sluice::start(&Setup::via(([127, 0, 0, 1], 9).into(), Via::TlsBackend)).unwrap();
    assert!(!sluice.program.log().contains(" WARN "), "{}", sluice.program.log());
}
