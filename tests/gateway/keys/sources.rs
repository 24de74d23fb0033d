//! Where fetched keys come from.

use serde_json::json;

use crate::support::{
    Gateway, Issuer, Pki, Provider, Upstream, eventually, gateway::Running, provider::tunnelling_proxy,
};

fn token(issuer: &Issuer, gateway: &Running) -> String {
    issuer.sign(&Issuer::claims("alice", &[], gateway.now()))
}

#[test]
fn keys_are_fetched_from_a_url() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let provider = Provider::of(&[&issuer]);
    let gateway = Gateway::new().issuer_with(&issuer, &provider.jwks()).route("/{*rest}", &upstream).start();

    gateway.client().get("/x").bearer(&token(&issuer, &gateway)).send().expect(200);
    let stranger = Issuer::es256().called(issuer.kid());
    gateway.client().get("/x").bearer(&token(&stranger, &gateway)).send().expect(401);

    assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
    let asked = &provider.asked()[0];
    assert_eq!(asked.path(), "/keys");
    assert_eq!(asked.header("accept-encoding"), Some("identity"));
    assert_eq!(gateway.metric("portcullis_jwks_keys", &[("issuer", "test")]), 1.0);
    assert_eq!(gateway.metric("portcullis_jwks_fetches_total", &[("issuer", "test"), ("result", "ok")]), 1.0);
}

#[test]
fn keys_are_discovered_over_tls_with_an_authority_of_ones_own() {
    let (upstream, key, pki) = (Upstream::start(), Issuer::es256(), Pki::new());
    let provider = Provider::secure(&[&key], &pki, "localhost");
    let issuer = provider.url("/realms/main");
    let metadata =
        json!({ "issuer": issuer, "jwks_uri": provider.url("/keys"), "id_token_signing_alg_values": ["none"] });
    for path in ["/realms/main/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/realms/main"]
    {
        provider.publish_with_metadata(path, &metadata, &[&key]);
        let gateway = discovering(&key, &issuer, &pki).route("/{*rest}", &upstream).start();
        let mut claims = Issuer::claims("alice", &[], gateway.now());
        claims["iss"] = json!(issuer);

        gateway.client().get("/x").bearer(&key.sign(&claims)).send().expect(200);
    }
}

#[test]
fn metadata_of_another_issuer_is_refused() {
    let (upstream, key, pki) = (Upstream::start(), Issuer::es256(), Pki::new());
    let provider = Provider::secure(&[&key], &pki, "localhost");
    let issuer = provider.url("");
    for metadata in [
        json!({ "issuer": provider.url("/"), "jwks_uri": provider.url("/keys") }),
        json!({ "issuer": "https://id.example", "jwks_uri": provider.url("/keys") }),
        json!({ "issuer": issuer, "jwks_uri": format!("http://127.0.0.1:{}/keys", provider.address().port()) }),
        json!({ "issuer": issuer }),
    ] {
        provider.publish_with_metadata("/.well-known/openid-configuration", &metadata, &[&key]);
        let gateway = discovering(&key, &issuer, &pki).route("/{*rest}", &upstream).start();
        let mut claims = Issuer::claims("alice", &[], gateway.now());
        claims["iss"] = json!(issuer);

        let answer = gateway.client().get("/x").bearer(&key.sign(&claims)).send().expect(503);

        assert!(answer.header("retry-after").is_some());
        assert!(provider.asked().iter().all(|asked| asked.path() != "/keys"), "{metadata}");
    }
}

#[test]
fn an_authority_that_is_not_believed_publishes_nothing() {
    let (upstream, key, pki) = (Upstream::start(), Issuer::es256(), Pki::new());
    let provider = Provider::secure(&[&key], &Pki::new(), "localhost");
    let issuer = provider.url("");
    let gateway = discovering(&key, &issuer, &pki).route("/{*rest}", &upstream).start();
    let mut claims = Issuer::claims("alice", &[], gateway.now());
    claims["iss"] = json!(issuer);

    gateway.client().get("/x").bearer(&key.sign(&claims)).send().expect(503);

    assert!(provider.asked().is_empty());
}

#[test]
fn a_name_that_is_not_in_the_certificate_publishes_nothing() {
    let (upstream, key, pki) = (Upstream::start(), Issuer::es256(), Pki::new());
    let provider = Provider::secure(&[&key], &pki, "id.test");
    let url = format!("https://localhost:{}/keys", provider.address().port());
    let gateway = with_authority(&key, &pki, &format!("jwks = {{ url = {url:?} }}"));
    let gateway = gateway.route("/{*rest}", &upstream).start();

    gateway.client().get("/x").bearer(&token(&key, &gateway)).send().expect(503);
}

#[test]
fn keys_are_fetched_through_a_proxy_where_one_is_written() {
    let (upstream, key, pki) = (Upstream::start(), Issuer::es256(), Pki::new());
    let provider = Provider::secure(&[&key], &pki, "id.test");
    let (proxy, tunnels) = tunnelling_proxy(provider.address());
    let gateway = with_authority(&key, &pki, "jwks = { url = \"https://id.test/keys\" }")
        .server(&format!("outbound_proxy = \"http://{proxy}\""))
        .route("/{*rest}", &upstream)
        .start();

    gateway.client().get("/x").bearer(&token(&key, &gateway)).send().expect(200);

    assert_eq!(*tunnels.lock().unwrap(), ["CONNECT id.test:443 HTTP/1.1"]);
    assert_eq!(provider.asked()[0].header("host"), Some("id.test"));
}

#[test]
fn a_proxy_of_the_environment_is_used_only_if_asked_for() {
    let (upstream, key, pki) = (Upstream::start(), Issuer::es256(), Pki::new());
    let provider = Provider::secure(&[&key], &pki, "id.test");
    let (proxy, tunnels) = tunnelling_proxy(provider.address());
    let build = || {
        with_authority(&key, &pki, "jwks = { url = \"https://id.test/keys\" }")
            .environment("https_proxy", &format!("http://{proxy}"))
            .route("/{*rest}", &upstream)
    };

    let unasked = build().start();
    eventually("the name is not resolved", || {
        unasked.metric("portcullis_jwks_fetches_total", &[("issuer", "test"), ("result", "failed")]) > 0.0
    });
    assert!(tunnels.lock().unwrap().is_empty());

    let asked = build().server("outbound_proxy = \"environment\"").start();
    asked.client().get("/x").bearer(&token(&key, &asked)).send().expect(200);
    assert_eq!(tunnels.lock().unwrap().len(), 1);
}

fn discovering(key: &Issuer, issuer: &str, pki: &Pki) -> Gateway {
    with_authority(key, pki, &format!("issuer = {issuer:?}\njwks = \"discover\""))
}

fn with_authority(key: &Issuer, pki: &Pki, lines: &str) -> Gateway {
    let gateway = Gateway::new();
    let file = gateway.write("authority.pem", &pki.authority_pem());
    gateway.issuer_with(key, &format!("{lines}\nca = {file:?}"))
}
