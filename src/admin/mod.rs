//! The admin API (R36): bearer only, scoped tokens, its own listener.
//!
//! ```text
//! POST   /api/v1/sessions                      open one (JSON) or many (NDJSON)      sessions.create
//! GET    /api/v1/sessions?realm&subject&after&limit                                   sessions.read
//! DELETE /api/v1/sessions?realm&subject        end all of a subject                   sessions.revoke
//! DELETE /api/v1/sessions/{key}                end one                                sessions.revoke
//! POST   /api/v1/keys                          make an API key                        keys.create
//! GET    /api/v1/keys?realm&subject&after&limit                                       keys.read
//! DELETE /api/v1/keys/{id}                     end one, for good                      keys.revoke
//! POST   /api/v1/revocations                   void one (JSON) or many (NDJSON)      revocations
//! GET    /api/v1/revocations                   how many are in force                 revocations
//! GET    /api/v1/routes                        the route table                        routes
//! GET    /api/v1/upstreams                     which servers are in                   routes
//! POST   /api/v1/reload                        read the configuration again           reload
//! GET    /api/v1/reload                        what came of the last time             reload
//! ```
//! In: a request's head and body, and what the handlers work on ([`Context`]). Out: JSON, and a line in the audit log
//! for every call. Host and browser are judged first, then the token, then what it may do; only then is a body read.
//! A token sees and ends sessions of its own realm only, unless it may do `all` (R5).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use crate::{
    api_key::{KeyId, Known},
    change::Reloads,
    client::PeerAddr,
    clock::Clock,
    host::Host,
    inbound::Malformed,
    listener::Listener,
    policy::Grants,
    refresh::Families,
    revocation::Revocations,
    route::Route,
    secret::Secret,
    session::{self, SessionKey, Store},
    telemetry::audit::{Audit, Client, Event, Origin, What},
};

mod bulk;
mod entry;
mod guard;
mod keys;
mod problem;
mod query;
mod reload;
mod revocations;
mod routes;
mod servers;
mod sessions;

pub use bulk::Body;
use bulk::Bulk;
use problem::Problem;
pub use servers::Server;
use sessions::Creator;

/// `[admin]`, ready to use.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens.
    pub listen: Listener,
    /// Who may ask for what.
    pub tokens: Box<[AdminToken]>,
}

/// One `[[admin.token]]`.
#[derive(Debug)]
pub struct AdminToken {
    /// Its name in the audit log.
    pub name: Arc<str>,
    /// SHA-256 of the token.
    pub digest: Secret<[u8; 32]>,
    /// What it may do.
    pub allow: Box<[Scope]>,
    /// The realm of the sessions and API keys that it makes, sees and ends.
    pub realm: Arc<str>,
    /// What the sessions and API keys that it makes may hold.
    pub grants: Grants,
}

impl AdminToken {
    /// Whether it may do this.
    pub fn may(&self, scope: Scope) -> bool {
        self.allow.iter().any(|allowed| *allowed == Scope::All || *allowed == scope)
    }

    /// Whether it may see and end the sessions of a realm.
    fn reaches(&self, realm: &str) -> bool {
        *self.realm == *realm || self.allow.contains(&Scope::All)
    }
}

/// `allow` of an admin token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// `all`.
    All,
    /// `keys.create`.
    KeysCreate,
    /// `keys.read`.
    KeysRead,
    /// `keys.revoke`.
    KeysRevoke,
    /// `sessions.create`.
    SessionsCreate,
    /// `sessions.read`.
    SessionsRead,
    /// `sessions.revoke`.
    SessionsRevoke,
    /// `revocations`: void tokens, sessions and everything of a subject or issuer.
    Revocations,
    /// `routes`: read the route table, and how the servers stand.
    Routes,
    /// `explain`.
    Explain,
    /// `reload`: read the configuration again.
    Reload,
}

impl Scope {
    /// As written in `allow`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Explain => "explain",
            Self::KeysCreate => "keys.create",
            Self::KeysRead => "keys.read",
            Self::KeysRevoke => "keys.revoke",
            Self::Revocations => "revocations",
            Self::Reload => "reload",
            Self::Routes => "routes",
            Self::SessionsCreate => "sessions.create",
            Self::SessionsRead => "sessions.read",
            Self::SessionsRevoke => "sessions.revoke",
        }
    }
}

/// What administrators need to know of a `[[jwt.issuer]]`.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its exact `iss`.
    pub issuer: Arc<str>,
    /// What its subjects mean something in (R5).
    pub realm: Arc<str>,
    /// Whether it has tokens that are no JWTs.
    pub opaque: bool,
    /// Whether it is ourselves: then each token says of which realm it is.
    pub is_self: bool,
    /// After this long, none of the tokens that it has issued by now counts any more.
    pub keep: Duration,
}

/// What the handlers work on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// `[admin]`.
    pub settings: &'a Settings,
    /// `[session]`.
    pub session: &'a session::Settings,
    /// Hosts under which the gateway is known; an `https://` admin listener answers to them.
    pub hosts: &'a [Host],
    /// All routes of the snapshot, in their order.
    pub routes: &'a [Arc<Route>],
    /// The issuers, by the index that routes hold.
    pub issuers: &'a [Issuer],
    /// Names of the upstreams, by the index that routes hold.
    pub upstreams: &'a [Arc<str>],
    /// The upstreams with their servers.
    pub servers: &'a [(Arc<str>, Vec<Server>)],
    /// Which snapshot this is.
    pub generation: u64,
    /// Where a reload is asked for.
    pub reloads: &'a Reloads,
    /// Where sessions live.
    pub store: &'a Arc<Store>,
    /// Families of refresh tokens.
    pub families: &'a Families,
    /// API keys.
    pub api_keys: Known<'a>,
    /// `limits.max_api_keys`.
    pub max_api_keys: usize,
    /// What was revoked.
    pub revocations: &'a Revocations,
    /// Realms whose subjects come with client certificates.
    pub certified_realms: &'a [Arc<str>],
    /// `limits.max_revocations`.
    pub max_revocations: usize,
    /// The time.
    pub clock: &'a Clock,
    /// Where every call is written down.
    pub audit: &'a Audit,
    /// Who is at the other end.
    pub peer: PeerAddr,
    /// The request's name in the audit log.
    pub request_id: &'a str,
}

impl<'a> Context<'a> {
    /// Whence the call comes, for the audit log.
    fn origin(&self) -> Origin<'a> {
        let client = match self.peer {
            PeerAddr::Ip(address) => Client::Address(address.ip()),
            PeerAddr::Unix => Client::Unix,
        };
        Origin { now: self.clock.now(), client, request_id: self.request_id }
    }
}

/// Answers one request. `malformed` is what the wire found wrong with its head.
pub async fn answer<B>(context: &Context<'_>, head: &Parts, malformed: Option<Malformed>, body: B) -> Response<Body<B>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut call = Call { action: "none", token: None };
    let outcome = handle(context, head, malformed, body, &mut call).await;
    let problem = outcome.as_ref().err().map(Problem::label);
    let mut response = outcome.unwrap_or_else(|problem| problem.response().map(Body::whole));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    call.audit(context, response.status(), problem);
    response
}

/// What the audit log tells of a call.
struct Call<'a> {
    action: &'static str,
    token: Option<&'a AdminToken>,
}

impl Call<'_> {
    fn audit(&self, context: &Context<'_>, status: StatusCode, problem: Option<&'static str>) {
        let event = Event {
            admin: self.token.map(|token| &*token.name),
            why: problem,
            more: &[("action", self.action.into()), ("status", u64::from(status.as_u16()).into())],
            ..Event::new(What::AdminCall, context.origin())
        };
        context.audit.record(&event);
    }
}

/// What a path names.
enum Resource<'a> {
    Key(&'a str),
    Keys,
    Revocations,
    Reload,
    Routes,
    Session(&'a str),
    Sessions,
    Upstreams,
}

async fn handle<'a, B>(
    context: &Context<'a>,
    head: &Parts,
    malformed: Option<Malformed>,
    body: B,
    call: &mut Call<'a>,
) -> Result<Response<Body<B>>, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if malformed.is_some() {
        return Err(Problem::Malformed);
    }
    guard::check_host(context, head)?;
    guard::check_browser(&head.headers)?;
    let token = guard::authenticate(context.settings, &head.headers)?;
    call.token = Some(token);

    let path = head.uri.path().strip_prefix("/api/v1/").unwrap_or_default();
    let resource = match path {
        "revocations" => Resource::Revocations,
        "reload" => Resource::Reload,
        "routes" => Resource::Routes,
        "sessions" => Resource::Sessions,
        "upstreams" => Resource::Upstreams,
        "keys" => Resource::Keys,
        _ => match (path.strip_prefix("sessions/"), path.strip_prefix("keys/")) {
            (Some(key), _) => Resource::Session(key),
            (None, Some(id)) => Resource::Key(id),
            (None, None) => return Err(Problem::NotFound),
        },
    };
    let query = head.uri.query().unwrap_or_default();
    let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
    match (resource, method) {
        (Resource::Key(id), &Method::DELETE) => {
            call.begin("keys.revoke", Scope::KeysRevoke)?;
            let id = KeyId::parse(id).ok_or(Problem::NoKey)?;
            Ok(json(&revocations::revoke_key(context, token, id).await?))
        }
        (Resource::Key(_), _) => Err(Problem::MethodNotAllowed("DELETE")),
        (Resource::Keys, &Method::GET) => {
            call.begin("keys.read", Scope::KeysRead)?;
            Ok(json(&keys::list(context, token, query)?))
        }
        (Resource::Keys, &Method::POST) => {
            call.begin("keys.create", Scope::KeysCreate)?;
            make_key(context, token, &head.headers, body).await
        }
        (Resource::Keys, _) => Err(Problem::MethodNotAllowed("GET, HEAD, POST")),
        (Resource::Revocations, &Method::GET) => {
            call.begin("revocations.read", Scope::Revocations)?;
            Ok(json(&revocations::count(context)))
        }
        (Resource::Revocations, &Method::POST) => {
            call.begin("revocations.create", Scope::Revocations)?;
            revoke(context, token, &head.headers, body).await
        }
        (Resource::Revocations, _) => Err(Problem::MethodNotAllowed("GET, HEAD, POST")),
        (Resource::Reload, &Method::GET) => {
            call.begin("reload.read", Scope::Reload)?;
            Ok(json(&reload::last(context)))
        }
        (Resource::Reload, &Method::POST) => {
            call.begin("reload", Scope::Reload)?;
            let (status, told) = reload::reload(context).await?;
            let mut response = json(&told);
            *response.status_mut() = status;
            Ok(response)
        }
        (Resource::Reload, _) => Err(Problem::MethodNotAllowed("GET, HEAD, POST")),
        (Resource::Routes, &Method::GET) => {
            call.begin("routes.read", Scope::Routes)?;
            Ok(json(&routes::list(context)))
        }
        (Resource::Routes, _) => Err(Problem::MethodNotAllowed("GET, HEAD")),
        (Resource::Session(key), &Method::DELETE) => {
            call.begin("sessions.end", Scope::SessionsRevoke)?;
            let key = SessionKey::parse(key).ok_or(Problem::NoSession)?;
            Ok(json(&sessions::end(context, token, &key).await?))
        }
        (Resource::Session(_), _) => Err(Problem::MethodNotAllowed("DELETE")),
        (Resource::Sessions, &Method::GET) => {
            call.begin("sessions.read", Scope::SessionsRead)?;
            Ok(json(&sessions::list(context, token, query)?))
        }
        (Resource::Sessions, &Method::DELETE) => {
            call.begin("sessions.end_subject", Scope::SessionsRevoke)?;
            Ok(json(&sessions::end_subject(context, token, query).await?))
        }
        (Resource::Sessions, &Method::POST) => {
            call.begin("sessions.create", Scope::SessionsCreate)?;
            create(Creator::new(context, token), &head.headers, body).await
        }
        (Resource::Sessions, _) => Err(Problem::MethodNotAllowed("GET, HEAD, POST, DELETE")),
        (Resource::Upstreams, &Method::GET) => {
            call.begin("upstreams.read", Scope::Routes)?;
            Ok(json(&servers::list(context)))
        }
        (Resource::Upstreams, _) => Err(Problem::MethodNotAllowed("GET, HEAD")),
    }
}

impl Call<'_> {
    /// Names what is asked for, and whether this token may.
    fn begin(&mut self, action: &'static str, scope: Scope) -> Result<(), Problem> {
        self.action = action;
        if self.token.is_some_and(|token| token.may(scope)) { Ok(()) } else { Err(Problem::MissingScope(scope)) }
    }
}

async fn create<B>(creator: Creator, headers: &HeaderMap, body: B) -> Result<Response<Body<B>>, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match MediaType::of(headers)? {
        MediaType::Json => Ok(created(&Value::Object(creator.create(&whole(body, MAX_ENTRY_BYTES).await?).await?))),
        MediaType::Lines => Ok(lines(Body::bulk(Bulk::new(body, creator)))),
    }
}

async fn make_key<B>(
    context: &Context<'_>,
    token: &AdminToken,
    headers: &HeaderMap,
    body: B,
) -> Result<Response<Body<B>>, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match MediaType::of(headers)? {
        MediaType::Json => Ok(created(&keys::make(context, token, &whole(body, MAX_KEY_BYTES).await?).await?)),
        MediaType::Lines => Err(Problem::UnsupportedMediaType),
    }
}

async fn revoke<B>(
    context: &Context<'_>,
    token: &AdminToken,
    headers: &HeaderMap,
    body: B,
) -> Result<Response<Body<B>>, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match MediaType::of(headers)? {
        MediaType::Json => Ok(json(&revocations::revoke(context, token, &whole(body, MAX_ENTRY_BYTES).await?).await?)),
        MediaType::Lines => {
            let entries = whole(body, MAX_LINES_BYTES).await?;
            let answers = revocations::revoke_lines(context, token, &entries).await;
            Ok(lines(Body::whole(answers.into())))
        }
    }
}

/// A body as a whole, of at most so many bytes.
async fn whole<B>(body: B, limit: usize) -> Result<Bytes, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = Limited::new(body, limit)
        .collect()
        .await
        .map_err(|error| if error.is::<LengthLimitError>() { Problem::EntryTooLarge } else { Problem::BrokenBody })?;
    Ok(collected.to_bytes())
}

/// What callers may send.
enum MediaType {
    /// `application/json`: one entry.
    Json,
    /// `application/x-ndjson`: one entry a line.
    Lines,
}

impl MediaType {
    /// The only content type, in UTF-8.
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut all = headers.get_all(header::CONTENT_TYPE).into_iter();
        let (only, other) = (all.next().and_then(|value| value.to_str().ok()), all.next());
        let (Some(text), None) = (only, other) else {
            return Err(Problem::UnsupportedMediaType);
        };
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let (essence, parameters) = (essence.trim(), parameters.trim());
        let utf8 = parameters.is_empty()
            || parameters.eq_ignore_ascii_case("charset=utf-8")
            || parameters.eq_ignore_ascii_case("charset=\"utf-8\"");
        if utf8 && essence.eq_ignore_ascii_case("application/json") {
            Ok(Self::Json)
        } else if utf8 && essence.eq_ignore_ascii_case("application/x-ndjson") {
            Ok(Self::Lines)
        } else {
            Err(Problem::UnsupportedMediaType)
        }
    }
}

fn json<B>(value: &Value) -> Response<Body<B>> {
    let mut response = Response::new(Body::whole(Bytes::from(format!("{value}\n"))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn created<B>(value: &Value) -> Response<Body<B>> {
    let mut response = json(value);
    *response.status_mut() = StatusCode::CREATED;
    response
}

fn lines<B>(body: Body<B>) -> Response<Body<B>> {
    let mut response = Response::new(body);
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, ndjson);
    response
}

/// Bytes of one entry, alone or as a line.
const MAX_ENTRY_BYTES: usize = 1 << 20;

/// Bytes of an API key that is asked for.
const MAX_KEY_BYTES: usize = 16 << 10;

/// Bytes of many revocations in one call: some 200,000.
const MAX_LINES_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests;
