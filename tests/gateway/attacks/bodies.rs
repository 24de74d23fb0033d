//! Bodies that break midway, lie about their length or are too large (R18, R19): the upstream never takes one for a
//! whole request, and the connection that saw it never serves another.

use crate::support::{Gateway, Reply, Upstream, eventually, gateway::Running};

fn public(upstream: &Upstream) -> Running {
    Gateway::new().server("workers = 1").route("/{*rest}", upstream).auth(&["none"]).start()
}

const CHUNKED: &str = "POST /broken HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";

/// R18.
#[test]
fn a_broken_chunk_cuts_the_upstream_connection_and_ends_the_clients() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, body) in [
        ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a negative size", "-1\r\nabc\r\n0\r\n\r\n"),
        ("a size with plus", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size of 2^64", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("a size of 2^64 + 3", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a size that fills 64 bits", "ffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("an extension without size", ";a=b\r\nabc\r\n0\r\n\r\n"),
        ("a letter for a size", "g\r\nabc\r\n0\r\n\r\n"),
        ("a blank before the size", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a blank behind the size", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a tab behind the size", "3\t\r\nabc\r\n0\r\n\r\n"),
        ("a blank before an extension", "3 ;a=b\r\nabc\r\n0\r\n\r\n"),
        ("a bare LF behind the size", "3\nabc\r\n0\r\n\r\n"),
        ("a bare CR behind the size", "3\rabc\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "3;a=b\nabc\r\n0\r\n\r\n"),
        ("a bare CR in an extension", "3;a=\rb\r\nabc\r\n0\r\n\r\n"),
        ("a zero in an extension", "3;a=\0\r\nabc\r\n0\r\n\r\n"),
        ("a quoted line end in an extension", "3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a chunk shorter than its size", "4\r\nabc\r\n0\r\n\r\n"),
        ("no line end behind a chunk", "3\r\nabc0\r\n\r\n"),
        ("a bare LF behind a chunk", "3\r\nabc\n0\r\n\r\n"),
        ("a bare LF behind the last chunk", "3\r\nabc\r\n0\n\n"),
        ("a bare LF at the end", "3\r\nabc\r\n0\r\n\n"),
        ("rubbish at the end", "3\r\nabc\r\n0\r\nX"),
        ("a request as trailer", "3\r\nabc\r\n0\r\nGET /second HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("a folded trailer", "3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n"),
        ("a blank before a trailer's colon", "3\r\nabc\r\n0\r\nX : y\r\n\r\n"),
        ("a zero in a trailer", "3\r\nabc\r\n0\r\nX: \0\r\n\r\n"),
    ] {
        gateway.client().get("/before").send().expect(200);
        let before = upstream.next_request().connection;
        let second = "GET /second HTTP/1.1\r\nHost: app.test\r\n\r\n";

        let mut connection = gateway.client().connect();
        let _ = connection.write(format!("{CHUNKED}{body}").as_bytes());
        let _ = connection.write(second.as_bytes());
        let _ = connection.write(second.as_bytes());
        let answers = connection.read_to_end();

        let text = String::from_utf8_lossy(&answers);
        assert!(!text.contains("HTTP/1.1 200"), "{what}: {text}");
        assert!(text.matches("HTTP/1.1 ").count() <= 1, "{what}: {text}");
        gateway.client().get("/after").send().expect(200);
        let after = upstream.next_request();
        assert_eq!(after.path, "/after", "{what}");
        if after.connection == before {
            // It was refused before anything went up: the connection is as it was.
            assert!(!String::from_utf8_lossy(&upstream.bytes_seen()).contains("/second"), "{what}");
        }
    }
    let bytes = upstream.bytes_seen();
    assert!(!String::from_utf8_lossy(&bytes).contains("GET /second"), "a request in the rest of a body was served");
    assert_eq!(upstream.request_count(), 60);
}

/// R18.
#[test]
fn a_body_that_breaks_off_is_never_a_whole_one_upstream() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for (what, message) in [
        ("length", "POST /broken HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nabc".to_owned()),
        ("chunks", format!("{CHUNKED}3\r\nabc\r\n")),
        ("within a chunk", format!("{CHUNKED}9\r\nabc")),
        ("before the last line", format!("{CHUNKED}3\r\nabc\r\n0\r\n")),
        ("within the trailers", format!("{CHUNKED}3\r\nabc\r\n0\r\nX: y\r\n")),
    ] {
        gateway.client().get("/before").send().expect(200);
        let before = upstream.next_request().connection;
        let broken = upstream.broken_count();
        let mut connection = gateway.client().connect();

        connection.write(message.as_bytes()).unwrap();
        eventually(&format!("the upstream hears of it ({what})"), || {
            String::from_utf8_lossy(&upstream.bytes_seen()).matches("abc").count() > broken
        });
        connection.cut();

        eventually(&format!("the upstream's connection is cut ({what})"), || upstream.broken_count() == broken + 1);
        gateway.client().get("/after").send().expect(200);
        assert_ne!(upstream.next_request().connection, before, "{what}: the connection went back to the pool");
    }
    assert_eq!(upstream.request_count(), 10);
}

/// R19.
#[test]
fn a_body_above_the_bound_is_refused_with_413() {
    let upstream = Upstream::start();
    let gateway = Gateway::with("[limits]\nmax_body = \"1KiB\"")
        .route("/{*rest}", &upstream)
        .auth(&["none"])
        .route("/wide/{*rest}", &upstream)
        .auth(&["none"])
        .key("max_body = \"2KiB\"")
        .start();
    let body = vec![b'x'; 1025];

    let answer = gateway.client().post("/x", body.clone()).send().expect(413);
    assert_eq!(answer.header("connection"), None, "a body that came whole costs no connection");
    gateway.client().post("/x", body.clone()).send_http2().expect(413);
    let declared = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1099511627776\r\n\r\n";
    let answer = gateway.client().raw_response(declared).expect(413);
    assert_eq!(answer.header("connection"), Some("close"));
    upstream.expect_only(0);

    gateway.client().post("/x", vec![b'x'; 1024]).send().expect(200);
    gateway.client().post("/wide/x", body).send().expect(200);
    upstream.expect_only(2);
}

/// R19. Without a length the bound is met midway: the upstream's connection is cut.
#[test]
fn a_chunked_body_above_the_bound_is_refused_with_413() {
    let upstream = Upstream::start();
    let gateway = Gateway::with("[limits]\nmax_body = \"1KiB\"").route("/{*rest}", &upstream).auth(&["none"]).start();
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    let send = |chunks: usize| gateway.client().raw_response(format!("{CHUNKED}{}0\r\n\r\n", chunk.repeat(chunks)));

    send(3).expect(413);
    eventually("the upstream's connection is cut", || upstream.broken_count() == 1);
    assert_eq!(upstream.request_count(), 0);

    send(2).expect(200);
    assert_eq!(upstream.next_request().body.len(), 1024);
}

/// R18. What the client still sends after an early answer is not the next request.
#[test]
fn the_rest_of_a_body_after_an_early_answer_is_no_request() {
    let upstream = Upstream::start();
    upstream.respond_early(|seen| (seen.path == "/early").then(|| Reply::with(403, &[], "no")));
    let gateway = public(&upstream);
    let inner = "GET /inner HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let mut connection = gateway.client().connect();
    let head = format!("POST /early HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n", inner.len() + 10);
    connection.write(head.as_bytes()).unwrap();

    let answer = connection.read_response("POST").unwrap().expect(403);
    assert_eq!(answer.header("connection"), Some("close"));
    let _ = connection.write(inner.as_bytes());

    assert!(connection.read_to_end().is_empty());
    gateway.client().get("/after").send().expect(200);
    let paths: Vec<String> = upstream.requests().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/early", "/after"]);
}
