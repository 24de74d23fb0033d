//! Servers that flood their connections over HTTP/2: cut, counted and told, and nobody else feels it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use crate::support::{
    Gateway, Upstream,
    http2::{PING, SETTINGS, frame},
};

/// Greets, waits for the first request and sends pings for as long as somebody takes them.
fn flooding() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let flood = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, flood) = (stream.expect("a connection"), flood.clone());
            thread::spawn(move || {
                let mut reading = stream.try_clone().expect("a second handle");
                let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]));
                let _ = reading.read(&mut [0; 1 << 16]);
                thread::spawn(move || while reading.read(&mut [0; 1 << 16]).is_ok_and(|read| read > 0) {});
                while stream.write_all(&flood).is_ok() {}
            });
        }
    });
    address
}

#[test]
fn a_server_that_floods_takes_bounded_memory_and_is_cut_counted_and_told() {
    let (address, quiet) = (flooding(), Upstream::start());
    let gateway = Gateway::new()
        .server("workers = 1")
        .route_to("path = \"/flood\"", &format!("servers = [\"h2c://{address}\"]"))
        .auth(&["none"])
        .route("/{*rest}", &quiet)
        .auth(&["none"])
        .start_process();
    gateway.client().get("/quiet").send().expect(200);
    let before = gateway.peak_bytes();

    for _ in 0..20 {
        gateway.client().get("/flood").send().expect(502);
        gateway.client().get("/quiet").send().expect(200);
    }

    let line = gateway.says("a server floods a connection over HTTP/2");
    assert!(line.contains(&format!("h2c://{address}")), "{line}");
    let metrics = gateway.telemetry().get("/metrics").send().expect(200).text();
    let of_it = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(&address.to_string()));
        line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.to_owned())
    };
    assert_eq!(of_it("portcullis_upstream_floods_total").as_deref(), Some("20"));
    assert_eq!(of_it("portcullis_upstream_connections").as_deref(), Some("0"));
    let grown = gateway.peak_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
}
