//! `request_headers` and `response_headers`: a route sets and removes, and what protects stays (R12, R16, R33).

use crate::support::{Gateway, Issuer, Reply, Upstream};

#[test]
fn a_route_sets_and_removes_headers_of_its_requests() {
    let upstream = Upstream::start();
    let issuer = Issuer::hs256();
    let gateway = Gateway::new().issuer(&issuer).server("odd_header_names = \"keep\"").route("/{*rest}", &upstream);
    let gateway = gateway.key(
        "request_headers = { set = { X-Env = \"prod {id}\", Accept-Encoding = \"identity\" }, remove = [\"X-Debug\"] }",
    );
    let gateway = gateway.start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));

    let request = gateway.client().get("/x").bearer(&token).header("X-Env", "evil").header("X_Env", "evil");
    let request = request.header("x-debug", "1").header("X-Other", "kept").header("Connection", "X-Env, X-Debug");
    request.send().expect(200);

    let seen = upstream.next_request();
    assert_eq!(seen.all("x-env"), ["prod {id}"]);
    assert_eq!(seen.all("accept-encoding"), ["identity"]);
    for absent in ["x_env", "x-debug"] {
        assert_eq!(seen.header(absent), None, "{absent}");
    }
    assert_eq!((seen.header("x-other"), seen.header("x-user-id")), (Some("kept"), Some("alice")));
}

#[test]
fn a_route_sets_and_removes_headers_of_its_answers() {
    let upstream = Upstream::start();
    upstream.respond(|_| {
        let headers = [("Server", "legacy/1.0"), ("X-Frame-Options", "ALLOWALL"), ("Connection", "X-Frame-Options")];
        Reply::with(200, &[&headers[..], &[("X-Kept", "1"), ("Set-Cookie", "a=b")]].concat(), "body")
    });
    let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]);
    let gateway = gateway
        .key("response_headers = { set = { X-Frame-Options = \"DENY\" }, remove = [\"Server\", \"Set-Cookie\"] }");
    let gateway = gateway.start();

    let answer = gateway.client().get("/x").send().expect(200);

    assert_eq!(answer.all("x-frame-options"), ["DENY"]);
    assert_eq!((answer.header("server"), answer.header("set-cookie")), (None, None));
    assert_eq!(answer.header("x-kept"), Some("1"));
}

/// R16. What a route sets is judged as if the upstream had said it.
#[test]
fn an_answer_to_a_known_caller_stays_private_whatever_a_route_sets() {
    let upstream = Upstream::start();
    let issuer = Issuer::hs256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream);
    let gateway = gateway.key(
        "response_headers = { set = { Cache-Control = \"public, max-age=60\", CDN-Cache-Control = \"max-age=60\" } }",
    );
    let gateway = gateway.start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));

    let answer = gateway.client().get("/x").bearer(&token).send().expect(200);

    assert_eq!(answer.all("cache-control"), ["private, max-age=60"]);
    assert_eq!(answer.header("cdn-cache-control"), None);
}

/// R33. Our own answers are ours.
#[test]
fn a_refusal_is_not_edited() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().issuer(&Issuer::hs256()).route("/{*rest}", &upstream);
    let gateway = gateway
        .key("response_headers = { set = { X-Edited = \"1\" }, remove = [\"WWW-Authenticate\", \"Content-Security-Policy\"] }");
    let gateway = gateway.start();

    let answer = gateway.client().get("/x").send().expect(401);

    assert_eq!(answer.header("x-edited"), None);
    assert!(answer.header("www-authenticate").is_some());
}
