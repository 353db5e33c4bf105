//! Clients and servers that no one here wrote: PyPI's websockets and npm's ws, each against itself and the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use sluice_tests::backend::Echo;
use sluice_tests::certificate::{of_backends, of_the_proxy};
use sluice_tests::process::Program;
use sluice_tests::sluice::{Folder, Setup, Sluice};
use sluice_tests::wait::eventually;
use sluice_tests::{Via, needs};

sluice_tests::over_every_engine![
    a_websockets_client_speaks_to_the_echo_server,
    a_ws_client_speaks_to_the_echo_server,
    a_websockets_client_speaks_to_a_ws_server,
    a_ws_client_speaks_to_a_websockets_server,
    a_websockets_client_speaks_to_a_websockets_server,
];

/// A library: how to run a program that uses it.
#[derive(Clone, Copy)]
enum Library {
    /// PyPI's websockets, in its virtual environment.
    Websockets,
    /// npm's ws.
    Ws,
}

impl Library {
    /// The command that runs `tests/clients/<library>_<role>` with these arguments.
    fn command(self, role: &str, args: &[String]) -> Result<Vec<String>, String> {
        match self {
            Self::Websockets => {
                let script = format!("{}/clients/websockets_{role}.py", env!("CARGO_MANIFEST_DIR"));
                let mut command = vec![needs::tool("venv/bin/python")?.display().to_string(), script];
                command.extend_from_slice(args);
                Ok(command)
            }
            Self::Ws => needs::node(&format!("ws_{role}.mjs"), "ws", args),
        }
    }

    /// Starts its echo server, which speaks what this way needs.
    fn serve(self, via: Via) -> Result<Server, String> {
        let folder = Folder::make().unwrap();
        let mut args = Vec::new();
        if via.tls_backend() {
            let shown = of_backends().write(folder.path(), ["cert.pem", "key.pem"]).unwrap();
            args.extend([shown.certificate, shown.key]);
        }
        if via.shows_certificate() {
            args.push(of_the_proxy().write(folder.path(), ["client.pem", "client.key"]).unwrap().certificate);
        }
        let args: Vec<String> = args.iter().map(|file| file.display().to_string()).collect();
        let mut server = Program::start(&self.command("server", &args)?).unwrap();
        let port = eventually("the server prints its port", || {
            assert!(server.ended().is_none(), "the server ended:\n{}", server.log());
            server.log().lines().next()?.parse().ok()
        });
        Ok(Server { address: SocketAddr::from(([127, 0, 0, 1], port)), _program: server, _folder: folder })
    }

    /// Runs its client through Sluice to a server.
    fn speaks(self, via: Via, server: SocketAddr) -> Result<(), String> {
        let sluice = Sluice::start(&Setup::via(server, via)).unwrap();
        let scheme = if via.tls_client() { "wss" } else { "ws" };
        let url = format!("{scheme}://{}/", sluice.address(via));
        let certificate = sluice.certificate.display().to_string();
        let mut client = Program::start(&self.command("client", &[url, certificate])?).unwrap();
        assert!(client.wait().success(), "the client failed:\n{}\n{}", client.log(), sluice.program.log());
        let labels = [("direction", "client_to_backend"), ("code", "4xxx")];
        let counted = || sluice.metrics().ok()?.sum("sluice_close_codes_total", &labels).eq(&1).then_some(());
        eventually("its Close frame is counted", counted);
        Ok(())
    }
}

/// A library's echo server.
struct Server {
    address: SocketAddr,
    _program: Program,
    _folder: Folder,
}

fn or_skip(outcome: Result<(), String>) {
    if let Err(reason) = outcome {
        needs::skip(&reason);
    }
}

fn a_websockets_client_speaks_to_the_echo_server(via: Via) {
    let echo = Echo::via(via).unwrap();
    or_skip(Library::Websockets.speaks(via, echo.address));
}

fn a_ws_client_speaks_to_the_echo_server(via: Via) {
    let echo = Echo::via(via).unwrap();
    or_skip(Library::Ws.speaks(via, echo.address));
}

fn a_websockets_client_speaks_to_a_ws_server(via: Via) {
    or_skip(Library::Ws.serve(via).and_then(|server| Library::Websockets.speaks(via, server.address)));
}

fn a_ws_client_speaks_to_a_websockets_server(via: Via) {
    // Without the client there is no need of a server.
    let client = Library::Ws.command("client", &[]);
    let server = client.and_then(|_| Library::Websockets.serve(via));
    or_skip(server.and_then(|server| Library::Ws.speaks(via, server.address)));
}

fn a_websockets_client_speaks_to_a_websockets_server(via: Via) {
    or_skip(Library::Websockets.serve(via).and_then(|server| Library::Websockets.speaks(via, server.address)));
}
