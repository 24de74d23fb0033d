//! Failures of upstreams over HTTP/1.1 and HTTP/2, one after the other, leave nothing behind (R16, R19): descriptors,
//! threads and what is under way are as before, and memory does not grow.
//!
//! Four thousand failures against two thousand in the usual run, when caches still fill; a hundred thousand against ten
//! thousand with `PORTCULLIS_LONG_RUN=1`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
};

use super::{
    faults::{Does, FAULTS},
    faults_http2::{self, Then},
};
use crate::support::{Gateway, eventually, metric_sum, process::Process};

/// Fails as each path says, and remembers nothing: the harness's upstream keeps all that it ever saw.
fn failing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            thread::spawn(move || fail(stream));
        }
    });
    address
}

/// The same over HTTP/2, in turns: what a stream is for is not read.
fn failing_http2() -> SocketAddr {
    let faults: Vec<_> = faults_http2::FAULTS.iter().filter(|fault| !matches!(fault.2, Then::Waits)).collect();
    let next = AtomicUsize::new(0);
    faults_http2::serving(move || {
        let (_, frames, then, _) = faults[next.fetch_add(1, SeqCst) % faults.len()];
        Some((*frames, *then))
    })
}

fn fail(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        head.extend_from_slice(&bytes[..count]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let line = String::from_utf8_lossy(&head).into_owned();
        let number = line.split(['/', ' ']).find_map(|word| word.parse::<usize>().ok());
        match number.and_then(|number| FAULTS.get(number)).map(|fault| fault.1) {
            Some(Does::Stays(text)) => {
                let _ = stream.write_all(text.as_bytes());
            }
            Some(Does::Ends(text) | Does::Early(text) | Does::Waits(text)) => {
                let _ = stream.write_all(text.as_bytes());
                return;
            }
            Some(Does::Resets(text)) => {
                let _ = stream.write_all(text.as_bytes());
                let _ = rustix::net::connect_unspec(&stream);
                return;
            }
            Some(Does::Floods(first, then)) => {
                let _ = stream.write_all(first.as_bytes());
                let piece = then.repeat(100);
                while stream.write_all(piece.as_bytes()).is_ok() {}
                return;
            }
            None => return,
        }
        head.clear();
    }
}

/// So many failures, on four connections at a time that are opened anew where they were cut.
fn failures(process: &Process, count: usize) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            let (next, client) = (&next, process.client());
            scope.spawn(move || {
                let mut connection = client.connect();
                loop {
                    let number = next.fetch_add(1, SeqCst);
                    if number >= count {
                        return;
                    }
                    // Every other one goes to the server over HTTP/2.
                    let path = format!("/{}{}", ["", "http2/"][number % 2], number / 2 % FAULTS.len());
                    if number % 25 == 0 {
                        let _ = client.get(&path).try_send_http2();
                        continue;
                    }
                    let sent = connection.write(&client.get(&path).bytes());
                    let answer = connection.read_response("GET").ok().filter(|_| sent.is_ok());
                    if answer.is_none_or(|answer| answer.header("connection") == Some("close")) {
                        connection = client.connect();
                    }
                }
            });
        }
    });
}

#[derive(Debug, Eq, PartialEq)]
struct Left {
    descriptors: usize,
    threads: usize,
    under_way: usize,
}

fn metric(process: &Process, name: &str) -> usize {
    metric_sum(&process.telemetry(), name) as usize
}

/// What is there once all is quiet, but for connections that are kept for the next request.
fn left(process: &Process) -> Left {
    eventually("all is quiet", || {
        metric(process, "portcullis_connections") + metric(process, "portcullis_requests_in_flight") == 0
    });
    let entries = |folder: &str| {
        let folder = format!("/proc/{}/{folder}", process.id());
        std::fs::read_dir(folder).expect("a living process has one").count()
    };
    let kept = metric(process, "portcullis_upstream_connections");
    Left {
        descriptors: entries("fd") - kept,
        threads: entries("task"),
        under_way: metric(process, "portcullis_upstream_requests_under_way"),
    }
}

#[test]
fn failures_leave_neither_descriptors_nor_tasks_nor_memory_behind() {
    let (first, all, may_grow) = match std::env::var_os("PORTCULLIS_LONG_RUN") {
        None => (2_000, 4_000, 8 << 20),
        Some(_) => (10_000, 100_000, 2 << 20),
    };
    let process = Gateway::new()
        .server("workers = 2")
        .route_to("path = \"/{*rest}\"", &format!("servers = [\"http://{}\"]", failing()))
        .upstream_key("response_timeout = \"5s\"")
        .auth(&["none"])
        .route_to("path = \"/http2/{*rest}\"", &format!("servers = [\"h2c://{}\"]", failing_http2()))
        .upstream_key("response_timeout = \"5s\"\nread_timeout = \"5s\"")
        .auth(&["none"])
        .start_process();
    failures(&process, first);
    let (before, resident) = (left(&process), process.resident_bytes());

    failures(&process, all - first);

    // The connection that told a metric may be there for a moment more.
    eventually("as much is left as before", || left(&process) == before);
    let grown = process.resident_bytes().saturating_sub(resident);
    assert!(grown <= may_grow, "{grown} bytes more after {all} failures than after {first}");
    if all > 4_000 {
        eprintln!("{all} failures: {before:?}, {} KiB resident, {} KiB more", resident >> 10, grown >> 10);
    }
    process.client().get("/nowhere").send().expect(502);
}
