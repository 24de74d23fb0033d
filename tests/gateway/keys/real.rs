//! A real OpenID provider (npm `oidc-provider`) that rotates its keys: found by discovery, under load, and with a
//! stranger about. And the same one with opaque tokens, which it is asked about and takes back (RFC 7662, RFC 7009).

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Client, Gateway, Issuer, Pki, Response, Upstream, eventually,
    gateway::Running,
    program::{Program, found, free_address},
};

const REFRESH: Duration = Duration::from_secs(5 * 60);
const AUDIENCE: &str = "urn:orders-api";
/// What it hands out opaque tokens for.
const OPAQUE: &str = "urn:orders-api:opaque";

struct OidcProvider {
    _program: Program,
    _folder: TempDir,
    address: SocketAddr,
    pki: Pki,
}

impl OidcProvider {
    fn start() -> Option<Self> {
        let modules = concat!(env!("CARGO_TARGET_TMPDIR"), "/../node");
        let (node, _) = (found("node")?, found(&format!("{modules}/node_modules/oidc-provider"))?);
        let (folder, pki, address) = (tempfile::tempdir().unwrap(), Pki::new(), free_address());
        let files = pki.issue(folder.path(), &["localhost"]);
        let mut command = Command::new(node);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/keys/oidc-provider/server.mjs"));
        command.args([address.ip().to_string(), address.port().to_string()]);
        command.arg(files.cert).arg(files.key).arg(modules);
        command.stderr(std::fs::File::create(folder.path().join("log")).unwrap());
        Some(Self { _program: Program::start(&mut command, address), _folder: folder, address, pki })
    }

    fn issuer(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    fn client(&self) -> Client {
        Client::tls(self.address, &format!("localhost:{}", self.address.port()), self.pki.roots())
    }

    /// An access token for the client `robot` (RFC 6749 section 4.4, RFC 8707).
    fn token(&self) -> String {
        self.token_for(AUDIENCE)
    }

    fn token_for(&self, resource: &str) -> String {
        let answer =
            self.robot("/token", format!("grant_type=client_credentials&scope=orders.read&resource={resource}"));
        answer.json()["access_token"].as_str().expect("an access token").to_owned()
    }

    /// What `robot` asks for, with its secret, which is written in server.mjs.
    fn robot(&self, path: &str, form: String) -> Response {
        let robot = "Basic cm9ib3Q6YSUyMHNlY3JldCUyMG9mJTIwdGhlJTIwcm9ib3QlMjB0aGF0JTIwaXMlMjBsb25nJTIwZW5vdWdo";
        let request = self.client().post(path, form).header("Content-Type", "application/x-www-form-urlencoded");
        request.header("Authorization", robot).send().expect(200)
    }

    /// One step of a rotation: `publish`, `switch`, `retire` or `surprise`.
    fn rotate(&self, step: &str) {
        self.client().post(&format!("/rotate/{step}"), "").send().expect(200);
    }

    /// A gateway that knows its name, its authority and nothing else. Its clock stands still while the provider's goes
    /// on, hence the leeway.
    fn gateway(&self, upstream: &Upstream) -> Running {
        let gateway = Gateway::new();
        let authority = gateway.write("authority.pem", &self.pki.authority_pem());
        let lines = format!(
            "issuer = {:?}\njwks = \"discover\"\nca = {authority:?}\naudience = {AUDIENCE:?}\nleeway = \"5m\"\n\
             token_type = \"at+jwt\"\nrequired_claims = [\"client_id=robot\"]",
            self.issuer()
        );
        let gateway = gateway.issuer_with(&Issuer::es256(), &lines).route("/{*rest}", upstream);
        gateway.require("scope:orders.read").start()
    }

    /// A gateway that asks it about opaque tokens, and believes an answer for 20 s.
    fn gateway_that_asks(&self, upstream: &Upstream) -> Running {
        let gateway = Gateway::new().environment("CLIENT", "a secret of the gateway that is long enough");
        let authority = gateway.write("authority.pem", &self.pki.authority_pem());
        let issuer = self.issuer();
        let gateway = gateway.table(&format!(
            "[[jwt.issuer]]\nname = \"test\"\nissuer = {issuer:?}\njwks = \"discover\"\nalgorithms = [\"ES256\"]\n\
             ca = {authority:?}\naudience = [{OPAQUE:?}, {AUDIENCE:?}]\nleeway = \"5m\"\n\
             claims = {{ subject = \"client_id\" }}\nrequired_claims = [\"client_id=robot\"]\n\
             introspection = {{ url = \"{issuer}/token/introspection\", client_id = \"gateway\", \
             client_secret = {{ env = \"CLIENT\" }}, remember = \"20s\" }}"
        ));
        gateway.route("/{*rest}", upstream).auth(&["jwt"]).require("scope:orders.read").start()
    }

    /// What a stranger sends who knows what a token looks like: everything but the key.
    fn made_up(&self, gateway: &Running) -> String {
        let now = gateway.now().unix_seconds();
        let kid: u64 = u64::from_le_bytes(portcullis::secret::random::<8>());
        let stranger = Issuer::es256().called(&format!("{kid:x}"));
        let mut header = stranger.header();
        header["typ"] = json!("at+jwt");
        let claims = json!({
            "iss": self.issuer(), "aud": AUDIENCE, "sub": "robot", "client_id": "robot", "scope": "orders.read",
            "jti": "1", "iat": now, "exp": now + 600,
        });
        stranger.sign_with_header(&header, &claims)
    }
}

fn status(gateway: &Running, token: &str) -> u16 {
    gateway.client().get("/x").bearer(token).send().status
}

fn fetches(gateway: &Running) -> f64 {
    gateway.metric("portcullis_jwks_fetches_total", &[("issuer", "test"), ("result", "ok")])
}

fn questions(gateway: &Running, result: &str) -> f64 {
    gateway.metric("portcullis_introspections_total", &[("issuer", "test"), ("result", result)])
}

fn kid(token: &str) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].clone()
}

/// R24. The new key is published a refresh ahead, then used, then the old one goes with the last of its tokens.
#[test]
fn a_real_provider_rotates_its_keys_under_load_and_no_good_token_is_refused() {
    let Some(provider) = OidcProvider::start() else { return };
    let upstream = Upstream::start();
    let gateway = provider.gateway(&upstream);
    let first = provider.token();
    assert_eq!(status(&gateway, &first), 200);
    assert_eq!(upstream.next_request().header("x-user-id"), Some("robot"));

    let good = Mutex::new(vec![first.clone()]);
    let (stop, served, refused) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let token = {
                        let good = good.lock().unwrap();
                        good[turn % good.len()].clone()
                    };
                    match status(&gateway, &token) {
                        200 => {}
                        other => refused.lock().unwrap().push((kid(&token), other)),
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Stops the others even if a step fails.
        let stop = Stop(&stop);
        let serve_some = || {
            let before = served.load(Ordering::Relaxed);
            eventually("more requests are served", || served.load(Ordering::Relaxed) >= before + 30);
        };
        let refresh = || {
            let before = fetches(&gateway);
            gateway.advance(REFRESH);
            eventually("the keys are refreshed", || fetches(&gateway) > before);
        };
        let take = |tokens: usize| {
            for _ in 0..tokens {
                let token = provider.token();
                good.lock().unwrap().push(token);
            }
        };

        take(4);
        serve_some();
        provider.rotate("publish");
        take(2);
        refresh();
        serve_some();
        provider.rotate("switch");
        let fetched = fetches(&gateway);
        take(4);
        serve_some();
        assert_eq!(fetches(&gateway), fetched, "the new key was there already");
        // The last tokens under the old key have run out, then it goes.
        good.lock().unwrap().retain(|token| kid(token) != kid(&first));
        serve_some();
        provider.rotate("retire");
        take(2);
        refresh();
        serve_some();
        drop(stop);
    });

    assert_eq!(*refused.lock().unwrap(), []);
    let last = provider.token();
    assert_ne!(kid(&last), kid(&first));
    assert_eq!((status(&gateway, &last), status(&gateway, &first)), (200, 401));
}

/// R24. A key that nobody was told of, while a stranger makes up one `kid` after the other.
#[test]
fn a_real_providers_new_key_counts_within_ten_seconds_whatever_kids_a_stranger_makes_up() {
    let Some(provider) = OidcProvider::start() else { return };
    let upstream = Upstream::start();
    let gateway = provider.gateway(&upstream);
    let old = provider.token();
    assert_eq!(status(&gateway, &old), 200);

    let (stop, strangers, let_in) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let waited = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if status(&gateway, &provider.made_up(&gateway)) != 401 {
                        let_in.fetch_add(1, Ordering::Relaxed);
                    }
                    strangers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let stop = Stop(&stop);
        eventually("the stranger has used up the fetches", || fetches(&gateway) == 4.0);
        provider.rotate("surprise");
        let new = provider.token();
        assert_ne!(kid(&new), kid(&old));
        let waited = (0..=20).find(|second| {
            if *second > 0 {
                gateway.advance(Duration::from_secs(1));
            }
            let before = strangers.load(Ordering::Relaxed);
            eventually("the stranger goes on", || strangers.load(Ordering::Relaxed) > before + 2);
            status(&gateway, &new) == 200
        });
        drop(stop);
        waited
    });

    assert!(waited.is_some_and(|seconds| seconds <= 10), "{waited:?} s");
    assert_eq!(let_in.load(Ordering::Relaxed), 0);
    assert_eq!(fetches(&gateway), 5.0, "one fetch, however many made-up kids");
}

/// RFC 7662, R28. Asked once, then believed for as long as `remember` says, and no longer than the provider stands by
/// it.
#[test]
fn a_real_providers_opaque_token_counts_until_the_provider_has_taken_it_back() {
    let Some(provider) = OidcProvider::start() else { return };
    let upstream = Upstream::start();
    let gateway = provider.gateway_that_asks(&upstream);
    let (token, other) = (provider.token_for(OPAQUE), provider.token_for(OPAQUE));
    assert_eq!(token.split('.').count(), 1, "no JWT");
    assert_eq!([&token, &other].map(|token| status(&gateway, token)), [200, 200]);
    let seen = upstream.next_request();
    let told = ["x-user-id", "x-user-scopes", "authorization"].map(|name| seen.header(name));
    assert_eq!(told, [Some("robot"), Some("orders.read"), None]);
    let made_up: String = token.chars().rev().collect();
    assert_eq!(status(&gateway, &made_up), 401, "one that it never made");
    assert_eq!((questions(&gateway, "good"), questions(&gateway, "void")), (2.0, 1.0));

    provider.robot("/token/revocation", format!("token={token}"));

    assert_eq!([&token, &other].map(|token| status(&gateway, token)), [200, 200], "what was said is believed for 20 s");
    assert_eq!(questions(&gateway, "good"), 2.0);
    gateway.advance(Duration::from_secs(21));
    assert_eq!([&token, &other].map(|token| status(&gateway, token)), [401, 200]);
    assert_eq!((questions(&gateway, "good"), questions(&gateway, "void")), (3.0, 2.0));
}

/// What it signs and what it does not, side by side on one route; each goes its own way.
#[test]
fn a_real_providers_jwts_and_opaque_tokens_count_side_by_side() {
    let Some(provider) = OidcProvider::start() else { return };
    let upstream = Upstream::start();
    let gateway = provider.gateway_that_asks(&upstream);
    let (signed, opaque) = (provider.token(), provider.token_for(OPAQUE));

    assert_eq!([&signed, &opaque].map(|token| status(&gateway, token)), [200, 200]);

    assert_eq!(questions(&gateway, "good"), 1.0, "nobody was asked about the JWT");
    provider.robot("/token/revocation", format!("token={opaque}"));
    gateway.advance(Duration::from_secs(21));
    assert_eq!([&signed, &opaque].map(|token| status(&gateway, token)), [200, 401]);
}

/// Stops the threads of a test, also when it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
