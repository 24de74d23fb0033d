//! API keys as administrators make and list them.
//!
//! ```text
//! { "name": "deploy", "subject": "ci", "roles": ["deployer"], "groups": [], "scopes": [],
//!   "expires_at": 1924905600, "from": ["10.0.0.0/8"], "note": "for the build server" }
//! ```
//! In: such an entry; `name` and `subject` are needed. Out: the key's text, told this once, and what it stands for.
//! Realm and grants come from the admin token, never from the entry (R5). A list has no text and no hash.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, error::Category, json};

use super::{
    AdminToken, Context, Scope,
    problem::Problem,
    query::{self, DEFAULT_LIMIT},
    sessions::{time, unfit},
};
use crate::{
    api_key::{ApiKey, KeyId, Made, MakeError, Making},
    clock::Timestamp,
    telemetry::audit::{Event, Value as Field, What},
};

/// Makes a key.
pub(super) async fn make(context: &Context<'_>, token: &AdminToken, entry: &[u8]) -> Result<Value, Problem> {
    let now = context.clock.now();
    let (making, dropped) = read(token, entry, now)?;
    let store = context.api_keys.made;
    let made = store.make(making, context.api_keys.fixed, context.max_api_keys, now).await;
    let (text, key) = made.map_err(|error| match error {
        MakeError::Full => Problem::KeysFull,
        MakeError::Revoked => Problem::KeyRevoked,
        MakeError::Unavailable => Problem::NotWritten,
        MakeError::Unfit(error) => unfit(error),
    })?;
    tell(context, token, &key, dropped);
    let mut answer = describe(context, &key);
    answer["key"] = text.expose().as_str().into();
    answer["durable"] = store.is_durable().into();
    if dropped > 0 {
        answer["dropped_grants"] = dropped.into();
    }
    Ok(answer)
}

/// A page of the keys that the token reaches, in the order of their ids.
pub(super) fn list(context: &Context<'_>, token: &AdminToken, query: &str) -> Result<Value, Problem> {
    let (mut realm, mut subject, mut after, mut limit) = (None, None, None, DEFAULT_LIMIT);
    let known = ["realm", "subject", "after", "limit"];
    for (name, value) in query::parameters(query, &known, "there are `realm`, `subject`, `after` and `limit`")? {
        match name {
            "realm" if token.reaches(&value) => realm = Some(value),
            "realm" => return Err(Problem::ForeignRealm),
            "subject" => subject = Some(value),
            "after" => {
                let id = KeyId::parse(&value);
                after = Some(id.ok_or(Problem::BadQuery("`after` is the `next` of the page before"))?);
            }
            _ => limit = query::limit(&value)?,
        }
    }
    if realm.is_none() && !(token.allow.contains(&Scope::All) && subject.is_none()) {
        realm = Some(token.realm.to_string());
    }
    let mut keys = context.api_keys.made.all();
    keys.extend(context.api_keys.fixed.values().cloned());
    keys.retain(|key| {
        let identity = key.identity();
        realm.as_ref().is_none_or(|realm| **identity.realm() == **realm)
            && subject.as_ref().is_none_or(|subject| identity.subject() == *subject)
            && after.is_none_or(|after| key.id() > after)
    });
    keys.sort_unstable_by_key(|key| key.id());
    let more = keys.len() > limit;
    keys.truncate(limit);
    let next = keys.last().filter(|_| more).map(|key| key.id().to_string());
    Ok(json!({ "keys": keys.iter().map(|key| describe(context, key)).collect::<Vec<_>>(), "next": next }))
}

/// The members as sent; `null` is an absent member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    subject: Option<String>,
    roles: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
    expires_at: Option<u64>,
    from: Option<Vec<String>>,
    note: Option<String>,
}

/// What is asked for, as far as the token may grant it, and how many values it may not.
fn read(token: &AdminToken, text: &[u8], now: Timestamp) -> Result<(Making, usize), Problem> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("an entry is a JSON object"));
    }
    let entry: Entry = serde_json::from_slice(text).map_err(|error| describe_error(&error))?;
    let Entry { name, subject, roles, groups, scopes, expires_at, from, note } = entry;
    let name = name.filter(|name| (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control));
    let name = name.ok_or_else(|| bad("`name` is needed: what the key is called, 1 to 100 bytes"))?;
    let subject = subject.ok_or_else(|| bad("`subject` is needed: who acts with the key"))?;
    let note = note.unwrap_or_default();
    if note.len() > MAX_NOTE || note.contains(char::is_control) {
        return Err(bad("`note` has at most 500 bytes, without control characters"));
    }
    let lists = [roles, groups, scopes].map(Option::unwrap_or_default);
    if lists.iter().flatten().any(String::is_empty) {
        return Err(bad("`roles`, `groups` and `scopes` are arrays of strings that are not empty"));
    }
    if lists.iter().flatten().map(String::len).sum::<usize>() > MAX_GRANTS {
        return Err(bad("`roles`, `groups` and `scopes` have at most 4 KiB together"));
    }
    let [mut roles, mut groups, mut scopes] = lists;
    let expires = expires_at.map(Timestamp::from_unix_seconds);
    if expires.is_some_and(|expires| expires <= now) {
        return Err(bad("`expires_at` lies in the past; it is a whole number of seconds since 1970"));
    }
    let from = from.unwrap_or_default();
    if from.len() > MAX_NETWORKS {
        return Err(bad("`from` has at most 64 networks"));
    }
    let sources: Option<Vec<IpNet>> = from.iter().map(|text| network(text)).collect();
    let sources = sources.ok_or_else(|| bad("`from` is an array of networks, such as \"10.0.0.0/8\""))?;
    let dropped = token.grants.filter(&mut roles, &mut groups) + token.grants.filter_key_scopes(&mut scopes);
    let made = Made { by: token.name.clone(), at: now, note: note.into() };
    let (name, realm) = (name.into(), token.realm.clone());
    Ok((Making { name, realm, subject, roles, groups, scopes, expires, sources, made }, dropped))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn describe(context: &Context<'_>, key: &ApiKey) -> Value {
    let identity = key.identity();
    let void = if key.is_revoked(context.revocations) {
        Some("revoked")
    } else if key.is_orphan() {
        Some("maker")
    } else if key.is_expired(context.clock.now()) {
        Some("expired")
    } else {
        None
    };
    json!({
        "id": key.id().as_str(),
        "name": key.name(),
        "realm": &**identity.realm(),
        "subject": identity.subject(),
        "roles": identity.roles().collect::<Vec<_>>(),
        "groups": identity.groups().collect::<Vec<_>>(),
        "scopes": identity.scopes().collect::<Vec<_>>(),
        "expires_at": key.expires().map(time),
        "from": key.sources().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "note": key.made().map(|made| &*made.note),
        "made_by": key.made().map(|made| &*made.by),
        "created_at": key.made().map(|made| time(made.at)),
        "last_used_at": key.last_used().map(time),
        // Why it does not count, if it does not.
        "void": void,
    })
}

fn tell(context: &Context<'_>, token: &AdminToken, key: &ApiKey, dropped: usize) {
    context.audit.record(&Event {
        admin: Some(&token.name),
        realm: Some(key.identity().realm()),
        subject: Some(key.identity().subject()),
        more: &[
            ("id", Field::from(key.id().as_str())),
            ("name", Field::from(key.name())),
            ("dropped_grants", dropped.into()),
        ],
        ..Event::new(What::ApiKeyMade, context.origin())
    });
}

fn bad(why: &str) -> Problem {
    Problem::BadEntry(why.to_owned())
}

/// The library's own texts quote what was sent: only what kind of error it is is told.
fn describe_error(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    bad(&match error.classify() {
        Category::Data => format!(
            "a member is unknown, repeated or of another type; there are `name`, `subject`, `roles`, `groups`, `scopes`, \
             `expires_at`, `from` and `note` (line {line}, column {column})"
        ),
        Category::Eof | Category::Io | Category::Syntax => format!("this is no JSON (line {line}, column {column})"),
    })
}

const MAX_NAME: usize = 100;
const MAX_NOTE: usize = 500;
/// Bytes of roles, groups and scopes together.
const MAX_GRANTS: usize = 4096;
const MAX_NETWORKS: usize = 64;
