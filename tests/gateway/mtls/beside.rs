//! The certificate beside other credentials: order, optional routes, on top, cross-site requests, and what goes
//! upstream.

use serde_json::json;

use super::*;
use crate::support::{Issuer, websocket::handshake};

const PASSWORD: &str = "correct horse battery staple";

/// R33. No certificate: the answer says what is missing, with a challenge, and no page to log in at.
#[test]
fn without_a_certificate_the_answer_says_what_is_needed() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);

    let none = gateway.client().get("/x").send().expect(401);
    assert_eq!(none.json()["error"], "certificate_needed");
    assert_eq!(none.all("www-authenticate"), ["ClientCertificate realm=\"portcullis\""]);
    let void = gateway.client().certificate(&ClientCa::new("Others").issue("a.example")).get("/x").send().expect(401);
    assert_eq!(void.json()["error"], "invalid_certificate");
    assert_eq!(void.all("www-authenticate"), ["ClientCertificate realm=\"portcullis\""]);
    let person = gateway.client().get("/x").navigation().send().expect(401);
    assert!(person.text().contains("client certificate"), "{}", person.text());
    upstream.expect_only(0);
}

/// R4.
#[test]
fn an_optional_route_lets_nobody_in_with_a_void_certificate() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "").key("optional = true").start();

    assert_eq!(asked(&gateway, &ClientCa::new("Others").issue("a.example")).0, 401);
    upstream.expect_only(0);
    gateway.client().get("/x").send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), None);
    assert_eq!(asked(&gateway, &ca.issue("a.example")).0, 200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("a.example"));
}

/// R2: bearer token, then session, then certificate; what is void does not fall through to it.
#[test]
fn everything_else_comes_before_the_certificate() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let issuer = Issuer::es256();
    let gateway = gateway_with(&upstream, &ca, "realm = \"staff\"\n")
        .issuer(&issuer)
        .user("alice", PASSWORD, &[])
        .auth(&["jwt", "session", "mtls"])
        .start();
    let id = ca.issue("a.example");
    let token = issuer.sign(&Issuer::claims("bob", &[], gateway.now()));
    let cookie = gateway.log_in("alice").get("/x").cookies();
    let client = gateway.client().certificate(&id);
    let caller = |request: crate::support::client::Request| {
        request.send().expect(200);
        upstream.next_request().header("x-user-id").map(str::to_owned)
    };

    assert_eq!(caller(client.get("/x")).as_deref(), Some("a.example"));
    assert_eq!(caller(client.get("/x").cookie(&cookie)).as_deref(), Some("id-of-alice"));
    assert_eq!(caller(client.get("/x").cookie(&cookie).bearer(&token)).as_deref(), Some("bob"));

    client.get("/x").bearer("a.b.c").send().expect(401);
    client.get("/x").cookie("__Host-portcullis=gone").send().expect(401);
    upstream.expect_only(3);
}

/// R2. A route that does not list certificates does not look at them.
#[test]
fn a_certificate_opens_no_route_that_does_not_list_it() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "realm = \"staff\"\n")
        .user("alice", PASSWORD, &[])
        .route("/people/{*rest}", &upstream)
        .auth(&["session"])
        .start();
    let client = gateway.client().certificate(&ca.issue("a.example"));
    let cookie = gateway.log_in("alice").get("/x").cookies();

    client.get("/people/x").send().expect(401);
    upstream.expect_only(0);
    client.get("/people/x").cookie(&cookie).send().expect(200);
    client.get("/x").send().expect(200);
    gateway
        .client()
        .certificate(&ClientCa::new("Others").issue("b.example"))
        .get("/people/x")
        .cookie(&cookie)
        .send()
        .expect(200);
}

/// A session plus a certificate: both have to be good, and the session says who it is.
#[test]
fn a_certificate_can_be_required_on_top() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let issuer = Issuer::es256();
    let gateway = gateway_with(&upstream, &ca, "realm = \"machines\"\n")
        .issuer(&issuer)
        .user("alice", PASSWORD, &[])
        .auth(&["jwt", "session"])
        .require("mtls")
        .start();
    let cookie = gateway.log_in("alice").get("/x").cookies();
    let token = issuer.sign(&Issuer::claims("bob", &[], gateway.now()));
    let (good, bad) = (ca.issue("a.example"), ClientCa::new("Others").issue("a.example"));

    let missing = gateway.client().get("/x").cookie(&cookie).send().expect(403);
    assert_eq!(missing.json()["error"], "certificate_needed");
    gateway.client().get("/x").bearer(&token).send().expect(403);
    let void = gateway.client().certificate(&bad).get("/x").cookie(&cookie).send().expect(401);
    assert_eq!(void.json()["error"], "invalid_certificate");
    gateway.client().certificate(&good).get("/x").send().expect(401);
    upstream.expect_only(0);

    gateway.client().certificate(&good).get("/x").cookie(&cookie).send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("id-of-alice"));
    gateway.client().certificate(&good).get("/x").bearer(&token).send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("bob"));
}

/// R31. A browser adds a certificate by itself.
#[test]
fn another_site_cannot_use_somebodys_certificate() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "")
        .key("upgrade = [\"websocket\"]")
        .route("/api/{*rest}", &upstream)
        .auth(&["mtls"])
        .key("csrf = \"allow_no_origin\"")
        .start();
    let client = gateway.client().certificate(&ca.issue("a.example"));
    let post = |path: &str, fields: &[(&str, &str)]| {
        fields.iter().fold(client.post(path, "x"), |request, (name, value)| request.header(name, value)).send().status
    };

    assert_eq!(post("/x", &[("Sec-Fetch-Site", "cross-site")]), 403);
    assert_eq!(post("/x", &[("Sec-Fetch-Site", "same-site")]), 403);
    assert_eq!(post("/x", &[("Origin", "https://evil.example")]), 403);
    assert_eq!(post("/x", &[]), 403);
    assert_eq!(post("/api/x", &[("Origin", "https://evil.example")]), 403);
    let upgrade = handshake(client.get("/x").header("Origin", "https://evil.example"));
    assert_eq!(upgrade.send().status, 403);
    upstream.expect_only(0);

    assert_eq!(post("/x", &[("Sec-Fetch-Site", "same-origin")]), 200);
    assert_eq!(post("/x", &[("Origin", "https://app.test")]), 200);
    assert_eq!(post("/api/x", &[]), 200);
    client.get("/x").header("Sec-Fetch-Site", "cross-site").send().expect(200);
}

/// R12. What proxies tell of certificates is nothing that a client may say, on any route.
#[test]
fn what_a_client_says_of_certificates_reaches_no_upstream() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway =
        gateway_with(&upstream, &ca, "").auth(&["none"]).route("/in/{*rest}", &upstream).auth(&["mtls"]).start();
    let names = [
        "Client-Cert",
        "Client-Cert-Chain",
        "X-Client-Cert",
        "X-Client-Cert-Present",
        "X-SSL-Client-Verify",
        "X-SSL-CERT",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-Tls-Client-Cert-Info",
        "SSL-Client-Cert",
        "SSL-Client-Verify",
        "SSL-Client-Subject-DN",
        "X-ARR-ClientCert",
        "X-Amzn-Mtls-Clientcert",
        "X-Tls-Client-Subject",
        "WL-Proxy-Client-Cert",
        "X_SSL_Client_Cert",
    ];
    for path in ["/x", "/in/x"] {
        let request = gateway.client().certificate(&ca.issue("a.example")).get(path).header("X-Mine", "stays");
        names.iter().fold(request, |request, name| request.header(name, "forged")).send().expect(200);

        let seen = upstream.next_request();
        assert_eq!(seen.header("x-mine"), Some("stays"));
        let left: Vec<_> = seen.headers.iter().filter(|(_, value)| value.contains("forged")).collect();
        assert!(left.is_empty(), "{path}: {left:?}");
    }
}

/// The log names the kind and the beginning of the fingerprint; counters say how many there were.
#[test]
fn logs_and_metrics_tell_of_certificates_without_names() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);
    let id = ca.sign(Leaf::new().dns("a.example").cn("Private Name").email("private@example.com"));
    let client = gateway.client().certificate(&id);
    let mut connection = client.connect();
    connection.send(&client.get("/x")).expect(200);
    connection.send(&client.get("/x")).expect(200);
    asked(&gateway, &ClientCa::new("Others").issue("a.example"));

    let fingerprint = portcullis::mtls::ClientCertificate::new(&id.chain).unwrap().thumbprint()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let line = gateway.log_lines().into_iter().find(|line| line.contains(&fingerprint)).expect("a line");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["via"], &line["subject"]), (&json!("mtls"), &json!("a.example")));
    assert!(!gateway.log_lines().concat().contains("rivate"));
    let count =
        |result| gateway.metric("portcullis_client_certificates_total", &[("ca", "devices"), ("result", result)]);
    assert_eq!((count("valid"), count("void")), (1.0, 1.0), "once for each connection");
}

/// RFC 8705 section 3. The token names the certificate; who signed that does not matter, but a date that is over does.
#[test]
fn a_token_that_is_bound_to_a_certificate_counts_with_it_only() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let issuer = Issuer::es256();
    let gateway = gateway_with(&upstream, &ca, "hosts = [\"app.test\"]\n").issuer(&issuer).auth(&["jwt"]).start();
    let now = gateway.now();
    let token = |id: &ClientId| {
        let mut claims = Issuer::claims("alice", &[], now);
        claims["cnf"] = json!({ "x5t#S256": id.thumbprint() });
        issuer.sign(&claims)
    };
    let (own, others) = (ca.issue("a.example"), ca.issue("b.example"));
    let expired = ca.sign(Leaf::new().dns("c.example").valid(now.minus(2 * DAY), now.minus(DAY)));
    let self_signed = Leaf::new().dns("d.example").self_signed();
    let shown = |id: &ClientId, token: &str| gateway.client().certificate(id).get("/x").bearer(token).send().status;

    gateway.client().get("/x").bearer(&token(&own)).send().expect(401);
    assert_eq!(shown(&others, &token(&own)), 401);
    assert_eq!(shown(&expired, &token(&expired)), 401);
    upstream.expect_only(0);

    assert_eq!(shown(&own, &token(&own)), 200);
    assert_eq!(shown(&self_signed, &token(&self_signed)), 200);
    let unbound = issuer.sign(&Issuer::claims("alice", &[], now));
    gateway.client().get("/x").bearer(&unbound).send().expect(200);
    upstream.expect_only(3);
}
