//! Error pages of the operator's own: who gets which, what is filled in, and what stays ours.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::support::{Gateway, Reply, Upstream, gateway::Running};

const PASSWORD: &str = "correct horse battery staple";
const NOT_FOUND: &str = "<!DOCTYPE html><html lang=\"{{language}}\"><title>{{title}}</title>\n\
    <style>h1 { color: rgb(1, 2, 3) }</style><h1>Lost, {{status}}</h1><p>{{message}} {{request_id}}</p>";
const CLIENT: &str = "<h1>No, {{status}}</h1><a href=\"{{login_url}}\">sign in</a>{{title}}";
const SERVER: &str = "<h1>Sorry, {{status}}</h1>";

fn gateway(upstream: &Upstream, tables: &str) -> Running {
    Gateway::with(&format!("[pages]\n\"404\" = \"404.html\"\n\"4xx\" = \"4xx.html\"\n\"5xx\" = \"5xx.html\"\n{tables}"))
        .file("404.html", NOT_FOUND)
        .file("4xx.html", CLIENT)
        .file("5xx.html", SERVER)
        .user("alice", PASSWORD, &["user"])
        .route("/app/{*rest}", upstream)
        .route("/admin/{*rest}", upstream)
        .require_role("admin")
        .route_to("path = \"/down/{*rest}\"", "servers = [\"http://127.0.0.1:1\"]")
        .auth(&["none"])
        .start()
}

#[test]
fn people_get_the_page_of_the_status_or_else_of_its_class() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");

    let missing = gateway.client().get("/nowhere").navigation().send().expect(404);
    let text = missing.text();
    assert!(
        text.contains("<html lang=\"en\"><title>Not found</title>") && text.contains("<h1>Lost, 404</h1>"),
        "{text}"
    );
    let number = missing.header("x-request-id").expect("a number");
    assert!(text.contains(&format!("<p>There is nothing at this address. {number}</p>")), "{text}");
    assert_eq!(missing.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(missing.header("cache-control"), Some("no-store"));
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"h1 { color: rgb(1, 2, 3) }");
    let policy = missing.header("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with(&format!("default-src 'none'; style-src 'sha256-{}';", STANDARD.encode(hash))),
        "{policy}"
    );

    let down = gateway.client().get("/down/x").navigation().send().expect(502);
    assert_eq!(down.text(), "<h1>Sorry, 502</h1>");
    let alice = gateway.log_in("alice");
    let refused = alice.get("/admin/x?a=1&b").navigation().send().expect(403).text();
    assert!(refused.contains("<h1>No, 403</h1>"), "{refused}");
    assert!(refused.contains("href=\"/_auth/login?prompt=login&amp;return_to=/admin/x%3Fa%3D1%26b\""), "{refused}");
    let unsent = gateway.client().post("/app/x", "a=b").header("Accept", "text/html").send().expect(401);
    assert!(unsent.text().contains("<h1>No, 401</h1><a href=\"/_auth/login\">"), "{}", unsent.text());
    assert!(unsent.header("www-authenticate").is_some(), "a 401 has its challenge");
    upstream.expect_only(0);
}

#[test]
fn programs_upstreams_and_the_login_speak_as_before() {
    let upstream = Upstream::start();
    upstream.respond(|_| Reply::with(404, &[("Content-Type", "text/html")], "theirs"));
    let gateway = gateway(&upstream, "");

    let program = gateway.client().get("/nowhere").send().expect(404);
    assert_eq!(program.json()["error"], "no_route");
    let grpc = gateway.client().post("/nowhere", "").header("Content-Type", "application/grpc").send().expect(200);
    assert_eq!(grpc.header("grpc-status"), Some("12"));
    assert_eq!(gateway.log_in("alice").get("/app/x").navigation().send().expect(404).text(), "theirs");
    gateway.client().get("/app/x").navigation().send().expect(302);
    let wrong = gateway.person().log_in("alice", "wrong").expect(401).text();
    assert!(wrong.contains("The user name or the password is wrong.") && !wrong.contains("No, 401"), "{wrong}");
}

/// R33: even what the operator words anew is text, and what a trusted proxy sends is no address.
#[test]
fn what_is_filled_in_is_text() {
    let upstream = Upstream::start();
    let gateway = Gateway::with(
        "[pages]\n\"404\" = \"404.html\"\n[login.texts.en]\n\
         no_route = \"</p><script>alert(1)</script>\"\nnot_found_title = \"\\\" onload='alert(1)\"\n",
    )
    .file("404.html", "<p title=\"{{title}}\">{{message}}</p><a href=\"{{request_id}}\">{{request_id}}</a>")
    .server("trusted_proxies = [\"127.0.0.1\"]")
    .user("alice", PASSWORD, &[])
    .route("/app/{*rest}", &upstream)
    .start();

    let page = gateway.client().get("/nowhere").navigation().header("X-Request-Id", "//evil.example:1").send();

    assert_eq!(
        page.expect(404).text(),
        "<p title=\"&quot; onload=&#39;alert(1)\">&lt;/p&gt;&lt;script&gt;alert(1)&lt;/script&gt;</p>\
         <a href=\"%2F%2Fevil.example%3A1\">//evil.example:1</a>"
    );
}

/// R37: a page is part of the configuration.
#[test]
fn a_reload_takes_a_changed_page_and_refuses_a_broken_one() {
    let upstream = Upstream::start();
    let gateway = Gateway::with("[pages]\n\"404\" = \"404.html\"\n")
        .file("404.html", "first")
        .admin()
        .route("/app/{*rest}", &upstream)
        .start();
    let page = gateway.folder().join("404.html");
    let shown = || gateway.client().get("/nowhere").navigation().send().expect(404).text();
    assert_eq!(shown(), "first");

    std::fs::write(&page, "second {{status}}").unwrap();
    gateway.reload().expect(200);
    assert_eq!(shown(), "second 404");

    std::fs::write(&page, "third\n{{statu}}").unwrap();
    let refused = gateway.reload();
    assert!(refused.status >= 400 && refused.text().contains("404.html:2:1"), "{}", refused.text());
    assert!(refused.text().contains("did you mean `{{status}}`?"), "{}", refused.text());
    assert_eq!(shown(), "second 404");
}
