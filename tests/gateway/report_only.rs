//! `mode = { report_until }`: whoever may not pass does so all the same and is reported; all else holds as ever.

use std::{
    io::{Read, Write},
    sync::{Arc, Barrier},
    time::Duration,
};

use portcullis::clock::Timestamp;

use crate::support::{
    Client, Connection, Gateway, Issuer, Reply, Upstream, client::Response, eventually, gateway::Running,
};

const PASSWORD: &str = "correct horse battery staple";
const DAY: Duration = Duration::from_secs(86_400);

/// 2030-12-31.
const THAT_DAY: Timestamp = Timestamp::from_unix_seconds(1_924_905_600);

fn gateway(upstream: &Upstream, keys: &str) -> Gateway {
    Gateway::new()
        .at(THAT_DAY.minus(DAY))
        .user("alice", PASSWORD, &["admin"])
        .user("bob", PASSWORD, &[])
        .route("/{*rest}", upstream)
        .auth(&["session", "jwt"])
        .issuer(&Issuer::es256())
        .key("require = { any = [\"role:admin\"] }")
        .key("mode = { report_until = \"2030-12-31\" }")
        .key(keys)
}

fn post(client: &Client) -> Response {
    client.post("/x", "a=1").header("Sec-Fetch-Site", "cross-site").send()
}

#[track_caller]
fn reported(gateway: &Running, reason: &str) {
    eventually("the log tells what would have been refused", || {
        gateway
            .log_lines()
            .iter()
            .any(|line| line.contains("\"decision\":\"reported\"") && line.contains(&format!("\"reason\":{reason:?}")))
    });
    assert!(gateway.metric("portcullis_reported_total", &[("reason", reason)]) >= 1.0, "{reason}");
}

#[test]
fn whoever_may_not_pass_does_so_until_the_day_and_is_reported() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "").start();
    let bob = gateway.log_in("bob");
    let alice = gateway.log_in("alice");

    gateway.client().get("/x").send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), None);
    reported(&gateway, "no_credential");
    gateway.client().get("/x").header("Cookie", "__Host-portcullis=dead").send().expect(200);
    reported(&gateway, "session_ended");
    gateway.client().get("/x").bearer("a.b.c").send().expect(200);
    bob.get("/x").send().expect(200);
    reported(&gateway, "any");
    post(&alice).expect(200);
    reported(&gateway, "cross_site");
    assert_eq!(gateway.metric("portcullis_report_only_routes", &[]), 1.0);

    gateway.advance(DAY);

    gateway.client().get("/x").send().expect(401);
    gateway.client().get("/x").bearer("a.b.c").send().expect(401);
    gateway.log_in("bob").get("/x").send().expect(403);
    post(&gateway.log_in("alice")).expect(403);
    gateway.log_in("alice").get("/x").send().expect(200);
    assert_eq!(gateway.metric("portcullis_report_only_routes", &[]), 0.0);
}

/// Again each hour, by the reminder of the gateway.
#[test]
fn whoever_starts_a_gateway_is_warned_of_each_route_that_only_reports() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "").on_system_time().route("/strict/{*rest}", &upstream).start_process();

    let warning = gateway.says("the rules of a route are only reported: everybody is let through");

    assert!(warning.contains("\"level\":\"WARN\"") && warning.contains("2030-12-31"), "{warning}");
    assert!(warning.contains("\"route\":\"r0\""), "{warning}");
    gateway.client().get("/x").send().expect(200);
    gateway.client().get("/strict/x").send().expect(401);
}

#[test]
fn the_backend_is_told_who_was_proved_and_nobody_else() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "").start();
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let told = |response: Response| {
        response.expect(200);
        upstream.next_request().header("x-user-id").map(str::to_owned)
    };

    assert_eq!(told(alice.get("/x").send()).as_deref(), Some("id-of-alice"));
    assert_eq!(told(bob.get("/x").send()).as_deref(), Some("id-of-bob"), "known, and refused later");
    assert_eq!(told(post(&alice)), None, "another site's page speaks for nobody");
    assert_eq!(told(gateway.client().get("/x").header("X-User-Id", "root").send()), None);
}

#[test]
fn what_the_backend_knew_its_callers_by_passes_untouched_and_ours_does_not() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "").start();
    let alice = gateway.log_in("alice");

    for (name, authorization) in [("basic", "Basic YWxpY2U6c2VjcmV0"), ("a token of its own", "Bearer abc.def.ghi")] {
        gateway
            .client()
            .get("/x")
            .header("Authorization", authorization)
            .header("Cookie", "JSESSIONID=1; theme=dark")
            .send()
            .expect(200);
        let seen = upstream.next_request();
        assert_eq!(seen.header("authorization"), Some(authorization), "{name}");
        assert_eq!(seen.header("cookie"), Some("JSESSIONID=1; theme=dark"), "{name}");
    }
    alice.get("/x").header("Authorization", "Basic YWxpY2U6c2VjcmV0").send().expect(200);
    let seen = upstream.next_request();
    assert_eq!(seen.header("authorization"), Some("Basic YWxpY2U6c2VjcmV0"));
    assert!(!seen.header("cookie").unwrap_or_default().contains("portcullis"), "our cookie stays here");
    let key = format!("Bearer ptc_{}", "a".repeat(40));
    gateway.client().get("/x").header("Authorization", &key).send().expect(200);
    assert_eq!(upstream.next_request().header("authorization"), None, "a key of ours stays here");
}

#[test]
fn everything_else_holds_as_ever() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "max_body = \"1KiB\"\nrate_limit = { address = \"2/1m\" }").start();
    let client = gateway.client();

    client.get("/a/../b").send().expect(400);
    client.get("/x").header("Host", "elsewhere.test").send().expect(421);
    let head = "GET /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.raw_response(head).expect(400);
    client.post("/x", vec![b'x'; 2048]).send().expect(413);
    assert_eq!(upstream.request_count(), 0);
    client.get("/x").send().expect(200);
    client.get("/x").send().expect(429);
    client.get("/_auth/sessions").send().expect(401);
}

#[test]
fn an_answer_under_way_is_not_cut_for_what_is_only_reported() {
    let upstream = Upstream::start();
    let goes_on = Arc::new(Barrier::new(2));
    let waits = Arc::clone(&goes_on);
    upstream.respond(move |seen| {
        let (only_reports, waits) = (seen.path == "/x", Arc::clone(&waits));
        Reply::take_over(move |stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            if only_reports {
                waits.wait();
                let _ = stream.write_all(b"5\r\nagain\r\n0\r\n\r\n");
            } else {
                let _ = stream.read(&mut [0; 1]);
            }
        })
    });
    let gateway = gateway(&upstream, "")
        .route("/strict/{*rest}", &upstream)
        .auth(&["session"])
        .server("workers = 1")
        .admin()
        .start();
    let alice = gateway.log_in("alice");
    let mut lax = begun(&alice, "/x");
    let mut strict = begun(&alice, "/strict/x");

    gateway.admin().request("DELETE", "/api/v1/sessions?subject=id-of-alice").send().expect(200);

    assert!(!strict.read_to_end().ends_with(b"0\r\n\r\n"), "it is cut");
    goes_on.wait();
    assert_eq!(lax.read_exactly(10).unwrap(), b"5\r\nagain\r\n");
    alice.get("/strict/x").send().expect(401);
}

/// An answer that has begun.
fn begun(client: &Client, path: &str) -> Connection {
    let mut connection = client.connect();
    connection.write(&client.get(path).bytes()).unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"hello\r\n") {
        read.extend(connection.read_exactly(1).expect("the answer begins"));
    }
    connection
}
