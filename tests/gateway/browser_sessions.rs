//! The page of one's own sessions in a real Chromium: with scripts and without, on a phone and at a desk, in the light
//! and in the dark; and what another site, another person and an old login get of it.

use std::{path::PathBuf, time::Duration};

use serde_json::json;

use crate::support::{Browser, Client, Gateway, Reply, Upstream, gateway::Running};

const PASSWORD: &str = "correct horse battery staple";
const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                     Version/18.1 Mobile/15E148 Safari/604.1";

fn gateway(upstream: &Upstream) -> Running {
    upstream.respond(|_| Reply::with(200, &[("Content-Type", "text/html")], "<h1>Orders</h1>"));
    Gateway::new()
        .host("evil.test")
        .host("neighbour.app.test")
        .user("alice", PASSWORD, &[])
        .user("bob", PASSWORD, &[])
        .route_to("host = \"app.test\", path = \"/app/{*rest}\"", &format!("servers = [{:?}]", upstream.url()))
        .route_to(
            "host = [\"evil.test\", \"neighbour.app.test\"], path = \"/{*rest}\"",
            &format!("servers = [{:?}]", upstream.url()),
        )
        .auth(&["none"])
        .start()
}

fn log_in(browser: &Browser, gateway: &Running, user: &str) {
    browser.open(gateway.addresses().gateway[0], "/app/");
    browser.type_into("#username", user);
    browser.type_into("#password", PASSWORD);
    browser.click("button");
    browser.sees("Orders");
}

/// A session of the same person elsewhere.
fn elsewhere(gateway: &Running, user: &str) -> Client {
    let client = gateway.client().always("User-Agent", PHONE);
    let request = client.post("/_auth/login", "").header("Accept", "application/json");
    let answer = request.json(&json!({ "username": user, "password": PASSWORD })).send().expect(200);
    client.always("Cookie", &crate::support::gateway::session_cookie(&answer))
}

fn lives(client: &Client) -> bool {
    client.get("/app/x").send().status == 200
}

/// The whole way: see, end one, end all; without a script as well as with.
#[test]
fn a_person_ends_sessions_on_the_page_with_scripts_and_without() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for scripts in [true, false] {
        if !scripts {
            browser.without_scripts();
        }
        let (one, two) = (elsewhere(&gateway, "alice"), elsewhere(&gateway, "alice"));
        log_in(&browser, &gateway, "alice");
        browser.open(gateway.addresses().gateway[0], "/_auth/sessions");
        browser.sees("Your sessions");
        browser.sees("Chrome on Linux");
        browser.sees("This one");
        browser.sees("Safari on iPhone");

        browser.click("li:last-child button");
        browser.sees("Signed out there.");
        assert!(lives(&one) != lives(&two), "one of the two has ended, scripts: {scripts}");

        browser.click("button[value=all]");
        browser.sees("You have signed out.");
        assert!(!lives(&one) && !lives(&two), "scripts: {scripts}");
        browser.open(gateway.addresses().gateway[0], "/app/");
        browser.sees("Sign in");
    }
}

#[test]
fn ending_all_sessions_long_after_the_login_asks_who_it_is_first() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let there = elsewhere(&gateway, "alice");
    log_in(&browser, &gateway, "alice");
    browser.open(gateway.addresses().gateway[0], "/_auth/sessions");
    gateway.advance(Duration::from_secs(6 * 60));

    browser.click("button[value=all]");

    browser.sees("Is it still you?");
    assert!(lives(&there));
    browser.type_into("#username", "alice");
    browser.type_into("#password", PASSWORD);
    browser.click("form button");
    browser.sees("Your sessions");
    browser.click("button[value=all]");
    browser.sees("You have signed out.");
    assert!(!lives(&there));
}

/// R31: what another site sends, and what a page of ours is made to send with an id that is not one's own.
#[test]
fn forged_forms_and_foreign_ids_end_nothing_in_a_browser() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let port = gateway.addresses().gateway[0].port();
    let (alice, bob) = (elsewhere(&gateway, "alice"), elsewhere(&gateway, "bob"));
    log_in(&browser, &gateway, "alice");

    // A form that another site submits: from a stranger the cookie does not come along, from a neighbour it does.
    let forge = format!(
        "const form = document.createElement('form'); form.method = 'post'; \
         form.action = 'https://app.test:{port}/_auth/sessions'; \
         form.innerHTML = '<input name=end value=others><input name=token value=x>'; \
         document.body.append(form); form.submit()"
    );
    for (host, answer) in [("evil.test", "Please sign in"), ("neighbour.app.test", "came from another site")] {
        browser.open_host(host, gateway.addresses().gateway[0], "/");
        browser.sees("Orders");
        browser.run(&forge);
        browser.sees(answer);
        assert!(lives(&alice), "{host}");
    }

    // The person's own page, with the id of somebody else's session in it.
    let id = bob.get("/_auth/sessions").send().expect(200).json()["sessions"][0]["id"].as_str().unwrap().to_owned();
    browser.open(gateway.addresses().gateway[0], "/_auth/sessions");
    browser.run(&format!("document.querySelector('li:last-child button').value = '{id}'"));
    browser.click("li:last-child button");
    browser.sees("had ended already");
    assert!(lives(&bob) && lives(&alice));

    // And with a token that is not this browser's.
    browser.run("document.querySelector('input[name=token]').value = '0'.repeat(64)");
    browser.click("button[value=others]");
    browser.sees("nothing was done");
    assert!(lives(&alice));
    browser.click("button[value=others]");
    browser.sees("Signed out there.");
    assert!(!lives(&alice) && lives(&bob));
}

/// It fits, can be touched, and is told to those who do not see it. `PORTCULLIS_SCREENSHOTS=FOLDER` keeps pictures.
#[test]
fn the_page_of_sessions_fits_every_window_and_every_reader() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let _there = (elsewhere(&gateway, "alice"), gateway.log_in("alice"));
    gateway.advance(Duration::from_secs(3 * 3600 / 8));
    log_in(&browser, &gateway, "alice");
    browser.open(gateway.addresses().gateway[0], "/_auth/sessions?done");
    let folder = std::env::var_os("PORTCULLIS_SCREENSHOTS").map_or_else(|| gateway.folder(), PathBuf::from);
    for (size, window) in [("narrow", (320, 568)), ("phone", (360, 740)), ("desk", (1280, 900))] {
        for scheme in ["light", "dark"] {
            browser.screenshot(window, scheme, &folder.join(format!("sessions-{size}-{scheme}.png")));
            let overflow =
                browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(overflow, 0, "{size} scrolls sideways");
            let small = "return [...document.querySelectorAll('button')].filter(e => \
                e.getBoundingClientRect().height < 44 || e.getBoundingClientRect().width < 44).length";
            assert_eq!(browser.run(small), 0, "{size}: everything can be touched");
        }
    }
    let names = browser.run(
        "return [...document.querySelectorAll('li button')].map(b => \
         b.getAttribute('aria-labelledby').split(' ').map(id => document.getElementById(id).textContent).join(': '))",
    );
    assert_eq!(names[0], "Chrome on Linux: Sign out");
    assert_eq!(browser.run("return document.querySelectorAll('[role=status]').length"), 1);
    let complaints: Vec<_> = browser.complaints().into_iter().filter(|text| !text.contains("favicon.ico")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
