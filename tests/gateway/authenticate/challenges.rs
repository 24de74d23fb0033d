//! RFC 6750: what a bearer is told when it is refused, and what it is not told.

use crate::support::{Gateway, Issuer, Upstream};

/// RFC 6750 section 3: no error code without a credential, `invalid_token` with a void one, `insufficient_scope` with
/// too little.
#[test]
fn each_refusal_of_a_bearer_carries_the_challenge_that_fits() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/scope", &upstream).require("scope:orders.write");
    let gateway = gateway.route("/role", &upstream).require_role("admin");
    let gateway = gateway.route("/fresh", &upstream).key("require = { max_auth_age = \"10m\" }").start();
    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
    let client = gateway.client();
    let bearer = "Bearer realm=\"portcullis\"";

    for (name, request, status, challenge) in [
        ("nothing sent", client.get("/scope"), 401, Some(bearer.to_owned())),
        ("another scheme", client.get("/scope").header("Authorization", "Basic YTpi"), 401, Some(bearer.to_owned())),
        ("a void token", client.get("/scope").bearer("x.y.z"), 401, Some(format!("{bearer}, error=\"invalid_token\""))),
        (
            "two tokens",
            client.get("/scope").bearer("x").bearer("y"),
            401,
            Some(format!("{bearer}, error=\"invalid_request\"")),
        ),
        (
            "too little scope",
            client.get("/scope").bearer(&token),
            403,
            Some(format!("{bearer}, error=\"insufficient_scope\"")),
        ),
        ("a role too few", client.get("/role").bearer(&token), 403, None),
        (
            "an old login (RFC 9470)",
            client.get("/fresh").bearer(&token),
            401,
            Some(format!("{bearer}, error=\"insufficient_user_authentication\"")),
        ),
    ] {
        let answer = request.send().expect(status);
        match (answer.header("www-authenticate"), challenge) {
            (Some(is), Some(expect)) => assert!(is == expect || is.starts_with(&format!("{expect},")), "{name}: {is}"),
            (is, expect) => assert_eq!(is, expect.as_deref(), "{name}"),
        }
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// R33, R34. The precise reason is for the log: it would tell a forger how far they came.
#[test]
fn a_refused_bearer_does_not_learn_why() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let claims = Issuer::claims("alice", &[], gateway.now());
    let expired = Issuer::claims("alice", &[], gateway.now().minus(std::time::Duration::from_secs(900)));
    let ask = |token: &str| {
        let answer = gateway.client().get("/x").bearer(token).send().expect(401);
        let mut body = answer.json();
        body["request_id"].take();
        (answer.header("www-authenticate").unwrap().to_owned(), body)
    };

    let expired = ask(&issuer.sign(&expired));
    assert_eq!(expired, ask(&issuer.sign_with(&Issuer::es256(), &claims)));
    assert_eq!(expired, ask(&Issuer::unsigned(&claims)));
    assert_eq!(expired, ask("x"));
    gateway.client().get("/x").bearer(&issuer.sign(&claims)).send().expect(200);
}

/// RFC 6750 section 2.3. A token in the query or in a form is none: URLs end in logs.
#[test]
fn a_token_counts_in_the_header_alone() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let client = gateway.client();
    let form = client.post("/x", format!("access_token={token}"));

    client.get(&format!("/x?access_token={token}")).send().expect(401);
    form.header("Content-Type", "application/x-www-form-urlencoded").send().expect(401);
    client.get("/x").cookie(&format!("access_token={token}")).send().expect(401);
    client.get("/x").header("Proxy-Authorization", &format!("Bearer {token}")).send().expect(401);
    client.get("/x").header("X-Forwarded-Access-Token", &token).send().expect(401);
    assert_eq!(upstream.connection_count(), 0);
    client.get("/x").header("authorization", &format!("bearer {token}")).send().expect(200);
}

/// RFC 6750 section 3.1: which scopes would do, where a list can say so.
#[test]
fn too_little_scope_is_told_with_the_scopes_that_would_do() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer);
    let rows = [
        ("/all", "all = [\"scope:a\", \"role:user\", \"scope:b\"]", Some("a b")),
        ("/any", "any = [\"scope:a\"]", Some("a")),
        ("/both", "all = [\"scope:b\"], any = [\"scope:a\"]", Some("b a")),
        ("/either", "any = [\"scope:a\", \"scope:b\"]", None),
        ("/odd", "all = [\"scope:a\\\"b\"]", None),
    ];
    let gateway = rows.iter().fold(gateway, |gateway, (path, require, _)| {
        gateway.route(path, &upstream).auth(&["jwt"]).key(&format!("require = {{ {require} }}"))
    });
    let gateway = gateway.start();
    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));

    for (path, _, scopes) in rows {
        let answer = gateway.client().get(path).bearer(&token).send().expect(403);
        let scopes = scopes.map_or_else(String::new, |scopes| format!(", scope=\"{scopes}\""));
        let expect = format!("Bearer realm=\"portcullis\", error=\"insufficient_scope\"{scopes}");
        assert_eq!(answer.header("www-authenticate"), Some(&*expect), "{path}");
    }
    assert_eq!(upstream.connection_count(), 0);
}
