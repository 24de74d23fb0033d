//! The audit log: each event once, with who, from where, what and why; never a secret.

use serde_json::{Value, json};

use crate::support::{
    Gateway, Upstream, eventually,
    gateway::{Running, SESSION_COOKIE},
};

const PASSWORD: &str = "Correct-Horse-Battery-7341";
const WRONG: &str = "Wrong-Guess-9265";

fn gateway(upstream: &Upstream) -> Running {
    Gateway::new().user("alice", PASSWORD, &["user"]).admin().route("/app/{*rest}", upstream).start()
}

/// The lines so far, once there are at least so many.
fn lines(gateway: &Running, number: usize) -> Vec<Value> {
    eventually("the audit log is written", || gateway.audit_lines().len() >= number);
    gateway.audit_lines().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().expect("an event")).collect()
}

#[test]
fn logins_and_logouts_are_told_with_whom_and_from_where() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    let answer = alice.log_in("alice", PASSWORD).expect(303);
    let session = alice.cookie(SESSION_COOKIE).expect("a session").to_owned();
    let page = alice.visit("/_auth/logout");
    alice.submit(&page, &[]).expect(303);

    let lines = lines(&gateway, 2);

    assert_eq!(events(&lines), ["login", "logout"]);
    for line in &lines {
        assert_eq!(
            (&line["subject"], &line["realm"], &line["client"]),
            (&json!("id-of-alice"), &json!("staff"), &json!("127.0.0.1"))
        );
        assert!(!line.to_string().contains(&session));
    }
    assert_eq!(lines[0]["provider"], "local");
    assert_eq!(lines[0]["request_id"].as_str(), answer.header("x-request-id"));
    assert_eq!(lines[0]["session"], lines[1]["session"]);
}

/// Nobody asked for it: who is signed out by a limit finds out why.
#[test]
fn sessions_that_make_room_for_others_are_told_with_the_limit() {
    let upstream = Upstream::start();
    let gateway = Gateway::new()
        .table("[session]\nmax_sessions = 4\nmax_per_user = 2")
        .admin()
        .route("/app/{*rest}", &upstream)
        .start();
    let open = |subject: &str| {
        let answer = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": subject })).send();
        gateway.advance(std::time::Duration::from_secs(60));
        answer.expect(201).json()["key"].as_str().expect("a key").to_owned()
    };
    let keys = ["bob", "bob", "bob", "carol", "dave", "erin"].map(open);

    let told: Vec<Value> = lines(&gateway, 14).into_iter().filter(|line| line["event"] == "session.evicted").collect();

    let expected = [(&keys[0], "bob", "max_per_user", &keys[2]), (&keys[1], "bob", "max_sessions", &keys[5])];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (line, (key, subject, why, newcomer)) in told.iter().zip(expected) {
        let found = (line["session"].as_str(), line["subject"].as_str(), line["why"].as_str());
        assert_eq!(found, (Some(key.as_str()), Some(subject), Some(why)));
        assert_eq!(line["for_session"].as_str(), Some(newcomer.as_str()));
        assert_eq!((&line["realm"], &line["client"]), (&json!("staff"), &json!("gateway")));
    }
}

#[test]
fn a_failed_login_says_why_and_whose_it_was_if_anybodys() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let client = gateway.client();
    let json = |name: &str, password: &str| json!({ "username": name, "password": password });
    gateway.person().log_in("alice", WRONG).expect(401);
    client.post("/_auth/login", "").json(&json("alice", WRONG)).send().expect(401);
    client.post("/_auth/login", "").json(&json("nobody", WRONG)).send().expect(401);
    client
        .post("/_auth/login", "username=alice&password=x&token=forged")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Sec-Fetch-Site", "same-origin")
        .send()
        .expect(403);

    let lines = lines(&gateway, 4);

    assert_eq!(events(&lines), ["login.failed"; 4]);
    let told: Vec<_> = lines.iter().map(|line| (line["why"].as_str().unwrap(), line["subject"].as_str())).collect();
    let known = ("wrong_password", Some("id-of-alice"));
    assert_eq!(told, [known, known, ("unknown_user", None), ("form_token", None)]);
}

/// People type their password where the name belongs; the log would keep it for years.
#[test]
fn a_password_typed_as_the_name_is_not_told() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    gateway.person().log_in(PASSWORD, "").expect(401);
    gateway.person().log_in(PASSWORD, PASSWORD).expect(401);

    lines(&gateway, 2);

    assert!(gateway.audit_lines().iter().chain(&gateway.log_lines()).all(|line| !line.contains(PASSWORD)));
}

#[test]
fn a_throttled_login_is_told_too() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let guess = |n: usize| json!({ "username": "alice", "password": format!("guess-{n}") });
    let mut failed = 0;
    while gateway.client().post("/_auth/login", "").json(&guess(failed)).send().status == 401 {
        failed += 1;
        assert!(failed < 1000, "guessing is slowed down");
    }

    let lines = lines(&gateway, failed + 1);

    let last = &lines[failed];
    assert_eq!((&last["event"], &last["subject"]), (&json!("login.throttled"), &json!("id-of-alice")));
}

#[test]
fn what_administrators_do_or_may_not_do_is_told_with_the_request() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let admin = gateway.admin();
    let created = admin.post("/api/v1/sessions", "").json(&json!({ "subject": "bob" })).send().expect(201);
    let key = created.json()["key"].as_str().expect("a key").to_owned();
    admin.request("DELETE", &format!("/api/v1/sessions/{key}")).send().expect(200);
    admin.request("DELETE", "/api/v1/sessions?subject=carol&realm=else").send().expect(200);
    admin.get("/api/v1/sessions").header("Origin", "https://evil.example").send().expect(403);

    let lines = lines(&gateway, 7);

    let all = ["session.created", "admin.call", "sessions.ended", "admin.call", "sessions.ended", "admin.call"];
    assert_eq!(events(&lines)[..6], all);
    assert!(lines[..6].iter().all(|line| line["admin"] == "test"));
    assert_eq!(lines[0]["request_id"], lines[1]["request_id"], "one call, one id");
    assert_ne!(lines[1]["request_id"], lines[3]["request_id"]);
    assert_eq!((&lines[2]["subject"], &lines[2]["session"]), (&json!("bob"), &json!(key)));
    assert_eq!(
        (&lines[6]["why"], &lines[6]["status"], &lines[6]["admin"]),
        (&json!("cross_site"), &json!(403), &Value::Null)
    );
}
