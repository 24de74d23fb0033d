//! R21, R22 and R25: which bearer tokens are good, for every algorithm, and every way of making one that is not.
//!
//! Each bad token has its own path, so that the access log says for which reason it was refused: one that is refused
//! for another reason than the one it was made for proves nothing.

use std::{collections::BTreeMap, time::Duration};

use portcullis::authn::keys::{Algorithm, Family};
use serde_json::{Value, json};

use crate::support::{Gateway, Issuer, Upstream, eventually, gateway::Running};

/// R21. All thirteen, over both protocols, and none under another's name.
#[test]
fn every_algorithm_verifies_its_own_signatures_and_no_others() {
    let upstream = Upstream::start();
    for algorithm in Algorithm::ALL {
        let (issuer, stranger) = (Issuer::of(algorithm), Issuer::of(algorithm));
        let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
        let claims = Issuer::claims("alice", &["user"], gateway.now());
        let good = issuer.sign(&claims);
        let send = |token: &str| gateway.client().get("/x").bearer(token).send().status;
        let before = upstream.request_count();

        gateway.client().get("/x").bearer(&good).send().expect(200);
        gateway.client().get("/x").bearer(&good).send_http2().expect(200);
        let renamed = |alg: &str| issuer.sign_with_header(&json!({ "alg": alg }), &claims);
        assert_eq!(send(&issuer.sign_with(&stranger, &claims)), 401, "{algorithm:?}: a stranger's key");
        assert_eq!(send(&stranger.sign(&claims)), 401, "{algorithm:?}: a stranger's kid");
        assert_eq!(send(&Issuer::unsigned(&claims)), 401, "{algorithm:?}: none");
        for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
            assert_eq!(send(&renamed(other.name())), 401, "{algorithm:?} called {other:?}");
        }
        for name in ["none", "None", "NONE", "", "hs256", "HS1", "ES256K", "RSA1_5", "ML-DSA-65"] {
            assert_eq!(send(&renamed(name)), 401, "{algorithm:?} called {name:?}");
        }
        if algorithm.family() != Family::Hmac {
            let confused = issuer.signed_with_the_public_key_as_secret(&claims);
            assert_eq!(send(&confused), 401, "{algorithm:?}: the public key as a secret");
        }
        assert_eq!(upstream.request_count() - before, 2, "{algorithm:?}");
    }
}

/// R21. A signature is exactly as long as it is, in the one encoding it has.
#[test]
fn a_signature_has_one_spelling() {
    let upstream = Upstream::start();
    for algorithm in [Algorithm::ES256, Algorithm::RS256, Algorithm::HS256, Algorithm::EdDSA] {
        let issuer = Issuer::of(algorithm);
        let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
        let good = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
        let (input, signature) = good.rsplit_once('.').unwrap();
        let flipped = |at: usize| {
            let mut bytes = signature.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).unwrap()
        };

        for (name, token) in [
            ("first byte", format!("{input}.{}", flipped(0))),
            ("in the middle", format!("{input}.{}", flipped(signature.len() / 2))),
            ("no signature", format!("{input}.")),
            ("no signature part", input.to_owned()),
            ("cut", format!("{input}.{}", &signature[..signature.len() - 4])),
            ("longer", format!("{input}.{signature}AAAA")),
            ("twice", format!("{input}.{signature}{signature}")),
            ("padded", format!("{good}=")),
            ("padded twice", format!("{good}==")),
            ("a fourth part", format!("{good}.")),
            ("an empty first part", format!(".{good}")),
            ("another header", format!("{}.{good}", &input[..4])),
            ("a changed header", good.replacen("ey", "ez", 1)),
            ("standard alphabet", format!("{input}.+/{}", &signature[2..])),
            ("all zero", format!("{input}.{}", "A".repeat(signature.len()))),
        ] {
            let answer = gateway.client().get("/x").bearer(&token).send();
            assert_eq!(answer.status, 401, "{algorithm:?} {name}");
        }
        let trailing = spare_bits(&good);
        assert!(trailing == good || gateway.client().get("/x").bearer(&trailing).send().status == 401, "{algorithm:?}");
        gateway.client().get("/x").bearer(&good).send().expect(200);
    }
}

/// R21 and R22: the claims and header parameters that decide whether a token is one for us.
#[test]
fn a_token_with_a_good_signature_is_refused_for_what_it_says() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let now = gateway.now().unix_seconds();
    let claims = Issuer::claims("alice", &["user"], gateway.now());
    let payload = |changes: Value| issuer.sign(&with(&claims, &changes));
    let header = |changes: Value| issuer.sign_with_header(&with(&issuer.header(), &changes), &claims);
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        issuer.sign(&claims)
    };
    let text = |payload: &str| issuer.sign_text(&issuer.header().to_string(), payload);
    let head = |header: &str| issuer.sign_text(header, &claims.to_string());
    let (iss, aud, kid) = (Issuer::ISSUER, Issuer::AUDIENCE, issuer.kid());
    let rest = format!("\"aud\":\"{aud}\",\"exp\":{},\"iat\":{now}", now + 60);

    check(
        &gateway,
        &upstream,
        [
            ("expired", "expired", payload(json!({ "exp": now - 31 }))),
            ("expired to the millisecond", "expired", payload(json!({ "exp": now as f64 - 30.5 }))),
            ("without exp", "missing_claim", without("exp")),
            ("exp in a string", "claim_type", payload(json!({ "exp": (now + 60).to_string() }))),
            ("exp null", "claim_type", payload(json!({ "exp": null }))),
            ("exp negative", "claim_type", payload(json!({ "exp": -1 }))),
            ("exp beyond the calendar", "claim_type", payload(json!({ "exp": 1e300 }))),
            ("exp of u64", "claim_type", payload(json!({ "exp": u64::MAX }))),
            ("exp true", "claim_type", payload(json!({ "exp": true }))),
            ("living too long", "lives_too_long", payload(json!({ "exp": now + 86_401 }))),
            ("living too long without iat", "lives_too_long", {
                let mut claims = with(&claims, &json!({ "exp": now + 86_500 }));
                claims.as_object_mut().unwrap().remove("iat");
                issuer.sign(&claims)
            }),
            ("issued ahead", "issued_ahead", payload(json!({ "iat": now + 32, "exp": now + 90 }))),
            ("not yet valid", "not_yet_valid", payload(json!({ "nbf": now + 32 }))),
            ("nbf in a string", "claim_type", payload(json!({ "nbf": "0" }))),
            ("iat in a list", "claim_type", payload(json!({ "iat": [now] }))),
            ("without aud", "missing_claim", without("aud")),
            ("for another audience", "audience", payload(json!({ "aud": "billing-api" }))),
            ("for a part of ours", "audience", payload(json!({ "aud": "orders" }))),
            ("for more than ours", "audience", payload(json!({ "aud": "orders-api/" }))),
            ("for ours in capitals", "audience", payload(json!({ "aud": "Orders-API" }))),
            ("for several others", "audience", payload(json!({ "aud": ["a", "b"] }))),
            ("for nobody", "audience", payload(json!({ "aud": [] }))),
            ("aud with a number", "claim_type", payload(json!({ "aud": [aud, 1] }))),
            ("aud an object", "claim_type", payload(json!({ "aud": { aud: true } }))),
            ("without iss", "missing_claim", without("iss")),
            ("of another issuer", "unknown_issuer", payload(json!({ "iss": "https://issuer.test/" }))),
            ("of an issuer in capitals", "unknown_issuer", payload(json!({ "iss": "HTTPS://issuer.test" }))),
            ("iss in a list", "claim_type", payload(json!({ "iss": [iss] }))),
            ("without sub", "missing_claim", without("sub")),
            ("sub empty", "subject", payload(json!({ "sub": "" }))),
            ("sub null", "claim_type", payload(json!({ "sub": null }))),
            ("sub a number", "claim_type", payload(json!({ "sub": 7 }))),
            ("sub a list", "claim_type", payload(json!({ "sub": ["alice"] }))),
            ("roles of numbers", "claim_type", payload(json!({ "roles": [1] }))),
            ("roles an object", "claim_type", payload(json!({ "roles": { "admin": true } }))),
            ("crit", "critical_header", header(json!({ "crit": ["exp"] }))),
            ("crit empty", "critical_header", header(json!({ "crit": [] }))),
            ("b64", "forbidden_header", header(json!({ "b64": true }))),
            ("jwk", "forbidden_header", header(json!({ "jwk": issuer.jwk() }))),
            ("jku", "forbidden_header", header(json!({ "jku": "https://evil.test/keys" }))),
            ("x5u", "forbidden_header", header(json!({ "x5u": "https://evil.test/chain" }))),
            ("x5c", "forbidden_header", header(json!({ "x5c": [] }))),
            ("zip", "forbidden_header", header(json!({ "zip": "DEF" }))),
            ("enc", "forbidden_header", header(json!({ "enc": "A128GCM" }))),
            ("typ of a logout", "token_type", header(json!({ "typ": "logout+jwt" }))),
            ("typ of a proof", "token_type", header(json!({ "typ": "dpop+jwt" }))),
            ("typ of an event", "token_type", header(json!({ "typ": "secevent+jwt" }))),
            ("typ of an assertion", "token_type", header(json!({ "typ": "portcullis-assertion+jwt" }))),
            ("typ empty", "token_type", header(json!({ "typ": "" }))),
            ("typ a number", "header_type", header(json!({ "typ": 1 }))),
            ("nested", "token_type", header(json!({ "cty": "JWT" }))),
            ("events", "event_token", payload(json!({ "events": {} }))),
            ("nonce", "id_token", payload(json!({ "nonce": "n" }))),
            ("bound to a key", "sender_constrained", payload(json!({ "cnf": { "jkt": "A".repeat(43) } }))),
            ("bound to a certificate", "sender_constrained", payload(json!({ "cnf": { "x5t#S256": "A".repeat(43) } }))),
            ("bound to half a key", "unknown_confirmation", payload(json!({ "cnf": { "jkt": "A".repeat(22) } }))),
            ("bound to something else", "unknown_confirmation", payload(json!({ "cnf": { "kid": "x" } }))),
            (
                "bound to a key and something else",
                "unknown_confirmation",
                payload(json!({ "cnf": { "jkt": "A".repeat(43), "kid": "x" } })),
            ),
            ("bound to nothing", "unknown_confirmation", payload(json!({ "cnf": {} }))),
            ("cnf null", "unknown_confirmation", payload(json!({ "cnf": null }))),
            ("kid a number", "header_type", header(json!({ "kid": 1 }))),
            ("kid null", "header_type", header(json!({ "kid": null }))),
            ("without alg", "header_type", head(&json!({ "kid": kid }).to_string())),
            ("alg a list", "header_type", header(json!({ "alg": ["ES256"] }))),
            (
                "alg twice",
                "duplicate_member",
                head(&format!("{{\"alg\":\"none\",\"alg\":\"ES256\",\"kid\":\"{kid}\"}}")),
            ),
            (
                "sub twice",
                "duplicate_member",
                text(&format!("{{\"iss\":\"{iss}\",{rest},\"sub\":\"a\",\"sub\":\"b\"}}")),
            ),
            (
                "sub twice, once escaped",
                "duplicate_member",
                text(&format!("{{\"iss\":\"{iss}\",{rest},\"sub\":\"a\",\"s\\u0075b\":\"b\"}}")),
            ),
            (
                "a private claim twice, deep down",
                "duplicate_member",
                text(&format!("{{\"iss\":\"{iss}\",{rest},\"sub\":\"a\",\"x\":[{{\"y\":{{\"z\":1,\"z\":2}}}}]}}")),
            ),
            ("no object", "not_json", text("[]")),
            ("a string", "not_json", text("\"alice\"")),
            ("an empty payload", "not_json", text("")),
            ("more behind it", "not_json", text(&format!("{claims}{claims}"))),
            ("a comma too many", "not_json", text(&format!("{{\"iss\":\"{iss}\",{rest},\"sub\":\"a\",}}"))),
            ("a comment", "not_json", text(&format!("{claims}//"))),
            ("a byte order mark", "not_json", text(&format!("\u{feff}{claims}"))),
            ("half a surrogate", "not_json", text(&format!("{{\"iss\":\"{iss}\",{rest},\"sub\":\"\\ud800\"}}"))),
            ("NaN", "not_json", text(&format!("{{\"iss\":\"{iss}\",{rest},\"sub\":\"a\",\"x\":NaN}}"))),
            ("nested too deeply", "too_deep", text(&format!("{{\"x\":{}1{}}}", "[".repeat(500), "]".repeat(500)))),
            ("encrypted", "encrypted", "a.b.c.d.e".to_owned()),
            ("two parts", "parts", "a.b".to_owned()),
            ("longer than 8 KiB", "too_long", payload(json!({ "x": "x".repeat(6200) }))),
        ],
    );
}

/// R21. The twin of the refusals: what is unusual and right.
#[test]
fn a_token_that_is_unusual_and_right_is_accepted() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let now = gateway.now().unix_seconds();
    let claims = Issuer::claims("alice", &["user"], gateway.now());
    let payload = |changes: Value| issuer.sign(&with(&claims, &changes));
    let header = |header: Value| issuer.sign_with_header(&header, &claims);

    for (name, token) in [
        ("plain", payload(json!({}))),
        ("at the end of the leeway", payload(json!({ "exp": now - 29 }))),
        ("with a fraction", payload(json!({ "exp": now as f64 + 0.5 }))),
        ("a day long", payload(json!({ "exp": now + 86_400 }))),
        ("issued a little ahead", payload(json!({ "iat": now + 29 }))),
        ("valid in a moment", payload(json!({ "nbf": now + 29 }))),
        ("for several", payload(json!({ "aud": ["billing-api", Issuer::AUDIENCE] }))),
        ("with more claims", payload(json!({ "x": { "y": [1, null, "z"] }, "jti": "1" }))),
        ("without typ and kid", header(json!({ "alg": "ES256" }))),
        ("an access token", header(json!({ "alg": "ES256", "typ": "at+jwt" }))),
        ("an access token in full", header(json!({ "alg": "ES256", "typ": "application/at+JWT" }))),
        ("another case", header(json!({ "alg": "ES256", "typ": "jwt" }))),
        ("blanks", issuer.sign_text(" { \"alg\" : \"ES256\" } ", &format!("\n{claims}\t"))),
        ("just below 8 KiB", payload(json!({ "x": "x".repeat(5_600) }))),
    ] {
        let answer = gateway.client().get("/x").bearer(&token).send();
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"), "{name}");
    }
}

/// R21. Which key, says `kid`; which algorithm, says the key.
#[test]
fn a_kid_names_one_key_and_no_other_key_counts() {
    let upstream = Upstream::start();
    let (one, two, outside) = (Issuer::es256().called("one"), Issuer::es256().called("two"), Issuer::es256());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, json!({ "keys": [one.jwk(), two.jwk()] }).to_string()).unwrap();
    let table = format!(
        "[[jwt.issuer]]\nname = \"set\"\nissuer = {:?}\naudience = [{:?}]\nalgorithms = [\"ES256\"]\njwks = {{ file = {file:?} }}",
        Issuer::ISSUER,
        Issuer::AUDIENCE
    );
    let gateway = Gateway::new().table(&table).route("/{*rest}", &upstream).auth(&["jwt"]).start();
    let claims = Issuer::claims("alice", &[], gateway.now());
    let header = |kid: Value| with(&json!({ "alg": "ES256" }), &json!({ "kid": kid }));

    for (name, token, status) in [
        ("one by its name", one.sign(&claims), 200),
        ("two by its name", two.sign(&claims), 200),
        ("one by no name", one.sign_with_header(&json!({ "alg": "ES256" }), &claims), 200),
        ("one under two's name", one.sign_with_header(&header(json!("two")), &claims), 401),
        ("two under one's name", two.sign_with_header(&header(json!("one")), &claims), 401),
        ("an outsider under one's name", outside.sign_with_header(&header(json!("one")), &claims), 401),
        ("an outsider under no name", outside.sign_with_header(&json!({ "alg": "ES256" }), &claims), 401),
        ("one under an unknown name", one.sign_with_header(&header(json!("three")), &claims), 401),
        ("one under another case", one.sign_with_header(&header(json!("ONE")), &claims), 401),
        ("one under a path", one.sign_with_header(&header(json!("../../../dev/null")), &claims), 401),
        ("one under an empty name", one.sign_with_header(&header(json!("")), &claims), 401),
    ] {
        assert_eq!(gateway.client().get("/x").bearer(&token).send().status, status, "{name}");
    }
}

/// R21. Not even by configuration.
#[test]
fn hmac_and_public_keys_are_never_in_one_issuer() {
    let upstream = Upstream::start();
    let (public, shared) = (Issuer::es256(), Issuer::hs256());
    let start = |issuer: &Issuer, lines: &str| {
        Gateway::new().issuer_with(issuer, lines).route("/{*rest}", &upstream).try_start().map(drop)
    };

    assert!(start(&public, "algorithms = [\"ES256\", \"HS256\"]").is_err());
    assert!(start(&public, "algorithms = [\"HS256\"]").is_err());
    assert!(start(&shared, "algorithms = [\"ES256\"]").is_err());
    assert!(start(&public, "algorithms = [\"none\"]").is_err());
    assert!(start(&public, "algorithms = []").is_err());
    assert!(start(&public, "audience = []").is_err());
    start(&public, "").expect("it starts");
    start(&shared, "algorithms = [\"HS256\", \"HS512\"]").expect("it starts");
}

/// R21. The one way to have no audience is to say why.
#[test]
fn any_audience_must_be_written() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer_with(&issuer, "audience = []\ninsecure_any_audience = \"a test\"");
    let gateway = gateway.route("/{*rest}", &upstream).start();
    let mut claims = Issuer::claims("alice", &[], gateway.now());

    claims["aud"] = json!("somebody else");
    gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(200);
    claims.as_object_mut().unwrap().remove("aud");
    gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(200);
    claims["aud"] = json!(1);
    gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(401);
}

/// R22.
#[test]
fn an_id_token_is_a_bearer_only_where_the_issuer_says_so() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    for (lines, status) in [("", 401), ("id_tokens = true", 200)] {
        let gateway = Gateway::new().issuer_with(&issuer, lines).route("/{*rest}", &upstream).start();
        let claims = with(&Issuer::claims("alice", &[], gateway.now()), &json!({ "nonce": "n" }));
        gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(status);
    }
}

/// R25. A string is a path cut at dots, an array is exact steps.
#[test]
fn claims_are_found_where_the_mapping_says() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let lines = "claims = { subject = \"person.id\", name = \"preferred_username\", roles = \"realm_access.roles\", \
                 groups = [\"https://example.com/groups\"], scopes = [\"a.b\", \"c\"] }";
    let gateway = Gateway::new().issuer_with(&issuer, lines).route("/{*rest}", &upstream).start();
    let mut claims = Issuer::claims("not-this", &["not-these"], gateway.now());
    claims = with(
        &claims,
        &json!({
            "person": { "id": "alice" },
            "person.id": "mallory",
            "preferred_username": "Alice",
            "name": "Mallory",
            "realm_access": { "roles": ["user"] },
            "realm_access.roles": ["admin"],
            "https://example.com/groups": ["staff"],
            "https://example": { "com/groups": ["root"] },
            "a.b": { "c": "read write" },
            "a": { "b": { "c": "all" } },
        }),
    );

    gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(200);

    let seen = upstream.next_request();
    for (header, expect) in [
        ("x-user-id", "alice"),
        ("x-user-name", "Alice"),
        ("x-user-roles", "user"),
        ("x-user-groups", "staff"),
        ("x-user-scopes", "read,write"),
        ("x-user-auth", "jwt"),
    ] {
        assert_eq!(seen.header(header), Some(expect), "{header}");
    }
    let unmapped = Issuer::claims("alice", &[], gateway.now());
    gateway.client().get("/x").bearer(&issuer.sign(&unmapped)).send().expect(401);
}

/// R21. A test's clock moves, and with it what is good.
#[test]
fn a_token_begins_and_ends_with_the_clock() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let now = gateway.now().unix_seconds();
    let claims = with(&Issuer::claims("alice", &[], gateway.now()), &json!({ "nbf": now + 60, "exp": now + 120 }));
    let token = issuer.sign(&claims);
    let ask = || gateway.client().get("/x").bearer(&token).send().status;

    assert_eq!(ask(), 401);
    gateway.advance(Duration::from_secs(60));
    assert_eq!(ask(), 200);
    gateway.advance(Duration::from_secs(100));
    assert_eq!(ask(), 401);
}

/// Sends each token and reads in the access log why it was refused.
#[track_caller]
fn check<const N: usize>(gateway: &Running, upstream: &Upstream, rows: [(&str, &str, String); N]) {
    for (row, (name, _, token)) in rows.iter().enumerate() {
        let answer = gateway.client().get(&format!("/row-{row}")).bearer(token).send();
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
    }
    let reasons = reasons(gateway, N);
    for (row, (name, reason, _)) in rows.iter().enumerate() {
        let logged = reasons.get(&format!("/row-{row}")).map(String::as_str);
        assert_eq!(logged, Some(*reason), "{name}");
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// The reason of every refusal so far, by path.
fn reasons(gateway: &Running, lines: usize) -> BTreeMap<String, String> {
    eventually("all requests are logged", || gateway.log_lines().len() >= lines);
    let parsed = gateway.log_lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    parsed.filter_map(|line| Some((line["path"].as_str()?.to_owned(), line["reason"].as_str()?.to_owned()))).collect()
}

/// The same token with the bits behind its last byte set: base64 that decodes to the same bytes in lax readers.
fn spare_bits(token: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = token.split_at(token.len() - 1);
    let signature = token.rsplit_once('.').unwrap().1;
    let value = ALPHABET.find(last).unwrap();
    match signature.len() % 4 {
        0 => token.to_owned(),
        _ => format!("{rest}{}", char::from(ALPHABET.as_bytes()[value | 1])),
    }
}

fn with(claims: &Value, changes: &Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}
