//! R32: with `cors`, the gateway answers preflights itself, and pages of the listed origins can read every answer.

use crate::support::{Gateway, Issuer, Reply, Response, Upstream, client::Request, gateway::Running};

const SPA: &str = "https://spa.example.com";
const EVIL: &str = "https://evil.example";
const RULE: &str = "cors = { origins = [\"https://spa.example.com\"], headers = [\"authorization\", \"x-thing\"], \
    expose = [\"etag\"], methods = [\"GET\", \"PUT\"], credentials = true, max_age = \"10m\" }";

fn gateway(rule: &str, issuer: &Issuer, upstream: &Upstream) -> Running {
    let gateway = Gateway::new().issuer(issuer).route("/api/{*rest}", upstream);
    if rule.is_empty() { gateway } else { gateway.key(rule) }.start()
}

fn preflight(gateway: &Running, origin: &str) -> Request {
    gateway
        .client()
        .request("OPTIONS", "/api/x")
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "PUT")
        .header("Access-Control-Request-Headers", "authorization")
}

fn cors_fields(answer: &Response) -> Vec<(String, String)> {
    let ours = answer.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-"));
    let mut fields: Vec<_> = ours.cloned().collect();
    fields.sort();
    fields
}

fn varies_by_origin(answer: &Response) -> bool {
    answer.all("vary").iter().any(|value| value.to_ascii_lowercase().contains("origin"))
}

/// R32.
#[test]
fn a_preflight_is_answered_here_and_never_forwarded() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = gateway(RULE, &issuer, &upstream);
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));

    for request in [preflight(&gateway, SPA), preflight(&gateway, SPA).bearer(&token)] {
        let answer = request.send().expect(204);

        assert_eq!(answer.header("access-control-allow-origin"), Some(SPA));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert!(answer.header("access-control-allow-methods").expect("methods").contains("PUT"));
        let headers = answer.header("access-control-allow-headers").expect("headers").to_ascii_lowercase();
        assert!(headers.contains("authorization") && headers.contains("x-thing"), "{headers}");
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert!(varies_by_origin(&answer) && answer.body.is_empty());
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// R32.
#[test]
fn a_preflight_of_another_origin_gets_no_permission() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = gateway(RULE, &issuer, &upstream);
    for origin in
        [EVIL, "null", "http://spa.example.com", "https://spa.example.com:444", "https://SPA.example.com.evil"]
    {
        let answer = preflight(&gateway, origin).send().expect(204);

        assert!(cors_fields(&answer).is_empty(), "{origin}: {answer:?}");
        assert!(varies_by_origin(&answer), "{origin}: a cache must not give it to the listed one");
    }
    assert_eq!(upstream.connection_count(), 0);
}

/// R32: a page must learn that it is a 401 and no network error.
#[test]
fn refusals_can_be_read_by_the_listed_origin() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway =
        Gateway::new().issuer(&issuer).route("/api/{*rest}", &upstream).key(RULE).require_role("admin").start();
    let user = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
    for (what, request, status) in [
        ("nobody", gateway.client().get("/api/x"), 401),
        ("a bad token", gateway.client().get("/api/x").bearer("a.b.c"), 401),
        ("the role is missing", gateway.client().get("/api/x").bearer(&user), 403),
    ] {
        let listed = request.clone().header("Origin", SPA).send().expect(status);
        assert_eq!(listed.header("access-control-allow-origin"), Some(SPA), "{what}");
        assert_eq!(listed.header("access-control-allow-credentials"), Some("true"), "{what}");

        let other = request.header("Origin", EVIL).send().expect(status);
        assert!(cors_fields(&other).is_empty() && varies_by_origin(&other), "{what}");
    }
}

/// R32: the route's rule decides, not what the upstream says.
#[test]
fn what_the_upstream_says_of_cors_is_replaced() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    upstream.respond(|_| {
        let loose =
            [("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true"), ("Vary", "accept")];
        Reply::with(200, &loose, "data")
    });
    let gateway = gateway(RULE, &issuer, &upstream);
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let from = |origin: &str| gateway.client().get("/api/x").bearer(&token).header("Origin", origin).send().expect(200);

    assert_eq!(from(SPA).header("access-control-allow-origin"), Some(SPA));
    // What a page that sends tokens needs to hear of DPoP is added (RFC 9449 section 8.2).
    assert_eq!(from(SPA).header("access-control-expose-headers"), Some("etag, dpop-nonce, www-authenticate"));
    let other = from(EVIL);
    assert!(cors_fields(&other).is_empty(), "{other:?}");
    assert!(varies_by_origin(&other) && other.all("vary").concat().contains("accept"));
}

/// R32: without `cors`, OPTIONS is a request like any other.
#[test]
fn without_a_rule_a_preflight_is_a_request_like_any_other() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = gateway("", &issuer, &upstream);
    let token = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));

    let refused = preflight(&gateway, SPA).send().expect(401);
    assert!(cors_fields(&refused).is_empty());
    assert_eq!(upstream.connection_count(), 0);
    preflight(&gateway, SPA).bearer(&token).send().expect(200);
    assert_eq!(upstream.next_request().method, "OPTIONS");
}

/// R32, R9. The route may serve OPTIONS and not what the preflight asks about; that is the upstream's to answer.
#[test]
fn without_a_rule_a_preflight_about_another_method_is_a_request_like_any_other() {
    let upstream = Upstream::start();
    let gateway = Gateway::new()
        .route_to(
            "path = \"/api/{*rest}\", methods = [\"GET\", \"OPTIONS\"]",
            &format!("servers = [\"{}\"]", upstream.url()),
        )
        .auth(&["none"])
        .start();

    preflight(&gateway, SPA).send().expect(200);

    assert_eq!(upstream.next_request().method, "OPTIONS");
    gateway.client().request("PUT", "/api/x").send().expect(405);
}

/// R32: CORS says who may read, not who gets in.
#[test]
fn with_a_rule_other_options_requests_still_authenticate() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = gateway(RULE, &issuer, &upstream);

    gateway.client().request("OPTIONS", "/api/x").send().expect(401);
    gateway.client().request("OPTIONS", "/api/x").header("Origin", SPA).send().expect(401);
    let method = "Access-Control-Request-Method";
    gateway.client().request("OPTIONS", "/api/x").header(method, "PUT").send().expect(401);
    gateway.client().get("/api/x").header("Origin", SPA).header(method, "PUT").send().expect(401);

    assert_eq!(upstream.connection_count(), 0);
}

/// R32.
#[test]
fn any_origin_with_credentials_is_a_configuration_error() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let build = |credentials: bool| {
        let rule = format!("cors = {{ origins = [\"*\"], credentials = {credentials} }}");
        Gateway::new().issuer(&issuer).route("/api/{*rest}", &upstream).key(&rule).try_start()
    };

    let report = build(true).err().expect("it is refused");
    assert!(report.contains("credentials"), "{report}");
    let gateway = build(false).expect("without credentials it is fine");
    let answer = gateway.client().get("/api/x").header("Origin", EVIL).send().expect(401);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}
