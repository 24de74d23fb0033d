//! The harness must not lie: what the upstream records is what was sent, and what the client reads is what came.

use std::{io::Write, net::Shutdown};

use crate::support::{Client, Gateway, Issuer, Reply, Upstream, eventually};

#[test]
fn the_upstream_records_exactly_what_was_sent() {
    let upstream = Upstream::start();
    let bytes = b"POST /a%2Fb?c=d HTTP/1.1\r\nhost: x\r\nX-Odd:  two  \r\nx-odd: again\r\n\
        Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Late: yes\r\n\r\n";

    let answer = Client::plain(upstream.address()).raw_response(bytes);

    answer.expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/a%2Fb?c=d"));
    assert_eq!(seen.all("X-Odd"), ["two", "again"]);
    assert_eq!(seen.names(), ["host", "x-odd", "x-odd", "transfer-encoding"]);
    assert_eq!(seen.text(), "abcde");
    assert_eq!(seen.trailers, [("X-Late".to_owned(), "yes".to_owned())]);
    assert_eq!(seen.raw, bytes);
    assert_eq!(upstream.bytes_seen(), bytes);
    assert_eq!(upstream.request_count(), 1);
}

#[test]
fn the_upstream_counts_a_request_that_breaks_off_as_broken() {
    let upstream = Upstream::start();
    let mut connection = Client::plain(upstream.address()).connect();

    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    connection.cut();

    eventually("the upstream notices", || upstream.broken_count() == 1);
    assert_eq!(upstream.request_count(), 0);
}

#[test]
fn the_client_reads_every_kind_of_body_on_one_connection() {
    let upstream = Upstream::start();
    upstream.respond(|seen| match seen.path.as_str() {
        "/chunks" => {
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nT: v\r\n\r\n")
        }
        "/interim" => Reply::raw("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\nX: y\r\n\r\n"),
        "/head" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
        "/close" => Reply::raw_then_close("HTTP/1.1 200 OK\r\n\r\nuntil the end"),
        _ => Reply::with(404, &[("Set-Cookie", "a=b; Path=/"), ("Set-Cookie", "c=d")], "none"),
    });
    let client = Client::plain(upstream.address());
    let mut connection = client.connect();

    let chunks = connection.send(&client.get("/chunks")).expect(200);
    assert_eq!((chunks.text().as_str(), chunks.trailers.len()), ("abc", 1));
    let interim = connection.send(&client.get("/interim")).expect(204);
    assert_eq!((interim.interim.as_slice(), interim.header("x")), (&[103][..], Some("y")));
    assert!(connection.send(&client.request("HEAD", "/head")).expect(200).body.is_empty());
    let missing = connection.send(&client.get("/other")).expect(404);
    assert_eq!((missing.cookie("c").as_deref(), missing.text().as_str()), (Some("c=d"), "none"));
    assert_eq!(connection.send(&client.get("/close")).expect(200).text(), "until the end");

    assert!(connection.is_closed_by_peer());
    assert_eq!(upstream.connection_count(), 1);
}

#[test]
fn an_upstream_can_take_over_a_connection() {
    let upstream = Upstream::start();
    upstream.respond(|_| {
        Reply::take_over(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            let _ = stream.shutdown(Shutdown::Both);
        })
    });
    let mut connection = Client::plain(upstream.address()).connect();

    connection.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();

    assert!(connection.read_response("GET").is_err(), "a body that breaks off is no answer");
}

#[test]
fn a_token_of_the_issuer_passes_and_a_forged_one_does_not() {
    let upstream = Upstream::start();
    for issuer in [Issuer::es256(), Issuer::rs256(), Issuer::hs256()] {
        let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
        let claims = Issuer::claims("alice", &["user"], gateway.now());
        let before = upstream.request_count();

        gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(200);
        gateway.client().get("/x").bearer(&issuer.sign(&claims)).send_http2().expect(200);
        gateway.client().get("/x").bearer(&issuer.sign_with(&Issuer::es256(), &claims)).send().expect(401);
        gateway.client().get("/x").bearer(&Issuer::unsigned(&claims)).send().expect(401);

        assert_eq!(upstream.request_count() - before, 2);
    }
}

#[test]
fn a_user_who_logs_in_has_a_session() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().user("alice", "correct horse battery", &["admin"]).admin();
    let gateway = gateway.route("/{*rest}", &upstream).require_role("admin").start();

    gateway.log_in("alice").get("/x").send().expect(200);
    gateway.open_session(&serde_json::json!({ "subject": "bob", "roles": ["admin"] })).get("/x").send().expect(200);
    gateway.open_session(&serde_json::json!({ "subject": "eve", "roles": ["user"] })).get("/x").send().expect(403);
    gateway.client().get("/x").send().expect(401);

    let subjects: Vec<String> =
        (0..2).map(|_| upstream.next_request().header("x-user-id").unwrap_or_default().to_owned()).collect();
    assert_eq!(subjects, ["id-of-alice", "bob"]);
    assert!(gateway.stop());
}
