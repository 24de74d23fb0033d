//! Sessions as administrators open, list and end them.
//!
//! A session is named by its key: the hash of its token, which opens nothing. The token itself is told once, to whoever
//! opened the session, and is nowhere else. What a token may grant and which realm it is for come from its settings,
//! never from the request (R5).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    AdminToken, Context,
    entry::Entry,
    problem::Problem,
    query::{self, DEFAULT_LIMIT},
};
use crate::{
    clock::{Clock, Timestamp},
    identity::{Identity, IdentityError, IdentityParts, Source, Via},
    policy::Grants,
    session::{self, Bind, Legacy, OpenError, Session, SessionKey, Store},
    telemetry::audit::{Audit, Client, Event, Origin, Value as Field, What},
};

/// Opens sessions on behalf of one token; owns what it needs, as a bulk request outlives its head.
pub(super) struct Creator {
    admin: Arc<str>,
    realm: Arc<str>,
    grants: Grants,
    session: session::Settings,
    store: Arc<Store>,
    clock: Clock,
    audit: Audit,
    client: Client,
    request_id: Box<str>,
}

impl Creator {
    pub(super) fn new(context: &Context<'_>, token: &AdminToken) -> Self {
        Self {
            admin: Arc::clone(&token.name),
            realm: Arc::clone(&token.realm),
            grants: token.grants.clone(),
            session: context.session.clone(),
            store: Arc::clone(context.store),
            clock: context.clock.clone(),
            audit: context.audit.clone(),
            client: context.origin().client,
            request_id: context.request_id.into(),
        }
    }

    /// Opens the session that an entry describes, or notes that its old cookie will open it.
    pub(super) async fn create(&self, text: &[u8]) -> Result<Map<String, Value>, Problem> {
        if self.session.bind != Bind::None {
            return Err(Problem::SessionsBound);
        }
        let now = self.clock.now();
        let Entry { subject, name, email, email_verified, mut roles, mut groups, claims, auth_time, factor, legacy } =
            Entry::parse(text, now)?;
        let dropped = self.grants.filter(&mut roles, &mut groups);
        let identity = Identity::new(IdentityParts {
            realm: Arc::clone(&self.realm),
            subject,
            name,
            email,
            email_verified,
            roles,
            groups,
            scopes: Vec::new(),
            claims,
            auth_time,
            factor,
            via: Via::Session,
        });
        let source = Source::Admin { token: Arc::clone(&self.admin) };
        let identity = Arc::new(identity.map_err(unfit)?.with_source(Some(source)));

        let mut answer = Map::new();
        let session = match legacy {
            Some(old) => {
                let legacy = Legacy { cookie: old.cookie, sha256: old.sha256, identity, expires: old.expires };
                let imported = self.store.import_legacy(legacy, &self.session, now).await;
                imported.map_err(|error| self.unopened(error))?
            }
            None => {
                let opened = self.store.open(identity, None, &self.session, now).await;
                let (token, session) = opened.map_err(|error| self.unopened(error))?;
                answer.insert("token".to_owned(), token.expose().into());
                session
            }
        };
        answer.insert("key".to_owned(), session.key().to_string().into());
        answer.insert("expires_at".to_owned(), time(session.expires(&self.session)));
        answer.insert("durable".to_owned(), self.store.is_durable().into());
        if dropped > 0 {
            answer.insert("dropped_grants".to_owned(), dropped.into());
        }
        self.tell(&session, dropped, now);
        Ok(answer)
    }

    /// Sums up a bulk request in the audit log.
    pub(super) fn tell_bulk(&self, created: u64, failed: u64, complete: bool) {
        let more = [("created", Field::from(created)), ("failed", failed.into()), ("complete", complete.into())];
        self.tell_of(Event { more: &more, ..Event::new(What::SessionsImported, self.origin(self.clock.now())) });
    }

    fn tell(&self, session: &Session, dropped: usize, now: Timestamp) {
        let key = session.key().to_string();
        let event = Event {
            subject: Some(session.identity().subject()),
            session: Some(&key),
            more: &[("legacy", session.is_waiting().into()), ("dropped_grants", dropped.into())],
            ..Event::new(What::SessionCreated, self.origin(now))
        };
        self.tell_of(event);
    }

    fn tell_of(&self, event: Event<'_>) {
        self.audit.record(&Event { admin: Some(&self.admin), realm: Some(&self.realm), ..event });
    }

    fn origin(&self, now: Timestamp) -> Origin<'_> {
        Origin { now, client: self.client, request_id: &self.request_id }
    }

    const fn unopened(&self, error: OpenError) -> Problem {
        match error {
            OpenError::Full => Problem::StoreFull,
            OpenError::TooLarge { bytes } => Problem::SessionTooLarge { bytes, limit: self.session.max_session_bytes },
            OpenError::TooManyCookies => Problem::TooManyCookies,
            OpenError::Unavailable => Problem::NotWritten,
        }
    }
}

/// A page of living sessions, or those of one subject.
pub(super) fn list(context: &Context<'_>, token: &AdminToken, query: &str) -> Result<Value, Problem> {
    let query = Query::parse(query)?;
    let realm = query.realm(token)?;
    let now = context.clock.now();
    let lives = |session: &Arc<Session>| !session.is_expired(context.session, now);
    if let Some(subject) = &query.subject {
        if query.after.is_some() || query.limit.is_some() {
            return Err(Problem::BadQuery("`after` and `limit` are for lists without `subject`"));
        }
        let realm = realm.unwrap_or(&token.realm);
        let sessions = context.store.of_subject(realm, subject);
        let sessions: Vec<Value> = sessions.iter().filter(|s| lives(s)).map(|s| describe(context, s)).collect();
        return Ok(json!({ "sessions": sessions, "next": null }));
    }

    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    let mut after = query.after;
    let mut sessions = Vec::new();
    let mut looked_at = 0;
    // Sessions of other realms and expired ones are passed over, but a call looks at a bounded number.
    let next = loop {
        let wanted = (limit - sessions.len()).max(MIN_PAGE);
        let page = context.store.list(after, wanted);
        let last_page = page.len() < wanted;
        let mut left = page.len();
        for session in page {
            left -= 1;
            looked_at += 1;
            after = Some(*session.key());
            if realm.is_none_or(|realm| **session.identity().realm() == *realm) && lives(&session) {
                sessions.push(describe(context, &session));
                if sessions.len() == limit {
                    break;
                }
            }
        }
        if last_page && left == 0 {
            break None;
        }
        if sessions.len() == limit || looked_at >= MAX_LOOKED_AT {
            break after;
        }
    };
    Ok(json!({ "sessions": sessions, "next": next.map(|key| key.to_string()) }))
}

/// Ends one session.
pub(super) async fn end(context: &Context<'_>, token: &AdminToken, key: &SessionKey) -> Result<Value, Problem> {
    let now = context.clock.now();
    let session = context.store.find(key).filter(|session| !session.is_expired(context.session, now));
    // A session of another realm is no more visible than one that is not there.
    let session = session.filter(|session| token.reaches(session.identity().realm())).ok_or(Problem::NoSession)?;
    if !context.store.end(key).await.map_err(|_| Problem::NotWritten)? {
        return Err(Problem::NoSession);
    }
    let identity = session.identity();
    tell_ended(context, token, identity.realm(), identity.subject(), 1, Some(key));
    Ok(json!({ "ended": 1 }))
}

/// Ends all sessions of one subject; none is a success too.
pub(super) async fn end_subject(context: &Context<'_>, token: &AdminToken, query: &str) -> Result<Value, Problem> {
    let query = Query::parse(query)?;
    let realm = query.realm(token)?.unwrap_or(&token.realm);
    if query.after.is_some() || query.limit.is_some() {
        return Err(Problem::BadQuery("`after` and `limit` are for lists"));
    }
    let subject = query.subject.as_deref().filter(|subject| !subject.is_empty());
    let subject = subject.ok_or(Problem::BadQuery("`subject` is missing: whose sessions should end?"))?;
    let ended = context.store.end_subject(realm, subject).await.map_err(|_| Problem::NotWritten)?;
    tell_ended(context, token, realm, subject, ended, None);
    Ok(json!({ "ended": ended }))
}

fn tell_ended(
    context: &Context<'_>,
    token: &AdminToken,
    realm: &str,
    subject: &str,
    ended: usize,
    key: Option<&SessionKey>,
) {
    let key = key.map(ToString::to_string);
    let event = Event {
        admin: Some(&token.name),
        realm: Some(realm),
        subject: Some(subject),
        session: key.as_deref(),
        more: &[("ended", ended.into())],
        ..Event::new(What::SessionsEnded, context.origin())
    };
    context.audit.record(&event);
}

fn describe(context: &Context<'_>, session: &Session) -> Value {
    let identity = session.identity();
    json!({
        "key": session.key().to_string(),
        "realm": &**identity.realm(),
        "subject": identity.subject(),
        "name": identity.name(),
        "email": identity.email(),
        "roles": identity.roles().collect::<Vec<_>>(),
        "groups": identity.groups().collect::<Vec<_>>(),
        "auth_time": identity.auth_time().map(time),
        "factor": identity.factor().count(),
        "device": session.opened_from().map(|from| &*from.device),
        "address": session.opened_from().map(|from| from.address.to_string()),
        "created_at": time(session.created()),
        "last_seen_at": time(session.last_seen()),
        "idle_expires_at": time(session.idle_expires(context.session)),
        "expires_at": time(session.expires(context.session)),
        "remembered": session.is_remembered(),
        "waits_for_legacy_cookie": session.is_waiting(),
        "tokens": context.families.of_session(session.key()).iter().map(|family| json!({
            "client_id": family.client(),
            "began_at": time(family.began()),
            "refreshed_at": time(family.refreshed()),
        })).collect::<Vec<_>>(),
    })
}

pub(super) fn time(time: Timestamp) -> Value {
    humantime::format_rfc3339_seconds(time.to_system_time()).to_string().into()
}

pub(super) fn unfit(error: IdentityError) -> Problem {
    let why = match error {
        IdentityError::ControlInSubject => "`subject` holds a control character",
        IdentityError::EmptySubject => "`subject` is empty",
        IdentityError::LongSubject => "`subject` has more than 255 bytes",
    };
    Problem::BadEntry(why.to_owned())
}

/// The parameters of `GET` and `DELETE /api/v1/sessions`.
#[derive(Default)]
struct Query {
    realm: Option<String>,
    subject: Option<String>,
    after: Option<SessionKey>,
    limit: Option<usize>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, Problem> {
        let known = ["realm", "subject", "after", "limit"];
        let mut query = Self::default();
        for (name, value) in query::parameters(text, &known, "there are `realm`, `subject`, `after` and `limit`")? {
            match name {
                "realm" => query.realm = Some(value),
                "subject" => query.subject = Some(value),
                "after" => {
                    let key = SessionKey::parse(&value);
                    query.after = Some(key.ok_or(Problem::BadQuery("`after` is the `next` of the page before"))?);
                }
                _ => query.limit = Some(query::limit(&value)?),
            }
        }
        Ok(query)
    }

    /// The realm that is asked for, if the token reaches it. `None`: every realm.
    fn realm<'a>(&'a self, token: &'a AdminToken) -> Result<Option<&'a str>, Problem> {
        match self.realm.as_deref() {
            Some(realm) if token.reaches(realm) => Ok(Some(realm)),
            Some(_) => Err(Problem::ForeignRealm),
            None if token.allow.contains(&super::Scope::All) && self.subject.is_none() => Ok(None),
            None => Ok(Some(&token.realm)),
        }
    }
}

/// Sessions asked of the store at once when most of them are passed over.
const MIN_PAGE: usize = 256;
/// Sessions that one call may pass over.
const MAX_LOOKED_AT: usize = 50_000;
