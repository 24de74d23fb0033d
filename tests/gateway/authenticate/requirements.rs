//! R6: what requirements compare: exact bytes, nothing absent, nothing of another type.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Gateway, Issuer, Upstream};

/// R6.
#[test]
fn requirements_compare_exact_bytes_and_nothing_absent() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    for (requirement, claims, holds) in [
        ("role:admin", json!({ "roles": ["user", "admin"] }), true),
        ("role:admin", json!({ "roles": "admin" }), true),
        ("role:admin", json!({ "roles": ["Admin"] }), false),
        ("role:admin", json!({ "roles": ["admin "] }), false),
        ("role:admin", json!({ "roles": [" admin"] }), false),
        ("role:admin", json!({ "roles": ["admin,user"] }), false),
        ("role:admin", json!({ "roles": "user,admin" }), false),
        ("role:admin", json!({ "roles": "user admin" }), false),
        ("role:admin", json!({ "roles": ["\u{430}dmin"] }), false),
        ("role:admin", json!({ "roles": ["admin\u{200b}"] }), false),
        ("role:admin", json!({ "roles": [] }), false),
        ("role:admin", json!({ "roles": null }), false),
        ("role:admin", json!({ "groups": ["admin"] }), false),
        ("group:admin", json!({ "groups": ["admin"] }), true),
        ("group:admin", json!({ "roles": ["admin"] }), false),
        ("scope:orders.read", json!({ "scope": "orders.write orders.read" }), true),
        ("scope:orders.read", json!({ "scp": ["orders.read"] }), true),
        ("scope:orders.read", json!({ "scope": "orders.reader" }), false),
        ("scope:orders.read", json!({ "scope": "orders.read,x" }), false),
        ("scope:orders.read", json!({ "scope": ["orders.read x"] }), false),
        ("user:alice", json!({}), true),
        ("user:alice", json!({ "sub": "Alice" }), false),
        ("user:alice", json!({ "name": "alice", "sub": "bob" }), false),
        ("claim:tier=gold", json!({ "tier": "gold" }), true),
        ("claim:tier=gold", json!({}), false),
        ("claim:tier=gold", json!({ "tier": ["gold"] }), false),
        ("claim:tier=gold", json!({ "tier": "GOLD" }), false),
        ("claim:tier=gold", json!({ "tier": { "gold": true } }), false),
        ("claim:tier=1", json!({ "tier": 1 }), false),
        ("claim:tier=true", json!({ "tier": true }), false),
        ("claim:tier=null", json!({ "tier": null }), false),
        ("claim:a.b=x", json!({ "a": { "b": "x" } }), true),
        ("claim:a.b=x", json!({ "a.b": "x" }), false),
    ] {
        let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).require(requirement).start();
        let token = issuer.sign(&with(Issuer::claims("alice", &[], gateway.now()), &claims));

        let answer = gateway.client().get("/x").bearer(&token).send();
        assert_eq!(answer.status, if holds { 200 } else { 403 }, "{requirement} with {claims}");
    }
}

/// R6. An email counts when somebody vouches for it.
#[test]
fn an_email_counts_only_when_it_is_verified() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    for (lines, claims, status) in [
        ("", json!({ "email": "a@example.com", "email_verified": true }), 200),
        ("", json!({ "email": "a@example.com" }), 403),
        ("", json!({ "email": "a@example.com", "email_verified": false }), 403),
        ("", json!({ "email": "a@example.com", "email_verified": "true" }), 403),
        ("", json!({ "email": "A@example.com", "email_verified": true }), 403),
        ("trust_email = true", json!({ "email": "a@example.com" }), 200),
    ] {
        let gateway = Gateway::new().issuer_with(&issuer, lines).route("/{*rest}", &upstream);
        let gateway = gateway.require("email:a@example.com").start();
        let token = issuer.sign(&with(Issuer::claims("alice", &[], gateway.now()), &claims));

        assert_eq!(gateway.client().get("/x").bearer(&token).send().status, status, "{lines} {claims}");
    }
}

/// R6. `path:id` is the segment, decoded once; whatever else the backend might make of it is somebody else.
#[test]
fn a_path_parameter_is_compared_decoded_once() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway =
        Gateway::new().issuer(&issuer).route("/users/{id}/{*rest}", &upstream).require("path:id == sub").start();
    let client = gateway.client();
    let token = |subject: &str| issuer.sign(&Issuer::claims(subject, &[], gateway.now()));

    for (subject, path, status) in [
        ("alice", "/users/alice", 200),
        ("alice", "/users/alice/", 200),
        ("alice", "/users/alice/orders/7", 200),
        ("alice", "/users/%61lice", 200),
        ("alice", "/users/Alice", 403),
        ("alice", "/users/bob", 403),
        ("alice", "/users/bob/alice", 403),
        ("alice", "/users/bob?id=alice", 403),
        ("alice", "/users/alice%20", 403),
        ("alice", "/users/%2561lice", 403),
        ("alice", "/users/", 404),
        ("alice", "/users/bob/../alice", 400),
        ("alice", "/users/alice/../bob", 400),
        ("alice", "/users/alice;/x", 400),
        ("alice", "/users/alice%00", 400),
        ("alice", "/users/alice%2F..%2Fbob", 400),
        ("é", "/users/%C3%A9", 200),
        ("é", "/users/%c3%a9", 200),
        ("é", "/users/é", 200),
        ("é", "/users/e%CC%81", 403),
        ("a b", "/users/a%20b", 200),
        ("a b", "/users/a+b", 403),
        ("a%20b", "/users/a%2520b", 200),
        ("a%20b", "/users/a%20b", 403),
        ("*", "/users/*", 200),
    ] {
        let answer = client.get(path).bearer(&token(subject)).send();
        assert_eq!(answer.status, status, "{subject} at {path}: {answer:?}");
    }
}

/// R6. Only `auth_time` tells of a login, and it gets older while a token is remembered.
#[test]
fn max_auth_age_reads_auth_time_only() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream);
    let gateway = gateway.key("require = { max_auth_age = \"2m\" }").start();
    let now = gateway.now().unix_seconds();
    let ask = |changes: &Value| {
        let token = issuer.sign(&with(Issuer::claims("alice", &[], gateway.now()), changes));
        gateway.client().get("/x").bearer(&token).send().status
    };

    assert_eq!(ask(&json!({ "auth_time": now - 60 })), 200);
    assert_eq!(ask(&json!({ "auth_time": now - 119 })), 200);
    assert_eq!(ask(&json!({ "auth_time": now - 122 })), 401);
    assert_eq!(ask(&json!({})), 401);
    assert_eq!(ask(&json!({ "auth_time": null })), 401);
    assert_eq!(ask(&json!({ "auth_time": now.to_string() })), 401);
    assert_eq!(ask(&json!({ "auth_time": now + 3600 })), 401);

    let token = issuer.sign(&with(Issuer::claims("alice", &[], gateway.now()), &json!({ "auth_time": now })));
    gateway.client().get("/x").bearer(&token).send().expect(200);
    gateway.advance(Duration::from_secs(122));
    gateway.client().get("/x").bearer(&token).send().expect(401);
}

/// R6. `any`, `all` and `none` must all be met.
#[test]
fn every_part_of_require_must_hold() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).key(
        "require = { any = [\"role:a\", \"role:b\"], all = [\"group:c\", \"group:d\"], none = [\"role:banned\"] }",
    );
    let gateway = gateway.start();
    for (roles, groups, status) in [
        (&["a"][..], &["c", "d"][..], 200),
        (&["b", "x"], &["d", "c", "x"], 200),
        (&["a"], &["c"], 403),
        (&["x"], &["c", "d"], 403),
        (&["a", "banned"], &["c", "d"], 403),
        (&["banned"], &[], 403),
        (&[], &[], 403),
    ] {
        let claims = with(Issuer::claims("alice", roles, gateway.now()), &json!({ "groups": groups }));
        let answer = gateway.client().get("/x").bearer(&issuer.sign(&claims)).send();
        assert_eq!(answer.status, status, "{roles:?} {groups:?}");
    }
}

fn with(mut claims: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}
