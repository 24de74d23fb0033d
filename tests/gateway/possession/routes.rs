//! Where tokens must be bound, what others are told, and what goes upstream (R2, R4, R14, R17, R28, R32).

use std::time::Duration;

use serde_json::json;

use super::{started, with};
use crate::support::{
    Gateway, Holder, Issuer, Upstream,
    gateway::Running,
    websocket::{self, echoes, echoing},
};

/// Status of a bearer token that is bound to nothing, and of one that is bound and proven.
fn statuses(gateway: &Running, issuer: &Issuer, path: &str) -> [u16; 2] {
    let holder = Holder::new();
    let bearer = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let bound = issuer.sign(&holder.claims("alice", gateway.now()));
    let proof = holder.proof(path, &bound, gateway.now());
    [
        gateway.client().get(path).bearer(&bearer).send().status,
        gateway.client().get(path).dpop(&bound, &proof).send().status,
    ]
}

#[test]
fn a_route_can_ask_for_tokens_that_are_bound() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = Gateway::new().issuer(&issuer);
    let gateway = ["none", "any", "dpop", "mtls"].iter().fold(gateway, |gateway, rule| {
        gateway.route(&format!("/{rule}/{{*rest}}"), &upstream).key(&format!("proof = {rule:?}"))
    });
    let gateway = started(gateway);

    assert_eq!(statuses(&gateway, &issuer, "/none/x"), [200, 200]);
    assert_eq!(statuses(&gateway, &issuer, "/any/x"), [401, 200]);
    assert_eq!(statuses(&gateway, &issuer, "/dpop/x"), [401, 200]);
    assert_eq!(statuses(&gateway, &issuer, "/mtls/x"), [401, 401]);
    assert_eq!(upstream.request_count(), 4);
}

/// The issuer's word holds on every route.
#[test]
fn an_issuer_can_have_all_its_tokens_bound() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = Gateway::new().issuer_with(&issuer, "proof = \"dpop\"\n").route("/{*rest}", &upstream);
    let gateway = started(gateway);

    assert_eq!(statuses(&gateway, &issuer, "/x"), [401, 200]);
    let asked = gateway.client().get("/x").send().expect(401);
    let challenges = asked.all("www-authenticate");
    assert!(
        challenges.len() == 2 && challenges[1].starts_with("DPoP ") && challenges[1].contains("algs="),
        "{asked:?}"
    );
}

/// RFC 9449 section 7.1: both schemes are challenged where both count, one where one does.
#[test]
fn callers_are_told_which_schemes_count() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = Gateway::new().issuer(&issuer).route("/plain/{*rest}", &upstream);
    let gateway = gateway.route("/any/{*rest}", &upstream).key("proof = \"any\"");
    let gateway = started(gateway.route("/dpop/{*rest}", &upstream).key("proof = \"dpop\""));
    let schemes = |path: &str| -> Vec<String> {
        let answer = gateway.client().get(path).send().expect(401);
        let all = answer.all("www-authenticate");
        all.iter().map(|challenge| challenge.split(' ').next().unwrap().to_owned()).collect()
    };

    assert_eq!(schemes("/plain/x"), ["Bearer"]);
    assert_eq!(schemes("/any/x"), ["Bearer", "DPoP"]);
    assert_eq!(schemes("/dpop/x"), ["DPoP"]);
}

/// R4. A bad proof is no missing one.
#[test]
fn a_bad_proof_is_never_anonymous() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).key("optional = true");
    let gateway = started(gateway);
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let good = holder.proof("/x", &token, gateway.now());

    gateway.client().get("/x").dpop(&token, &holder.proof("/y", &token, gateway.now())).send().expect(401);
    gateway.client().get("/x").dpop(&token, "garbage").send().expect(401);
    gateway.client().get("/x").header("Authorization", &format!("DPoP {token}")).send().expect(401);
    gateway.client().get("/x").bearer(&token).send().expect(401);
    assert_eq!(upstream.connection_count(), 0);
    gateway.client().get("/x").dpop(&token, &good).send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
    gateway.client().get("/x").send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), None);
}

/// R14. Token and proof go upstream together where the route says so, and the proof by itself never.
#[test]
fn a_proof_goes_upstream_only_with_its_token() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = Gateway::new().issuer(&issuer).route("/kept/{*rest}", &upstream);
    let gateway = gateway.route("/passed/{*rest}", &upstream).key("forward_credential = true");
    let gateway = gateway.route("/open/{*rest}", &upstream).auth(&["none"]);
    let gateway = gateway.route("/through/{*rest}", &upstream).auth(&["none"]).key("pass_authorization = true");
    let gateway = started(gateway);
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let bearer = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let authorization = format!("DPoP {token}");
    let sent = |path: &str| {
        let proof = holder.proof(path, &token, gateway.now());
        gateway.client().get(path).dpop(&token, &proof).send().expect(200);
        let seen = upstream.next_request();
        (seen.header("authorization").map(str::to_owned), seen.header("dpop").map(str::to_owned) == Some(proof))
    };

    assert_eq!(sent("/kept/x"), (None, false));
    assert_eq!(sent("/passed/x"), (Some(authorization.clone()), true));
    assert_eq!(sent("/open/x"), (None, false));
    assert_eq!(sent("/through/x"), (Some(authorization), true));
    gateway.client().get("/passed/x").bearer(&bearer).header("DPoP", "unchecked").send().expect(200);
    let seen = upstream.next_request();
    assert_eq!((seen.header("authorization").is_some(), seen.header("dpop")), (true, None));
    gateway.client().get("/open/x").header("DPoP", "anything").send().expect(200);
    assert_eq!(upstream.next_request().header("dpop"), None);
}

/// R32. A page that may send tokens may send proofs, and read what it needs for the next.
#[test]
fn pages_of_other_origins_can_use_dpop() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let rule = |headers: &str| format!("cors = {{ origins = [\"https://spa.test\"], headers = [{headers}] }}");
    let gateway = Gateway::new().issuer(&issuer).route("/api/{*rest}", &upstream).key(&rule("\"authorization\""));
    let gateway = started(gateway.route("/other/{*rest}", &upstream).key(&rule("\"x-thing\"")));
    let preflight = |path: &str| {
        let request = gateway.client().request("OPTIONS", path).header("Origin", "https://spa.test");
        let request = request.header("Access-Control-Request-Method", "GET");
        let request = request.header("Access-Control-Request-Headers", "authorization,dpop");
        let answer = request.send().expect(204);
        answer.header("access-control-allow-headers").expect("headers").to_owned()
    };

    assert_eq!(preflight("/api/x"), "authorization, dpop");
    assert_eq!(preflight("/other/x"), "x-thing");
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let ask =
        |proof: &str| gateway.client().get("/api/x").header("Origin", "https://spa.test").dpop(&token, proof).send();
    for answer in [ask(&holder.proof("/api/x", &token, gateway.now())).expect(200), ask("garbage").expect(401)] {
        let exposed = answer.header("access-control-expose-headers").expect("something exposed");
        assert_eq!(exposed, "dpop-nonce, www-authenticate");
        assert!(answer.header("dpop-nonce").is_some());
    }
}

/// R17 and R28. The handshake is proven, and the tunnel ends with its token.
#[test]
fn a_tunnel_opens_with_a_proof_and_ends_with_its_token() {
    let (upstream, issuer, holder) = (echoing(), Issuer::es256(), Holder::new());
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).key("upgrade = [\"websocket\"]");
    let gateway = started(gateway);
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let handshake = |proof: &str| websocket::handshake(gateway.client().get("/ws").dpop(&token, proof));
    let good = holder.proof("/ws", &token, gateway.now());

    handshake(&holder.proof("/other", &token, gateway.now())).send().expect(401);
    assert_eq!(upstream.connection_count(), 0);
    let mut tunnel = gateway.client().connect();
    tunnel.send(&handshake(&good)).expect(101);
    handshake(&good).send().expect(401);
    assert!(echoes(&mut tunnel));

    gateway.advance(Duration::from_secs(299));
    assert!(echoes(&mut tunnel));
    gateway.advance(Duration::from_secs(2));
    assert!(tunnel.is_closed_by_peer());
}

/// Whatever holds of a token holds of one that is proven: its expiry, its requirements, its revocation.
#[test]
fn a_good_proof_makes_no_void_token_good() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = Gateway::new().admin().issuer(&issuer).route("/{*rest}", &upstream).auth(&["jwt"]);
    let gateway = started(gateway.require_role("user"));
    let now = gateway.now();
    let claims = with(&holder.claims("alice", now), &json!({ "jti": "t1" }));
    let ask = |token: &str| {
        let proof = holder.proof("/x", token, gateway.now());
        gateway.client().get("/x").dpop(token, &proof).send()
    };

    let token = issuer.sign(&claims);
    ask(&token).expect(200);
    ask(&issuer.sign(&with(&claims, &json!({ "roles": [] })))).expect(403);
    let expired = ask(&issuer.sign(&with(&claims, &json!({ "exp": now.unix_seconds() - 60 })))).expect(401);
    assert!(expired.all("www-authenticate")[0].starts_with("DPoP realm=\"portcullis\", error=\"invalid_token\""));
    ask(&issuer.sign_with(&Issuer::es256(), &claims)).expect(401);
    gateway
        .admin()
        .post("/api/v1/revocations", "")
        .json(&json!({ "kind": "subject", "realm": "staff", "subject": "alice" }))
        .send();
    ask(&token).expect(401);
}
