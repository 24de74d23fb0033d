//! What operators see: the access log line, the metrics, the probes, and the headers that help them.

use serde_json::{Value, json};

use crate::support::{
    Gateway, Issuer, Upstream, eventually,
    gateway::{Running, SESSION_COOKIE},
};

const PASSWORD: &str = "correct horse battery staple";

fn gateway(format: &str, upstream: &Upstream) -> Running {
    Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .route("/app/{*rest}", upstream)
        .environment("PORTCULLIS__LOG__FORMAT", format)
        .start()
}

fn lines(gateway: &Running, number: usize) -> Vec<String> {
    eventually("the log is written", || gateway.log_lines().len() >= number);
    gateway.log_lines()
}

/// The line of a request among two, once both are written: two connections may be at two workers, and whose line comes
/// first is nobody's promise.
fn line_of_two(gateway: &Running, what: &str) -> String {
    let lines = lines(gateway, 2);
    lines.into_iter().find(|line| line.contains(what)).expect("the line of the request")
}

#[test]
fn an_allowed_request_is_one_json_line_with_who_and_where() {
    let upstream = Upstream::start();
    let gateway = gateway("json", &upstream);
    let alice = gateway.log_in("alice");
    let answer = alice.post("/app/x?secret=1", "12345").header("Sec-Fetch-Site", "same-origin").send().expect(200);

    let line: Value = serde_json::from_str(&line_of_two(&gateway, "/app/x")).expect("JSON");

    for (field, expected) in [
        ("request_id", json!(answer.header("x-request-id"))),
        ("client", json!("127.0.0.1")),
        ("scheme", json!("https")),
        ("host", json!("app.test")),
        ("method", json!("POST")),
        ("path", json!("/app/x")),
        ("query", Value::Null),
        ("route", json!("r0")),
        ("decision", json!("allow")),
        ("reason", Value::Null),
        ("via", json!("session")),
        ("realm", json!("staff")),
        ("subject", json!("id-of-alice")),
        ("status", json!(200)),
        ("upstream", json!("u0")),
        ("bytes_in", json!(5)),
        ("bytes_out", json!(2)),
        ("protocol", json!("HTTP/1.1")),
        ("aborted", json!(false)),
    ] {
        assert_eq!(line[field], expected, "{field} in {line}");
    }
    assert!(line["duration_ms"].is_number() && line["upstream_ms"].is_number(), "{line}");
    assert!(line["time"].as_str().expect("a time").ends_with('Z'));
    assert_eq!(gateway.log_lines().len(), 2, "one line a request");
}

#[test]
fn a_refused_request_says_why() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/app/{*rest}", &upstream).require_role("admin").start();
    let user = issuer.sign(&Issuer::claims("bob", &["user"], gateway.now()));
    let forged = issuer.sign_with(&Issuer::es256(), &Issuer::claims("bob", &[], gateway.now()));
    let client = gateway.client();
    client.get("/app/x").send().expect(401);
    client.get("/app/x").bearer(&forged).send().expect(401);
    client.get("/app/x").bearer(&user).send_http2().expect(403);
    client.get("/nowhere").send().expect(404);

    let mut told: Vec<_> = lines(&gateway, 4)
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|line| {
            (
                line["status"].clone(),
                line["decision"].clone(),
                line["reason"].clone(),
                line["subject"].clone(),
                line["protocol"].clone(),
            )
        })
        .collect();

    told.sort_by_key(|(status, _, reason, ..)| (status.as_u64(), reason.to_string()));
    let deny = json!("deny");
    let expected = [
        (json!(401), deny.clone(), json!("no_credential"), Value::Null, json!("HTTP/1.1")),
        (json!(401), deny.clone(), json!("wrong_signature"), Value::Null, json!("HTTP/1.1")),
        (json!(403), deny.clone(), json!("role"), json!("bob"), json!("HTTP/2")),
        (json!(404), deny, json!("no_route"), Value::Null, json!("HTTP/1.1")),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_text_line_has_the_same_fields() {
    let upstream = Upstream::start();
    let gateway = gateway("text", &upstream);
    gateway.log_in("alice").get("/app/x").send().expect(200);

    let line = line_of_two(&gateway, "path=/app/x");

    for field in [
        "request_id=",
        "client=127.0.0.1",
        "host=app.test",
        "method=GET",
        "path=/app/x",
        "route=r0",
        "decision=allow",
        "via=session",
        "realm=staff",
        "subject=id-of-alice",
        "status=200",
        "upstream=u0",
        "duration_ms=",
        "protocol=HTTP/1.1",
    ] {
        assert!(line.contains(field), "{field} in {line}");
    }
}

#[test]
fn metrics_count_sessions_logins_refusals_and_tokens() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).user("alice", PASSWORD, &[]).route("/app/{*rest}", &upstream).start();
    let alice = gateway.log_in("alice");
    gateway.log_in("alice");
    gateway.person().log_in("alice", "wrong").expect(401);
    alice.post("/_auth/logout", "").send().expect(303);
    let token = issuer.sign(&Issuer::claims("bob", &[], gateway.now()));
    for _ in 0..3 {
        gateway.client().get("/app/x").bearer(&token).send().expect(200);
    }
    gateway.client().get("/app/x").send().expect(401);
    gateway.client().get("/nowhere").send().expect(404);

    for (name, labels, expected) in [
        ("portcullis_sessions", &[][..], 1.0),
        ("portcullis_logins_total", &[("result", "succeeded")], 2.0),
        ("portcullis_logins_total", &[("result", "failed")], 1.0),
        ("portcullis_logouts_total", &[], 1.0),
        ("portcullis_refusals_total", &[("reason", "no_credential")], 1.0),
        ("portcullis_refusals_total", &[("reason", "no_route")], 1.0),
        ("portcullis_upstream_requests_under_way", &[("upstream", "u0"), ("server", &*upstream.url())], 0.0),
    ] {
        eventually(&format!("{name} {labels:?} is {expected}"), || {
            (gateway.metric(name, labels) - expected).abs() < f64::EPSILON
        });
    }
    let lookup = |result| gateway.metric("portcullis_token_cache_lookups_total", &[("result", result)]);
    assert!((lookup("hit") + lookup("miss") - 3.0).abs() < f64::EPSILON);
    assert!((lookup("miss") - 1.0).abs() < f64::EPSILON, "verified once");
}

/// Every series has a help text and a type, and each family stands once.
#[test]
fn metrics_are_well_formed() {
    let upstream = Upstream::start();
    let gateway = gateway("json", &upstream);
    gateway.log_in("alice").get("/app/x").send().expect(200);
    gateway.client().get("/app/x").send().expect(401);

    let text = gateway.telemetry().get("/metrics").send().expect(200).text();

    let mut types = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert!(types.insert(line.split(' ').nth(2).expect("a name")), "twice: {line}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .filter(|family| types.contains(family));
        assert!(types.contains(family.unwrap_or(name)), "no type: {line}");
        assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line}");
    }
}

/// A load balancer asks by address and often; it gets its answer, and the log does not.
#[test]
fn livez_answers_on_any_host_and_is_not_logged() {
    let upstream = Upstream::start();
    let gateway = gateway("json", &upstream);
    for host in ["app.test", "127.0.0.1", "lb.internal:8443", "[::1]"] {
        for answer in [
            gateway.client().get("/_auth/livez").header("Host", host).send(),
            gateway.client().request("HEAD", "/_auth/livez").header("Host", host).send(),
        ] {
            assert_eq!(answer.status, 200, "{host}");
        }
    }
    gateway.client().get("/app/x").header("Host", "lb.internal").send().expect(421);

    assert!(lines(&gateway, 1).iter().all(|line| !line.contains("livez")), "{:?}", gateway.log_lines());
}

#[test]
fn the_telemetry_listener_says_live_and_ready() {
    let upstream = Upstream::start();
    let gateway = gateway("json", &upstream);

    assert_eq!(gateway.telemetry().get("/livez").send().expect(200).text(), "ok\n");
    let ready = gateway.telemetry().get("/readyz").send().expect(200).json();
    assert_eq!((&ready["ready"], &ready["reasons"]), (&json!(true), &json!([])));
    gateway.telemetry().get("/other").send().expect(404);
    gateway.telemetry().post("/metrics", "").send().expect(405);
    assert!(lines(&gateway, 0).is_empty(), "scrapes are no requests of the gateway");
}

/// `server.hsts`.
#[test]
fn hsts_is_sent_over_https_unless_it_is_off() {
    let upstream = Upstream::start();
    for (setting, expected) in [
        (None, Some("max-age=31536000")),
        (Some("\"max-age=60; includeSubDomains\""), Some("max-age=60; includeSubDomains")),
        (Some("\"off\""), None),
    ] {
        let mut gateway = Gateway::new().user("alice", PASSWORD, &[]).route("/app/{*rest}", &upstream);
        if let Some(setting) = setting {
            gateway = gateway.server(&format!("hsts = {setting}"));
        }
        let gateway = gateway.start();
        for answer in [
            gateway.client().get("/app/x").send(),
            gateway.log_in("alice").get("/app/x").send(),
            gateway.client().get("/_auth/login").send(),
        ] {
            assert_eq!(answer.header("strict-transport-security"), expected, "{setting:?}");
        }
    }
}

/// One id for the client, the upstream and the log.
#[test]
fn the_request_id_is_the_same_everywhere() {
    let upstream = Upstream::start();
    let gateway = gateway("json", &upstream);
    let alice = gateway.log_in("alice");

    let answer = alice.get("/app/x").header("X-Request-Id", "mine").send().expect(200);

    let id = answer.header("x-request-id").expect("an id").to_owned();
    assert_ne!(id, "mine");
    assert_eq!(upstream.next_request().header("x-request-id"), Some(&*id));
    assert!(line_of_two(&gateway, &id).contains(&id));
}
