//! What a reload changes, one kind after the other; for each, what it was before.

use serde_json::json;

use crate::support::{Client, Gateway, Issuer, Upstream};

#[test]
fn routes_come_change_and_go() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().admin().issuer(&issuer).route("/a/{*rest}", &upstream).auth(&["jwt"]).start();
    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
    let status = |path: &str| gateway.client().get(path).bearer(&token).send().status;
    assert_eq!((status("/a/x"), status("/b/x")), (200, 404));

    gateway.edit("path = \"/a/{*rest}\"", "path = \"/b/{*rest}\"");
    assert_eq!((status("/a/x"), status("/b/x")), (200, 404), "nothing happens before somebody asks");
    let told = gateway.reload().expect(200).json();

    assert_eq!((told["result"].as_str(), told["generation"].as_u64()), (Some("applied"), Some(2)));
    assert_eq!((status("/a/x"), status("/b/x")), (404, 200));
    gateway.edit("auth = [\"jwt\"]", "auth = [\"jwt\"]\nrequire = { all = [\"role:admin\"] }");
    gateway.reload().expect(200);
    assert_eq!(status("/b/x"), 403);
}

#[test]
fn upstreams_change_and_connections_to_those_that_are_gone_are_closed() {
    let (old, new, kept) = (Upstream::start(), Upstream::start(), Upstream::start());
    let gateway = Gateway::new()
        .admin()
        .route("/a/{*rest}", &old)
        .auth(&["none"])
        .route("/b/{*rest}", &kept)
        .auth(&["none"])
        .start();
    gateway.client().get("/a/x").send().expect(200);
    gateway.client().get("/b/x").send().expect(200);
    assert_eq!((old.open_connections(), kept.open_connections()), (1, 1));

    gateway.edit(&old.url(), &new.url());
    gateway.reload().expect(200);

    crate::support::eventually("connections to what is gone are closed", || old.open_connections() == 0);
    gateway.client().get("/a/x").send().expect(200);
    old.expect_only(1);
    assert_eq!(new.request_count(), 1);
    gateway.client().get("/b/x").send().expect(200);
    assert_eq!(kept.connection_count(), kept.open_connections(), "what stays keeps its connections");
}

#[test]
fn an_issuer_that_is_gone_counts_no_more_not_even_for_tokens_known_before() {
    let upstream = Upstream::start();
    let (one, other) = (Issuer::es256(), Issuer::es256());
    let gateway = Gateway::new()
        .admin()
        .issuer(&one)
        .issuer_with(&other, "issuer = \"https://other.test\"")
        .route("/a/{*rest}", &upstream)
        .auth(&["jwt:test", "jwt:test2"])
        .start();
    let first = one.sign(&Issuer::claims("alice", &[], gateway.now()));
    let mut claims = Issuer::claims("bob", &[], gateway.now());
    claims["iss"] = json!("https://other.test");
    let second = other.sign(&claims);
    let status = |token: &str| gateway.client().get("/a/x").bearer(token).send().status;
    assert_eq!((status(&first), status(&second)), (200, 200));

    gateway.edit("auth = [\"jwt:test\", \"jwt:test2\"]", "auth = [\"jwt:test\"]");
    gateway.reload().expect(200);
    assert_eq!((status(&first), status(&second)), (200, 401));

    gateway.edit("auth = [\"jwt:test\"]", "auth = [\"jwt:test\", \"jwt:test2\"]");
    gateway.edit("https://other.test", "https://another.test");
    gateway.reload().expect(200);
    assert_eq!((status(&first), status(&second)), (200, 401), "its settings are others");
}

#[test]
fn a_known_token_is_judged_under_the_settings_of_today() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new()
        .admin()
        .issuer(&issuer)
        .route("/a/{*rest}", &upstream)
        .auth(&["jwt"])
        .require_role("admin")
        .start();
    let token = issuer.sign(&Issuer::claims("alice", &["admin"], gateway.now()));
    let status = || gateway.client().get("/a/x").bearer(&token).send().status;
    assert_eq!(status(), 200);

    gateway.edit("\nrealm = \"staff\"\ngrants = \"all\"", "\nrealm = \"staff\"\ngrants = { roles = [\"user\"] }");
    gateway.reload();

    assert_eq!(status(), 403, "what the issuer may not grant any more is dropped from tokens verified before");
}

#[test]
fn headers_prepared_under_earlier_settings_are_prepared_anew() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::with("[identity]\nextra = { \"X-User-Extra\" = \"one\" }")
        .admin()
        .issuer(&issuer)
        .route("/a/{*rest}", &upstream)
        .start();
    let mut claims = Issuer::claims("alice", &[], gateway.now());
    claims["one"] = json!("1");
    claims["two"] = json!("2");
    let bearer = gateway.client().always("Authorization", &format!("Bearer {}", issuer.sign(&claims)));
    let session = gateway.open_session(&json!({ "subject": "bob", "claims": { "one": "1", "two": "2" } }));
    let seen = |client: &Client| {
        client.get("/a/x").send().expect(200);
        let seen = upstream.next_request();
        (seen.header("x-user-extra").map(str::to_owned), seen.header("x-user-id").map(str::to_owned))
    };
    let is = |extra: &str, id: &str| (Some(extra.to_owned()), Some(id.to_owned()));
    assert_eq!((seen(&bearer), seen(&session)), (is("1", "alice"), is("1", "bob")));

    gateway.edit("\"one\" }", "\"two\" }");
    gateway.reload().expect(200);
    assert_eq!((seen(&bearer), seen(&session)), (is("2", "alice"), is("2", "bob")));

    gateway.edit("\"two\" }", "\"two\" }\nsubject = \"realm:sub\"");
    gateway.reload().expect(200);
    assert_eq!((seen(&bearer), seen(&session)), (is("2", "staff:alice"), is("2", "staff:bob")));
}

#[test]
fn certificates_change_with_their_keys_and_connections_that_stand_stay() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/a/{*rest}", &upstream).auth(&["none"]).start();
    let served = || {
        let connection = gateway.client().connect();
        connection.tls().and_then(|tls| tls.peer_certificates()).expect("a certificate")[0].to_vec()
    };
    let before = served();
    let mut standing = gateway.client().connect();

    gateway.pki().issue(&gateway.folder(), &["app.test"]);
    assert_eq!(served(), before);
    gateway.reload().expect(200);

    assert_ne!(served(), before);
    standing.send(&gateway.client().get("/a/x")).expect(200);
}

#[test]
fn the_oldest_tls_version_changes_without_touching_the_socket() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/a/{*rest}", &upstream).auth(&["none"]).start();
    gateway.client().get("/a/x").send().expect(200);

    gateway.edit("[tls]\n", "[tls]\nmin_version = \"1.3\"\n");
    gateway.reload().expect(200);

    let connection = gateway.client().connect();
    let version = connection.tls().and_then(|tls| tls.protocol_version());
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));
    gateway.client().get("/a/x").send().expect(200);
}

#[test]
fn an_admin_token_that_is_gone_opens_nothing() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/a/{*rest}", &upstream).start();
    let old = gateway.admin();
    std::fs::write(gateway.folder().join("admin.token"), "another-token-of-32-characters--").expect("it is written");

    old.post("/api/v1/reload", "").send().expect(200);

    old.get("/api/v1/routes").send().expect(401);
}
