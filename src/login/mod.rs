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
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header::LOCATION, request::Parts};
use serde_json::Map;

use self::return_to::parameter;
use crate::{
    accounts::{Accounts, Hasher, User},
    client::{ClientView, Scheme},
    clock::Timestamp,
    identity::{Factor, Identity, IdentityError, IdentityParts, Source, Via},
    mtls::ClientCertificate,
    page::{self, Face},
    policy::Grants,
    refusal::Refusal,
    session::{self, Session, Store},
    telemetry::audit::{Audit, Origin},
};

mod audit;
mod device;
mod form;
mod handover;
mod native;
mod resend;
pub mod return_to;
mod second;
mod sessions;
mod sign_in;
mod sign_out;
mod stash;
mod step_up;
mod throttle;
mod user_agent;
mod views;
mod who;

pub use device::{DEVICE_COOKIE, Devices};
pub use form::{is_json, read};
pub use handover::HandedLogins;
pub use native::{Native, sign_in_natively};
pub use resend::resend;
pub use second::Second;
pub use sessions::own_sessions;
pub use sign_in::sign_in;
pub use sign_out::sign_out;
pub use stash::{Form, STASH_COOKIE, Stash, is_form};
pub use throttle::{MAX_WAIT, Throttle};
pub use who::who_am_i;

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
    /// What people know it by; default: the name.
    pub label: Option<Box<str>>,
    /// What its subjects and roles mean something in (R5).
    pub realm: Arc<str>,
    /// What it may say of its subjects.
    pub grants: Grants,
    /// Whether its emails count as verified (R6).
    pub trust_email: bool,
    /// How long sessions live whose owners want to be remembered; `None`: nobody is asked.
    pub remember_me: Option<Duration>,
    /// Its users.
    pub accounts: Accounts,
}

/// What an endpoint needs beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The client.
    pub view: &'a ClientView,
    /// The canonical path of the request.
    pub path: &'a str,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Who is calling, by whatever credential.
    pub identity: Option<&'a Arc<Identity>>,
    /// The living session that the request presented.
    pub session: Option<&'a Arc<Session>>,
    /// The certificate whose key the client has proven to hold, whatever it is worth.
    pub certificate: Option<&'a Arc<ClientCertificate>>,
    /// `[login]`.
    pub login: &'a Settings,
    /// How pages look, in the reader's language.
    pub face: Face<'a>,
    /// `[session]`.
    pub sessions: &'a session::Settings,
    /// Where sessions live.
    pub store: &'a Store,
    /// Who checks passwords.
    pub hasher: &'a Hasher,
    /// Who slows guessers down.
    pub throttle: &'a Throttle,
    /// Who knows browsers again.
    pub devices: &'a Devices,
    /// Forms that came too late.
    pub stash: &'a Stash,
    /// Second factors.
    pub second: &'a Second,
    /// The moment of the request.
    pub now: Timestamp,
    /// Where what happens is told.
    pub audit: &'a Audit,
    /// Whence the request came, for the audit log.
    pub origin: Origin<'a>,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// What the client gets.
    pub response: Response<Bytes>,
    /// What happened.
    pub event: Event,
}

/// What happened, for metrics.
#[derive(Debug)]
pub enum Event {
    /// Something was told or asked; nothing changed.
    Told,
    /// A session was opened.
    LoggedIn,
    /// Wrong user name or password, or not who had to prove it anew, in a form; a program gets
    /// [`Refusal::LoginFailed`].
    LoginFailed,
    /// A form whose token has expired, or which another site made.
    FormRefused,
    /// A form that must wait; a program gets [`Refusal::TooMany`].
    Throttled,
    /// The presented session has ended.
    LoggedOut,
    /// A form that could not be done at present; a program gets the [`Refusal`] itself.
    Unavailable(Refusal),
}

impl Event {
    /// Why nothing was done, for the log, where that is no matter of whoever asked.
    pub const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Unavailable(refusal) => Some(refusal.reason()),
            Self::Told | Self::LoggedIn | Self::LoginFailed | Self::FormRefused | Self::Throttled | Self::LoggedOut => {
                None
            }
        }
    }
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

/// Every cookie of ours beside the session's.
pub const OWN_COOKIES: [&str; 3] = [FORM_COOKIE, DEVICE_COOKIE, STASH_COOKIE];

/// Who somebody is to people: the name, or else the subject.
pub fn shown_name(identity: &Identity) -> &str {
    identity.name().unwrap_or_else(|| identity.subject())
}

/// The identity of a local user, and how many roles and groups the provider may not grant.
///
/// # Errors
/// When the user's id is unfit as a subject, which [`Accounts::new`] rules out.
pub fn identity_of(
    provider: &Provider,
    user: &User,
    factor: Factor,
    now: Timestamp,
) -> Result<(Identity, usize), IdentityError> {
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
        factor,
        via: Via::Session,
    })?;
    let source = Source::User { provider: Arc::clone(&provider.name), proof: user.proof() };
    Ok((identity.with_source(Some(source)), dropped))
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

impl Provider {
    /// What people know it by.
    fn shown(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }
}

impl Answer {
    fn told(response: Response<Bytes>) -> Self {
        Self { response, event: Event::Told }
    }
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

#[cfg(test)]
mod tests;
