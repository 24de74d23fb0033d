//! The signed examples of RFC 7515 (appendix A, E), RFC 7519 (section 6.1), RFC 7520 (section 4) and RFC 8037 (appendix
//! A.4), with the keys that the RFCs print, through a running gateway.
//!
//! Hardly one is a token for anybody: they have no subject or audience, or are no JSON. Each must fail for just that,
//! and what is made over with the same key must count. That the signatures themselves are found good is shown where the
//! gateway looks at them before it fails, and for all of them in `src/authn/keys.rs`.

use std::time::Duration;

use portcullis::{authn::keys::Algorithm, clock::Timestamp};
use serde_json::{Value, json};

use crate::support::{Gateway, Issuer, Upstream, gateway::Running};

/// `exp` of the tokens in RFC 7515 appendix A.
const EXP: u64 = 1_300_819_380;
/// They name no audience.
const ANY: &str = "issuer = \"joe\"\naudience = []\ninsecure_any_audience = \"the examples have none\"";

struct Example {
    name: String,
    issuer: Issuer,
    token: String,
    /// What the gateway reads: the public half as the RFC prints it, or nothing for a shared secret.
    jwk: Option<Value>,
    algorithm: String,
}

fn examples(rfc: &str) -> Vec<Example> {
    let all: Vec<Value> = serde_json::from_str(include_str!("examples.json")).expect("the examples");
    let examples = all.into_iter().filter(|example| example["example"].as_str().unwrap().starts_with(rfc));
    examples
        .map(|mut example| {
            let text = |name: &str| example[name].as_str().unwrap().to_owned();
            let (name, token, algorithm) = (text("example"), text("token"), text("algorithm"));
            let issuer = Issuer::from_jwk(algorithm.parse().unwrap(), &example["key"]);
            let mut jwk = example["key"].take();
            let members = jwk.as_object_mut().unwrap();
            let is_secret = members.contains_key("k");
            members.retain(|name, _| !["d", "p", "q", "dp", "dq", "qi"].contains(&name.as_str()));
            Example { name, issuer, token, jwk: (!is_secret).then_some(jwk), algorithm }
        })
        .collect()
}

impl Example {
    /// A gateway that knows this key, at a moment when the examples have not expired.
    fn gateway(&self, upstream: &Upstream, lines: &str) -> Running {
        let gateway = Gateway::new().at(Timestamp::from_unix_seconds(EXP - 60));
        let lines = match &self.jwk {
            None => lines.to_owned(),
            Some(jwk) => {
                let file = gateway.write("rfc.json", &json!({ "keys": [jwk] }).to_string());
                format!("jwks = {{ file = {file:?} }}\n{lines}")
            }
        };
        gateway.issuer_with(&self.issuer, &lines).route("/{*rest}", upstream).auth(&["jwt"]).start()
    }

    /// The header as the example has it, and another payload, signed with the RFC's key.
    fn made_over(&self, claims: &Value) -> String {
        let mut header = json!({ "alg": self.algorithm });
        if let Some(kid) = self.jwk.as_ref().and_then(|jwk| jwk["kid"].as_str()) {
            header["kid"] = kid.into();
        }
        self.issuer.sign_with_header(&header, claims)
    }
}

/// A request of its own path, and for which reason it is refused.
#[track_caller]
fn refusal(gateway: &Running, path: &str, token: &str) -> String {
    gateway.client().get(path).header("Authorization", &format!("Bearer {token}")).send().expect(401);
    gateway.reason_of(path)
}

fn forged(token: &str) -> String {
    let (input, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    format!("{input}.{first}{}", &signature[1..])
}

/// RFC 7515 appendix A.1 to A.3: a token of joe's, for nobody in particular and about nobody.
#[test]
fn the_tokens_of_rfc_7515_fail_for_what_they_lack_after_their_signature_was_found_good() {
    let upstream = Upstream::start();
    for example in examples("RFC 7515").iter().filter(|example| example.algorithm != "ES512") {
        let (name, token) = (&example.name, &*example.token);

        let gateway = example.gateway(&upstream, ANY);
        assert_eq!(refusal(&gateway, "/as-printed", token), "missing_claim", "{name}: no subject");
        assert_eq!(refusal(&gateway, "/forged", &forged(token)), "wrong_signature", "{name}");
        gateway.advance(Duration::from_secs(91));
        assert_eq!(refusal(&gateway, "/late", token), "expired", "{name}");
        let demanding = example.gateway(&upstream, "issuer = \"joe\"");
        assert_eq!(refusal(&demanding, "/no-audience", token), "missing_claim", "{name}");
        let elsewhere = example.gateway(&upstream, "");
        assert_eq!(refusal(&elsewhere, "/other-issuer", token), "unknown_issuer", "{name}");
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// RFC 7515 appendix A.1 to A.3: where nobody asks for an audience and the issuer is the subject, they count.
#[test]
fn the_tokens_of_rfc_7515_count_where_nothing_is_asked_that_they_lack() {
    let upstream = Upstream::start();
    for example in examples("RFC 7515").iter().filter(|example| example.algorithm != "ES512") {
        let gateway = example.gateway(&upstream, &format!("{ANY}\nclaims = {{ subject = \"iss\" }}"));

        for _ in 0..2 {
            gateway.client().get("/x").bearer(&example.token).send().expect(200);
            assert_eq!(upstream.next_request().header("x-user-id"), Some("joe"), "{}", example.name);
        }
        assert_eq!(refusal(&gateway, "/forged", &forged(&example.token)), "wrong_signature", "{}", example.name);
    }
}

/// RFC 7515 appendix A.4, RFC 7520 sections 4.1 to 4.4, RFC 8037 appendix A.4: signed text that is no JWT.
#[test]
fn a_good_signature_under_something_else_than_claims_is_no_token() {
    let upstream = Upstream::start();
    let all = ["RFC 7515 A.4", "RFC 7520", "RFC 8037"].map(examples);
    let mut seen = 0;
    for example in all.iter().flatten() {
        let gateway = example.gateway(&upstream, "");
        assert_eq!(refusal(&gateway, "/as-printed", &example.token), "not_json", "{}", example.name);
        seen += 1;
    }
    assert_eq!((seen, upstream.connection_count()), (6, 0));
}

/// All of them: with claims that are good, the same header under the same key counts; forged it does not.
#[test]
fn what_is_made_over_with_the_keys_of_the_rfcs_counts() {
    let upstream = Upstream::start();
    for example in &examples("RFC") {
        let gateway = example.gateway(&upstream, "");
        let token = example.made_over(&Issuer::claims("frodo", &[], gateway.now()));

        gateway.client().get("/x").bearer(&token).send().expect(200);
        assert_eq!(upstream.next_request().header("x-user-id"), Some("frodo"), "{}", example.name);
        assert_eq!(refusal(&gateway, "/forged", &forged(&token)), "wrong_signature", "{}", example.name);
    }
}

/// RFC 7515 appendix A.5 and RFC 7519 section 6.1; appendix E. Nobody has signed them.
#[test]
fn the_unsecured_examples_are_refused() {
    let upstream = Upstream::start();
    let [a1, ..] = &examples("RFC 7515 A.1")[..] else { panic!("the example is there") };
    let gateway = a1.gateway(&upstream, &format!("{ANY}\nclaims = {{ subject = \"iss\" }}"));
    let payload = a1.token.split('.').nth(1).unwrap();
    let unsecured = format!("eyJhbGciOiJub25lIn0.{payload}.");
    let critical = "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJTkVEIl0sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9VTkRFRklORUQiOnRydWUNCn0.RkFJTA.";

    assert_eq!(refusal(&gateway, "/unsecured", &unsecured), "algorithm_unknown");
    assert_eq!(refusal(&gateway, "/critical", critical), "critical_header");
    assert_eq!(upstream.connection_count(), 0);
    gateway.client().get("/x").bearer(&a1.token).send().expect(200);
}

/// RFC 7515 appendix A.6, A.7 and F, RFC 7520 sections 4.5 to 4.8: other forms than the compact one.
#[test]
fn detached_and_json_forms_are_no_bearer_tokens() {
    let upstream = Upstream::start();
    let [a3, ..] = &examples("RFC 7515 A.3")[..] else { panic!("the example is there") };
    let gateway = a3.gateway(&upstream, &format!("{ANY}\nclaims = {{ subject = \"iss\" }}"));
    let parts: Vec<&str> = a3.token.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let kid = json!({ "kid": "e9bc097a-ce51-4036-9562-d2ade882db0d" });
    let one = json!({ "protected": header, "header": kid, "signature": signature });
    let mut flattened = one.clone();
    flattened["payload"] = payload.into();

    for (path, form, reason) in [
        ("/detached", format!("{header}..{signature}"), "not_json"),
        ("/general", json!({ "payload": payload, "signatures": [one] }).to_string(), "unreadable_authorization"),
        ("/flattened", flattened.to_string(), "unreadable_authorization"),
    ] {
        assert_eq!(refusal(&gateway, path, &form), reason);
    }
    assert_eq!(upstream.connection_count(), 0);
    gateway.client().get("/x").bearer(&a3.token).send().expect(200);
}

/// RFC 7520 section 3: an algorithm that the key could serve, and that its issuer does not sign with.
#[test]
fn a_key_of_the_cookbook_signs_with_the_algorithms_of_its_issuer_only() {
    let upstream = Upstream::start();
    let [rs256, ..] = &examples("RFC 7520 4.1")[..] else { panic!("the example is there") };
    let gateway = rs256.gateway(&upstream, "");
    let claims = Issuer::claims("frodo", &[], gateway.now());
    let [ps384, ..] = &examples("RFC 7520 4.2")[..] else { panic!("the example is there") };

    assert_eq!(ps384.issuer.kid(), rs256.issuer.kid(), "it is the same key");
    assert_eq!(refusal(&gateway, "/ps384", &ps384.made_over(&claims)), "algorithm_not_allowed");
    assert_eq!("PS384".parse(), Ok(Algorithm::PS384));
    gateway.client().get("/x").bearer(&rs256.made_over(&claims)).send().expect(200);
}
