//! R3 and R4: an optional route lets nobody through as somebody, and nobody in particular through as nobody.

use std::time::Duration;

use crate::support::{Gateway, Issuer, Upstream, gateway::SESSION_COOKIE};

/// R4.
#[test]
fn an_optional_route_lets_a_request_without_a_credential_through_without_identity() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).key("optional = true").start();
    let good = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));

    gateway.client().get("/x").header("X-User-Id", "root").header("X-User-Roles", "admin").send().expect(200);
    let anonymous = upstream.next_request();
    assert!(anonymous.names().iter().all(|name| !name.starts_with("x-user")), "{anonymous:?}");

    gateway.client().get("/x").bearer(&good).send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
}

/// R4. A tab that was left open may still read; it may not write as nobody.
#[test]
fn a_dead_session_cookie_counts_as_absent_for_safe_methods_only() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/{*rest}", &upstream).key("optional = true").start();
    let ended = gateway.open_session(&serde_json::json!({ "subject": "alice" }));
    ended.get("/x").send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
    gateway.advance(Duration::from_secs(31 * 60));
    let made_up = gateway.client().always("Cookie", &format!("{SESSION_COOKIE}=garbage"));
    let unknown = gateway.client().always("Cookie", &format!("{SESSION_COOKIE}={}", "A".repeat(43)));

    for (name, client) in [("ended", ended), ("made up", made_up), ("unknown", unknown)] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            client.request(method, "/x").header("Sec-Fetch-Site", "same-origin").send().expect(200);
            let seen = upstream.next_request();
            assert_eq!((seen.header("x-user-id"), seen.header("cookie")), (None, None), "{name} {method}");
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "get"] {
            client.request(method, "/x").header("Sec-Fetch-Site", "same-origin").body("").send().expect(401);
        }
    }
    assert_eq!(upstream.request_count(), 10);
}

/// R4. A request that carries a token means to be somebody.
#[test]
fn a_void_token_is_refused_on_an_optional_route_too() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).key("optional = true").start();
    let old = gateway.now().minus(Duration::from_secs(900));

    for (name, token) in [
        ("expired", issuer.sign(&Issuer::claims("alice", &[], old))),
        ("forged", issuer.sign_with(&Issuer::es256(), &Issuer::claims("alice", &[], gateway.now()))),
        ("no token at all", "x".to_owned()),
    ] {
        for method in ["GET", "HEAD", "POST"] {
            let answer = gateway.client().request(method, "/x").bearer(&token).send();
            assert_eq!(answer.status, 401, "{name} {method}");
        }
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// R4. An anonymous caller meets no requirement, not even one about its address.
#[test]
fn for_an_anonymous_caller_every_requirement_is_false() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    for (requirement, with_token) in [
        ("role:admin", 403),
        ("ip:0.0.0.0/0", 200),
        ("ip:127.0.0.0/8", 200),
        ("ip:10.0.0.0/8", 403),
        ("user:alice", 200),
    ] {
        let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream);
        let gateway = gateway.key("optional = true").require(requirement).start();
        let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));

        assert_eq!(gateway.client().get("/x").send().status, 401, "{requirement}");
        assert_eq!(gateway.client().get("/x").bearer(&token).send().status, with_token, "{requirement}");
    }
}

/// R4. `none` would be met by whoever is nobody.
#[test]
fn none_together_with_optional_is_no_configuration() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let start = |keys: &str| {
        let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream);
        gateway.key(keys).try_start()
    };

    let report = start("optional = true\nrequire = { none = [\"role:banned\"] }").err().expect("a report");
    assert!(report.contains("optional"), "{report}");
    let gateway = start("require = { none = [\"role:banned\"] }").expect("it starts");
    let token = |role: &str| issuer.sign(&Issuer::claims("alice", &[role], gateway.now()));
    gateway.client().get("/x").send().expect(401);
    gateway.client().get("/x").bearer(&token("banned")).send().expect(403);
    gateway.client().get("/x").bearer(&token("user")).send().expect(200);
}
