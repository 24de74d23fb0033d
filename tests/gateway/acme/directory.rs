//! A made-up authority that does what the test says, and what the gateway makes of one that is down, odd or strict.

use std::{io::Write, sync::Arc, time::Duration};

use serde_json::{Value, json};

use crate::support::{Gateway, Pki, Provider, Upstream, eventually, gateway::Running, pebble::orders};

/// It opens accounts and orders, and waits for proofs without end.
pub(super) struct Directory {
    provider: Provider,
    pki: Pki,
    /// Behind its gateways.
    pub(super) upstream: Upstream,
}

/// An answer other than the usual one to a path: status, further fields, body.
type Other = dyn Fn(&str) -> Option<(u16, String, String)> + Send + Sync;

impl Directory {
    pub(super) const TOKEN: &'static str = "a-token-of-the-test";

    pub(super) fn asking_for(challenge: &str) -> Self {
        let pki = Pki::new();
        let provider = Provider::secure(&[], &pki, "localhost");
        let directory = Self { provider, pki, upstream: Upstream::start() };
        directory.usually(challenge, Arc::new(|_| None));
        directory
    }

    /// From now on it answers these paths like this: status, fields with their line ends, body.
    pub(super) fn answers(&self, path: &'static str, status: u16, fields: &'static str, body: &str) {
        let body = body.to_owned();
        let other = move |asked: &str| (asked == path).then(|| (status, fields.to_owned(), body.clone()));
        self.usually("tls-alpn-01", Arc::new(other));
    }

    /// How often this path was asked for.
    pub(super) fn asked(&self, path: &str) -> usize {
        self.provider.asked().iter().filter(|asked| asked.path() == path).count()
    }

    /// Lines of `[tls.acme]`.
    fn lines(&self, gateway: &Gateway, more: &str) -> String {
        let ca = gateway.write("directory.pem", &self.pki.authority_pem());
        let url = self.provider.url("/dir");
        format!("[tls.acme]\ndirectory = {url:?}\nterms_agreed = true\nca = {ca:?}\n{more}")
    }

    /// A gateway with `app.test`, for which it orders here, and `file.test`, for which it has a certificate; only
    /// `/guarded` asks for a session.
    pub(super) fn gateway(&self, more: &str) -> Gateway {
        let gateway = Gateway::new().host("file.test");
        let tls = format!("certificates = [{}]\n{}", gateway.certificate(&["file.test"]), self.lines(&gateway, more));
        gateway
            .tls(&tls)
            .server("redirect_http = \"127.0.0.1:0\"")
            .server("state_dir = \"state\"")
            .admin()
            .route("/{*rest}", &self.upstream)
            .auth(&["none"])
            .route("/guarded/{*rest}", &self.upstream)
            .auth(&["session"])
    }

    fn usually(&self, challenge: &str, other: Arc<Other>) {
        let (url, challenge) = (self.provider.url(""), challenge.to_owned());
        self.provider.behave(move |asked, stream| {
            let path = asked.path();
            let usual = |status: u16, fields: String, body: Value| (status, fields, body.to_string());
            let at = |path: &str| format!("{url}{path}");
            let proof = json!({ "type": challenge, "url": at("/challenge"), "token": Self::TOKEN, "status": "pending" });
            let order = json!({
                "status": "pending", "identifiers": [{ "type": "dns", "value": "app.test" }],
                "authorizations": [at("/authz")], "finalize": at("/finalize"),
            });
            let (status, fields, body) = other(path).unwrap_or_else(|| match path {
                "/dir" => usual(
                    200,
                    String::new(),
                    json!({
                        "newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order"),
                        "revokeCert": at("/revoke"), "keyChange": at("/key"),
                    }),
                ),
                "/account" => usual(201, format!("Location: {}\r\n", at("/account/1")), json!({ "status": "valid" })),
                "/account/1" => usual(200, String::new(), json!({ "status": "valid" })),
                "/order" => usual(201, format!("Location: {}\r\n", at("/order/1")), order),
                "/order/1" => usual(200, String::new(), order),
                "/authz" => usual(
                    200,
                    String::new(),
                    json!({
                        "identifier": { "type": "dns", "value": "app.test" }, "status": "pending", "challenges": [proof],
                    }),
                ),
                "/challenge" => usual(200, String::new(), proof),
                _ => usual(200, String::new(), json!({})),
            });
            let length = body.len();
            let body = if asked.head.starts_with("HEAD") { "" } else { &body };
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nReplay-Nonce: nonce\r\nCache-Control: no-store\r\n{fields}\
                 Content-Length: {length}\r\n\r\n{body}"
            )
        });
    }
}

fn problem(kind: &str) -> String {
    json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "no", "status": 400 }).to_string()
}

/// Waits until the keeper of certificates has looked again since now: a host that is added is ordered for.
fn until_it_has_looked(directory: &Directory, gateway: &Running) {
    let before = directory.asked("/order");
    gateway.edit("hosts = [\"app.test\", \"file.test\"]", "hosts = [\"app.test\", \"file.test\", \"z.test\"]");
    assert_eq!(gateway.reload().status, 200);
    eventually("another host is ordered for", || directory.asked("/order") > before);
}

#[test]
fn an_order_that_is_refused_is_repeated_when_the_authority_allows_and_no_sooner_also_after_a_restart() {
    let directory = Directory::asking_for("tls-alpn-01");
    directory.answers("/order", 429, "Retry-After: 7200\r\n", &problem("rateLimited"));
    let gateway = directory.gateway("").start();
    orders(&gateway, "rate_limited", 1);

    gateway.advance(Duration::from_secs(7100));
    let gateway = gateway.restart();
    until_it_has_looked(&directory, &gateway);
    orders(&gateway, "rate_limited", 1);
    assert_eq!(directory.asked("/order"), 2, "one for each host");

    // A quarter more at most, so that not all come back together.
    gateway.advance(Duration::from_secs(2000));
    eventually("it is ordered again", || directory.asked("/order") >= 3);
    assert_eq!(directory.asked("/account"), 1, "by the account that it had");
}

#[test]
fn an_order_that_was_never_seen_to_its_end_is_not_repeated_at_once_by_whoever_starts_next() {
    let directory = Directory::asking_for("tls-alpn-01");
    let gateway = directory.gateway("").start();
    eventually("the order waits for its proof", || directory.asked("/challenge") == 1);

    let gateway = gateway.restart();
    until_it_has_looked(&directory, &gateway);
    assert_eq!(directory.asked("/order"), 2, "that of the other host");
}

#[test]
fn settings_that_were_mended_are_tried_at_once() {
    let directory = Directory::asking_for("tls-alpn-01");
    directory.answers("/order", 400, "", &problem("rejectedIdentifier"));
    let gateway = directory.gateway("contact = [\"a@example.com\"]").start();
    orders(&gateway, "refused", 1);

    gateway.edit("contact = [\"a@example.com\"]", "contact = [\"b@example.com\"]");
    assert_eq!(gateway.reload().status, 200);

    orders(&gateway, "refused", 2);
    assert_eq!(directory.asked("/account/1"), 1, "the account is told of it");
}

#[test]
fn what_is_no_directory_is_left_alone_for_a_while_and_nobody_suffers() {
    let directory = Directory::asking_for("tls-alpn-01");
    for (path, status, body) in
        [("/dir", 200, "<html>welcome</html>"), ("/dir", 503, ""), ("/dir", 200, "{}"), ("/account", 500, "oops")]
    {
        directory.answers(path, status, "", body);
        let gateway = directory.gateway("").start();
        orders(&gateway, "unreachable", 1);
        gateway.client().host("file.test").get("/x").send().expect(200);
        assert_eq!(directory.asked("/order"), 0, "{path} {status} {body}");
    }
}

#[test]
fn an_account_that_the_authority_has_forgotten_is_made_anew() {
    let directory = Directory::asking_for("tls-alpn-01");
    directory.answers("/order", 400, "", &problem("accountDoesNotExist"));
    let gateway = directory.gateway("").start();
    orders(&gateway, "account", 1);

    directory.answers("/none", 200, "", "");
    gateway.advance(Duration::from_secs(90));

    eventually("the order goes on", || directory.asked("/challenge") == 1);
    assert_eq!(directory.asked("/account"), 2);
}

#[test]
fn an_authorization_that_has_ended_already_ends_the_order() {
    for status in ["invalid", "revoked", "expired", "deactivated"] {
        let directory = Directory::asking_for("tls-alpn-01");
        let authorization = json!({
            "identifier": { "type": "dns", "value": "app.test" }, "status": status, "challenges": [],
        });
        directory.answers("/authz", 200, "", &authorization.to_string());
        let gateway = directory.gateway("").start();

        orders(&gateway, "refused", 1);

        assert_eq!(directory.asked("/challenge"), 0, "{status}");
    }
}
