//! Answers on their way down: whose fault it was, what has no body, what is no answer (R16; RFC 9110 sections 6.4 and
//! 15, RFC 9112 section 6).

use std::io::Write;

use serde_json::json;

use crate::support::{Gateway, Reply, Upstream, eventually, gateway::Running, program::free_address};

fn public(upstream: &Upstream) -> Running {
    Gateway::new().server("workers = 1").route("/{*rest}", upstream).auth(&["none"]).start()
}

/// R16.
#[test]
fn an_upstream_that_cannot_be_reached_is_502() {
    let nobody = format!("servers = [\"http://{}\"]", free_address());
    let gateway = Gateway::new().route_to("path = \"/{*rest}\"", &nobody).auth(&["none"]).start();

    let answer = gateway.client().get("/x").send().expect(502);

    assert_eq!(answer.json()["error"], "upstream_unreachable");
}

/// Whoever looks into the log finds out what it was; metrics count kinds.
#[test]
fn the_access_log_says_precisely_how_an_upstream_failed() {
    let nobody = format!("servers = [\"http://{}\"]", free_address());
    let (garbled, cut) = (Upstream::start(), Upstream::start());
    garbled.respond(|_| Reply::raw_then_close("SSH-2.0-OpenSSH_9.2\r\n"));
    cut.respond(|_| Reply::raw_then_close("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"));
    let gateway = Gateway::new()
        .route_to("path = \"/nobody\"", &nobody)
        .auth(&["none"])
        .route("/garbled", &garbled)
        .auth(&["none"])
        .route("/cut", &cut)
        .auth(&["none"])
        .start();
    gateway.client().get("/nobody").send().expect(502);
    gateway.client().get("/garbled").send().expect(502);
    let mut connection = gateway.client().connect();
    connection.write(&gateway.client().get("/cut").bytes()).expect("it is sent");
    connection.read_to_end();

    eventually("all is logged", || gateway.log_lines().len() >= 3);
    let lines = gateway.log_lines();
    let line = |path: &str| {
        let found = lines.iter().find(|line| line.contains(path)).expect("a line");
        let line: serde_json::Value = serde_json::from_str(found).expect("JSON");
        (line["reason"].as_str().map(str::to_owned), line["detail"].as_str().map(str::to_owned))
    };
    let told = |reason: &str, detail: &str| (Some(reason.to_owned()), Some(detail.to_owned()));
    assert_eq!(line("/nobody"), told("upstream_unreachable", "refused"));
    assert_eq!(line("/garbled"), told("upstream_invalid", "bad_head"));
    assert_eq!(line("/cut"), (None, Some("broke_off".to_owned())));
    let metrics = gateway.metric("portcullis_refusals_total", &[("reason", "upstream_unreachable")]);
    assert_eq!(metrics, 1.0);
}

#[test]
fn an_upstream_that_does_not_answer_is_504() {
    let upstream = Upstream::start();
    upstream.respond(|_| {
        Reply::take_over(|stream| {
            let _ = std::io::Read::read(stream, &mut [0]);
        })
    });
    let gateway = Gateway::new().route("/{*rest}", &upstream).upstream_key("response_timeout = \"300ms\"");
    let gateway = gateway.auth(&["none"]).start();

    let answer = gateway.client().get("/x").send().expect(504);

    assert_eq!(answer.json()["error"], "upstream_timeout");
    eventually("its connection is cut", || upstream.open_connections() == 0);
    upstream.expect_only(1);
}

#[test]
fn a_full_store_is_503_with_a_time_to_come_back() {
    let upstream = Upstream::start();
    let gateway = Gateway::with("[session]\nmax_sessions = 1").admin().route("/{*rest}", &upstream).start();
    gateway.open_session(&json!({ "subject": "alice" }));

    let entry = json!({ "subject": "bob" });
    let answer = gateway.admin().post("/api/v1/sessions", "").json(&entry).send().expect(503);

    assert_eq!(answer.header("retry-after"), Some("60"));
}

/// R16.
#[test]
fn what_is_no_answer_is_502() {
    for (what, bytes) in [
        ("nothing", ""),
        ("rubbish", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("HTTP/0.9", "<html>hello</html>"),
        ("HTTP/2", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a status below 100", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
        ("two lengths that agree", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        ("a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"),
        ("a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        (
            "a length beside chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("a head that breaks off", "HTTP/1.1 200 OK\r\nContent-Le"),
        ("a bad field name", "HTTP/1.1 200 OK\r\nX Y: z\r\nContent-Length: 2\r\n\r\nok"),
        ("a zero in a value", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let upstream = Upstream::start();
        upstream.respond(move |_| Reply::raw_then_close(bytes));
        let gateway = public(&upstream);

        let answer = gateway.client().get("/x").send();

        assert_eq!(answer.status, 502, "{what}: {answer:?}");
        assert_eq!(answer.json()["error"], "upstream_invalid", "{what}");
        upstream.expect_only(1);
    }
}

/// R16.
#[test]
fn a_head_without_end_is_502() {
    let upstream = Upstream::start();
    upstream.respond(|_| {
        Reply::take_over(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X-Filler: 0123456789012345678901234567890123456789\r\n").is_ok() {}
        })
    });
    let gateway = public(&upstream);

    gateway.client().get("/x").send().expect(502);
}

/// R16.
#[test]
fn interim_answers_are_bounded() {
    let upstream = Upstream::start();
    upstream.respond(|seen| {
        if seen.path == "/few" {
            let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(3);
            return Reply::raw(format!("{early}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        }
        Reply::take_over(|stream| while stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").is_ok() {})
    });
    let gateway = public(&upstream);

    gateway.client().get("/endless").send().expect(502);

    assert_eq!(gateway.client().get("/few").send().expect(200).text(), "ok");
}

#[test]
fn answers_without_a_body_keep_both_connections() {
    let upstream = Upstream::start();
    upstream.respond(|seen| match seen.path.as_str() {
        "/head" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\nETag: \"a\"\r\n\r\n"),
        "/head-chunked" => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "/204" => Reply::raw("HTTP/1.1 204 No Content\r\nETag: \"b\"\r\n\r\n"),
        "/304" => Reply::raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"c\"\r\n\r\n"),
        _ => Reply::ok("ok"),
    });
    let gateway = public(&upstream);
    let client = gateway.client();
    let mut connection = client.connect();

    let head = connection.send(&client.request("HEAD", "/head")).expect(200);
    assert_eq!((head.header("content-length"), head.header("etag")), (Some("99"), Some("\"a\"")));
    connection.send(&client.request("HEAD", "/head-chunked")).expect(200);
    let none = connection.send(&client.get("/204")).expect(204);
    assert_eq!((none.header("content-length"), none.header("transfer-encoding")), (None, None));
    assert_eq!(connection.send(&client.get("/304")).expect(304).header("etag"), Some("\"c\""));
    assert_eq!(connection.send(&client.get("/x")).expect(200).text(), "ok");

    assert_eq!(upstream.connection_count(), 1);
    upstream.expect_only(5);
}

/// R16. A body in an answer that has none is not the next answer.
#[test]
fn a_body_where_there_is_none_is_never_the_next_answer() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (method, begin) in [
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let upstream = Upstream::start();
        upstream.respond(move |seen| match seen.path.as_str() {
            "/split" => Reply::raw(format!("{begin}{evil}")),
            _ => Reply::ok("good"),
        });
        let gateway = public(&upstream);
        let client = gateway.client();
        let mut connection = client.connect();

        connection.send(&client.request(method, "/split"));
        let next = connection.send(&client.get("/next"));

        assert_eq!(next.expect(200).text(), "good", "{method} {begin:?}");
        upstream.expect_only(2);
    }
}

/// R16. Truncation is always visible.
#[test]
fn an_answer_that_breaks_off_is_seen_to_break_off() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let upstream = Upstream::start();
        upstream.respond(move |_| Reply::raw_then_close(bytes));
        let gateway = public(&upstream);
        let mut connection = gateway.client().connect();

        connection.write(&gateway.client().get("/x").bytes()).unwrap();

        assert!(connection.read_response("GET").is_err(), "{bytes:?}");
    }
}

/// R16. Whatever frames the upstream's message ends with it.
#[test]
fn framing_of_an_answer_is_written_afresh() {
    let upstream = Upstream::start();
    upstream.respond(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nUpgrade: h2c\r\n\
             Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n",
        )
    });
    let gateway = public(&upstream);

    let answer = gateway.client().get("/x").send().expect(200);

    assert_eq!(answer.text(), "ok");
    for name in ["connection", "keep-alive", "x-hop", "upgrade"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}
