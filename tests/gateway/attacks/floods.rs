//! Everything is bounded (R19): heads, connections, streams and resets. After each flood the gateway serves others.

use crate::support::{
    Gateway, Upstream, eventually,
    gateway::Running,
    http2::{CONTINUATION, END_HEADERS, END_STREAM, End, HEADERS, Http2, RST_STREAM, block, frame, get},
};

fn limited(upstream: &Upstream, limits: &str) -> Running {
    Gateway::with(&format!("[limits]\n{limits}")).route("/{*rest}", upstream).auth(&["none"]).start()
}

/// R19.
#[test]
fn a_head_above_the_bound_is_refused_with_431() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_header_bytes = \"2KiB\"");
    let head = |length: usize| {
        let begin = "GET /x HTTP/1.1\r\nHost: app.test\r\nX: ";
        format!("{begin}{}\r\n\r\n", "y".repeat(length - begin.len() - 4))
    };
    let line = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: app.test\r\n\r\n", "y".repeat(length));

    gateway.client().raw_response(head(2049)).expect(431);
    gateway.client().raw_response(line(4096)).expect(431);
    gateway.client().raw_response("x".repeat(4096)).expect(431);
    assert_eq!(gateway.metric("portcullis_malformed_total", &[("reason", "head_too_large")]), 3.0);
    gateway.client().get("/x").header("X", &"y".repeat(4096)).send_http2().expect(431);
    upstream.expect_only(0);

    gateway.client().raw_response(head(2048)).expect(200);
    gateway.client().get("/x").header("X", &"y".repeat(1024)).send_http2().expect(200);
    upstream.expect_only(2);
}

/// R19.
#[test]
fn more_fields_than_the_bound_are_refused_with_431() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_headers = 8");
    let request = |count: usize| {
        // With `Host` one less of ours.
        (1..count).fold(gateway.client().get("/x"), |request, number| request.header(&format!("X-{number}"), "y"))
    };

    request(9).send().expect(431);
    request(200).send().expect(431);
    request(10).send_http2().expect(431);
    upstream.expect_only(0);

    request(8).send().expect(200);
    request(8).send_http2().expect(200);
    upstream.expect_only(2);
}

/// R19. Trailers are bounded like heads.
#[test]
fn trailers_without_end_are_cut() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_headers = 8");
    let head = "POST /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n";
    let send = |count: usize| gateway.client().raw(format!("{head}{}\r\n", "X: y\r\n".repeat(count)));

    assert!(!String::from_utf8_lossy(&send(9)).contains(" 200 "));
    assert_eq!(upstream.request_count(), 0);
}

/// R19.
#[test]
fn connections_of_one_address_are_bounded() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_connections_per_address = 2");
    let request = gateway.client().get("/x");
    let mut first = gateway.client().connect();
    let mut second = gateway.client().connect();
    first.send(&request).expect(200);
    second.send(&request).expect(200);

    assert!(gateway.client().try_connect(&["http/1.1"]).is_err(), "a third is closed unheard");
    assert_eq!(gateway.metric("portcullis_connections_refused_total", &[("reason", "per_address")]), 1.0);
    second.send(&request).expect(200);
    drop(first);

    eventually("its place is free", || gateway.client().try_connect(&["http/1.1"]).is_ok());
    upstream.expect_only(3);
}

/// R19.
#[test]
fn connections_altogether_are_bounded() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_connections = 1");
    let mut only = gateway.client().connect();
    only.send(&gateway.client().get("/x")).expect(200);

    assert!(gateway.client().try_connect(&["http/1.1"]).is_err());
    assert_eq!(gateway.metric("portcullis_connections_refused_total", &[("reason", "max_connections")]), 1.0);

    drop(only);
    eventually("its place is free", || gateway.client().try_connect(&["http/1.1"]).is_ok());
}

/// R19 (CVE-2023-44487).
#[test]
fn a_rapid_reset_ends_the_connection() {
    const STREAMS: u32 = 2000;
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_streams = 16");
    let mut connection = Http2::connect(&gateway.client());
    let open = block(&get("app.test", "/x"));
    let flood: Vec<u8> = (0..STREAMS)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, &open), reset].concat()
        })
        .collect();

    let written = connection.write(&flood);
    let end = connection.end_of(u32::MAX);

    assert!(matches!(end, End::GoAway(11) | End::Closed), "{end:?}, written: {written:?}");
    gateway.client().get("/after").send().expect(200);
    assert!(upstream.request_count() < 500, "{} requests got through", upstream.request_count());
}

/// R19.
#[test]
fn streams_above_the_bound_are_refused() {
    let upstream = Upstream::start();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    upstream.respond(move |_| {
        let _ = released.lock().unwrap().recv();
        crate::support::Reply::ok("late")
    });
    let gateway = limited(&upstream, "max_streams = 2");
    let mut connection = Http2::connect(&gateway.client());
    let open = block(&get("app.test", "/x"));

    for stream in [1, 3, 5] {
        connection.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &open)).unwrap();
    }

    assert!(matches!(connection.end_of(5), End::Reset(7) | End::GoAway(_)));
    drop(release);
    eventually("the two are there", || upstream.request_count() == 2);
}

/// R19 (CVE-2024-27983 and its like).
#[test]
fn a_continuation_flood_ends_the_connection() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_header_bytes = \"8KiB\"");
    for (what, piece) in [
        ("large", frame(CONTINUATION, 0, 1, &block(&[(b"x", &[b'y'; 1000])]))),
        ("small", frame(CONTINUATION, 0, 1, &block(&[(b"x", b"y")]))),
        ("empty", frame(CONTINUATION, 0, 1, &[])),
    ] {
        let mut connection = Http2::connect(&gateway.client());
        let _ = connection.write(&frame(HEADERS, END_STREAM, 1, &block(&get("app.test", "/x"))));

        let mut written = 0;
        let flood = piece.repeat(64);
        while written < 64 * 1024 * 1024 && connection.write(&flood).is_ok() {
            written += flood.len();
        }

        assert!(written < 64 * 1024 * 1024, "{what}: {written} bytes were taken");
    }
    upstream.expect_only(0);
    gateway.client().get("/after").send_http2().expect(200);
}

/// R19. A small block that unpacks to a large list (RFC 7541 section 7.3).
#[test]
fn a_header_list_that_unpacks_large_is_refused() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_header_bytes = \"8KiB\"");
    let mut connection = Http2::connect(&gateway.client());
    let mut bomb = block(&get("app.test", "/x"));
    // A field of 3 KiB for the table, then references to it.
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xb8, 0x16]);
    bomb.extend_from_slice(&[b'y'; 127 + 0x38 + (0x16 << 7)]);
    bomb.extend_from_slice(&[0xbe; 4000]);

    let _ = connection.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));

    let end = connection.end_of(1);
    assert!(!matches!(end, End::Status(200)), "{end:?}");
    upstream.expect_only(0);
}
