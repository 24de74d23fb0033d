//! Where people log in and out, and learn who they are.
//!
//! In: a request to one of our own endpoints, and what the pipeline knows of its sender. Out: an [`Answer`] with what
//! happened for log and metrics, or a [`Refusal`].
//! Invariants: a login always makes a new session and ends the one that was presented (R26); unknown user and wrong
//! password are one answer after the same work; a login form counts only in the browser that it was given to; session
//! cookies travel encrypted only (R20).
//!
//! Who may post across sites is the pipeline's matter (R31), for all routes alike. Logging in asks for the form's
//! token besides, because a browser without any credential is the very victim of a forged login. Logging out asks for
//! nothing more: `SameSite` and R31 keep others from it, and a forged one would cost a login and no secret.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT, LOCATION, SET_COOKIE, WWW_AUTHENTICATE},
    request::Parts,
};
use http_body::Body;
use serde_json::{Map, Value, json};

use self::{
    form::{Credentials, Kind},
    return_to::{ReturnTo, parameter},
    views::{Note, SignIn},
};
use crate::{
    accounts::{Accounts, Hasher, User},
    client::{ClientView, Scheme},
    clock::Timestamp,
    identity::{Identity, IdentityError, IdentityParts, Via},
    page,
    policy::Grants,
    refusal::Refusal,
    secret,
    session::{self, OpenError, SameSite, Session, SessionToken, Store, cookie},
};

mod form;
pub mod return_to;
mod throttle;
mod views;

pub use throttle::{MAX_WAIT, Throttle};

/// `[login]`, ready to use.
#[derive(Debug)]
pub struct Settings {
    /// Where our endpoints live; begins with `/`, does not end with one. Default `/_auth`.
    pub prefix: Arc<str>,
    /// Where people can log in, in the order they are shown.
    pub providers: Box<[Provider]>,
}

impl Settings {
    /// Whether there is anywhere to log in.
    pub const fn is_open(&self) -> bool {
        !self.providers.is_empty()
    }
}

/// One `[[login.provider]]`.
#[derive(Debug)]
pub struct Provider {
    /// Its name in configuration, logs and URLs.
    pub name: Arc<str>,
    /// What its subjects and roles mean something in (R5).
    pub realm: Arc<str>,
    /// What it may say of its subjects.
    pub grants: Grants,
    /// Whether its emails count as verified (R6).
    pub trust_email: bool,
    /// Its users.
    pub accounts: Accounts,
}

/// What an endpoint needs beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The client.
    pub view: &'a ClientView,
    /// Who is calling, by whatever credential.
    pub identity: Option<&'a Arc<Identity>>,
    /// The living session that the request presented.
    pub session: Option<&'a Arc<Session>>,
    /// `[login]`.
    pub login: &'a Settings,
    /// `[session]`.
    pub sessions: &'a session::Settings,
    /// Where sessions live.
    pub store: &'a Store,
    /// Who checks passwords.
    pub hasher: &'a Hasher,
    /// Who slows guessers down.
    pub throttle: &'a Throttle,
    /// The moment of the request.
    pub now: Timestamp,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// What the client gets.
    pub response: Response<Bytes>,
    /// What happened.
    pub event: Event,
}

/// What happened, for the audit log and metrics.
#[derive(Debug)]
pub enum Event {
    /// Something was told or asked; nothing changed.
    Told,
    /// A session was opened.
    LoggedIn {
        /// The new session.
        session: Arc<Session>,
        /// Name of the provider.
        provider: Arc<str>,
        /// Roles and groups that the provider may not grant, dropped (R5).
        dropped_grants: usize,
    },
    /// Wrong user name or password, in a form; a program gets [`Refusal::LoginFailed`].
    LoginFailed {
        /// Name of the provider.
        provider: Arc<str>,
    },
    /// A form whose token has expired, or which another site made.
    FormRefused,
    /// The presented session has ended; `None` if there was none.
    LoggedOut(Option<Arc<Session>>),
}

/// How often each of these happened, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Sessions opened by a login.
    pub succeeded: AtomicU64,
    /// Wrong user names or passwords.
    pub failed: AtomicU64,
    /// Attempts that were told to wait.
    pub throttled: AtomicU64,
    /// Sessions ended by a logout.
    pub logouts: AtomicU64,
}

/// Name of the cookie that ties a login form to its browser. One of ours: cut out of `Cookie` like the session's (R14).
pub const FORM_COOKIE: &str = "__Host-portcullis-login";

/// `{prefix}/login`: the page (GET), or a login by form or JSON (POST).
///
/// # Errors
/// [`Refusal`]s for bodies, too many attempts, a full store, and [`Refusal::LoginFailed`] for programs.
pub async fn sign_in<B: Body<Data = Bytes>>(head: &Parts, body: B, context: Context<'_>) -> Result<Answer, Refusal> {
    require_encryption(context.view)?;
    if context.login.providers.is_empty() {
        return Err(Refusal::NoRoute);
    }
    match head.method {
        Method::GET | Method::HEAD => Ok(sign_in_page(head, context)),
        Method::POST => {
            let kind = form::kind(&head.headers)?;
            let body = form::read(body).await?;
            let credentials = form::credentials(kind, &body)?;
            match kind {
                Kind::Form => sign_in_by_form(&head.headers, credentials, context).await,
                Kind::Json => sign_in_by_json(credentials, context).await,
            }
        }
        _ => Err(Refusal::MethodNotAllowed { allow: HeaderValue::from_static("GET, HEAD, POST") }),
    }
}

/// `{prefix}/logout`: the question (GET), or the act (POST).
///
/// # Errors
/// [`Refusal`]s for bodies and methods. Whoever is not logged in is logged out too.
pub async fn sign_out<B: Body<Data = Bytes>>(head: &Parts, body: B, context: Context<'_>) -> Result<Answer, Refusal> {
    require_encryption(context.view)?;
    match head.method {
        Method::GET | Method::HEAD => {
            let who = context.session.map(|session| shown_name(session.identity()));
            let return_to = query(head, "return_to").and_then(|text| ReturnTo::parse(&text));
            let content = views::sign_out(&context.login.prefix, who, return_to.as_ref());
            Ok(Answer::told(page::page(StatusCode::OK, "Sign out", &content)))
        }
        Method::POST => {
            let body = form::read(body).await?;
            let wants_json = wants_json(&head.headers);
            // Programs need not send a body.
            let return_to = if body.is_empty() || form::kind(&head.headers)? == Kind::Json {
                None
            } else {
                form::return_to(&body)?.and_then(|text| ReturnTo::parse(&text))
            };
            if let Some(session) = context.session {
                context.store.end(session.key());
            }
            let mut response = if wants_json {
                page::json(StatusCode::OK, &json!({ "authenticated": false }))
            } else {
                let sign_in = || Cow::Owned(format!("{}/login?signed_out", context.login.prefix));
                let next = return_to.as_ref().map_or_else(sign_in, |path| Cow::Borrowed(path.as_str()));
                see_other(&next)
            };
            response.headers_mut().append(SET_COOKIE, cookie::clear(context.sessions));
            Ok(Answer { response, event: Event::LoggedOut(context.session.cloned()) })
        }
        _ => Err(Refusal::MethodNotAllowed { allow: HeaderValue::from_static("GET, HEAD, POST") }),
    }
}

/// `{prefix}/session`: who is calling, as JSON.
///
/// # Errors
/// [`Refusal::NoCredential`] when nobody is known; [`Refusal::MethodNotAllowed`].
pub fn who_am_i(head: &Parts, context: Context<'_>) -> Result<Answer, Refusal> {
    match head.method {
        Method::GET | Method::HEAD => {
            let identity = context.identity.ok_or(Refusal::NoCredential)?;
            // A session beside another credential is not the one that counts (R2).
            let session = context.session.filter(|session| Arc::ptr_eq(session.identity(), identity));
            let described = describe(identity, session, context);
            Ok(Answer::told(page::json(StatusCode::OK, &Value::Object(described))))
        }
        _ => Err(Refusal::MethodNotAllowed { allow: HeaderValue::from_static("GET, HEAD") }),
    }
}

/// Who somebody is to people: the name, or else the subject.
pub fn shown_name(identity: &Identity) -> &str {
    identity.name().unwrap_or_else(|| identity.subject())
}

/// The identity of a local user, and how many roles and groups the provider may not grant.
///
/// # Errors
/// When the user's id is unfit as a subject, which [`Accounts::new`] rules out.
pub fn identity_of(provider: &Provider, user: &User, now: Timestamp) -> Result<(Identity, usize), IdentityError> {
    let owned = |names: &[Box<str>]| names.iter().map(|name| name.to_string()).collect();
    let (mut roles, mut groups) = (owned(&user.roles), owned(&user.groups));
    let dropped = provider.grants.filter(&mut roles, &mut groups);
    let identity = Identity::new(IdentityParts {
        realm: Arc::clone(&provider.realm),
        subject: user.id.to_string(),
        name: Some(user.display_name.as_ref().unwrap_or(&user.name).to_string()),
        email: user.email.as_ref().map(ToString::to_string),
        email_verified: provider.trust_email,
        roles,
        groups,
        scopes: Vec::new(),
        claims: Map::new(),
        auth_time: Some(now),
        via: Via::Session,
    })?;
    Ok((identity, dropped))
}

impl Settings {
    /// The provider of that name; without a name, the first.
    fn provider(&self, name: Option<&str>) -> Option<&Provider> {
        match name {
            Some(name) => self.providers.iter().find(|provider| *provider.name == *name),
            None => self.providers.first(),
        }
    }
}

impl Answer {
    fn told(response: Response<Bytes>) -> Self {
        Self { response, event: Event::Told }
    }
}

fn sign_in_page(head: &Parts, context: Context<'_>) -> Answer {
    let return_to = ReturnTo::or_root(query(head, "return_to").as_deref());
    let asks_anew = query(head, "prompt").as_deref() == Some("login");
    if let Some(session) = context.session.filter(|_| !asks_anew) {
        let content = views::signed_in(&context.login.prefix, shown_name(session.identity()), &return_to);
        return Answer::told(page::page(StatusCode::OK, "Signed in", &content));
    }
    let note = query(head, "signed_out").map(|_| Note::SignedOut);
    Answer::told(form_page(StatusCode::OK, &head.headers, &return_to, note, context))
}

async fn sign_in_by_form(
    headers: &HeaderMap,
    credentials: Credentials,
    context: Context<'_>,
) -> Result<Answer, Refusal> {
    let return_to = ReturnTo::or_root(credentials.return_to.as_deref());
    if !is_own_form(headers, credentials.token.as_deref()) {
        let response = form_page(StatusCode::FORBIDDEN, headers, &return_to, Some(Note::Expired), context);
        return Ok(Answer { response, event: Event::FormRefused });
    }
    match log_in(credentials, context).await? {
        Attempted::LoggedIn { token, session, provider, dropped_grants } => {
            let mut response = see_other(return_to.as_str());
            response.headers_mut().append(SET_COOKIE, cookie::set(context.sessions, &token));
            response.headers_mut().append(SET_COOKIE, cookie::value(FORM_COOKIE, "", "; Max-Age=0", SameSite::Lax));
            Ok(Answer { response, event: Event::LoggedIn { session, provider, dropped_grants } })
        }
        Attempted::Failed { provider } => {
            let mut response = form_page(StatusCode::UNAUTHORIZED, headers, &return_to, Some(Note::Failed), context);
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge(context));
            Ok(Answer { response, event: Event::LoginFailed { provider } })
        }
    }
}

async fn sign_in_by_json(credentials: Credentials, context: Context<'_>) -> Result<Answer, Refusal> {
    let return_to = ReturnTo::or_root(credentials.return_to.as_deref());
    match log_in(credentials, context).await? {
        Attempted::LoggedIn { token, session, provider, dropped_grants } => {
            let mut body = describe(session.identity(), Some(&session), context);
            body.insert("return_to".into(), return_to.as_str().into());
            let mut response = page::json(StatusCode::OK, &Value::Object(body));
            response.headers_mut().append(SET_COOKIE, cookie::set(context.sessions, &token));
            Ok(Answer { response, event: Event::LoggedIn { session, provider, dropped_grants } })
        }
        Attempted::Failed { .. } => Err(Refusal::LoginFailed),
    }
}

/// How an attempt went.
enum Attempted {
    LoggedIn { token: SessionToken, session: Arc<Session>, provider: Arc<str>, dropped_grants: usize },
    Failed { provider: Arc<str> },
}

async fn log_in(credentials: Credentials, context: Context<'_>) -> Result<Attempted, Refusal> {
    let provider =
        context.login.provider(credentials.provider.as_deref()).ok_or(Refusal::BadBody("no such provider"))?;
    let attempt = context
        .throttle
        .begin(context.view.address, &credentials.username, context.now)
        .map_err(|retry_after| Refusal::TooMany { retry_after })?;
    let candidate = provider.accounts.candidate(&credentials.username);
    let Ok(checked) = context.hasher.check(candidate, credentials.password).await else {
        context.throttle.abandoned(attempt);
        return Err(Refusal::Unavailable);
    };
    let Some(user) = checked else {
        return Ok(Attempted::Failed { provider: Arc::clone(&provider.name) });
    };
    context.throttle.succeeded(attempt, context.now);
    let (identity, dropped_grants) =
        identity_of(provider, &user, context.now).map_err(|_| Refusal::IdentityTooLarge)?;
    let opened = context.store.open(Arc::new(identity), context.sessions, context.now);
    let (token, session) = opened.map_err(|error| match error {
        OpenError::Full | OpenError::TooManyCookies => Refusal::StoreFull,
        OpenError::TooLarge { .. } => Refusal::IdentityTooLarge,
    })?;
    // Last, so that whoever could not get a new session keeps the old one.
    if let Some(old) = context.session {
        context.store.end(old.key());
    }
    Ok(Attempted::LoggedIn { token, session, provider: Arc::clone(&provider.name), dropped_grants })
}

/// The login page, with the cookie that makes its form count in this browser. A browser keeps its cookie from page to
/// page, so that several tabs can be open. What the form carries is a hash of it.
fn form_page(
    status: StatusCode,
    headers: &HeaderMap,
    return_to: &ReturnTo,
    note: Option<Note>,
    context: Context<'_>,
) -> Response<Bytes> {
    let browser = form_cookie(headers).unwrap_or_else(SessionToken::generate);
    let sign_in = SignIn {
        prefix: &context.login.prefix,
        host: context.view.authority.host.as_str(),
        providers: &context.login.providers,
        token: &browser.key().to_string(),
        return_to,
        note,
    };
    let mut response = page::page(status, "Sign in", &sign_in.render());
    let cookie = cookie::value(FORM_COOKIE, browser.expose(), "; Max-Age=3600", SameSite::Lax);
    response.headers_mut().append(SET_COOKIE, cookie);
    response
}

fn is_own_form(headers: &HeaderMap, token: Option<&str>) -> bool {
    let (Some(browser), Some(token)) = (form_cookie(headers), token) else {
        return false;
    };
    secret::constant_time_eq(browser.key().to_string().as_bytes(), token.as_bytes())
}

fn form_cookie(headers: &HeaderMap) -> Option<SessionToken> {
    match cookie::find(headers, FORM_COOKIE) {
        cookie::Presented::One(value) => SessionToken::parse(value),
        cookie::Presented::Absent | cookie::Presented::Several => None,
    }
}

/// HTTP asks for a challenge with every 401 (RFC 9110 section 15.5.2), and has no registered scheme for a form. This is
/// the one that was proposed for it (draft-broyer-http-cookie-auth); browsers show the page and ignore it.
fn challenge(context: Context<'_>) -> HeaderValue {
    let (prefix, name) = (&context.login.prefix, &context.sessions.cookie);
    let text = format!("Cookie form-action=\"{prefix}/login\", cookie-name=\"{name}\"");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Cookie"))
}

/// What programs learn of a caller. Times are whole seconds since the epoch, as in JWTs.
fn describe(identity: &Identity, session: Option<&Arc<Session>>, context: Context<'_>) -> Map<String, Value> {
    let list = |items: &mut dyn Iterator<Item = &str>| items.map(Value::from).collect::<Vec<_>>();
    let mut told = Map::new();
    let mut tell = |name: &str, value: Value| told.insert(name.to_owned(), value);
    tell("authenticated", true.into());
    tell("subject", identity.subject().into());
    tell("realm", (**identity.realm()).into());
    tell("name", identity.name().into());
    tell("email", identity.email().into());
    tell("email_verified", (identity.email().is_some() && identity.email_verified()).into());
    tell("roles", list(&mut identity.roles()).into());
    tell("groups", list(&mut identity.groups()).into());
    tell("scopes", list(&mut identity.scopes()).into());
    tell("via", identity.via().label().into());
    tell("auth_time", identity.auth_time().map(Timestamp::unix_seconds).into());
    if let Some(session) = session {
        tell("expires_at", session.expires(context.sessions).unix_seconds().into());
        tell("idle_expires_at", session.idle_expires(context.sessions).unix_seconds().into());
    }
    told
}

fn require_encryption(view: &ClientView) -> Result<(), Refusal> {
    match view.scheme {
        Scheme::Https => Ok(()),
        Scheme::Http => Err(Refusal::NotEncrypted),
    }
}

fn query<'a>(head: &'a Parts, name: &str) -> Option<Cow<'a, str>> {
    parameter(head.uri.query()?, name)
}

fn see_other(path: &str) -> Response<Bytes> {
    let mut response = page::empty(StatusCode::SEE_OTHER);
    // A checked path, or our own prefix; `/` if a prefix were no header value.
    let location = HeaderValue::try_from(path).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Programs say that they want JSON; browsers say that they want HTML, among others.
fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = |kind: &[u8]| {
        let mut listed = headers.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        listed.any(|item| {
            item.split(|byte| *byte == b';').next().is_some_and(|item| item.trim_ascii().eq_ignore_ascii_case(kind))
        })
    };
    accepts(b"application/json") && !accepts(b"text/html")
}

#[cfg(test)]
mod tests;
