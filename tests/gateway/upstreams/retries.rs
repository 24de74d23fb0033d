//! When a request is sent again that a server may have had: what may be repeated, where, how often, and that a budget
//! bounds all of it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use h2::Reason;

use super::gateway_of;
use crate::support::{
    Gateway, Reply, Response, Upstream, eventually, gateway::Running, metric_sum, upstream_http2::Http2Upstream,
};

/// A server that fails every request in this way, and one that answers `good`.
fn bad_and_good(fail: fn() -> Reply) -> [Upstream; 2] {
    let servers = [Upstream::start(), Upstream::start()];
    servers[0].respond(move |_| fail());
    servers[1].respond(|_| Reply::ok("good"));
    servers
}

fn unavailable() -> Reply {
    Reply::with(503, &[], "bad")
}

fn ends() -> Reply {
    Reply::take_over(|_| {})
}

/// Two requests, so that round robin begins with each of the servers once; never out.
fn gateway(servers: &[Upstream], lines: &str) -> Running {
    let lines = format!("balance = \"round_robin\"\neject = {{ failures = 0 }}\n{lines}");
    gateway_of(servers, &lines).server("workers = 1").auth(&["none"]).start()
}

fn gets(gateway: &Running) -> [u16; 2] {
    [(); 2].map(|()| gateway.client().get("/any").send().status)
}

fn retried(gateway: &Running) -> (f64, f64) {
    let of = |name| metric_sum(&gateway.telemetry(), name);
    (of("portcullis_upstream_retries_total"), of("portcullis_upstream_retries_over_budget_total"))
}

#[test]
fn a_request_that_failed_goes_to_another_server() {
    for (fail, statuses) in [(unavailable as fn() -> Reply, [200, 503]), (ends, [200, 502])] {
        let servers = bad_and_good(fail);
        let with = gateway(&servers, "retries = {}");
        assert_eq!(gets(&with), [200, 200]);
        assert_eq!(retried(&with), (1.0, 0.0));
        eventually("both are logged", || with.log_lines().len() == 2);
        let lines = with.log_lines().join("\n");
        assert_eq!((lines.matches("\"attempts\":2").count(), lines.matches("attempts").count()), (1, 1), "{lines}");

        let without = gateway(&servers, "");
        let mut got = gets(&without);
        got.sort_unstable();
        assert_eq!(got, statuses, "that is what it is without");
    }
}

#[test]
fn no_more_than_so_often_and_the_last_answer_is_the_clients() {
    let servers: Vec<Upstream> = (0..3).map(|_| Upstream::start()).collect();
    for (number, server) in servers.iter().enumerate() {
        server.respond(move |_| Reply::with(503, &[], number.to_string()));
    }
    let gateway = gateway(&servers, "retries = { attempts = 4 }");

    let answer = gateway.client().get("/any").send().expect(503);

    let mut counts: Vec<usize> = servers.iter().map(Upstream::request_count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 2], "all of them before one of them again");
    assert!(["0", "1", "2"].contains(&answer.text().as_str()));
    // Their connections were good, and are used again.
    assert!(servers.iter().all(|server| server.connection_count() == 1));
}

#[test]
fn what_may_have_had_an_effect_is_not_sent_again() {
    let servers = bad_and_good(unavailable);
    let key = |gateway: Gateway| {
        let lines =
            "balance = \"round_robin\"\neject = { failures = 0 }\nretries = { attempts = 3, min_per_second = 100 }";
        let urls: Vec<String> = servers.iter().map(Upstream::url).collect();
        let upstream = format!("servers = {urls:?}\n{lines}");
        gateway.server("workers = 1").route_to("path = \"/{*rest}\"", &upstream).auth(&["none"])
    };
    let gateway = key(Gateway::new())
        .key("upgrade = [\"websocket\"]")
        .route_to("path = \"/once\"", &format!("servers = [{:?}]\nretries = {{}}", servers[0].url()))
        .auth(&["none"])
        .key("retry = false")
        .start();
    let client = gateway.client();
    let statuses = |send: &dyn Fn() -> Response| {
        let mut got = [send().status, send().status];
        got.sort_unstable();
        got
    };

    assert_eq!(statuses(&|| client.post("/any", "").send()), [200, 503]);
    assert_eq!(statuses(&|| client.post("/any", "body").send()), [200, 503]);
    assert_eq!(statuses(&|| client.request("PATCH", "/any").send()), [200, 503]);
    assert_eq!(statuses(&|| client.request("PUT", "/any").body("body").send()), [200, 503]);
    let socket = || crate::support::websocket::handshake(client.get("/any").header("Sec-Fetch-Site", "same-origin"));
    assert_eq!(statuses(&|| socket().send()), [200, 503]);
    assert_eq!(retried(&gateway), (0.0, 0.0));
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        assert_eq!(statuses(&|| client.request(method, "/any").send()), [200, 200], "{method}");
    }
    assert_eq!(retried(&gateway), (5.0, 0.0));
    client.get("/once").send().expect(503);
    assert_eq!(retried(&gateway), (5.0, 0.0));
}

/// What the client has begun to get cannot be taken back.
#[test]
fn an_answer_that_has_begun_is_not_begun_again() {
    let upstream = Upstream::start();
    upstream.respond(|_| Reply::raw_then_close("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"));
    let gateway = gateway(std::slice::from_ref(&upstream), "retries = { attempts = 3 }");

    assert!(gateway.client().get("/any").try_send().is_err());

    assert_eq!((upstream.request_count(), retried(&gateway)), (1, (0.0, 0.0)));
}

#[test]
fn only_what_is_written_is_a_reason() {
    for (lines, times) in [
        ("retries = { on = [\"connect\", \"timeout\"], statuses = [503] }", 1),
        ("retries = { on = [\"reset\"], statuses = [] }", 2),
    ] {
        let upstream = Upstream::start();
        upstream.respond(|_| ends());
        let gateway = gateway(std::slice::from_ref(&upstream), lines);

        gateway.client().get("/any").send().expect(502);

        assert_eq!(upstream.request_count(), times, "{lines}");
    }
    for (lines, times) in [("retries = {}", 1), ("retries = { on = [\"timeout\"] }", 2)] {
        let upstream = Upstream::start();
        upstream.respond(|_| Reply::take_over(|stream| drop(std::io::Read::read(stream, &mut [0]))));
        let gateway = gateway(std::slice::from_ref(&upstream), &format!("response_timeout = \"200ms\"\n{lines}"));

        gateway.client().get("/any").send().expect(504);

        assert_eq!(upstream.request_count(), times, "{lines}");
    }
}

#[test]
fn an_outage_is_not_multiplied() {
    let upstream = Upstream::start();
    upstream.respond(|_| unavailable());
    let lines = "retries = { attempts = 10, budget = 50, min_per_second = 0, backoff = \"0s\" }";
    let gateway = gateway(std::slice::from_ref(&upstream), lines);
    let client = gateway.client();

    for _ in 0..20 {
        client.get("/any").send().expect(503);
    }

    let (again, over) = retried(&gateway);
    assert!((9.0..=10.0).contains(&again), "half of them at most, and the first alone is no half: {again}");
    assert_eq!(upstream.request_count(), 20 + again as usize);
    assert!(over >= 10.0, "{over}");
}

#[test]
fn the_time_of_the_route_bounds_all_attempts() {
    let upstream = Upstream::start();
    upstream.respond(|_| unavailable());
    let gateway = gateway_of(
        std::slice::from_ref(&upstream),
        "retries = { attempts = 10, min_per_second = 1000, backoff = \"10m\" }",
    );
    let gateway = gateway.auth(&["none"]).key("total_timeout = \"5s\"").start();

    // A pause that would be too long is none: the answer that is there goes out.
    gateway.client().get("/any").send().expect(503);
}

#[test]
fn a_stream_that_was_reset_is_sent_again_over_http_2() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let upstream = Http2Upstream::start(move |_, mut respond| {
        let first = count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        async move {
            if first {
                respond.send_reset(Reason::INTERNAL_ERROR);
            } else {
                drop(respond.send_response(http::Response::new(()), true));
            }
        }
    });
    let start = |lines: &str| {
        let lines = format!("servers = [{:?}]\n{lines}", upstream.url());
        Gateway::new().route_to("path = \"/{*rest}\"", &lines).auth(&["none"]).start()
    };

    start("retries = {}").client().get("/any").send().expect(200);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    start("").client().get("/any").send().expect(502);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    asked.store(0, Ordering::SeqCst);
    start("retries = {}").client().post("/any", "").send().expect(502);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
