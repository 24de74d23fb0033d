//! What the README tells backends to do, done: its Express and its FastAPI application are taken out of it and run as
//! they stand there, but for the gateway's address and their own port. They believe what the gateway asserts, and
//! nothing in which a single thing is wrong.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::clock::Clock;
use serde_json::{Value, json};

use super::{HEADER, KEY_SET, TYP, asserting, assertion_of, token};
use crate::support::{
    Client, Issuer, Upstream,
    gateway::Running,
    program::{Program, found, free_address},
};

const URL: &str = "https://intranet.example.com/_auth/assertion-jwks.json";

/// What a backend says of an assertion: who is calling, or the word for what is wrong.
type Said = Result<Value, String>;

/// A bearer of assertions, and what the two backends say of it: `None`, they believe it.
struct Case {
    name: &'static str,
    assertion: String,
    express: Option<&'static str>,
    fastapi: Option<&'static str>,
}

/// The first code in this language of the manual's section.
fn snippet(language: &str) -> String {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the manual");
    let section = manual.split("\n## Signed assertions\n").nth(1).expect("the section");
    let code = section.split(&format!("\n```{language}\n")).nth(1).expect("code in this language");
    code.split("\n```").next().expect("the end of the code").to_owned() + "\n"
}

/// With something else in the place of what is certainly there.
#[track_caller]
fn replaced(text: &str, part: &str, other: &str) -> String {
    assert_eq!(text.matches(part).count(), 1, "{part} in\n{text}");
    text.replace(part, other)
}

fn installed(path: &str) -> Option<PathBuf> {
    found(&format!("{}/target/readme/{path}", env!("CARGO_MANIFEST_DIR")))
}

/// A gateway in front of a backend at this address; it is an hour behind, so that what it signs first has expired.
struct Site {
    gateway: Running,
    recorder: Upstream,
    other: Upstream,
    issuer: Issuer,
    expired: String,
}

impl Site {
    fn before(backend: SocketAddr) -> Self {
        let (recorder, other, issuer) = (Upstream::start(), Upstream::start(), Issuer::es256());
        let hour = Duration::from_secs(3600);
        let gateway = asserting("ttl = \"5m\"").host("localhost").at(Clock::system().now().minus(hour)).issuer(&issuer);
        let gateway = gateway.route("/recorded/{*rest}", &recorder).upstream_key("assertion_audience = \"orders\"");
        let gateway = gateway.route("/other/{*rest}", &other);
        let gateway = gateway
            .route_to("path = \"/orders/{id}\"", &format!("servers = [\"http://{backend}\"]"))
            .upstream_key("assertion_audience = \"orders\"")
            .start();
        let mut site = Self { gateway, recorder, other, issuer, expired: String::new() };
        site.expired = site.assertion("/recorded/x");
        site.gateway.advance(hour);
        site
    }

    fn assertion(&self, target: &str) -> String {
        self.gateway.client().get(target).bearer(&token(&self.issuer, &self.gateway)).send().expect(200);
        let upstream = if target.starts_with("/other") { &self.other } else { &self.recorder };
        assertion_of(&upstream.next_request())
    }

    fn key_set(&self) -> String {
        format!("https://localhost:{}{KEY_SET}", self.gateway.addresses().gateway[0].port())
    }

    fn authority(&self) -> PathBuf {
        let path = self.gateway.folder().join("authority.pem");
        fs::write(&path, self.gateway.pki().authority_pem()).expect("a file");
        path
    }

    /// Each with one thing wrong, and its twins with nothing.
    fn cases(&self) -> Vec<Case> {
        let good = self.assertion("/recorded/x");
        let parts: Vec<&str> = good.split('.').collect();
        let text = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
        let claims: Value = serde_json::from_slice(&text(parts[1])).expect("claims");
        let header: Value = serde_json::from_slice(&text(parts[0])).expect("a header");
        let promoted = String::from_utf8(text(parts[1])).expect("text").replace("\"user\"", "\"root\"");
        let unsigned = json!({ "alg": "none", "typ": TYP });
        let stranger = Issuer::es256();
        let access = self.gateway.sign_access(&claims);
        let bad = |name, assertion: String, express, fastapi| Case {
            name,
            assertion,
            express: Some(express),
            fastapi: Some(fastapi),
        };
        vec![
            Case { name: "what the gateway says", assertion: good.clone(), express: None, fastapi: None },
            bad("none", String::new(), "ERR_JWS_INVALID", "DecodeError"),
            bad("an expired one", self.expired.clone(), "ERR_JWT_EXPIRED", "ExpiredSignatureError"),
            bad(
                "one for another upstream",
                self.assertion("/other/x"),
                "ERR_JWT_CLAIM_VALIDATION_FAILED",
                "InvalidAudienceError",
            ),
            bad(
                "other claims under a good signature",
                format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(promoted), parts[2]),
                "ERR_JWS_SIGNATURE_VERIFICATION_FAILED",
                "InvalidSignatureError",
            ),
            bad(
                "a stranger's, under the name of our key",
                stranger.sign_with_header(&header, &claims),
                "ERR_JWS_SIGNATURE_VERIFICATION_FAILED",
                "InvalidSignatureError",
            ),
            bad(
                "a stranger's, under its own name",
                stranger.sign_with_header(&json!({ "alg": "ES256", "typ": TYP, "kid": stranger.kid() }), &claims),
                "ERR_JWKS_NO_MATCHING_KEY",
                "PyJWKClientError",
            ),
            bad(
                "one that nobody signed",
                format!("{}.{}.", URL_SAFE_NO_PAD.encode(unsigned.to_string()), parts[1]),
                "ERR_JOSE_ALG_NOT_ALLOWED",
                "PyJWKClientError",
            ),
            bad("our access token", access, "ERR_JWKS_NO_MATCHING_KEY", "InvalidTokenError"),
            bad(
                "the caller's own token",
                token(&self.issuer, &self.gateway),
                "ERR_JWKS_NO_MATCHING_KEY",
                "InvalidTokenError",
            ),
            Case { name: "the good one again", assertion: good, express: None, fastapi: None },
        ]
    }

    /// Asks the backend through the gateway, and then, past it, with every case.
    #[track_caller]
    fn judge(
        &self,
        backend: SocketAddr,
        expected: impl Fn(&Case) -> Option<&'static str>,
        said: impl Fn(&Value) -> &Value,
    ) {
        let bearer = token(&self.issuer, &self.gateway);
        let alice = json!({ "id": "7", "sub": "alice", "realm": "staff", "roles": ["user"] });
        let answer = self.gateway.client().get("/orders/7").bearer(&bearer).header(HEADER, "forged").send().expect(200);
        assert_eq!(answer.json(), alice);
        self.gateway.client().get("/orders/7").send().expect(401);

        for case in self.cases() {
            let request = Client::plain(backend).get("/orders/7").header("Authorization", &format!("Bearer {bearer}"));
            let answer = request.header(HEADER, &case.assertion).send();
            let told: Said = match answer.status {
                200 => Ok(answer.json()),
                401 => Err(said(&answer.json()).as_str().unwrap_or_default().to_owned()),
                other => panic!("{}: {other}: {}", case.name, answer.text()),
            };
            let wanted = expected(&case).map_or_else(|| Ok(alice.clone()), |why| Err(why.to_owned()));
            assert_eq!(told, wanted, "{}", case.name);
        }
    }
}

/// R22.
#[test]
fn express_believes_what_the_gateway_asserts_and_nothing_else() {
    let (Some(node), Some(modules)) = (found("node"), installed("express/node_modules")) else { return };
    let address = free_address();
    let site = Site::before(address);
    let folder = tempfile::tempdir().expect("a folder");
    let code = replaced(&snippet("js"), URL, &site.key_set());
    let code = replaced(&code, "app.listen(3000, ", &format!("app.listen({}, ", address.port()));
    fs::write(folder.path().join("app.mjs"), code).expect("a file");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).expect("a link");

    let mut command = Command::new(node);
    command.arg("app.mjs").current_dir(folder.path()).env("NODE_EXTRA_CA_CERTS", site.authority());
    let _program = Program::start(&mut command, address);

    site.judge(address, |case| case.express, |body| &body["error"]);
}

/// R22.
#[test]
fn fastapi_believes_what_the_gateway_asserts_and_nothing_else() {
    let (Some(python), Some(packages)) = (found("python3"), installed("fastapi")) else { return };
    let address = free_address();
    let site = Site::before(address);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("app.py"), replaced(&snippet("python"), URL, &site.key_set())).expect("a file");

    let mut command = Command::new(python);
    command.args(["-m", "uvicorn", "app:app", "--log-level", "warning", "--host", "127.0.0.1", "--port"]);
    command.arg(address.port().to_string()).current_dir(folder.path());
    command.env("PYTHONPATH", packages).env("SSL_CERT_FILE", site.authority());
    let _program = Program::start(&mut command, address);

    site.judge(address, |case| case.fastapi, |body| &body["detail"]);
}
