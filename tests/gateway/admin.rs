//! The admin API (R36): who may call it, what each token may do, and what it does to sessions.

use serde_json::{Value, json};

use crate::support::{
    Client, Gateway, Response, Upstream,
    client::Request,
    gateway::{Running, SESSION_COOKIE},
};

/// A call that some token may make.
type Operation = fn(&Client) -> Request;

const SESSIONS: &str = "/api/v1/sessions";

fn gateway(upstream: &Upstream) -> Running {
    Gateway::new().admin().route("/app/{*rest}", upstream).start()
}

/// A gateway whose admin tokens may do these things: `(name, allow, further lines)`. The token is the name, and long.
fn scoped(tokens: &[(&str, &str, &str)], upstream: &Upstream) -> Running {
    let mut table = String::from("[admin]\nlisten = \"http://127.0.0.1:0\"\n");
    let mut gateway = Gateway::new();
    for (name, allow, lines) in tokens {
        table.push_str(&format!(
            "[[admin.token]]\nname = {name:?}\nenv = \"TOKEN_{name}\"\nallow = [{allow:?}]\ngrants = \"all\"\n{lines}\n"
        ));
        gateway = gateway.environment(&format!("TOKEN_{name}"), &token(name));
    }
    gateway.table(&table).route("/app/{*rest}", upstream).auth(&["session"]).start()
}

fn token(name: &str) -> String {
    format!("{name}-{}", "x".repeat(32))
}

fn with(gateway: &Running, name: &str) -> Client {
    let plain = Client::plain(gateway.addresses().admin.expect("the admin API listens"));
    plain.always("Authorization", &format!("Bearer {}", token(name)))
}

fn bare(gateway: &Running) -> Client {
    Client::plain(gateway.addresses().admin.expect("the admin API listens"))
}

fn subjects(list: &Response) -> Vec<String> {
    let sessions = list.json()["sessions"].as_array().expect("a list").clone();
    let mut names: Vec<_> =
        sessions.iter().map(|session| session["subject"].as_str().expect("a subject").to_owned()).collect();
    names.sort();
    names
}

fn create(client: &Client, entry: &Value) -> Response {
    client.post(SESSIONS, "").json(entry).send()
}

/// R36.
#[test]
fn without_the_right_token_nothing_is_told() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let right = std::fs::read_to_string(gateway.folder().join("admin.token")).expect("the token");
    let alice = create(&gateway.admin(), &json!({ "subject": "alice" })).expect(201).json();
    let cookie = format!("{SESSION_COOKIE}={}", alice["token"].as_str().expect("a token"));
    let get = || bare(&gateway).get(SESSIONS);
    for (what, request) in [
        ("nothing", get()),
        ("a wrong token", get().bearer("wrong")),
        ("an empty token", get().header("Authorization", "Bearer ")),
        ("one byte less", get().bearer(&right[..right.len() - 1])),
        ("one byte more", get().bearer(&format!("{right}x"))),
        ("upper case", get().bearer(&right.to_uppercase())),
        ("Basic", get().header("Authorization", &format!("Basic {right}"))),
        ("no scheme", get().header("Authorization", &right)),
        ("twice", get().bearer(&right).bearer(&right)),
        ("a list", get().header("Authorization", &format!("Bearer {right}, Bearer {right}"))),
        ("in the query", bare(&gateway).get(&format!("{SESSIONS}?access_token={right}"))),
        ("a session cookie", get().cookie(&cookie)),
        ("the token as a cookie", get().cookie(&format!("token={right}"))),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        assert!(answer.header("www-authenticate").expect("a challenge").starts_with("Bearer"), "{what}");
        assert!(!answer.text().contains("alice"), "{what}");
    }
    get().bearer(&right).send().expect(200);
    get().bearer(&right).cookie(&cookie).send().expect(200);
}

/// R36: no browser has business here, and no page may rebind its name to this address.
#[test]
fn browsers_and_rebound_names_are_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let port = gateway.addresses().admin.expect("admin").port();
    let get = || gateway.admin().get(SESSIONS);
    for (what, request, expected) in [
        ("an origin", get().header("Origin", "https://evil.example"), 403),
        ("our own origin", get().header("Origin", &format!("http://127.0.0.1:{port}")), 403),
        ("a null origin", get().header("Origin", "null"), 403),
        ("a browser", get().header("Sec-Fetch-Site", "same-origin"), 403),
        ("a rebound name", get().header("Host", "evil.example"), 421),
        ("a rebound name with the port", get().header("Host", &format!("evil.example:{port}")), 421),
        ("the gateway's name", get().header("Host", "app.test"), 421),
        ("a suffix", get().header("Host", "localhost.evil.example"), 421),
        ("two hosts", get().header("Host", "localhost").header("Host", "localhost"), 400),
        ("localhost", get().header("Host", &format!("localhost:{port}")), 200),
        ("::1", get().header("Host", &format!("[::1]:{port}")), 200),
        ("as it is", get(), 200),
    ] {
        assert_eq!(request.send().status, expected, "{what}");
    }
    let preflight = gateway.admin().request("OPTIONS", SESSIONS).header("Origin", "https://evil.example").send();
    assert_eq!(preflight.status, 403);
    assert!(preflight.headers.iter().all(|(name, _)| !name.starts_with("access-control")));
}

/// R36.
#[test]
fn a_token_may_do_what_it_lists_and_nothing_else() {
    let upstream = Upstream::start();
    let gateway = scoped(
        &[
            ("creator", "sessions.create", "realm = \"staff\""),
            ("reader", "sessions.read", "realm = \"staff\""),
            ("ender", "sessions.revoke", "realm = \"staff\""),
            ("router", "routes", "realm = \"staff\""),
        ],
        &upstream,
    );
    let operations: [(&str, Operation); 5] = [
        ("creator", |client| client.post(SESSIONS, "").json(&json!({ "subject": "a" }))),
        ("reader", |client| client.get(SESSIONS)),
        ("ender", |client| client.request("DELETE", "/api/v1/sessions?subject=nobody")),
        ("ender", |client| client.request("DELETE", &format!("{SESSIONS}/{}", "0".repeat(64)))),
        ("router", |client| client.get("/api/v1/routes")),
    ];
    for name in ["creator", "reader", "ender", "router"] {
        for (owner, operation) in &operations {
            let answer = operation(&with(&gateway, name)).send();
            if name == *owner {
                assert!(matches!(answer.status, 200 | 201 | 404), "{name}: {answer:?}");
            } else {
                assert_eq!(answer.status, 403, "{name} does what {owner} may");
                assert_eq!(answer.json()["error"], "insufficient_scope");
            }
        }
    }
}

/// R5, R36.
#[test]
fn a_token_sees_and_ends_sessions_of_its_own_realm_only() {
    let upstream = Upstream::start();
    let tokens = [
        ("creator", "sessions.create", "realm = \"staff\""),
        ("reader", "sessions.read", "realm = \"staff\""),
        ("other", "sessions.read", "realm = \"guests\""),
        ("ender", "sessions.revoke", "realm = \"guests\""),
    ];
    let gateway = scoped(&tokens, &upstream);
    let created = create(&with(&gateway, "creator"), &json!({ "subject": "alice" })).expect(201).json();
    let key = created["key"].as_str().expect("a key");

    assert_eq!(subjects(&with(&gateway, "reader").get(SESSIONS).send().expect(200)), ["alice"]);
    assert_eq!(subjects(&with(&gateway, "other").get(SESSIONS).send().expect(200)), [""; 0]);
    with(&gateway, "other").get("/api/v1/sessions?realm=staff").send().expect(403);
    with(&gateway, "ender").request("DELETE", &format!("{SESSIONS}/{key}")).send().expect(404);
    let ended = with(&gateway, "ender").request("DELETE", "/api/v1/sessions?subject=alice").send().expect(200);
    assert_eq!(ended.json()["ended"], 0);
}

/// R5: what a token may not grant is dropped, and told.
#[test]
fn a_token_grants_no_more_than_it_may() {
    let upstream = Upstream::start();
    let table = "[admin]\nlisten = \"http://127.0.0.1:0\"\n[[admin.token]]\nname = \"app\"\nenv = \"TOKEN\"\n\
        allow = [\"sessions.create\"]\nrealm = \"staff\"\ngrants = { roles = [\"employee\"] }\n";
    let gateway = Gateway::with(table)
        .environment("TOKEN", &token("app"))
        .route("/app/{*rest}", &upstream)
        .auth(&["session"])
        .start();
    let entry = json!({ "subject": "alice", "roles": ["employee", "admin"], "groups": ["ops"] });

    let created = create(&with(&gateway, "app"), &entry).expect(201).json();

    assert_eq!(created["dropped_grants"], 2);
    let cookie = format!("{SESSION_COOKIE}={}", created["token"].as_str().expect("a token"));
    gateway.client().get("/app/x").cookie(&cookie).send().expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.header("x-user-roles"), seen.header("x-user-groups")), (Some("employee"), None));
}

#[test]
fn a_session_is_opened_listed_and_ended() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let admin = gateway.admin();
    let entry =
        json!({ "subject": "alice", "name": "Alice", "email": "a@example.com", "roles": ["user"], "groups": ["ops"] });
    let created = create(&admin, &entry).expect(201).json();
    let cookie = format!("{SESSION_COOKIE}={}", created["token"].as_str().expect("a token"));
    let alice = gateway.client().always("Cookie", &cookie);

    alice.get("/app/x").send().expect(200);
    let seen = upstream.next_request();
    assert_eq!(
        (seen.header("x-user-id"), seen.header("x-user-name"), seen.header("x-user-groups")),
        (Some("alice"), Some("Alice"), Some("ops"))
    );
    assert_eq!(created["durable"], false, "sessions live in memory only, and the answer says so (R27)");

    let listed = admin.get("/api/v1/sessions?subject=alice").send().expect(200);
    assert_eq!(listed.json()["sessions"][0]["key"], created["key"]);
    assert!(!listed.text().contains(created["token"].as_str().expect("a token")), "the token is told once");

    let key = created["key"].as_str().expect("a key");
    assert_eq!(admin.request("DELETE", &format!("{SESSIONS}/{key}")).send().expect(200).json()["ended"], 1);
    alice.get("/app/x").send().expect(401);
    admin.request("DELETE", &format!("{SESSIONS}/{key}")).send().expect(404);
}

#[test]
fn all_sessions_of_one_subject_end_at_once() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (phone, desk) =
        (gateway.open_session(&json!({ "subject": "alice" })), gateway.open_session(&json!({ "subject": "alice" })));
    let bob = gateway.open_session(&json!({ "subject": "bob" }));

    let ended = gateway.admin().request("DELETE", "/api/v1/sessions?subject=alice").send().expect(200);

    assert_eq!(ended.json()["ended"], 2);
    phone.get("/app/x").send().expect(401);
    desk.get("/app/x").send().expect(401);
    bob.get("/app/x").send().expect(200);
}

/// A slip must not end everybody's sessions.
#[test]
fn ending_without_a_subject_or_with_a_misspelt_one_ends_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.open_session(&json!({ "subject": "alice" }));
    for query in ["", "?subject=", "?subjct=alice", "?subject=alice&subject=bob", "?subject=%ff", "?realm=staff"] {
        gateway.admin().request("DELETE", &format!("{SESSIONS}{query}")).send().expect(400);
    }
    alice.get("/app/x").send().expect(200);
}

#[test]
fn an_entry_that_is_no_identity_is_refused_with_its_field() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (entry, expected) in [
        (json!({}), "subject"),
        (json!({ "subject": "" }), "subject"),
        (json!({ "subject": 7 }), "subject"),
        (json!({ "subject": "a\nb" }), "subject"),
        (json!({ "subject": "a".repeat(256) }), "subject"),
        (json!({ "subject": "a", "role": ["admin"] }), "role"),
        (json!({ "subject": "a", "roles": "admin" }), "roles"),
        (json!({ "subject": "a", "auth_time": 99_999_999_999_u64 }), "auth_time"),
        (json!({ "subject": "a", "realm": "other" }), "realm"),
        (json!(["a"]), "object"),
    ] {
        let answer = create(&gateway.admin(), &entry);
        assert_eq!(answer.status, 400, "{entry}");
        assert!(answer.json()["message"].as_str().expect("a message").contains(expected), "{entry}: {answer:?}");
    }
    gateway.admin().post(SESSIONS, "{\"subject\":\"a\"}").header("Content-Type", "text/plain").send().expect(415);
    gateway
        .admin()
        .post(SESSIONS, "{\"subject\":\"a\",\"subject\":\"b\"}")
        .header("Content-Type", "application/json")
        .send()
        .expect(400);
}

#[test]
fn many_sessions_are_opened_in_one_request_and_bad_lines_named() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let lines = "{\"subject\":\"a\"}\n\n{\"subject\":\"\"}\nnonsense\n{\"subject\":\"b\",\"roles\":[\"user\"]}";

    let request = gateway.admin().post(SESSIONS, lines).header("Content-Type", "application/x-ndjson");
    let answers: Vec<Value> =
        request.send().expect(200).text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();

    let line_and_error: Vec<_> =
        answers.iter().map(|answer| (answer["line"].as_u64(), answer["error"].as_str())).collect();
    assert_eq!(
        line_and_error,
        [(Some(1), None), (Some(3), Some("bad_entry")), (Some(4), Some("bad_entry")), (Some(5), None)]
    );
    let cookie = format!("{SESSION_COOKIE}={}", answers[3]["token"].as_str().expect("a token"));
    gateway.client().get("/app/x").cookie(&cookie).send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("b"));
}

/// Moving from another system: nobody has to log in again, and the old cookie opens one session only.
#[test]
fn an_old_cookie_is_exchanged_for_ours_when_its_browser_brings_it() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let hash: String = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"old-value")
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let entry = json!({ "subject": "alice", "legacy": { "cookie": "PHPSESSID", "sha256": hash } });
    let created = create(&gateway.admin(), &entry).expect(201).json();
    assert_eq!(created.get("token"), None, "the old cookie is the token");
    gateway.client().get("/app/x").cookie("PHPSESSID=guess").send().expect(401);
    gateway
        .client()
        .post("/app/x", "")
        .cookie("PHPSESSID=old-value")
        .header("Sec-Fetch-Site", "cross-site")
        .send()
        .expect(403);

    let mut alice = gateway.person();
    alice.plant("PHPSESSID", "old-value");
    let first = alice.visit("/app/x").expect(200);

    let ours = first.cookie(SESSION_COOKIE).expect("a cookie of ours");
    assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
    gateway.client().get("/app/x").cookie(&ours).send().expect(200);
    gateway.advance(std::time::Duration::from_secs(120));
    gateway.client().get("/app/x").cookie("PHPSESSID=old-value").send().expect(401);
}

/// R36: the admin API answers on its own listener only, and telemetry tells nothing of users.
#[test]
fn the_admin_api_is_nowhere_else() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let token = std::fs::read_to_string(gateway.folder().join("admin.token")).expect("the token");
    gateway.open_session(&json!({ "subject": "alice-the-subject" }));

    gateway.client().get(SESSIONS).bearer(&token).send().expect(404);
    gateway.telemetry().get(SESSIONS).bearer(&token).send().expect(404);
    gateway.admin().get("/metrics").send().expect(404);
    assert!(!gateway.telemetry().get("/metrics").send().text().contains("alice-the-subject"));
}

/// Without `[admin]` there is no listener; without a token the configuration is refused.
#[test]
fn the_admin_api_is_off_unless_it_is_written() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().user("alice", "correct horse", &[]).route("/{*rest}", &upstream).start();

    assert!(gateway.addresses().admin.is_none());
    let plain = "[admin]\nlisten = \"http://0.0.0.0:0\"\n[[admin.token]]\nname = \"a\"\nenv = \"T\"\nallow = [\"all\"]\ngrants = \"all\"\n";
    let open =
        Gateway::with(plain).environment("T", &token("a")).route("/{*rest}", &upstream).auth(&["session"]).try_start();
    assert!(open.is_err_and(|report| report.contains("admin.listen")), "plain http is for loopback addresses");
}

#[test]
fn every_call_is_in_the_audit_log_with_its_token_s_name() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    create(&gateway.admin(), &json!({ "subject": "alice" })).expect(201);
    bare(&gateway).get(SESSIONS).bearer("wrong").send().expect(401);

    crate::support::eventually("the calls are written", || gateway.audit_lines().len() >= 3);

    let lines: Vec<Value> =
        gateway.audit_lines().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let find = |event: &str, status: Option<u64>| {
        lines.iter().find(|line| line["event"] == event && line["status"].as_u64() == status).expect("the line").clone()
    };
    let created = find("session.created", None);
    assert_eq!(
        (&created["admin"], &created["subject"], &created["realm"]),
        (&json!("test"), &json!("alice"), &json!("staff"))
    );
    assert_eq!(find("admin.call", Some(201))["action"], "sessions.create");
    assert_eq!(find("admin.call", Some(401))["why"], "invalid_token");
    assert_eq!(find("admin.call", Some(401))["client"], "127.0.0.1");
}
