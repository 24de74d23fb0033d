//! Second factors of local users: enrolment, codes, recovery codes, and that nobody gets around them.

use std::time::Duration;

use portcullis::factor::totp;
use serde_json::json;

use crate::support::{
    Form, Gateway, Person, Response, Upstream,
    cli::Shell,
    eventually,
    gateway::{Running, SESSION_COOKIE, session_cookie},
};

/// The same in a real Chromium, with and without scripts.
mod browser;

const PASSWORD: &str = "correct horse battery staple";
const STEP: Duration = Duration::from_secs(30);

/// Alice and Bob have to have a second factor, Carol has not; `/admin/…` asks for one.
fn configured(upstream: &Upstream) -> Gateway {
    Gateway::new()
        .user("alice", PASSWORD, &[])
        .second_factor()
        .user("bob", PASSWORD, &[])
        .second_factor()
        .user("carol", PASSWORD, &[])
        .route("/{*rest}", upstream)
        .route("/admin/{*rest}", upstream)
        .key("require = { factor = 2 }")
}

fn gateway(upstream: &Upstream) -> Running {
    configured(upstream).start()
}

/// Somebody's authenticator app.
pub(crate) struct App {
    key: String,
    recovery: Vec<String>,
}

impl App {
    pub(crate) fn shows(&self, gateway: &Running) -> String {
        totp::code_of(&self.key, gateway.now()).expect("a key")
    }
}

/// The code that `portcullis users enrol` prints.
fn invite(gateway: &Running, arguments: &[&str]) -> String {
    let config = gateway.folder().join("gateway.toml");
    let command = [&["--config", config.to_str().expect("a path"), "users", "enrol"], arguments].concat();
    let said = Shell::empty().run(&command).expect(0);
    assert!(said.err.contains("enrolment code"), "{}", said.err);
    said.out.trim().to_owned()
}

fn password_of(person: &mut Person, name: &str) -> Response {
    let page = person.visit("/_auth/login?return_to=/admin/x").expect(200);
    person.submit(&page, &[("username", name), ("password", PASSWORD)])
}

fn key_of(page: &Response) -> String {
    let text = page.text();
    let key = text.split("<code dir=\"ltr\">").nth(1).and_then(|rest| rest.split("</code>").next()).expect("a key");
    key.to_owned()
}

/// From the invitation to the recovery codes; the person is signed in then.
pub(crate) fn enrol(gateway: &Running, person: &mut Person, name: &str) -> App {
    let code = invite(gateway, &[name]);
    let asked = password_of(person, name).expect(200);
    assert!(asked.text().contains("Enrolment code"), "{}", asked.text());
    let drawn = person.submit(&asked, &[("code", &code)]).expect(200);
    let key = key_of(&drawn);
    let first = totp::code_of(&key, gateway.now()).expect("a key");
    let done = person.submit(&drawn, &[("code", &first)]).expect(200);
    let text = done.text();
    let recovery = text.split("<li><code>").skip(1).map(|rest| rest[..19].to_owned()).collect();
    assert!(person.cookie(SESSION_COOKIE).is_some());
    gateway.advance(STEP);
    App { key, recovery }
}

fn by_json(gateway: &Running, body: &serde_json::Value) -> Response {
    gateway.client().post("/_auth/login", "").json(body).send()
}

/// The audit line with all these words, once it is there.
fn audited(gateway: &Running, words: &[&str]) -> String {
    let fits = |line: &String| words.iter().all(|word| line.contains(word));
    let mut found = None;
    eventually("it is audited", || {
        found = gateway.audit_lines().into_iter().find(fits);
        found.is_some()
    });
    found.expect("it was found")
}

/// Asked for beside the password, given with the code; a field of the code's page adds nothing.
#[test]
fn the_wish_to_be_remembered_waits_for_the_code() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).offers_to_remember().start();
    let mut alice = gateway.person();
    let app = enrol(&gateway, &mut alice, "alice");
    for (ticked, forged) in [(true, false), (false, true)] {
        let mut alice = gateway.person();
        let page = alice.visit("/_auth/login").expect(200);
        let fields = [("username", "alice"), ("password", PASSWORD), ("remember", "yes")];
        let asked = alice.submit(&page, if ticked { &fields } else { &fields[..2] }).expect(200);
        assert!(!asked.text().contains("checkbox"), "{}", asked.text());
        alice.submit(&asked, &[("code", "000000"), ("remember", "yes")]).expect(401);

        let code = app.shows(&gateway);
        let fields = [("code", &*code), ("remember", "yes")];
        let done = alice.submit(&asked, if forged { &fields } else { &fields[..1] }).expect(303);

        let cookies = done.all("set-cookie");
        let ours = cookies.iter().find(|line| line.starts_with(SESSION_COOKIE)).expect("a session");
        assert_eq!(ours.contains("; Max-Age=2592000;"), ticked, "{ours}");
        gateway.advance(STEP);
    }
    let body = |code: &str| json!({ "username": "alice", "password": PASSWORD, "code": code, "remember": true });
    let answer = by_json(&gateway, &body(&app.shows(&gateway))).expect(200);
    assert_eq!(answer.json()["idle_expires_at"], answer.json()["expires_at"]);
}

/// The whole way of a person: invited, enrolled, and back on another day.
#[test]
fn somebody_enrols_once_and_logs_in_with_codes_from_then_on() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    let app = enrol(&gateway, &mut alice, "alice");
    alice.visit("/admin/x").expect(200);
    assert_eq!(app.recovery.len(), 10);

    let mut elsewhere = gateway.person();
    let asked = password_of(&mut elsewhere, "alice").expect(200);
    assert!(elsewhere.cookie(SESSION_COOKIE).is_none(), "no session before both are right");
    let back = elsewhere.submit(&asked, &[("code", &app.shows(&gateway))]).expect(303);

    assert_eq!(back.header("location"), Some("/admin/x"));
    elsewhere.follow(&back).expect(200);
    let who = elsewhere.visit("/_auth/session").expect(200);
    assert_eq!(who.json()["factor"], 2);
    audited(&gateway, &["\"login\"", "\"factor\":2"]);
    audited(&gateway, &["\"factor.enrolled\"", "id-of-alice"]);
    let audit = gateway.audit_lines().join("\n");
    for secret in [&app.key, &app.key.replace(' ', ""), &app.recovery[0]] {
        assert!(!audit.contains(secret.as_str()) && !gateway.log_lines().join("\n").contains(secret.as_str()));
    }
}

#[test]
fn a_code_logs_in_once() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let app = enrol(&gateway, &mut gateway.person(), "alice");
    let code = app.shows(&gateway);
    let mut alice = gateway.person();
    let asked = password_of(&mut alice, "alice");
    alice.submit(&asked, &[("code", &code)]).expect(303);

    let mut thief = gateway.person();
    let asked = password_of(&mut thief, "alice");
    let refused = thief.submit(&asked, &[("code", &code)]).expect(401);

    assert!(refused.text().contains("wrong, or was used before"), "{}", refused.text());
    assert!(thief.cookie(SESSION_COOKIE).is_none());
    audited(&gateway, &["login.failed", "used_code"]);
    gateway.advance(STEP);
    thief.submit(&refused, &[("code", &app.shows(&gateway))]).expect(303);
}

#[test]
fn a_clock_that_is_a_step_off_is_right_enough() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let app = enrol(&gateway, &mut gateway.person(), "alice");
    for (steps, status) in [(10_u32, 401), (2, 401), (1, 303)] {
        gateway.advance(STEP * 20);
        let early = totp::code_of(&app.key, gateway.now().plus(STEP * steps)).unwrap();
        let mut alice = gateway.person();
        let asked = password_of(&mut alice, "alice");
        assert_eq!(alice.submit(&asked, &[("code", &early)]).status, status, "{steps} steps ahead");
        gateway.advance(STEP * 20);
        let late = totp::code_of(&app.key, gateway.now().minus(STEP * steps)).unwrap();
        let mut alice = gateway.person();
        let asked = password_of(&mut alice, "alice");
        assert_eq!(alice.submit(&asked, &[("code", &late)]).status, status, "{steps} steps behind");
    }
}

#[test]
fn a_recovery_code_logs_in_once_and_says_how_many_are_left() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let app = enrol(&gateway, &mut gateway.person(), "alice");
    let mut alice = gateway.person();
    let asked = password_of(&mut alice, "alice");

    let told = alice.submit(&asked, &[("code", ""), ("recovery", &app.recovery[0].to_lowercase())]).expect(200);

    assert!(told.text().contains("Codes left: <strong>9</strong>"), "{}", told.text());
    alice.visit("/admin/x").expect(200);
    let line = audited(&gateway, &["recovery_code_used", "\"left\":9", "id-of-alice"]);
    assert!(!line.contains(&app.recovery[0]), "{line}");
    let mut again = gateway.person();
    let asked = password_of(&mut again, "alice");
    let refused = again.submit(&asked, &[("recovery", &app.recovery[0])]).expect(401);
    again.submit(&refused, &[("recovery", &app.recovery[9])]).expect(200);
}

/// Neither the answer to a wrong password nor the login page says who has a second factor.
#[test]
fn a_wrong_password_is_answered_alike_with_and_without_a_second_factor() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    enrol(&gateway, &mut gateway.person(), "alice");
    let face = |name: &str| {
        let answer = by_json(&gateway, &json!({ "username": name, "password": "wrong", "code": "123456" }));
        let id = answer.header("x-request-id").expect("an id").to_owned();
        (answer.status, answer.text().replace(&id, ""))
    };

    let [alice, bob, carol, nobody] = ["alice", "bob", "carol", "mallory"].map(face);

    assert_eq!(alice.0, 401);
    assert_eq!((&alice, &bob, &carol), (&nobody, &nobody, &nobody));
}

#[test]
fn a_missing_secret_refuses_and_enrols_nobody_uninvited() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut bob = gateway.person();

    let refused = password_of(&mut bob, "bob").expect(403);

    assert!(refused.text().contains("No second factor"), "{}", refused.text());
    assert!(bob.cookie(SESSION_COOKIE).is_none() && !refused.text().contains("<svg class=\"qr\""));
    let credentials = json!({ "username": "bob", "password": PASSWORD, "code": "123456" });
    assert_eq!(by_json(&gateway, &credentials).expect(403).json()["error"], "factor_missing");
    audited(&gateway, &["login.failed", "factor_missing", "id-of-bob"]);
    invite(&gateway, &["alice"]);
    password_of(&mut bob, "bob").expect(403);
}

#[test]
fn an_enrolment_code_is_for_one_user_an_hour_and_once() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (his, hers) = (invite(&gateway, &["bob"]), invite(&gateway, &["alice@example.com"]));
    let mut alice = gateway.person();
    let asked = password_of(&mut alice, "alice").expect(200);

    let refused = alice.submit(&asked, &[("code", &his)]).expect(401);
    let drawn = alice.submit(&refused, &[("code", &hers)]).expect(200);
    let wrong = alice.submit(&drawn, &[("code", "000 00x")]).expect(401);
    assert_eq!(key_of(&wrong), key_of(&drawn), "the app has it by now");
    assert!(alice.cookie(SESSION_COOKIE).is_none());

    // Another window enrols with the same invitation first.
    let mut other = gateway.person();
    let asked = password_of(&mut other, "alice").expect(200);
    let drawn_there = other.submit(&asked, &[("code", &hers)]).expect(200);
    let code = |page: &Response| totp::code_of(&key_of(page), gateway.now()).unwrap();
    other.submit(&drawn_there, &[("code", &code(&drawn_there))]).expect(200);
    let late = alice.submit(&wrong, &[("code", &code(&wrong))]).expect(403);
    assert!(alice.cookie(SESSION_COOKIE).is_none(), "{}", late.text());

    gateway.advance(Duration::from_secs(60 * 60 + 60));
    let mut bob = gateway.person();
    password_of(&mut bob, "bob").expect(403);
}

/// What is between password and code belongs to one browser, for five minutes.
#[test]
fn a_login_that_waits_for_its_code_counts_in_its_browser_only() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let app = enrol(&gateway, &mut gateway.person(), "alice");
    let mut alice = gateway.person();
    let asked = password_of(&mut alice, "alice").expect(200);
    let hers = Form::of(&asked).with("code", &app.shows(&gateway));

    let mut thief = gateway.person();
    thief.send_form(&hers).expect(403);
    let own_page = password_of(&mut thief, "carol");
    assert_eq!(own_page.status, 303, "who has a session and a form of his own");
    let mut thief = gateway.person();
    let page = thief.visit("/_auth/login").expect(200);
    let own_token = Form::of(&page).fields.into_iter().find(|(name, _)| name == "token").expect("a token").1;
    thief.send_form(&hers.clone().with("token", &own_token)).expect(403);
    assert!(thief.cookie(SESSION_COOKIE).is_none());

    let mut late = gateway.person();
    let page = password_of(&mut late, "alice").expect(200);
    gateway.advance(Duration::from_secs(5 * 60));
    late.submit(&page, &[("code", &app.shows(&gateway))]).expect(403);
    assert!(late.cookie(SESSION_COOKIE).is_none());
    let fresh = password_of(&mut late, "alice").expect(200);
    let back = late.submit(&fresh, &[("code", &app.shows(&gateway))]).expect(303);
    assert!(back.cookie(SESSION_COOKIE).is_some());
    late.submit(&fresh, &[("code", &app.shows(&gateway))]).expect(403);
}

/// Five wrong codes ask for the password again; ten stop everybody for a while, the right code included.
#[test]
fn codes_cannot_be_guessed() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let app = enrol(&gateway, &mut gateway.person(), "alice");
    let wrong = || if app.shows(&gateway) == "000000" { "000001" } else { "000000" };
    let mut thief = gateway.person();
    let mut tried = 0;
    for _ in 0..2 {
        let mut page = password_of(&mut thief, "alice").expect(200);
        while page.text().contains("name=\"pending\"") {
            page = thief.submit(&page, &[("code", wrong())]);
            if page.status == 429 {
                break;
            }
            tried += 1;
            gateway.advance(Duration::from_secs(10));
        }
        gateway.advance(Duration::from_secs(40));
    }
    assert_eq!(tried, 10);

    let credentials = || json!({ "username": "alice", "password": PASSWORD, "code": app.shows(&gateway) });
    gateway.advance(Duration::from_secs(60));
    by_json(&gateway, &json!({ "username": "alice", "password": PASSWORD, "code": wrong() })).expect(401);
    gateway.advance(Duration::from_secs(15));
    let refused = by_json(&gateway, &credentials()).expect(429);
    let wait: u64 = refused.header("retry-after").expect("how long").parse().unwrap();
    gateway.advance(Duration::from_secs(wait));
    by_json(&gateway, &credentials()).expect(200);
    audited(&gateway, &["login.throttled", "too_many_codes"]);
    let told = || gateway.audit_lines().iter().filter(|line| line.contains("wrong_code")).count();
    eventually("every wrong code is audited", || told() == 11);
}

/// Programs send everything at once, and learn by a word what is missing.
#[test]
fn a_program_sends_its_code_along() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let app = enrol(&gateway, &mut gateway.person(), "alice");
    let body = |code: Option<&str>| json!({ "username": "alice", "password": PASSWORD, "code": code });

    let missing = by_json(&gateway, &body(None)).expect(401);
    assert_eq!(missing.json()["error"], "factor_required");
    assert!(missing.cookie(SESSION_COOKIE).is_none());
    assert_eq!(by_json(&gateway, &body(Some("12345"))).expect(401).json()["error"], "wrong_code");
    let told = by_json(&gateway, &body(Some(&app.shows(&gateway)))).expect(200);
    assert_eq!((&told.json()["factor"], &told.json()["subject"]), (&json!(2), &json!("id-of-alice")));
    let replayed = by_json(&gateway, &body(Some(&app.shows(&gateway)))).expect(401);
    assert_eq!(replayed.json()["error"], "wrong_code");
    by_json(&gateway, &body(Some(&app.recovery[4]))).expect(200);
    let carol = by_json(&gateway, &json!({ "username": "carol", "password": PASSWORD })).expect(200);
    assert_eq!(carol.json()["factor"], 1);
}

/// A lost phone: the administrator takes the factor away, and the next login sets up a new one.
#[test]
fn a_reset_makes_the_old_factor_worthless() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let old = enrol(&gateway, &mut gateway.person(), "alice");
    invite(&gateway, &["alice"]);
    let mut alice = gateway.person();
    assert!(password_of(&mut alice, "alice").expect(200).text().contains("Without your phone?"), "no reset was asked");

    let code = invite(&gateway, &["--reset", "alice"]);
    let asked = password_of(&mut alice, "alice").expect(200);

    assert!(asked.text().contains("Enrolment code"), "{}", asked.text());
    for void in [&old.shows(&gateway), &old.recovery[0]] {
        let credentials = json!({ "username": "alice", "password": PASSWORD, "code": void });
        assert_eq!(by_json(&gateway, &credentials).expect(403).json()["error"], "factor_missing");
    }
    let drawn = alice.submit(&asked, &[("code", &code)]).expect(200);
    let first = totp::code_of(&key_of(&drawn), gateway.now()).unwrap();
    alice.submit(&drawn, &[("code", &first)]).expect(200);
    audited(&gateway, &["\"factor.reset\"", "id-of-alice"]);
    let asked = password_of(&mut gateway.person(), "alice").expect(200);
    assert!(asked.text().contains("Without your phone?"), "one reset, one time");
}

/// A route asks for two factors of somebody who has shown one.
#[test]
fn a_step_up_to_two_factors_asks_for_password_and_code() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).admin().start();
    let app = enrol(&gateway, &mut gateway.person(), "alice");
    let opened = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": "id-of-alice" })).send();
    let token = opened.expect(201).json()["token"].as_str().unwrap().to_owned();
    let mut alice = gateway.person();
    alice.plant(SESSION_COOKIE, &token);
    alice.visit("/x").expect(200);

    let sent_away = alice.visit("/admin/x").expect(302);
    assert_eq!(sent_away.header("location"), Some("/_auth/login?prompt=factor&return_to=/admin/x"));
    let page = alice.follow(&sent_away).expect(200);
    let other = alice.submit(&page, &[("username", "bob"), ("password", PASSWORD)]).expect(403);
    assert!(other.text().contains("That was somebody else."), "{}", other.text());
    let asked = alice.submit(&other, &[("username", "alice"), ("password", PASSWORD)]).expect(200);
    assert_eq!(alice.cookie(SESSION_COOKIE), Some(&*token), "nothing has changed so far");
    let back = alice.submit(&asked, &[("code", &app.shows(&gateway))]).expect(303);

    alice.follow(&back).expect(200);
    assert_ne!(alice.cookie(SESSION_COOKIE), Some(&*token));
    gateway.client().get("/x").cookie(&format!("{SESSION_COOKIE}={token}")).send().expect(401);
}

#[test]
fn a_factor_that_cannot_be_kept_is_refused_at_the_start() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).text().replace("state_dir = \"state\"\n", "");
    let shell = Shell::with(&gateway);

    let said = shell.run(&["check"]).expect(1);

    assert!(said.err.contains("a second factor without `server.state_dir`"), "{}{}", said.out, said.err);
    let unknown = shell.run(&["users", "enrol", "alice"]);
    assert_eq!(unknown.code, 1);
}

#[test]
fn nobody_is_invited_who_has_no_factor_or_does_not_exist() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let config = gateway.folder().join("gateway.toml");
    for (name, wanted) in [("carol", "has no second factor to set up"), ("mallory", "there is no user")] {
        let said = Shell::empty().run(&["--config", config.to_str().unwrap(), "users", "enrol", name]).expect(1);
        assert!(said.err.contains(wanted) && said.out.is_empty(), "{}", said.err);
    }
}

/// R29: whoever has to have a second factor from now on is not left in a session without one.
#[test]
fn a_reload_that_asks_for_a_second_factor_ends_sessions_without_it() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).admin().start();
    let app = enrol(&gateway, &mut gateway.person(), "alice");
    let credentials = json!({ "username": "alice", "password": PASSWORD, "code": app.shows(&gateway) });
    let cookie = session_cookie(&by_json(&gateway, &credentials).expect(200));
    let (alice, carol) = (gateway.client().always("Cookie", &cookie), gateway.log_in("carol"));
    carol.get("/x").send().expect(200);

    gateway.edit("email = \"carol@example.com\"", "email = \"carol@example.com\"\nfactor = \"totp\"");
    gateway.reload().expect(200);

    carol.get("/x").send().expect(401);
    alice.get("/admin/x").send().expect(200);
    let credentials = json!({ "username": "carol", "password": PASSWORD });
    assert_eq!(by_json(&gateway, &credentials).expect(403).json()["error"], "factor_missing");
}
