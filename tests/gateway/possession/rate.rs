//! R19: wrong signatures cost whoever sends them, and nobody else.

use std::time::Duration;

use portcullis::clock::instant;
use serde_json::json;

use super::{started, with};
use crate::support::{Gateway, Holder, Issuer, Response, Upstream, gateway::Running};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\"]";

/// As if it came from this address.
fn send(gateway: &Running, from: &str, token: &str) -> Response {
    gateway.client().get("/x").header("X-Forwarded-For", from).bearer(token).send()
}

/// Five seconds' worth of forged tokens are looked at, then no new one of that address; what is known goes on, and so
/// does everybody else.
#[test]
fn a_forger_waits_and_nobody_else_does() {
    let (upstream, issuer, stranger) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let gateway = Gateway::with("[limits]\nverify_rate = 2").server(TRUSTED).issuer(&issuer);
    let gateway = gateway.route("/{*rest}", &upstream).start();
    let claims = |subject: &str| Issuer::claims(subject, &[], gateway.now());
    let known = issuer.sign(&claims("alice"));
    send(&gateway, "192.0.2.1", &known).expect(200);

    let forge = |number: usize| issuer.sign_with(&stranger, &claims(&format!("m{number}")));
    let forged: Vec<String> = (0..20).map(forge).collect();
    let statuses: Vec<u16> = forged.iter().map(|token| send(&gateway, "192.0.2.1", token).status).collect();

    let looked_at = statuses.iter().filter(|status| **status == 401).count();
    assert!(statuses[..10].iter().all(|status| *status == 401) && (10..=11).contains(&looked_at), "{statuses:?}");
    let refused = send(&gateway, "192.0.2.1", &forge(99)).expect(429);
    assert!(refused.header("retry-after").is_some());
    send(&gateway, "192.0.2.1", &forged[9]).expect(401);
    send(&gateway, "192.0.2.1", &known).expect(200);
    send(&gateway, "192.0.2.1", &issuer.sign(&claims("bob"))).expect(429);
    send(&gateway, "192.0.2.2", &issuer.sign(&claims("bob"))).expect(200);
    send(&gateway, "192.0.2.2", &forge(100)).expect(401);
    assert!(gateway.metric("portcullis_verifications_refused_total", &[]) >= 10.0);

    gateway.advance(Duration::from_secs(1));
    send(&gateway, "192.0.2.1", &issuer.sign(&claims("carol"))).expect(200);
}

/// Nor as fast as it can send: each answer takes a moment, on every connection.
#[test]
fn a_forger_that_is_refused_is_not_answered_at_once() {
    let (upstream, issuer, stranger) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let gateway = Gateway::with("[limits]\nverify_rate = 1").issuer(&issuer).route("/{*rest}", &upstream).start();
    let claims = |subject: String| Issuer::claims(&subject, &[], gateway.now());
    let known = issuer.sign(&claims("alice".to_owned()));
    let (client, mut connection) = (gateway.client(), gateway.client().connect());
    connection.send(&client.get("/x").bearer(&known)).expect(200);
    let forge = |number: usize| issuer.sign_with(&stranger, &claims(format!("m{number}")));
    for number in 0..6 {
        connection.send(&client.get("/x").bearer(&forge(number))).expect(401);
    }

    let begun = instant();
    for number in 6..11 {
        connection.send(&client.get("/x").bearer(&forge(number))).expect(429);
    }

    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    connection.send(&client.get("/x").bearer(&known)).expect(200);
}

/// IPv6: a /64 is one client.
#[test]
fn the_addresses_of_one_network_wait_together() {
    let (upstream, issuer, stranger) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let gateway = Gateway::with("[limits]\nverify_rate = 1").server(TRUSTED).issuer(&issuer);
    let gateway = gateway.route("/{*rest}", &upstream).start();
    let token = |issuer: &Issuer, subject: &str| issuer.sign(&Issuer::claims(subject, &[], gateway.now()));
    for number in 0..8 {
        let forged = issuer.sign_with(&stranger, &Issuer::claims(&format!("m{number}"), &[], gateway.now()));
        send(&gateway, &format!("2001:db8::{number}"), &forged);
    }

    send(&gateway, "2001:db8::ffff", &token(&issuer, "alice")).expect(429);
    send(&gateway, "2001:db8:0:1::1", &token(&issuer, "alice")).expect(200);
}

/// Good tokens are never counted, however many are new.
#[test]
fn whoever_sends_good_tokens_never_waits() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = Gateway::with("[limits]\nverify_rate = 1").issuer(&issuer).route("/{*rest}", &upstream).start();
    for number in 0..50 {
        let token = issuer.sign(&Issuer::claims(&format!("u{number}"), &[], gateway.now()));
        gateway.client().get("/x").bearer(&token).send().expect(200);
    }
}

/// Proofs with a wrong signature are booked to the key and the address: the thief of a token slows down itself, not the
/// key's owner elsewhere, nor its own neighbours.
#[test]
fn forged_proofs_slow_down_whoever_forges_them() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let (owner, thief, neighbour) = (Holder::new(), Holder::new(), Holder::new());
    let gateway = Gateway::with("[limits]\nverify_rate = 1").server(TRUSTED).issuer(&issuer);
    let gateway = started(gateway.route("/{*rest}", &upstream));
    let now = gateway.now();
    let (token, others) = (issuer.sign(&owner.claims("alice", now)), issuer.sign(&neighbour.claims("bob", now)));
    let ask = |from: &str, token: &str, proof: &str| {
        gateway.client().get("/x").header("X-Forwarded-For", from).dpop(token, proof).send().status
    };
    let forge = || thief.sign_with_header(&owner.header(), &Holder::payload("GET", "/x", &token, now));

    let forged: Vec<u16> = (0..8).map(|_| ask("192.0.2.66", &token, &forge())).collect();

    assert_eq!(forged[..5], [401; 5]);
    assert_eq!(forged[6..], [429; 2]);
    assert_eq!(ask("192.0.2.66", &others, &neighbour.proof("/x", &others, now)), 200);
    assert_eq!(ask("192.0.2.1", &token, &owner.proof("/x", &token, now)), 200);
    assert_eq!(ask("192.0.2.66", &token, &owner.proof("/x", &token, now)), 429);
    let stale = with(&Holder::payload("GET", "/x", &token, now), &json!({ "iat": 1 }));
    assert_eq!(ask("192.0.2.66", &token, &owner.sign(&stale)), 401, "what is refused unchecked needs no wait");
}
