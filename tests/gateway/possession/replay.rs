//! RFC 9449 section 11.1: a proof counts once, wherever it comes, and whoever floods us makes nobody's count twice.

use std::{sync::Barrier, time::Duration};

use serde_json::json;

use super::{started, with};
use crate::support::{
    Gateway, Holder, Issuer, Upstream,
    http2::{END_HEADERS, END_STREAM, HEADERS, Http2, block, frame},
};

#[test]
fn a_proof_counts_once_on_whichever_connection() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = started(Gateway::new().issuer(&issuer).route("/{*rest}", &upstream));
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let proof = holder.proof("/x", &token, gateway.now());
    let request = gateway.client().get("/x").dpop(&token, &proof);
    let mut connection = gateway.client().connect();

    connection.send(&request).expect(200);
    let again = connection.send(&request).expect(401);
    assert!(again.all("www-authenticate")[0].contains("error=\"invalid_dpop_proof\""), "{again:?}");
    for _ in 0..4 {
        // Two workers take connections in turn.
        request.send().expect(401);
        request.send_http2().expect(401);
    }
    gateway.advance(Duration::from_secs(59));
    request.send().expect(401);
    gateway.advance(Duration::from_secs(2));
    request.send().expect(401);
    assert_eq!(upstream.request_count(), 1);
    gateway.client().get("/x").dpop(&token, &holder.proof("/x", &token, gateway.now())).send().expect(200);
    assert_eq!(gateway.metric("portcullis_dpop_replays_total", &[]), 10.0);
}

/// From many connections at both workers at once, and on many streams of one connection.
#[test]
fn of_many_uses_at_once_exactly_one_counts() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = started(Gateway::new().issuer(&issuer).route("/{*rest}", &upstream));
    let token = issuer.sign(&holder.claims("alice", gateway.now()));

    for round in 0..5 {
        let request = gateway.client().get("/x").dpop(&token, &holder.proof("/x", &token, gateway.now()));
        let barrier = Barrier::new(8);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let ask = || {
                let mut connection = gateway.client().connect();
                barrier.wait();
                connection.send(&request).status
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "round {round}: {statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 7, "round {round}: {statuses:?}");
    }

    let proof = holder.proof("/x", &token, gateway.now());
    let authorization = format!("DPoP {token}");
    let mut fields = crate::support::http2::get("app.test", "/x");
    fields.extend([(&b"authorization"[..], authorization.as_bytes()), (b"dpop", proof.as_bytes())]);
    let mut connection = Http2::connect(&gateway.client());
    let streams: Vec<u32> = (0..8).map(|number| 2 * number + 1).collect();
    let requests = streams.iter().map(|stream| frame(HEADERS, END_STREAM | END_HEADERS, *stream, &block(&fields)));
    let before = upstream.request_count();
    connection.write(&requests.collect::<Vec<_>>().concat()).unwrap();
    let mut answered = 0;
    while answered < streams.len() {
        let frame = connection.read().expect("a frame");
        answered += usize::from(frame.kind == HEADERS);
    }
    assert_eq!((before, upstream.request_count()), (5, 6), "one of eight streams");
}

/// A clock that is set back brings no proof back.
#[test]
fn a_proof_does_not_count_again_after_the_clock_stepped_back() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = started(Gateway::new().issuer(&issuer).route("/{*rest}", &upstream));
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let used = gateway.client().get("/x").dpop(&token, &holder.proof("/x", &token, gateway.now()));
    used.send().expect(200);
    gateway.advance(Duration::from_secs(62));
    gateway.client().get("/x").dpop(&token, &holder.proof("/x", &token, gateway.now())).send().expect(200);

    gateway.clock().set(gateway.now().minus(Duration::from_secs(50)));

    used.send().expect(401);
    gateway.client().get("/x").dpop(&token, &holder.proof("/x", &token, gateway.now())).send().expect(200);
}

/// One subject gets half of the room, whatever keys it makes; the next one still finds some; and a full store refuses
/// new proofs rather than forget a used one.
#[test]
fn one_subject_cannot_take_the_room_of_all_and_a_full_store_forgets_nothing() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = Gateway::with("[limits]\nmax_proofs = 8").issuer(&issuer).route("/{*rest}", &upstream);
    let gateway = started(gateway);
    let (holder, second) = (Holder::new(), Holder::new());
    let ask = |subject: &str, holder: &Holder| {
        let token = issuer.sign(&holder.claims(subject, gateway.now()));
        gateway.client().get("/x").dpop(&token, &holder.proof("/x", &token, gateway.now())).send()
    };
    let token = issuer.sign(&holder.claims("alice", gateway.now()));
    let used = gateway.client().get("/x").dpop(&token, &holder.proof("/x", &token, gateway.now()));
    used.send().expect(200);

    let mallory: Vec<u16> =
        [&holder, &second, &holder, &second, &holder].map(|holder| ask("mallory", holder).status).to_vec();
    assert_eq!(mallory, [200, 200, 200, 200, 429], "with another key it is the same subject");
    assert!(ask("mallory", &holder).header("retry-after").is_some());
    for subject in ["bob", "carol", "dave"] {
        ask(subject, &holder).expect(200);
    }
    let full = ask("erin", &holder).expect(503);
    assert!(full.header("retry-after").is_some() && full.json()["error"] == "proofs_full", "{full:?}");
    used.send().expect(401);

    gateway.advance(Duration::from_secs(62));
    ask("erin", &holder).expect(200);
    assert_eq!(gateway.metric("portcullis_dpop_proofs", &[]), 1.0);
    assert_eq!(gateway.metric("portcullis_dpop_refused_total", &[]), 3.0);
}

/// A proof that was refused for another reason is not used up, and one that was good is, though its request was not.
#[test]
fn a_proof_is_used_up_by_what_it_proves() {
    let (upstream, issuer, holder) = (Upstream::start(), Issuer::es256(), Holder::new());
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).require_role("admin");
    let gateway = started(gateway);
    let now = gateway.now();
    let token = issuer.sign(&with(&holder.claims("alice", now), &json!({ "roles": ["user"] })));
    let admin = issuer.sign(&with(&holder.claims("alice", now), &json!({ "roles": ["admin"] })));
    let refused = gateway.client().get("/x").dpop(&token, &holder.proof("/x", &token, now));
    let good = holder.proof("/x", &admin, now);

    refused.send().expect(403);
    refused.send().expect(401);
    gateway.client().get("/y").dpop(&admin, &good).send().expect(401);
    gateway.client().get("/x").dpop(&admin, &good).send().expect(200);
}
