//! RFC 9449 section 4.3: what a proof says, each part wrong by itself. Each row has its own path, so that the access
//! log says for which reason it was refused.

use std::time::Duration;

use portcullis::authn::keys::{Algorithm, Family};
use serde_json::{Value, json};

use super::{reasons, started, with, without};
use crate::support::{Gateway, Holder, Issuer, Upstream};

/// With every algorithm that has a public key, over both protocols.
#[test]
fn a_token_that_is_bound_to_a_key_counts_with_a_proof_of_that_key() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let names = Algorithm::ALL.into_iter().filter(|one| one.family() != Family::Hmac);
    let listed: Vec<&str> = names.clone().map(Algorithm::name).collect();
    let gateway = Gateway::with(&format!("[dpop]\nalgorithms = {listed:?}"));
    let gateway = started(gateway.issuer(&issuer).route("/{*rest}", &upstream));
    for algorithm in names {
        let (holder, other) = (Holder::of(algorithm), Holder::of(algorithm));
        let token = issuer.sign(&holder.claims("alice", gateway.now()));
        let proof = || holder.proof("/x", &token, gateway.now());
        let before = upstream.request_count();

        gateway.client().get("/x").dpop(&token, &proof()).send().expect(200);
        gateway.client().get("/x").dpop(&token, &proof()).send_http2().expect(200);
        assert_eq!(upstream.request_count() - before, 2, "{algorithm}");
        gateway.client().get("/x").dpop(&token, &other.proof("/x", &token, gateway.now())).send().expect(401);
        assert_eq!(upstream.request_count() - before, 2, "{algorithm}");
    }
    assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
}

/// A known token is proven again with each request: the first one is good, all others differ in one thing.
#[test]
fn a_proof_is_refused_for_each_part_that_is_wrong() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = started(Gateway::new().issuer(&issuer).route("/{*rest}", &upstream));
    let (holder, thief) = (&Holder::new(), &Holder::new());
    let now = gateway.now();
    let token = issuer.sign(&holder.claims("alice", now));
    let others = issuer.sign(&holder.claims("bob", now));
    gateway.client().get("/good").dpop(&token, &holder.proof("/good", &token, now)).send().expect(200);
    let seconds = now.unix_seconds();

    // Rows are made with the path at which they are sent.
    type Make<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let good = |path: &str| Holder::payload("GET", path, &token, now);
    let payload = |changes: Value| -> Make<'_> { Box::new(move |path| holder.sign(&with(&good(path), &changes))) };
    let header = |changes: Value| -> Make<'_> {
        Box::new(move |path| holder.sign_with_header(&with(&holder.header(), &changes), &good(path)))
    };
    let lacking = |name: &'static str| -> Make<'_> { Box::new(move |path| holder.sign(&without(&good(path), name))) };
    let header_lacking = |name: &'static str| -> Make<'_> {
        Box::new(move |path| holder.sign_with_header(&without(&holder.header(), name), &good(path)))
    };
    let jwk = |changes: Value| header(json!({ "jwk": with(holder.jwk(), &changes) }));
    let text = |change: &'static dyn Fn(String) -> String| -> Make<'_> {
        Box::new(move |path| change(holder.sign(&good(path))))
    };
    let rows: Vec<(&str, &str, Make<'_>)> = vec![
        ("typ of a token", "proof_type", header(json!({ "typ": "JWT" }))),
        ("typ in capitals", "proof_type", header(json!({ "typ": "DPOP+JWT" }))),
        ("typ a number", "proof_type", header(json!({ "typ": 1 }))),
        ("without typ", "proof_type", header_lacking("typ")),
        ("alg none", "proof_algorithm", header(json!({ "alg": "none" }))),
        ("alg with a secret", "proof_algorithm", header(json!({ "alg": "HS256" }))),
        ("alg that is not listed", "proof_algorithm", header(json!({ "alg": "ES512" }))),
        ("alg of another key", "proof_key", header(json!({ "alg": "RS256" }))),
        ("alg a list", "proof_algorithm", header(json!({ "alg": ["ES256"] }))),
        ("without alg", "proof_algorithm", header_lacking("alg")),
        ("without jwk", "proof_key", header_lacking("jwk")),
        ("jwk a string", "proof_key", header(json!({ "jwk": "key" }))),
        ("jwk private", "proof_key", jwk(json!({ "d": "AQAB" }))),
        ("jwk with a secret", "proof_key", jwk(json!({ "k": "AQAB" }))),
        ("jwk of a secret", "proof_key", header(json!({ "jwk": { "kty": "oct", "k": "AQABAQABAQABAQABAQABAQAB" } }))),
        ("jwk on another curve", "proof_key", jwk(json!({ "crv": "P-384" }))),
        ("jwk for encryption", "proof_key", jwk(json!({ "use": "enc" }))),
        ("jwk of somebody else", "proof_other_key", header(json!({ "jwk": thief.jwk() }))),
        ("crit", "proof_critical_header", header(json!({ "crit": ["exp"] }))),
        ("jku", "proof_forbidden_header", header(json!({ "jku": "https://evil.test" }))),
        ("x5c", "proof_forbidden_header", header(json!({ "x5c": [] }))),
        ("b64", "proof_forbidden_header", header(json!({ "b64": false }))),
        ("without jti", "proof_claim", lacking("jti")),
        ("jti empty", "proof_id", payload(json!({ "jti": "" }))),
        ("jti long", "proof_id", payload(json!({ "jti": "x".repeat(129) }))),
        ("jti a number", "proof_claim", payload(json!({ "jti": 1 }))),
        ("without htm", "proof_claim", lacking("htm")),
        ("htm of another method", "proof_method", payload(json!({ "htm": "POST" }))),
        ("htm in small letters", "proof_method", payload(json!({ "htm": "get" }))),
        ("without htu", "proof_claim", lacking("htu")),
        ("htu of another host", "proof_target", payload(json!({ "htu": "https://other.test/" }))),
        ("htu of the whole host", "proof_target", payload(json!({ "htu": "https://app.test/" }))),
        (
            "htu over http",
            "proof_target",
            Box::new(|path| holder.sign(&with(&good(path), &json!({ "htu": format!("http://app.test{path}") })))),
        ),
        (
            "htu at another port",
            "proof_target",
            Box::new(|path| holder.sign(&with(&good(path), &json!({ "htu": format!("https://app.test:444{path}") })))),
        ),
        ("htu in a list", "proof_claim", payload(json!({ "htu": [] }))),
        ("without iat", "proof_claim", lacking("iat")),
        ("iat in a string", "proof_claim", payload(json!({ "iat": seconds.to_string() }))),
        ("iat too old", "proof_too_old", payload(json!({ "iat": seconds - 61 }))),
        ("iat ahead", "proof_issued_ahead", payload(json!({ "iat": seconds + 62 }))),
        ("expired", "proof_out_of_time", payload(json!({ "exp": seconds - 61 }))),
        ("not yet valid", "proof_out_of_time", payload(json!({ "nbf": seconds + 62 }))),
        ("without ath", "proof_claim", lacking("ath")),
        ("ath of another token", "proof_other_token", Box::new(|path| holder.proof(path, &others, now))),
        ("ath of nothing", "proof_other_token", payload(json!({ "ath": "" }))),
        ("a nonce of somebody else", "proof_nonce", payload(json!({ "nonce": "eyJ7S_zG.eyJH0-Z.HX4w-7v" }))),
        ("a nonce in a list", "proof_claim", payload(json!({ "nonce": [] }))),
        (
            "signed by somebody else",
            "proof_signature",
            Box::new(|path| thief.sign_with_header(&holder.header(), &good(path))),
        ),
        ("without signature", "proof_signature", text(&|proof| format!("{}.", proof.rsplit_once('.').unwrap().0))),
        ("a longer signature", "proof_signature", text(&|proof| format!("{proof}AAAA"))),
        ("padded", "proof_signature", text(&|proof| format!("{proof}="))),
        ("two parts", "proof_parts", text(&|proof| proof.rsplit_once('.').unwrap().0.to_owned())),
        ("four parts", "proof_parts", text(&|proof| format!("{proof}.x"))),
        ("two proofs in one field", "proof_parts", text(&|proof| format!("{proof},{proof}"))),
        ("long", "proof_too_long", payload(json!({ "x": "x".repeat(8192) }))),
        ("empty", "proof_parts", Box::new(|_| String::new())),
        (
            "a header that is no JSON",
            "proof_not_json",
            Box::new(|path| holder.sign_text("typ", &good(path).to_string())),
        ),
        (
            "htm twice",
            "proof_duplicate_member",
            Box::new(|path| {
                let claims = good(path).to_string();
                holder.sign_text(
                    &holder.header().to_string(),
                    &format!("{},\"htm\":\"GET\"}}", &claims[..claims.len() - 1]),
                )
            }),
        ),
        (
            "jwk twice",
            "proof_duplicate_member",
            Box::new(|path| {
                let header = holder.header().to_string();
                let header = format!("{},\"jwk\":{}}}", &header[..header.len() - 1], thief.jwk());
                holder.sign_text(&header, &good(path).to_string())
            }),
        ),
        ("the token itself", "proof_type", Box::new(|_| token.clone())),
    ];
    for (row, (name, _, make)) in rows.iter().enumerate() {
        let path = format!("/row-{row}");
        let answer = gateway.client().get(&path).dpop(&token, &make(&path)).send();
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
        let challenge = answer.all("www-authenticate")[0];
        assert!(challenge.starts_with("DPoP ") && challenge.contains("algs=\"ES256 "), "{name}: {challenge}");
        let error = if name.starts_with("a nonce of") { "use_dpop_nonce" } else { "invalid_dpop_proof" };
        assert!(challenge.contains(&format!("error=\"{error}\"")), "{name}: {challenge}");
    }
    let reasons = reasons(&gateway, rows.len() + 1);
    for (row, (name, reason, _)) in rows.iter().enumerate() {
        assert_eq!(reasons.get(&format!("/row-{row}")).map(String::as_str), Some(*reason), "{name}");
    }
    assert_eq!(upstream.request_count(), 1, "nothing but the good one went upstream");
    gateway.client().get("/good").dpop(&token, &holder.proof("/good", &token, now)).send().expect(200);
}

/// RFC 9449 section 4.3, step 9, at a running gateway: method, query, port, spelling.
#[test]
fn a_proof_counts_for_the_method_and_the_place_of_its_request() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = started(Gateway::new().issuer(&issuer).route("/{*rest}", &upstream));
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let ask = |method: &str, target: &str, host: Option<&str>, htm: &str, htu: &str| {
        let payload = with(&Holder::payload(htm, "", &token, gateway.now()), &json!({ "htu": htu }));
        let request = gateway.client().request(method, target).dpop(&token, &holder.sign(&payload));
        host.map_or_else(|| request.clone(), |host| request.clone().header("Host", host)).send().status
    };

    for (method, target, host, htm, htu, status) in [
        ("GET", "/a/b?c=d", None, "GET", "https://app.test/a/b", 200),
        ("GET", "/a/b?c=d", None, "GET", "https://app.test/a/b?x=y#z", 200),
        ("GET", "/a/%62", None, "GET", "https://app.test/a/b", 200),
        ("GET", "/a/b", None, "GET", "https://APP.test:443/%61/b", 200),
        ("GET", "/caf%c3%a9", None, "GET", "https://app.test/caf%C3%A9", 200),
        ("GET", "/", None, "GET", "https://app.test", 200),
        ("GET", "/a/b", Some("app.test:8443"), "GET", "https://app.test:8443/a/b", 200),
        ("GET", "/a/b", Some("app.test:8443"), "GET", "https://app.test/a/b", 401),
        ("GET", "/a/b", None, "GET", "https://app.test/a", 401),
        ("GET", "/a/b", None, "GET", "https://app.test/a/b/", 401),
        ("GET", "/a/b", None, "GET", "https://app.test/A/b", 401),
        ("GET", "/a/b", None, "GET", "https://app.test/a/./b", 401),
        ("DELETE", "/a/b", None, "DELETE", "https://app.test/a/b", 200),
        ("DELETE", "/a/b", None, "GET", "https://app.test/a/b", 401),
        ("HEAD", "/a/b", None, "HEAD", "https://app.test/a/b", 200),
        ("HEAD", "/a/b", None, "GET", "https://app.test/a/b", 401),
    ] {
        assert_eq!(ask(method, target, host, htm, htu), status, "{method} {target} {host:?} with {htm} {htu}");
    }
}

/// `iat` may differ by a minute either way, and not by more.
#[test]
fn the_minute_of_a_proof_has_edges() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    // On the second, so that the edges are where they are.
    let start = portcullis::clock::Timestamp::from_unix_seconds(1_800_000_000);
    let gateway = Gateway::new().at(start).issuer(&issuer).route("/{*rest}", &upstream).start();
    gateway.advance(Duration::from_secs(3600));
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let seconds = gateway.now().unix_seconds();
    let ask = |iat: Value| {
        let payload = with(&Holder::payload("GET", "/x", &token, gateway.now()), &json!({ "iat": iat }));
        gateway.client().get("/x").dpop(&token, &holder.sign(&payload)).send().status
    };

    assert_eq!([ask(json!(seconds - 60)), ask(json!(seconds + 60))], [200, 200]);
    assert_eq!([ask(json!(seconds - 61)), ask(json!(seconds + 61))], [401, 401]);
    assert_eq!([ask(json!(seconds as f64 - 59.5)), ask(json!(seconds as f64 - 60.5))], [200, 401]);
}

/// RFC 9449 sections 7.1 and 7.2: which token goes with which scheme, and exactly one proof with it.
#[test]
fn a_bound_token_is_no_bearer_and_a_bearer_is_not_proven() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = started(
        Gateway::with("[jwt]\ncookie = \"token\"\nheader = \"X-Token\"").issuer(&issuer).route("/{*rest}", &upstream),
    );
    let bound = issuer.sign(&holder.claims("alice", gateway.now()));
    let bearer = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let proof = |path: &str, token: &str| holder.proof(path, token, gateway.now());
    let get = |path: &str| gateway.client().get(path);

    for (reason, request) in [
        ("sender_constrained", get("/0").bearer(&bound)),
        ("sender_constrained", get("/1").bearer(&bound).header("DPoP", &proof("/1", &bound))),
        ("sender_constrained", get("/2").cookie(&format!("token={bound}")).header("Sec-Fetch-Site", "same-origin")),
        ("sender_constrained", get("/3").header("X-Token", &bound).header("DPoP", &proof("/3", &bound))),
        ("unbound_token", get("/4").dpop(&bearer, &proof("/4", &bearer))),
        ("proof_missing", get("/5").header("Authorization", &format!("DPoP {bound}"))),
        ("several_proofs", get("/6").dpop(&bound, &proof("/6", &bound)).header("DPoP", &proof("/6", &bound))),
        ("two_authorizations", get("/7").dpop(&bound, &proof("/7", &bound)).bearer(&bearer)),
        ("two_kinds", get("/8").dpop(&bound, &proof("/8", &bound)).header("X-Token", &bearer)),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, 401, "{reason}: {answer:?}");
        assert!(!answer.all("www-authenticate").is_empty(), "{reason}");
        let path = request.target().to_owned();
        crate::support::eventually("it is logged", || {
            reasons(&gateway, 1).get(&path).map(String::as_str) == Some(reason)
        });
    }
    assert_eq!(upstream.connection_count(), 0);
    get("/x").dpop(&bound, &proof("/x", &bound)).send().expect(200);
    get("/x").bearer(&bearer).send().expect(200);
    get("/x").bearer(&bearer).header("DPoP", "whatever").send().expect(200);
    let scheme = get("/x").header("Authorization", &format!("dpop {bound}")).header("DPoP", &proof("/x", &bound));
    scheme.send().expect(200);
}
