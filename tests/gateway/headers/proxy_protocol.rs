//! `server.proxy_protocol_from`: who connects is what a load balancer says, and nobody else can say it (R15).

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use crate::support::{
    Gateway, Upstream, eventually,
    gateway::Running,
    program::{Program, found, free_address},
};

/// Behind a load balancer on this machine, over TLS and in the clear.
fn balanced(upstream: &Upstream, from: &str) -> Gateway {
    Gateway::new()
        .server("listen = [\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]")
        .server(&format!("proxy_protocol_from = [{from:?}]"))
        .route("/{*rest}", upstream)
        .auth(&["none"])
}

/// What comes back from the plain listener.
fn plain(gateway: &Running, before: &[u8]) -> String {
    plain_at(gateway.addresses().gateway[1], before)
}

fn plain_at(address: SocketAddr, before: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    let request = b"GET /x HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n";
    // A header that is refused may end the connection before all of this is sent.
    let _ = socket.write_all(&[before, request].concat());
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    answer
}

/// Who the upstream is told connects.
fn told(upstream: &Upstream) -> String {
    upstream.next_request().header("x-forwarded-for").unwrap_or_default().to_owned()
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 8443\r\n";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, body].concat()
}

#[test]
fn the_client_is_whom_the_load_balancer_names_in_both_versions() {
    let upstream = Upstream::start();
    let gateway = balanced(&upstream, "127.0.0.1").start();
    let with_tlv = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 0x20, 0xfb, 4, 0, 1, 0];

    for header in [V1.to_vec(), v2(0x21, 0x11, &with_tlv)] {
        let answer = plain(&gateway, &header);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(told(&upstream), "192.0.2.7");
    }
    eventually("both addresses are in the log", || {
        let both = |line: &String| line.contains(r#""client":"192.0.2.7","said_by":"127.0.0.1""#);
        gateway.log_lines().iter().filter(|line| both(line)).count() == 2
    });
}

#[test]
fn where_nothing_is_said_the_load_balancer_speaks_for_itself() {
    let upstream = Upstream::start();
    let gateway = balanced(&upstream, "127.0.0.1").start();

    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, &[]), v2(0x21, 0x31, &[0; 216])] {
        assert!(plain(&gateway, &header).starts_with("HTTP/1.1 200"), "{header:?}");
        assert_eq!(told(&upstream), "127.0.0.1");
    }
}

#[test]
fn a_load_balancer_that_says_nothing_or_nonsense_is_not_heard_and_counted() {
    let upstream = Upstream::start();
    let gateway = balanced(&upstream, "127.0.0.1").start();
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));

    for header in [b"".as_slice(), b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n", endless.as_bytes()] {
        assert_eq!(plain(&gateway, header), "", "{header:?}");
    }
    assert!(gateway.client().try_connect(&["http/1.1"]).is_err(), "TLS without a header");

    upstream.expect_only(0);
    let counted = gateway.metric("portcullis_connections_refused_total", &[("reason", "proxy_protocol")]);
    assert_eq!(counted, 4.0);
}

#[test]
fn a_header_of_a_stranger_is_no_request() {
    let upstream = Upstream::start();
    let gateway = balanced(&upstream, "192.0.2.0/24").start();

    let answer = plain(&gateway, V1);

    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    upstream.expect_only(0);
    assert!(plain(&gateway, b"").starts_with("HTTP/1.1 200"), "who is not in the list needs none");
    assert_eq!(told(&upstream), "127.0.0.1");
}

#[test]
fn limits_hold_for_the_client_and_not_for_the_load_balancer() {
    let upstream = Upstream::start();
    let gateway = balanced(&upstream, "127.0.0.1").table("[limits]\nmax_connections_per_address = 1\n").start();
    let address = gateway.addresses().gateway[1];
    let connect = |client: &str| {
        let mut socket = TcpStream::connect(address).unwrap();
        let header = format!("PROXY TCP4 {client} 198.51.100.1 1 443\r\n");
        let _ = socket.write_all(format!("{header}GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n").as_bytes());
        let mut first = [0; 12];
        let served = socket.read_exact(&mut first).is_ok() && &first == b"HTTP/1.1 200";
        (served, socket)
    };

    let (served, _held) = connect("192.0.2.7");
    assert!(served);
    assert!(!connect("192.0.2.7").0, "a second connection of the same client");
    assert!(connect("192.0.2.8").0, "another client through the same load balancer");
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for_longer_than_a_handshake() {
    let upstream = Upstream::start();
    let gateway = balanced(&upstream, "127.0.0.1").table("[limits]\nhandshake_timeout = \"200ms\"\n").start();
    let mut socket = TcpStream::connect(gateway.addresses().gateway[1]).unwrap();
    socket.write_all(&V1[..20]).unwrap();

    assert_eq!(socket.read(&mut [0; 1]).unwrap_or(0), 0, "it is closed");
}

/// HAProxy as a TCP load balancer in front.
fn haproxy(folder: &std::path::Path, gateway: SocketAddr, option: &str) -> Option<(Program, SocketAddr)> {
    let program = found("haproxy")?;
    let address = free_address();
    let config = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         frontend in\n  bind {address}\n  default_backend out\n\
         backend out\n  server gateway {gateway} {option}\n"
    );
    let path = folder.join("haproxy.cfg");
    fs::write(&path, config).unwrap();
    Some((Program::start(Command::new(program).arg("-f").arg(path), address), address))
}

#[test]
fn haproxy_in_front_of_tls_passes_on_who_connects_in_both_versions() {
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"] {
        let upstream = Upstream::start();
        let gateway = balanced(&upstream, "127.0.0.1").start();
        let folder = tempfile::tempdir().unwrap();
        let Some((_haproxy, address)) = haproxy(folder.path(), gateway.addresses().gateway[0], option) else { return };
        let resolve = format!("app.test:{}:{}", address.port(), address.ip());

        // Its own connections to the gateway come from 127.0.0.1.
        let output = Command::new("curl")
            .args(["-sk", "--interface", "127.0.0.2", "--resolve", &resolve])
            .arg(format!("https://app.test:{}/x", address.port()))
            .output()
            .unwrap();

        assert!(output.status.success(), "{option}: {output:?}");
        assert_eq!(told(&upstream), "127.0.0.2", "{option}");
    }
}

#[test]
fn a_process_that_follows_hears_the_load_balancer_as_the_one_before_it_did() {
    let upstream = Upstream::start();
    let address = free_address();
    let mut gateway = Gateway::new()
        .server(&format!("listen = [\"http://{address}\"]"))
        .server("proxy_protocol_from = [\"127.0.0.1\"]")
        .server("drain_timeout = \"180s\"")
        .route("/{*rest}", &upstream)
        .auth(&["none"])
        .can_be_followed()
        .start_process();
    // One request is under way, of another connection the header.
    let connect = |first: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(first).unwrap();
        socket
    };
    let end = |mut socket: TcpStream, last: &[u8]| {
        let mut answer = String::new();
        socket.write_all(last).unwrap();
        let _ = socket.read_to_string(&mut answer);
        answer
    };
    let head = b"POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhello";
    let under_way = connect(&[V1, head].concat());
    eventually("the upstream has its beginning", || !upstream.bytes_seen().is_empty());
    let half = connect(&V1[..20]);

    let old = gateway.upgrade();

    assert!(end(under_way, b"world").starts_with("HTTP/1.1 200"));
    assert_eq!(told(&upstream), "192.0.2.7");
    let request = b"GET /x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let answer = end(half, &[&V1[20..], request].concat());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(told(&upstream), "192.0.2.7");
    assert_eq!(old.wait(), Some(0));
    assert!(plain_at(address, V1).starts_with("HTTP/1.1 200"));
    assert_eq!(told(&upstream), "192.0.2.7");
    let requests = upstream.request_count();
    assert_eq!(plain_at(address, b""), "", "who says nothing is not heard");
    upstream.expect_only(requests);
}
