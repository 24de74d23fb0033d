//! User and password for a token: for programs only, and as hard to guess as on the login page (RFC 9700 section 2.4).

use serde_json::json;

use super::*;
use crate::{second_factor::enrol, support::eventually};

fn phone(gateway: &Running, body: &Value) -> Response {
    gateway.client().post(TOKEN, "").json(body).send()
}

fn refresh(gateway: &Running, token: &str) -> Response {
    let body = json!({ "client_id": "phone", "grant_type": "refresh_token", "refresh_token": token });
    gateway.client().post(REFRESH, "").json(&body).send()
}

#[test]
fn a_program_gets_both_tokens_in_the_body_and_no_cookie() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);

    let answer = phone(&gateway, &by_password("alice")).expect(200);

    assert!(answer.all("set-cookie").is_empty(), "{answer:?}");
    let (token, refresh_token) = (text(&answer, "access_token"), text(&answer, "refresh_token"));
    assert_eq!(opens(&gateway, &token), 200);
    assert_eq!(claims(&token)["client_id"], "phone");
    let next = refresh(&gateway, &refresh_token).expect(200);
    assert!(next.all("set-cookie").is_empty(), "{next:?}");
    assert_eq!(opens(&gateway, &text(&next, "access_token")), 200);
    // It is a session like any other, and its owner sees it.
    let alice = gateway.log_in("alice");
    let sessions = alice.get("/_auth/sessions").send().expect(200).json();
    assert_eq!(sessions["sessions"].as_array().expect("a list").len(), 2);
    assert_eq!(gateway.metric("portcullis_logins_total", &[("result", "succeeded")]), 2.0);
}

#[test]
fn it_is_off_by_default() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);

    let mut body = by_password("alice");
    body["client_id"] = json!("spa");

    assert_eq!(text(&phone(&gateway, &body).expect(400), "error"), "unauthorized_client");
    body["client_id"] = json!("both");
    phone(&gateway, &body).expect(200);
}

/// A page of ours has a login of its own, another's has no business with passwords.
#[test]
fn no_page_gets_a_token_for_a_password() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (name, value) in [
        ("Origin", "https://app.test"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Site", "none"),
    ] {
        let answer = gateway.client().post(TOKEN, "").json(&by_password("alice")).header(name, value).send();
        answer.expect(403);
    }
    let form = gateway.client().post(TOKEN, "grant_type=password&client_id=phone&username=alice&password=x");
    form.header("Content-Type", "application/x-www-form-urlencoded").send().expect(415);
    gateway.client().post(TOKEN, by_password("alice").to_string()).send().expect(415);
    assert_eq!(gateway.metric("portcullis_logins_total", &[("result", "succeeded")]), 0.0);
    phone(&gateway, &by_password("alice")).expect(200);
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_refused_alike_and_slowed_down_as_on_the_page() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut wrong = by_password("alice");
    wrong["password"] = json!("wrong");
    let known = phone(&gateway, &wrong).expect(400);
    let unknown = phone(&gateway, &by_password("nobody")).expect(400);
    let shape = |answer: &Response| {
        let mut body = answer.json();
        body.as_object_mut().expect("an object").remove("request_id");
        body
    };
    assert_eq!(shape(&known), shape(&unknown));
    assert_eq!(text(&known, "error"), "invalid_grant");

    let mut tries = 0;
    let slowed = loop {
        let answer = phone(&gateway, &wrong);
        tries += 1;
        assert!(tries < 50, "nobody slows it down");
        if answer.status == 429 {
            break answer;
        }
    };

    assert!(slowed.header("retry-after").is_some());
    phone(&gateway, &by_password("alice")).expect(429);
    // The login page is slowed down by the same guesses.
    let page = json!({ "username": "alice", "password": PASSWORD });
    gateway.client().post("/_auth/login", "").json(&page).send().expect(429);
    eventually("it is audited", || {
        let lines = gateway.audit_lines();
        let has = |word: &str| lines.iter().any(|line| line.contains(word) && line.contains("id-of-alice"));
        has("\"login.failed\"") && has("\"login.throttled\"")
    });
    let wait: u64 = slowed.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    gateway.advance(Duration::from_secs(wait + 1));
    phone(&gateway, &by_password("alice")).expect(200);
}

#[test]
fn whoever_has_a_second_factor_gets_no_token_without_it() {
    let upstream = Upstream::start();
    let gateway = Gateway::with(SETTINGS).user("alice", PASSWORD, &["user"]).second_factor();
    let gateway = gateway.user("bob", PASSWORD, &[]).second_factor().route("/{*rest}", &upstream);
    let gateway = gateway.auth(&["jwt:self"]).key("require = { factor = 2 }").start();
    let missing = phone(&gateway, &by_password("bob")).expect(400).json();
    assert_eq!((&missing["error"], &missing["reason"]), (&json!("invalid_grant"), &json!("factor_missing")));
    let mut person = gateway.person();
    let app = enrol(&gateway, &mut person, "alice");

    let without = phone(&gateway, &by_password("alice")).expect(400).json();
    assert_eq!((&without["error"], &without["reason"]), (&json!("invalid_grant"), &json!("factor_required")));
    let mut body = by_password("alice");
    body["code"] = json!("000000");
    assert_eq!(text(&phone(&gateway, &body).expect(400), "reason"), "wrong_code");
    body["code"] = json!(app.shows(&gateway));
    let answer = phone(&gateway, &body).expect(200);

    let token = text(&answer, "access_token");
    assert_eq!(opens(&gateway, &token), 200, "it says that two factors were shown");
    let next = refresh(&gateway, &text(&answer, "refresh_token")).expect(200);
    assert_eq!(opens(&gateway, &text(&next, "access_token")), 200);
    assert_eq!(text(&phone(&gateway, &body).expect(400), "reason"), "wrong_code", "a code counts once");
}

#[test]
fn programs_count_among_a_users_sessions_and_refreshing_keeps_them_alive() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).table("[session]\nmax_per_user = 2\nidle_timeout = \"10m\"").start();
    let [oldest, other, newest] = [0, 1, 2].map(|_| {
        gateway.advance(Duration::from_secs(1));
        text(&phone(&gateway, &by_password("alice")).expect(200), "refresh_token")
    });

    assert_eq!(text(&refresh(&gateway, &oldest).expect(400), "error"), "invalid_grant");
    let mut kept = text(&refresh(&gateway, &newest).expect(200), "refresh_token");
    for _ in 0..3 {
        gateway.advance(9 * MINUTE);
        kept = text(&refresh(&gateway, &kept).expect(200), "refresh_token");
    }
    refresh(&gateway, &other).expect(400);
}
