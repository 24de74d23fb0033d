//! Started by a service manager: sockets that it opened, readiness, reloads, the end, and the watchdog.

use std::{
    net::TcpListener,
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
};

use crate::support::{Gateway, Upstream, process::Launch, program, service::Manager};

fn open(upstream: &Upstream, listen: &str) -> Gateway {
    Gateway::new().server(&format!("listen = {listen}")).route("/{*rest}", upstream).auth(&["none"])
}

#[test]
fn sockets_that_were_opened_before_are_served_by_name_and_by_number() {
    let upstream = Upstream::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, spare) = (listener.local_addr().unwrap(), listener.try_clone().unwrap());
    // Whoever came before the program was there waits in the queue.
    let mut early = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut early, b"GET /early HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let launch = Launch { sockets: vec![(listener.into(), "plain"), (tls.into(), "web")], ..Launch::default() };

    let mut gateway = open(&upstream, "[\"fd:web\", \"fd:3,plain\"]").launch(launch);

    gateway.client().get("/tls").send().expect(200);
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut early, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    gateway.terminate();
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(std::net::TcpStream::connect(address).is_ok(), "the socket lives on with who opened it");
    drop(spare);
}

#[test]
fn a_unix_socket_that_was_opened_before_keeps_its_file() {
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.sock");
    let launch = Launch { sockets: vec![(UnixListener::bind(&path).unwrap().into(), "edge")], ..Launch::default() };
    let mut gateway = open(&upstream, "[\"https://127.0.0.1:0\", \"fd:edge,plain\"]").launch(launch);

    let mut client = UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut client, b"GET /x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut client, &mut answer).unwrap();

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    gateway.terminate();
    gateway.wait();
    assert!(path.exists());
}

#[test]
fn plain_http_on_a_socket_that_strangers_reach_is_refused() {
    let upstream = Upstream::start();
    let gateway = open(&upstream, "[\"fd:3,plain\"]");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, gateway.text()).unwrap();

    let output = Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$@\"", "sh", env!("CARGO_BIN_EXE_portcullis")])
        .arg("--config")
        .arg(config)
        .env("LISTEN_FDS", "1")
        .stdin(std::os::fd::OwnedFd::from(TcpListener::bind("0.0.0.0:0").unwrap()))
        .output()
        .unwrap();

    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.contains("can be listened in to"), "{report}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_socket_that_is_not_there_is_named_at_the_start() {
    let upstream = Upstream::start();

    let report = open(&upstream, "[\"fd:web\"]").try_start().map(|_| ()).unwrap_err();

    assert!(report.contains("cannot listen on fd:web") && report.contains("systemd"), "{report}");
}

#[test]
fn a_service_manager_hears_of_the_start_reloads_the_end_and_that_nothing_hangs() {
    let upstream = Upstream::start();
    let manager = Manager::new("activation");
    let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]);
    let mut gateway = gateway.launch(Launch { environment: manager.environment(), ..Launch::default() });

    manager.hears("READY=1");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    gateway.reload();
    assert!(manager.hears("RELOADING=1").contains("MONOTONIC_USEC="));
    manager.hears("READY=1");
    gateway.terminate();
    manager.hears("STOPPING=1");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn systemd_socket_activate_starts_it_with_the_first_client() {
    let Some(activate) = program::found("systemd-socket-activate") else { return };
    let upstream = Upstream::start();
    let address = program::free_address();
    let gateway = open(&upstream, "[\"fd:web,plain\"]");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, gateway.text()).unwrap();
    let mut command = Command::new(activate);
    command.args(["--listen", &address.to_string(), "--fdname=web", env!("CARGO_BIN_EXE_portcullis"), "--config"]);
    let _running = program::Program::start(command.arg(config), address);

    let answer = crate::support::Client::plain(address).host("app.test").get("/x").send();

    answer.expect(200);
}
