//! The admin API against its rules: who may ask, for what, in which form.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use aws_lc_rs::digest;
use http::Request;
use http_body::Frame;
use http_body_util::{Empty, Full};
use serde_json::json;

use super::*;
use crate::{
    api_key::{self, ApiKeys},
    change::Ask,
    clock::Timestamp,
    policy::Access,
    route::{Destination, Target},
    session::{Lookup, OldCookie, SameSite, SessionToken},
    telemetry::{LogSettings, LogSink, Telemetry},
};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_900_000_000);

/// Everything an admin listener has, without the listener.
struct Bench {
    folder: tempfile::TempDir,
    telemetry: Arc<Telemetry>,
    settings: Settings,
    session: session::Settings,
    routes: Vec<Arc<Route>>,
    store: Arc<Store>,
    revocations: Revocations,
    fixed_keys: ApiKeys,
    made_keys: Arc<api_key::Store>,
    clock: Clock,
    peer: PeerAddr,
    reloads: Reloads,
    /// Nobody reloads here.
    _asks: tokio::sync::mpsc::Receiver<Ask>,
}

fn token(name: &str, allow: &[Scope], realm: &str, grants: Grants) -> AdminToken {
    let hash = digest::digest(&digest::SHA256, format!("{name}-s3cret").as_bytes());
    let digest = Secret::new(hash.as_ref().try_into().unwrap());
    AdminToken { name: name.into(), digest, allow: allow.into(), realm: realm.into(), grants }
}

impl Bench {
    fn new() -> Self {
        let (reloads, asks) = Reloads::new(NOW);
        let folder = tempfile::tempdir().unwrap();
        let audit = LogSink::File(folder.path().join("audit"));
        let log = LogSettings { access: LogSink::Off, audit, ..LogSettings::default() };
        let employees = Grants::Only { roles: ["employee".into()].into(), groups: [].into(), scopes: None };
        let tokens = [
            token("login-app", &[Scope::SessionsCreate], "staff", employees),
            token("desk", &[Scope::SessionsRead, Scope::SessionsRevoke], "staff", Grants::All),
            token("partner-desk", &[Scope::SessionsRead, Scope::SessionsRevoke], "partners", Grants::All),
            token("root", &[Scope::All], "root", Grants::All),
        ];
        Self {
            folder,
            telemetry: Telemetry::start(&log, NOW).unwrap(),
            settings: Settings { listen: Listener::Http("127.0.0.1:9092".parse().unwrap()), tokens: tokens.into() },
            session: session::Settings {
                cookie: "__Host-portcullis".into(),
                same_site: SameSite::Lax,
                bind: session::Bind::None,
                idle_timeout: Duration::from_secs(1800),
                max_lifetime: Duration::from_secs(43_200),
                max_sessions: 1000,
                max_per_user: 10,
                max_session_bytes: 4096,
            },
            routes: Vec::new(),
            store: Arc::default(),
            revocations: Revocations::new(),
            fixed_keys: ApiKeys::new(),
            made_keys: Arc::new(api_key::Store::in_memory()),
            clock: Clock::manual(NOW),
            peer: PeerAddr::Unix,
            reloads,
            _asks: asks,
        }
    }

    async fn send<B>(&self, request: Request<B>) -> (Response<()>, String)
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let context = Context {
            settings: &self.settings,
            session: &self.session,
            hosts: &["gateway.example".parse().unwrap()],
            routes: &self.routes,
            issuers: &[Issuer {
                name: "keycloak".into(),
                issuer: "https://id.example".into(),
                realm: "staff".into(),
                opaque: false,
                is_self: false,
                keep: Duration::from_secs(86_460),
            }],
            servers: &[],
            upstreams: &["legacy".into()],
            generation: 1,
            reloads: &self.reloads,
            store: &self.store,
            families: &Families::in_memory(),
            api_keys: Known { fixed: &self.fixed_keys, made: &self.made_keys },
            max_api_keys: 3,
            revocations: &self.revocations,
            certified_realms: &[],
            max_revocations: 1000,
            clock: &self.clock,
            audit: self.telemetry.audit(),
            peer: self.peer,
            request_id: "0123abcd",
        };
        let (head, body) = request.into_parts();
        let (head, body) = answer(&context, &head, None, body).await.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, ()), String::from_utf8(text.to_vec()).unwrap())
    }

    async fn call(&self, admin: &str, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let media = if path == BULK { "application/x-ndjson" } else { "application/json" };
        let path = if path == BULK { SESSIONS } else { path };
        let request = request(method, path)
            .header(header::AUTHORIZATION, format!("Bearer {admin}-s3cret"))
            .header(header::CONTENT_TYPE, media)
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let (response, text) = self.send(request).await;
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let value = if media == "application/json" { lines[0].clone() } else { Value::Array(lines) };
        (response.status(), value)
    }

    /// Opens a session of the staff and returns its key.
    async fn open(&self, subject: &str) -> String {
        let (status, answer) =
            self.call("login-app", Method::POST, SESSIONS, &json!({ "subject": subject }).to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["key"].as_str().unwrap().to_owned()
    }

    fn find(&self, token: &Value) -> Option<Arc<session::Session>> {
        let token = SessionToken::parse(token.as_str().unwrap().as_bytes()).unwrap();
        match self.store.lookup(&token, &self.session, self.clock.now()) {
            Lookup::Found(session) => Some(session),
            Lookup::Absent | Lookup::Unavailable => None,
        }
    }

    fn audit(self) -> Vec<Value> {
        assert!(self.telemetry.finish(Duration::from_secs(10)));
        let text = std::fs::read_to_string(self.folder.path().join("audit")).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header(header::HOST, "localhost:9092")
}

const SESSIONS: &str = "/api/v1/sessions";
/// The same, sent as NDJSON.
const BULK: &str = "bulk";

#[tokio::test]
async fn a_session_is_opened_with_the_realm_and_grants_of_the_token() {
    let bench = Bench::new();
    let entry = json!({
        "subject": "u-1", "name": "Alice", "email": "a@example.com", "roles": ["admin", "employee"],
        "groups": ["ops"], "claims": { "department": "it" }, "auth_time": 1_899_999_000,
    });

    let (status, answer) = bench.call("login-app", Method::POST, SESSIONS, &entry.to_string()).await;

    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(answer["durable"], false);
    assert_eq!(answer["dropped_grants"], 2);
    assert_eq!(answer["expires_at"], "2030-03-18T05:46:40Z");
    let session = bench.find(&answer["token"]).unwrap();
    let identity = session.identity();
    assert_eq!((&**identity.realm(), identity.subject(), identity.name()), ("staff", "u-1", Some("Alice")));
    assert_eq!(identity.roles().collect::<Vec<_>>(), ["employee"]);
    assert_eq!(identity.groups().count(), 0);
    assert!(!identity.email_verified());
    assert_eq!(identity.auth_time(), Some(Timestamp::from_unix_seconds(1_899_999_000)));
    assert_eq!(answer["key"], session.key().to_string());
    let token = answer["token"].as_str().unwrap().to_owned();
    let audit = bench.audit();
    assert!(audit.iter().all(|line| !line.to_string().contains(&token)), "no token in the log");
    assert_eq!(audit[0]["event"], "session.created");
    assert_eq!((&audit[0]["admin"], &audit[0]["subject"]), (&json!("login-app"), &json!("u-1")));
    assert_eq!((&audit[1]["event"], &audit[1]["status"]), (&json!("admin.call"), &json!(201)));
}

#[tokio::test]
async fn a_call_without_a_known_token_is_401_and_says_how() {
    let bench = Bench::new();
    for (authorization, error) in [
        (&[][..], "no_token"),
        (&["Basic cm9vdDpzM2NyZXQ="], "no_token"),
        (&["Bearer"], "no_token"),
        (&["Bearer "], "no_token"),
        (&["Bearerroot-s3cret"], "no_token"),
        (&["Bearer root-s3cret extra"], "no_token"),
        (&["Bearer root-s3cret", "Bearer root-s3cret"], "no_token"),
        (&["Bearer root-s3cre"], "invalid_token"),
        (&["Bearer x"], "invalid_token"),
    ] {
        let mut request = request(Method::GET, SESSIONS).header(header::COOKIE, "token=root-s3cret");
        for value in authorization {
            request = request.header(header::AUTHORIZATION, *value);
        }
        let (response, body) = bench.send(request.body(Empty::new()).unwrap()).await;

        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{authorization:?}");
        assert!(body.contains(error), "{authorization:?} {body}");
        assert!(!body.contains("s3cret"), "{body}");
        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
    let known = request(Method::GET, SESSIONS).header(header::AUTHORIZATION, "bearer  root-s3cret");
    assert_eq!(bench.send(known.body(Empty::new()).unwrap()).await.0.status(), StatusCode::OK);
}

#[tokio::test]
async fn each_call_needs_its_scope() {
    let bench = Bench::new();
    let entry = r#"{"subject":"u"}"#;
    let key = "0".repeat(64);
    let one = format!("{SESSIONS}/{key}");
    for (admin, method, path, expect) in [
        ("login-app", Method::POST, SESSIONS, StatusCode::CREATED),
        ("desk", Method::POST, SESSIONS, StatusCode::FORBIDDEN),
        ("root", Method::POST, SESSIONS, StatusCode::CREATED),
        ("login-app", Method::GET, SESSIONS, StatusCode::FORBIDDEN),
        ("desk", Method::GET, SESSIONS, StatusCode::OK),
        ("login-app", Method::DELETE, "/api/v1/sessions?subject=u", StatusCode::FORBIDDEN),
        ("desk", Method::DELETE, "/api/v1/sessions?subject=u", StatusCode::OK),
        ("login-app", Method::DELETE, &one, StatusCode::FORBIDDEN),
        ("desk", Method::DELETE, &one, StatusCode::NOT_FOUND),
        ("desk", Method::GET, "/api/v1/routes", StatusCode::FORBIDDEN),
        ("root", Method::GET, "/api/v1/routes", StatusCode::OK),
        ("root", Method::PUT, SESSIONS, StatusCode::METHOD_NOT_ALLOWED),
        ("root", Method::GET, &one, StatusCode::METHOD_NOT_ALLOWED),
        ("root", Method::GET, "/api/v1/", StatusCode::NOT_FOUND),
        ("root", Method::GET, "/", StatusCode::NOT_FOUND),
    ] {
        let (status, answer) = bench.call(admin, method.clone(), path, entry).await;
        assert_eq!(status, expect, "{admin} {method} {path}: {answer}");
    }
}

#[tokio::test]
async fn browsers_and_rebound_names_are_refused() {
    let mut bench = Bench::new();
    let call = async |bench: &Bench, host: &str, extra: Option<(&str, &str)>| {
        let mut request = Request::builder().uri(SESSIONS).header(header::HOST, host);
        request = request.header(header::AUTHORIZATION, "Bearer root-s3cret");
        if let Some((name, value)) = extra {
            request = request.header(name, value);
        }
        bench.send(request.body(Empty::new()).unwrap()).await.0.status().as_u16()
    };

    for (host, expect) in [
        ("localhost:9092", 200),
        ("127.0.0.1:9092", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("gateway.example", 421),
        ("10.0.0.5", 421),
        ("a b", 400),
    ] {
        assert_eq!(call(&bench, host, None).await, expect, "{host}");
    }
    assert_eq!(call(&bench, "localhost", Some(("origin", "http://localhost"))).await, 403);
    assert_eq!(call(&bench, "localhost", Some(("origin", "null"))).await, 403);
    assert_eq!(call(&bench, "localhost", Some(("sec-fetch-site", "none"))).await, 403);
    assert_eq!(call(&bench, "localhost", Some(("host", "localhost"))).await, 400);

    bench.settings.listen = Listener::Https("0.0.0.0:9093".parse().unwrap());
    assert_eq!(call(&bench, "gateway.example", None).await, 200);
    assert_eq!(call(&bench, "10.0.0.5:9093", None).await, 200);
    assert_eq!(call(&bench, "evil.example", None).await, 421);
    bench.settings.listen = Listener::Unix { path: "/run/admin.sock".into(), mode: 0o660 };
    assert_eq!(call(&bench, "anything", None).await, 200);
    assert_eq!(call(&bench, "anything", Some(("origin", "http://anything"))).await, 403);
}

#[tokio::test]
async fn only_json_is_taken() {
    let bench = Bench::new();
    for (content_type, expect) in [
        (None, 415),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("application/json; charset=latin1"), 415),
        (Some("application/json"), 201),
        (Some("Application/JSON; charset=UTF-8"), 201),
    ] {
        let mut request = request(Method::POST, SESSIONS).header(header::AUTHORIZATION, "Bearer login-app-s3cret");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let body = Full::new(Bytes::from_static(br#"{"subject":"u"}"#));
        let (response, text) = bench.send(request.body(body).unwrap()).await;
        assert_eq!(response.status().as_u16(), expect, "{content_type:?} {text}");
    }
}

#[tokio::test]
async fn bounds_are_kept() {
    let mut bench = Bench::new();
    let post = async |bench: &Bench, entry: String| bench.call("login-app", Method::POST, SESSIONS, &entry).await;

    let huge = json!({ "subject": "u", "name": "x".repeat(MAX_ENTRY_BYTES) }).to_string();
    let (status, answer) = post(&bench, huge).await;
    assert_eq!((status.as_u16(), &answer["error"]), (413, &json!("entry_too_large")));
    let large = json!({ "subject": "u", "name": "x".repeat(5000) }).to_string();
    let (status, answer) = post(&bench, large).await;
    assert_eq!((status.as_u16(), &answer["error"]), (413, &json!("session_too_large")));
    let (status, answer) = post(&bench, json!({ "subject": "x".repeat(256) }).to_string()).await;
    assert_eq!((status.as_u16(), &answer["error"]), (400, &json!("bad_entry")));
    bench.session.max_sessions = 1;
    assert_eq!(post(&bench, r#"{"subject":"a"}"#.to_owned()).await.0.as_u16(), 201);
    let (status, answer) = post(&bench, r#"{"subject":"b"}"#.to_owned()).await;
    assert_eq!((status.as_u16(), &answer["error"]), (503, &json!("store_full")));
}

#[tokio::test]
async fn a_token_sees_and_ends_only_its_realm() {
    let bench = Bench::new();
    let key = bench.open("u-1").await;
    let one = format!("{SESSIONS}/{key}");
    let count = |answer: &Value| answer["sessions"].as_array().unwrap().len();

    let (_, answer) = bench.call("partner-desk", Method::GET, SESSIONS, "").await;
    assert_eq!(count(&answer), 0);
    let (status, answer) = bench.call("partner-desk", Method::GET, "/api/v1/sessions?realm=staff", "").await;
    assert_eq!((status.as_u16(), &answer["error"]), (403, &json!("foreign_realm")));
    let (status, _) = bench.call("partner-desk", Method::DELETE, "/api/v1/sessions?realm=staff&subject=u-1", "").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(bench.call("partner-desk", Method::DELETE, &one, "").await.0, StatusCode::NOT_FOUND);
    let (_, answer) = bench.call("desk", Method::GET, SESSIONS, "").await;
    assert_eq!(count(&answer), 1);
    let (_, answer) = bench.call("root", Method::GET, SESSIONS, "").await;
    assert_eq!(count(&answer), 1);
    let (_, answer) = bench.call("root", Method::GET, "/api/v1/sessions?realm=staff&subject=u-1", "").await;
    assert_eq!(count(&answer), 1);
    let (status, answer) = bench.call("desk", Method::DELETE, &one, "").await;
    assert_eq!((status.as_u16(), &answer["ended"]), (200, &json!(1)));
    assert_eq!(bench.call("desk", Method::DELETE, &one, "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_list_tells_everything_but_the_token() {
    let bench = Bench::new();
    let entry = json!({ "subject": "grün%1", "name": "Grün", "roles": ["employee"] });
    let (_, opened) = bench.call("login-app", Method::POST, SESSIONS, &entry.to_string()).await;

    let (_, answer) = bench.call("desk", Method::GET, "/api/v1/sessions?subject=gr%C3%BCn%251", "").await;

    assert_eq!(
        answer,
        json!({
            "next": null,
            "sessions": [{
                "key": opened["key"], "realm": "staff", "subject": "grün%1", "name": "Grün", "email": null,
                "roles": ["employee"], "groups": [], "auth_time": null, "factor": 1, "created_at": "2030-03-17T17:46:40Z",
                "last_seen_at": "2030-03-17T17:46:40Z", "idle_expires_at": "2030-03-17T18:16:40Z",
                "expires_at": "2030-03-18T05:46:40Z", "waits_for_legacy_cookie": false, "device": null, "address": null,
                "remembered": false, "tokens": [],
            }],
        })
    );
    bench.clock.advance(Duration::from_secs(1800));
    let (_, answer) = bench.call("desk", Method::GET, "/api/v1/sessions?subject=gr%C3%BCn%251", "").await;
    assert_eq!(answer["sessions"], json!([]), "an expired session is none");
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let bench = Bench::new();
    let mut opened = Vec::new();
    for number in 0..25 {
        opened.push(bench.open(&format!("u-{number}")).await);
    }
    opened.sort();

    let mut listed = Vec::new();
    let mut path = format!("{SESSIONS}?limit=10");
    let mut pages = 0;
    loop {
        let (_, answer) = bench.call("desk", Method::GET, &path, "").await;
        pages += 1;
        listed.extend(answer["sessions"].as_array().unwrap().iter().map(|s| s["key"].as_str().unwrap().to_owned()));
        let Some(next) = answer["next"].as_str() else { break };
        path = format!("{SESSIONS}?limit=10&after={next}");
    }

    assert_eq!(pages, 3);
    assert_eq!(listed, opened);
}

#[tokio::test]
async fn odd_queries_are_refused() {
    let bench = Bench::new();
    for query in
        ["sbject=u", "subject=a&subject=b", "limit=0", "limit=1001", "after=x", "realm=%ff", "subject=u&limit=1"]
    {
        let (status, answer) = bench.call("root", Method::GET, &format!("{SESSIONS}?{query}"), "").await;
        assert_eq!((status.as_u16(), &answer["error"]), (400, &json!("bad_query")), "{query}");
    }
    for query in ["", "?realm=staff", "?subject=", "?subjct=u"] {
        let (status, _) = bench.call("root", Method::DELETE, &format!("{SESSIONS}{query}"), "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query} must not end anything");
    }
}

#[tokio::test]
async fn all_sessions_of_a_subject_end_together() {
    let bench = Bench::new();
    bench.open("u-1").await;
    bench.open("u-1").await;
    bench.open("u-2").await;

    let (_, answer) = bench.call("desk", Method::DELETE, "/api/v1/sessions?subject=u-1", "").await;

    assert_eq!(answer["ended"], 2);
    assert_eq!(bench.store.len(), 1);
    let ended = bench.audit().into_iter().find(|line| line["event"] == "sessions.ended").unwrap();
    assert_eq!((&ended["admin"], &ended["subject"], &ended["ended"]), (&json!("desk"), &json!("u-1"), &json!(2)));
}

#[tokio::test]
async fn many_entries_are_answered_line_by_line() {
    let bench = Bench::new();
    let hash = digest::digest(&digest::SHA256, b"old-value");
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = [
        r#"{"subject":"u-1","roles":["employee"]}"#.to_owned(),
        String::new(),
        r#"{"subject":"u-2","oops":1}"#.to_owned(),
        json!({ "subject": "u-3", "legacy": { "cookie": "JSESSIONID", "sha256": hash } }).to_string(),
        r#"{"subject":"u-4"}"#.to_owned(),
    ];

    let (status, answers) = bench.call("login-app", Method::POST, BULK, &lines.join("\r\n")).await;

    assert_eq!(status, StatusCode::OK);
    let numbers: Vec<u64> = answers.as_array().unwrap().iter().map(|a| a["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 3, 4, 5]);
    assert_eq!(bench.find(&answers[0]["token"]).unwrap().identity().subject(), "u-1");
    assert_eq!(answers[1]["error"], "bad_entry");
    assert!(answers[2].get("token").is_none(), "the old cookie's browser gets the token");
    let found = bench.store.lookup_legacy("JSESSIONID", b"old-value", &bench.session, NOW);
    let Some(OldCookie::Waiting(session)) = found else { panic!("{found:?}") };
    assert_eq!(session.identity().subject(), "u-3");
    assert_eq!(bench.find(&answers[3]["token"]).unwrap().identity().subject(), "u-4");
    let summary = bench.audit().into_iter().find(|line| line["event"] == "sessions.imported").unwrap();
    assert_eq!((&summary["created"], &summary["failed"], &summary["complete"]), (&json!(3), &json!(1), &json!(true)));
}

/// A body in pieces, which may break off.
struct Pieces(VecDeque<Result<Bytes, &'static str>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(self.0.pop_front().map(|piece| piece.map(Frame::data)))
    }
}

async fn send_pieces(bench: &Bench, pieces: impl IntoIterator<Item = Result<Bytes, &'static str>>) -> Vec<Value> {
    let request = request(Method::POST, SESSIONS)
        .header(header::AUTHORIZATION, "Bearer login-app-s3cret")
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Pieces(pieces.into_iter().collect()))
        .unwrap();
    let (_, text) = bench.send(request).await;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_body_that_breaks_off_opens_nothing_of_its_last_line() {
    let bench = Bench::new();
    let pieces = [
        Ok(Bytes::from_static(b"{\"subj")),
        Ok(Bytes::from_static(b"ect\":\"u-1\"}\n{\"subject\":\"u-2\"}")),
        Err("connection lost"),
    ];

    let answers = send_pieces(&bench, pieces).await;

    assert_eq!(answers.len(), 2);
    assert!(answers[0].get("token").is_some());
    assert_eq!(answers[1]["error"], "broken_body");
    assert_eq!(bench.store.len(), 1);
    let summary = bench.audit().into_iter().find(|line| line["event"] == "sessions.imported").unwrap();
    assert_eq!(summary["complete"], false);
}

#[tokio::test]
async fn a_line_without_end_is_not_gathered() {
    let bench = Bench::new();
    let pieces = std::iter::repeat_n(Ok(Bytes::from(vec![b'x'; 300 << 10])), 1000);

    let answers = send_pieces(&bench, pieces).await;

    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0]["error"], "entry_too_large");
}

#[tokio::test]
async fn more_lines_than_one_turn_takes_are_all_answered() {
    let mut bench = Bench::new();
    bench.session.max_sessions = 5000;
    let text: String = (0..2000).map(|number| format!("{{\"subject\":\"u-{number}\"}}\n")).collect();

    let (_, answers) = bench.call("login-app", Method::POST, BULK, &text).await;

    assert_eq!(answers.as_array().unwrap().len(), 2000);
    assert_eq!(bench.store.len(), 2000);
}

#[tokio::test]
async fn the_route_table_is_told() {
    let mut bench = Bench::new();
    let access = Access::Public { pass_authorization: false };
    bench.routes.push(Arc::new(Route {
        hosts: ["a.example".parse().unwrap()].into(),
        paths: ["/open/{*rest}".parse().unwrap()].into(),
        methods: Some([Method::GET].into()),
        ..Route::new("open", access, Target::Upstream(Destination::One(0)))
    }));

    let (_, answer) = bench.call("root", Method::GET, "/api/v1/routes", "").await;

    assert_eq!(
        answer["routes"],
        json!([{
            "name": "open", "hosts": ["a.example"], "paths": ["/open/{*rest}"], "methods": ["GET"],
            "access": { "auth": ["none"] }, "target": { "upstream": "legacy" }, "rewrite": null,
            "websocket": false,
        }])
    );
}
