//! What is bound to a client certificate: sessions (R26), tokens of others and of our own (RFC 8705), without any
//! authority; and what upstreams are told of certificates (RFC 9440).

use serde_json::json;

use super::*;
use crate::support::{
    Holder, Issuer, Response,
    gateway::session_cookie,
    websocket::{echoes, echoing, ends_soon, tunnel},
};

const PASSWORD: &str = "correct horse battery staple";
const TOKEN: &str =
    "[token]\nissuer = \"https://app.test\"\nclients = [\"spa\", { id = \"phone\", grants = [\"password\"] }]\n";

/// Sessions are tied to keys; nobody vouches for certificates. `/open/…` asks nobody who is nobody.
fn tying(upstream: &Upstream) -> Gateway {
    Gateway::with(TOKEN)
        .table("[session]\nbind = \"mtls\"\n")
        .user("alice", PASSWORD, &[])
        .admin()
        .route("/{*rest}", upstream)
        .auth(&["session"])
        .key("upgrade = [\"websocket\"]")
        .route("/api/{*rest}", upstream)
        .auth(&["jwt:self"])
        .route("/open/{*rest}", upstream)
        .auth(&["session"])
        .key("optional = true")
}

fn self_signed() -> ClientId {
    Leaf::new().dns("a.example").self_signed()
}

/// R26, R4.
#[test]
fn a_session_counts_with_the_key_it_was_opened_with_only() {
    let upstream = Upstream::start();
    let gateway = tying(&upstream).start();
    let key = rcgen::KeyPair::generate().unwrap();
    let (own, renewed) = (Leaf::new().dns("a.example").key(&key).self_signed(), Leaf::new().key(&key).self_signed());
    let alice = gateway.log_in_with(gateway.client().certificate(&own), "alice");

    for (name, client) in [("nobody", alice.without_certificate()), ("another", alice.certificate(&self_signed()))] {
        for path in ["/x", "/open/x", "/_auth/sessions"] {
            let refused = client.get(path).send().expect(401);
            assert_eq!(refused.json()["error"], "session_ended", "{name} {path}");
        }
        client.get("/x").navigation().send().expect(302);
        client.post("/_auth/logout", "").header("Sec-Fetch-Site", "same-origin").send();
        client.post("/x", "").header("Sec-Fetch-Site", "same-origin").send().expect(401);
    }
    upstream.expect_only(0);

    alice.get("/x").send().expect(200);
    alice.get("/open/x").send().expect(200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("id-of-alice"));
    assert_eq!(upstream.next_request().header("x-user-id"), Some("id-of-alice"));
    alice.certificate(&renewed).get("/x").send_http2().expect(200);
    // The positive twin on the optional route: no cookie at all.
    gateway.client().get("/open/x").send().expect(200);
}

/// R26. It is on disk with the session.
#[test]
fn a_session_stays_tied_after_a_restart() {
    let upstream = Upstream::start();
    let state = tempfile::tempdir().unwrap();
    // With another hash of the same password her sessions end (R29).
    let hash = portcullis::accounts::hash_password(PASSWORD).unwrap();
    let start = || {
        Gateway::with("[session]\nbind = \"mtls\"\n")
            .server(&format!("state_dir = {:?}", state.path()))
            .table(&format!(
                "[[login.provider]]\nname = \"local\"\n[[login.provider.user]]\nname = \"alice\"\npassword = {hash:?}\n"
            ))
            .route("/{*rest}", &upstream)
            .start()
    };
    let own = self_signed();
    let gateway = start();
    let login = gateway.client().certificate(&own).post("/_auth/login", "").header("Sec-Fetch-Site", "same-origin");
    let cookie = session_cookie(&login.json(&json!({ "username": "alice", "password": PASSWORD })).send().expect(200));
    gateway.client().certificate(&own).get("/x").cookie(&cookie).send().expect(200);
    assert!(gateway.stop());

    let gateway = start();
    gateway.client().get("/x").cookie(&cookie).send().expect(401);
    gateway.client().certificate(&self_signed()).get("/x").cookie(&cookie).send().expect(401);
    upstream.expect_only(1);
    gateway.client().certificate(&own).get("/x").cookie(&cookie).send().expect(200);
}

#[test]
fn nobody_logs_in_without_a_certificate_where_sessions_are_tied() {
    let upstream = Upstream::start();
    let gateway = tying(&upstream).start();
    let client = gateway.client();
    let needed = |answer: Response| assert_eq!(answer.expect(401).json()["error"], "certificate_needed");

    needed(gateway.login(&client, "alice").send());
    let password = json!({ "grant_type": "password", "client_id": "phone", "username": "alice", "password": PASSWORD });
    needed(client.post("/_auth/token", "").json(&password).send());
    let page = client.get("/_auth/login").navigation().send().expect(401);
    assert!(page.text().contains("client certificate"), "{}", page.text());
    let made = gateway.admin().post("/api/v1/sessions", "").json(&json!({ "subject": "id-of-alice" })).send();
    assert_eq!(made.expect(409).json()["error"], "sessions_bound");

    gateway.login(&client.certificate(&self_signed()), "alice").send().expect(200);
}

/// A session from before that is tied to nothing is nobody's; one that is tied stays so when the setting goes.
#[test]
fn a_reload_that_ties_sessions_ends_those_that_are_not() {
    let upstream = echoing();
    let gateway = tying(&upstream).start();
    let own = gateway.client().certificate(&self_signed());
    let tied = gateway.log_in_with(own, "alice");
    gateway.edit("bind = \"mtls\"", "bind = \"none\"");
    gateway.reload().expect(200);
    gateway.edit("auth = [\"jwt:self\"]", "auth = [\"jwt:self\"]\nproof = \"mtls\"");
    gateway.reload().expect(200);
    tied.get("/x").send().expect(200);
    tied.certificate(&self_signed()).get("/x").send().expect(401);
    let untied = gateway.log_in("alice");
    let mut open = tunnel(&untied);

    gateway.edit("bind = \"none\"", "bind = \"mtls\"");
    gateway.reload().expect(200);
    untied.get("/x").send().expect(401);
    ends_soon(&mut open);
    tied.get("/x").send().expect(200);
}

/// RFC 8705 section 3, of our own tokens.
#[test]
fn tokens_of_a_tied_session_are_bound_to_its_certificate() {
    let upstream = Upstream::start();
    let gateway = tying(&upstream).start();
    let (own, other) = (self_signed(), self_signed());
    let alice = gateway.log_in_with(gateway.client().certificate(&own), "alice");
    let ask = |client: &Client, path: &str, body: serde_json::Value| {
        client.post(path, "").header("Sec-Fetch-Site", "same-origin").json(&body).send()
    };
    let session = json!({ "grant_type": "session", "client_id": "spa" });
    let token = ask(&alice, "/_auth/token", session).expect(200).json()["access_token"].as_str().unwrap().to_owned();

    gateway.client().get("/api/x").bearer(&token).send().expect(401);
    gateway.client().certificate(&other).get("/api/x").bearer(&token).send().expect(401);
    upstream.expect_only(0);
    gateway.client().certificate(&own).get("/api/x").bearer(&token).send().expect(200);

    let password = json!({ "grant_type": "password", "client_id": "phone", "username": "alice", "password": PASSWORD });
    let native = gateway.client().certificate(&own).post("/_auth/token", "").json(&password).send().expect(200).json();
    let refresh = json!({ "client_id": "phone", "refresh_token": native["refresh_token"] });
    let refreshed = |client: Client| client.post("/_auth/token/refresh", "").json(&refresh).send();
    refreshed(gateway.client()).expect(400);
    refreshed(gateway.client().certificate(&other)).expect(400);
    let next = refreshed(gateway.client().certificate(&own)).expect(200).json();
    let next = next["access_token"].as_str().unwrap();
    gateway.client().get("/api/x").bearer(next).send().expect(401);
    gateway.client().certificate(&own).get("/api/x").bearer(next).send().expect(200);
}

/// RFC 8705 section 2.2: the binding alone, whoever has signed the certificate.
#[test]
fn a_token_may_be_bound_to_a_certificate_that_no_authority_signed() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let cases = [("proof = \"mtls\"\n", "csrf = \"off\""), ("", "proof = \"mtls\""), ("", "proof = \"any\"")];
    for (served, (of_issuer, of_route)) in cases.into_iter().enumerate() {
        let gateway = Gateway::new()
            .issuer_with(&issuer, of_issuer)
            .route("/{*rest}", &upstream)
            .auth(&["jwt"])
            .key(of_route)
            .start();
        let own = self_signed();
        let mut claims = Issuer::claims("alice", &[], gateway.now());
        let unbound = issuer.sign(&claims);
        claims["cnf"] = json!({ "x5t#S256": own.thumbprint() });
        let token = issuer.sign(&claims);

        gateway.client().certificate(&own).get("/x").bearer(&unbound).send().expect(401);
        gateway.client().get("/x").bearer(&token).send().expect(401);
        gateway.client().certificate(&self_signed()).get("/x").bearer(&token).send().expect(401);
        upstream.expect_only(served);
        gateway.client().certificate(&own).get("/x").bearer(&token).send().expect(200);
    }
}

/// R21: every binding that a token has must be proven.
#[test]
fn a_token_that_is_bound_twice_needs_both_proofs() {
    let upstream = Upstream::start();
    let (issuer, holder, own) = (Issuer::es256(), Holder::new(), self_signed());
    let gateway =
        Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).auth(&["jwt"]).key("proof = \"any\"").start();
    gateway.advance(Duration::from_secs(62));
    let now = gateway.now();
    let mut claims = holder.claims("alice", now);
    claims["cnf"]["x5t#S256"] = own.thumbprint().into();
    let token = issuer.sign(&claims);
    let (bare, shown) = (gateway.client(), gateway.client().certificate(&own));
    let proof = || holder.proof("/x", &token, now);

    bare.get("/x").bearer(&token).send().expect(401);
    shown.get("/x").bearer(&token).send().expect(401);
    bare.get("/x").dpop(&token, &proof()).send().expect(401);
    gateway.client().certificate(&self_signed()).get("/x").dpop(&token, &proof()).send().expect(401);
    shown.get("/x").dpop(&token, &Holder::new().proof("/x", &token, now)).send().expect(401);
    upstream.expect_only(0);
    shown.get("/x").dpop(&token, &proof()).send().expect(200);
}

/// R28. The token stays good, and its certificate does not.
#[test]
fn a_bound_token_ends_when_its_certificate_is_on_a_new_list() {
    let upstream = echoing();
    let ca = ClientCa::new("Devices");
    let issuer = Issuer::es256();
    let gateway = gateway_with(&upstream, &ca, "crl = \"devices.crl\"\nrealm = \"main\"\n").auth(&["jwt"]);
    let now = gateway.clock().now();
    let list = |revoked: &[&ClientId]| ca.list(revoked, now.minus(DAY), now.plus(DAY));
    let gateway = gateway
        .key("proof = \"mtls\"")
        .key("upgrade = [\"websocket\"]")
        .issuer(&issuer)
        .admin()
        .file("devices.crl", &list(&[]))
        .start();
    let (lost, kept) = (ca.issue("lost.example"), ca.issue("kept.example"));
    let clients = [&lost, &kept].map(|id| {
        let mut claims = Issuer::claims("alice", &[], now);
        claims["cnf"] = json!({ "x5t#S256": id.thumbprint() });
        let token = issuer.sign(&claims);
        gateway.client().certificate(id).always("Authorization", &format!("Bearer {token}"))
    });
    let mut connections = clients.each_ref().map(Client::connect);
    let mut tunnels = clients.each_ref().map(tunnel);
    for (connection, client) in connections.iter_mut().zip(&clients) {
        connection.send(&client.get("/x")).expect(200);
    }

    std::fs::write(gateway.folder().join("devices.crl"), list(&[&lost])).unwrap();
    gateway.reload().expect(200);

    connections[0].send(&clients[0].get("/x")).expect(401);
    connections[1].send(&clients[1].get("/x")).expect(200);
    ends_soon(&mut tunnels[0]);
    assert!(echoes(&mut tunnels[1]));
}

/// RFC 9440, only of what an authority vouches for.
#[test]
fn an_upstream_is_told_of_a_certificate_that_counted() {
    use base64::Engine as _;
    let upstream = Upstream::start();
    let root = ClientCa::new("Root");
    let below = root.below("Below");
    let id = below.issue("a.example");
    let sequence = |der: &[u8]| format!(":{}:", base64::engine::general_purpose::STANDARD.encode(der));
    let (own, above) = (sequence(&id.chain[0]), sequence(&id.chain[1]));
    for (setting, certificate, chain) in
        [("none", None, None), ("own", Some(&own), None), ("chain", Some(&own), Some(&above))]
    {
        let gateway = gateway_with(&upstream, &root, "")
            .table(&format!("[identity]\nclient_certificate = {setting:?}\n"))
            .route("/open/{*rest}", &upstream)
            .auth(&["none"])
            .start();
        let forging = gateway
            .client()
            .certificate(&id)
            .always("Client-Cert", ":Zm9yZ2Vk:")
            .always("Client-Cert-Chain", ":Zm9yZ2Vk:");

        forging.get("/x").send().expect(200);
        let seen = upstream.next_request();
        assert_eq!(seen.header("client-cert"), certificate.map(String::as_str), "{setting}");
        assert_eq!(seen.header("client-cert-chain"), chain.map(String::as_str), "{setting}");
        forging.get("/open/x").send().expect(200);
        let seen = upstream.next_request();
        assert_eq!((seen.header("client-cert"), seen.header("client-cert-chain")), (None, None), "{setting}");
    }
}
