//! Certificates that are ordered from a real authority (Pebble), and what happens where it cannot be had.

mod directory;
mod proofs;
mod upgrade;

use std::time::Duration;

use crate::support::{
    Pebble, eventually,
    pebble::{orders, served},
};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_host_is_proved_by_tls_and_served_with_what_was_issued() {
    let Some(pebble) = Pebble::start() else { return };
    let gateway = pebble.gateway("").start();

    orders(&gateway, "issued", 1);

    pebble.client("app.test").get("/x").send().expect(200);
    assert!(gateway.metric("portcullis_acme_challenges_total", &[("challenge", "tls-alpn-01")]) >= 1.0);
    let labels = [("name", "app.test"), ("source", "acme")];
    let until = gateway.metric("portcullis_certificate_expiry_seconds", &labels);
    let expected = gateway.now().plus(DAY * 90).unix_seconds() as f64;
    assert!((until - expected).abs() < 600.0, "{until} is about {expected}");
}

#[test]
fn a_host_is_proved_by_a_file_where_plain_http_is_redirected() {
    let Some(pebble) = Pebble::start() else { return };
    let gateway = pebble.gateway("challenge = \"http-01\"").start();

    orders(&gateway, "issued", 1);

    pebble.client("app.test").get("/x").send().expect(200);
    assert!(gateway.metric("portcullis_acme_challenges_total", &[("challenge", "http-01")]) >= 1.0);
    let plain = crate::support::Client::plain(pebble.http).host("app.test");
    plain.get("/.well-known/acme-challenge/x").send().expect(308);
}

#[test]
fn after_a_failure_it_is_another_challenges_turn() {
    let Some(pebble) = Pebble::prepare() else { return };
    // Nobody listens where the file is looked for.
    let pebble = pebble.with("httpPort", crate::support::program::free_address().port().into()).run();
    let gateway = pebble.gateway("challenge = [\"http-01\", \"tls-alpn-01\"]").start();

    orders(&gateway, "not_proved", 1);
    gateway.advance(Duration::from_secs(90));

    orders(&gateway, "issued", 1);
    pebble.client("app.test").get("/x").send().expect(200);
}

#[test]
fn each_host_has_an_order_of_its_own_and_one_that_fails_holds_up_no_other() {
    let Some(pebble) = Pebble::prepare() else { return };
    let pebble = pebble.with("domainBlocklist", serde_json::json!(["app.test"])).run();
    let gateway = pebble.gateway("").host("b.test").host("c.test").start();

    orders(&gateway, "issued", 2);

    pebble.client("b.test").get("/x").send().expect(200);
    pebble.client("c.test").get("/x").send().expect(200);
    orders(&gateway, "refused", 1);
    assert!(pebble.client("app.test").try_connect(&["http/1.1"]).is_err());
}

#[test]
fn a_renewal_that_fails_takes_nothing_away_and_is_tried_again() {
    let Some(pebble) = Pebble::start() else { return };
    let gateway = pebble.gateway("").start();
    orders(&gateway, "issued", 1);
    let client = pebble.client("app.test");
    let first = served(&client);

    pebble.lead_to("127.0.0.9");
    gateway.advance(DAY * 61);
    orders(&gateway, "not_proved", 1);
    assert_eq!(served(&client), first, "the last good one is served");

    pebble.lead_to("127.0.0.1");
    gateway.advance(Duration::from_secs(90));
    orders(&gateway, "issued", 2);
    assert_ne!(served(&client), first);
    client.get("/x").send().expect(200);
}

#[test]
fn nothing_is_renewed_before_its_time() {
    let Some(pebble) = Pebble::start() else { return };
    let gateway = pebble.gateway("").start();
    orders(&gateway, "issued", 1);
    let first = served(&pebble.client("app.test"));

    gateway.advance(DAY * 55);
    add_host(&gateway, "b.test");
    // Hosts are looked at together: when the new one has its certificate, the old one was found to need none.
    orders(&gateway, "issued", 2);

    pebble.client("b.test").get("/x").send().expect(200);
    assert_eq!(served(&pebble.client("app.test")), first);
}

#[test]
fn account_and_certificates_outlive_a_restart() {
    let Some(pebble) = Pebble::start() else { return };
    let gateway = pebble.gateway("").start();
    orders(&gateway, "issued", 1);
    let first = served(&pebble.client("app.test"));

    let gateway = gateway.restart();
    assert_eq!(served(&pebble.client("app.test")), first, "from the first connection on");
    gateway.advance(DAY * 61);
    orders(&gateway, "issued", 1);

    assert_ne!(served(&pebble.client("app.test")), first);
    assert_eq!(pebble.accounts(), 1);
}

#[test]
fn nonces_that_are_refused_cost_no_order() {
    let Some(pebble) = Pebble::prepare() else { return };
    let pebble = pebble.environment("PEBBLE_WFE_NONCEREJECT", "20").run();
    let gateway = pebble.gateway("retry = \"1s\"").start();

    // Three refusals in a row end an order, and it is tried again.
    eventually("a certificate is issued", || {
        gateway.advance(Duration::from_secs(60));
        gateway.metric("portcullis_acme_orders_total", &[("result", "issued")]) >= 1.0
    });

    pebble.client("app.test").get("/x").send().expect(200);
}

#[test]
fn a_directory_that_is_down_at_the_start_stops_nobody_and_is_found_later() {
    let Some(pebble) = Pebble::prepare() else { return };
    let gateway = pebble.gateway("").host("file.test");
    let entry = gateway.certificate(&["file.test"]);
    let gateway = gateway.tls(&format!("certificates = [{entry}]\n{}", pebble.lines(""))).start();
    orders(&gateway, "unreachable", 1);
    gateway.client().host("file.test").get("/x").send().expect(200);
    assert!(gateway.client().try_connect(&["http/1.1"]).is_err(), "it has no certificate yet");
    assert_eq!(
        gateway.telemetry().get("/readyz").send().status,
        200,
        "or no authority would find it behind a balancer"
    );

    let pebble = pebble.run();
    gateway.advance(Duration::from_secs(90));

    orders(&gateway, "issued", 1);
    pebble.client("app.test").get("/x").send().expect(200);
}

#[test]
fn a_directory_that_is_not_believed_is_told_nothing() {
    let Some(pebble) = Pebble::start() else { return };
    let gateway = pebble.gateway("");
    let stranger = gateway.write("stranger.pem", &crate::support::Pki::new().authority_pem());
    let lines = pebble.lines("");
    let own = lines.lines().find(|line| line.starts_with("ca = ")).unwrap();
    let gateway = gateway.tls(&lines.replace(own, &format!("ca = {stranger:?}"))).start();

    orders(&gateway, "unreachable", 1);
    assert_eq!(pebble.accounts(), 0);

    gateway.edit(&format!("ca = {stranger:?}"), own);
    assert_eq!(gateway.reload().status, 200);
    gateway.advance(Duration::from_secs(90));
    orders(&gateway, "issued", 1);
}

#[test]
fn an_account_elsewhere_is_proved_by_its_key() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let Some(pebble) = Pebble::prepare() else { return };
    let pebble = pebble
        .with("externalAccountBindingRequired", true.into())
        .with("externalAccountMACKeys", serde_json::json!({ "kid-1": KEY }))
        .run();
    let start = |more: &str, key: &str| pebble.gateway(more).file("eab.key", key).start();
    let external = "external_account = { id = \"kid-1\", key = { file = \"eab.key\" } }";

    for (more, key) in [("", KEY), (external, "AAAA"), (&external.replace("kid-1", "kid-2"), KEY)] {
        let gateway = start(more, key);
        orders(&gateway, "account", 1);
        assert_eq!(pebble.accounts(), 0, "{more}");
    }
    let gateway = start(external, KEY);
    orders(&gateway, "issued", 1);
    assert_eq!(pebble.accounts(), 1);
}

#[test]
fn a_host_with_a_certificate_of_a_file_is_not_ordered_for() {
    let Some(pebble) = Pebble::start() else { return };
    let gateway = pebble.gateway("").host("b.test");
    let entry = gateway.certificate(&["app.test"]);
    let gateway = gateway.tls(&format!("certificates = [{entry}]\n{}", pebble.lines(""))).start();

    orders(&gateway, "issued", 1);

    gateway.client().get("/x").send().expect(200);
    assert!(pebble.client("app.test").try_connect(&["http/1.1"]).is_err(), "it is the file's, of another authority");
    pebble.client("b.test").get("/x").send().expect(200);
}

#[test]
fn a_host_that_a_reload_adds_gets_a_certificate_and_one_that_it_takes_away_is_served_no_more() {
    let Some(pebble) = Pebble::start() else { return };
    let gateway = pebble.gateway("").start();
    orders(&gateway, "issued", 1);

    add_host(&gateway, "b.test");
    orders(&gateway, "issued", 2);
    served(&pebble.client("b.test"));

    gateway.edit("hosts = [\"app.test\", \"b.test\"]", "hosts = [\"app.test\"]");
    assert_eq!(gateway.reload().status, 200);
    eventually("its certificate is served no more", || pebble.client("b.test").try_connect(&[]).is_err());
    pebble.client("app.test").get("/x").send().expect(200);
}

fn add_host(gateway: &crate::support::gateway::Running, host: &str) {
    gateway.edit("hosts = [\"app.test\"]", &format!("hosts = [\"app.test\", {host:?}]"));
    assert_eq!(gateway.reload().status, 200);
}
