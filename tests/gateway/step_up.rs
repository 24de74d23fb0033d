//! Step-up: routes that ask for a fresher login or for two factors, and how one gets there (RFC 9470).

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Gateway, Issuer, Person, Response, Upstream,
    gateway::{Running, SESSION_COOKIE},
};

const PASSWORD: &str = "correct horse battery staple";

/// `/pay/…` asks for a login of the last ten minutes; everything else for a session.
fn gateway(upstream: &Upstream) -> Running {
    Gateway::new()
        .user("alice", PASSWORD, &[])
        .user("bob", PASSWORD, &[])
        .route("/{*rest}", upstream)
        .route("/pay/{*rest}", upstream)
        .key("require = { max_auth_age = \"10m\" }")
        .start()
}

/// Alice, eleven minutes after she logged in, and the page that she is sent to.
fn stale(gateway: &Running) -> (Person, Response) {
    let mut alice = gateway.person();
    alice.log_in("alice", PASSWORD).expect(303);
    alice.visit("/pay/x").expect(200);
    gateway.advance(Duration::from_secs(11 * 60));
    let sent_away = alice.visit("/pay/x").expect(302);
    assert_eq!(sent_away.header("location"), Some("/_auth/login?prompt=again&return_to=/pay/x"));
    let page = alice.follow(&sent_away).expect(200);
    (alice, page)
}

/// R26: a new id, and the old one opens nothing.
#[test]
fn a_step_up_gives_a_new_session_and_ends_the_one_before() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut alice, page) = stale(&gateway);
    let before = alice.cookie(SESSION_COOKIE).expect("a session").to_owned();
    assert!(page.text().contains("You are signed in as <strong>alice</strong>"), "{}", page.text());

    let back = alice.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);

    assert_eq!(back.header("location"), Some("/pay/x"));
    alice.follow(&back).expect(200);
    assert_ne!(alice.cookie(SESSION_COOKIE), Some(&*before));
    let old = gateway.client().get("/x").cookie(&format!("{SESSION_COOKIE}={before}")).send();
    assert_eq!(old.status, 401);
}

/// Whoever finds an unlocked screen does not carry the work on it into an account of their own.
#[test]
fn a_step_up_ends_in_the_same_person_or_changes_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut alice, page) = stale(&gateway);
    let before = alice.cookie(SESSION_COOKIE).expect("a session").to_owned();

    let refused = alice.submit(&page, &[("username", "bob"), ("password", PASSWORD)]).expect(403);

    assert!(refused.text().contains("That was somebody else."), "{}", refused.text());
    assert!(refused.cookie(SESSION_COOKIE).is_none());
    assert_eq!(alice.cookie(SESSION_COOKIE), Some(&*before));
    alice.visit("/x").expect(200);
    assert_eq!(alice.visit("/pay/x").status, 302, "still stale");
    let line = gateway.audit_lines().into_iter().find(|line| line.contains("other_user")).expect("it is audited");
    assert!(line.contains("login.failed") && line.contains("id-of-bob"), "{line}");
    let back = alice.submit(&refused, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
    alice.follow(&back).expect(200);
}

/// Another account is a choice that one makes knowingly, on the page for it.
#[test]
fn somebody_else_signs_in_by_the_way_that_says_so() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut person, page) = stale(&gateway);
    assert!(page.text().contains("href=\"/_auth/login?prompt=login&amp;return_to=/pay/x\""), "{}", page.text());

    let page = person.visit("/_auth/login?prompt=login&return_to=/pay/x").expect(200);
    let back = person.submit(&page, &[("username", "bob"), ("password", PASSWORD)]).expect(303);

    person.follow(&back).expect(200);
    assert_eq!(upstream.requests().last().and_then(|seen| seen.header("x-user-id")), Some("id-of-bob"));
}

/// The session ended while the page was open: a login like any other.
#[test]
fn a_step_up_without_a_session_is_a_login() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut alice, page) = stale(&gateway);
    alice.forget(SESSION_COOKIE);

    let back = alice.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
    alice.follow(&back).expect(200);
    let page = alice.visit("/_auth/login?prompt=nonsense").expect(200);
    assert!(page.text().contains("You are signed in"), "an unknown prompt is none: {}", page.text());
}

/// RFC 9470 section 6.2: what an issuer vouches for, in `amr` or `acr`; nothing else is taken for two factors.
#[test]
fn a_token_has_two_factors_only_where_it_says_so() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).key("require = { factor = 2 }").start();
    for (claims, status) in [
        (json!({}), 401),
        (json!({ "amr": ["pwd", "otp", "mfa"] }), 200),
        (json!({ "acr": "mfa" }), 200),
        (json!({ "amr": ["pwd", "otp"] }), 401),
        (json!({ "amr": "mfa" }), 401),
        (json!({ "amr": [["mfa"]] }), 401),
        (json!({ "amr": ["MFA"] }), 401),
        (json!({ "acr": ["mfa"] }), 401),
        (json!({ "acr": "1", "factor": 2 }), 401),
        (json!({ "amr": null, "acr": null }), 401),
    ] {
        let mut all = Issuer::claims("alice", &[], gateway.now());
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());

        let answer = gateway.client().get("/x").bearer(&issuer.sign(&all)).send();

        assert_eq!(answer.status, status, "{claims}");
        if status == 401 {
            let challenge = answer.header("www-authenticate").expect("a challenge");
            assert!(challenge.contains("error=\"insufficient_user_authentication\""), "{challenge}");
            assert!(challenge.contains("acr_values=\"mfa\""), "{challenge}");
            assert_eq!(answer.json()["error"], "weak_login");
        }
    }
}

/// A login application says how many factors it asked for; silence is one.
#[test]
fn an_opened_session_has_the_factors_that_its_creator_vouches_for() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/{*rest}", &upstream).key("require = { factor = 2 }").start();
    for (entry, status) in [
        (json!({ "subject": "alice", "factor": 2 }), 200),
        (json!({ "subject": "alice", "factor": 1 }), 401),
        (json!({ "subject": "alice" }), 401),
    ] {
        assert_eq!(gateway.open_session(&entry).get("/x").send().status, status, "{entry}");
    }
}
