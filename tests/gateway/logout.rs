//! Logging out: by POST, for good, on this side and in the browser.

use crate::support::{
    Gateway, Upstream,
    gateway::{Running, SESSION_COOKIE},
};

const PASSWORD: &str = "correct horse battery staple";
const CLEARED: &str = "__Host-portcullis=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";

fn gateway(upstream: &Upstream) -> Running {
    Gateway::new().user("alice", PASSWORD, &["user"]).route("/app/{*rest}", upstream).start()
}

/// R26: what was stolen from the browser before is worth nothing afterwards.
#[test]
fn a_logout_ends_the_session_and_clears_the_cookie() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    alice.log_in("alice", PASSWORD).expect(303);
    let copy = format!("{SESSION_COOKIE}={}", alice.cookie(SESSION_COOKIE).expect("a session"));
    gateway.client().get("/app/x").cookie(&copy).send().expect(200);

    let page = alice.visit("/_auth/logout").expect(200);
    let answer = alice.submit(&page, &[]).expect(303);

    assert!(answer.all("set-cookie").contains(&CLEARED), "{answer:?}");
    assert_eq!(answer.header("location"), Some("/_auth/login?signed_out"));
    gateway.client().get("/app/x").cookie(&copy).send().expect(401);
    assert!(alice.follow(&answer).expect(200).text().contains("You have signed out."));
    assert_eq!(alice.visit("/app/x").expect(302).header("location"), Some("/_auth/login?return_to=/app/x"));
}

/// A link or an image can make a browser GET anything.
#[test]
fn a_get_only_asks_and_ends_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    alice.log_in("alice", PASSWORD).expect(303);

    let page = alice.visit("/_auth/logout").expect(200);

    assert!(page.text().contains("Sign out?") && page.text().contains("alice"), "{}", page.text());
    assert!(page.all("set-cookie").is_empty());
    alice.visit("/app/x").expect(200);
}

/// R31.
#[test]
fn another_site_cannot_log_anybody_out() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    for (name, value) in [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
    ] {
        let answer = alice.post("/_auth/logout", "").header(name, value).send().expect(403);

        assert_eq!(answer.json()["error"], "cross_site", "{name}: {value}");
        alice.get("/app/x").send().expect(200);
    }
}

#[test]
fn a_program_logs_out_and_gets_json() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");

    let answer = alice.post("/_auth/logout", "").header("Accept", "application/json").send().expect(200);

    assert_eq!(answer.json(), serde_json::json!({ "authenticated": false }));
    assert!(answer.all("set-cookie").contains(&CLEARED));
    alice.get("/app/x").send().expect(401);
}

/// Whoever presses the button wants no cookie afterwards, whatever it was worth.
#[test]
fn a_logout_succeeds_with_a_dead_cookie_or_none_or_two() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let dead = format!("{SESSION_COOKIE}={}", "A".repeat(43));
    let two = format!("{dead}; {dead}");
    for cookie in [None, Some("other=1"), Some(&*dead), Some(&*two), Some("__Host-portcullis=nonsense")] {
        let mut request = gateway.client().post("/_auth/logout", "").header("Accept", "application/json");
        if let Some(cookie) = cookie {
            request = request.cookie(cookie);
        }

        let answer = request.send().expect(200);

        assert!(answer.all("set-cookie").contains(&CLEARED), "{cookie:?}");
    }
}

/// R33.
#[test]
fn a_logout_leads_nowhere_else() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (given, expected) in [
        ("/app/goodbye", "/app/goodbye"),
        ("https://evil.example/", "/_auth/login?signed_out"),
        ("//evil.example", "/_auth/login?signed_out"),
        ("/\\evil.example", "/_auth/login?signed_out"),
    ] {
        let request = gateway
            .client()
            .post("/_auth/logout", format!("return_to={}", crate::support::person::percent(given)))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Sec-Fetch-Site", "same-origin")
            .header("Accept", "text/html");
        assert_eq!(request.send().expect(303).header("location"), Some(expected), "{given}");
    }
}

#[test]
fn only_this_session_ends() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (phone, desk) = (gateway.log_in("alice"), gateway.log_in("alice"));

    phone.post("/_auth/logout", "").send();

    phone.get("/app/x").send().expect(401);
    desk.get("/app/x").send().expect(200);
}
