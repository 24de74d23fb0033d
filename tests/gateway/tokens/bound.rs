//! Tokens that are asked for with a DPoP proof are bound to its key (RFC 9449 section 5).

use super::*;
use crate::{api_keys::key, support::Holder};

/// Further settings, and the entry of an API key, if a client asks with one.
fn started(upstream: &Upstream, dpop: &str, entry: &str) -> Running {
    let batch = if entry.is_empty() { "" } else { ", { id = \"batch\", grants = [\"api_key\"] }" };
    let clients = format!("clients = [\"spa\", {{ id = \"phone\", grants = [\"password\"] }}{batch}]");
    let gateway = Gateway::with(&format!("[token]\nissuer = \"https://app.test\"\n{clients}\n[dpop]\n{dpop}\n{entry}"))
        .user("alice", PASSWORD, &["user"])
        .route("/{*rest}", upstream)
        .auth(&["jwt:self"])
        .start();
    // Proofs that are older than the gateway need a nonce of it.
    gateway.advance(Duration::from_secs(62));
    gateway
}

/// What a proof says that asks for a token.
fn payload(gateway: &Running, endpoint: &str) -> Value {
    let mut payload = Holder::payload("POST", endpoint, "", gateway.now());
    payload.as_object_mut().expect("an object").remove("ath");
    payload
}

fn proof(holder: &Holder, gateway: &Running, endpoint: &str) -> String {
    holder.sign(&payload(gateway, endpoint))
}

fn phone(gateway: &Running) -> Request {
    gateway.client().post(TOKEN, "").json(&by_password("alice"))
}

fn refresh(gateway: &Running, token: &str) -> Request {
    gateway.client().post(REFRESH, "").json(&json!({ "client_id": "phone", "refresh_token": token }))
}

fn used(gateway: &Running, holder: &Holder, token: &str) -> u16 {
    gateway.client().get("/api/x").dpop(token, &holder.proof("/api/x", token, gateway.now())).send().status
}

#[test]
fn a_token_that_is_asked_for_with_a_proof_is_bound_to_its_key_and_so_are_those_that_follow() {
    let upstream = Upstream::start();
    let gateway = started(&upstream, "", "");
    let (holder, thief) = (Holder::new(), Holder::new());

    let answer = phone(&gateway).header("DPoP", &proof(&holder, &gateway, TOKEN)).send().expect(200);
    assert_eq!(answer.json()["token_type"], "DPoP");
    let (token, next) = (text(&answer, "access_token"), text(&answer, "refresh_token"));
    assert_eq!(claims(&token)["cnf"], json!({ "jkt": holder.jkt() }));
    assert_eq!((opens(&gateway, &token), used(&gateway, &thief, &token)), (401, 401));
    upstream.expect_only(0);
    assert_eq!(used(&gateway, &holder, &token), 200);

    // Neither a try without its key nor one with another spends the refresh token.
    refresh(&gateway, &next).send().expect(400);
    refresh(&gateway, &next).header("DPoP", &proof(&thief, &gateway, REFRESH)).send().expect(400);
    refresh(&gateway, &next).header("DPoP", &proof(&holder, &gateway, TOKEN)).send().expect(400);
    let again = refresh(&gateway, &next).header("DPoP", &proof(&holder, &gateway, REFRESH)).send().expect(200);
    assert_eq!(again.json()["token_type"], "DPoP");
    assert_eq!(used(&gateway, &holder, &text(&again, "access_token")), 200);
    // Who asks without a proof gets a bearer token, as ever.
    let bearer = phone(&gateway).send().expect(200);
    assert_eq!(bearer.json()["token_type"], "Bearer");
    assert_eq!(opens(&gateway, &text(&bearer, "access_token")), 200);
}

#[test]
fn a_key_and_a_session_ask_with_a_proof_as_well() {
    let upstream = Upstream::start();
    let (text_of_key, entry) = key("ci", "");
    let gateway = started(&upstream, "", &entry);
    let holder = Holder::new();

    let batch = json!({ "grant_type": "client_credentials", "client_id": "batch" });
    let by_key = gateway.client().post(TOKEN, "").json(&batch).header("X-API-Key", text_of_key.expose());
    let of_key = by_key.header("DPoP", &proof(&holder, &gateway, TOKEN)).send().expect(200);
    let of_session =
        by_session(&gateway.log_in("alice")).header("DPoP", &proof(&holder, &gateway, TOKEN)).send().expect(200);

    for answer in [of_key, of_session] {
        let token = text(&answer, "access_token");
        assert_eq!(answer.json()["token_type"], "DPoP");
        assert_eq!((opens(&gateway, &token), used(&gateway, &holder, &token)), (401, 200));
    }
}

/// Each proof has one thing wrong, and nobody is logged in by it.
#[test]
fn a_void_proof_gets_no_token() {
    let upstream = Upstream::start();
    let gateway = started(&upstream, "", "");
    let holder = Holder::new();
    let good = payload(&gateway, TOKEN);
    let with = |name: &str, value: Value| {
        let mut payload = payload(&gateway, TOKEN);
        payload[name] = value;
        holder.sign(&payload)
    };
    let mut forged = holder.sign(&payload(&gateway, TOKEN));
    forged.replace_range(forged.len() - 12..forged.len() - 8, "AAAA");
    let spent = holder.sign(&good);
    phone(&gateway).header("DPoP", &spent).send().expect(200);

    for (name, proof) in [
        ("nothing", String::new()),
        ("the method", with("htm", json!("GET"))),
        ("the place", with("htu", json!("https://app.test/_auth/token/refresh"))),
        ("old", with("iat", json!(gateway.now().unix_seconds() - 61))),
        ("from ahead", with("iat", json!(gateway.now().unix_seconds() + 61))),
        ("forged", forged),
        ("used before", spent),
        ("without a name", with("jti", json!(""))),
    ] {
        let refused = phone(&gateway).header("DPoP", &proof).send().expect(400);
        assert_eq!(text(&refused, "error"), "invalid_dpop_proof", "{name}");
    }
    let twice = phone(&gateway).header("DPoP", &with("a", json!(1))).header("DPoP", &with("b", json!(2)));
    assert_eq!(text(&twice.send().expect(400), "error"), "invalid_dpop_proof");
    assert_eq!(gateway.metric("portcullis_logins_total", &[("result", "succeeded")]), 1.0);
}

/// RFC 9449 section 8.
#[test]
fn a_nonce_is_asked_for_where_tokens_are_given() {
    let upstream = Upstream::start();
    let gateway = started(&upstream, "nonce = \"required\"", "");
    let holder = Holder::new();

    let refused = phone(&gateway).header("DPoP", &proof(&holder, &gateway, TOKEN)).send().expect(400);
    assert_eq!(text(&refused, "error"), "use_dpop_nonce");
    let mut payload = payload(&gateway, TOKEN);
    payload["nonce"] = refused.header("dpop-nonce").expect("a nonce").into();
    phone(&gateway).header("DPoP", &holder.sign(&payload)).send().expect(200);
}

/// `token/revoke` checks signatures, and so is no way around what wrong ones cost.
#[test]
fn forged_tokens_that_are_given_back_are_looked_at_slowly() {
    let upstream = Upstream::start();
    let gateway = started(&upstream, "", "");
    let token = text(&phone(&gateway).send().expect(200), "access_token");
    let head = token.rsplit_once('.').expect("three parts").0;
    let give_back = |token: &str| {
        let body = json!({ "client_id": "phone", "token": token });
        gateway.client().post(REVOKE, "").json(&body).send().status
    };
    let forged = |number: u32| format!("{head}.{}", URL_SAFE_NO_PAD.encode([number.to_be_bytes(); 16].concat()));

    assert_eq!(opens(&gateway, &token), 200);
    let answers: Vec<u16> = (1..=150).map(|number| give_back(&forged(number))).collect();
    assert_eq!((answers[0], answers[149]), (200, 429));
    assert_eq!(opens(&gateway, &token), 200, "a known token never waits");
    gateway.advance(Duration::from_secs(10));
    assert_eq!(give_back(&token), 200);
    assert_eq!(opens(&gateway, &token), 401);
}
