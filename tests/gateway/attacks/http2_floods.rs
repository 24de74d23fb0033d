//! Floods and slowness over HTTP/2 (R19): each ends by its bound, is counted, and leaves others alone.

use std::time::Duration;

use crate::support::{
    Gateway, Reply, Upstream, eventually,
    gateway::Running,
    http2::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, End, GOAWAY, HEADERS, Http2, PING, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, block, frame, get, number,
    },
};

fn limited(upstream: &Upstream, limits: &str) -> Running {
    Gateway::with(&format!("[limits]\n{limits}")).route("/{*rest}", upstream).auth(&["none"]).start()
}

fn ask(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("app.test", path)))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn goaways(gateway: &Running, code: &str) -> f64 {
    gateway.metric("portcullis_http2_goaways_total", &[("code", code)])
}

fn resets(gateway: &Running, code: &str) -> f64 {
    gateway.metric("portcullis_http2_resets_total", &[("code", code)])
}

fn floods(gateway: &Running, kind: &str) -> f64 {
    gateway.metric("portcullis_http2_floods_total", &[("kind", kind)])
}

/// CVE-2023-44487, at once: the library's own bound.
#[test]
fn resets_that_come_at_once_are_counted_as_what_they_are() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_streams = 16");
    let mut connection = Http2::connect(&gateway.client());
    let flood: Vec<u8> = (0..1000).flat_map(|at| [ask(2 * at + 1, "/x"), reset(2 * at + 1)].concat()).collect();

    let _ = connection.write(&flood);

    assert!(matches!(connection.end_of(u32::MAX), End::GoAway(11) | End::Closed));
    eventually("it is counted", || goaways(&gateway, "enhance_your_calm") + floods(&gateway, "resets") >= 1.0);
    gateway.client().get("/after").send_http2().expect(200);
}

/// CVE-2023-44487 and its slower kin: the client waits until each request is under way, and then takes it back.
#[test]
fn resets_that_wait_for_their_request_end_the_connection() {
    let upstream = Upstream::start();
    upstream.respond(|seen| match &*seen.path {
        "/held" => Reply::take_over(|stream| {
            let _ = std::io::Read::read(stream, &mut [0; 1]);
        }),
        _ => Reply::ok("ok"),
    });
    let gateway = limited(&upstream, "max_streams = 16");
    let mut connection = Http2::connect(&gateway.client());
    let mut sent = 0;

    while sent < 600 && connection.write(&ask(2 * sent + 1, "/held")).is_ok() && connection.is_alive() {
        let _ = connection.write(&reset(2 * sent + 1));
        sent += 1;
    }

    assert!((499..=501).contains(&sent), "{sent} requests were taken back");
    assert_eq!(floods(&gateway, "resets"), 1.0);
    eventually("nothing is held upstream", || upstream.open_connections() == 0);
    gateway.client().get("/after").send_http2().expect(200);
}

/// A browser that changes its mind often goes on.
#[test]
fn a_client_that_takes_back_half_of_its_requests_goes_on() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_streams = 16");
    let mut connection = Http2::connect(&gateway.client());
    for number in 0..600 {
        let stream = 4 * number + 1;
        connection.write(&ask(stream, "/x")).unwrap();
        assert_eq!(connection.end_of(stream), End::Status(200));
        connection.write(&[ask(stream + 2, "/x"), reset(stream + 2)].concat()).unwrap();
    }
    assert!(connection.is_alive());
    assert_eq!(floods(&gateway, "resets"), 0.0);
}

/// CVE-2019-9512, 9513, 9515, 9518: frames that bring nothing on, while a request is under way.
#[test]
fn frames_that_bring_nothing_on_end_the_connection() {
    let upstream = Upstream::start();
    upstream.respond_early(|seen| {
        (seen.path == "/held")
            .then(|| Reply::take_over(|stream| while let Ok(1..) = std::io::Read::read(stream, &mut [0; 64]) {}))
    });
    let gateway = limited(&upstream, "max_streams = 16");
    let post = {
        let mut fields = get("app.test", "/held");
        fields[0].1 = b"POST";
        frame(HEADERS, END_HEADERS, 1, &block(&fields))
    };
    let kinds = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PING answers", frame(PING, 1, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS with a value", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9])),
        ("empty DATA", frame(DATA, 0, 1, &[])),
        ("padded empty DATA", frame(DATA, 8, 1, &[0])),
        ("windows of one byte", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("frames of no kind", frame(0xbe, 0, 0, &[0; 32])),
    ];
    for (number, (what, one)) in kinds.iter().enumerate() {
        let mut connection = Http2::connect(&gateway.client());
        connection.write(&post).unwrap();
        let mut written = 0;
        let flood = one.repeat(500);
        // The other direction is drained, so that nothing stands still for want of reading.
        while written < 20_000 && connection.write(&flood).is_ok() {
            written += 500;
            if !connection.is_alive() {
                break;
            }
        }
        assert!(written <= 11_000, "{what}: {written} frames were taken");
        // The library has a bound of its own for padded pieces of nothing.
        let ended = || floods(&gateway, "control_frames") + goaways(&gateway, "enhance_your_calm");
        eventually(&format!("{what}: it is counted"), || ended() == number as f64 + 1.0);
        eventually("the upstream's end is closed", || upstream.open_connections() == 0);
    }
    gateway.client().get("/after").send_http2().expect(200);
}

/// RFC 9113 section 6.1: a piece of nothing is no error, and some clients flush so. A connection lives on through any
/// number of them, however its bytes are cut; too many within a short time are a flood (see above).
#[test]
fn empty_pieces_of_bodies_end_no_connection_that_lives_long() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_streams = 16");
    let mut connection = Http2::connect(&gateway.client());
    let mut post = get("app.test", "/x");
    post[0].1 = b"POST";
    for round in 0..40_u32 {
        let stream = 2 * round + 1;
        let empty = frame(DATA, 0, stream, &[]);
        let body = [empty.repeat(5), frame(DATA, 0, stream, b"he"), empty.repeat(5), frame(DATA, 0, stream, b"llo")];
        let head = frame(HEADERS, END_HEADERS, stream, &block(&post));
        let all = [head, body.concat(), frame(DATA, END_STREAM, stream, &[])].concat();
        for piece in all.chunks(if round % 2 == 0 { 1_000 } else { 7 + round as usize % 5 }) {
            connection.write(piece).unwrap();
        }
        assert_eq!(connection.end_of(stream), End::Status(200));
        assert_eq!(upstream.next_request().body, b"hello");
    }
    assert!(connection.is_alive());
}

/// RFC 9113 section 5.1: what is an error stays one, be it empty.
#[test]
fn empty_pieces_where_no_body_is_are_errors() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_streams = 16");
    for (what, stream) in [("never opened", 5), ("on the connection", 0)] {
        let mut connection = Http2::connect(&gateway.client());
        connection.write(&[ask(1, "/x"), frame(DATA, 0, stream, &[])].concat()).unwrap();
        assert_eq!(connection.end_of(7), End::GoAway(1), "{what}");
    }
}

/// CVE-2024-27316 and its like, CVE-2016-8740; RFC 7541 section 7.3.
#[test]
fn heads_without_end_and_heads_that_unpack_large_are_counted() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_header_bytes = \"8KiB\"");
    let ended = || {
        goaways(&gateway, "enhance_your_calm")
            + goaways(&gateway, "compression_error")
            + goaways(&gateway, "protocol_error")
    };
    for (number, piece) in [block(&[(b"x", &[b'y'; 1000])]), block(&[(b"x", b"y")]), Vec::new()].iter().enumerate() {
        let mut connection = Http2::connect(&gateway.client());
        let _ = connection.write(&frame(HEADERS, END_STREAM, 1, &block(&get("app.test", "/x"))));
        let flood = frame(CONTINUATION, 0, 1, piece).repeat(64);
        let mut written = 0;
        while written < 16 << 20 && connection.write(&flood).is_ok() {
            written += flood.len();
        }
        assert!(written < 16 << 20, "{written} bytes were taken");
        eventually("it is counted", || ended() == number as f64 + 1.0);
    }
    // 3 KiB in the table, 40 times.
    let mut bomb = block(&get("app.test", "/x"));
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xb8, 0x16]);
    bomb.extend_from_slice(&[b'y'; 127 + 0x38 + (0x16 << 7)]);
    bomb.extend_from_slice(&[0xbe; 40]);
    let mut connection = Http2::connect(&gateway.client());
    let _ = connection.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    let end = connection.end_of(1);
    assert!(!matches!(end, End::Status(200)), "{end:?}");
    upstream.expect_only(0);
    gateway.client().get("/after").send_http2().expect(200);
}

#[test]
fn malformed_requests_and_refused_streams_are_counted() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "max_streams = 2");
    upstream.respond(|_| {
        Reply::take_over(|stream| {
            let _ = std::io::Read::read(stream, &mut [0; 1]);
        })
    });
    let mut fields = get("app.test", "/x");
    fields.push((b"connection", b"close"));

    let mut connection = Http2::connect(&gateway.client());
    assert_eq!(connection.ask(&fields), End::Reset(1));
    eventually("it is counted", || resets(&gateway, "protocol_error") == 1.0);
    connection.write(&[ask(3, "/x"), ask(5, "/x"), ask(7, "/x")].concat()).unwrap();
    assert_eq!(connection.end_of(7), End::Reset(7));
    eventually("it is counted", || resets(&gateway, "refused_stream") == 1.0);
}

/// As over HTTP/1.1: a head that does not end, and one that drips.
#[test]
fn a_head_over_http2_that_does_not_end_is_cut() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "header_timeout = \"300ms\"\nmax_header_bytes = \"64KiB\"");
    let begin = frame(HEADERS, END_STREAM, 1, &block(&get("app.test", "/x")));
    // Its one frame announces more than ever comes.
    let mut endless = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0; 16_384]);
    endless.truncate(9);
    let [mut silent, mut dripping] = [begin, endless].map(|begin| {
        let mut connection = Http2::connect(&gateway.client());
        assert!(connection.is_alive());
        connection.write(&begin).unwrap();
        connection.fall_silent();
        connection
    });

    eventually("the one that drips is cut", || dripping.write(b"\0").is_err());

    assert_eq!(silent.end_of(1), End::Closed);
    assert_eq!(gateway.metric("portcullis_timeouts_total", &[("phase", "head")]), 2.0);
    eventually("nothing is open", || gateway.metric("portcullis_connections", &[]) == 0.0);
    upstream.expect_only(0);
}

/// CVE-2019-9517: a client that opens no window holds no answer and no upstream. Others of its connection go on.
#[test]
fn an_answer_over_http2_that_its_client_does_not_take_is_cut() {
    let upstream = Upstream::start();
    upstream.respond(|seen| match &*seen.path {
        "/large" => Reply::take_over(|stream| {
            let _ = std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
            while std::io::Write::write_all(stream, &[b'x'; 4096]).is_ok() {}
        }),
        "/quiet" => Reply::take_over(|stream| {
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\nevent";
            let _ = std::io::Write::write_all(stream, head);
            let _ = std::io::Read::read(stream, &mut [0; 1]);
        }),
        _ => Reply::ok("ok"),
    });
    let gateway = limited(&upstream, "write_timeout = \"300ms\"");
    let quiet = ask(3, "/quiet");
    for (what, settings, beside) in [("never a byte", &[0, 4, 0, 0, 0, 0][..], &[][..]), ("stuck midway", &[], &quiet)]
    {
        let before = gateway.metric("portcullis_timeouts_total", &[("phase", "write")]);
        let mut connection = Http2::connect(&gateway.client());
        connection.write(&ask(1, "/x")).unwrap();
        assert_eq!(connection.end_of(1), End::Status(200));
        if !beside.is_empty() {
            connection.write(beside).unwrap();
            while !matches!(connection.read().unwrap(), frame if frame.kind == DATA && frame.stream == 3) {}
        }
        connection.write(&[frame(SETTINGS, 0, 0, settings), ask(5, "/large")].concat()).unwrap();

        let ended = loop {
            let frame = connection.read().expect("the connection goes on");
            if frame.kind == RST_STREAM || frame.kind == GOAWAY {
                break frame;
            }
        };
        assert_eq!((ended.kind, ended.stream, number(&ended.payload)), (RST_STREAM, 5, 8), "{what}");
        assert!(connection.is_alive(), "{what}");
        // What waits for its upstream is not the client's fault: it had room for all that there was.
        assert_eq!(gateway.metric("portcullis_timeouts_total", &[("phase", "write")]), before + 1.0, "{what}");
        let held = usize::from(!beside.is_empty());
        eventually("the upstream's end is closed", || upstream.open_connections() <= held + 1);
        drop(connection);
    }
    eventually("nothing is held upstream but what is kept for later", || upstream.open_connections() <= 1);
    // Whoever takes a piece now and then keeps its answer: half a second and more with 300 milliseconds' patience.
    let mut connection = Http2::connect(&gateway.client());
    connection.write(&ask(1, "/large")).unwrap();
    for _ in 0..12 {
        while connection.read().expect("a frame").kind != DATA {}
        std::thread::sleep(Duration::from_millis(50));
        let more = 131_072_u32.to_be_bytes();
        connection.write(&[frame(WINDOW_UPDATE, 0, 0, &more), frame(WINDOW_UPDATE, 0, 1, &more)].concat()).unwrap();
    }
    assert!(connection.is_alive());
}

#[test]
fn an_idle_connection_over_http2_is_closed_though_it_pings() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream, "idle_timeout = \"300ms\"");
    let mut connection = Http2::connect(&gateway.client());
    connection.write(&ask(1, "/x")).unwrap();
    assert_eq!(connection.end_of(1), End::Status(200));

    eventually("it is closed", || !connection.is_alive());
    assert_eq!(gateway.metric("portcullis_timeouts_total", &[("phase", "idle")]), 1.0);

    // One that never says what it wants is closed, too.
    let mut silent = gateway.client().try_connect(&["h2"]).unwrap();
    assert!(!silent.read_to_end().is_empty(), "SETTINGS, and then the end");
}
