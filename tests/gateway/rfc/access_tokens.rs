//! RFC 9068: an issuer whose tokens count only if they say that they are access tokens, with all that they must say.

use serde_json::{Value, json};

use crate::support::{Gateway, Issuer, Upstream};

fn changed(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

/// RFC 9068 sections 2.1, 2.2 and 4; RFC 8725 section 3.11.
#[test]
fn access_tokens_only_means_their_type_and_every_claim_that_they_must_have() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer_with(&issuer, "token_type = \"at+jwt\"").route("/{*rest}", &upstream).start();
    let mut claims = Issuer::claims("alice", &[], gateway.now());
    claims["client_id"] = json!("web");
    claims["jti"] = json!("1");
    let header = |typ: Value| changed(issuer.header(), "typ", typ);
    let access = header(json!("at+jwt"));
    let signed = |header: &Value, claims: &Value| issuer.sign_with_header(header, claims);

    for good in ["at+jwt", "application/at+jwt", "AT+JWT", "Application/AT+jwt"] {
        let answer = gateway.client().get("/good").bearer(&signed(&header(json!(good)), &claims)).send();
        assert_eq!(answer.status, 200, "{good}");
    }
    let mut rows = vec![
        ("typ JWT".to_owned(), "token_type", signed(&header(json!("JWT")), &claims)),
        ("another typ".to_owned(), "token_type", signed(&header(json!("application/jwt")), &claims)),
        ("a suffix".to_owned(), "token_type", signed(&header(json!("at+jwt+x")), &claims)),
        ("no typ".to_owned(), "token_type", {
            let mut header = issuer.header();
            header.as_object_mut().unwrap().remove("typ");
            signed(&header, &claims)
        }),
    ];
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        let mut without = claims.clone();
        without.as_object_mut().unwrap().remove(name);
        rows.push((format!("without {name}"), "missing_claim", signed(&access, &without)));
        let odd = changed(claims.clone(), name, json!({}));
        rows.push((format!("{name} an object"), "claim_type", signed(&access, &odd)));
    }
    for (index, (what, reason, token)) in rows.iter().enumerate() {
        let path = format!("/row-{index}");
        assert_eq!(gateway.client().get(&path).bearer(token).send().status, 401, "{what}");
        assert_eq!(gateway.reason_of(&path), *reason, "{what}");
    }
    assert_eq!(upstream.request_count(), 4);
}

/// The same tokens count where the issuer does not ask for the type.
#[test]
fn without_token_type_a_jwt_is_a_jwt() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));

    gateway.client().get("/x").bearer(&token).send().expect(200);
}

/// What an issuer asks for is a part of its settings: a reload that asks for more makes known tokens void.
#[test]
fn a_reload_that_asks_for_more_voids_the_tokens_that_lack_it() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().admin().issuer_with(&issuer, "leeway = \"30s\"").route("/{*rest}", &upstream).start();
    let plain = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let mut full = Issuer::claims("alice", &[], gateway.now());
    full["azp"] = json!("web");
    full["client_id"] = json!("web");
    full["jti"] = json!("1");
    let full = issuer.sign_with_header(&changed(issuer.header(), "typ", json!("at+jwt")), &full);
    let ask = |token: &str| gateway.client().get("/x").bearer(token).send().status;

    assert_eq!((ask(&plain), ask(&full)), (200, 200));
    gateway.edit("leeway = \"30s\"", "required_claims = [{ claim = \"azp\", equals = [\"app\", \"web\"] }]");
    gateway.reload().expect(200);
    assert_eq!((ask(&plain), ask(&full)), (401, 200));
    gateway.edit("required_claims = [{ claim = \"azp\", equals = [\"app\", \"web\"] }]", "token_type = \"at+jwt\"");
    gateway.reload().expect(200);
    assert_eq!((ask(&plain), ask(&full)), (401, 200));
    gateway.edit("token_type = \"at+jwt\"", "required_claims = [\"azp=app\"]");
    gateway.reload().expect(200);
    assert_eq!((ask(&plain), ask(&full)), (401, 401));
}
