//! What people see in a real Chromium when something is not right, with scripts and without: a wrong password, too many
//! of them, a page whose state is lost, what is somebody else's; and where an application leads them afterwards.
//!
//! `PORTCULLIS_SCREENSHOTS=FOLDER` keeps pictures for whoever changes how pages look.

use std::time::Duration;

use serde_json::json;

use crate::support::{Browser, Client, Gateway, Reply, Upstream, gateway::Running};

const PASSWORD: &str = "correct horse battery staple";
const FORM: &str =
    "<h1>Order</h1><form method=post action=/app/save><input name=item id=item><button>Save</button></form>";

/// `/app/…` asks for a session: a form, and two ways that lead to another host, where nobody has to be known.
fn gateway(upstream: &Upstream) -> Running {
    upstream.respond(|seen| match (&*seen.method, &*seen.path) {
        ("GET", "/app/leave") | ("POST", "/app/save") => {
            let port = seen.header("host").and_then(|host| host.split(':').nth(1)).unwrap_or_default().to_owned();
            Reply::with(303, &[("Location", &format!("https://elsewhere.test:{port}/there"))], "")
        }
        (_, "/there") => html("<h1>Arrived</h1>"),
        _ => html(FORM),
    });
    Gateway::new()
        .host("elsewhere.test")
        .user("alice", PASSWORD, &[])
        .user("bob", PASSWORD, &[])
        .route_to("host = \"app.test\", path = \"/app/{*rest}\"", &format!("servers = [{:?}]", upstream.url()))
        .route_to("host = \"app.test\", path = \"/pay/{*rest}\"", &format!("servers = [{:?}]", upstream.url()))
        .key("require = { max_auth_age = \"10m\" }")
        .route_to("host = \"elsewhere.test\", path = \"/{*rest}\"", &format!("servers = [{:?}]", upstream.url()))
        .auth(&["none"])
        .start()
}

fn html(text: &'static str) -> Reply {
    Reply::with(200, &[("Content-Type", "text/html")], text)
}

/// Runs `test` in a browser that runs scripts, and in one that runs none.
fn with_scripts_and_without(test: impl Fn(&Browser)) {
    for scripts in [true, false] {
        let Some(browser) = Browser::start() else { return };
        if !scripts {
            browser.without_scripts();
        }
        test(&browser);
    }
}

fn log_in(browser: &Browser, name: &str, password: &str) {
    browser.sees("User name");
    browser.type_into("#username", name);
    browser.type_into("#password", password);
    browser.click_through("form button");
}

fn open(browser: &Browser, gateway: &Running, path: &str) {
    browser.open(gateway.addresses().gateway[0], path);
}

/// A session of somebody in another browser.
fn elsewhere(gateway: &Running, name: &str) -> Client {
    let answer = gateway.client().post("/_auth/login", "").json(&json!({ "username": name, "password": PASSWORD }));
    gateway.client().always("Cookie", &crate::support::gateway::session_cookie(&answer.send().expect(200)))
}

#[test]
fn a_wrong_password_too_many_of_them_and_a_lost_state_are_said_on_the_login_page() {
    with_scripts_and_without(|browser| {
        let upstream = Upstream::start();
        let gateway = gateway(&upstream);
        open(browser, &gateway, "/app/");
        log_in(browser, "alice", "wrong");
        browser.sees("The user name or the password is wrong.");
        assert_eq!(browser.run("return document.querySelector('#username').value"), "", "nothing is reflected");
        assert_eq!(browser.run("return document.activeElement.id"), "username");

        browser.forget_cookies();
        log_in(browser, "alice", PASSWORD);
        browser.sees("This page had expired.");
        assert_eq!(browser.run("return document.querySelector('[role=alert]').id"), "problem");

        for _ in 0..20 {
            if browser.text().contains("There were too many attempts.") {
                break;
            }
            log_in(browser, "alice", "wrong");
        }
        browser.sees("There were too many attempts.");
        browser.screenshot((390, 844), "light", &browser.picture(&gateway.folder(), "throttled"));
        log_in(browser, "alice", PASSWORD);
        browser.sees("There were too many attempts.");
        assert_eq!(upstream.connection_count(), 0);

        gateway.advance(Duration::from_secs(60));
        log_in(browser, "alice", PASSWORD);
        browser.sees("Order");
    });
}

#[test]
fn what_is_somebody_elses_is_neither_shown_nor_ended_nor_sent() {
    with_scripts_and_without(|browser| {
        let upstream = Upstream::start();
        let gateway = gateway(&upstream);
        // Alice's form, kept; bob is the next to log in there.
        open(browser, &gateway, "/app/");
        log_in(browser, "alice", PASSWORD);
        browser.sees("Order");
        browser.type_into("#item", "a secret of alice");
        gateway.advance(Duration::from_secs(31 * 60));
        browser.click("button");
        browser.sees("is kept for 15 minutes");
        let before = upstream.request_count();
        browser.click("a.button");
        log_in(browser, "bob", PASSWORD);
        browser.sees("Nothing to send");
        assert!(!browser.text().contains("secret"));
        open(browser, &gateway, "/_auth/resend");
        browser.sees("Nothing to send");
        assert_eq!(upstream.request_count(), before, "nothing was sent");

        // Bob's own page of sessions, with the id of a session of alice's in it.
        let (alice, bob) = (elsewhere(&gateway, "alice"), elsewhere(&gateway, "bob"));
        let id =
            alice.get("/_auth/sessions").send().expect(200).json()["sessions"][0]["id"].as_str().unwrap().to_owned();
        open(browser, &gateway, "/_auth/sessions");
        browser.run(&format!("document.querySelector('li:last-child button').value = '{id}'"));
        browser.click("li:last-child button");
        browser.sees("That session had ended already.");
        assert_eq!([&alice, &bob].map(|one| one.get("/app/x").send().status), [200, 200]);

        // A page that asks who it is again is answered by somebody else.
        gateway.advance(Duration::from_secs(11 * 60));
        open(browser, &gateway, "/pay/x");
        browser.sees("Is it still you?");
        log_in(browser, "alice", PASSWORD);
        browser.sees("That was somebody else.");
        browser.screenshot((390, 844), "dark", &browser.picture(&gateway.folder(), "somebody-else"));
    });
}

/// Chromium holds redirects after a form against the policy of the form's page.
#[test]
fn an_application_leads_elsewhere_after_a_login_a_late_form_and_a_logout() {
    with_scripts_and_without(|browser| {
        let upstream = Upstream::start();
        let gateway = gateway(&upstream);
        open(browser, &gateway, "/app/leave");
        log_in(browser, "alice", PASSWORD);
        browser.sees("Arrived");

        open(browser, &gateway, "/app/");
        browser.type_into("#item", "tea");
        gateway.advance(Duration::from_secs(31 * 60));
        browser.click("button");
        browser.sees("is kept for 15 minutes");
        browser.click("a.button");
        log_in(browser, "alice", PASSWORD);
        browser.sees("Send your form now?");
        browser.click("button");
        browser.sees("Arrived");

        let complaints = browser.complaints();
        assert!(!complaints.iter().any(|one| one.contains("Content Security Policy")), "{complaints:?}");
    });
}
