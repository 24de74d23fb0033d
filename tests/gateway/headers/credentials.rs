//! R14: our credentials stop here: cookies are cut out byte by byte, tokens go on only where a route says so.

use serde_json::json;

use crate::support::{Gateway, Issuer, Upstream, gateway::SESSION_COOKIE};

/// R14. Everything else of `Cookie` stays, byte for byte.
#[test]
fn our_cookie_is_cut_out_and_every_other_byte_stays() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/{*rest}", &upstream).start();
    let answer = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": "alice" })).send().expect(201);
    let ours = format!("{SESSION_COOKIE}={}", answer.json()["token"].as_str().unwrap());

    for (cookie, expect) in [
        ("OURS", None),
        ("a=b; OURS", Some("a=b")),
        ("OURS; a=b", Some("a=b")),
        ("a=b; OURS; c=d", Some("a=b; c=d")),
        ("a=b;OURS;c=d", Some("a=b;c=d")),
        ("a=b;   OURS;  c=d", Some("a=b;  c=d")),
        ("a=\"x y\"; OURS; b=%7B\"k\":1}; c", Some("a=\"x y\"; b=%7B\"k\":1}; c")),
        ("a=b; a=c; OURS; a=b", Some("a=b; a=c; a=b")),
        ("=x; OURS; y=", Some("=x; y=")),
        ("x__Host-portcullis=1; OURS", Some("x__Host-portcullis=1")),
        ("__Host-portcullis2=1; OURS", Some("__Host-portcullis2=1")),
        ("__host-portcullis=1; OURS", Some("__host-portcullis=1")),
    ] {
        let sent = cookie.replace("OURS", &ours);
        for http2 in [false, true] {
            let request = gateway.client().get("/x").cookie(&sent);
            let answer = if http2 { request.send_http2() } else { request.send() };
            assert_eq!(answer.status, 200, "{cookie}");
            let seen = upstream.next_request();
            assert_eq!(seen.header("cookie"), expect, "{cookie}, HTTP/2 {http2}");
            assert_eq!(seen.header("x-user-id"), Some("alice"), "{cookie}");
        }
    }
}

/// R14, RFC 9113 section 8.2.3. Split over several fields it is still one.
#[test]
fn split_cookies_are_joined_without_ours() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/{*rest}", &upstream).start();
    let client = gateway.open_session(&json!({ "subject": "alice" }));

    client.get("/x").cookie("a=b").cookie("c=d; e=f").send_http2().expect(200);
    assert_eq!(upstream.next_request().header("cookie"), Some("a=b; c=d; e=f"));
    client.get("/x").send_http2().expect(200);
    assert_eq!(upstream.next_request().header("cookie"), None);
}

/// R14. Also where nobody looked at it: an open route is no way to learn sessions.
#[test]
fn our_cookie_reaches_no_upstream_on_any_route() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).admin();
    let gateway = gateway.route("/open", &upstream).auth(&["none"]);
    let gateway = gateway.route("/optional", &upstream).key("optional = true");
    let gateway = gateway.route("/jwt", &upstream).auth(&["jwt"]).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let with = |path: &str| gateway.client().get(path).cookie(&format!("a=b; {SESSION_COOKIE}=secret-of-ours"));

    for request in [with("/open"), with("/optional"), with("/optional").bearer(&token), with("/jwt").bearer(&token)] {
        for answer in [request.send(), request.send_http2()] {
            answer.expect(200);
            let seen = upstream.next_request();
            assert!(!String::from_utf8_lossy(&seen.raw).contains("secret-of-ours"), "{seen:?}");
            assert_eq!(seen.header("cookie"), Some("a=b"));
        }
    }
}

/// R14. The whole table of `Authorization`.
#[test]
fn authorization_goes_upstream_only_where_the_route_says_so() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).admin();
    let gateway = gateway.route("/open", &upstream).auth(&["none"]);
    let gateway = gateway.route("/open-passing", &upstream).auth(&["none"]).key("pass_authorization = true");
    let gateway = gateway.route("/jwt", &upstream).auth(&["jwt"]);
    let gateway = gateway.route("/jwt-forwarding", &upstream).auth(&["jwt"]).key("forward_credential = true");
    let gateway = gateway.route("/both-forwarding", &upstream).key("forward_credential = true").key("optional = true");
    let gateway = gateway.route("/session", &upstream).auth(&["session"]).start();
    let bearer = format!("Bearer {}", issuer.sign(&Issuer::claims("alice", &[], gateway.now())));
    let session = gateway.open_session(&json!({ "subject": "alice" }));
    let client = gateway.client();
    let basic = "Basic dXNlcjpwYXNz";

    for (name, request, arrives) in [
        ("an open route", client.get("/open").header("Authorization", basic), None),
        ("an open route that passes it", client.get("/open-passing").header("Authorization", basic), Some(basic)),
        ("a verified token", client.get("/jwt").header("Authorization", &bearer), None),
        (
            "a verified token that is forwarded",
            client.get("/jwt-forwarding").header("Authorization", &bearer),
            Some(&*bearer),
        ),
        ("another scheme beside a session", session.get("/session").header("Authorization", basic), None),
        ("another scheme on a forwarding route", session.get("/both-forwarding").header("Authorization", basic), None),
        ("another scheme of nobody", client.get("/both-forwarding").header("Authorization", basic), None),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert_eq!(upstream.next_request().header("authorization"), arrives, "{name}");
    }
}

/// R14. One that is not verified is not forwarded; it does not get that far.
#[test]
fn forward_credential_forwards_nothing_unverified() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).key("forward_credential = true").start();

    for authorization in ["Bearer x.y.z", "Basic dXNlcjpwYXNz", "Bearer", "Negotiate x"] {
        gateway.client().get("/x").header("Authorization", authorization).send().expect(401);
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// R14. Keys that would say nothing are no configuration.
#[test]
fn the_two_keys_stand_only_where_they_mean_something() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let start = |auth: &str, key: &str| {
        Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).auth(&[auth]).key(key).try_start().map(drop)
    };

    assert!(start("none", "forward_credential = true").is_err());
    assert!(start("jwt", "pass_authorization = true").is_err());
    start("jwt", "forward_credential = true").expect("it starts");
    start("none", "pass_authorization = true").expect("it starts");
}

/// R14, RFC 9110 section 11.7. What is meant for a proxy stops at this one.
#[test]
fn proxy_authorization_stops_here() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]).key("pass_authorization = true").start();

    gateway.client().get("/x").header("Proxy-Authorization", "Basic dXNlcjpwYXNz").send().expect(200);

    assert_eq!(upstream.next_request().header("proxy-authorization"), None);
}
