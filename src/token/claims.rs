//! What an access token of ours says (RFC 9068 section 2.2).
//!
//! In: who it is for, and what it comes from. Out: the claims. Invariants: it ends with its parent or before; when and
//! how its owner logged in is its parent's word, so that a step-up is not skipped; nothing of it opens the parent.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{Client, Settings};
use crate::{
    api_key::ApiKey,
    authn::{own::claim, possession::Confirmation},
    clock::Timestamp,
    identity::{Factor, Identity},
    refresh::Family,
    secret,
    session::Session,
};

/// The claims of one token.
pub(super) struct Claims(pub(super) Map<String, Value>);

impl Claims {
    /// From now until it ends, in seconds; `None`: it would have ended already.
    pub(super) fn lives(&self) -> Option<u64> {
        let second = |name| self.0.get(name).and_then(Value::as_u64);
        second("exp")?.checked_sub(second("iat")?).filter(|seconds| *seconds > 0)
    }
}

/// Of a session, which ends at `until`; bound to what `confirmation` says.
pub(super) fn of_session(
    settings: &Settings,
    client: &Client,
    family: &Family,
    session: &Session,
    confirmation: Confirmation,
    until: Timestamp,
    now: Timestamp,
) -> Claims {
    let mut claims = common(settings, client, session.identity(), until, now);
    claims.extend(confirmation.to_claim());
    // As people and programs know it from the list of their sessions.
    claims.insert("sid".to_owned(), session.key().handle().into());
    claims.insert(claim::FAMILY.to_owned(), family.id().to_string().into());
    Claims(claims)
}

/// Of an API key; bound to what `confirmation` says.
pub(super) fn of_key(
    settings: &Settings,
    client: &Client,
    key: &ApiKey,
    confirmation: Confirmation,
    now: Timestamp,
) -> Claims {
    let until = key.expires().unwrap_or(Timestamp::MAX);
    let mut claims = common(settings, client, key.identity(), until, now);
    claims.extend(confirmation.to_claim());
    claims.insert(claim::KEY.to_owned(), key.id().as_str().into());
    Claims(claims)
}

fn common(
    settings: &Settings,
    client: &Client,
    identity: &Identity,
    until: Timestamp,
    now: Timestamp,
) -> Map<String, Value> {
    let mut claims = Map::new();
    let mut say = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    say("iss", (*settings.issuer).into());
    say(
        "aud",
        match &*client.audience {
            [one] => (**one).into(),
            several => several.iter().map(|one| Value::from(&**one)).collect(),
        },
    );
    say("sub", identity.subject().into());
    say(claim::CLIENT, (*client.id).into());
    say(claim::REALM, (**identity.realm()).into());
    say("iat", now.unix_seconds().into());
    say("exp", until.min(now.plus(settings.lifetime)).unix_seconds().into());
    say("jti", URL_SAFE_NO_PAD.encode(secret::random::<16>()).into());
    if let Some(auth_time) = identity.auth_time() {
        say("auth_time", auth_time.unix_seconds().into());
    }
    if identity.factor() == Factor::Two {
        say("amr", [Factor::TWO_NAME].into_iter().map(Value::from).collect());
        say("acr", Factor::TWO_NAME.into());
    }
    if let Some(name) = identity.name() {
        say("name", name.into());
    }
    if let Some(email) = identity.email() {
        say("email", email.into());
        say("email_verified", identity.email_verified().into());
    }
    let mut list = |name: &str, items: &mut dyn Iterator<Item = &str>| {
        let items: Vec<Value> = items.map(Value::from).collect();
        if !items.is_empty() {
            claims.insert(name.to_owned(), items.into());
        }
    };
    list("roles", &mut identity.roles());
    list("groups", &mut identity.groups());
    if let Some(scope) = scope(identity) {
        claims.insert("scope".to_owned(), scope.into());
    }
    claims
}

/// All scopes, with blanks between them (RFC 6749 section 3.3).
pub(super) fn scope(identity: &Identity) -> Option<String> {
    let scopes: Vec<&str> = identity.scopes().collect();
    (!scopes.is_empty()).then(|| scopes.join(" "))
}
