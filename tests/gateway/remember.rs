//! "Stay signed in on this device": who is asked, how long such a session lives, and what carries the choice.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Browser, Gateway, Person, Reply, Response, Upstream,
    gateway::{Running, SESSION_COOKIE},
};

const PASSWORD: &str = "correct horse battery staple";
const BOX: &str = "Stay signed in on this device";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `/pay/…` asks for a login of the last ten minutes; everything else for a session.
fn configured(upstream: &Upstream) -> Gateway {
    Gateway::new()
        .user("alice", PASSWORD, &[])
        .route("/{*rest}", upstream)
        .route("/pay/{*rest}", upstream)
        .key("require = { max_auth_age = \"10m\" }")
}

fn gateway(upstream: &Upstream) -> Running {
    configured(upstream).offers_to_remember().start()
}

fn log_in(person: &mut Person, more: &[(&str, &str)]) -> Response {
    let page = person.visit("/_auth/login").expect(200);
    person.submit(&page, &[&[("username", "alice"), ("password", PASSWORD)], more].concat()).expect(303)
}

/// `Max-Age` of the session's cookie; `None`: it ends with the browser.
fn max_age(answer: &Response) -> Option<u64> {
    let cookies = answer.all("set-cookie");
    let ours: Vec<_> = cookies.iter().filter(|line| line.starts_with(&format!("{SESSION_COOKIE}="))).collect();
    assert_eq!(ours.len(), 1, "{cookies:?}");
    assert!(ours[0].ends_with("; Secure; HttpOnly; SameSite=Lax"), "{}", ours[0]);
    Some(ours[0].split("; Max-Age=").nth(1)?.split(';').next()?.parse().expect("seconds"))
}

fn status(person: &mut Person) -> u16 {
    person.visit("/x").status
}

#[test]
fn a_remembered_session_lives_that_long_without_use_and_no_longer() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    assert!(alice.visit("/_auth/login").expect(200).text().contains(BOX));

    let answer = log_in(&mut alice, &[("remember", "yes")]);

    assert_eq!(max_age(&answer), Some(30 * 24 * 60 * 60));
    gateway.advance(30 * DAY - MINUTE);
    assert_eq!(status(&mut alice), 200, "unused for weeks");
    gateway.advance(MINUTE);
    assert_eq!(status(&mut alice), 302, "however much it is used");
}

#[test]
fn people_see_which_of_their_sessions_is_remembered() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (mut remembered, mut other) = (gateway.person(), gateway.person());
    log_in(&mut remembered, &[("remember", "yes")]);
    log_in(&mut other, &[]);

    let page = remembered.visit("/_auth/sessions").expect(200).text();
    assert_eq!(page.matches("Stays signed in until ").count(), 1, "{page}");
    let cookie = format!("{SESSION_COOKIE}={}", other.cookie(SESSION_COOKIE).expect("a session"));
    let listed = gateway.client().get("/_auth/sessions").cookie(&cookie).send().expect(200).json();
    let marks = |index: usize| (&listed["sessions"][index]["current"], &listed["sessions"][index]["remembered"]);
    assert_eq!((marks(0), marks(1)), ((&json!(true), &json!(false)), (&json!(false), &json!(true))));
}

#[test]
fn without_the_tick_a_session_is_what_it_was() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();

    let answer = log_in(&mut alice, &[]);

    assert_eq!(max_age(&answer), None);
    gateway.advance(30 * MINUTE);
    assert_eq!(status(&mut alice), 302);
}

#[test]
fn a_forged_wish_has_no_effect_where_nobody_is_asked() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).start();
    let mut alice = gateway.person();
    assert!(!alice.visit("/_auth/login").expect(200).text().contains("checkbox"));

    let answer = log_in(&mut alice, &[("remember", "yes")]);
    let body = json!({ "username": "alice", "password": PASSWORD, "remember": true });
    let by_json = gateway.client().post("/_auth/login", "").json(&body).send().expect(200);

    assert_eq!((max_age(&answer), max_age(&by_json)), (None, None));
    gateway.advance(30 * MINUTE);
    assert_eq!(status(&mut alice), 302);
}

#[test]
fn each_provider_asks_for_itself() {
    let upstream = Upstream::start();
    let hash = portcullis::accounts::hash_password(PASSWORD).expect("it can be hashed");
    let partners = format!(
        "[[login.provider]]\nname = \"partners\"\nrealm = \"staff\"\ngrants = \"all\"\n\
         [[login.provider.user]]\nname = \"alice\"\npassword = {hash:?}"
    );
    let gateway = configured(&upstream).offers_to_remember().table(&partners).start();
    let mut alice = gateway.person();
    assert!(alice.visit("/_auth/login/local").expect(200).text().contains(BOX));

    let page = alice.visit("/_auth/login/partners").expect(200);

    assert!(!page.text().contains(BOX));
    let forged = [("username", "alice"), ("password", PASSWORD), ("remember", "yes"), ("provider", "local")];
    assert_eq!(max_age(&alice.submit(&page, &forged).expect(303)), None);
}

#[test]
fn a_program_asks_by_a_member_of_its_login() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let send = |remember: bool| {
        let body = json!({ "username": "alice", "password": PASSWORD, "remember": remember });
        gateway.client().post("/_auth/login", "").json(&body).send().expect(200)
    };

    let (remembered, other) = (send(true), send(false));

    assert_eq!((max_age(&remembered), max_age(&other)), (Some(30 * 24 * 60 * 60), None));
    let end = gateway.now().plus(30 * DAY).unix_seconds();
    assert_eq!(remembered.json()["expires_at"], end);
    assert_eq!(remembered.json()["idle_expires_at"], end);
}

/// A typing error in the password costs nobody the tick.
#[test]
fn the_box_stays_ticked_when_the_password_was_wrong() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    let page = alice.visit("/_auth/login").expect(200);
    assert!(!page.text().contains("checked"));

    let again = alice.submit(&page, &[("username", "alice"), ("password", "wrong"), ("remember", "yes")]).expect(401);

    assert!(again.text().contains("value=\"yes\" checked"), "{}", again.text());
}

#[test]
fn a_step_up_keeps_the_choice_of_the_session_before() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (chosen, forged, expect) in [
        (&[("remember", "yes")][..], &[][..], Some(30 * 24 * 60 * 60)),
        (&[], &[("remember", "yes")], None),
        (&[], &[], None),
    ] {
        let mut alice = gateway.person();
        log_in(&mut alice, chosen);
        gateway.advance(11 * MINUTE);
        let away = alice.visit("/pay/x").expect(302);
        let page = alice.follow(&away).expect(200);
        assert!(!page.text().contains(BOX), "it was asked before");

        let fields = [&[("username", "alice"), ("password", PASSWORD)], forged].concat();
        let back = alice.submit(&page, &fields).expect(303);

        assert_eq!(max_age(&back), expect, "{chosen:?}, {forged:?}");
        assert_eq!(alice.visit("/pay/x").status, 200);
    }
}

/// The cookie is cleared with the attributes that it was set with.
#[test]
fn a_logout_ends_a_remembered_session() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = gateway.person();
    log_in(&mut alice, &[("remember", "yes")]);
    let cookie = alice.cookie(SESSION_COOKIE).expect("a session").to_owned();

    let page = alice.visit("/_auth/logout").expect(200);
    let answer = alice.submit(&page, &[]).expect(303);

    assert_eq!(max_age(&answer), Some(0));
    assert_eq!(alice.cookie(SESSION_COOKIE), None);
    alice.plant(SESSION_COOKIE, &cookie);
    assert_eq!(status(&mut alice), 302);
}

#[test]
fn an_offer_that_is_withdrawn_ends_with_the_next_login() {
    let upstream = Upstream::start();
    let gateway = configured(&upstream).offers_to_remember().admin().start();
    let mut before = gateway.person();
    log_in(&mut before, &[("remember", "yes")]);
    let mut open = gateway.person();
    let page = open.visit("/_auth/login").expect(200);

    gateway.edit("remember_me = \"30d\"", "");
    gateway.reload().expect(200);

    let late = open.submit(&page, &[("username", "alice"), ("password", PASSWORD), ("remember", "yes")]).expect(303);
    assert_eq!(max_age(&late), None, "the form was made before");
    gateway.advance(DAY);
    assert_eq!((status(&mut before), status(&mut open)), (200, 302));
}

/// With scripts and without: the label ticks the box, and the cookie outlives the browser.
#[test]
fn a_person_ticks_the_box_and_the_browser_keeps_the_cookie() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    upstream.respond(|_| Reply::with(200, &[("Content-Type", "text/html")], "<h1>Orders</h1>"));
    let gateway = gateway(&upstream);
    let address = gateway.addresses().gateway[0];
    for (scripts, ticks) in [(true, true), (true, false), (false, true)] {
        if !scripts {
            browser.without_scripts();
        }
        browser.open(address, "/_auth/login?prompt=login&return_to=/app/");
        browser.sees(BOX);
        browser.type_into("#username", "alice");
        browser.type_into("#password", PASSWORD);
        if ticks {
            browser.click("label[for=remember]");
        }
        if scripts {
            assert_eq!(browser.run("return document.querySelector('#remember').checked"), ticks);
        }
        let picture = browser.picture(&gateway.folder(), "remember-me");
        browser.screenshot((390, 844), "light", &picture);
        browser.click("form button");
        browser.sees("Orders");

        let expiry = browser.cookie(SESSION_COOKIE)["expiry"].as_u64();

        assert_eq!(expiry.is_some(), ticks, "scripts: {scripts}");
    }
}
