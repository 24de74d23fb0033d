//! RFC 9449 sections 8 and 9: nonces of the gateway; and what a restart means for proofs that were used before it.

use std::time::Duration;

use super::started;
use crate::support::{Gateway, Holder, Issuer, Response, Upstream, gateway::Running};

fn gateway(nonce: &str, issuer: &Issuer, upstream: &Upstream) -> Gateway {
    Gateway::with(&format!("[dpop]\nnonce = {nonce:?}")).issuer(issuer).route("/{*rest}", upstream)
}

/// One proof for `/x`, with or without a nonce.
fn ask(gateway: &Running, issuer: &Issuer, holder: &Holder, nonce: Option<&str>) -> Response {
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let proof = match nonce {
        None => holder.proof("/x", &token, gateway.now()),
        Some(nonce) => holder.proof_with_nonce("/x", &token, gateway.now(), nonce),
    };
    gateway.client().get("/x").dpop(&token, &proof).send()
}

#[track_caller]
fn nonce_of(answer: &Response) -> String {
    answer.header("dpop-nonce").expect("a nonce").to_owned()
}

/// Asked for a nonce, a client comes back with it and is let in; the next one comes before it ends.
#[test]
fn where_nonces_are_required_a_client_is_told_one_and_comes_back_with_it() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = started(gateway("required", &issuer, &upstream));

    let asked = ask(&gateway, &issuer, &holder, None).expect(401);
    let challenge = asked.all("www-authenticate")[0];
    assert!(challenge.starts_with("DPoP ") && challenge.contains("error=\"use_dpop_nonce\""), "{challenge}");
    assert_eq!(asked.json()["error"], "use_dpop_nonce");
    assert_eq!(upstream.connection_count(), 0);

    let first = nonce_of(&asked);
    ask(&gateway, &issuer, &holder, Some(&first)).expect(200);
    let mut nonce = first.clone();
    for _ in 0..10 {
        gateway.advance(Duration::from_secs(59));
        let answer = ask(&gateway, &issuer, &holder, Some(&nonce)).expect(200);
        nonce = nonce_of(&answer);
    }
    assert_ne!(nonce, first);
    let ended = ask(&gateway, &issuer, &holder, Some(&first)).expect(401);
    assert!(ended.all("www-authenticate")[0].contains("use_dpop_nonce"), "{ended:?}");
    ask(&gateway, &issuer, &holder, Some(&nonce_of(&ended))).expect(200);
}

/// One that was changed, or is another gateway's, is answered with a new one.
#[test]
fn only_a_nonce_of_this_gateway_counts() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    for rule in ["required", "optional"] {
        let one = started(gateway(rule, &issuer, &upstream));
        let other = started(gateway(rule, &issuer, &upstream));
        let nonce = nonce_of(&ask(&one, &issuer, &holder, None));
        let others = nonce_of(&ask(&other, &issuer, &holder, None));

        for wrong in [others.as_str(), "", "x", &nonce[1..], &format!("{nonce}A"), &nonce.to_uppercase()] {
            let answer = ask(&one, &issuer, &holder, Some(wrong)).expect(401);
            assert!(answer.all("www-authenticate")[0].contains("use_dpop_nonce"), "{rule} {wrong:?}");
        }
        ask(&one, &issuer, &holder, Some(&nonce)).expect(200);
    }
}

#[test]
fn nonces_may_be_optional_or_off() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let optional = started(gateway("optional", &issuer, &upstream));
    let off = started(gateway("off", &issuer, &upstream));

    assert!(ask(&optional, &issuer, &holder, None).expect(200).header("dpop-nonce").is_some());
    assert!(ask(&off, &issuer, &holder, None).expect(200).header("dpop-nonce").is_none());
    ask(&off, &issuer, &holder, Some("of another server")).expect(200);
    let bearer = issuer.sign(&Issuer::claims("alice", &[], optional.now()));
    let plain = optional.client().get("/x").bearer(&bearer).send().expect(200);
    assert!(plain.header("dpop-nonce").is_none(), "who uses no DPoP hears nothing of it");
}

/// What was used before a start is forgotten, so whatever may have been made before it has to show a nonce given out
/// since; without nonces, it must at least have been made since.
#[test]
fn a_proof_that_may_have_been_used_before_the_start_does_not_count() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let before = started(gateway("optional", &issuer, &upstream));
    let token = issuer.sign(&holder.claims("alice", before.now()));
    let (proof, moment) = (holder.proof("/x", &token, before.now()), before.now());
    before.client().get("/x").dpop(&token, &proof).send().expect(200);
    assert!(before.stop());

    for rule in ["optional", "required", "off"] {
        let after = gateway(rule, &issuer, &upstream).at(moment.plus(Duration::from_secs(2))).start();
        let again = after.client().get("/x").dpop(&token, &proof).send().expect(401);
        let error = if rule == "off" { "invalid_dpop_proof" } else { "use_dpop_nonce" };
        assert!(again.all("www-authenticate")[0].contains(error), "{rule}: {again:?}");
        let nonce = again.header("dpop-nonce").map(str::to_owned);
        assert_eq!(nonce.is_none(), rule == "off");
        ask(&after, &issuer, &holder, nonce.as_deref()).expect(200);
        after.advance(Duration::from_secs(62));
        ask(&after, &issuer, &holder, None).expect(if rule == "required" { 401 } else { 200 });
    }
}
