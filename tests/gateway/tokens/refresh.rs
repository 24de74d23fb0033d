//! Refresh tokens: one opens, each has one successor, and whoever shows a spent one later ends the family (RFC 9700
//! section 4.14).

use std::{collections::BTreeSet, thread};

use super::*;
use crate::support::eventually;

/// The refresh token of a program that has just logged in, and its access token.
fn phone(gateway: &Running) -> (String, String) {
    let answer = gateway.client().post(TOKEN, "").json(&by_password("alice")).send().expect(200);
    (text(&answer, "refresh_token"), text(&answer, "access_token"))
}

fn request(client: &Client, token: &str) -> Request {
    client.post(REFRESH, "").json(&json!({ "client_id": "phone", "refresh_token": token }))
}

fn refresh(gateway: &Running, token: &str) -> Response {
    request(&gateway.client(), token).send()
}

/// As a page asks: the browser adds the session's cookie, too.
fn by_cookie(client: &Client, cookie: &str) -> Request {
    ask(client, REFRESH, &json!({ "client_id": "spa" })).cookie(cookie)
}

#[test]
fn a_spent_token_has_the_same_successor_for_ten_seconds_and_then_ends_everything() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (after, same) in [(0, true), (9, true), (10, false), (1200, false)] {
        let (first, _) = phone(&gateway);
        let answer = refresh(&gateway, &first).expect(200);
        let (second, access) = (text(&answer, "refresh_token"), text(&answer, "access_token"));
        assert_ne!(first, second);
        gateway.advance(Duration::from_secs(after));

        let again = refresh(&gateway, &first);

        if same {
            assert_eq!(text(&again.expect(200), "refresh_token"), second, "after {after} s");
            refresh(&gateway, &second).expect(200);
        } else {
            assert_eq!(text(&again.expect(400), "error"), "invalid_grant", "after {after} s");
            assert_eq!(text(&refresh(&gateway, &second).expect(400), "error"), "invalid_grant");
            assert_eq!(opens(&gateway, &access), 401, "what came from it has ended, too");
        }
    }
    assert_eq!(gateway.metric("portcullis_refresh_tokens_reused_total", &[]), 2.0);
    eventually("it is audited", || {
        gateway.audit_lines().iter().any(|line| line.contains("\"token.reused\"") && line.contains("id-of-alice"))
    });
}

/// The clock cannot tell how long ago that was.
#[test]
fn a_clock_that_steps_back_does_not_make_a_spent_refresh_token_good() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (first, _) = phone(&gateway);
    let second = text(&refresh(&gateway, &first).expect(200), "refresh_token");

    gateway.clock().set(gateway.now().minus(Duration::from_secs(3600)));

    refresh(&gateway, &first).expect(400);
    refresh(&gateway, &second).expect(400);
}

#[test]
fn fifty_requests_at_once_get_exactly_one_successor() {
    let upstream = Upstream::start();
    for state in [None, Some("state_dir = \"state\"")] {
        let configured = configured(&upstream);
        let gateway = state.into_iter().fold(configured, Gateway::server).start();
        let (first, _) = phone(&gateway);

        let successors: BTreeSet<String> = thread::scope(|scope| {
            let threads: Vec<_> = (0..50)
                .map(|_| {
                    let (client, first) = (gateway.client(), &first);
                    scope.spawn(move || text(&request(&client, first).send().expect(200), "refresh_token"))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
        });

        assert_eq!(successors.len(), 1, "{state:?}");
        let next = successors.first().expect("one");
        assert_eq!(gateway.metric("portcullis_refresh_families", &[]), 1.0);
        refresh(&gateway, next).expect(200);
    }
}

/// "From the same client": whoever shows a spent token from elsewhere has stolen it.
#[test]
fn a_spent_token_from_another_network_ends_the_family_at_once() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).server("trusted_proxies = [\"127.0.0.1/32\"]").start();
    let from = |address: &str| gateway.client().always("X-Forwarded-For", address).always("X-Forwarded-Proto", "https");
    for (thief, status) in [("192.0.2.1", 200), ("192.0.2.2", 400)] {
        let owner = from("192.0.2.1");
        let answer = owner.post(TOKEN, "").json(&by_password("alice")).send().expect(200);
        let first = text(&answer, "refresh_token");
        let second = text(&request(&owner, &first).send().expect(200), "refresh_token");

        request(&from(thief), &first).send().expect(status);

        // Refreshed in time it may come from anywhere: people travel.
        request(&from("198.51.100.7"), &second).send().expect(status);
    }
}

#[test]
fn what_is_no_refresh_token_of_this_client_gets_nothing_and_ends_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (token, access) = phone(&gateway);
    let flipped = |at: usize| {
        let other = if token.as_bytes()[at] == b'A' { 'B' } else { 'A' };
        format!("{}{other}{}", &token[..at], &token[at + 1..])
    };
    for bad in [
        String::new(),
        "ptr_".to_owned(),
        token[..token.len() - 1].to_owned(),
        format!("{token}A"),
        flipped(10),
        flipped(40),
        flipped(80),
        access,
    ] {
        assert_eq!(text(&refresh(&gateway, &bad).expect(400), "error"), "invalid_grant", "{bad}");
    }
    for (body, status, error) in [
        (json!({ "client_id": "both", "refresh_token": token }), 400, "invalid_grant"),
        (json!({ "client_id": "stranger", "refresh_token": token }), 401, "invalid_client"),
        (json!({ "refresh_token": token }), 400, "invalid_request"),
        (json!({ "client_id": "phone" }), 400, "invalid_grant"),
        (json!({ "client_id": "phone", "refresh_token": token, "scope": "x" }), 400, "invalid_request"),
        (json!({ "client_id": "phone", "refresh_token": token, "grant_type": "password" }), 400, "invalid_request"),
    ] {
        let answer = gateway.client().post(REFRESH, "").json(&body).send().expect(status);
        assert_eq!(text(&answer, "error"), error, "{body}");
    }
    gateway.client().get(REFRESH).send().expect(405);
    refresh(&gateway, &token).expect(200);
}

#[test]
fn a_browsers_token_stays_in_its_cookie_and_counts_for_our_own_pages_only() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");
    let cookie = by_session(&alice).send().expect(200).cookie(REFRESH_COOKIE).expect("a cookie");
    let body = json!({ "client_id": "spa" });
    for (name, value) in [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("X-Nothing", "said"),
    ] {
        let answer = alice.post(REFRESH, "").json(&body).cookie(&cookie).header(name, value).send();
        assert_eq!(answer.expect(403).json()["error"], "cross_site", "{name}: {value}");
    }

    let next = by_cookie(&alice, &cookie).send().expect(200);

    assert_eq!(next.json().as_object().expect("an object").len(), 3, "no refresh token in it: {next:?}");
    let successor = next.cookie(REFRESH_COOKIE).expect("the next one");
    assert_ne!(successor, cookie);
    assert_eq!(by_cookie(&alice, &cookie).send().expect(200).cookie(REFRESH_COOKIE), Some(successor.clone()));
    // A page that is loaded anew asks with both, and keeps the cookie that it has.
    let reloaded = by_session(&alice).header("Cookie", &successor).send().expect(200);
    assert!(reloaded.all("set-cookie").is_empty(), "{reloaded:?}");
    assert_eq!(gateway.metric("portcullis_refresh_families", &[]), 1.0);
    by_session(&alice).send().expect(200);
    assert_eq!(gateway.metric("portcullis_refresh_families", &[]), 2.0);
}

/// A neighbouring host can plant a cookie of this name: it must not lead anybody into somebody else's account.
#[test]
fn a_refresh_cookie_counts_beside_the_session_that_it_was_given_with_only() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (alice, bob) = (gateway.log_in("alice"), gateway.log_in("bob"));
    let planted = by_session(&bob).send().expect(200).cookie(REFRESH_COOKIE).expect("a cookie");

    for victim in [&alice, &gateway.client()] {
        let answer = by_cookie(victim, &planted).send().expect(400);
        assert_eq!(text(&answer, "error"), "invalid_grant");
    }
    // Nor does it keep alice from having a token of her own.
    let own = by_session(&alice).cookie(&planted).send().expect(200);
    assert_eq!(claims(&text(&own, "access_token"))["sub"], "id-of-alice");
    assert!(own.cookie(REFRESH_COOKIE).is_some());
    by_cookie(&bob, &planted).send().expect(200);
}

/// Two ways at once, a page with a token in the body, and a token that was taken out of its cookie.
#[test]
fn a_token_that_comes_another_way_than_it_was_given_is_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (token, _) = phone(&gateway);
    let alice = gateway.log_in("alice");
    let cookie = by_session(&alice).send().expect(200).cookie(REFRESH_COOKIE).expect("a cookie");
    let in_cookie = cookie.split_once('=').expect("a value").1.to_owned();

    request(&gateway.client(), &token).header("Origin", "https://app.test").send().expect(403);
    request(&gateway.client(), &token).header("Sec-Fetch-Site", "same-origin").send().expect(403);
    request(&gateway.client(), &token).cookie(&cookie).send().expect(400);
    let twice = by_cookie(&alice, &format!("{cookie}; {cookie}")).send().expect(400);
    assert_eq!(text(&twice, "error"), "invalid_request");
    refresh(&gateway, &token).expect(200);
    by_cookie(&alice, &cookie).send().expect(200);

    let stolen = json!({ "client_id": "spa", "refresh_token": in_cookie });
    gateway.client().post(REFRESH, "").json(&stolen).send().expect(400);
    let ended = by_cookie(&alice, &cookie).send().expect(400);
    assert!(ended.cookie(REFRESH_COOKIE).is_some_and(|cookie| cookie.ends_with('=')), "it is taken away: {ended:?}");
    alice.get("/app/x").send().expect(200);
}

/// It lives as long as the session, and not a second longer, however often it is used.
#[test]
fn refreshing_ends_with_the_session() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).table("[session]\nidle_timeout = \"10m\"\nmax_lifetime = \"25m\"").start();
    let (mut token, _) = phone(&gateway);
    for left in [300, 300, 60] {
        gateway.advance(8 * MINUTE);
        let answer = refresh(&gateway, &token).expect(200);
        assert_eq!(answer.json()["expires_in"], left);
        token = text(&answer, "refresh_token");
    }
    gateway.advance(MINUTE);

    assert_eq!(text(&refresh(&gateway, &token).expect(400), "error"), "invalid_grant");
    assert_eq!(gateway.metric("portcullis_refresh_families", &[]), 0.0);
}

/// R26, and where a client says otherwise.
#[test]
fn a_browser_that_refreshes_is_not_thereby_active() {
    let upstream = Upstream::start();
    let settings = SETTINGS.replace("\"spa\"", "\"spa\", { id = \"busy\", touch = true }");
    let gateway = Gateway::with(&settings).user("alice", PASSWORD, &[]).table("[session]\nidle_timeout = \"10m\"");
    let gateway = gateway.route("/app/{*rest}", &upstream).auth(&["session"]).start();
    for (client, lives) in [("spa", false), ("busy", true)] {
        let alice = gateway.log_in("alice");
        let asked = ask(&alice, TOKEN, &json!({ "grant_type": "session", "client_id": client }));
        let cookie = asked.send().expect(200).cookie(REFRESH_COOKIE).expect("a cookie");
        gateway.advance(8 * MINUTE);
        ask(&alice, REFRESH, &json!({ "client_id": client })).cookie(&cookie).send().expect(200);
        gateway.advance(8 * MINUTE);

        assert_eq!(alice.get("/app/x").send().status == 200, lives, "{client}");
    }
}
