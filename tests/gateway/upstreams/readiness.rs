//! `/readyz`: which parts keep the gateway from being sent requests, and which are only told.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Gateway, Reply, Upstream, eventually, gateway::Running};

const CHECKED: &str = "health = { path = \"/healthz\", interval = \"10ms\" }";

fn sick() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(|_| Reply::with(503, &[], "sick"));
    upstream
}

fn to(gateway: Gateway, path: &str, upstream: &Upstream) -> Gateway {
    let lines = format!("servers = [{:?}]\n{CHECKED}", upstream.url());
    gateway.route_to(&format!("path = {path:?}"), &lines).auth(&["none"])
}

fn ready(gateway: &Running) -> (u16, Value) {
    let answer = gateway.telemetry().get("/readyz").send();
    (answer.status, answer.json())
}

/// What is told of a part.
fn state(told: &Value, part: &str, name: &str) -> Option<String> {
    let details = told["details"].as_array()?;
    let detail = details.iter().find(|detail| detail["part"] == part && detail["name"] == name)?;
    Some(detail["state"].as_str()?.to_owned())
}

#[test]
fn one_upstream_of_two_that_is_out_is_told_and_the_gateway_stays_ready() {
    let (well, ill) = (Upstream::start(), sick());
    let gateway = to(to(Gateway::new(), "/a/{*rest}", &well), "/b/{*rest}", &ill).start();

    eventually("it is out", || state(&ready(&gateway).1, "upstreams", "u1").as_deref() == Some("0 of 1 servers in"));

    let (status, told) = ready(&gateway);
    assert_eq!((status, &told["ready"]), (200, &Value::Bool(true)));
    assert_eq!(state(&told, "upstreams", "u0").as_deref(), Some("1 of 1 servers in"));
}

#[test]
fn a_gateway_none_of_whose_upstreams_has_a_server_is_not_ready_until_one_has() {
    let upstream = sick();
    let gateway = to(Gateway::new(), "/{*rest}", &upstream).start();

    eventually("it is not ready", || ready(&gateway).0 == 503);
    assert_eq!(ready(&gateway).1["reasons"], serde_json::json!(["upstreams"]));

    upstream.respond(|_| Reply::ok("well"));
    eventually("it is ready", || ready(&gateway).0 == 200);
}

#[test]
fn an_expired_certificate_is_told_and_makes_unready_where_there_is_no_other() {
    let upstream = Upstream::start();
    let gateway = to(Gateway::new(), "/{*rest}", &upstream).start();
    eventually("it is ready", || ready(&gateway).0 == 200);

    // Certificates of tests end in the year 4096.
    gateway.advance(Duration::from_secs(3000 * 365 * 86_400));

    eventually("it is not ready", || ready(&gateway).1["reasons"] == serde_json::json!(["certificates"]));
}

#[test]
fn a_gateway_that_starts_waits_for_keys() {
    let upstream = Upstream::start();
    let issuer = "[[jwt.issuer]]\nname = \"away\"\nissuer = \"https://127.0.0.1:1\"\naudience = [\"a\"]\n\
        jwks = { url = \"https://127.0.0.1:1/keys\" }\nalgorithms = [\"ES256\"]";
    let gateway = to(Gateway::new().table(issuer), "/{*rest}", &upstream).start();

    let (status, told) = ready(&gateway);

    assert_eq!((status, &told["reasons"]), (503, &serde_json::json!(["keys"])));
    assert_eq!(state(&told, "keys", "away").as_deref(), Some("never fetched"));
    gateway.client().get("/x").send().expect(200);
}
