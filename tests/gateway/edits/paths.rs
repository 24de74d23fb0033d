//! `strip_prefix` and `rewrite`: what is decided is what the client sent, what the upstream gets is another path (R7).

use crate::support::{Gateway, Issuer, Reply, Upstream, gateway::Running};

fn stripping(upstream: &Upstream, more: &[&str]) -> Running {
    let mut gateway = Gateway::new();
    for line in more {
        gateway = gateway.server(line);
    }
    let gateway = gateway.route("/users/{*rest}", upstream).auth(&["none"]).key("strip_prefix = \"/users\"");
    gateway.route("/{*rest}", upstream).auth(&["none"]).start()
}

#[test]
fn an_upstream_gets_the_path_without_the_prefix_and_is_told_of_it() {
    let upstream = Upstream::start();
    let gateway = stripping(&upstream, &[]);
    for (path, expect) in [("/users", "/"), ("/users/7?a=b", "/7?a=b"), ("/%75sers/a%20b", "/a%20b")] {
        gateway.client().get(path).send().expect(200);
        let seen = upstream.next_request();
        assert_eq!((seen.path.as_str(), seen.header("x-forwarded-prefix")), (expect, Some("/users")), "{path}");
    }
    gateway.client().get("/users/7").send_http2().expect(200);
    assert_eq!(upstream.next_request().path, "/7");
    gateway.client().get("/usersx").send().expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.path.as_str(), seen.header("x-forwarded-prefix")), ("/usersx", None));
}

#[test]
fn a_prefix_of_the_clients_own_reaches_nobody() {
    let upstream = Upstream::start();
    let gateway = stripping(&upstream, &[]);
    for (path, expect) in [("/users/7", Some("/users")), ("/x", None)] {
        let request = gateway.client().get(path).header("X-Forwarded-Prefix", "/evil");
        request.header("Connection", "X-Forwarded-Prefix").send().expect(200);
        let seen = upstream.next_request();
        assert_eq!(seen.all("x-forwarded-prefix"), expect.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_trusted_proxys_prefix_goes_before_ours() {
    let upstream = Upstream::start();
    let gateway = stripping(&upstream, &["trusted_proxies = [\"127.0.0.1\"]"]);
    for (path, expect) in [("/users/7", "/outer/users"), ("/x", "/outer")] {
        gateway.client().get(path).header("X-Forwarded-Prefix", "/outer").send().expect(200);
        assert_eq!(upstream.next_request().all("x-forwarded-prefix"), [expect]);
    }
}

#[test]
fn no_spelling_climbs_out_of_the_prefix() {
    let upstream = Upstream::start();
    let gateway = stripping(&upstream, &[]);
    for path in [
        "/users/../admin",
        "/users/%2e%2e/admin",
        "/users/.%2E",
        "/users//evil.example",
        "/users/%2Fevil.example",
        "/users%2Fadmin",
        "/users/\\evil.example",
        "/users/%5Cevil",
        "/users/..;/admin",
        "/users/%252e%252e/admin",
    ] {
        assert_eq!(gateway.client().get(path).send().status, 400, "{path}");
    }
    upstream.expect_only(0);
}

#[test]
fn locations_and_cookies_lead_back_through_the_gateway() {
    let upstream = Upstream::start();
    let gateway = stripping(&upstream, &[]);
    upstream.respond(|_| {
        Reply::with(
            302,
            &[
                ("Location", "/login?next=/x"),
                ("Content-Location", "https://app.test/page"),
                ("Content-Location", "https://app.test.evil/page"),
                ("Refresh", "5; url=/next"),
                ("Set-Cookie", "theirs=1; Path=/; HttpOnly"),
                ("Set-Cookie", "__Host-portcullis=evil; Path=/; Secure"),
                ("Set-Cookie", "__Host-theirs=1; Path=/; Secure"),
            ],
            "<a href=/x>",
        )
    });

    let answer = gateway.client().get("/users/7").send().expect(302);
    assert_eq!(answer.header("location"), Some("/users/login?next=/x"));
    assert_eq!(answer.all("content-location"), ["https://app.test/users/page", "https://app.test.evil/page"]);
    assert_eq!(answer.header("refresh"), Some("5; url=/users/next"));
    assert_eq!(answer.all("set-cookie"), ["theirs=1; Path=/users; HttpOnly", "__Host-theirs=1; Path=/; Secure"]);
    assert_eq!(answer.text(), "<a href=/x>");

    let untouched = gateway.client().get("/x").send().expect(302);
    assert_eq!(untouched.header("location"), Some("/login?next=/x"));
}

#[test]
fn our_own_cookies_keep_their_path() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin();
    let gateway = gateway.route("/users/{*rest}", &upstream).key("strip_prefix = \"/users\"").start();

    let browser = gateway.open_session(&serde_json::json!({ "subject": "alice" }));
    browser.get("/users/7").send().expect(200);

    let seen = upstream.next_request();
    assert_eq!((seen.path.as_str(), seen.header("x-user-id")), ("/7", Some("alice")));
    assert_eq!(seen.header("cookie"), None);
}

#[test]
fn a_path_is_rewritten_with_its_parameters_as_they_are_encoded() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/u/{id}/{*rest}", &upstream).auth(&["none"]);
    let gateway = gateway.key("rewrite = \"/v2/{id}/all/{rest}\"").start();
    for (path, expect) in [
        ("/u/7/a/b?q=%2F", "/v2/7/all/a/b?q=%2F"),
        ("/u/7", "/v2/7/all"),
        ("/u/%3Fadmin%23/x", "/v2/%3Fadmin%23/all/x"),
        ("/u/%7Brest%7D/x", "/v2/%7Brest%7D/all/x"),
        ("/u/%0d%0aX:y/x", ""),
        ("/u/..%2f/x", ""),
        ("/u/%2e%2e/x", ""),
    ] {
        let answer = gateway.client().get(path).send();
        if expect.is_empty() {
            assert_eq!(answer.status, 400, "{path}");
        } else {
            assert_eq!((answer.status, upstream.next_request().path.as_str()), (200, expect), "{path}");
        }
    }
    upstream.expect_only(4);
}

/// The rule looks at what the client sent, before and after.
#[test]
fn a_rule_is_about_the_path_that_was_sent() {
    let upstream = Upstream::start();
    let issuer = Issuer::hs256();
    let gateway = Gateway::new().issuer(&issuer).route("/u/{id}/info", &upstream);
    let gateway = gateway.upstream_key("path_quirks = [\"suffix\"]").require("path:id == sub");
    let gateway = gateway.key("rewrite = \"/people/{id}\"").start();
    let ask = |subject: &str, path: &str| {
        let token = issuer.sign(&Issuer::claims(subject, &[], gateway.now()));
        gateway.client().get(path).bearer(&token).send().status
    };

    assert_eq!(ask("alice", "/u/alice/info"), 200);
    assert_eq!(ask("mallory", "/u/alice/info"), 403);
    // To the backend the last segment's extension is none: it would have shown alice's.
    assert_eq!(ask("alice.json", "/u/alice.json/info"), 400);
    assert_eq!(upstream.next_request().path, "/people/alice");
    upstream.expect_only(1);
}
