//! Hosts in maintenance: nothing goes upstream, our own endpoints go on, and who is excepted is judged as ever.

use portcullis::clock::Timestamp;
use serde_json::json;

use crate::support::{Gateway, Issuer, Reply, Upstream, gateway::Running, websocket};

const FOR_ALL: &str = "[maintenance]\nhosts = \"all\"\nretry_after = \"30m\"\n";

#[test]
fn a_host_in_maintenance_sends_nothing_upstream_and_the_others_serve() {
    let upstream = Upstream::start();
    let table = "[maintenance]\nhosts = [\"app.test\"]\n";
    let gateway = Gateway::with(table).host("other.test").route("/{*rest}", &upstream).auth(&["none"]).start();
    let client = gateway.client();

    for request in [client.get("/"), client.post("/x", "body"), client.request("OPTIONS", "/")] {
        let answer = request.send().expect(503);
        assert_eq!(answer.header("retry-after"), Some("600"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.json()["error"], "maintenance");
    }
    client.get("/").send_http2().expect(503);
    let page = client.get("/").navigation().send().expect(503);
    assert!(page.text().contains("being worked on") && page.header("retry-after").is_some());
    assert!(upstream.bytes_seen().is_empty());
    assert_eq!(gateway.reason_of("/x"), "maintenance");
    client.host("other.test").get("/").send().expect(200);
    client.raw_response("GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n").expect(421);
}

#[test]
fn every_kind_of_route_is_closed_whoever_asks() {
    let (upstream, issuer) = (websocket::echoing(), Issuer::es256());
    let fixed = |name: &str, target: &str| {
        format!("[[route]]\nname = {name:?}\nmatch = {{ path = \"/{name}\" }}\nauth = [\"none\"]\n{target}")
    };
    let gateway = Gateway::with(FOR_ALL)
        .at(Timestamp::from_unix_seconds(1_924_819_200))
        .admin()
        .issuer(&issuer)
        .table(&fixed("fixed", "respond = { status = 200 }"))
        .table(&fixed("moved", "redirect = \"/fixed\""))
        .route("/private", &upstream)
        .auth(&["jwt", "session"])
        .route("/ws", &upstream)
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .route("/reports", &upstream)
        .auth(&["jwt"])
        .key("mode = { report_until = \"2030-12-31\" }")
        .start();
    let client = gateway.client();
    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
    let session = gateway.open_session(&json!({ "subject": "alice" }));

    for path in ["/private", "/reports", "/fixed", "/moved"] {
        client.get(path).send().expect(503);
        client.get(path).bearer(&token).send().expect(503);
    }
    session.get("/private").send().expect(503);
    websocket::handshake(client.get("/ws").header("Sec-Fetch-Site", "same-origin")).send().expect(503);
    client.get("/nowhere").send().expect(404);
    assert!(upstream.bytes_seen().is_empty());

    client.get("/_auth/livez").send().expect(200);
    assert_eq!(session.get("/_auth/session").send().expect(200).json()["subject"], "alice");
}

#[test]
fn who_is_excepted_is_judged_by_the_rules_and_not_by_what_they_say_of_themselves() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let start = |except: &str| {
        Gateway::with(&format!("[maintenance]\nhosts = \"all\"\nexcept = [{except:?}]\n"))
            .issuer(&issuer)
            .route("/{*rest}", &upstream)
            .require_role("admin")
            .start()
    };
    let of = |gateway: &Running, role: &str| issuer.sign(&Issuer::claims("alice", &[role], gateway.now()));

    let here = start("127.0.0.0/8");
    here.client().get("/").bearer(&of(&here, "admin")).send().expect(200);
    here.client().get("/").bearer(&of(&here, "user")).send().expect(403);
    here.client().get("/").send().expect(401);
    let elsewhere = start("203.0.113.7");
    for (name, value) in
        [("X-Forwarded-For", "203.0.113.7"), ("Forwarded", "for=203.0.113.7"), ("X-Real-IP", "203.0.113.7")]
    {
        let request = elsewhere.client().get("/").bearer(&of(&elsewhere, "admin")).header(name, value);
        request.send().expect(503);
    }
    assert_eq!(upstream.request_count(), 1);
}

#[test]
fn a_reload_begins_and_ends_it_and_what_is_open_goes_on() {
    let upstream = websocket::echoing();
    let gateway = Gateway::with("# none\n")
        .admin()
        .route("/{*rest}", &upstream)
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .start();
    let client = gateway.client();
    let mut tunnel = websocket::tunnel(&client);
    client.get("/").send().expect(200);

    gateway.edit("# none\n", FOR_ALL);
    gateway.reload().expect(200);
    assert_eq!(client.get("/").send().expect(503).header("retry-after"), Some("1800"));
    assert!(websocket::echoes(&mut tunnel));
    gateway.edit(FOR_ALL, "# none\n");
    gateway.reload().expect(200);

    client.get("/").send().expect(200);
}

/// A page on another origin learns what it is, and not that something is wrong with the origins.
#[test]
fn a_page_of_another_origin_can_read_the_refusal() {
    let upstream = Upstream::start();
    upstream.respond(|_| Reply::ok("ok"));
    let gateway = Gateway::with(FOR_ALL)
        .route("/{*rest}", &upstream)
        .auth(&["none"])
        .key("cors = { origins = [\"https://spa.test\"] }")
        .start();

    let answer = gateway.client().get("/").header("Origin", "https://spa.test").send().expect(503);

    assert_eq!(answer.header("access-control-allow-origin"), Some("https://spa.test"));
    assert!(upstream.bytes_seen().is_empty());
}
