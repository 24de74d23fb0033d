//! What upstreams are told of a caller under our signature (R22): what it says, whom it is for, and who cannot use it.
//!
//! The verifier here is a library of its own and knows nothing but the published key set.

mod backends;
mod rotation;

use std::{collections::BTreeMap, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use portcullis::clock::Timestamp;
use serde_json::{Value, json};

use crate::support::{
    Client, Gateway, Issuer, Provider, Seen, Upstream, eventually, gateway::Running, websocket::handshake,
};

const HEADER: &str = "x-user-assertion";
const TYP: &str = "portcullis-assertion+jwt";
const KEY_SET: &str = "/_auth/assertion-jwks.json";

/// A key set as it was published.
struct Keys(BTreeMap<String, (String, String)>);

impl Keys {
    fn fetch(client: &Client) -> Self {
        Self::of(&client.get(KEY_SET).send().expect(200).json())
    }

    fn of(set: &Value) -> Self {
        let text = |key: &Value, member: &str| key[member].as_str().unwrap_or_default().to_owned();
        let keys = set["keys"].as_array().expect("keys").iter();
        Self(keys.map(|key| (text(key, "kid"), (text(key, "x"), text(key, "y")))).collect())
    }

    fn kids(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The claims, if a careful backend with this audience believes them at this time.
    fn verify(&self, assertion: &str, audience: &str, now: Timestamp) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(assertion).map_err(|error| error.to_string())?;
        if header.typ.as_deref() != Some(TYP) {
            return Err(format!("typ {:?}", header.typ));
        }
        let kid = header.kid.ok_or("no kid")?;
        let (x, y) = self.0.get(&kid).ok_or_else(|| format!("unknown kid {kid}"))?;
        let key = DecodingKey::from_ec_components(x, y).map_err(|error| error.to_string())?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&["portcullis"]);
        // By the clock of the tests.
        validation.validate_exp = false;
        let data = jsonwebtoken::decode::<Value>(assertion, &key, &validation).map_err(|error| error.to_string())?;
        let (iat, exp) = (data.claims["iat"].as_u64().ok_or("no iat")?, data.claims["exp"].as_u64().ok_or("no exp")?);
        if !(iat..exp).contains(&now.unix_seconds()) {
            return Err(format!("from {iat} to {exp}, and it is {}", now.unix_seconds()));
        }
        Ok(data.claims)
    }
}

fn asserting(lines: &str) -> Gateway {
    Gateway::with(&format!("[identity]\nassertion = {{ {lines} }}"))
}

fn token(issuer: &Issuer, gateway: &Running) -> String {
    issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()))
}

#[track_caller]
fn assertion_of(seen: &Seen) -> String {
    let all = seen.all(HEADER);
    assert_eq!(all.len(), 1, "{seen:?}");
    all[0].to_owned()
}

/// R22.
#[test]
fn an_upstream_is_told_who_is_calling_under_our_signature() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = asserting("claims = { department = \"org.department\" }").issuer(&issuer).admin();
    let gateway = gateway.route("/{*rest}", &upstream).start();
    let mut claims = Issuer::claims("alice", &["user", "a,b"], gateway.now());
    claims["name"] = json!("Alice Ä");
    claims["email"] = json!("a@example.com");
    claims["scope"] = json!("read write");
    claims["org"] = json!({ "department": "sales" });
    let session = gateway.open_session(&json!({ "subject": "bob", "groups": ["ops"], "auth_time": 1_700_000_000 }));
    let keys = Keys::fetch(&gateway.client());
    let sent = [
        (gateway.client().get("/x").bearer(&issuer.sign(&claims)), false),
        (session.get("/x"), false),
        (session.get("/x"), true),
    ];

    let told = sent.map(|(request, http2)| {
        if http2 {
            request.send_http2().expect(200)
        } else {
            request.send().expect(200)
        };
        keys.verify(&assertion_of(&upstream.next_request()), "u0", gateway.now()).expect("an assertion")
    });

    let now = gateway.now().unix_seconds();
    let jti = |told: &Value| told["jti"].as_str().expect("a jti").to_owned();
    assert_eq!(
        told[0],
        json!({
            "iss": "portcullis", "aud": "u0", "sub": "alice", "realm": "staff", "name": "Alice Ä",
            "email": "a@example.com", "email_verified": false, "roles": ["user", "a,b"], "groups": [],
            "scope": "read write", "via": "jwt", "department": "sales",
            "iat": now, "exp": now + 60, "jti": jti(&told[0]),
        })
    );
    assert_eq!(
        told[1],
        json!({
            "iss": "portcullis", "aud": "u0", "sub": "bob", "realm": "staff", "roles": [], "groups": ["ops"],
            "auth_time": 1_700_000_000, "via": "session", "iat": now, "exp": now + 60, "jti": jti(&told[1]),
        })
    );
    assert_eq!(told[2]["sub"], "bob");
    assert_ne!(jti(&told[0]), jti(&told[1]));
}

/// R12: an absent value is an absent header.
#[test]
fn where_nobody_is_known_nothing_is_asserted() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = asserting("").issuer(&issuer).route("/open/{*rest}", &upstream).auth(&["none"]);
    let gateway = gateway.route("/optional/{*rest}", &upstream).key("optional = true").start();

    for target in ["/open/x", "/optional/x"] {
        gateway.client().get(target).send().expect(200);
        assert_eq!(upstream.next_request().header(HEADER), None, "{target}");
    }
    gateway.client().get("/optional/x").bearer(&token(&issuer, &gateway)).send().expect(200);
    assertion_of(&upstream.next_request());
}

/// R12: under its own name and all that a backend could read as that, on every route, in headers and trailers.
#[test]
fn no_spelling_of_the_assertions_header_survives_on_any_route() {
    const FORGED: &str = "eyJmb3JnZWQiOnRydWV9";
    for odd in ["drop", "keep"] {
        let (upstream, issuer) = (Upstream::start(), Issuer::es256());
        let gateway =
            asserting("header = \"Cf-Signed-User\"").server(&format!("odd_header_names = {odd:?}")).issuer(&issuer);
        let gateway = gateway.route("/open/{*rest}", &upstream).auth(&["none"]).key("pass_authorization = true");
        let gateway = gateway.route("/optional/{*rest}", &upstream).key("optional = true");
        let gateway = gateway.route("/jwt/{*rest}", &upstream).key("forward_credential = true").start();
        let bearer = token(&issuer, &gateway);
        for name in ["cf-signed-user", "CF-SIGNED-USER", "cf_signed_user", "Cf.Signed.User", "cf-signed_user"] {
            for http2 in [false, true] {
                for (target, known) in [("/open/x", false), ("/optional/x", false), ("/jwt/x", true)] {
                    let request = gateway.client().get(target).header(name, FORGED).header(name, FORGED);
                    let request = if known { request.bearer(&bearer) } else { request };
                    let answer = if http2 { request.send_http2() } else { request.send() };
                    answer.expect(200);
                    let seen = upstream.next_request();
                    assert!(!String::from_utf8_lossy(&seen.raw).contains(FORGED), "{odd} {name} {target}: {seen:?}");
                    assert_eq!(seen.all("cf-signed-user").len(), usize::from(known), "{odd} {name} {target}");
                }
            }
        }
        let head = format!(
            "POST /jwt/x HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {bearer}\r\nTrailer: Cf-Signed-User\r\n\
             Connection: Cf-Signed-User\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nCf-Signed-User: {FORGED}\r\n\r\n",
        );
        gateway.client().raw_response(head).expect(200);
        let seen = upstream.next_request();
        assert_eq!((seen.all("cf-signed-user").len(), seen.text().as_str()), (1, "hi"), "{seen:?}");
        assert!(seen.trailers.is_empty() && !String::from_utf8_lossy(&seen.raw).contains(FORGED), "{seen:?}");
    }
}

/// R22: an upstream that passes an assertion on gets nowhere with it.
#[test]
fn an_assertion_is_for_one_upstream_only() {
    let (orders, billing, issuer) = (Upstream::start(), Upstream::start(), Issuer::es256());
    let gateway = asserting("").issuer(&issuer).route("/orders/{*rest}", &orders);
    let gateway = gateway.route("/billing/{*rest}", &billing);
    let gateway = gateway.upstream_key("assertion_audience = \"https://billing.example.com\"").start();
    let (client, bearer) = (gateway.client(), token(&issuer, &gateway));
    let keys = Keys::fetch(&client);
    client.get("/orders/x").bearer(&bearer).send().expect(200);
    client.get("/billing/x").bearer(&bearer).send().expect(200);
    let (to_orders, to_billing) = (assertion_of(&orders.next_request()), assertion_of(&billing.next_request()));

    let verify = |assertion: &str, audience| keys.verify(assertion, audience, gateway.now()).is_ok();

    assert!(verify(&to_orders, "u0") && verify(&to_billing, "https://billing.example.com"));
    assert!(!verify(&to_orders, "https://billing.example.com") && !verify(&to_billing, "u0"));
    assert!(!verify(&to_billing, "u1"));
}

/// R22: not even where somebody has configured an issuer that is us, with the keys that we publish.
#[test]
fn an_assertion_is_never_accepted_as_a_bearer() {
    let (upstream, issuer, signer) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let provider = Provider::of(&[&signer]);
    let gateway = asserting("").issuer(&issuer).table(&format!(
        "[[jwt.issuer]]\nname = \"us\"\nissuer = \"portcullis\"\njwks = {{ url = {:?} }}\naudience = [\"u0\"]\n\
         algorithms = [\"ES256\"]\ngrants = \"all\"",
        provider.url("/keys")
    ));
    let gateway = gateway.route("/{*rest}", &upstream).auth(&["jwt:test"]);
    let gateway = gateway.route("/us/{*rest}", &upstream).auth(&["jwt:us"]).start();
    let mut set = gateway.client().get(KEY_SET).send().expect(200).json();
    set["keys"].as_array_mut().expect("keys").push(signer.jwk());
    provider.answer(200, "Content-Type: application/json\r\n", &set.to_string());
    gateway.client().get("/x").bearer(&token(&issuer, &gateway)).send().expect(200);
    let assertion = assertion_of(&upstream.next_request());
    let claims = Keys::of(&set).verify(&assertion, "u0", gateway.now()).expect("an assertion");
    let header = |typ: &str| json!({ "alg": "ES256", "typ": typ, "kid": signer.kid() });
    let status = |token: &str| gateway.client().get("/us/x").bearer(token).send().status;

    // The twins: what it says would be accepted, and so would keys of this set.
    eventually("the keys are there", || status(&signer.sign_with_header(&header("at+jwt"), &claims)) == 200);
    assert_eq!(status(&signer.sign_with_header(&header("JWT"), &claims)), 200);
    assert_eq!(status(&signer.sign_with_header(&header(TYP), &claims)), 401);
    assert_eq!(status(&assertion), 401);

    eventually("the log says why", || {
        gateway.log_lines().iter().filter(|line| line.contains("token_type")).count() == 2
    });
}

#[test]
fn an_assertion_is_made_once_for_several_requests_and_has_half_of_its_life_left() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway =
        asserting("ttl = \"100s\"").server("workers = 1").issuer(&issuer).route("/{*rest}", &upstream).start();
    let bearer = token(&issuer, &gateway);
    let mut sent = Vec::new();
    for _ in 0..30 {
        gateway.client().get("/x").bearer(&bearer).send().expect(200);
        sent.push(assertion_of(&upstream.next_request()));
        let claims = Keys::fetch(&gateway.client()).verify(sent.last().expect("one"), "u0", gateway.now());
        let left = claims.expect("it counts")["exp"].as_u64().expect("a number") - gateway.now().unix_seconds();
        assert!((50..=100).contains(&left), "{left}");
        gateway.advance(Duration::from_secs(10));
    }

    sent.dedup();
    assert_eq!(sent.len(), 6);
}

/// R28: whoever is logged out is known upstream for no longer than an assertion counts.
#[test]
fn the_end_of_a_session_is_outlived_by_the_ttl_at_most() {
    let upstream = Upstream::start();
    let gateway = asserting("ttl = \"60s\"").admin().route("/{*rest}", &upstream).start();
    let alice = gateway.open_session(&json!({ "subject": "alice" }));
    let keys = Keys::fetch(&gateway.client());
    alice.get("/x").send().expect(200);
    gateway.advance(Duration::from_secs(26));
    alice.get("/x").send().expect(200);
    gateway.admin().request("DELETE", "/api/v1/sessions?subject=alice").send().expect(200);
    let ended = gateway.now();

    alice.get("/x").send().expect(401);

    assert_eq!(upstream.request_count(), 2);
    for seen in upstream.requests() {
        let assertion = assertion_of(&seen);
        assert!(keys.verify(&assertion, "u0", ended).is_ok());
        assert!(keys.verify(&assertion, "u0", ended.plus(Duration::from_secs(60))).is_err());
    }
}

/// R29.
#[test]
fn a_reload_that_changes_a_users_roles_changes_the_next_assertion() {
    let upstream = Upstream::start();
    let gateway = asserting("").admin().user("alice", "correct horse battery", &["user"]);
    let gateway = gateway.route("/{*rest}", &upstream).auth(&["session"]).start();
    let alice = gateway.log_in("alice");
    let told = || {
        alice.get("/x").send().expect(200);
        let keys = Keys::fetch(&gateway.client());
        keys.verify(&assertion_of(&upstream.next_request()), "u0", gateway.now()).expect("an assertion")
    };
    assert_eq!(told()["roles"], json!(["user"]));

    gateway.edit("roles = [\"user\"]", "roles = [\"auditor\"]");
    gateway.reload().expect(200);

    assert_eq!(told()["roles"], json!(["auditor"]));
    gateway.edit("assertion = {", "assertion = { issuer = \"portcullis\", ttl = \"10s\"");
    gateway.reload().expect(200);
    let told = told();
    assert_eq!(told["exp"].as_u64().unwrap() - told["iat"].as_u64().unwrap(), 10);
}

/// R17.
#[test]
fn a_websocket_handshake_carries_an_assertion_too() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = asserting("").issuer(&issuer).route("/ws", &upstream).key("upgrade = [\"websocket\"]").start();
    let request = gateway.client().get("/ws").bearer(&token(&issuer, &gateway));
    let request = handshake(request).header("Connection", "X-User-Assertion").header("X-User-Assertion", "forged");

    request.send();

    let seen = upstream.next_request();
    assert_eq!(seen.header("upgrade"), Some("websocket"));
    assert!(Keys::fetch(&gateway.client()).verify(&assertion_of(&seen), "u0", gateway.now()).is_ok());
}

/// R13: a set that is too large is refused, never cut.
#[test]
fn an_assertion_counts_towards_the_size_of_the_identity() {
    for (identity, status) in [
        ("max_bytes = \"2KiB\"\nassertion = {}", 403),
        ("max_bytes = \"2KiB\"", 200),
        ("max_bytes = \"8KiB\"\nassertion = {}", 200),
    ] {
        let (upstream, issuer) = (Upstream::start(), Issuer::es256());
        let gateway = Gateway::with(&format!("[identity]\n{identity}")).issuer(&issuer);
        let gateway = gateway.route("/{*rest}", &upstream).start();
        let roles = vec!["a-role-of-some-length"; 60];

        let bearer = issuer.sign(&Issuer::claims("alice", &roles, gateway.now()));
        gateway.client().get("/x").bearer(&bearer).send().expect(status);

        assert_eq!(upstream.request_count(), usize::from(status == 200), "{identity}");
    }
}

#[test]
fn the_key_set_is_public_and_says_for_how_long_it_may_be_kept() {
    let upstream = Upstream::start();
    let gateway = asserting("").route("/{*rest}", &upstream).auth(&["none"]).start();

    let answer = gateway.client().get(KEY_SET).send().expect(200);

    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    assert_eq!(answer.header("content-type"), Some("application/jwk-set+json"));
    let keys = answer.json();
    let key = &keys["keys"][0];
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
        (&json!("EC"), &json!("P-256"), &json!("ES256"), &json!("sig"))
    );
    assert_eq!(key.get("d"), None);
    assert_eq!(
        gateway.client().request("HEAD", KEY_SET).send().expect(200).header("content-length"),
        answer.header("content-length")
    );
    gateway.client().post(KEY_SET, "").send().expect(405);
    gateway.client().get(KEY_SET).header("Host", "other.test").send().expect(421);
    assert_eq!(upstream.connection_count(), 0);
}

#[test]
fn without_assertions_there_is_neither_a_header_nor_a_key_set() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();

    gateway.client().get(KEY_SET).send().expect(404);
    gateway.client().get("/x").bearer(&token(&issuer, &gateway)).send().expect(200);

    assert_eq!(upstream.next_request().header(HEADER), None);
}
