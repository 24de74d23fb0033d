//! R30: only people are redirected; scripts, programs and gRPC clients get what they can read.

use serde_json::json;

use crate::support::{Gateway, Issuer, Upstream, gateway::Running};

const PASSWORD: &str = "correct horse battery staple";

fn gateway(upstream: &Upstream) -> Running {
    Gateway::new().user("alice", PASSWORD, &["user"]).admin().route("/app/{*rest}", upstream).start()
}

/// R30.
#[test]
fn only_a_navigation_of_the_whole_window_is_redirected_to_the_login() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let navigate = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Accept", "text/html")];
    let old_browser = [("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")];
    for (what, method, headers, expected) in [
        ("a navigation", "GET", &navigate[..], 302),
        ("a navigation of a browser without Sec-Fetch", "GET", &old_browser, 302),
        ("a form", "POST", &navigate, 401),
        ("fetch()", "GET", &[("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty"), ("Accept", "*/*")], 401),
        ("fetch() that asks for HTML", "GET", &[("Sec-Fetch-Mode", "cors"), ("Accept", "text/html")], 401),
        ("XMLHttpRequest", "GET", &[("X-Requested-With", "XMLHttpRequest"), ("Accept", "text/html")], 401),
        (
            "a frame",
            "GET",
            &[("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe"), ("Accept", "text/html")],
            401,
        ),
        ("an image", "GET", &[("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")], 401),
        ("a script", "GET", &[("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "script"), ("Accept", "*/*")], 401),
        ("an event stream", "GET", &[("Accept", "text/event-stream")], 401),
        ("a program that says nothing", "GET", &[], 401),
        ("curl", "GET", &[("Accept", "*/*")], 401),
        ("curl -I", "HEAD", &[("Accept", "*/*")], 401),
        ("a program that wants JSON", "GET", &[("Accept", "application/json")], 401),
        ("DELETE", "DELETE", &[], 401),
    ] {
        let mut request = gateway.client().request(method, "/app/a?b=c");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        for answer in [request.send(), request.send_http2()] {
            assert_eq!(answer.status, expected, "{what}: {answer:?}");
            let location = answer.header("location");
            assert_eq!(location, (expected == 302).then_some("/_auth/login?return_to=/app/a%3Fb%3Dc"), "{what}");
            assert_eq!(!answer.all("www-authenticate").is_empty(), expected == 401, "{what}");
        }
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// R30.
#[test]
fn a_program_learns_where_to_log_in_from_json() {
    let upstream = Upstream::start();
    let answer = gateway(&upstream).client().get("/app/a").send().expect(401);

    let told = answer.json();
    assert_eq!((&told["error"], &told["login_url"]), (&json!("no_credential"), &json!("/_auth/login")));
    assert_eq!(told["request_id"], answer.header("x-request-id").expect("an id"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

/// R30: known but not allowed is 403, and never a way to log in again and again.
#[test]
fn somebody_who_may_not_gets_a_page_that_says_who_they_are() {
    let upstream = Upstream::start();
    let gateway = Gateway::new()
        .user("alice", PASSWORD, &["user"])
        .route("/admin/{*rest}", &upstream)
        .require_role("admin")
        .start();
    let mut alice = gateway.person();
    alice.log_in("alice", PASSWORD).expect(303);

    let page = alice.visit("/admin/x?y=z").expect(403);

    let text = page.text();
    assert!(text.contains("You are signed in as <strong>alice</strong>"), "{text}");
    assert!(text.contains("href=\"/_auth/login?prompt=login&amp;return_to=/admin/x%3Fy%3Dz\""), "{text}");
    assert!(text.contains(page.header("x-request-id").expect("an id")), "people can quote it");
    assert_eq!(page.header("location"), None);
    let form = alice.visit("/_auth/login?prompt=login&return_to=/admin/x%3Fy%3Dz").expect(200);
    assert!(form.text().contains("type=\"password\""), "switching asks for the other account at once");
    assert_eq!(upstream.connection_count(), 0);
}

/// R30.
#[test]
fn a_program_that_may_not_gets_403_as_json() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).require_role("admin").start();
    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));

    let answer = gateway.client().get("/x").bearer(&token).send().expect(403);

    assert_eq!(answer.json()["error"], "not_allowed");
    assert_eq!(answer.json().get("login_url"), None);
    assert_eq!(answer.header("www-authenticate"), None, "no other token of this caller would help");
}

/// R30: gRPC clients read `grpc-status`, not the status of HTTP.
#[test]
fn a_grpc_client_is_told_in_its_own_terms() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/svc/{*rest}", &upstream).require_role("admin").start();
    let user = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
    let call = |path: &str| gateway.client().post(path, "").header("Content-Type", "application/grpc+proto");
    for (what, request, expected) in [
        ("nobody", call("/svc/x"), "16"),
        ("a bad token", call("/svc/x").bearer("a.b.c"), "16"),
        ("without the role", call("/svc/x").bearer(&user), "7"),
        ("no such route", call("/nowhere"), "12"),
    ] {
        let answer = request.send_http2();

        assert_eq!(answer.status, 200, "{what}");
        assert_eq!(answer.header("grpc-status"), Some(expected), "{what}");
        assert_eq!(answer.header("content-type"), Some("application/grpc"), "{what}");
        assert!(answer.body.is_empty(), "{what}");
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// R30: where a route takes no session, there is nothing to log in to.
#[test]
fn a_route_for_tokens_only_never_redirects() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new()
        .user("alice", PASSWORD, &[])
        .issuer(&issuer)
        .route("/api/{*rest}", &upstream)
        .auth(&["jwt"])
        .start();

    let answer = gateway.client().get("/api/x").navigation().send().expect(401);

    assert_eq!(answer.header("location"), None);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"portcullis\""));
    assert!(!answer.text().contains("/_auth/login"), "{answer:?}");
}

/// R30: the way back after the login is where the person was, whatever it holds.
#[test]
fn the_way_back_survives_odd_paths_and_queries() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for target in
        ["/app/a%20b", "/app/%C3%A9?q=1&q=2", "/app/x?next=https://example.com/", "/app/x?a=b+c%26d", "/app/x?"]
    {
        let mut alice = gateway.person();
        let sent_away = alice.visit(target).expect(302);
        let page = alice.follow(&sent_away).expect(200);

        let back = alice.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(303);

        assert_eq!(back.header("location"), Some(target));
        alice.follow(&back).expect(200);
    }
}

/// RFC 9110 section 9.3.2: HEAD has the length of GET's answer, and nothing of it; also over HTTP/2.
#[test]
fn the_answer_to_head_is_the_head_of_the_answer_to_get() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for target in ["/_auth/login", "/app/x", "/nowhere"] {
        let length = gateway.client().get(target).send().header("content-length").map(str::to_owned);
        for answer in
            [gateway.client().request("HEAD", target).send(), gateway.client().request("HEAD", target).send_http2()]
        {
            assert_eq!(answer.header("content-length"), length.as_deref(), "{target}: {answer:?}");
            assert!(answer.body.is_empty(), "{target}");
        }
    }
}
