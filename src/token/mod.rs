//! Tokens of our own: access tokens for a session, a password or an API key, and refresh tokens to get more of them.
//!
//! `request` reads what is asked, `claims` says what a token holds; [`issue()`], [`refresh()`] and [`revoke()`] are the
//! three endpoints. In: a request to one of them, and what the pipeline knows of its sender. Out: an [`Answer`] with
//! what happened, or a [`Refusal`]. Invariants: a token is the child of a session or an API key and never outlives it;
//! a refresh token of a browser is in a cookie that no script reads, and in no body; a password comes from programs
//! only, never from a page (RFC 9700 section 2.4); what a browser adds by itself counts for our own pages only (R31).
//!
//! RFC 6749 section 5, RFC 7009, RFC 9068 (claims), RFC 9700.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{PRAGMA, SET_COOKIE},
    request::Parts,
};
use serde_json::json;

use crate::{
    api_key::{ApiKey, Known},
    authn::{
        self, Answer as Authenticated, Judge, dpop,
        possession::{Confirmation, Thumbprint},
    },
    client::Scheme,
    identity::Identity,
    login, page,
    refresh::{BeginError, Delivery, Families, Family, RefreshToken},
    refusal::{Refusal, TokenError},
    revocation::Revocations,
    session::{SameSite, Session, cookie},
    signing::{Algorithm, CannotSign, Keys},
    telemetry::audit::{Event as AuditEvent, Value as Field, What},
};

mod claims;
mod issue;
mod refresh;
mod request;
mod revoke;

pub use issue::issue;
pub use refresh::{REUSED, refresh};
pub use revoke::revoke;

/// `[token]`, ready to use.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `iss` of our tokens.
    pub issuer: Arc<str>,
    /// What they are signed with.
    pub algorithm: Algorithm,
    /// How long an access token lives, unless its parent ends sooner; at most [`LONGEST_LIFE`].
    pub lifetime: Duration,
    /// Families of refresh tokens, all clients together.
    pub max_families: usize,
    /// Name of the cookie with a browser's refresh token.
    pub cookie: Arc<str>,
    /// Who may ask; at least one.
    pub clients: Box<[Client]>,
}

/// One of `clients`.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// What it calls itself; no secret.
    pub id: Box<str>,
    /// How it may ask.
    pub grants: Box<[Grant]>,
    /// Whom its tokens are meant for.
    pub audience: Box<[Box<str>]>,
    /// Whether to ask for a token is activity of its session; `None`: if nothing else could show any.
    pub touch: Option<bool>,
}

/// A way to ask for tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grant {
    /// By an API key (RFC 6749 section 4.4).
    ApiKey,
    /// By user and password (section 4.3).
    Password,
    /// By the session of a browser.
    Session,
}

/// What an endpoint needs beside the request.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What every endpoint of ours needs.
    pub login: login::Context<'a>,
    /// `[token]`.
    pub settings: &'a Settings,
    /// Families of refresh tokens.
    pub families: &'a Families,
    /// Who signs.
    pub keys: &'a Keys,
    /// The API key that the request presented.
    pub api_key: Option<&'a Arc<ApiKey>>,
    /// All API keys.
    pub api_keys: Known<'a>,
    /// What tokens are judged by: every issuer, ourselves among them.
    pub judge: Judge<'a>,
    /// The request, which may bring a proof of possession.
    pub offer: dpop::Offer<'a>,
    /// What was revoked.
    pub revocations: &'a Revocations,
    /// `limits.max_revocations`.
    pub max_revocations: usize,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// What the client gets.
    pub response: Response<Bytes>,
    /// What happened.
    pub event: Event,
}

/// An access token that was made.
struct Access {
    token: Box<str>,
    token_type: &'static str,
    /// In seconds.
    lives: u64,
    scope: Option<String>,
}

/// What happened, for metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// A token was given.
    Issued(Grant),
    /// A refresh token was exchanged.
    Refreshed,
    /// Tokens were revoked by whoever had them, or there were none.
    Revoked,
}

/// How often each of these happened, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Tokens for API keys.
    pub by_api_key: AtomicU64,
    /// Tokens for passwords.
    pub by_password: AtomicU64,
    /// Tokens for sessions.
    pub by_session: AtomicU64,
    /// Refresh tokens that were exchanged.
    pub refreshed: AtomicU64,
    /// Requests that were refused.
    pub refused: AtomicU64,
    /// Spent refresh tokens that ended their family.
    pub reused: AtomicU64,
    /// Requests to revoke.
    pub revoked: AtomicU64,
}

/// The longest that an access token lives.
pub const LONGEST_LIFE: Duration = Duration::from_secs(5 * 60);

impl Grant {
    /// As in `grants` and in the audit log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Password => "password",
            Self::Session => "session",
        }
    }
}

impl Settings {
    /// The refresh cookie of a gateway whose session cookie has this name.
    pub fn cookie_for(session: &str) -> Arc<str> {
        let plain = ["__Host-", "__Secure-"].iter().find_map(|prefix| session.strip_prefix(prefix));
        format!("__Secure-{}-refresh", plain.unwrap_or(session)).into()
    }

    /// `Set-Cookie` that takes the refresh cookie away, if the request brought one.
    pub fn take_cookie_away(&self, request: &HeaderMap, prefix: &str, answer: &mut HeaderMap) {
        if cookie::find(request, &self.cookie) != cookie::Presented::Absent {
            answer.append(SET_COOKIE, self.cookie_value("", "; Max-Age=0", prefix));
        }
    }

    fn client(&self, id: &str) -> Result<&Client, Refusal> {
        let found = self.clients.iter().find(|client| *client.id == *id);
        found.ok_or(Refusal::Token(TokenError::InvalidClient))
    }

    fn cookie_value(&self, value: &str, lifetime: &str, prefix: &str) -> HeaderValue {
        cookie::value_at(&format!("{prefix}/token"), &self.cookie, value, lifetime, SameSite::Strict)
    }
}

impl Client {
    fn asks_by(&self, grant: Grant) -> Result<(), Refusal> {
        if self.grants.contains(&grant) { Ok(()) } else { Err(Refusal::Token(TokenError::UnauthorizedClient)) }
    }

    /// Whether to ask is activity: where a program has nothing but tokens, nothing else could be.
    fn is_active(&self, delivery: Delivery) -> bool {
        self.touch.unwrap_or(delivery == Delivery::Body)
    }
}

impl Context<'_> {
    fn begin_error(error: BeginError) -> Refusal {
        match error {
            BeginError::Full => Refusal::StoreFull,
            BeginError::Unavailable => Refusal::NotWritten,
        }
    }

    /// Asking counts as activity where the client says so (R26).
    fn note_activity(&self, client: &Client, delivery: Delivery, session: &Session) {
        if client.is_active(delivery) {
            self.login.store.touch(session, self.login.now);
        }
    }

    /// `Set-Cookie` with a browser's refresh token, for as long as its session's cookie.
    fn refresh_cookie(&self, token: &RefreshToken, session: &Session) -> HeaderValue {
        let lifetime = match session.is_remembered() {
            true => {
                let left = session.expires(self.login.sessions).since(self.login.now);
                format!("; Max-Age={}", left.as_secs())
            }
            false => String::new(),
        };
        self.settings.cookie_value(token.expose().expose(), &lifetime, &self.login.login.prefix)
    }

    /// The key that the request proves to hold, if it brings a proof (RFC 9449 section 5). To be asked once: it is used
    /// up by that.
    fn proven_key(&self) -> Result<Option<Thumbprint>, Refusal> {
        match authn::proven_key(&self.offer, &self.judge) {
            Authenticated::Valid(key) => Ok(Some(key)),
            Authenticated::Absent => Ok(None),
            Authenticated::Invalid(why) => Err(Refusal::BadCredential(why)),
            Authenticated::Busy(busy) => Err(busy.into()),
            Authenticated::Unavailable(_) => Err(Refusal::Unavailable),
        }
    }

    /// An access token of a session, bound to `key` if there is one.
    fn access_token(
        &self,
        client: &Client,
        family: &Family,
        session: &Session,
        key: Option<Thumbprint>,
    ) -> Result<Access, Refusal> {
        let until = session.idle_expires(self.login.sessions);
        // Its session counts with this certificate's key only; who has the token has nothing more in hand (RFC 8705).
        let certificate = session.bound_to().and(self.login.certificate).map(|certificate| *certificate.thumbprint());
        let confirmation = Confirmation { key, certificate };
        let claims = claims::of_session(self.settings, client, family, session, confirmation, until, self.login.now);
        self.signed(&claims, session.identity(), key)
    }

    fn signed(&self, claims: &claims::Claims, of: &Identity, key: Option<Thumbprint>) -> Result<Access, Refusal> {
        let lives = claims.lives().ok_or(Refusal::Token(TokenError::InvalidGrant("parent_ended")))?;
        let token = self.keys.sign(self.settings.algorithm, &claims.0).map_err(|CannotSign| Refusal::Unavailable)?;
        let token_type = if key.is_some() { "DPoP" } else { "Bearer" };
        Ok(Access { token, token_type, lives, scope: claims::scope(of) })
    }

    /// Tells the audit log of something that concerns an API key's tokens.
    fn tell_key(&self, what: What, client: &str, key: &ApiKey) {
        let more = [
            ("client_id", Field::from(client)),
            ("grant", Field::from(Grant::ApiKey.label())),
            ("api_key", Field::from(key.name())),
        ];
        self.login.audit.record(&AuditEvent {
            realm: Some(key.identity().realm()),
            subject: Some(key.identity().subject()),
            more: &more,
            ..AuditEvent::new(what, self.login.origin)
        });
    }

    /// Tells the audit log of something that concerns a session's tokens.
    fn tell(&self, what: What, why: Option<&'static str>, client: &str, session: Option<&Session>, how: &str) {
        let key = session.map(|session| session.key().to_string());
        let identity = session.map(|session| session.identity());
        let more = [("client_id", Field::from(client)), ("grant", Field::from(how))];
        self.login.audit.record(&AuditEvent {
            realm: identity.map(|identity| &**identity.realm()),
            subject: identity.map(|identity| identity.subject()),
            session: key.as_deref(),
            why,
            more: &more,
            ..AuditEvent::new(what, self.login.origin)
        });
    }
}

/// RFC 6749 section 5.1.
fn answer(access: &Access, refresh_token: Option<&str>) -> Response<Bytes> {
    let mut body = json!({ "access_token": access.token, "token_type": access.token_type, "expires_in": access.lives });
    for (name, value) in [("scope", access.scope.as_deref()), ("refresh_token", refresh_token)] {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
    let mut response = page::json(StatusCode::OK, &body);
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// What every endpoint asks first.
fn admit(head: &Parts, context: &Context<'_>) -> Result<(), Refusal> {
    if context.login.view.scheme != Scheme::Https {
        return Err(Refusal::NotEncrypted);
    }
    match head.method {
        Method::POST => Ok(()),
        _ => Err(Refusal::MethodNotAllowed { allow: HeaderValue::from_static("POST") }),
    }
}

/// Whether a page of a browser asks, ours or another's.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(http::header::ORIGIN) || headers.contains_key("sec-fetch-site")
}
