//! Which servers are in: checks, failing requests, the way back, and what people are told of it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use serde_json::Value;

use super::gateway_of;
use crate::support::{Client, Gateway, Reply, Upstream, eventually, upstream_http2::Http2Upstream};

/// Answers checks as `healthy` says, and requests with its name.
fn checked(name: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let (upstream, healthy) = (Upstream::start(), Arc::new(AtomicBool::new(true)));
    let is_healthy = Arc::clone(&healthy);
    upstream.respond(move |seen| match &*seen.path {
        "/healthz" if is_healthy.load(Ordering::SeqCst) => Reply::ok("fine"),
        "/healthz" => Reply::with(503, &[], "not now"),
        _ => Reply::ok(name),
    });
    (upstream, healthy)
}

/// Reads whole requests and closes the connection without a word.
fn silent() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(|_| Reply::raw_then_close(""));
    upstream
}

/// The `state` of each server, in the order of the configuration.
fn states(gateway: &crate::support::gateway::Running) -> Vec<String> {
    let told = gateway.admin().get("/api/v1/upstreams").send().expect(200).json();
    let servers = told["upstreams"][0]["servers"].as_array().expect("servers").clone();
    servers.iter().map(|server| server["state"].as_str().expect("a state").to_owned()).collect()
}

fn answers(client: &Client, count: usize) -> Vec<String> {
    (0..count).map(|_| client.get("/x").send().expect(200).text()).collect()
}

const FAST: &str = "health = { path = \"/healthz\", interval = \"20ms\", healthy_after = 2, unhealthy_after = 2 }\n\
    balance = \"round_robin\"\nslow_start = \"0s\"";

#[test]
fn a_server_whose_checks_fail_gets_nothing_until_they_pass_again() {
    let ((one, _), (other, healthy)) = (checked("one"), checked("other"));
    let servers = [one, other];
    let gateway = gateway_of(&servers, FAST).auth(&["none"]).admin().start();
    let client = gateway.client();

    healthy.store(false, Ordering::SeqCst);
    eventually("it is out", || states(&gateway) == ["in", "unhealthy"]);
    assert_eq!(answers(&client, 4), ["one"; 4]);
    let labels = |url: &str, state: &'static str| {
        vec![("upstream", "u0".to_owned()), ("server", url.to_owned()), ("state", state.to_owned())]
    };
    let told = gateway.admin().get("/api/v1/upstreams").send().expect(200).json();
    let url = told["upstreams"][0]["servers"][1]["url"].as_str().unwrap().to_owned();
    assert_eq!(told["upstreams"][0]["servers"][1]["last_check"], "status");
    let labels = labels(&url, "unhealthy");
    let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(gateway.metric("portcullis_upstream_server_in", &labels), 0.0);

    healthy.store(true, Ordering::SeqCst);
    eventually("it is in", || states(&gateway) == ["in", "in"]);
    let mut both = answers(&client, 2);
    both.sort();
    assert_eq!(both, ["one", "other"]);
}

#[test]
fn a_server_over_http2_leaves_and_comes_back_by_its_checks() {
    let (one, healthy) = (Upstream::start(), Arc::new(AtomicBool::new(true)));
    one.respond(|_| Reply::ok("one"));
    let (is_healthy, checks) = (Arc::clone(&healthy), Arc::new(Mutex::new(Vec::new())));
    let told = Arc::clone(&checks);
    let other = Http2Upstream::start(move |request, mut respond| {
        let is_check = request.uri().path() == "/healthz";
        if is_check {
            told.lock().unwrap().push(request);
        }
        let answer = match (is_check, is_healthy.load(Ordering::SeqCst)) {
            (true, true) => (204, ""),
            (true, false) => (503, "not now"),
            (false, _) => (200, "other"),
        };
        async move {
            let (status, text) = answer;
            let head = http::Response::builder().status(status).body(()).unwrap();
            // Nobody has to wait for the rest of an answer.
            let Ok(mut body) = respond.send_response(head, text.is_empty()) else { return };
            if !text.is_empty() {
                let _ = body.send_data(text.into(), true);
            }
        }
    });
    let servers = format!("servers = [{:?}, {:?}]\n{FAST}", one.url(), other.url());
    let gateway = Gateway::new().route_to("path = \"/{*rest}\"", &servers).auth(&["none"]).admin().start();
    let client = gateway.client();
    let both = || {
        let mut names = answers(&client, 2);
        names.sort();
        names == ["one", "other"]
    };
    assert!(both());

    healthy.store(false, Ordering::SeqCst);
    eventually("it is out", || states(&gateway) == ["in", "unhealthy"]);
    assert_eq!(answers(&client, 4), ["one"; 4]);
    healthy.store(true, Ordering::SeqCst);
    eventually("it is in", || states(&gateway) == ["in", "in"]);
    assert!(both());

    let checks = checks.lock().unwrap();
    let asked = checks.first().expect("a check");
    assert_eq!((asked.method().as_str(), asked.version()), ("GET", http::Version::HTTP_2));
    assert_eq!(asked.headers().keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["user-agent"]);
}

#[test]
fn all_workers_share_one_check() {
    let servers = [Upstream::start()];
    let gateway =
        gateway_of(&servers, "health = { path = \"/healthz?a=b\", interval = \"10m\", host = \"x.example\" }")
            .server("workers = 4")
            .auth(&["none"])
            .admin()
            .start();
    let checks = || {
        let told = gateway.admin().get("/api/v1/upstreams").send().expect(200).json();
        told["upstreams"][0]["servers"][0]["checks_passed"].as_u64()
    };

    eventually("the first check", || checks() == Some(1));
    (0..8).for_each(|_| drop(gateway.client().get("/x").send().expect(200)));

    assert_eq!(checks(), Some(1));
}

#[test]
fn a_check_asks_for_what_is_written_and_carries_nothing_else() {
    let upstream = Upstream::start();
    let lines = "health = { path = \"/healthz?a=b\", interval = \"10m\", host = \"x.example\" }";
    let gateway = Gateway::new()
        .route_to("path = \"/{*rest}\"", &format!("servers = [{:?}]\n{lines}", upstream.url()))
        .auth(&["none"])
        .start();

    let seen = upstream.next_request();

    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/healthz?a=b"));
    assert_eq!(seen.header("host"), Some("x.example"));
    assert_eq!(seen.names(), ["host", "user-agent", "connection"]);
    assert!(gateway.stop());
}

#[test]
fn without_panic_a_request_gets_503_while_no_server_is_in() {
    let (upstream, healthy) = checked("only");
    healthy.store(false, Ordering::SeqCst);
    let seen = upstream.url();
    let gateway = Gateway::new()
        .route_to("path = \"/{*rest}\"", &format!("servers = [{seen:?}]\n{FAST}\npanic_threshold = 0"))
        .auth(&["none"])
        .admin()
        .start();
    eventually("it is out", || states(&gateway) == ["unhealthy"]);

    let refused = gateway.client().get("/x").send().expect(503);

    assert_eq!(refused.json()["error"], "upstream_unavailable");
    assert_eq!(refused.header("retry-after"), Some("5"));
    healthy.store(true, Ordering::SeqCst);
    eventually("it is in", || states(&gateway) == ["in"]);
    assert_eq!(gateway.client().get("/x").send().expect(200).text(), "only");
}

#[test]
fn the_only_server_is_asked_whatever_its_checks_say() {
    let (upstream, healthy) = checked("only");
    healthy.store(false, Ordering::SeqCst);
    let servers = [upstream];
    let gateway = gateway_of(&servers, FAST).auth(&["none"]).admin().start();
    eventually("it is out", || states(&gateway) == ["unhealthy"]);

    assert_eq!(gateway.client().get("/x").send().expect(200).text(), "only");
}

#[test]
fn a_server_that_answers_nothing_is_ejected_and_a_reload_does_not_change_that() {
    let servers = [Upstream::start(), silent()];
    let lines = "balance = \"round_robin\"\neject = { failures = 3, time = \"10m\", max_time = \"10m\" }";
    let gateway = gateway_of(&servers, lines).server("workers = 1").auth(&["none"]).admin().start();

    let failed = (0..6).filter(|_| gateway.client().get("/x").send().status == 502).count();
    assert_eq!(failed, 3);
    assert_eq!(states(&gateway), ["in", "ejected"]);
    assert_eq!((0..6).filter(|_| gateway.client().get("/x").send().status == 200).count(), 6);

    gateway.edit("round_robin", "least_requests");
    gateway.reload().expect(200);
    assert_eq!(states(&gateway), ["in", "ejected"]);
    assert_eq!((0..6).filter(|_| gateway.client().get("/x").send().status == 200).count(), 6);
}

#[test]
fn a_status_takes_a_server_out_only_where_it_is_named() {
    let failing = || {
        let upstream = Upstream::start();
        upstream.respond(|_| Reply::with(503, &[], "busy"));
        upstream
    };
    for (statuses, expected) in [("[]", "in"), ("[502, 503]", "ejected")] {
        let lines = format!(
            "balance = \"round_robin\"\neject = {{ failures = 2, statuses = {statuses}, time = \"10m\", max_time = \"10m\" }}"
        );
        let servers = [Upstream::start(), failing()];
        let gateway = gateway_of(&servers, &lines).server("workers = 1").auth(&["none"]).admin().start();

        (0..6).for_each(|_| drop(gateway.client().get("/x").send()));

        assert_eq!(states(&gateway)[1], expected, "{statuses}");
    }
}

#[test]
fn how_servers_stand_is_told_to_administrators_with_the_scope_only() {
    let gateway = gateway_of(&[Upstream::start()], "").auth(&["none"]).admin().start();
    let stranger = Client::plain(gateway.addresses().admin.expect("it listens"));

    stranger.get("/api/v1/upstreams").send().expect(401);
    gateway.admin().post("/api/v1/upstreams", "").send().expect(405);
    let told: Value = gateway.admin().get("/api/v1/upstreams").send().expect(200).json();
    assert_eq!(told["upstreams"][0]["servers"][0]["weight"], 1);
    assert_eq!(told["upstreams"][0]["servers"][0]["last_check"], Value::Null);
}
