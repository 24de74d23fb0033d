//! Slow clients, and clients that do not listen (R19). Limits are set small instead of waiting for the real ones.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    Gateway, Reply, Upstream, eventually,
    gateway::Running,
    http2::{END_HEADERS, End, HEADERS, Http2, block, frame},
};

fn limited(upstream: &Upstream, limits: &str) -> Gateway {
    Gateway::with(&format!("[limits]\n{limits}")).route("/{*rest}", upstream).auth(&["none"])
}

/// Waits until so many were ended by this deadline: each is counted, once.
#[track_caller]
fn expect_timeouts(gateway: &Running, phase: &str, count: f64) {
    let counted = || gateway.metric("portcullis_timeouts_total", &[("phase", phase)]);
    eventually(&format!("{phase}: it is counted"), || counted() >= count);
    assert_eq!(counted(), count, "{phase}");
}

/// R19.
#[test]
fn a_head_that_does_not_end_is_answered_with_408() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "header_timeout = \"300ms\"").start();
    for begin in ["G", "GET /x HTTP/1.1\r\n", "GET /x HTTP/1.1\r\nHost: app.test\r\nX: y\r\n"] {
        let answer = gateway.client().raw_response(begin).expect(408);

        assert_eq!((answer.header("connection"), answer.header("cache-control")), (Some("close"), Some("no-store")));
    }
    expect_timeouts(&gateway, "head", 3.0);
    upstream.expect_only(0);
}

/// R19. A byte now and then buys no time: the deadline is for the whole head.
#[test]
fn a_head_that_drips_is_answered_with_408() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "header_timeout = \"300ms\"").start();
    let mut connection = gateway.client().connect();
    let mut dripped = 0;
    connection.write(b"GET /x HTTP/1.1\r\nHost: app.test\r\n").unwrap();

    eventually("the gateway has had enough", || {
        dripped += 1;
        connection.write(b"X: y\r\n").is_err() || dripped >= 90
    });

    assert!(connection.read_to_end().starts_with(b"HTTP/1.1 408 "));
    expect_timeouts(&gateway, "head", 1.0);
    upstream.expect_only(0);
}

/// R19.
#[test]
fn a_body_below_the_rate_is_cut_up_to_the_upstream() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "body_min_rate = \"1KiB/s\"\nbody_window = \"300ms\"").start();
    let mut connection = gateway.client().connect();

    connection.write(b"POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000\r\n\r\nabc").unwrap();

    let text = String::from_utf8_lossy(&connection.read_to_end()).into_owned();
    assert!(!text.contains(" 200 "), "{text}");
    eventually("the upstream's connection is cut", || upstream.broken_count() == 1);
    assert_eq!(upstream.request_count(), 0);
    expect_timeouts(&gateway, "body", 1.0);
}

/// R19. The same for requests that were refused: nobody waits for their bodies either.
#[test]
fn a_slow_body_of_a_refused_request_is_cut() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "body_min_rate = \"1KiB/s\"\nbody_window = \"300ms\"").start();
    let mut connection = gateway.client().connect();

    connection.write(b"POST /../x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\nabc").unwrap();

    connection.read_response("POST").unwrap().expect(400);
    assert!(connection.is_closed_by_peer());
    expect_timeouts(&gateway, "body", 1.0);
    upstream.expect_only(0);
}

/// R19.
#[test]
fn a_body_over_http2_below_the_rate_is_cut() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "body_min_rate = \"1KiB/s\"\nbody_window = \"300ms\"").start();
    let mut connection = Http2::connect(&gateway.client());
    let fields: &[(&[u8], &[u8])] =
        &[(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"app.test"), (b":path", b"/x")];

    connection.write(&frame(HEADERS, END_HEADERS, 1, &block(fields))).unwrap();

    let end = connection.end_of(1);
    assert!(!matches!(end, End::Status(200)), "{end:?}");
    assert_eq!(upstream.request_count(), 0);
    expect_timeouts(&gateway, "body", 1.0);
}

/// R19.
#[test]
fn an_idle_connection_and_a_silent_handshake_are_closed() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "idle_timeout = \"300ms\"\nhandshake_timeout = \"300ms\"").start();
    let mut connection = gateway.client().connect();
    connection.send(&gateway.client().get("/x")).expect(200);
    let mut silent = gateway.plain_client(0).connect();

    assert!(connection.is_closed_by_peer());
    assert!(silent.is_closed_by_peer());
    expect_timeouts(&gateway, "idle", 1.0);
    expect_timeouts(&gateway, "handshake", 1.0);
    upstream.expect_only(1);
}

/// An upstream that sends without end, and how much was taken from it before it was stuck for half a second.
fn endless(upstream: &Upstream) -> Arc<AtomicUsize> {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    upstream.respond(move |seen| {
        if seen.path != "/endless" {
            return Reply::ok("ok");
        }
        let counted = Arc::clone(&counted);
        Reply::take_over(move |stream| {
            stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
            while let Ok(count @ 1..) = stream.write(&[b'x'; 64 * 1024]) {
                counted.fetch_add(count, Ordering::SeqCst);
            }
            counted.fetch_or(STUCK, Ordering::SeqCst);
        })
    });
    taken
}

const STUCK: usize = 1 << 40;

/// R19. Back-pressure reaches the upstream: of a gigabyte only what buffers hold is taken, and memory stays flat.
#[test]
fn a_client_that_does_not_read_costs_no_memory() {
    let upstream = Upstream::start();
    let taken = endless(&upstream);
    let gateway = limited(&upstream, "write_timeout = \"60s\"").start_process();
    gateway.client().get("/warm").send().expect(200);
    let before = gateway.resident_bytes();
    let mut clients: Vec<_> = (0..4).map(|_| gateway.client().connect()).collect();

    for client in &mut clients {
        taken.store(0, Ordering::SeqCst);
        client.write(&gateway.client().get("/endless").bytes()).unwrap();
        eventually("the upstream is stuck", || taken.load(Ordering::SeqCst) & STUCK != 0);

        let bytes = taken.load(Ordering::SeqCst) & (STUCK - 1);
        assert!(bytes < 32 << 20, "{bytes} bytes were taken of the upstream");
    }

    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "resident memory grew by {grown} bytes");
    gateway.client().get("/after").send().expect(200);
}

/// R19.
#[test]
fn a_client_that_does_not_read_is_cut() {
    let upstream = Upstream::start();
    let taken = endless(&upstream);
    let gateway = limited(&upstream, "write_timeout = \"300ms\"").start();
    let mut client = gateway.client().connect();

    client.write(&gateway.client().get("/endless").bytes()).unwrap();

    eventually("the upstream's connection ends", || taken.load(Ordering::SeqCst) & STUCK != 0);
    eventually("nothing is open any more", || upstream.open_connections() == 0);
    expect_timeouts(&gateway, "write", 1.0);
}
