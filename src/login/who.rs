//! `{prefix}/session`: what programs learn of a caller.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, request::Parts};
use serde_json::{Map, Value};

use super::{Answer, Context};
use crate::{clock::Timestamp, identity::Identity, page, refusal::Refusal, session::Session};

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

/// What programs learn of a caller. Times are whole seconds since the epoch, as in JWTs.
pub(super) fn describe(
    identity: &Identity,
    session: Option<&Arc<Session>>,
    context: Context<'_>,
) -> Map<String, Value> {
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
    tell("factor", identity.factor().count().into());
    if let Some(session) = session {
        tell("expires_at", session.expires(context.sessions).unix_seconds().into());
        tell("sessions_url", format!("{}/sessions", context.login.prefix).into());
        tell("idle_expires_at", session.idle_expires(context.sessions).unix_seconds().into());
    }
    told
}
