//! RFC 7515 section 4.1 and RFC 7519 section 4.1: of each header parameter and each claim, a token in which only it is
//! wrong, and the twin in which it is right. Both have a good signature.

use serde_json::{Value, json};

use crate::support::{Gateway, Issuer, Upstream};

/// What is changed in a good token: `null` takes it away.
struct Row {
    part: Part,
    name: &'static str,
    wrong: Value,
    reason: &'static str,
    right: Value,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Header,
    Claims,
}

fn header(name: &'static str, wrong: Value, reason: &'static str, right: Value) -> Row {
    Row { part: Part::Header, name, wrong, reason, right }
}

fn claim(name: &'static str, wrong: Value, reason: &'static str, right: Value) -> Row {
    Row { part: Part::Claims, name, wrong, reason, right }
}

fn with(mut object: Value, name: &str, value: &Value) -> Value {
    if value.is_null() {
        object.as_object_mut().unwrap().remove(name);
    } else {
        object[name] = value.clone();
    }
    object
}

/// R21, R22.
#[test]
fn of_each_header_parameter_and_each_claim_only_it_is_wrong() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256().called("one");
    let other = Issuer::es256().called("two");
    let gateway = Gateway::new();
    let keys = gateway.write("keys.json", &json!({ "keys": [issuer.jwk(), other.jwk()] }).to_string());
    let lines = format!("jwks = {{ file = {keys:?} }}\nrequired_claims = [\"tenant.id=t1\", \"ticket\"]");
    let gateway = gateway.issuer_with(&issuer, &lines).route("/{*rest}", &upstream).start();
    let now = gateway.now().unix_seconds();
    let mut claims = Issuer::claims("alice", &["user"], gateway.now());
    claims["tenant"] = json!({ "id": "t1" });
    claims["ticket"] = json!(["any", "thing"]);
    let (iss, aud) = (Issuer::ISSUER, Issuer::AUDIENCE);
    let absent = || Value::Null;

    let rows = [
        header("alg", json!("ES384"), "algorithm_not_allowed", json!("ES256")),
        header("alg", json!("none"), "algorithm_unknown", json!("ES256")),
        header("alg", json!("es256"), "algorithm_unknown", json!("ES256")),
        header("alg", json!(256), "header_type", json!("ES256")),
        header("alg", absent(), "header_type", json!("ES256")),
        header("kid", json!("two"), "wrong_signature", json!("one")),
        header("kid", json!("three"), "key_unknown", json!("one")),
        header("kid", json!("One"), "key_unknown", absent()),
        header("kid", json!(""), "key_unknown", json!("one")),
        header("kid", json!(["one"]), "header_type", json!("one")),
        header("typ", json!("JOSE"), "token_type", json!("JWT")),
        header("typ", json!("id+jwt"), "token_type", json!("at+jwt")),
        header("typ", json!("application/jose"), "token_type", json!("application/jwt")),
        header("typ", json!("JWT "), "token_type", absent()),
        header("typ", json!({}), "header_type", absent()),
        header("cty", json!("JWT"), "token_type", absent()),
        header("cty", json!("application/jwt"), "token_type", json!("json")),
        header("cty", json!(1), "header_type", json!("json")),
        header("crit", json!(["exp"]), "critical_header", absent()),
        header("crit", json!(["b64"]), "critical_header", absent()),
        header("b64", json!(false), "forbidden_header", absent()),
        header("jku", json!("https://evil.test/keys"), "forbidden_header", absent()),
        header("jwk", issuer.jwk(), "forbidden_header", absent()),
        header("x5u", json!("https://evil.test/chain"), "forbidden_header", absent()),
        header("x5c", json!(["MIIB"]), "forbidden_header", absent()),
        header("zip", json!("DEF"), "forbidden_header", absent()),
        header("enc", json!("A256GCM"), "forbidden_header", absent()),
        header("epk", json!({}), "forbidden_header", absent()),
        header("p2c", json!(1), "forbidden_header", absent()),
        header("p2s", json!("salt"), "forbidden_header", absent()),
        claim("iss", json!("https://issuer.test/"), "unknown_issuer", json!(iss)),
        claim("iss", absent(), "missing_claim", json!(iss)),
        claim("iss", json!([iss]), "claim_type", json!(iss)),
        claim("sub", absent(), "missing_claim", json!("alice")),
        claim("sub", json!(1), "claim_type", json!("alice")),
        claim("sub", json!(""), "subject", json!("0")),
        claim("sub", json!("a\u{0}"), "subject", json!("ä")),
        claim("sub", json!("x".repeat(256)), "subject", json!("x".repeat(255))),
        claim("aud", json!("billing-api"), "audience", json!(aud)),
        claim("aud", json!(["billing-api"]), "audience", json!(["billing-api", aud])),
        claim("aud", absent(), "missing_claim", json!([aud])),
        claim("aud", json!([aud, 1]), "claim_type", json!([aud, "1"])),
        claim("exp", json!(now - 31), "expired", json!(now - 29)),
        claim("exp", absent(), "missing_claim", json!(now + 1)),
        claim("exp", json!("soon"), "claim_type", json!(now + 1)),
        claim("exp", json!(now + 86_401), "lives_too_long", json!(now + 86_400)),
        claim("nbf", json!(now + 32), "not_yet_valid", json!(now + 29)),
        claim("nbf", json!("now"), "claim_type", absent()),
        claim("iat", json!(now + 32), "issued_ahead", json!(now + 29)),
        claim("iat", json!("now"), "claim_type", absent()),
        claim("iat", json!(-1), "claim_type", json!(now)),
        claim("jti", json!(7), "claim_type", json!("7")),
        claim("name", json!(7), "claim_type", json!("Alice")),
        claim("email", json!(["a@example.com"]), "claim_type", json!("a@example.com")),
        claim("roles", json!([1]), "claim_type", json!(["1"])),
        claim("roles", json!({ "admin": true }), "claim_type", json!("admin")),
        claim("groups", json!(7), "claim_type", json!(["ops"])),
        claim("scope", json!(true), "claim_type", json!("read write")),
        claim("auth_time", json!("now"), "claim_type", json!(now)),
        claim("nonce", json!("n"), "id_token", absent()),
        claim("events", json!({}), "event_token", absent()),
        claim("cnf", json!({ "kid": "x" }), "unknown_confirmation", absent()),
        claim("cnf", json!("x"), "unknown_confirmation", absent()),
        claim("tenant", json!({ "id": "t2" }), "claim_value", json!({ "id": "t1", "name": "One" })),
        claim("tenant", json!({ "id": ["t1"] }), "claim_value", json!({ "id": "t1" })),
        claim("tenant", json!({ "id": null }), "missing_claim", json!({ "id": "t1" })),
        claim("tenant", json!("t1"), "missing_claim", json!({ "id": "t1" })),
        claim("ticket", absent(), "missing_claim", json!(false)),
    ];
    let make = |row: &Row, value: &Value| match row.part {
        Part::Header => issuer.sign_with_header(&with(issuer.header(), row.name, value), &claims),
        Part::Claims => issuer.sign(&with(claims.clone(), row.name, value)),
    };
    for (index, row) in rows.iter().enumerate() {
        let what = format!("{:?}, {} = {}", row.part, row.name, row.wrong);
        let (wrong, right) = (make(row, &row.wrong), make(row, &row.right));
        let before = upstream.request_count();

        let path = format!("/wrong-{index}");
        assert_eq!(gateway.client().get(&path).bearer(&wrong).send().status, 401, "{what}");
        assert_eq!(gateway.reason_of(&path), row.reason, "{what}");
        assert_eq!(upstream.request_count(), before, "{what}");
        assert_eq!(gateway.client().get("/right").bearer(&right).send().status, 200, "{what}: but {}", row.right);
    }
}

/// RFC 8725 section 3.9. One issuer's audience is not another's, and each has several.
#[test]
fn each_issuer_has_its_own_audiences() {
    let upstream = Upstream::start();
    let (one, two) = (Issuer::es256(), Issuer::of(portcullis::authn::keys::Algorithm::EdDSA));
    let gateway = Gateway::new();
    let gateway = gateway.issuer_with(&one, "audience = [\"orders-api\", \"billing-api\"]");
    let gateway = gateway.issuer_with(&two, "issuer = \"https://two.test\"\naudience = \"stock-api\"");
    let gateway = gateway.route("/{*rest}", &upstream).auth(&["jwt:test", "jwt:test2"]).start();
    let ask = |issuer: &Issuer, iss: &str, aud: Value| {
        let claims = with(Issuer::claims("alice", &[], gateway.now()), "iss", &json!(iss));
        gateway.client().get("/x").bearer(&issuer.sign(&with(claims, "aud", &aud))).send().status
    };

    let two_iss = "https://two.test";
    for (issuer, iss, aud, expect) in [
        (&one, Issuer::ISSUER, json!("orders-api"), 200),
        (&one, Issuer::ISSUER, json!("billing-api"), 200),
        (&one, Issuer::ISSUER, json!(["billing-api", "orders-api"]), 200),
        (&one, Issuer::ISSUER, json!("stock-api"), 401),
        (&two, two_iss, json!("stock-api"), 200),
        (&two, two_iss, json!("orders-api"), 401),
        (&two, two_iss, json!(["orders-api", "billing-api"]), 401),
        (&one, two_iss, json!("stock-api"), 401),
        (&two, Issuer::ISSUER, json!("orders-api"), 401),
    ] {
        assert_eq!(ask(issuer, iss, aud.clone()), expect, "{iss} {aud}");
    }
}
