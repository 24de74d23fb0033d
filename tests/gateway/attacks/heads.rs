//! Heads that two readers could read differently are refused, not repaired (R18; RFC 9112 sections 2.2, 3, 5 and 6).
//! Behind each stands a second request, which must never be read.

use crate::support::{Gateway, Reply, Upstream, gateway::Running};

fn public(upstream: &Upstream) -> Running {
    Gateway::new().route("/{*rest}", upstream).auth(&["none"]).start()
}

const SECOND: &str = "GET /second HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// Sends `head` with another request behind it: one answer with this status, and the end of the connection.
#[track_caller]
fn refused(gateway: &Running, what: &str, message: &[u8], status: u16) {
    let answers = gateway.client().raw([message, SECOND.as_bytes()].concat());
    let text = String::from_utf8_lossy(&answers);

    assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{what}: {text}");
    assert!(text.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{what}: {text}");
    assert!(text.to_ascii_lowercase().contains("\r\ncache-control: no-store\r\n"), "{what}: {text}");
}

/// R18.
#[test]
fn lengths_and_codings_that_contradict_are_refused() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, fields) in [
        ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
        ("CL.TE in odd case", "CONTENT-LENGTH: 6\r\ntransfer-ENCODING: Chunked\r\n"),
        ("CL 0 with TE", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("two codings, the other first", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("chunked twice in a list", "Transfer-Encoding: chunked, chunked\r\n"),
        ("another coding first", "Transfer-Encoding: gzip, chunked\r\n"),
        ("chunked not last", "Transfer-Encoding: chunked, identity\r\n"),
        ("an empty element", "Transfer-Encoding: ,chunked\r\n"),
        ("an empty element behind", "Transfer-Encoding: chunked,\r\n"),
        ("an unknown coding", "Transfer-Encoding: x\r\n"),
        ("identity", "Transfer-Encoding: identity\r\n"),
        ("a coding that begins like chunked", "Transfer-Encoding: chunkedx\r\n"),
        ("a coding that ends like chunked", "Transfer-Encoding: xchunked\r\n"),
        ("quoted", "Transfer-Encoding: \"chunked\"\r\n"),
        ("with a parameter", "Transfer-Encoding: chunked;a=b\r\n"),
        ("empty", "Transfer-Encoding:\r\n"),
        ("behind a vertical tab", "Transfer-Encoding: \x0bchunked\r\n"),
        ("behind a form feed", "Transfer-Encoding:\x0cchunked\r\n"),
        ("before a zero", "Transfer-Encoding: chunked\0\r\n"),
        ("beyond ASCII", "Transfer-Encoding: chun\u{212a}ed\r\n"),
        ("a blank before the colon", "Transfer-Encoding : chunked\r\n"),
        ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("a blank before the name", " Transfer-Encoding: chunked\r\n"),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n"),
        ("folded onto another", "X: y\r\n Transfer-Encoding: chunked\r\n"),
        ("folded with a tab", "X: y\r\n\tTransfer-Encoding: chunked\r\n"),
        ("behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n"),
        ("behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n"),
        ("with a bare LF at its end", "Transfer-Encoding: chunked\n"),
        ("a zero in the name", "Transfer\0-Encoding: chunked\r\n"),
        ("two lengths that differ", "Content-Length: 6\r\nContent-Length: 5\r\n"),
        ("two lengths that agree", "Content-Length: 6\r\nContent-Length: 6\r\n"),
        ("two spellings of a length", "Content-Length: 6\r\nContent-Length: 06\r\n"),
        ("two lengths far apart", "Content-Length: 6\r\nX: y\r\ncontent-length: 6\r\n"),
        ("a list of lengths", "Content-Length: 6, 6\r\n"),
        ("a length with plus", "Content-Length: +6\r\n"),
        ("a length with minus", "Content-Length: -6\r\n"),
        ("a hexadecimal length", "Content-Length: 0x6\r\n"),
        ("an exponent", "Content-Length: 6e0\r\n"),
        ("a fraction", "Content-Length: 6.0\r\n"),
        ("a blank inside a length", "Content-Length: 6 0\r\n"),
        ("letters", "Content-Length: six\r\n"),
        ("empty length", "Content-Length:\r\n"),
        ("a length behind a zero", "Content-Length: \x006\r\n"),
        ("a length of 2^64", "Content-Length: 18446744073709551616\r\n"),
        ("a length of 2^64 + 6", "Content-Length: 18446744073709551622\r\n"),
        ("a length that means \"until close\"", "Content-Length: 18446744073709551615\r\n"),
        ("a blank before the length's colon", "Content-Length : 6\r\n"),
        ("other digits", "Content-Length: \u{ff16}\r\n"),
    ] {
        let message = format!("POST /first HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n0\r\n\r\nX");
        refused(&gateway, what, message.as_bytes(), 400);
    }
    upstream.expect_only(0);
}

/// R18. A length with leading zeros is decimal digits (RFC 9110 section 8.6) and means one thing only; what goes
/// upstream is written afresh.
#[test]
fn framing_is_written_afresh_for_the_upstream() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let table = [
        ("Content-Length: 5\r\n", "hello", Some("5"), None),
        ("Content-Length: 05\r\n", "hello", Some("5"), None),
        ("content-length:5\r\n", "hello", Some("5"), None),
        ("Content-Length: \t5 \t\r\n", "hello", Some("5"), None),
        ("Content-Length: 0\r\n", "", Some("0"), None),
        ("", "", Some("0"), None),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", None, Some("chunked")),
        ("tRANSFER-eNCODING:\tCHUNKED \r\n", "5;a=b\r\nhello\r\n00\r\nX: y\r\n\r\n", None, Some("chunked")),
    ];
    for (fields, body, length, coding) in table {
        let message = format!("POST /x HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n{body}");
        gateway.client().raw_response(message).expect(200);

        let seen = upstream.next_request();
        assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (length, coding), "{fields:?}");
        assert_eq!(seen.text(), if body.is_empty() { "" } else { "hello" }, "{fields:?}");
        assert!(seen.trailers.is_empty());
    }
    upstream.expect_only(table.len());
}

/// R18.
#[test]
fn request_lines_and_fields_that_are_none_are_refused() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, message) in [
        ("HTTP/0.9", &b"GET /x\r\n"[..]),
        ("HTTP/0.9, written", b"GET /x HTTP/0.9\r\nHost: app.test\r\n\r\n"),
        ("HTTP/1.2", b"GET /x HTTP/1.2\r\nHost: app.test\r\n\r\n"),
        ("HTTP/1.10", b"GET /x HTTP/1.10\r\nHost: app.test\r\n\r\n"),
        ("HTTP/2.0", b"GET /x HTTP/2.0\r\nHost: app.test\r\n\r\n"),
        ("small letters", b"GET /x http/1.1\r\nHost: app.test\r\n\r\n"),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("no version", b"GET /x \r\nHost: app.test\r\n\r\n"),
        ("two blanks", b"GET  /x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("two blanks before the version", b"GET /x  HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("a blank behind the version", b"GET /x HTTP/1.1 \r\nHost: app.test\r\n\r\n"),
        ("a blank in the target", b"GET /x y HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("a version in the target", b"GET /x HTTP/1.1 HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("a tab for a blank", b"GET\t/x\tHTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("a blank in front", b" GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("a method that is no token", b"GE(T /x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("no method", b" /x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("a star for GET", b"GET * HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("no slash", b"GET x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("two empty lines in front", b"\r\n\r\nGET /x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("a bare LF in front", b"\nGET /x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("bare LFs", b"GET /x HTTP/1.1\nHost: app.test\n\n"),
        ("a bare LF at the end", b"GET /x HTTP/1.1\r\nHost: app.test\r\n\n"),
        ("a bare LF behind the request line", b"GET /x HTTP/1.1\nHost: app.test\r\n\r\n"),
        ("a bare CR behind the request line", b"GET /x HTTP/1.1\rHost: app.test\r\n\r\n"),
        ("a bare CR in a value", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX: a\rY: b\r\n\r\n"),
        ("a CR too many", b"GET /x HTTP/1.1\r\r\nHost: app.test\r\n\r\n"),
        ("a fold", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX: a\r\n b\r\n\r\n"),
        ("a fold behind the request line", b"GET /x HTTP/1.1\r\n Host: app.test\r\n\r\n"),
        ("a blank before a colon", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX : a\r\n\r\n"),
        ("a name with a blank", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX Y: a\r\n\r\n"),
        ("no colon", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX\r\n\r\n"),
        ("no name", b"GET /x HTTP/1.1\r\nHost: app.test\r\n: a\r\n\r\n"),
        ("a name beyond ASCII", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX\xe4: a\r\n\r\n"),
        ("a zero in a name", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX\0: a\r\n\r\n"),
        ("a zero in a value", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX: a\0b\r\n\r\n"),
        ("a control byte in a value", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX: a\x1bb\r\n\r\n"),
        ("DEL in a value", b"GET /x HTTP/1.1\r\nHost: app.test\r\nX: a\x7fb\r\n\r\n"),
        ("a coding in HTTP/1.0", b"POST /x HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TLS inside TLS", b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03"),
    ] {
        refused(&gateway, what, message, 400);
    }
    upstream.expect_only(0);
}

/// R18. Requests before the bad head are served as usual.
#[test]
fn what_comes_before_a_bad_head_is_served() {
    let upstream = Upstream::start();
    upstream.respond(|seen| Reply::ok(&seen.path));
    let gateway = public(&upstream);
    let one = "GET /one HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let two = "POST /two HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\nabc";
    let bad = "GET /bad HTTP/1.1\r\nHost: app.test\r\nX : y\r\n\r\n";

    let answers = gateway.client().raw([one, two, bad, one].concat());

    let text = String::from_utf8_lossy(&answers);
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{text}");
    let paths: Vec<String> = upstream.requests().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/one", "/two"]);
    upstream.expect_only(2);
}

/// R18. A body is never read as a request, refused or not, whoever thinks it is one.
#[test]
fn a_request_within_a_body_stays_a_body() {
    let upstream = Upstream::start();
    let gateway = Gateway::new()
        .admin()
        .route("/open/{*rest}", &upstream)
        .auth(&["none"])
        .route("/{*rest}", &upstream)
        .auth(&["session"])
        .start();
    let inner = "GET /open/inner HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let message = |path: &str| {
        let length = inner.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{inner}"
        )
    };

    for path in ["/guarded", "/open/../x", "/nowhere;x"] {
        let answers = gateway.client().raw(message(path));
        assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 4").count(), 1, "{path}");
    }
    upstream.expect_only(0);
    gateway.client().raw(message("/open/outer"));

    assert_eq!(upstream.next_request().text(), inner);
    upstream.expect_only(1);
}

/// R18. The first kilobyte may come in any pieces.
#[test]
fn a_bad_head_is_seen_however_it_is_cut() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let message = format!(
        "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SECOND}"
    );
    for cut in 1..message.len() - SECOND.len() {
        let mut connection = gateway.client().connect();
        let _ = connection.write(&message.as_bytes()[..cut]);
        let _ = connection.write(&message.as_bytes()[cut..]);

        let answers = connection.read_to_end();

        let text = String::from_utf8_lossy(&answers);
        assert!(text.starts_with("HTTP/1.1 400 ") && text.matches("HTTP/1.1 ").count() == 1, "cut at {cut}: {text}");
    }
    upstream.expect_only(0);
}
