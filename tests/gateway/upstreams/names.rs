//! Servers that are found by a name: of the hosts file, and of a real name server (dnsmasq).

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
};

use crate::support::{
    Gateway, Reply, Upstream, eventually, patience,
    program::{Program, found, free_address},
};

/// A name server for `example` that can be taken away and come back with other records.
struct NameServer {
    address: SocketAddr,
    dnsmasq: PathBuf,
    folder: tempfile::TempDir,
    running: Option<Program>,
}

impl NameServer {
    /// `None` if dnsmasq is not installed. Each record is an option of it.
    #[track_caller]
    fn start(records: &[String]) -> Option<Self> {
        let dnsmasq = found("dnsmasq")?;
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Self { address: free_address(), dnsmasq, folder, running: None };
        server.change(records);
        Some(server)
    }

    /// Comes back with these records and no others.
    #[track_caller]
    fn change(&mut self, records: &[String]) {
        self.running = None;
        let mut command = Command::new(&self.dnsmasq);
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=",
                "--pid-file=",
            ])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local=/example/", "--log-queries"])
            .arg(format!("--port={}", self.address.port()))
            .arg(format!("--log-facility={}", self.folder.path().join("log").display()))
            .args(records);
        self.running = Some(Program::start(&mut command, self.address));
    }

    /// How often it was asked for the IPv4 addresses of a name.
    fn asked(&self, name: &str) -> usize {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!("query[A] {name} "))).count()
    }

    /// As `[server]` wants it.
    fn line(&self) -> String {
        format!("resolvers = [\"{}\"]", self.address)
    }
}

/// A record for `name` that counts `ttl` seconds.
fn record(name: &str, address: &str, ttl: u32) -> String {
    format!("--host-record={name}.example,{address},{ttl}")
}

/// Two upstreams on one port of 127.0.0.2 and 127.0.0.3 that say so, and the port.
fn twins() -> (Upstream, Upstream, u16) {
    let port = free_address().port();
    let at = |ip: &'static str| {
        let upstream = Upstream::start_at(format!("{ip}:{port}").parse().expect("an address"));
        upstream.respond(move |_| Reply::ok(ip));
        upstream
    };
    (at("127.0.0.2"), at("127.0.0.3"), port)
}

/// With a route `/NAME` to each of these names of `example`.
fn gateway(server: &NameServer, names: &[&str], port: u16) -> Gateway {
    let gateway = Gateway::new().server(&server.line()).admin();
    names.iter().fold(gateway, |gateway, name| {
        let upstream = format!("servers = [\"http://{name}.example:{port}\"]");
        gateway.route_to(&format!("path = \"/{name}\""), &upstream).auth(&["none"])
    })
}

#[test]
fn a_record_that_changes_moves_the_traffic_and_the_last_good_one_stays_when_the_server_falls_silent() {
    let (one, other, port) = twins();
    let alias = "--cname=alias.example,app.example,1".to_owned();
    let Some(mut server) = NameServer::start(&[record("app", "127.0.0.2", 1), alias.clone()]) else { return };
    let gateway = gateway(&server, &["app", "alias"], port).start();
    let client = gateway.client();
    for path in ["/app", "/alias"] {
        assert_eq!(client.get(path).send().expect(200).text(), "127.0.0.2");
    }

    server.change(&[record("app", "127.0.0.3", 1), alias]);

    for path in ["/app", "/alias"] {
        eventually("the traffic moves", || client.get(path).send().expect(200).text() == "127.0.0.3");
    }
    eventually("nobody is connected to the old one", || one.open_connections() == 0);
    server.running = None;
    let silent = UdpSocket::bind(server.address).expect("the port is free");
    silent.set_read_timeout(Some(patience())).expect("a time");
    // Both names, for both families, twice: with the next question one of them has been given up.
    for _ in 0..9 {
        silent.recv(&mut [0; 512]).expect("it is asked");
    }
    other.close_connections();
    for path in ["/app", "/alias"] {
        assert_eq!(client.get(path).send().expect(200).text(), "127.0.0.3");
    }
}

#[test]
fn a_name_is_asked_for_again_when_its_time_is_over_and_no_sooner() {
    let (_one, _other, port) = twins();
    let records = [record("short", "127.0.0.2", 1), record("long", "127.0.0.3", 3600)];
    let Some(server) = NameServer::start(&records) else { return };
    let gateway = gateway(&server, &["long", "short"], port).start();
    let client = gateway.client();
    client.get("/long").send().expect(200);
    client.get("/short").send().expect(200);
    let asked = server.asked("long.example");

    eventually("the short one is asked for again and again", || server.asked("short.example") > 3);

    assert_eq!(server.asked("long.example"), asked);
}

#[test]
fn a_name_that_is_not_known_yet_is_found_once_it_is() {
    let (_one, _other, port) = twins();
    let Some(mut server) = NameServer::start(&[]) else { return };
    let gateway = gateway(&server, &["late"], port).start();
    let client = gateway.client();
    assert_eq!(client.get("/late").send().expect(502).json()["error"], "upstream_unreachable");
    eventually("the log says why", || gateway.log_lines().iter().any(|line| line.contains("name_not_resolved")));

    server.change(&[record("late", "127.0.0.2", 3600)]);

    eventually("it is found", || client.get("/late").send().status == 200);
}

#[test]
fn an_answer_that_is_too_long_for_a_datagram_is_read_whole() {
    let (_one, _other, port) = twins();
    // Nobody listens at any of them but at one.
    let mut records: Vec<_> = (1..40).map(|last| record("many", &format!("127.0.1.{last}"), 3600)).collect();
    records.push(record("many", "127.0.0.2", 3600));
    records.push("--edns-packet-max=512".to_owned());
    let Some(server) = NameServer::start(&records) else { return };
    let gateway = gateway(&server, &["many"], port).start();

    assert_eq!(gateway.client().get("/many").send().expect(200).text(), "127.0.0.2");

    assert!(server.asked("many.example") >= 2, "by a datagram, and by TCP");
}

#[test]
fn a_reload_with_another_name_server_asks_it_at_once() {
    let (_one, _other, port) = twins();
    let Some(before) = NameServer::start(&[record("app", "127.0.0.2", 3600)]) else { return };
    let Some(after) = NameServer::start(&[record("app", "127.0.0.3", 3600)]) else { return };
    let gateway = gateway(&before, &["app"], port).start();
    let client = gateway.client();
    assert_eq!(client.get("/app").send().expect(200).text(), "127.0.0.2");

    gateway.edit(&before.line(), &after.line());
    gateway.reload().expect(200);

    eventually("the traffic moves", || client.get("/app").send().expect(200).text() == "127.0.0.3");
}

#[test]
fn a_server_is_found_by_its_name_in_the_hosts_file() {
    let upstream = Upstream::start();
    let port = upstream.address().port();
    let gateway = Gateway::new()
        .route_to("path = \"/{*rest}\"", &format!("servers = [\"http://localhost:{port}\"]\nhost = \"upstream\""))
        .auth(&["none"])
        .start();

    // Of `localhost` the upstream has the IPv4 address only: the other is tried, too.
    gateway.client().get("/x").send().expect(200);

    assert_eq!(upstream.next_request().header("host"), Some(&*format!("localhost:{port}")));
}

#[test]
fn a_name_that_nobody_knows_is_a_bad_gateway() {
    let gateway =
        Gateway::new().route_to("path = \"/{*rest}\"", "servers = [\"http://nobody.invalid\"]").auth(&["none"]).start();

    let refused = gateway.client().get("/x").send().expect(502);

    assert_eq!(refused.json()["error"], "upstream_unreachable");
    eventually("the log says why", || gateway.log_lines().iter().any(|line| line.contains("name_not_resolved")));
}

#[test]
fn an_upstream_that_leads_to_one_of_our_own_listeners_is_refused() {
    let (own, redirect) = (free_address(), free_address());
    let upstream = Upstream::start();
    let servers = [
        ("https", format!("https://[::ffff:127.0.0.1]:{}", own.port())),
        ("http2", format!("h2c://[::ffff:127.0.0.1]:{}", redirect.port())),
        ("redirect", format!("http://[::ffff:127.0.0.1]:{}", redirect.port())),
        ("unix", "unix:link.sock".to_owned()),
        ("another", upstream.url()),
    ];
    let mut gateway = Gateway::new()
        .server(&format!("listen = [\"https://0.0.0.0:{}\", \"unix:own.sock,mode=0600\"]", own.port()))
        .server(&format!("redirect_http = \"{redirect}\""));
    for (name, server) in &servers {
        let matching = format!("path = \"/{name}\"");
        gateway = gateway.route_to(&matching, &format!("servers = [\"{server}\"]")).auth(&["none"]);
    }
    // The configuration is refused where it names one; this is about those that are seen when it is asked.
    std::os::unix::fs::symlink("own.sock", gateway.write("link", "").with_file_name("link.sock"))
        .expect("a link can be made");
    let gateway = gateway.start();

    for (name, server) in &servers {
        let expect = if *name == "another" { 200 } else { 502 };
        assert_eq!(gateway.client().get(&format!("/{name}")).send().status, expect, "{server}");
    }
    let refused = || gateway.log_lines().iter().filter(|line| line.contains("own_listener")).count();
    eventually("the log says why", || refused() == servers.len() - 1);
}
