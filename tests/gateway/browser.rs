//! A real Chromium in front of a real gateway: what the other tests say of headers, cookies and policies is true for
//! the program that has to obey them.
//!
//! `PORTCULLIS_SCREENSHOTS=FOLDER` keeps pictures of every page for whoever changes how they look.

use std::path::PathBuf;

use serde_json::json;

use crate::support::{Browser, Gateway, Reply, Upstream, gateway::Running};

const PASSWORD: &str = "correct horse battery staple";

/// An application page that shows what its server was told of the visitor.
fn gateway(upstream: &Upstream) -> Running {
    upstream.respond(|seen| {
        let shown: Vec<String> =
            seen.headers.iter().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
        let text = shown.join("\n").replace('<', "&lt;");
        Reply::with(200, &[("Content-Type", "text/html")], format!("<h1>Orders</h1><pre>{text}</pre>"))
    });
    Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .route("/app/{*rest}", upstream)
        .route("/admin/{*rest}", upstream)
        .require_role("admin")
        .start()
}

fn log_in(browser: &Browser) {
    browser.type_into("#username", "alice");
    browser.type_into("#password", PASSWORD);
    browser.click("button");
}

/// R26, R30, R33: the main way, as a person goes it.
#[test]
fn a_person_logs_in_uses_the_application_and_logs_out() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let address = gateway.addresses().gateway[0];

    browser.open(address, "/app/orders?page=2");
    browser.sees("Sign in");
    assert_eq!(browser.path(), "/_auth/login?return_to=/app/orders%3Fpage%3D2");
    assert_eq!(upstream.connection_count(), 0);
    assert_eq!(browser.run("return document.activeElement.id"), "username", "one can begin to type");

    browser.type_into("#username", "alice");
    browser.type_into("#password", "wrong");
    browser.click("button");
    browser.sees("The user name or the password is wrong.");

    log_in(&browser);
    browser.sees("Orders");
    browser.sees("x-user-id: id-of-alice");
    browser.sees("x-user-roles: user");
    assert_eq!(browser.path(), "/app/orders?page=2");
    assert_eq!(browser.run("return document.cookie"), "", "no script can read the session");

    browser.open(address, "/_auth/logout");
    browser.sees("Sign out?");
    browser.click("button");
    browser.sees("You have signed out.");

    browser.open(address, "/app/orders");
    browser.sees("Sign in");
}

/// R33: a style that the policy forbade would not apply, and the browser would say so.
#[test]
fn our_pages_keep_their_own_policy() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let address = gateway.addresses().gateway[0];

    for path in ["/_auth/login", "/_auth/logout", "/nowhere", "/_auth/login?signed_out"] {
        browser.open(address, path);
        let radius = browser.run("return getComputedStyle(document.querySelector('main')).maxWidth");
        assert_ne!(radius, "none", "{path} has its style");
        let script = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; \
            document.body.append(s); return window.ran === undefined";
        assert_eq!(browser.run(script), true, "{path} runs no script");
    }
}

/// R33: what `check` warns of is blocked indeed, and what it allows works.
#[test]
fn a_page_of_ones_own_runs_nothing_and_has_its_style() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = Gateway::with(
        "[pages]\n\"404\" = \"404.html\"\n[login.texts.en]\n\
         no_route = \"<img src=x onerror='window.ran = 1'>\"\nnot_found_title = \"</title><script>window.ran = 1</script>\"\n",
    )
    .file(
        "404.html",
        "<!DOCTYPE html>\r\n<title>{{title}}</title>\r\n<style>\r\nh1 { color: rgb(1, 2, 3) }\r\n</style>\r\n\
         <h1 id=own style=\"margin-left: 77px\" title='{{message}}'>Lost {{status}}</h1><p>{{message}}</p>\
         <img id=dot src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA='>\
         <script>window.ran = 1</script><a id=run href='javascript:window.ran = 1'>run</a>",
    )
    .user("alice", PASSWORD, &["user"])
    .route("/app/{*rest}", &upstream)
    .start();

    browser.open(gateway.addresses().gateway[0], "/nowhere");

    browser.sees("Lost 404");
    browser.sees("<img src=x onerror=");
    let style =
        |property: &str| browser.run(&format!("return getComputedStyle(document.querySelector('#own')).{property}"));
    assert_eq!(style("color"), "rgb(1, 2, 3)", "the style is allowed, with the line ends of the file");
    assert_ne!(style("marginLeft"), "77px", "a style attribute is not");
    assert_eq!(
        browser.run("return document.querySelector('#dot').naturalWidth"),
        1,
        "an image within the page is shown"
    );
    browser.click("#run");
    assert_eq!(browser.run("return window.ran === undefined"), true, "no script ran");
    assert_eq!(browser.run("return document.title"), "</title><script>window.ran = 1</script>");
    assert_eq!(browser.run("return document.querySelectorAll('script, img').length"), 2, "those of the file");
}

/// R30, R31: what scripts get, told by the browser's own `Sec-Fetch-*`.
#[test]
fn scripts_are_not_redirected_and_other_sites_cannot_post() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let address = gateway.addresses().gateway[0];
    let fetch = |options: &str| {
        let script = format!(
            "fetch('/app/data', {options}).then(async r => done([r.status, r.redirected, (await r.text()).slice(0, 400)]))"
        );
        browser.run_async(&script)
    };

    browser.open(address, "/_auth/nowhere");
    // Our own pages may not even fetch: the policy says 'none'. An application's page may.
    browser.open(address, "/app/");
    log_in(&browser);
    browser.sees("Orders");
    assert_eq!(fetch("{ method: 'POST', body: 'x' }")[0], 200, "the application's own script");

    let own = gateway.log_in("alice");
    own.post("/_auth/logout", "").send();
    browser.run("window.stop()");
    assert_eq!(browser.run_async("fetch('/_auth/logout', { method: 'POST', headers: { Accept: 'application/json' } }).then(r => done(r.status))"), json!(200));
    let refused = fetch("{}");
    assert_eq!((&refused[0], &refused[1]), (&json!(401), &json!(false)), "{refused}");
    assert!(refused[2].as_str().expect("a text").contains("\"login_url\""), "{refused}");
}

/// R33: nobody lays a page of theirs over ours.
#[test]
fn our_pages_cannot_be_framed() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    browser.open(gateway.addresses().gateway[0], "/app/");
    log_in(&browser);
    browser.sees("Orders");

    let script = "const frame = document.createElement('iframe'); frame.src = '/_auth/logout'; \
        frame.onload = () => { let text = null; try { text = frame.contentDocument && frame.contentDocument.body.innerText } \
        catch (e) {} done(text) }; document.body.append(frame)";
    let shown = browser.run_async(script);

    assert!(!shown.as_str().unwrap_or_default().contains("Sign out"), "{shown}");
}

/// The pages fit a phone and a desk, in the light and in the dark.
#[test]
fn our_pages_fit_every_window() {
    let Some(browser) = Browser::start() else { return };
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let address = gateway.addresses().gateway[0];
    let folder = std::env::var_os("PORTCULLIS_SCREENSHOTS").map(PathBuf::from);
    let look = |name: &str| {
        for (size, width) in [("phone", (360, 640)), ("desk", (1280, 800))] {
            for scheme in ["light", "dark"] {
                let file =
                    folder.clone().unwrap_or_else(|| gateway.folder()).join(format!("{name}-{size}-{scheme}.png"));
                browser.screenshot(width, scheme, &file);
                let overflow =
                    browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
                assert_eq!(overflow, 0, "{name} on a {size} scrolls sideways");
                let small = "return [...document.querySelectorAll('button, a.button, input:not([type=hidden])')]\
                    .filter(e => e.getBoundingClientRect().height < 44).length";
                assert_eq!(browser.run(small), 0, "{name} on a {size}: everything can be touched");
            }
        }
    };

    browser.open(address, "/_auth/login?return_to=/admin/x");
    look("login");
    browser.type_into("#username", "alice");
    browser.type_into("#password", "wrong");
    browser.click("button");
    browser.sees("is wrong");
    look("failed");
    log_in(&browser);
    browser.sees("You are signed in as alice");
    look("forbidden");
    browser.open(address, "/_auth/login");
    look("signed-in");
    browser.open(address, "/_auth/logout");
    look("logout");
    browser.click("button");
    browser.sees("You have signed out");
    look("signed-out");
    browser.open(address, "/nowhere");
    look("not-found");
}
