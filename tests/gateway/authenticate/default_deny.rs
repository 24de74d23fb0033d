//! R1: no route, no `auth`, no permit: no byte goes upstream.

use crate::support::{Client, Gateway, Issuer, Upstream};

/// R1. Every kind of refusal, and the upstream does not even see a connection.
#[test]
fn a_refused_request_sends_no_byte_upstream() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).user("alice", "correct horse battery", &[]);
    let gateway = gateway.route("/app/{*rest}", &upstream).key("max_body = \"4B\"");
    let gateway = gateway.route_to("path = \"/get\", methods = [\"GET\"]", &servers(&upstream));
    let gateway = gateway.route("/admin/{*rest}", &upstream).require_role("admin").start();
    let client = gateway.client();
    let good = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
    let expired =
        issuer.sign(&Issuer::claims("alice", &["user"], gateway.now().minus(std::time::Duration::from_secs(900))));
    let forged = issuer.sign_with(&Issuer::es256(), &Issuer::claims("alice", &["admin"], gateway.now()));
    let session = gateway.log_in("alice");

    for (name, request, status) in [
        ("no route", client.get("/elsewhere").bearer(&good), 404),
        ("no credential", client.get("/app/x"), 401),
        ("no credential, with a body", client.post("/app/x", "data"), 401),
        ("an expired token", client.get("/app/x").bearer(&expired), 401),
        ("a forged token", client.get("/app/x").bearer(&forged), 401),
        ("a made-up session", client.get("/app/x").cookie("__Host-portcullis=AAAA"), 401),
        ("a known caller without the role", client.get("/admin/x").bearer(&good), 403),
        ("a session without the role", session.get("/admin/x"), 403),
        ("another site's form", session.post("/app/x", "a=b").header("Sec-Fetch-Site", "cross-site"), 403),
        ("a method that the path does not have", client.post("/get", "").bearer(&good), 405),
        ("a path with two readings", client.get("/app/..%2fadmin").bearer(&good), 400),
        ("an unknown host", client.get("/app/x").header("Host", "other.test").bearer(&good), 421),
        ("a body above the limit", client.post("/app/x", "12345").bearer(&good), 413),
        ("an expectation without a credential", client.post("/app/x", "data").header("Expect", "100-continue"), 401),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert_eq!(answer.interim, [0u16; 0], "{name}");
    }

    assert_eq!((upstream.connection_count(), upstream.bytes_seen().len()), (0, 0));
    client.get("/app/x").bearer(&good).send().expect(200);
    assert_eq!(upstream.request_count(), 1);
}

/// R1. Bytes behind a refused head are no second request, and reach nobody.
#[test]
fn what_follows_a_refused_request_on_the_connection_is_judged_on_its_own() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
    let good = issuer.sign(&Issuer::claims("alice", &[], gateway.now()));
    let client = gateway.client();
    let mut connection = client.connect();

    connection.send(&client.post("/x", "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n")).expect(401);
    assert_eq!(upstream.connection_count(), 0);
    connection.send(&client.get("/y").bearer(&good)).expect(200);

    assert_eq!(upstream.next_request().path, "/y");
    connection.send(&client.get("/z")).expect(401);
    assert_eq!(upstream.request_count(), 1);
}

/// R1. Also with a path that begins like one that has a route.
#[test]
fn what_no_route_covers_is_not_found() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/app/{*rest}", &upstream).auth(&["none"]).start();

    for path in ["/", "/ap", "/appx", "/application/x", "/APP/x", "/favicon.ico", "/*"] {
        gateway.client().get(path).send().expect(404);
    }
    assert_eq!(upstream.connection_count(), 0);
    for path in ["/app", "/app/", "/app/x"] {
        gateway.client().get(path).send().expect(200);
    }
}

/// R1.
#[test]
fn a_route_that_does_not_say_auth_is_no_configuration() {
    let upstream = Upstream::start();
    let route = |auth: &str| {
        let table = format!(
            "[upstream.x]\n{}\n[[route]]\nname = \"x\"\nmatch = {{ path = \"/x\" }}\nupstream = \"x\"\n{auth}",
            servers(&upstream)
        );
        Gateway::new().table(&table).try_start()
    };

    let report = route("").err().expect("a report");
    assert!(report.contains("no `auth`"), "{report}");
    assert!(route("auth = []").is_err());
    assert!(route("auth = [\"none\", \"session\"]").is_err());
    route("auth = [\"none\"]").expect("it starts").client().get("/x").send().expect(200);
}

/// R1. Our own endpoints are no way around a route.
#[test]
fn our_own_prefix_opens_nothing_else() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().user("alice", "correct horse battery", &[]).route("/{*rest}", &upstream).start();

    for path in ["/_auth", "/_auth/", "/_auth/x", "/_auth/login/x", "/_authx", "/_AUTH/login"] {
        let answer = gateway.client().get(path).send();
        assert!(matches!(answer.status, 401 | 404), "{path}: {answer:?}");
    }
    assert_eq!(upstream.connection_count(), 0);
    let client: Client = gateway.log_in("alice");
    client.get("/_AUTH/login").send().expect(200);
    assert_eq!(upstream.next_request().path, "/_AUTH/login");
}

fn servers(upstream: &Upstream) -> String {
    format!("servers = [{:?}]", upstream.url())
}
