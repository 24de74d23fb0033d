//! A process that follows goes on with what the one before it has ordered, and with what it was about to order.

use std::fs;

use super::{directory::Directory, proofs::looking};
use crate::support::{Client, Pebble, eventually, metric_sum, pebble::served, process::Process};

fn has_certificate(client: &Client) {
    eventually("a certificate is served", || client.try_connect(&["http/1.1"]).is_ok());
}

#[test]
fn account_and_certificates_go_on_in_the_process_that_follows() {
    let Some(pebble) = Pebble::start() else { return };
    let mut gateway = pebble.gateway("").can_be_followed().start_process();
    let (client, other) = (pebble.client("app.test"), pebble.client("b.test"));
    has_certificate(&client);
    let first = served(&client);

    let old = gateway.upgrade();

    assert_eq!(served(&client), first, "from the first connection on");
    assert_eq!(old.wait(), Some(0));
    assert_eq!(served(&client), first);
    // A new host is proved by the new process, to which the authority knows the account.
    let text = fs::read_to_string(gateway.config()).expect("gateway.toml");
    let more = text.replace("hosts = [\"app.test\"]", "hosts = [\"app.test\", \"b.test\"]");
    assert_ne!(text, more);
    fs::write(gateway.config(), more).expect("it can be written");
    assert!(gateway.reload().contains("the configuration was reloaded"));
    has_certificate(&other);
    other.get("/x").send().expect(200);
    assert_eq!(served(&client), first, "nothing is ordered twice");
    eventually("the order is counted", || metric_sum(&gateway.telemetry(), "portcullis_acme_orders_total") >= 1.0);
    assert_eq!(metric_sum(&gateway.telemetry(), "portcullis_acme_orders_total"), 1.0);
    assert_eq!(pebble.accounts(), 1);
}

#[test]
fn an_order_under_way_is_begun_again_by_the_process_that_follows() {
    let directory = Directory::asking_for("tls-alpn-01");
    let mut gateway = directory.gateway("retry = \"1s\"").can_be_followed().start_process();
    let shows_proof = |gateway: &Process| looking(&gateway.client().host("app.test")).try_connect(&[]).is_ok();
    eventually("the proof is up", || shows_proof(&gateway));
    let orders = directory.asked("/order");

    let old = gateway.upgrade();

    gateway.client().host("file.test").get("/x").send().expect(200);
    assert_eq!(old.wait(), Some(0));
    // The old one has left, so this is a proof of the new one's.
    eventually("the proof is up again", || shows_proof(&gateway));
    assert!(directory.asked("/order") > orders);
    assert_eq!(directory.asked("/account"), 1, "the account is that of the process before");
}
