//! R23: a signature is verified once; everything else is judged on every request.

use std::time::Duration;

use serde_json::json;

use crate::support::{Gateway, Issuer, Upstream, gateway::Running};

fn lookups(gateway: &Running, result: &str) -> f64 {
    gateway.metric("portcullis_token_cache_lookups_total", &[("result", result)])
}

/// R23.
#[test]
fn a_known_token_is_not_verified_again() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));

    for _ in 0..5 {
        gateway.client().get("/x").bearer(&token).send().expect(200);
    }

    assert_eq!((lookups(&gateway, "miss"), lookups(&gateway, "hit")), (1.0, 4.0));
    let seen: Vec<_> = (0..5).map(|_| upstream.next_request().header("x-user-id").map(str::to_owned)).collect();
    assert!(seen.iter().all(|subject| subject.as_deref() == Some("alice")), "{seen:?}");
}

/// R23. A tenth of what is remembered is in use, and everything else comes once. A tenth of the size that it has with
/// `PORTCULLIS_LONG_RUN=1`: 1,000 tokens in use where 10,000 are remembered.
#[test]
fn tokens_in_use_stay_known_in_a_stream_of_others() {
    let in_use = if std::env::var_os("PORTCULLIS_LONG_RUN").is_some() { 1_000 } else { 100 };
    let issuer = Issuer::hs256();
    let bound = format!("[limits]\nmax_cached_tokens = {}\n", 10 * in_use);
    let route = "[[route]]\nname = \"x\"\nmatch = { path = \"/x\" }\nauth = [\"jwt\"]\nrespond = { status = 200 }\n";
    let gateway = Gateway::with(&bound).issuer(&issuer).table(route).start();
    let token = |subject: String| issuer.sign(&Issuer::claims(&subject, &[], gateway.now()));
    let (client, mut connection) = (gateway.client(), gateway.client().connect());
    let mut ask = |token: &str| drop(connection.send(&client.get("/x").bearer(token)).expect(200));
    let hot: Vec<String> = (0..in_use).map(|number| token(format!("hot-{number}"))).collect();
    hot.iter().chain(&hot).for_each(|token| ask(token));
    let (before, asked) = (lookups(&gateway, "hit"), 20 * in_use);

    for (number, known) in hot.iter().cycle().take(asked).enumerate() {
        ask(known);
        (0..5).for_each(|other| ask(&token(format!("once-{number}-{other}"))));
    }

    // The others are all distinct: whatever was known was in use.
    let hits = lookups(&gateway, "hit") - before;
    assert!(hits >= 0.99 * asked as f64, "{hits} of {asked}");
    assert!(hits <= asked as f64 && lookups(&gateway, "miss") >= 5.0 * asked as f64, "{hits} of {asked}");
    let entries = gateway.metric("portcullis_token_cache_entries", &[]);
    assert!(entries <= 10.0 * in_use as f64 && entries > 9.0 * in_use as f64, "{entries}");
    assert!(gateway.metric("portcullis_token_cache_evictions_total", &[]) > 0.0);
}

/// R23. To the second, although the token is remembered.
#[test]
fn a_known_token_expires() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer_with(&issuer, "leeway = \"0s\"").route("/{*rest}", &upstream).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let ask = || gateway.client().get("/x").bearer(&token).send().status;

    assert_eq!((ask(), ask()), (200, 200));
    gateway.advance(Duration::from_secs(298));
    assert_eq!(ask(), 200);
    gateway.advance(Duration::from_secs(2));
    assert_eq!((ask(), ask()), (401, 401));
    assert_eq!(upstream.request_count(), 3);
}

/// R23. What the route asks is asked each time.
#[test]
fn a_known_token_opens_no_route_whose_requirements_it_does_not_meet() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/any", &upstream);
    let gateway = gateway.route("/admin", &upstream).require_role("admin").start();
    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));

    for _ in 0..2 {
        gateway.client().get("/any").bearer(&token).send().expect(200);
        gateway.client().get("/admin").bearer(&token).send().expect(403);
    }
}

/// R23. Exact bytes: what is nearly a known token is another one.
#[test]
fn only_the_exact_bytes_of_a_token_are_known() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    gateway.client().get("/x").bearer(&token).send().expect(200);
    let (input, signature) = token.rsplit_once('.').unwrap();
    let (header, payload) = input.split_once('.').unwrap();
    let admin = issuer.sign(&Issuer::claims("admin", &["admin"], gateway.now()));
    let other_payload = admin.split('.').nth(1).unwrap();

    for (name, near) in [
        ("another payload under the known signature", format!("{header}.{other_payload}.{signature}")),
        ("the known payload without a signature", format!("{header}.{payload}.")),
        ("cut by one", token[..token.len() - 1].to_owned()),
        ("longer by one", format!("{token}A")),
        ("in capitals", token.to_ascii_uppercase()),
    ] {
        for _ in 0..2 {
            assert_eq!(gateway.client().get("/x").bearer(&near).send().status, 401, "{name}");
        }
    }
    gateway.client().get("/x").bearer(&token).send().expect(200);
    assert_eq!(upstream.request_count(), 2);
}

/// R23. Of bad tokens only a wrong signature is remembered: the others may become good.
#[test]
fn a_token_that_was_not_yet_valid_is_judged_anew() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let mut claims = Issuer::claims("alice", &[], gateway.now());
    claims["nbf"] = json!(gateway.now().unix_seconds() + 60);
    let early = issuer.sign(&claims);
    let forged = issuer.sign_with(&Issuer::es256(), &claims);
    let ask = |token: &str| gateway.client().get("/x").bearer(token).send().status;

    assert_eq!((ask(&early), ask(&early)), (401, 401));
    gateway.advance(Duration::from_secs(40));
    assert_eq!(ask(&early), 200);
    assert_eq!((ask(&forged), ask(&forged)), (401, 401));
    assert_eq!(lookups(&gateway, "wrong_signature"), 1.0);
}
