//! Logging in: the page, its form, programs with JSON, where it leads to, and how guessing is slowed down.
//!
//! The sessions that come of it are tested in `session`, the answers of routes that ask for a login in `browsers`.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Form, Gateway, Response, Upstream,
    gateway::{Running, SESSION_COOKIE, session_cookie},
    person::percent,
};

const PASSWORD: &str = "correct horse battery staple";
const FORM_COOKIE: &str = "__Host-portcullis-login";
const DEVICE_COOKIE: &str = "__Secure-portcullis-device";

/// Alice and Bob, and `/app/…` behind a login.
fn gateway(upstream: &Upstream) -> Running {
    Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .user("bob", "another password", &[])
        .route("/app/{*rest}", upstream)
        .start()
}

fn by_json(gateway: &Running, name: &str, password: &str) -> Response {
    gateway.client().post("/_auth/login", "").json(&json!({ "username": name, "password": password })).send()
}

/// What a caller can see of an answer: everything but what differs each time.
fn face(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let shown = |name: &str| !["date", "x-request-id", "set-cookie"].contains(&name.to_ascii_lowercase().as_str());
    let headers = answer.headers.iter().filter(|(name, _)| shown(name)).cloned().collect();
    let text = answer.text().replace(answer.header("x-request-id").unwrap_or("-"), "ID");
    (answer.status, headers, text)
}

/// The main way of every person: sent to log in, logged in, back where they wanted to go.
#[test]
fn a_person_is_sent_to_the_login_and_comes_back() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();

    let sent_away = alice.visit("/app/orders?page=2&sort=a%26b").expect(302);
    assert_eq!(upstream.connection_count(), 0, "nobody is known yet");
    let page = alice.follow(&sent_away).expect(200);
    let back = alice.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);

    assert_eq!(back.header("location"), Some("/app/orders?page=2&sort=a%26b"));
    alice.follow(&back).expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.path.as_str(), seen.header("x-user-id")), ("/app/orders?page=2&sort=a%26b", Some("id-of-alice")));
    assert_eq!(seen.header("cookie"), None, "our cookies stop here (R14)");
}

#[test]
fn one_logs_in_by_name_or_by_email_whose_case_does_not_count() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);

    for login in ["alice", "alice@example.com", "ALICE@EXAMPLE.COM"] {
        assert_eq!(by_json(&gateway, login, PASSWORD).expect(200).json()["subject"], "id-of-alice", "{login}");
    }
    for login in ["Alice", "id-of-alice", " alice"] {
        assert_eq!(by_json(&gateway, login, PASSWORD).status, 401, "{login}");
    }
}

/// R33: the page asks for the name and password only, and runs without scripts.
#[test]
fn the_login_page_is_a_plain_form() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let page = gateway.person().visit("/_auth/login").expect(200);

    let text = page.text();
    for wanted in [
        "<html lang=\"en\">",
        "autocomplete=\"username\"",
        "autocomplete=\"current-password\"",
        "<label for=\"username\">",
        "<label for=\"password\">",
        "name=\"viewport\"",
    ] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    for unwanted in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!text.contains(unwanted), "{unwanted} in {text}");
    }
}

/// R26, R33: the form counts only in the browser it was given to.
#[test]
fn a_login_form_without_its_token_is_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let good = |page: &Response| Form::of(page).with("username", "alice").with("password", PASSWORD);
    let stolen = Form::of(&gateway.person().visit("/_auth/login")).fields[0].1.clone();

    for (name, tamper) in [
        ("no token", &(|form: Form| form.with("token", "")) as &dyn Fn(Form) -> Form),
        ("another browser's token", &|form| form.with("token", &stolen)),
        ("the cookie itself as token", &|form| form.with("token", &stolen.to_uppercase())),
        ("no such field", &|mut form| {
            form.fields.retain(|(name, _)| name != "token");
            form
        }),
    ] {
        let mut person = gateway.person();
        let page = person.visit("/_auth/login");
        let answer = person.send_form(&tamper(good(&page)));

        assert_eq!(answer.status, 403, "{name}");
        assert!(answer.cookie(SESSION_COOKIE).is_none(), "{name}");
        assert!(person.send_form(&good(&answer)).expect(303).cookie(SESSION_COOKIE).is_some(), "the new form works");
    }
}

/// A victim that another site logs in to the attacker's account would hand over what they type there.
#[test]
fn a_login_form_without_the_browsers_cookie_is_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut person = gateway.person();
    let page = person.visit("/_auth/login");
    person.forget(FORM_COOKIE);

    let answer = person.submit(&page, &[("username", "alice"), ("password", PASSWORD)]);

    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("This page had expired"));
}

/// R31: even with a stolen token and cookie, a login from another site is none.
#[test]
fn a_login_from_another_site_is_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (site, origin, expected) in [
        (Some("cross-site"), "https://evil.example", 403),
        (Some("same-site"), "https://evil.app.test", 403),
        (None, "https://evil.example", 403),
        (None, "null", 403),
        (None, "https://app.test", 303),
        (Some("same-origin"), "https://app.test", 303),
    ] {
        let mut person = gateway.person();
        let page = person.visit("/_auth/login");
        let form = Form::of(&page).with("username", "alice").with("password", PASSWORD);
        let mut request = gateway
            .client()
            .post(&form.action, form.encoded())
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Origin", origin);
        if let Some(site) = site {
            request = request.header("Sec-Fetch-Site", site);
        }

        let answer = person.send(request);

        assert_eq!(answer.status, expected, "{site:?} {origin}");
        assert_eq!(person.cookie(SESSION_COOKIE).is_some(), expected == 303);
    }
}

/// Nobody learns from an answer whether an account exists.
#[test]
fn an_unknown_user_and_a_wrong_password_get_the_same_answer() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);

    let wrong = by_json(&gateway, "alice", "wrong").expect(401);
    let unknown = by_json(&gateway, "nobody", "wrong").expect(401);
    assert_eq!(face(&wrong), face(&unknown));

    let mut person = gateway.person();
    let page = person.visit("/_auth/login");
    let wrong = person.submit(&page, &[("username", "alice"), ("password", "wrong")]).expect(401);
    let unknown = person.submit(&page, &[("username", "nobody"), ("password", "wrong")]).expect(401);
    assert_eq!(face(&wrong), face(&unknown));
    assert!(wrong.text().contains("The user name or the password is wrong."));
    assert!(!wrong.text().contains("alice"), "what was typed is not shown again");
}

/// RFC 9110 section 15.5.2: a 401 says how to authenticate.
#[test]
fn a_failed_login_carries_a_challenge_and_sets_no_session() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut person = gateway.person();

    let answers = [by_json(&gateway, "alice", "wrong"), person.log_in("alice", "wrong")];

    for answer in answers {
        let answer = answer.expect(401);
        assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
        assert!(answer.cookie(SESSION_COOKIE).is_none());
    }
}

/// R33: where a browser goes after the login is a path of this host, or `/`.
#[test]
fn nobody_is_led_to_another_site_after_the_login() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (given, expected) in [
        ("/app/x?y=z", "/app/x?y=z"),
        ("/app/%C3%A9?q=http%3A%2F%2Fevil", "/app/%C3%A9?q=http%3A%2F%2Fevil"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("///evil.example/", "/"),
        ("/\\evil.example/", "/"),
        ("\\/evil.example", "/"),
        ("/%2fevil.example", "/"),
        ("/%5cevil.example", "/"),
        ("/.//evil.example", "/"),
        ("/..//evil.example", "/"),
        ("/%2e%2e//evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("/a%0d%0aSet-Cookie:%20x=y", "/"),
        (" //evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/#//evil.example", "/"),
        ("@evil.example", "/"),
        (".evil.example", "/"),
        ("", "/"),
        ("/é", "/"),
    ] {
        let mut person = gateway.person();
        let page = person.visit(&format!("/_auth/login?return_to={}", percent(given)));
        let by_form = person.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
        assert_eq!(by_form.header("location"), Some(expected), "in the page: {given:?}");

        let mut person = gateway.person();
        let form = Form::of(&person.visit("/_auth/login")).with("return_to", given);
        let by_field = person.send_form(&form.with("username", "alice").with("password", PASSWORD)).expect(303);
        assert_eq!(by_field.header("location"), Some(expected), "in the field: {given:?}");

        let body = json!({ "username": "alice", "password": PASSWORD, "return_to": given });
        let by_json = gateway.client().post("/_auth/login", "").json(&body).send().expect(200);
        assert_eq!(by_json.json()["return_to"], expected, "in JSON: {given:?}");

        let signed_in = person.visit(&format!("/_auth/login?return_to={}", percent(given))).expect(200).text();
        assert!(signed_in.contains(&format!("href=\"{}\"", expected.replace('&', "&amp;"))), "{given:?}: {signed_in}");
        assert!(!signed_in.contains("evil.example"), "{given:?}");
    }
}

/// A repeated parameter is read by some as the first and by others as the last.
#[test]
fn a_return_to_that_is_there_twice_is_none() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut person = gateway.person();

    let page = person.visit("/_auth/login?return_to=/app/a&return_to=/app/b");

    let answer = person.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
    assert_eq!(answer.header("location"), Some("/"));
}

/// R26: whoever knew the identifier before the login knows nothing after it.
#[test]
fn a_session_id_of_the_clients_choice_is_never_taken() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let chosen = "A".repeat(43);
    let mut person = gateway.person();
    person.plant(SESSION_COOKIE, &chosen);

    person.log_in("alice", PASSWORD).expect(303);

    assert_ne!(person.cookie(SESSION_COOKIE), Some(chosen.as_str()));
    gateway.client().get("/app/x").cookie(&format!("{SESSION_COOKIE}={chosen}")).send().expect(401);
    person.visit("/app/x").expect(200);
}

/// R26.
#[test]
fn each_login_makes_a_new_session_and_ends_the_one_before() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut person = gateway.person();
    person.log_in("alice", PASSWORD).expect(303);
    let first = person.cookie(SESSION_COOKIE).expect("a session").to_owned();

    let page = person.visit("/_auth/login?prompt=login").expect(200);
    person.submit(&page, &[("username", "bob"), ("password", "another password")]).expect(303);

    let old = gateway.client().get("/app/x").cookie(&format!("{SESSION_COOKIE}={first}")).send();
    assert_eq!(old.expect(401).json()["error"], "session_ended");
    person.visit("/app/x").expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("id-of-bob"));
    assert!((gateway.metric("portcullis_sessions", &[]) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_failed_login_leaves_the_session_that_is_there() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let alice = gateway.log_in("alice");

    let body = json!({ "username": "bob", "password": "wrong" });
    alice.post("/_auth/login", "").json(&body).send().expect(401);

    alice.get("/app/x").send().expect(200);
}

/// Somebody who is signed in already is told so, instead of asked again.
#[test]
fn the_login_page_tells_who_is_signed_in() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut person = gateway.person();
    person.log_in("alice", PASSWORD).expect(303);

    let page = person.visit("/_auth/login?return_to=/app/x").expect(200).text();

    assert!(page.contains("You are signed in") && page.contains("alice") && page.contains("href=\"/app/x\""), "{page}");
    assert!(!page.contains("type=\"password\""));
    assert!(person.visit("/_auth/login?prompt=login").text().contains("type=\"password\""), "another account");
}

/// `max_auth_age` asks for a fresh login of somebody who has a session: the page must not say "continue" forever.
#[test]
fn a_stale_login_is_asked_for_again_and_then_passes() {
    let upstream = Upstream::start();
    let gateway = Gateway::new()
        .user("alice", PASSWORD, &[])
        .route("/pay/{*rest}", &upstream)
        .key("require = { max_auth_age = \"10m\" }")
        .start();
    let mut alice = gateway.person();
    alice.log_in("alice", PASSWORD).expect(303);
    alice.visit("/pay/x").expect(200);
    gateway.advance(Duration::from_secs(11 * 60));

    let sent_away = alice.visit("/pay/x").expect(302);
    let page = alice.follow(&sent_away).expect(200);

    let back = alice.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
    assert_eq!(back.header("location"), Some("/pay/x"));
    alice.follow(&back).expect(200);
}

#[test]
fn a_program_logs_in_with_json_and_learns_who_it_is() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);

    let answer = by_json(&gateway, "alice", PASSWORD).expect(200);

    let told = answer.json();
    assert_eq!(
        (&told["authenticated"], &told["subject"], &told["realm"]),
        (&json!(true), &json!("id-of-alice"), &json!("staff"))
    );
    assert_eq!((&told["roles"], &told["via"]), (&json!(["user"]), &json!("session")));
    assert_eq!(told["auth_time"], gateway.now().unix_seconds());
    let same = gateway.client().get("/_auth/session").cookie(&session_cookie(&answer)).send().expect(200).json();
    assert_eq!(same["subject"], told["subject"]);
    assert_eq!(same["expires_at"], told["expires_at"]);
}

/// R33: a cross-site form can send three content types without asking; none of them is JSON.
#[test]
fn a_login_in_another_content_type_is_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let body = json!({ "username": "alice", "password": PASSWORD }).to_string();
    for (content_type, expected) in [
        (Some("text/plain"), 415),
        (Some("multipart/form-data; boundary=x"), 415),
        (Some("application/json-patch+json"), 415),
        (None, 415),
        (Some("application/json"), 200),
        (Some("Application/JSON; charset=utf-8"), 200),
    ] {
        let mut request = gateway.client().post("/_auth/login", body.clone());
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        assert_eq!(request.send().status, expected, "{content_type:?}");
    }
}

#[test]
fn a_login_body_that_is_too_large_or_no_login_is_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (name, body, expected) in [
        ("too large", format!("{{\"username\":\"alice\",\"password\":\"{}\"}}", "x".repeat(20_000)), 413),
        ("no JSON", "{".to_owned(), 400),
        ("no password", "{\"username\":\"alice\"}".to_owned(), 400),
        ("two passwords", format!("{{\"username\":\"alice\",\"password\":\"a\",\"password\":\"{PASSWORD}\"}}"), 400),
        ("another member", "{\"username\":\"alice\",\"password\":\"a\",\"roles\":[\"admin\"]}".to_owned(), 400),
        ("another provider", "{\"username\":\"alice\",\"password\":\"a\",\"provider\":\"x\"}".to_owned(), 400),
    ] {
        let request = gateway.client().post("/_auth/login", body).header("Content-Type", "application/json");
        assert_eq!(request.send().status, expected, "{name}");
    }
}

#[test]
fn the_login_answers_get_head_and_post_only() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = gateway.client().request(method, "/_auth/login").send().expect(405);
        let allow = answer.header("allow").expect("Allow").to_owned();
        assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    }
    assert!(gateway.client().request("HEAD", "/_auth/login").send().expect(200).body.is_empty());
}

/// Guessing is slow, and a program learns when to come back.
#[test]
fn a_guesser_is_told_when_to_try_again() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let tries: Vec<Response> = (0..8).map(|_| by_json(&gateway, "alice", "wrong")).collect();

    let refused = tries.iter().find(|answer| answer.status == 429).expect("one is too many");
    let wait: u64 = refused.header("retry-after").and_then(|value| value.parse().ok()).expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(refused.json()["error"], "too_many_requests");
    assert!(tries.iter().take(5).all(|answer| answer.status == 401), "the first five were judged");

    gateway.advance(Duration::from_secs(wait));
    by_json(&gateway, "alice", "wrong").expect(401);
}

/// The right password is not judged while one has to wait, or waiting would not slow anybody down.
#[test]
fn the_right_password_waits_too_where_the_user_never_was() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    while by_json(&gateway, "alice", "wrong").status != 429 {}

    by_json(&gateway, "alice", PASSWORD).expect(429);

    gateway.advance(Duration::from_secs(31));
    by_json(&gateway, "alice", PASSWORD).expect(200);
}

/// A gateway that believes the proxy in front of it, so that clients can come from everywhere.
fn behind_a_proxy(upstream: &Upstream) -> Running {
    Gateway::new()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .user("alice", PASSWORD, &[])
        .route("/app/{*rest}", upstream)
        .start()
}

fn from(gateway: &Running, address: &str, password: &str) -> u16 {
    with_device(gateway, address, password, "").status
}

fn with_device(gateway: &Running, address: &str, password: &str, cookie: &str) -> Response {
    let body = json!({ "username": "alice", "password": password });
    let request = gateway.client().post("/_auth/login", "").header("X-Forwarded-For", address).cookie(cookie);
    request.header("X-Forwarded-Proto", "https").json(&body).send()
}

/// Where a user has logged in before, nobody can lock them out: not from elsewhere, not from the same address.
#[test]
fn nobody_can_lock_a_user_out_of_their_own_browser() {
    let upstream = Upstream::start();
    let gateway = behind_a_proxy(&upstream);
    let known = with_device(&gateway, "192.0.2.1", PASSWORD, "").expect(200).cookie(DEVICE_COOKIE).expect("a device");

    while from(&gateway, "203.0.113.9", "wrong") != 429 {}
    while from(&gateway, "192.0.2.1", "wrong") != 429 {}

    assert_eq!(from(&gateway, "203.0.113.10", PASSWORD), 429, "from anywhere else the name is being guessed");
    assert_eq!(from(&gateway, "192.0.2.1", PASSWORD), 429, "another browser at home");
    assert_eq!(with_device(&gateway, "192.0.2.1", PASSWORD, &known).status, 200);
    assert_eq!(with_device(&gateway, "198.51.100.7", PASSWORD, &known).status, 200, "it may travel");
}

/// Whoever steals or makes up a device gains at most a few guesses.
#[test]
fn a_known_browser_guesses_slowly_too_and_an_unknown_one_is_none() {
    let upstream = Upstream::start();
    let gateway = behind_a_proxy(&upstream);
    let known = with_device(&gateway, "192.0.2.1", PASSWORD, "").expect(200).cookie(DEVICE_COOKIE).expect("a device");
    let tries = (0..20).filter(|_| with_device(&gateway, "192.0.2.1", "wrong", &known).status == 401).count();
    assert_eq!(tries, 5);

    while from(&gateway, "203.0.113.9", "wrong") != 429 {}
    let (name, value) = known.split_once('=').expect("a pair");
    let turned: String = value.chars().rev().collect();
    for forged in [turned.as_str(), "", "x", &format!("A{}", &value[1..]), &"A".repeat(value.len())] {
        let answer = with_device(&gateway, "198.51.100.1", PASSWORD, &format!("{name}={forged}"));
        assert_eq!(answer.status, 429, "{forged}");
    }
}

/// R14: the device is told to nobody behind the gateway, and is not asked for beside our own pages.
#[test]
fn the_device_cookie_is_for_our_own_pages_only() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let answer = by_json(&gateway, "alice", PASSWORD).expect(200);
    let line =
        answer.all("set-cookie").into_iter().find(|line| line.starts_with(DEVICE_COOKIE)).expect("a device").to_owned();
    for attribute in ["; Path=/_auth;", "; Secure", "; HttpOnly", "; SameSite=Lax", "; Max-Age=15552000"] {
        assert!(line.contains(attribute), "{line}");
    }

    let cookies = format!("a=1; {}; {}; b=2", answer.cookie(DEVICE_COOKIE).expect("a device"), session_cookie(&answer));
    gateway.client().get("/app/x").cookie(&cookies).send().expect(200);
    assert_eq!(upstream.next_request().header("cookie"), Some("a=1; b=2"));
}

/// A name that is guessed at without a pause, from everywhere: whoever waits as they were told gets in.
#[test]
fn who_waits_as_told_gets_in_under_attack() {
    let upstream = Upstream::start();
    let gateway = behind_a_proxy(&upstream);
    let attack = || {
        for i in 0..12 {
            from(&gateway, &format!("203.0.113.{i}"), "wrong");
        }
    };
    attack();
    let refused = with_device(&gateway, "192.0.2.1", PASSWORD, "").expect(429);
    let wait: u64 = refused.header("retry-after").and_then(|value| value.parse().ok()).expect("seconds");
    for _ in 0..wait {
        gateway.advance(Duration::from_secs(1));
        attack();
    }

    assert_eq!(from(&gateway, "192.0.2.1", PASSWORD), 200);
}

/// A person who must wait keeps the form and the way back, and hears it first.
#[test]
fn a_person_who_must_wait_keeps_the_form() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    let mut page = alice.visit("/_auth/login?return_to=/app/x%3Fy").expect(200);
    for _ in 0..5 {
        page = alice.submit(&page, &[("username", "alice"), ("password", "wrong")]).expect(401);
    }

    let refused = alice.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(429);

    let wait = refused.header("retry-after").expect("seconds").to_owned();
    assert!(
        refused.text().contains(&format!("Please wait {wait} seconds")) && refused.text().contains("<title>Problem")
    );
    gateway.advance(Duration::from_secs(wait.parse().expect("seconds")));
    let back = alice.submit(&refused, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
    assert_eq!(back.header("location"), Some("/app/x?y"));
    assert!((gateway.metric("portcullis_logins_total", &[("result", "throttled")]) - 1.0).abs() < f64::EPSILON);
}

/// Two tabs with the form: the second one still works after the first, and so does what is open in the first.
#[test]
fn several_tabs_can_log_in_one_after_the_other() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    let one = alice.visit("/_auth/login?return_to=/app/one").expect(200);
    let two = alice.visit("/_auth/login?return_to=/app/two").expect(200);

    for (tab, path) in [(&two, "/app/two"), (&one, "/app/one"), (&one, "/app/one")] {
        let back = alice.submit(tab, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
        assert_eq!(back.header("location"), Some(path));
        alice.follow(&back).expect(200);
    }
    assert!((gateway.metric("portcullis_sessions", &[]) - 1.0).abs() < f64::EPSILON, "each ends the one before");
}

/// Whoever never logged in anywhere waits half a minute at most, however hard somebody tries.
#[test]
fn nobody_can_make_a_user_wait_for_long() {
    let upstream = Upstream::start();
    let gateway = behind_a_proxy(&upstream);
    for i in 0..60 {
        from(&gateway, &format!("203.0.113.{i}"), "wrong");
    }

    gateway.advance(Duration::from_secs(30));

    assert_eq!(from(&gateway, "192.0.2.1", PASSWORD), 200);
}

/// A gateway that has no people has no login page to find.
#[test]
fn without_a_provider_there_is_no_login_page() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/app/{*rest}", &upstream).start();

    gateway.client().get("/_auth/login").navigation().send().expect(404);

    let refused = gateway.client().get("/app/x").navigation().send().expect(401);
    assert_eq!(refused.header("location"), None);
}
