//! The session and its cookie (R26): attributes, limits in time and number, and what of a `Cookie` field counts.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Client, Gateway, Upstream,
    gateway::{Running, SESSION_COOKIE},
};

const PASSWORD: &str = "correct horse battery staple";
const MINUTE: Duration = Duration::from_secs(60);

fn gateway(settings: &str, upstream: &Upstream) -> Running {
    Gateway::with(&format!("[session]\n{settings}"))
        .user("alice", PASSWORD, &[])
        .admin()
        .route("/app/{*rest}", upstream)
        .start()
}

fn lives(client: &Client) -> bool {
    match client.get("/app/x").send().status {
        200 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

/// R26.
#[test]
fn the_cookie_has_every_protection_and_ends_with_the_browser() {
    let upstream = Upstream::start();
    for (settings, expected) in [
        ("", "; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ("same_site = \"strict\"", "; Path=/; Secure; HttpOnly; SameSite=Strict"),
    ] {
        let gateway = gateway(settings, &upstream);
        let mut person = gateway.person();
        let answer = person.log_in("alice", PASSWORD).expect(303);
        let cookies = answer.all("set-cookie");
        let ours: Vec<_> = cookies.iter().filter(|line| line.starts_with("__Host-portcullis=")).collect();

        assert_eq!(ours.len(), 1, "{cookies:?}");
        let (pair, attributes) = ours[0].split_at(ours[0].find(';').expect("attributes"));
        assert_eq!(attributes, expected);
        assert_eq!(pair.len(), "__Host-portcullis=".len() + 43, "256 bits in base64url");
        assert!(cookies.iter().all(|line| !line.contains("Domain")), "{cookies:?}");
    }
}

/// R26: not before the login, not for visitors, not for wrong passwords.
#[test]
fn no_session_is_made_for_anybody_who_is_not_logged_in() {
    let upstream = Upstream::start();
    let gateway = gateway("", &upstream);
    let mut person = gateway.person();

    for target in ["/app/x", "/_auth/login", "/_auth/logout", "/_auth/session", "/nowhere"] {
        person.visit(target);
    }
    person.log_in("alice", "wrong").expect(401);

    assert_eq!(person.cookie(SESSION_COOKIE), None);
    assert!(gateway.metric("portcullis_sessions", &[]).abs() < f64::EPSILON);
}

/// R26.
#[test]
fn a_session_ends_when_it_is_not_used() {
    let upstream = Upstream::start();
    let gateway = gateway("idle_timeout = \"30m\"\nmax_lifetime = \"12h\"", &upstream);
    let alice = gateway.log_in("alice");
    for _ in 0..4 {
        gateway.advance(29 * MINUTE);
        assert!(lives(&alice), "use keeps it alive");
    }

    gateway.advance(30 * MINUTE);

    assert!(!lives(&alice));
    assert!(!lives(&alice), "and it stays dead");
}

/// R26.
#[test]
fn a_session_ends_after_its_lifetime_however_much_it_is_used() {
    let upstream = Upstream::start();
    let gateway = gateway("idle_timeout = \"30m\"\nmax_lifetime = \"1h\"", &upstream);
    let alice = gateway.log_in("alice");
    for _ in 0..5 {
        gateway.advance(10 * MINUTE);
        assert!(lives(&alice));
    }
    gateway.advance(9 * MINUTE);
    assert!(lives(&alice));

    gateway.advance(MINUTE);

    assert!(!lives(&alice));
}

/// R26: a page that polls must not keep a session alive.
#[test]
fn a_route_without_touch_is_no_activity() {
    let upstream = Upstream::start();
    let gateway = Gateway::with("[session]\nidle_timeout = \"30m\"")
        .user("alice", PASSWORD, &[])
        .route("/app/{*rest}", &upstream)
        .route("/poll/{*rest}", &upstream)
        .key("touch = false")
        .start();
    let alice = gateway.log_in("alice");
    gateway.advance(29 * MINUTE);
    alice.get("/poll/x").send().expect(200);
    alice.get("/_auth/session").send().expect(200);

    gateway.advance(2 * MINUTE);

    alice.get("/poll/x").send().expect(401);
}

/// R26: the oldest makes room, and nobody else's.
#[test]
fn one_user_has_so_many_sessions_and_the_oldest_ends() {
    let upstream = Upstream::start();
    let gateway = gateway("max_per_user = 2", &upstream);
    let other = gateway.open_session(&json!({ "subject": "other" }));
    let first = gateway.log_in("alice");
    gateway.advance(MINUTE);
    let second = gateway.log_in("alice");
    gateway.advance(MINUTE);

    let third = gateway.log_in("alice");

    assert!(!lives(&first));
    assert!(lives(&second) && lives(&third) && lives(&other));
}

/// R19: whoever has the most sessions gives up the oldest.
#[test]
fn a_full_store_takes_a_session_from_whoever_has_the_most() {
    let upstream = Upstream::start();
    let gateway = gateway("max_sessions = 4", &upstream);
    let oldest = gateway.open_session(&json!({ "subject": "a" }));
    gateway.advance(MINUTE);
    let others = ["a", "b", "c"].map(|subject| gateway.open_session(&json!({ "subject": subject })));

    let alice = gateway.log_in("alice");

    assert!(!lives(&oldest));
    assert!(others.iter().chain([&alice]).all(lives));
    assert!((gateway.metric("portcullis_sessions_evicted_total", &[]) - 1.0).abs() < f64::EPSILON);
    let body = json!({ "username": "alice", "password": PASSWORD });
    gateway.client().post("/_auth/login", "").json(&body).send().expect(503);
    assert!(others.iter().chain([&alice]).all(lives), "who has one session keeps it");
}

/// R19, R3: where nobody has more than one session, a full store refuses the newcomer and ends nobody.
#[test]
fn a_full_store_takes_no_more_and_says_when_to_come_back() {
    let upstream = Upstream::start();
    let gateway = gateway("max_sessions = 2", &upstream);
    let first = gateway.open_session(&json!({ "subject": "a" }));
    let second = gateway.open_session(&json!({ "subject": "b" }));

    let body = json!({ "username": "alice", "password": PASSWORD });
    let refused = gateway.client().post("/_auth/login", "").json(&body).send().expect(503);

    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["error"], "store_full");
    assert!(lives(&first) && lives(&second));
}

/// R2: which of two a browser meant is anybody's guess. A neighbour host that tosses a cookie gains nothing.
#[test]
fn two_session_cookies_are_refused() {
    let upstream = Upstream::start();
    let gateway = gateway("", &upstream);
    let mut person = gateway.person();
    person.log_in("alice", PASSWORD).expect(303);
    let good = person.cookie(SESSION_COOKIE).expect("a session");
    let dead = "A".repeat(43);
    let name = SESSION_COOKIE;
    let get = || gateway.client().get("/app/x");

    for (what, request) in [
        ("the good one first", get().cookie(&format!("{name}={good}; {name}={dead}"))),
        ("the good one last", get().cookie(&format!("{name}={dead}; {name}={good}"))),
        ("the same twice", get().cookie(&format!("{name}={good}; {name}={good}"))),
        ("in two fields", get().cookie(&format!("{name}={good}")).cookie(&format!("{name}={dead}"))),
        ("an empty one beside it", get().cookie(&format!("{name}=; {name}={good}"))),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.json()["error"], "ambiguous_credential", "{what}");
        assert_eq!(request.send_http2().status, 401, "{what}, HTTP/2");
    }
    assert_eq!(upstream.connection_count(), 0);
    get().cookie(&format!("a=b; {name}={good}; c=d")).send().expect(200);
}

/// R26: a cookie counts under its exact name and with its exact value.
#[test]
fn what_is_only_like_the_cookie_is_no_session() {
    let upstream = Upstream::start();
    let gateway = gateway("", &upstream);
    let mut person = gateway.person();
    person.log_in("alice", PASSWORD).expect(303);
    let good = person.cookie(SESSION_COOKIE).expect("a session").to_owned();
    let mut flipped = good.clone().into_bytes();
    flipped[10] = if flipped[10] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).expect("base64url");
    let last = good.chars().last().expect("a character");
    let alias = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let position = alias.find(last).expect("base64url");
    let sibling = format!("{}{}", &good[..42], alias.as_bytes()[position ^ 1] as char);

    for cookie in [
        format!("portcullis={good}"),
        format!("__host-portcullis={good}"),
        format!("__Host-Portcullis={good}"),
        format!("__Secure-portcullis={good}"),
        format!("__Host-portcullis2={good}"),
        format!("__Host-portcullis={flipped}"),
        format!("__Host-portcullis={sibling}"),
        format!("__Host-portcullis={good}="),
        format!("__Host-portcullis=\"{good}\""),
        format!("__Host-portcullis={}", &good[..42]),
        format!("__Host-portcullis={good}A"),
        format!("__Host-portcullis={}", good.replace(char::is_lowercase, "a")),
        format!("a=__Host-portcullis={good}"),
        "__Host-portcullis=".to_owned(),
    ] {
        let answer = gateway.client().get("/app/x").cookie(&cookie).send();
        assert_eq!(answer.status, 401, "{cookie}");
    }
    assert_eq!(upstream.connection_count(), 0);
    person.visit("/app/x").expect(200);
}

/// R30: a browser with a dead cookie is told to forget it.
#[test]
fn a_dead_cookie_is_cleared() {
    let upstream = Upstream::start();
    let gateway = gateway("idle_timeout = \"30m\"", &upstream);
    let mut person = gateway.person();
    person.log_in("alice", PASSWORD).expect(303);
    gateway.advance(31 * MINUTE);

    let answer = person.visit("/app/x").expect(302);

    assert!(answer.all("set-cookie").iter().any(|line| line.starts_with("__Host-portcullis=;")), "{answer:?}");
    assert_eq!(person.cookie(SESSION_COOKIE), None);
}

/// R4: on an optional route a dead cookie is no credential, but only where nothing is changed.
#[test]
fn on_an_optional_route_a_dead_cookie_counts_as_none_for_reading_only() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::new().user("alice", PASSWORD, &[]).route("/{*rest}", &upstream).key("optional = true").start();
    let dead = gateway.client().always("Cookie", &format!("{SESSION_COOKIE}={}", "A".repeat(43)));

    dead.get("/x").send().expect(200);
    assert!(upstream.next_request().names().iter().all(|name| !name.starts_with("x-user")));
    dead.post("/x", "a=b").header("Sec-Fetch-Site", "same-origin").send().expect(401);
    gateway.client().get("/x").send().expect(200);
}

/// R20: a session that was opened over https does not travel in the clear.
#[test]
fn over_plain_http_no_session_counts_and_none_is_made() {
    let upstream = Upstream::start();
    let gateway = Gateway::new()
        .server("listen = [\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]")
        .user("alice", PASSWORD, &[])
        .route("/app/{*rest}", &upstream)
        .start();
    let mut person = gateway.person();
    person.log_in("alice", PASSWORD).expect(303);
    let cookie = format!("{SESSION_COOKIE}={}", person.cookie(SESSION_COOKIE).expect("a session"));
    let plain = Client::plain(gateway.addresses().gateway[1]).host("app.test");

    plain.get("/app/x").cookie(&cookie).send().expect(401);
    let login = plain.post("/_auth/login", "").json(&json!({ "username": "alice", "password": PASSWORD })).send();

    assert_eq!(login.expect(403).json()["error"], "not_encrypted");
    person.visit("/app/x").expect(200);
}
