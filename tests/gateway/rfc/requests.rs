//! Requests on their way up: `Expect`, early answers, retries, large bodies, trailers, old clients (RFC 9110 sections
//! 9.2.2 and 10.1.1, RFC 9112).

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Gateway, Issuer, Reply, Upstream, gateway::Running};

fn public(upstream: &Upstream) -> Running {
    // One worker: what one request leaves in the pool the next one finds.
    Gateway::new().server("workers = 1").route("/{*rest}", upstream).auth(&["none"]).start()
}

const EXPECTING: &str = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn a_client_that_waits_for_100_gets_the_upstreams() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let mut connection = gateway.client().connect();
    connection.write(EXPECTING.as_bytes()).unwrap();

    assert_eq!(connection.read_interim().unwrap(), 100);
    connection.write(b"hello").unwrap();

    connection.read_response("POST").unwrap().expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.text().as_str(), seen.header("expect")), ("hello", Some("100-continue")));
    upstream.expect_only(1);
}

#[test]
fn a_client_whose_request_is_refused_is_not_told_to_continue() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().issuer(&Issuer::hs256()).route("/{*rest}", &upstream).start();
    let mut connection = gateway.client().connect();
    connection.write(EXPECTING.as_bytes()).unwrap();

    let answer = connection.read_response("POST").unwrap().expect(401);

    assert!(answer.interim.is_empty());
    upstream.expect_only(0);
}

#[test]
fn a_client_whose_upload_the_upstream_refuses_is_not_told_to_continue() {
    let upstream = Upstream::start();
    upstream.respond_early(|_| Some(Reply::with(417, &[], "no")));
    let gateway = public(&upstream);
    let mut connection = gateway.client().connect();
    connection.write(EXPECTING.as_bytes()).unwrap();

    let answer = connection.read_response("POST").unwrap().expect(417);

    assert!(answer.interim.is_empty());
    assert_eq!(answer.header("connection"), Some("close"));
}

#[test]
fn an_early_answer_to_a_large_upload_arrives() {
    let upstream = Upstream::start();
    upstream.respond_early(|seen| (seen.path == "/upload").then(|| Reply::raw_then_close(REFUSAL)));
    // Without TLS: the harness reads only after it has written, and a TLS client whose writing fails reads no more.
    let gateway = Gateway::new().server("listen = [\"http://127.0.0.1:0\"]").route("/{*rest}", &upstream);
    let gateway = gateway.auth(&["none"]).start();

    let answer = gateway.plain_client(0).post("/upload", vec![b'x'; 8 << 20]).send().expect(413);

    assert_eq!(answer.text(), "large");
    gateway.plain_client(0).get("/after").send().expect(200);
}

const REFUSAL: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge";

#[test]
fn large_bodies_stream_up_and_down_unchanged() {
    const LENGTH: usize = 24 << 20;
    let pattern: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
    let upstream = Upstream::start();
    upstream.respond(|seen| Reply::ok(&seen.body));
    let gateway = public(&upstream);

    let answer = gateway.client().post("/x", pattern.clone()).send().expect(200);
    assert!(answer.body == pattern, "over HTTP/1.1 it came back changed");
    let answer = gateway.client().post("/x", pattern.clone()).send_http2().expect(200);
    assert!(answer.body == pattern, "over HTTP/2 it came back changed");

    upstream.expect_only(2);
}

/// R18.
#[test]
fn trailers_of_a_request_are_dropped() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    let message = "POST /x HTTP/1.1\r\nHost: app.test\r\nTrailer: X-User-Id\r\nTE: trailers\r\nConnection: TE\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-User-Id: root\r\nContent-Length: 9\r\n\r\n";

    gateway.client().raw_response(message).expect(200);

    let seen = upstream.next_request();
    assert_eq!((seen.text().as_str(), seen.trailers.len()), ("abc", 0));
    assert_eq!((seen.header("trailer"), seen.header("te"), seen.header("connection")), (None, None, None));
    upstream.expect_only(1);
}

/// A connection that dies on its second request, before a byte of answer.
fn dying(upstream: &Upstream) {
    let on_first_connection = AtomicUsize::new(0);
    upstream.respond(move |seen| {
        if seen.connection == 0 && on_first_connection.fetch_add(1, Ordering::SeqCst) == 1 {
            return Reply::raw_then_close("");
        }
        Reply::ok("ok")
    });
}

#[test]
fn an_idempotent_request_on_a_connection_that_died_is_sent_once_more() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let upstream = Upstream::start();
        dying(&upstream);
        let gateway = public(&upstream);
        gateway.client().get("/first").send().expect(200);

        gateway.client().request(method, "/second").send().expect(200);

        let seen: Vec<(String, usize)> =
            upstream.requests().into_iter().map(|seen| (seen.path, seen.connection)).collect();
        assert_eq!(seen, [("/first".into(), 0), ("/second".into(), 0), ("/second".into(), 1)], "{method}");
        upstream.expect_only(3);
    }
}

#[test]
fn a_request_that_may_have_had_an_effect_is_not_sent_again() {
    for (method, body) in [("POST", None), ("PATCH", None), ("POST", Some("x")), ("PUT", Some("x")), ("BREW", None)] {
        let upstream = Upstream::start();
        dying(&upstream);
        let gateway = public(&upstream);
        gateway.client().get("/first").send().expect(200);
        let request = gateway.client().request(method, "/second");

        body.map_or_else(|| request.clone(), |body| request.clone().body(body)).send().expect(502);

        upstream.expect_only(2);
    }
}

#[test]
fn a_fresh_connection_that_dies_is_no_reason_to_send_again() {
    let upstream = Upstream::start();
    upstream.respond(|_| Reply::raw_then_close(""));
    let gateway = public(&upstream);

    gateway.client().get("/x").send().expect(502);

    upstream.expect_only(1);
}

#[test]
fn a_backend_that_restarts_between_requests_is_not_noticed() {
    let upstream = Upstream::start();
    let gateway = public(&upstream);
    for _ in 0..5 {
        gateway.client().get("/x").send().expect(200);
        upstream.close_connections();
    }
    gateway.client().post("/x", "body").send().expect(200);

    upstream.expect_only(6);
}

#[test]
fn clients_of_http_1_0_are_served() {
    let upstream = Upstream::start();
    upstream.respond(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    });
    let gateway = public(&upstream);

    let answer = gateway.client().raw("GET /x HTTP/1.0\r\nHost: app.test\r\n\r\n");

    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.0 200 ") || text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(!text.to_ascii_lowercase().contains("transfer-encoding"), "{text}");
    assert!(text.ends_with("\r\n\r\nabcde"), "{text}");
    let seen = upstream.next_request();
    assert!(seen.raw.starts_with(b"GET /x HTTP/1.1\r\n"));
    upstream.expect_only(1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start();
    upstream.respond(|seen| Reply::ok(&seen.path));
    let gateway = public(&upstream);
    let mut connection = gateway.client().connect();
    let requests: Vec<u8> = (0..20).flat_map(|number| gateway.client().get(&format!("/{number}")).bytes()).collect();

    connection.write(&requests).unwrap();

    for number in 0..20 {
        assert_eq!(connection.read_response("GET").unwrap().expect(200).text(), format!("/{number}"));
    }
    upstream.expect_only(20);
}
