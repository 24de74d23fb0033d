//! Abuse of HTTP/2: pseudo-headers, connection-specific fields, lengths that lie (R18; RFC 9113 sections 8.2 and 8.3).

use crate::support::{
    Gateway, Upstream, eventually,
    gateway::Running,
    http2::{DATA, END_HEADERS, END_STREAM, End, HEADERS, Http2, RST_STREAM, block, frame, get},
};

fn public(upstream: &Upstream) -> Running {
    Gateway::new().route("/{*rest}", upstream).auth(&["none"]).start()
}

type Field = (&'static [u8], &'static [u8]);

const METHOD: Field = (b":method", b"GET");
const SCHEME: Field = (b":scheme", b"https");
const AUTHORITY: Field = (b":authority", b"app.test");
const PATH: Field = (b":path", b"/x");

/// R18.
#[test]
fn malformed_requests_reach_no_upstream() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, fields) in [
        ("no method", &[SCHEME, AUTHORITY, PATH][..]),
        ("no scheme", &[METHOD, AUTHORITY, PATH]),
        ("no path", &[METHOD, SCHEME, AUTHORITY]),
        ("no authority and no host", &[METHOD, SCHEME, PATH]),
        ("two methods", &[METHOD, (b":method", b"POST"), SCHEME, AUTHORITY, PATH]),
        ("two paths", &[METHOD, SCHEME, AUTHORITY, PATH, (b":path", b"/y")]),
        ("two schemes", &[METHOD, SCHEME, (b":scheme", b"http"), AUTHORITY, PATH]),
        ("an unknown pseudo-header", &[METHOD, SCHEME, AUTHORITY, PATH, (b":admin", b"1")]),
        ("a pseudo-header of answers", &[METHOD, SCHEME, AUTHORITY, PATH, (b":status", b"200")]),
        ("a pseudo-header behind a field", &[METHOD, SCHEME, AUTHORITY, (b"x", b"y"), PATH]),
        ("a protocol without CONNECT", &[METHOD, SCHEME, AUTHORITY, PATH, (b":protocol", b"websocket")]),
        ("a name in capitals", &[METHOD, SCHEME, AUTHORITY, PATH, (b"X-User-Id", b"root")]),
        ("an empty name", &[METHOD, SCHEME, AUTHORITY, PATH, (b"", b"y")]),
        ("a blank in a name", &[METHOD, SCHEME, AUTHORITY, PATH, (b"x y", b"z")]),
        ("a colon in a name", &[METHOD, SCHEME, AUTHORITY, PATH, (b"x:y", b"z")]),
        ("a line end in a name", &[METHOD, SCHEME, AUTHORITY, PATH, (b"x\r\nx-user-id", b"root")]),
        ("a line end in a value", &[METHOD, SCHEME, AUTHORITY, PATH, (b"x", b"y\r\nx-user-id: root")]),
        ("a bare LF in a value", &[METHOD, SCHEME, AUTHORITY, PATH, (b"x", b"y\nx-user-id: root")]),
        ("a bare CR in a value", &[METHOD, SCHEME, AUTHORITY, PATH, (b"x", b"y\rz")]),
        ("a zero in a value", &[METHOD, SCHEME, AUTHORITY, PATH, (b"x", b"y\0z")]),
        ("a line end in the path", &[METHOD, SCHEME, AUTHORITY, (b":path", b"/x HTTP/1.1\r\nx-user-id: root\r\n\r\n")]),
        ("a blank in the path", &[METHOD, SCHEME, AUTHORITY, (b":path", b"/x HTTP/1.1")]),
        ("a line end in the method", &[(b":method", b"GET /y HTTP/1.1\r\n"), SCHEME, AUTHORITY, PATH]),
        ("a blank in the method", &[(b":method", b"GET /y"), SCHEME, AUTHORITY, PATH]),
        ("a line end in the authority", &[METHOD, SCHEME, (b":authority", b"app.test\r\nx: y"), PATH]),
        ("connection", &[METHOD, SCHEME, AUTHORITY, PATH, (b"connection", b"keep-alive")]),
        ("connection: close", &[METHOD, SCHEME, AUTHORITY, PATH, (b"connection", b"close, x-user-id")]),
        ("keep-alive", &[METHOD, SCHEME, AUTHORITY, PATH, (b"keep-alive", b"5")]),
        ("proxy-connection", &[METHOD, SCHEME, AUTHORITY, PATH, (b"proxy-connection", b"keep-alive")]),
        ("transfer-encoding", &[METHOD, SCHEME, AUTHORITY, PATH, (b"transfer-encoding", b"chunked")]),
        ("upgrade", &[METHOD, SCHEME, AUTHORITY, PATH, (b"upgrade", b"websocket")]),
        ("te that is not trailers", &[METHOD, SCHEME, AUTHORITY, PATH, (b"te", b"gzip")]),
        ("a length without a body", &[METHOD, SCHEME, AUTHORITY, PATH, (b"content-length", b"5")]),
        ("a length with plus", &[METHOD, SCHEME, AUTHORITY, PATH, (b"content-length", b"+0")]),
    ] {
        let end = Http2::connect(&gateway.client()).ask(fields);

        assert!(matches!(end, End::Status(400) | End::Reset(1) | End::GoAway(1)), "{what}: {end:?}");
    }
    upstream.expect_only(0);
}

/// R18.
#[test]
fn sound_requests_are_written_afresh_for_the_upstream() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let mut fields = get("app.test", "/x?y");
    fields.extend_from_slice(&[(b"te", b"trailers"), (b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"x", b"y")]);

    assert_eq!(Http2::connect(&gateway.client()).ask(&fields), End::Status(200));

    let seen = upstream.next_request();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/x?y"));
    assert_eq!((seen.header("host"), seen.header("x"), seen.header("te")), (Some("app.test"), Some("y"), None));
    assert_eq!(seen.header("cookie"), Some("a=b; c=d"));
    upstream.expect_only(1);
}

/// R18. A body whose length is not the one declared is never whole.
#[test]
fn a_length_that_lies_is_never_a_whole_request() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let post =
        |length: &'static [u8]| block(&[(b":method", b"POST"), SCHEME, AUTHORITY, PATH, (b"content-length", length)]);
    let send = |length: &'static [u8], body: &[u8]| {
        let mut connection = Http2::connect(&gateway.client());
        let head = frame(HEADERS, END_HEADERS, 1, &post(length));
        let _ = connection.write(&[head, frame(DATA, END_STREAM, 1, body)].concat());
        connection.end_of(1)
    };
    for (what, length, body) in [
        ("too short", &b"10"[..], &b"hello"[..]),
        ("too long", b"3", b"hello GET /inner HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("none", b"0", b"hello"),
        ("two lengths", b"5, 5", b"hello"),
        ("no number", b"five", b"hello"),
    ] {
        let end = send(length, body);

        assert!(!matches!(end, End::Status(200)), "{what}: {end:?}");
    }
    assert_eq!(upstream.request_count(), 0);

    assert_eq!(send(b"5", b"hello"), End::Status(200));
    assert_eq!((upstream.next_request().text().as_str(), upstream.request_count()), ("hello", 1));
}

/// R18. `NO_ERROR` too is no end of a body.
#[test]
fn a_stream_that_is_reset_is_never_a_whole_request() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for code in [0_u32, 8] {
        let broken = upstream.broken_count();
        let mut connection = Http2::connect(&gateway.client());
        let head = frame(HEADERS, END_HEADERS, 1, &block(&[(b":method", b"POST"), SCHEME, AUTHORITY, PATH]));
        connection.write(&[head, frame(DATA, 0, 1, b"hello")].concat()).unwrap();
        eventually("the upstream hears of it", || {
            String::from_utf8_lossy(&upstream.bytes_seen()).matches("hello").count() > broken
        });

        connection.write(&frame(RST_STREAM, 0, 1, &code.to_be_bytes())).unwrap();

        eventually("the upstream's connection is cut", || upstream.broken_count() == broken + 1);
    }
    assert_eq!(upstream.request_count(), 0);
}

/// R18. Trailers bring neither pseudo-headers nor anything else upstream.
#[test]
fn trailers_over_http2_are_dropped() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let send = |trailers: &[(&[u8], &[u8])]| {
        let mut connection = Http2::connect(&gateway.client());
        let head = frame(HEADERS, END_HEADERS, 1, &block(&[(b":method", b"POST"), SCHEME, AUTHORITY, PATH]));
        let end = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers));
        let _ = connection.write(&[head, frame(DATA, 0, 1, b"hello"), end].concat());
        connection.end_of(1)
    };

    assert_eq!(send(&[(b"x-user-id", b"root"), (b"x-sum", b"1")]), End::Status(200));
    let seen = upstream.next_request();
    assert_eq!((seen.text().as_str(), seen.trailers.len()), ("hello", 0));
    assert!(!String::from_utf8_lossy(&seen.raw).contains("root"));

    // The library passes over pseudo-headers there; nothing of them goes on.
    send(&[(b":path", b"/admin"), (b":method", b"DELETE")]);
    for seen in upstream.requests() {
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.trailers.len()), ("POST", "/x", 0));
    }
    assert!(!String::from_utf8_lossy(&upstream.bytes_seen()).contains("/admin"));
}
