//! Revocation: by list (RFC 5280 section 5), by reload, and by subject (R28).

use portcullis::clock::Timestamp;
use serde_json::json;

use super::*;
use crate::support::{
    eventually,
    websocket::{echoes, echoing, tunnel},
};

/// With a list of nobody that ends in a day, `/ws` that echoes, and the admin API.
fn gateway_with_list(upstream: &Upstream, ca: &ClientCa, revoked: &[&ClientId]) -> Gateway {
    let gateway = gateway_with(upstream, ca, "crl = \"devices.crl\"\n").key("upgrade = [\"websocket\"]").admin();
    let now = gateway.clock().now();
    gateway.file("devices.crl", &ca.list(revoked, now.minus(DAY), now.plus(DAY)))
}

fn write_list(gateway: &Running, list: &str) {
    std::fs::write(gateway.folder().join("devices.crl"), list).unwrap();
}

#[test]
fn a_certificate_on_its_authoritys_list_is_refused() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let (lost, kept) = (ca.issue("lost.example"), ca.issue("kept.example"));
    let gateway = gateway_with_list(&upstream, &ca, &[&lost]).start();

    assert_eq!(asked(&gateway, &lost), (401, Some("certificate_revoked".to_owned())));
    upstream.expect_only(0);
    assert_eq!(asked(&gateway, &kept).0, 200);
}

/// The list of an authority between counts as well, and must be there: nobody is good for want of a list.
#[test]
fn every_authority_of_a_chain_has_a_list_and_may_be_on_one() {
    let upstream = Upstream::start();
    let root = ClientCa::new("Root");
    let (one, other) = (root.below("One"), root.below("Other"));
    let gateway = gateway_with(&upstream, &root, "crl = [\"root.crl\", \"one.crl\"]\n");
    let now = gateway.clock().now();
    let (from, until) = (now.minus(DAY), now.plus(DAY));
    let lost = one.issue("lost.example");
    let gateway = gateway
        .file("root.crl", &root.list(&[], from, until))
        .file("one.crl", &one.list(&[&lost], from, until))
        .start();

    assert_eq!(asked(&gateway, &one.issue("a.example")).0, 200);
    assert_eq!(asked(&gateway, &lost).1.as_deref(), Some("certificate_revoked"));
    assert_eq!(asked(&gateway, &other.issue("a.example")), (401, Some("certificate_revocation_unknown".to_owned())));
}

/// R3. A list that is too old tells nothing: neither good nor void, and never anonymous.
#[test]
fn a_list_that_has_ended_is_no_verdict() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let id = ca.issue("a.example");
    let gateway = gateway_with_list(&upstream, &ca, &[]).key("optional = true").start();
    let client = gateway.client().certificate(&id);
    let mut connection = client.connect();
    connection.send(&client.get("/x")).expect(200);
    upstream.next_request();

    gateway.advance(2 * DAY);

    let answer = connection.send(&client.get("/x")).expect(503);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(client.get("/x").send().status, 503);
    upstream.expect_only(1);
    write_list(&gateway, &ca.list(&[], gateway.now().minus(DAY), gateway.now().plus(DAY)));
    gateway.reload().expect(200);
    connection.send(&client.get("/x")).expect(200);
}

/// R28. A list that is replaced counts on connections that stand.
#[test]
fn a_new_list_counts_on_open_connections() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let (lost, kept) = (ca.issue("lost.example"), ca.issue("kept.example"));
    let gateway = gateway_with_list(&upstream, &ca, &[]).start();
    let clients = [&lost, &kept].map(|id| gateway.client().certificate(id));
    let [mut of_lost, mut of_kept] = clients.each_ref().map(Client::connect);
    of_lost.send(&clients[0].get("/x")).expect(200);
    of_kept.send(&clients[1].get("/x")).expect(200);

    let now = gateway.now();
    write_list(&gateway, &ca.list(&[&lost], now, now.plus(DAY)));
    gateway.reload().expect(200);

    of_lost.send(&clients[0].get("/x")).expect(401);
    of_kept.send(&clients[1].get("/x")).expect(200);
    upstream.expect_only(3);
}

/// R28. The file is watched: nobody has to ask for a reload.
#[test]
fn a_list_that_changes_is_read_by_itself() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let lost = ca.issue("lost.example");
    let gateway = gateway_with_list(&upstream, &ca, &[]).server("watch = true").start();
    let client = gateway.client().certificate(&lost);
    let mut connection = client.connect();
    connection.send(&client.get("/x")).expect(200);

    let now = gateway.now();
    write_list(&gateway, &ca.list(&[&lost], now, now.plus(DAY)));

    eventually("the list counts", || connection.send(&client.get("/x")).status == 401);
}

/// R28.
#[test]
fn a_tunnel_ends_when_its_certificate_is_on_a_new_list() {
    let upstream = echoing();
    let ca = ClientCa::new("Devices");
    let (lost, kept) = (ca.issue("lost.example"), ca.issue("kept.example"));
    let gateway = gateway_with_list(&upstream, &ca, &[]).start();
    let [mut of_lost, mut of_kept] = [&lost, &kept].map(|id| tunnel(&gateway.client().certificate(id)));

    let now = gateway.now();
    write_list(&gateway, &ca.list(&[&lost], now, now.plus(DAY)));
    gateway.reload().expect(200);
    let begun = portcullis::clock::instant();

    assert_eq!(of_lost.read_to_end(), b"");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(echoes(&mut of_kept));
}

/// R28.
#[test]
fn a_tunnel_ends_with_the_expiry_of_its_certificate() {
    let upstream = echoing();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "").key("upgrade = [\"websocket\"]").start();
    let now = gateway.now();
    let ending = ca.sign(Leaf::new().dns("a.example").valid(now.minus(DAY), now.plus(DAY)));
    let lasting = ca.sign(Leaf::new().dns("b.example").valid(now.minus(DAY), now.plus(3 * DAY)));
    let [mut of_ending, mut of_lasting] = [&ending, &lasting].map(|id| tunnel(&gateway.client().certificate(id)));

    gateway.advance(2 * DAY);

    assert_eq!(of_ending.read_to_end(), b"");
    assert!(echoes(&mut of_lasting));
}

/// R28, R37. An authority that is taken away, or replaced, takes what it had opened along.
#[test]
fn a_reload_that_replaces_an_authority_ends_what_it_vouched_for() {
    let upstream = echoing();
    let (before, after) = (ClientCa::new("Devices"), ClientCa::new("Devices"));
    let gateway = gateway_with(&upstream, &before, "").key("upgrade = [\"websocket\"]").admin().start();
    let client = gateway.client().certificate(&before.issue("a.example"));
    let mut tunnel = tunnel(&client);
    let mut connection = client.connect();
    connection.send(&client.get("/x")).expect(200);

    std::fs::write(gateway.folder().join("devices.pem"), after.pem()).unwrap();
    gateway.reload().expect(200);

    assert_eq!(tunnel.read_to_end(), b"");
    connection.send(&client.get("/x")).expect(401);
    gateway.client().certificate(&after.issue("a.example")).get("/x").send().expect(200);
}

/// A list that cannot be used changes nothing.
#[test]
fn a_reload_with_a_broken_list_is_refused_and_the_one_before_counts() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let lost = ca.issue("lost.example");
    let gateway = gateway_with_list(&upstream, &ca, &[&lost]).start();

    write_list(&gateway, "-----BEGIN X509 CRL-----\nTWFu\n-----END X509 CRL-----\n");

    gateway.reload().expect(422);
    assert_eq!(asked(&gateway, &lost).0, 401);
    assert_eq!(asked(&gateway, &ca.issue("a.example")).0, 200);
}

/// A list of somebody else's, under the authority's name: nobody can tell.
#[test]
fn a_list_that_its_authority_did_not_sign_is_no_verdict() {
    let upstream = Upstream::start();
    let (ca, twin) = (ClientCa::new("Devices"), ClientCa::new("Devices"));
    let gateway = gateway_with_list(&upstream, &ca, &[]);
    let now = gateway.clock().now();
    let gateway = gateway.file("devices.crl", &twin.list(&[], now.minus(DAY), now.plus(DAY))).start();

    assert_eq!(asked(&gateway, &ca.issue("a.example")).0, 503);
    upstream.expect_only(0);
}

/// R28. What was issued up to the moment is void; what is issued after it counts again.
#[test]
fn a_subject_that_is_revoked_needs_a_certificate_from_after_that() {
    let upstream = echoing();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "realm = \"staff\"\n").key("upgrade = [\"websocket\"]").admin().start();
    let now = gateway.now();
    let issued = |host: &str, at: Timestamp| ca.sign(Leaf::new().dns(host).valid(at, at.plus(30 * DAY)));
    let (struck, other) = (issued("a.example", now.minus(DAY)), issued("b.example", now.minus(DAY)));
    let clients = [&struck, &other].map(|id| gateway.client().certificate(id));
    let [mut tunnel_struck, mut tunnel_other] = clients.each_ref().map(tunnel);

    let entry = json!({ "kind": "subject", "subject": "a.example", "realm": "staff" });
    gateway.admin().post("/api/v1/revocations", "").json(&entry).send().expect(200);

    assert_eq!(asked(&gateway, &struck), (401, Some("certificate_struck".to_owned())));
    assert_eq!(tunnel_struck.read_to_end(), b"");
    assert_eq!(asked(&gateway, &other).0, 200);
    assert!(echoes(&mut tunnel_other));
    assert_eq!(asked(&gateway, &issued("a.example", now.minus(Duration::from_secs(1)))).0, 401, "dated back");
    gateway.advance(Duration::from_secs(5));
    assert_eq!(asked(&gateway, &issued("a.example", gateway.now())).0, 200);
    // A certificate is good for long, and so is the strike.
    gateway.advance(20 * DAY);
    assert_eq!(asked(&gateway, &struck).0, 401);
}
