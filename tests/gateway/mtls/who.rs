//! Which certificates count, and who is behind them.

use rcgen::{DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use super::*;

/// R2, R12.
#[test]
fn a_certificate_says_who_is_calling() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let lines = "realm = \"machines\"\nroles = [\"device\"]\ngroups = [\"hall-3\"]\nscopes = [\"telemetry\"]\n";
    let gateway = gateway_with(&upstream, &ca, lines).start();
    let id = ca.sign(Leaf::new().dns("Robot-7.Example").cn("Robot seven").email("seven@example.com"));

    gateway.client().certificate(&id).get("/x").header("X-User-Id", "root").send().expect(200);

    let seen = upstream.next_request();
    assert_eq!(seen.header("x-user-id"), Some("robot-7.example"));
    assert_eq!(seen.header("x-user-name"), Some("Robot seven"));
    assert_eq!(seen.header("x-user-email"), Some("seven@example.com"));
    assert_eq!(seen.header("x-user-roles"), Some("device"));
    assert_eq!(seen.header("x-user-groups"), Some("hall-3"));
    assert_eq!(seen.header("x-user-scopes"), Some("telemetry"));
    assert_eq!(seen.header("x-user-auth"), Some("mtls"));
}

#[test]
fn the_name_that_counts_is_the_one_that_the_configuration_says() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let id = ca.sign(
        Leaf::new().dns("a.example").email("a@example.com").uri("spiffe://example.org/ns/prod/sa/a").cn("Device A"),
    );
    for (subject, expect) in [
        ("dns", "a.example"),
        ("email", "a@example.com"),
        ("uri", "spiffe://example.org/ns/prod/sa/a"),
        ("cn", "Device A"),
    ] {
        let gateway = gateway_with(&upstream, &ca, &format!("subject = {subject:?}\n")).start();

        gateway.client().certificate(&id).get("/x").send().expect(200);

        assert_eq!(upstream.next_request().header("x-user-id"), Some(expect), "{subject}");
    }
}

/// A certificate of the right authority that says nobody, or two, is nobody's.
#[test]
fn exactly_one_name_of_the_kind_makes_a_subject() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);
    let no_subject = (401, Some("certificate_no_subject".to_owned()));
    let refused = |reason: &str| (401, Some(reason.to_owned()));

    assert_eq!(asked(&gateway, &ca.sign(Leaf::new())), no_subject, "an empty subject");
    assert_eq!(asked(&gateway, &ca.sign(Leaf::new().cn("a.example"))), no_subject, "a common name only");
    assert_eq!(asked(&gateway, &ca.sign(Leaf::new().email("a@b.example"))), no_subject, "another kind");
    let two = Leaf::new().dns("a.example").dns("b.example");
    assert_eq!(asked(&gateway, &ca.sign(two)), refused("certificate_two_subjects"));
    assert_eq!(asked(&gateway, &ca.sign(Leaf::new().dns("*.example"))), refused("certificate_subject"), "a wildcard");
    upstream.expect_only(0);

    assert_eq!(asked(&gateway, &ca.sign(Leaf::new().dns("a.example"))), (200, None));
    assert_eq!(asked(&gateway, &ca.sign(Leaf::new().dns("a.example").email("b@c.example").cn("d"))), (200, None));
}

#[test]
fn a_common_name_that_two_readers_would_read_differently_is_nobodys() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "subject = \"cn\"\n").start();

    for name in ["alice\0.evil", "alice\nroot", "\u{7f}"] {
        assert_eq!(asked(&gateway, &ca.sign(Leaf::new().cn(name))).0, 401, "{name:?}");
    }
    let twice = Leaf::new().attribute(DnType::CustomDnType(vec![2, 5, 4, 3]), "alice").cn("root");
    assert_eq!(asked(&gateway, &ca.sign(twice)).1.as_deref(), Some("certificate_two_subjects"));
    upstream.expect_only(0);

    assert_eq!(asked(&gateway, &ca.sign(Leaf::new().cn("Älice, Müller"))).0, 200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("%C3%84lice, M%C3%BCller"));
}

/// R3. Each with only one thing wrong.
#[test]
fn a_void_certificate_is_refused_for_what_it_is() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);
    let (now, leaf) = (gateway.now(), || Leaf::new().dns("a.example"));
    for (what, id, reason) in [
        ("expired", ca.sign(leaf().valid(now.minus(2 * DAY), now.minus(DAY))), "certificate_expired"),
        ("not yet valid", ca.sign(leaf().valid(now.plus(DAY), now.plus(2 * DAY))), "certificate_not_yet_valid"),
        ("of another authority", ClientCa::new("Others").sign(leaf()), "certificate_authority"),
        ("of another authority of the same name", ClientCa::new("Devices").sign(leaf()), "certificate_authority"),
        ("self-signed", leaf().self_signed(), "certificate_authority"),
        ("for servers only", ca.sign(leaf().usage(&[ExtendedKeyUsagePurpose::ServerAuth])), "certificate_usage"),
        ("for agreement only", ca.sign(leaf().key_usage(&[KeyUsagePurpose::KeyAgreement])), "certificate_key_usage"),
    ] {
        let (status, told) = asked(&gateway, &id);

        assert_eq!((status, told.as_deref()), (401, Some(reason)), "{what}");
    }
    upstream.expect_only(0);

    for (what, id) in [
        ("valid", ca.sign(leaf().valid(now.minus(DAY), now.plus(DAY)))),
        ("for any use", ca.sign(leaf().usage(&[]).key_usage(&[]))),
        (
            "for clients and servers",
            ca.sign(leaf().usage(&[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])),
        ),
    ] {
        assert_eq!(asked(&gateway, &id).0, 200, "{what}");
    }
}

/// RFC 5280 section 6.
#[test]
fn a_chain_leads_to_an_authority_and_is_not_too_long() {
    let upstream = Upstream::start();
    let root = ClientCa::new("Root");
    let gateway = gateway(&upstream, &root);
    let chain = |between: usize| {
        let mut ca = root.below("0");
        for depth in 1..between {
            ca = ca.below(&depth.to_string());
        }
        ca.issue("a.example")
    };

    assert_eq!(asked(&gateway, &chain(1)).0, 200);
    assert_eq!(asked(&gateway, &chain(6)).0, 200);
    assert_eq!(asked(&gateway, &chain(9)), (401, Some("certificate_chain".to_owned())), "ten certificates");
    assert!(gateway.client().certificate(&chain(10)).try_connect(&["http/1.1"]).map_or(true, |mut connection| {
        connection.write(&gateway.client().get("/x").bytes()).is_err() || connection.read_to_end().is_empty()
    }));
    let mut missing = chain(2);
    missing.chain.truncate(1);
    assert_eq!(asked(&gateway, &missing), (401, Some("certificate_authority".to_owned())), "one is left out");
    let mut shuffled = chain(3);
    shuffled.chain[1..].reverse();
    assert_eq!(asked(&gateway, &shuffled).0, 200, "in any order");
    let mut by_leaf = root.issue("b.example");
    by_leaf.chain.push(root.issue("c.example").chain.remove(0));
    assert_eq!(asked(&gateway, &by_leaf).0, 200, "with one more that nobody needs");
}

/// R19.
#[test]
fn a_certificate_that_is_too_large_ends_the_handshake() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);
    let refused = |id: &ClientId| {
        let client = gateway.client().certificate(id);
        client.try_connect(&["http/1.1"]).map_or(true, |mut connection| {
            connection.write(&client.get("/x").bytes()).is_err() || connection.read_to_end().is_empty()
        })
    };

    assert!(refused(&ca.sign(Leaf::new().dns("a.example").weight(17_000))));
    assert!(refused(&ca.sign(Leaf::new().dns("a.example").weight(60_000))));
    upstream.expect_only(0);

    assert_eq!(asked(&gateway, &ca.sign(Leaf::new().dns("a.example").weight(15_000))).0, 200);
}

/// The certificate alone, without its key, is worth nothing: anybody may have seen it.
#[test]
fn a_certificate_without_its_key_ends_the_handshake() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);
    let good = ca.issue("a.example");
    let stolen = ClientId { key: ca.issue("b.example").key, ..good.clone() };
    let holds = |id: &ClientId| {
        let mut config = gateway.client().tls_settings();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(id.key.clone_key()).expect("a key");
        // The library would notice for us that they do not belong together.
        let certified = std::sync::Arc::new(rustls::sign::CertifiedKey::new(id.chain.clone(), key));
        config.client_auth_cert_resolver = std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        let client = gateway.client().speaking(config);
        client.try_connect(&[]).is_ok_and(|mut connection| {
            connection.write(&client.get("/x").bytes()).is_ok()
                && connection.read_response("GET").is_ok_and(|answer| answer.status == 200)
        })
    };

    assert!(!holds(&stolen));
    upstream.expect_only(0);
    assert!(holds(&good));
}

/// R5.
#[test]
fn several_authorities_have_names_and_realms_of_their_own() {
    let upstream = Upstream::start();
    let (devices, staff) = (ClientCa::new("Devices"), ClientCa::new("Staff"));
    let gateway = gateway_with(&upstream, &devices, "")
        .file("staff.pem", &staff.pem())
        .table("[[mtls.ca]]\nname = \"staff\"\nfile = \"staff.pem\"\nsubject = \"email\"\n")
        .auth(&["mtls:devices"])
        .route("/staff/{*rest}", &upstream)
        .auth(&["mtls:staff"])
        .start();
    let (device, person) = (devices.issue("a.example"), staff.sign(Leaf::new().email("a@b.example")));
    let status = |id: &ClientId, path: &str| gateway.client().certificate(id).get(path).send().status;

    assert_eq!((status(&device, "/x"), status(&device, "/staff/x")), (200, 401));
    assert_eq!((status(&person, "/x"), status(&person, "/staff/x")), (401, 200));
    upstream.expect_only(2);
}

/// R6.
#[test]
fn rules_see_what_the_certificate_says() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "").require("claim:certificate.ou=Robots").start();
    let unit = |names: &[&str]| {
        let leaf = Leaf::new().dns("a.example");
        ca.sign(names.iter().fold(leaf, |leaf, name| leaf.attribute(DnType::OrganizationalUnitName, name)))
    };

    assert_eq!(asked(&gateway, &unit(&["Robots"])).0, 200);
    assert_eq!(asked(&gateway, &unit(&["Ovens"])), (403, Some("claim".to_owned())));
    assert_eq!(asked(&gateway, &unit(&[])).0, 403);
}

/// The key is what counts as a session's, not the certificate: see `session`. Here: one key, two certificates.
#[test]
fn a_renewed_certificate_of_the_same_key_is_another_certificate() {
    let ca = ClientCa::new("Devices");
    let key = KeyPair::generate().unwrap();
    let (one, other) =
        (ca.sign(Leaf::new().dns("a.example").key(&key)), ca.sign(Leaf::new().dns("a.example").key(&key)));
    let read = |id: &ClientId| portcullis::mtls::ClientCertificate::new(&id.chain).unwrap();

    assert_eq!(read(&one).key(), read(&other).key());
    assert_ne!(read(&one).thumbprint(), read(&other).thumbprint());
    assert_ne!(read(&one).key(), read(&ca.issue("a.example")).key());
}
