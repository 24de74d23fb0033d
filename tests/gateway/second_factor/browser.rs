//! Enrolment, codes, recovery codes and step-up, as a person with a browser goes through them.
//!
//! `PORTCULLIS_SCREENSHOTS=FOLDER` keeps pictures of every page for whoever changes how they look.

use std::path::PathBuf;

use super::{App, PASSWORD, STEP, gateway, invite};
use crate::support::{Browser, Reply, Upstream, gateway::Running};

/// A page at this size and in these colours does not scroll sideways, and everything on it can be touched.
fn look(browser: &Browser, gateway: &Running, name: &str) {
    let folder = std::env::var_os("PORTCULLIS_SCREENSHOTS").map_or_else(|| gateway.folder(), PathBuf::from);
    for (size, width) in [("phone", (360, 640)), ("desk", (1280, 800))] {
        for scheme in ["light", "dark"] {
            browser.screenshot(width, scheme, &folder.join(format!("factor-{name}-{size}-{scheme}.png")));
            let overflow =
                browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(overflow, 0, "{name} on a {size} scrolls sideways");
            let small = "return [...document.querySelectorAll('button, a.button, summary, input:not([type=hidden])')]\
                .filter(e => e.offsetParent && e.getBoundingClientRect().height < 44).length";
            assert_eq!(browser.run(small), 0, "{name} on a {size}: everything can be touched");
        }
    }
}

fn type_password(browser: &Browser) {
    browser.type_into("#username", "alice");
    browser.type_into("#password", PASSWORD);
    browser.click("button");
}

fn type_code(browser: &Browser, code: &str) {
    browser.type_into("#code", code);
    browser.click("button");
}

fn goes_through_it(browser: &Browser) {
    let upstream = Upstream::start();
    upstream.respond(|seen| {
        let id = seen.header("x-user-id").unwrap_or("nobody").to_owned();
        Reply::with(200, &[("Content-Type", "text/html")], format!("<h1>Orders of {id}</h1>"))
    });
    let gateway = gateway(&upstream);
    let address = gateway.addresses().gateway[0];

    browser.open(address, "/admin/x");
    type_password(browser);
    browser.sees("ask your administrator");
    look(browser, &gateway, "missing");

    let code = invite(&gateway, &["alice"]);
    browser.open(address, "/admin/x");
    type_password(browser);
    browser.sees("Enrolment code");
    look(browser, &gateway, "invitation");
    type_code(browser, "ABCD-EFGH-IJKL-MNOP");
    browser.sees("That is not the enrolment code");
    type_code(browser, &code);
    browser.sees("Scan this");
    look(browser, &gateway, "enrolment");
    let square = "const r = document.querySelector('svg.qr').getBoundingClientRect(); return r.width > 180 && Math.abs(r.width - r.height) < 1";
    assert_eq!(browser.run(square), true, "a phone can read it");
    let key = browser.run("return document.querySelector('.key code').innerText").as_str().expect("a key").to_owned();
    let mut app = App { key, recovery: Vec::new() };
    type_code(browser, &app.shows(&gateway));
    browser.sees("Keep these recovery codes");
    look(browser, &gateway, "recovery-codes");
    let shown = browser.run("return [...document.querySelectorAll('.codes code')].map(e => e.innerText)");
    app.recovery = shown.as_array().expect("a list").iter().map(|code| code.as_str().unwrap().to_owned()).collect();
    assert_eq!(app.recovery.len(), 10);
    browser.click("a.button");
    browser.sees("Orders of id-of-alice");

    let used = app.shows(&gateway);
    gateway.advance(STEP);
    browser.open(address, "/_auth/login?prompt=login&return_to=/admin/x");
    type_password(browser);
    browser.sees("Your second factor");
    assert_eq!(browser.run("return document.activeElement.id"), "code", "one can begin to type");
    look(browser, &gateway, "code");
    type_code(browser, &used);
    browser.sees("wrong, or was used before");
    look(browser, &gateway, "wrong-code");
    type_code(browser, &app.shows(&gateway));
    browser.sees("Orders of id-of-alice");

    browser.open(address, "/_auth/login?prompt=login&return_to=/admin/x");
    type_password(browser);
    browser.sees("Your second factor");
    browser.click("summary");
    look(browser, &gateway, "code-without-phone");
    browser.type_into("#recovery", &app.recovery[0]);
    browser.click("button");
    browser.sees("Codes left: 9");
    look(browser, &gateway, "recovered");
    browser.click("a.button");
    browser.sees("Orders of id-of-alice");
    gateway.advance(STEP);

    browser.open(address, "/_auth/login?prompt=factor&return_to=/admin/x");
    browser.sees("Is it still you?");
    look(browser, &gateway, "step-up");
    type_password(browser);
    browser.sees("Your second factor");
    type_code(browser, &app.shows(&gateway));
    browser.sees("Orders of id-of-alice");
    let mut complaints = browser.complaints();
    complaints.retain(|one| {
        !one.contains("responded with a status of 401") && !one.contains("responded with a status of 403")
    });
    assert_eq!(complaints, Vec::<String>::new(), "of the policy, above all");
}

#[test]
fn a_person_enrols_and_logs_in_with_codes() {
    let Some(browser) = Browser::start() else { return };

    goes_through_it(&browser);
}

#[test]
fn a_person_without_scripts_enrols_and_logs_in_with_codes() {
    let Some(browser) = Browser::start() else { return };
    browser.without_scripts();

    goes_through_it(&browser);
}
