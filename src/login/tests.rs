//! Logging in and out as a client sees it, without sockets.

use std::time::Duration;

use http::{
    Method, Request,
    header::{self, ACCEPT, SET_COOKIE, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use serde_json::{Value, json};

use super::*;
use crate::{
    factor::Factors,
    session::{Lookup, SameSite, SessionToken},
};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A gateway's worth of state, and what one browser holds of it.
static NO_AUDIT: Audit = Audit::off();

struct World {
    view: ClientView,
    login: Settings,
    look: page::Look,
    no_headers: HeaderMap,
    sessions: session::Settings,
    store: Store,
    hasher: Hasher,
    throttle: Throttle,
    devices: Devices,
    stash: Stash,
    second: Second,
}

/// What a request carries beside method, path and body.
#[derive(Default)]
struct Sent<'a> {
    headers: Vec<(header::HeaderName, String)>,
    session: Option<&'a Arc<Session>>,
}

fn provider(name: &str, users: Vec<User>) -> Provider {
    let grants = Grants::Only { roles: Box::new(["user".into()]), groups: Box::new(["ops".into()]), scopes: None };
    let accounts = Accounts::new(users).unwrap();
    Provider {
        name: name.into(),
        label: None,
        realm: "staff".into(),
        grants,
        trust_email: true,
        remember_me: None,
        accounts,
    }
}

/// `correct horse`, as cheaply hashed as argon2 allows.
const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$HASH";

fn alice() -> User {
    User {
        name: "alice".into(),
        id: "u-1".into(),
        display_name: Some("Alice Ä. <b>".into()),
        email: Some("alice@example.com".into()),
        password: hash().into(),
        second_factor: false,
        roles: Box::new(["user".into(), "superuser".into()]),
        groups: Box::new(["ops".into()]),
    }
}

fn hash() -> String {
    use argon2::{Algorithm, Argon2, Params, Version};
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

    let mut output = [0; 32];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    argon2.hash_password_into(b"correct horse", b"saltsaltsaltsalt", &mut output).unwrap();
    HASH.replace("HASH", &STANDARD_NO_PAD.encode(output))
}

impl World {
    fn new() -> Self {
        Self {
            view: ClientView {
                address: "192.0.2.1".parse().unwrap(),
                scheme: Scheme::Https,
                authority: "intranet.example.com".parse().unwrap(),
                through_trusted_proxy: false,
                chain: None,
            },
            login: Settings { prefix: "/_auth".into(), providers: Box::new([provider("local", vec![alice()])]) },
            look: page::Look::default(),
            no_headers: HeaderMap::new(),
            sessions: session::Settings {
                cookie: "__Host-portcullis".into(),
                same_site: SameSite::Lax,
                bind: session::Bind::None,
                idle_timeout: Duration::from_secs(1800),
                max_lifetime: Duration::from_secs(43_200),
                max_sessions: 100,
                max_per_user: 10,
                max_session_bytes: 4096,
            },
            store: Store::in_memory(),
            hasher: Hasher::start(1, 16).unwrap(),
            throttle: Throttle::new(),
            devices: Devices::new(),
            stash: Stash::new(),
            second: Second::new(Factors::open(None, None).unwrap()),
        }
    }

    fn context<'a>(&'a self, path: &'a str, sent: &Sent<'a>) -> Context<'a> {
        Context {
            view: &self.view,
            path,
            headers: &self.no_headers,
            identity: sent.session.map(|session| session.identity()),
            certificate: None,
            session: sent.session,
            login: &self.login,
            face: self.look.face(None),
            sessions: &self.sessions,
            store: &self.store,
            hasher: &self.hasher,
            throttle: &self.throttle,
            devices: &self.devices,
            stash: &self.stash,
            second: &self.second,
            now: NOW,
            audit: &NO_AUDIT,
            origin: Origin::gateway(NOW),
        }
    }

    async fn send(&self, method: Method, uri: &str, body: &str, sent: Sent<'_>) -> Result<Answer, Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in &sent.headers {
            request = request.header(name, value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        match head.uri.path() {
            path if path.starts_with("/_auth/login") => {
                sign_in(&head, body, self.context(head.uri.path(), &sent)).await
            }
            "/_auth/logout" => sign_out(&head, body, self.context(head.uri.path(), &sent)).await,
            _ => who_am_i(&head, self.context(head.uri.path(), &sent)),
        }
    }

    async fn get(&self, uri: &str) -> Answer {
        self.send(Method::GET, uri, "", Sent::default()).await.unwrap()
    }

    /// Opens the page and sends its form as a browser does.
    async fn submit(&self, fields: &str, session: Option<&Arc<Session>>) -> Result<Answer, Refusal> {
        self.submit_to("/_auth/login", fields, session).await
    }

    async fn submit_to(&self, path: &str, fields: &str, session: Option<&Arc<Session>>) -> Result<Answer, Refusal> {
        let page = self.get(&format!("{path}?return_to=/orders")).await;
        let token = hidden(&page, "token");
        let cookie = cookies(&page)[0].split(';').next().unwrap().to_owned();
        let headers = vec![form_type(), (header::COOKIE, cookie)];
        let body = format!("token={token}&return_to=%2Forders&{fields}");
        self.send(Method::POST, path, &body, Sent { headers, session }).await
    }

    async fn post_json(&self, body: &str) -> Result<Answer, Refusal> {
        let headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
        self.send(Method::POST, "/_auth/login", body, Sent { headers, session: None }).await
    }

    async fn open(&self) -> (SessionToken, Arc<Session>) {
        let (identity, _) = identity_of(&self.login.providers[0], &alice(), Factor::One, NOW).unwrap();
        self.store.open(Arc::new(identity), None, &self.sessions, NOW).await.unwrap()
    }

    /// The session of the cookie that an answer sets.
    fn session_of(&self, answer: &Answer) -> Option<Arc<Session>> {
        let cookies = cookies(answer);
        let cookie = cookies.iter().find(|cookie| cookie.starts_with("__Host-portcullis="))?;
        let value = cookie.strip_prefix("__Host-portcullis=")?.split(';').next()?;
        match self.store.lookup(&SessionToken::parse(value.as_bytes())?, &self.sessions, NOW) {
            Lookup::Found(session) => Some(session),
            Lookup::Absent | Lookup::Unavailable => None,
        }
    }
}

const RIGHT: &str = "username=alice&password=correct+horse";
const WRONG: &str = "username=alice&password=wrong";

fn form_type() -> (header::HeaderName, String) {
    (header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned())
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(answer.response.body()).unwrap()
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(answer.response.body()).unwrap()
}

fn cookies(answer: &Answer) -> Vec<String> {
    let values = answer.response.headers().get_all(SET_COOKIE);
    values.iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn location(answer: &Answer) -> &str {
    answer.response.headers()[LOCATION].to_str().unwrap()
}

fn hidden(answer: &Answer, name: &str) -> String {
    let marker = format!("name=\"{name}\" value=\"");
    let (_, rest) = text(answer).split_once(&marker).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[tokio::test]
async fn a_login_by_form_opens_a_session_and_goes_where_it_was_headed() {
    let world = World::new();

    let answer = world.submit(RIGHT, None).await.unwrap();

    assert_eq!(answer.response.status(), StatusCode::SEE_OTHER);
    assert_eq!(location(&answer), "/orders");
    let session = world.session_of(&answer).unwrap();
    assert_eq!(session.identity().subject(), "u-1");
    assert_eq!(session.identity().roles().collect::<Vec<_>>(), ["user"]);
    assert_eq!(session.identity().auth_time(), Some(NOW));
    assert!(matches!(answer.event, Event::LoggedIn));
    assert!(cookies(&answer)[0].ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"));
    assert!(cookies(&answer)[1].starts_with("__Secure-portcullis-device="));
    assert_eq!(cookies(&answer).len(), 2, "the cookie of the form stays for other tabs");
}

#[tokio::test]
async fn a_login_always_makes_a_new_session_and_ends_the_old_one() {
    let world = World::new();
    let (old_token, old) = world.open().await;

    let answer = world.submit(RIGHT, Some(&old)).await.unwrap();

    assert!(old.is_ended());
    assert!(matches!(world.store.lookup(&old_token, &world.sessions, NOW), Lookup::Absent));
    assert_ne!(world.session_of(&answer).unwrap().key(), old.key());
    assert_eq!(world.store.len(), 1);
}

#[tokio::test]
async fn a_failed_login_keeps_the_old_session() {
    let world = World::new();
    let (_, old) = world.open().await;

    let answer = world.submit(WRONG, Some(&old)).await.unwrap();

    assert!(world.session_of(&answer).is_none());
    assert!(!old.is_ended());
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_get_the_same_answer() {
    let world = World::new();

    let wrong = world.submit(WRONG, None).await.unwrap();
    let unknown = world.submit("username=mallory&password=wrong", None).await.unwrap();

    assert_eq!(wrong.response.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.response.headers().contains_key(WWW_AUTHENTICATE));
    assert!(matches!(wrong.event, Event::LoginFailed));
    let without_tokens = |answer: &Answer| text(answer).replace(&hidden(answer, "token"), "");
    assert_eq!(without_tokens(&wrong), without_tokens(&unknown));
    assert!(!text(&wrong).contains("alice"), "what was typed is not reflected");
    assert_eq!(hidden(&wrong, "return_to"), "/orders");
    assert!(world.store.is_empty());

    let json = |name: &str| format!(r#"{{"username":"{name}","password":"wrong"}}"#);
    assert!(matches!(world.post_json(&json("alice")).await, Err(Refusal::LoginFailed)));
    assert!(matches!(world.post_json(&json("mallory")).await, Err(Refusal::LoginFailed)));
}

#[tokio::test]
async fn a_form_of_another_browser_does_not_log_in() {
    let world = World::new();
    let (ours, theirs) = (world.get("/_auth/login").await, world.get("/_auth/login").await);
    let cookie = |answer: &Answer| cookies(answer)[0].split(';').next().unwrap().to_owned();
    let send = async |cookie: Option<String>, token: String| {
        let cookie = cookie.map(|cookie| (header::COOKIE, cookie));
        let headers = std::iter::once(form_type()).chain(cookie).collect();
        let body = format!("{RIGHT}&token={token}");
        world.send(Method::POST, "/_auth/login", &body, Sent { headers, session: None }).await.unwrap()
    };

    for (cookie, token) in [
        (Some(cookie(&ours)), hidden(&theirs, "token")),
        (None, hidden(&theirs, "token")),
        (Some(cookie(&ours)), String::new()),
        (Some("__Host-portcullis-login=".into()), hidden(&ours, "token")),
        (Some(format!("{}; {}", cookie(&ours), cookie(&theirs))), hidden(&ours, "token")),
    ] {
        let answer = send(cookie, token).await;
        assert_eq!(answer.response.status(), StatusCode::FORBIDDEN);
        assert!(matches!(answer.event, Event::FormRefused));
        assert!(text(&answer).contains("expired"));
        assert!(world.store.is_empty());
    }
    let answer = send(Some(cookie(&ours)), hidden(&ours, "token")).await;
    assert!(world.session_of(&answer).is_some());
}

#[tokio::test]
async fn several_tabs_can_hold_the_form() {
    let world = World::new();
    let first = world.get("/_auth/login").await;
    let cookie = cookies(&first)[0].split(';').next().unwrap().to_owned();
    let headers = vec![(header::COOKIE, cookie)];

    let second = world.send(Method::GET, "/_auth/login", "", Sent { headers, session: None }).await.unwrap();

    assert_eq!(hidden(&first, "token"), hidden(&second, "token"));
    assert!(world.store.is_empty(), "anonymous visitors have no session");
}

#[tokio::test]
async fn programs_log_in_with_json() {
    let world = World::new();

    let answer = world
        .post_json(r#"{"username":"ALICE@example.com","password":"correct horse","return_to":"/x","provider":"local"}"#)
        .await
        .unwrap();

    assert_eq!(answer.response.status(), StatusCode::OK);
    assert!(world.session_of(&answer).is_some());
    let told = body(&answer);
    assert_eq!(told["subject"], "u-1");
    assert_eq!(told["return_to"], "/x");
    assert_eq!(told["expires_at"], 1_800_043_200);
    assert_eq!(told["idle_expires_at"], 1_800_001_800);

    let unknown = world.post_json(r#"{"username":"alice","password":"correct horse","provider":"x"}"#).await;
    assert!(matches!(unknown, Err(Refusal::BadBody(_))));
}

#[tokio::test]
async fn only_forms_and_json_are_taken() {
    let world = World::new();
    let body = r#"{"username":"alice","password":"correct horse"}"#;
    for kind in ["text/plain", "multipart/form-data; boundary=x"] {
        let headers = vec![(header::CONTENT_TYPE, kind.to_owned())];
        let refused = world.send(Method::POST, "/_auth/login", body, Sent { headers, session: None }).await;
        assert!(matches!(refused, Err(Refusal::UnsupportedMediaType)), "{kind}");
    }
    let put = world.send(Method::PUT, "/_auth/login", body, Sent::default()).await;
    assert!(matches!(put, Err(Refusal::MethodNotAllowed { .. })));
}

#[tokio::test]
async fn nobody_logs_in_or_out_unencrypted() {
    let mut world = World::new();
    world.view.scheme = Scheme::Http;

    for (method, uri) in
        [(Method::GET, "/_auth/login"), (Method::POST, "/_auth/login"), (Method::POST, "/_auth/logout")]
    {
        let refused = world.send(method, uri, RIGHT, Sent::default()).await;
        assert!(matches!(refused, Err(Refusal::NotEncrypted)), "{uri}");
    }
}

#[tokio::test]
async fn foreign_places_to_return_to_become_the_root() {
    let world = World::new();
    for place in ["https://evil.example/", "//evil.example", "/%5cevil.example", "/\\evil.example", "javascript:x"] {
        let page = world.get(&format!("/_auth/login?return_to={}", place.replace('\\', "%5C"))).await;
        assert_eq!(hidden(&page, "return_to"), "/", "{place}");
        assert!(!text(&page).contains("evil.example"));

        let answer = world
            .post_json(&json!({ "username": "alice", "password": "correct horse", "return_to": place }).to_string())
            .await
            .unwrap();
        assert_eq!(body(&answer)["return_to"], "/");
    }
}

#[tokio::test]
async fn guessing_is_slowed_down_for_known_and_unknown_users_alike() {
    let world = World::new();
    for name in ["alice", "mallory"] {
        let guess = json!({ "username": name, "password": "wrong" }).to_string();
        for _ in 0..5 {
            assert!(matches!(world.post_json(&guess).await, Err(Refusal::LoginFailed)));
        }
        let Err(Refusal::TooMany { retry_after }) = world.post_json(&guess).await else { panic!("not refused") };
        assert!(!retry_after.is_zero() && retry_after <= MAX_WAIT);
    }
}

#[tokio::test]
async fn whoever_is_signed_in_is_told_and_may_switch() {
    let world = World::new();
    let (_, session) = world.open().await;
    let get = async |uri: &str| {
        let sent = Sent { headers: vec![], session: Some(&session) };
        world.send(Method::GET, uri, "", sent).await.unwrap()
    };

    let told = get("/_auth/login?return_to=/orders?a%3D1%26b%3D2").await;
    assert!(text(&told).contains("Alice Ä. &lt;b&gt;"));
    assert!(text(&told).contains("href=\"/orders?a=1&amp;b=2\""));
    assert!(text(&told).contains("prompt=login&amp;return_to=/orders%3Fa%3D1%26b%3D2"));
    assert!(!text(&told).contains("type=\"password\""));

    let form = get("/_auth/login?prompt=login&return_to=/orders").await;
    assert!(text(&form).contains("type=\"password\""));
}

#[tokio::test]
async fn several_providers_are_offered() {
    let mut world = World::new();
    let partners = Provider { label: Some("Our <partners>".into()), ..provider("partners", vec![alice()]) };
    world.login.providers = Box::new([provider("staff", vec![]), partners]);

    let choice = world.get("/_auth/login?return_to=/orders").await;
    assert!(text(&choice).contains("href=\"/_auth/login/partners?prompt=login&amp;return_to=/orders\""), "{choice:?}");
    assert!(text(&choice).contains("Sign in with Our &lt;partners&gt;") && !text(&choice).contains("password"));
    let form = world.get("/_auth/login/partners?return_to=/orders").await;
    assert!(text(&form).contains("action=\"/_auth/login/partners\"") && text(&form).contains("value=\"/orders\""));
    for path in ["/_auth/login/nobody", "/_auth/login/"] {
        let unknown = world.send(Method::GET, path, "", Sent::default()).await;
        assert_eq!(unknown.unwrap_err(), Refusal::NoRoute, "{path}");
    }

    let staff = world.submit_to("/_auth/login/staff", RIGHT, None).await.unwrap();
    let partners = world.submit_to("/_auth/login/partners", RIGHT, None).await.unwrap();
    assert!(world.session_of(&staff).is_none());
    assert!(world.session_of(&partners).is_some());
}

#[tokio::test]
async fn logging_out_ends_the_session_and_clears_the_cookie() {
    let world = World::new();
    let (token, session) = world.open().await;
    let post = async |body: &str, headers| {
        let sent = Sent { headers, session: Some(&session) };
        world.send(Method::POST, "/_auth/logout", body, sent).await.unwrap()
    };

    let answer = post("return_to=%2Fbye", vec![form_type()]).await;

    assert_eq!(answer.response.status(), StatusCode::SEE_OTHER);
    assert_eq!(location(&answer), "/bye");
    assert!(matches!(world.store.lookup(&token, &world.sessions, NOW), Lookup::Absent));
    let cleared = "__Host-portcullis=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";
    assert_eq!(cookies(&answer), [cleared]);
    assert!(matches!(&answer.event, Event::LoggedOut));

    let again = post("", vec![(ACCEPT, "application/json".into())]).await;
    assert_eq!(again.response.status(), StatusCode::OK);
    assert_eq!(body(&again), json!({ "authenticated": false }));
    assert_eq!(cookies(&again), [cleared]);

    let foreign = post("return_to=//evil.example", vec![form_type()]).await;
    assert_eq!(location(&foreign), "/_auth/login?signed_out");
    assert!(text(&world.get("/_auth/login?signed_out").await).contains("You have signed out."));
}

#[tokio::test]
async fn following_a_link_logs_nobody_out() {
    let world = World::new();
    let (_, session) = world.open().await;

    let sent = Sent { headers: vec![], session: Some(&session) };
    let page = world.send(Method::GET, "/_auth/logout?return_to=/orders", "", sent).await.unwrap();

    assert!(!session.is_ended());
    assert!(cookies(&page).is_empty());
    assert!(text(&page).contains("action=\"/_auth/logout\""));
    assert_eq!(hidden(&page, "return_to"), "/orders");
}

#[tokio::test]
async fn a_caller_learns_who_they_are_and_nobody_else_does() {
    let world = World::new();
    let (_, session) = world.open().await;

    let sent = Sent { headers: vec![], session: Some(&session) };
    let answer = world.send(Method::GET, "/_auth/session", "", sent).await.unwrap();

    assert_eq!(
        body(&answer),
        json!({
            "authenticated": true, "subject": "u-1", "realm": "staff", "name": "Alice Ä. <b>",
            "email": "alice@example.com", "email_verified": true, "roles": ["user"], "groups": ["ops"], "scopes": [],
            "via": "session", "auth_time": 1_800_000_000, "factor": 1, "expires_at": 1_800_043_200,
            "idle_expires_at": 1_800_001_800, "sessions_url": "/_auth/sessions",
        })
    );
    assert_eq!(answer.response.headers()[header::CACHE_CONTROL], "no-store");
    let nobody = world.send(Method::GET, "/_auth/session", "", Sent::default()).await;
    assert!(matches!(nobody, Err(Refusal::NoCredential)));
}

#[tokio::test]
async fn a_full_store_and_a_full_queue_are_told_apart_from_a_wrong_password() {
    let mut world = World::new();
    world.sessions.max_sessions = 0;
    let said = world.submit(RIGHT, None).await.unwrap();
    assert_eq!(said.response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(matches!(said.event, Event::Unavailable(Refusal::StoreFull)));

    world.hasher = Hasher::start(1, 0).unwrap();
    for _ in 0..10 {
        let said = world.submit(RIGHT, None).await.unwrap();
        assert!(matches!(said.event, Event::Unavailable(Refusal::Unavailable)));
    }
}
