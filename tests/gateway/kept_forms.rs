//! A form that comes after its session has run out: kept for the same person in the same browser, sent by their click.

use std::time::Duration;

use crate::support::{Browser, Form, Gateway, Person, Reply, Response, Upstream, gateway::Running};

const PASSWORD: &str = "correct horse battery staple";
const KEPT_COOKIE: &str = "__Host-portcullis-kept";
const MINUTE: Duration = Duration::from_secs(60);

fn gateway(upstream: &Upstream) -> Running {
    Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .user("bob", "another password", &[])
        .route("/app/{*rest}", upstream)
        .key("max_body = \"1MiB\"")
        .start()
}

fn order() -> Form {
    let fields = [("item", "caf\u{e9} & cr\u{e8}me"), ("note", "two\r\nlines <b>"), ("empty", "")];
    Form {
        action: "/app/order?list=1&x=%C3%A9".to_owned(),
        fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
    }
}

/// As browsers encode it.
const BODY: &str = "item=caf%C3%A9+%26+cr%C3%A8me&note=two%0D%0Alines+%3Cb%3E&empty=";

/// Sends a form as a browser does.
fn post(person: &mut Person, gateway: &Running, action: &str, body: &str) -> Response {
    let request = gateway
        .client()
        .post(action, body.to_owned())
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Sec-Fetch-Site", "same-origin")
        .header("Sec-Fetch-Mode", "navigate")
        .header("Sec-Fetch-Dest", "document")
        .header("Accept", "text/html");
    person.send(request)
}

/// Alice, whose session ran out a minute ago.
fn late_alice(gateway: &Running) -> Person {
    let mut alice = gateway.person();
    alice.log_in("alice", PASSWORD).expect(303);
    gateway.advance(31 * MINUTE);
    alice
}

fn too_late(person: &mut Person, gateway: &Running) -> Response {
    let answer = post(person, gateway, &order().action, BODY).expect(401);
    assert!(answer.text().contains("is kept for 15 minutes"), "{answer:?}");
    answer
}

/// Follows the page's way to the login and logs in.
fn log_in_from(person: &mut Person, name: &str, password: &str) -> Response {
    let page = person.visit("/_auth/login?return_to=/_auth/resend").expect(200);
    person.submit(&page, &[("username", name), ("password", password)]).expect(303)
}

/// The whole way: nothing is sent before the click, the same bytes after it, and nothing twice.
#[test]
fn a_form_that_came_too_late_is_sent_by_a_click_and_once() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = late_alice(&gateway);
    let kept = too_late(&mut alice, &gateway);
    assert!(kept.text().contains("href=\"/_auth/login?return_to=/_auth/resend\""), "{kept:?}");
    assert!(kept.header("www-authenticate").is_some());

    let back = log_in_from(&mut alice, "alice", PASSWORD);
    assert_eq!(back.header("location"), Some("/_auth/resend"));
    let question = alice.follow(&back).expect(200).text();
    for shown in
        ["Send your form now?", "/app/order?list=1&amp;x=%C3%A9", "caf\u{e9} &amp; cr\u{e8}me", "lines &lt;b&gt;"]
    {
        assert!(question.contains(shown), "{shown} in {question}");
    }
    assert_eq!(upstream.connection_count(), 0, "nothing goes by itself");

    let click = post(&mut alice, &gateway, "/_auth/resend", BODY).expect(307);
    assert_eq!(click.header("location"), Some("/app/order?list=1&x=%C3%A9"));
    assert!(click.all("set-cookie").iter().any(|line| line.starts_with(&format!("{KEPT_COOKIE}=;"))));
    assert_eq!(upstream.connection_count(), 0, "it is the browser that sends it");
    post(&mut alice, &gateway, "/app/order?list=1&x=%C3%A9", BODY).expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.path.as_str(), seen.body.as_slice()), ("/app/order?list=1&x=%C3%A9", BODY.as_bytes()));
    assert_eq!(seen.header("x-user-id"), Some("id-of-alice"));

    let again = post(&mut alice, &gateway, "/_auth/resend", BODY).expect(410);
    assert!(again.text().contains("Nothing to send"));
    alice.visit("/_auth/resend").expect(404);
    assert_eq!(upstream.request_count(), 1);
}

/// It is shown wherever the same person logs in in that browser, and leads on to where they wanted to go.
#[test]
fn a_kept_form_is_shown_after_any_login_of_its_person() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = late_alice(&gateway);
    too_late(&mut alice, &gateway);

    let page = alice.visit("/_auth/login?return_to=/app/a%26b").expect(200);
    let back = alice.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);

    assert_eq!(back.header("location"), Some("/_auth/resend?return_to=/app/a%26b"));
    let question = alice.follow(&back).expect(200).text();
    assert!(question.contains("action=\"/_auth/resend?discard&amp;return_to=/app/a%26b\""), "{question}");
    let discarded = post(&mut alice, &gateway, "/_auth/resend?discard&return_to=/app/a%26b", "").expect(303);
    assert_eq!(discarded.header("location"), Some("/app/a&b"));
    post(&mut alice, &gateway, "/_auth/resend", BODY).expect(410);
}

/// Whoever else sits down at the same browser, or gets hold of the cookie elsewhere, sees nothing of it.
#[test]
fn a_kept_form_is_shown_to_nobody_else() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut browser = late_alice(&gateway);
    too_late(&mut browser, &gateway);
    let cookie = browser.cookie(KEPT_COOKIE).expect("a secret").to_owned();

    let back = log_in_from(&mut browser, "bob", "another password");
    let page = browser.follow(&back).expect(404);
    assert!(!page.text().contains("caf\u{e9}") && page.text().contains("Nothing to send"), "{page:?}");
    post(&mut browser, &gateway, "/_auth/resend", BODY).expect(410);
    post(&mut browser, &gateway, "/_auth/resend?discard", "").expect(303);

    let mut nobody = gateway.person();
    nobody.plant(KEPT_COOKIE, &cookie);
    nobody.visit("/_auth/resend").expect(404);
    post(&mut nobody, &gateway, "/_auth/resend", BODY).expect(410);

    let mut elsewhere = gateway.person();
    elsewhere.log_in("alice", PASSWORD).expect(303);
    elsewhere.visit("/_auth/resend").expect(404);
    post(&mut elsewhere, &gateway, "/_auth/resend", BODY).expect(410);

    // None of them took it away from Alice.
    browser.plant(KEPT_COOKIE, &cookie);
    let page = browser.visit("/_auth/login?prompt=login").expect(200);
    let back = browser.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);
    assert_eq!(back.header("location"), Some("/_auth/resend?return_to=/"));
    assert_eq!(upstream.connection_count(), 0);
}

/// What is sent at the click is what was kept, or nothing is.
#[test]
fn a_kept_form_cannot_be_altered() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = late_alice(&gateway);
    too_late(&mut alice, &gateway);
    log_in_from(&mut alice, "alice", PASSWORD);

    for body in ["", "item=other", &BODY.replace("empty=", "empty=x"), &format!("{BODY}&more=1")] {
        post(&mut alice, &gateway, "/_auth/resend", body).expect(410);
    }
    let foreign = gateway.client().post("/_auth/resend", BODY).header("Sec-Fetch-Site", "cross-site");
    alice.send(foreign).expect(403);

    post(&mut alice, &gateway, "/_auth/resend", BODY).expect(307);
}

/// Everything else is told that it was not sent; programs get their 401.
#[test]
fn what_cannot_be_kept_is_said_not_to_have_been_sent() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let large = format!("a={}", "x".repeat(64 * 1024));
    let fits = format!("a={}", "x".repeat(64 * 1024 - 2));
    for (name, kind, body, kept) in [
        ("a form", "application/x-www-form-urlencoded", "a=1", true),
        ("as large as may be", "application/x-www-form-urlencoded", &fits, true),
        ("too large", "application/x-www-form-urlencoded", &large, false),
        ("a password", "application/x-www-form-urlencoded", "password=x", false),
        ("files", "multipart/form-data; boundary=x", "--x\r\n\r\n--x--", false),
        ("JSON", "application/json", "{}", false),
        ("text", "text/plain", "a=1", false),
        ("what a browser would change", "application/x-www-form-urlencoded", "a=%0A", false),
    ] {
        let mut alice = late_alice(&gateway);
        let request = gateway.client().post("/app/x", body.to_owned()).header("Content-Type", kind);
        let request = request.header("Sec-Fetch-Site", "same-origin").header("Accept", "text/html");
        let answer = alice.send(request).expect(401);
        assert_eq!(alice.cookie(KEPT_COOKIE).is_some(), kept, "{name}");
        assert_eq!(answer.text().contains("was not sent"), !kept, "{name}: {answer:?}");
        assert!(alice.cookie("__Host-portcullis").is_none(), "{name}: the dead cookie goes");
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// Only a session that ran out, and less than a quarter of an hour ago, in this browser.
#[test]
fn only_a_form_of_a_session_that_ran_out_lately_is_kept() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let kept = |person: &mut Person| {
        let answer = post(person, &gateway, "/app/x", "a=1").expect(401);
        assert_eq!(answer.text().contains("was not sent"), person.cookie(KEPT_COOKIE).is_none());
        person.cookie(KEPT_COOKIE).is_some()
    };

    let mut late = gateway.person();
    late.log_in("alice", PASSWORD).expect(303);
    gateway.advance(30 * MINUTE + 14 * MINUTE);
    assert!(kept(&mut late));

    let mut too_late = gateway.person();
    too_late.log_in("alice", PASSWORD).expect(303);
    gateway.advance(30 * MINUTE + 15 * MINUTE);
    assert!(!kept(&mut too_late));

    let mut logged_out = gateway.person();
    logged_out.log_in("alice", PASSWORD).expect(303);
    let old = logged_out.cookie("__Host-portcullis").expect("a session").to_owned();
    post(&mut logged_out, &gateway, "/_auth/logout", "").expect(303);
    logged_out.plant("__Host-portcullis", &old);
    assert!(!kept(&mut logged_out), "a session that was ended is not one that ran out");

    assert!(!kept(&mut gateway.person()), "nobody's");
    let mut made_up = gateway.person();
    made_up.plant("__Host-portcullis", &"A".repeat(43));
    assert!(!kept(&mut made_up));
}

/// R31 comes first: another site's form is refused, not kept; scripts get what scripts get.
#[test]
fn neither_other_sites_nor_scripts_have_a_form_kept() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (site, mode, expected) in
        [("cross-site", "navigate", 403), ("same-site", "navigate", 403), ("same-origin", "cors", 401)]
    {
        let mut alice = late_alice(&gateway);
        let request =
            gateway.client().post("/app/x", "a=1").header("Content-Type", "application/x-www-form-urlencoded");
        let request = request.header("Sec-Fetch-Site", site).header("Sec-Fetch-Mode", mode);
        let answer = alice.send(request).expect(expected);
        assert!(alice.cookie(KEPT_COOKIE).is_none(), "{site} {mode}");
        assert_eq!(answer.text().starts_with('{'), mode == "cors", "{answer:?}");
    }
}

/// R14.
#[test]
fn the_cookie_of_a_kept_form_reaches_no_upstream() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut alice = late_alice(&gateway);
    too_late(&mut alice, &gateway);
    log_in_from(&mut alice, "alice", PASSWORD);
    alice.plant("own", "1");

    alice.visit("/app/x").expect(200);

    assert_eq!(upstream.next_request().header("cookie"), Some("own=1"));
}

const APPLICATION: &str = "<h1>Order</h1><form method=post action='/app/save?of=%C3%A9'><input name=item id=item>\
    <textarea name=note id=note></textarea><input type=hidden name=csrf value=\"a&amp;'b\"><button>Save</button></form>";

/// Real Chromium, with scripts and without: what the application gets is what was filled in, byte by byte.
#[test]
fn a_browser_sends_a_kept_form_as_it_was_filled_in() {
    for scripts in [true, false] {
        let Some(browser) = Browser::start() else { return };
        let upstream = Upstream::start();
        upstream.respond(|seen| {
            let page = if seen.method == "POST" { "<h1>Saved</h1>" } else { APPLICATION };
            Reply::with(200, &[("Content-Type", "text/html; charset=utf-8")], page)
        });
        let gateway = gateway(&upstream);
        let address = gateway.addresses().gateway[0];
        if !scripts {
            browser.without_scripts();
        }
        let fill = || {
            browser.type_into("#item", "Käse & <Brot> 'x' \"y\" ~*-._+%41");
            browser.type_into("#note", "one\ntwo\n\n  three ");
        };
        let log_in = || {
            browser.sees("User name");
            browser.type_into("#username", "alice");
            browser.type_into("#password", PASSWORD);
            browser.click("button");
        };

        browser.open(address, "/app/");
        log_in();
        browser.sees("Order");
        fill();
        browser.click("button");
        browser.sees("Saved");
        let wanted =
            std::iter::repeat_with(|| upstream.next_request()).find(|seen| seen.method == "POST").expect("a post");

        browser.open(address, "/app/");
        fill();
        let before = upstream.request_count();
        gateway.advance(31 * MINUTE);
        browser.click("button");
        browser.sees("is kept for 15 minutes");
        browser.screenshot((360, 640), "light", &browser.picture(&gateway.folder(), "kept"));
        browser.click("a.button");
        log_in();
        browser.sees("Send your form now?");
        assert_eq!(upstream.request_count(), before, "nothing goes by itself");
        browser.screenshot((360, 900), "light", &browser.picture(&gateway.folder(), "resend"));
        browser.screenshot((1280, 900), "dark", &browser.picture(&gateway.folder(), "resend-dark"));
        browser.click("button");
        browser.sees("Saved");
        assert_eq!(browser.path(), "/app/save?of=%C3%A9", "at its own address");

        let sent =
            std::iter::repeat_with(|| upstream.next_request()).find(|seen| seen.method == "POST").expect("a post");
        assert_eq!(sent.path, wanted.path);
        assert_eq!(String::from_utf8_lossy(&sent.body), String::from_utf8_lossy(&wanted.body));
        assert_eq!(sent.header("content-type"), wanted.header("content-type"));

        browser.open(address, "/_auth/resend");
        browser.sees("Nothing to send");
        browser.screenshot((360, 640), "dark", &browser.picture(&gateway.folder(), "nothing-to-send"));
    }
}
