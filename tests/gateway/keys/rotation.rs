//! Keys change: refresh, rotation, and what becomes of tokens that were verified before.

use std::time::Duration;

use portcullis::authn::keys::Algorithm;
use serde_json::json;

use crate::support::{Gateway, Issuer, Provider, Upstream, eventually, gateway::Running};

const REFRESH: Duration = Duration::from_secs(5 * 60);

fn start(issuer: &Issuer, provider: &Provider, upstream: &Upstream, lines: &str) -> Running {
    let lines = format!("{}\n{lines}", provider.jwks());
    Gateway::new().issuer_with(issuer, &lines).route("/{*rest}", upstream).start()
}

/// Long-lived, so that it outlasts a few refreshes.
fn token(issuer: &Issuer, gateway: &Running) -> String {
    let mut claims = Issuer::claims("alice", &[], gateway.now());
    claims["exp"] = json!(gateway.now().unix_seconds() + 3600 * 12);
    issuer.sign(&claims)
}

fn status(gateway: &Running, token: &str) -> u16 {
    gateway.client().get("/x").bearer(token).send().status
}

fn fetches(gateway: &Running) -> f64 {
    gateway.metric("portcullis_jwks_fetches_total", &[("issuer", "test"), ("result", "ok")])
}

#[test]
fn a_token_under_a_new_key_waits_for_it_and_is_accepted() {
    let (upstream, old, new) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let provider = Provider::of(&[&old]);
    let gateway = start(&old, &provider, &upstream, "");
    assert_eq!(status(&gateway, &token(&old, &gateway)), 200);

    provider.publish(&[&new, &old]);

    assert_eq!(status(&gateway, &token(&new, &gateway)), 200);
    assert_eq!(status(&gateway, &token(&old, &gateway)), 200);
}

#[test]
fn keys_are_refreshed_every_five_minutes_and_an_unchanged_set_is_not_sent_again() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let provider = Provider::of(&[&issuer]);
    provider.behave({
        let body = json!({ "keys": [issuer.jwk()] }).to_string();
        move |asked, stream| match asked.header("if-none-match") {
            Some("\"one\"") => stream.write_all(b"HTTP/1.1 304 Not Modified\r\nETag: \"one\"\r\n\r\n"),
            _ => write!(stream, "HTTP/1.1 200 OK\r\nETag: \"one\"\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        }
    });
    let gateway = start(&issuer, &provider, &upstream, "");
    eventually("the keys are there", || fetches(&gateway) == 1.0);

    gateway.advance(REFRESH / 2);
    assert_eq!(gateway.metric("portcullis_jwks_age_seconds", &[("issuer", "test")]), 150.0);
    gateway.advance(REFRESH / 2);
    eventually("they are refreshed", || fetches(&gateway) == 2.0);

    assert_eq!(gateway.metric("portcullis_jwks_age_seconds", &[("issuer", "test")]), 0.0);
    assert_eq!(provider.asked()[1].header("if-none-match"), Some("\"one\""));
    assert_eq!(status(&gateway, &token(&issuer, &gateway)), 200);
}

#[test]
fn a_short_max_age_is_kept_to() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let provider = Provider::of(&[&issuer]);
    provider.answer(200, "Cache-Control: max-age=40\r\n", &json!({ "keys": [issuer.jwk()] }).to_string());
    let gateway = start(&issuer, &provider, &upstream, "");
    eventually("the keys are there", || fetches(&gateway) == 1.0);

    gateway.advance(Duration::from_secs(40));

    eventually("they are refreshed", || fetches(&gateway) == 2.0);
}

#[test]
fn a_key_that_leaves_ends_its_tokens_at_once_and_one_that_stays_keeps_them() {
    let (upstream, gone, stays) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let provider = Provider::of(&[&gone, &stays]);
    let gateway = start(&gone, &provider, &upstream, "");
    let (under_gone, under_stays) = (token(&gone, &gateway), token(&stays, &gateway));
    assert_eq!((status(&gateway, &under_gone), status(&gateway, &under_stays)), (200, 200));
    let verified = gateway.metric("portcullis_token_cache_lookups_total", &[("result", "miss")]);

    provider.publish(&[&stays, &Issuer::es256()]);
    gateway.advance(REFRESH);
    eventually("the new set is there", || fetches(&gateway) == 2.0);

    assert_eq!(status(&gateway, &under_stays), 200);
    assert_eq!(gateway.metric("portcullis_token_cache_lookups_total", &[("result", "miss")]), verified);
    assert_eq!(status(&gateway, &under_gone), 401);

    provider.publish(&[&gone]);
    gateway.advance(REFRESH);
    eventually("the old set is back", || fetches(&gateway) >= 4.0);
    assert_eq!((status(&gateway, &under_gone), status(&gateway, &under_stays)), (200, 401));
    assert_eq!(status(&gateway, &under_gone), 200);
}

#[test]
fn another_kind_of_key_under_the_same_kid_ends_the_first_ones_tokens() {
    let (upstream, first) = (Upstream::start(), Issuer::es256().called("signer"));
    let second = Issuer::of(Algorithm::EdDSA).called("signer");
    let provider = Provider::of(&[&first]);
    let gateway = start(&first, &provider, &upstream, "algorithms = [\"ES256\", \"EdDSA\"]");
    let (under_first, under_second) = (token(&first, &gateway), token(&second, &gateway));
    assert_eq!((status(&gateway, &under_first), status(&gateway, &under_second)), (200, 401));

    provider.publish(&[&second]);
    gateway.advance(REFRESH);
    eventually("the new set is there", || fetches(&gateway) == 2.0);

    assert_eq!((status(&gateway, &under_first), status(&gateway, &under_second)), (401, 200));
}

#[test]
fn a_signature_that_was_wrong_under_the_old_keys_may_be_right_under_the_new_ones() {
    let (upstream, first) = (Upstream::start(), Issuer::es256().called("signer"));
    let second = Issuer::es256().called("signer");
    let provider = Provider::of(&[&first]);
    let gateway = start(&first, &provider, &upstream, "");
    let under_second = token(&second, &gateway);
    assert_eq!((status(&gateway, &under_second), status(&gateway, &under_second)), (401, 401));

    provider.publish(&[&second]);
    gateway.advance(REFRESH);
    eventually("the new set is there", || fetches(&gateway) == 2.0);

    assert_eq!(status(&gateway, &under_second), 200);
}

#[test]
fn made_up_kids_neither_wear_the_issuer_down_nor_keep_a_new_key_out() {
    let (upstream, old, new) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let provider = Provider::of(&[&old]);
    let gateway = start(&old, &provider, &upstream, "");
    eventually("the keys are there", || fetches(&gateway) == 1.0);
    let stranger = |number: usize| token(&Issuer::es256().called(&format!("made-up-{number}")), &gateway);

    for number in 0..40 {
        assert_eq!(status(&gateway, &stranger(number)), 401);
    }
    assert_eq!(provider.asked().len(), 1 + 3);
    provider.publish(&[&new, &old]);
    assert_eq!(status(&gateway, &token(&old, &gateway)), 200);
    assert_eq!(status(&gateway, &token(&new, &gateway)), 401);

    gateway.advance(Duration::from_secs(10));
    assert_eq!(status(&gateway, &stranger(41)), 401);
    assert_eq!(status(&gateway, &token(&new, &gateway)), 200);
}

#[test]
fn a_token_that_is_void_anyway_makes_nobody_fetch() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let provider = Provider::of(&[&issuer]);
    let gateway = start(&issuer, &provider, &upstream, "");
    eventually("the keys are there", || fetches(&gateway) == 1.0);
    let mut expired = Issuer::claims("alice", &[], gateway.now());
    expired["exp"] = json!(gateway.now().unix_seconds() - 3600);

    assert_eq!(status(&gateway, &Issuer::es256().sign(&expired)), 401);
    assert_eq!(status(&gateway, &issuer.sign(&expired)), 401);

    assert_eq!(provider.asked().len(), 1);
}

#[test]
fn a_reload_that_leaves_an_issuer_as_it_is_keeps_its_keys_and_what_was_verified() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let provider = Provider::of(&[&issuer]);
    let gateway = Gateway::new()
        .admin()
        .issuer_with(&issuer, &provider.jwks())
        .route("/{*rest}", &upstream)
        .key("touch = true")
        .start();
    let known = token(&issuer, &gateway);
    assert_eq!(status(&gateway, &known), 200);
    let misses = || gateway.metric("portcullis_token_cache_lookups_total", &[("result", "miss")]);
    let verified = misses();

    gateway.edit("touch = true", "touch = false");
    gateway.reload().expect(200);

    assert_eq!((status(&gateway, &known), misses()), (200, verified));
    assert_eq!((provider.asked().len(), fetches(&gateway)), (1, 1.0));

    let moved = Provider::of(&[&issuer]);
    gateway.edit(&provider.jwks(), &moved.jwks());
    gateway.reload().expect(200);
    eventually("the keys of the new place are there", || status(&gateway, &known) == 200);
    assert_eq!((provider.asked().len(), moved.asked().len()), (1, 1));
}

#[test]
fn not_one_good_token_is_refused_when_the_new_key_is_published_ahead() {
    let (upstream, old, new) = (Upstream::start(), Issuer::es256(), Issuer::es256());
    let provider = Provider::of(&[&old]);
    let gateway = start(&old, &provider, &upstream, "");
    assert_eq!(status(&gateway, &token(&old, &gateway)), 200);

    provider.publish(&[&old, &new]);
    gateway.advance(REFRESH);
    std::thread::scope(|scope| {
        for signer in [&old, &new, &new] {
            let gateway = &gateway;
            scope.spawn(move || {
                for _ in 0..30 {
                    assert_eq!(status(gateway, &token(signer, gateway)), 200);
                }
            });
        }
    });
    provider.publish(&[&new]);
    gateway.advance(REFRESH);
    for _ in 0..10 {
        assert_eq!(status(&gateway, &token(&new, &gateway)), 200);
    }
}
