//! Roles follow their source (R29): what becomes of sessions when users, providers or admin tokens change.
//!
//! In: the sources of a snapshot and every session. A session knows its [`Source`]: the user entry or the admin token
//! that it was opened for. Where that is gone, or the password is another one, the session ends; where it says
//! something else of the person, the session gets another identity. The same is asked at the start of sessions that
//! were opened before it. Who logs in and how often is none of this: `auth_time` and factors stay.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};

use crate::{
    accounts::User,
    admin::{AdminToken, Scope},
    api_key::Maker,
    clock::Timestamp,
    durable::Unavailable,
    identity::{Factor, Identity, IdentityParts, Source},
    login::{self, Provider},
    session::{Session, SessionKey, Store},
    state::Snapshot,
    telemetry::audit::{Audit, Event, Origin, What},
};

/// How many sessions went with their sources.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Revised {
    /// They ended.
    pub ended: usize,
    /// They have another identity.
    pub updated: usize,
    /// They should have, and it could not be written down.
    pub failed: usize,
}

/// What becomes of a session.
#[derive(Debug)]
enum Fate {
    /// For a reason in a word.
    End(&'static str),
    Keep,
    Update(Arc<Identity>),
}

/// Where it is told which sessions went with their sources, and when that was.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The audit log.
    pub audit: &'a Audit,
    /// Now.
    pub now: Timestamp,
}

impl Told<'_> {
    fn tell(self, what: What, session: &Session, why: Option<&'static str>) {
        let key = session.key().to_string();
        let identity = session.identity();
        let (realm, subject) = (Some(&**identity.realm()), Some(identity.subject()));
        let event = Event { realm, subject, session: Some(&key), why, ..Event::new(what, Origin::gateway(self.now)) };
        self.audit.record(&event);
    }
}

/// The sources of one snapshot, indexed.
struct Sources<'a> {
    providers: HashMap<&'a str, (&'a Provider, HashMap<&'a str, &'a Arc<User>>)>,
    tokens: HashMap<&'a str, &'a AdminToken>,
}

/// Has every session follow its source. Looks at all sessions: not for workers.
pub async fn revise(snapshot: &Snapshot, store: &Store, told: Told<'_>) -> Revised {
    let sources = Sources::of(snapshot);
    let mut revised = Revised::default();
    let mut after = None;
    loop {
        let page = store.list(after, PAGE);
        after = page.last().map(|session| *session.key());
        let mut ending = Vec::new();
        for session in &page {
            match sources.judge(session) {
                Fate::Keep => {}
                Fate::End(why) => ending.push((session, why)),
                // What waits for an old cookie was made by a program, which can make it again.
                Fate::Update(_) if session.is_waiting() => ending.push((session, "changed")),
                Fate::Update(identity) => update(store, session, identity, told, &mut revised).await,
            }
        }
        end(store, &ending, told, &mut revised).await;
        if page.len() < PAGE {
            return revised;
        }
    }
}

/// Whether a session that another process opened is as its source is here.
pub fn follows_its_source(snapshot: &Snapshot, session: &Session) -> bool {
    match Sources::of(snapshot).judge(session) {
        Fate::Keep => true,
        Fate::End(_) | Fate::Update(_) => false,
    }
}

/// A hash of everything that a session can come from: while it stays, no session has to be looked at.
pub(super) fn digest(snapshot: &Snapshot) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let mut text = |text: &str| {
        context.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        context.update(text.as_bytes());
    };
    for provider in &snapshot.login.providers {
        text(&format!("{:?}", (&provider.name, &provider.realm, &provider.grants, provider.trust_email)));
        for user in provider.accounts.iter() {
            text(&format!("{user:?}"));
            text(&user.password);
        }
    }
    for token in creators(snapshot) {
        text(&format!("{:?}", (&token.name, &token.realm, &token.grants)));
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

async fn update(store: &Store, session: &Arc<Session>, identity: Arc<Identity>, told: Told<'_>, revised: &mut Revised) {
    match store.renew(session, identity).await {
        Ok(true) => {
            revised.updated += 1;
            told.tell(What::SessionUpdated, session, None);
        }
        Ok(false) => {}
        Err(Unavailable) => revised.failed += 1,
    }
}

async fn end(store: &Store, ending: &[(&Arc<Session>, &'static str)], told: Told<'_>, revised: &mut Revised) {
    let keys: Vec<SessionKey> = ending.iter().map(|(session, _)| *session.key()).collect();
    match store.end_all(&keys).await {
        Ok(ended) => {
            revised.ended += ended;
            ending.iter().for_each(|(session, why)| told.tell(What::SessionVoided, session, Some(why)));
        }
        Err(Unavailable) => revised.failed += ending.len(),
    }
}

/// Admin tokens that open sessions.
pub(super) fn creators(snapshot: &Snapshot) -> impl Iterator<Item = &AdminToken> {
    let tokens = snapshot.admin.iter().flat_map(|admin| &admin.tokens);
    tokens.filter(|token| token.may(Scope::SessionsCreate))
}

/// Admin tokens that make API keys, and what these may hold.
pub fn key_makers(snapshot: &Snapshot) -> Vec<Maker> {
    let tokens = snapshot.admin.iter().flat_map(|admin| &admin.tokens);
    let makers = tokens.filter(|token| token.may(Scope::KeysCreate)).map(|token| Maker {
        name: Arc::clone(&token.name),
        realm: Arc::clone(&token.realm),
        grants: token.grants.clone(),
    });
    makers.collect()
}

impl<'a> Sources<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let provider = |provider: &'a Provider| {
            let users = provider.accounts.iter().map(|user| (&*user.id, user)).collect();
            (&*provider.name, (provider, users))
        };
        Self {
            providers: snapshot.login.providers.iter().map(provider).collect(),
            tokens: creators(snapshot).map(|token| (&*token.name, token)).collect(),
        }
    }

    fn judge(&self, session: &Session) -> Fate {
        let identity = session.identity();
        match identity.source() {
            None => self.judge_realm(identity),
            Some(Source::User { provider, proof }) => self.judge_user(identity, provider, *proof),
            Some(Source::Admin { token }) => self.judge_creation(identity, token),
        }
    }

    /// Nobody knows who opened it; somebody has to answer for its realm at least.
    fn judge_realm(&self, identity: &Identity) -> Fate {
        let realm = identity.realm();
        let known = self.providers.values().any(|(provider, _)| provider.realm == *realm)
            || self.tokens.values().any(|token| token.realm == *realm);
        if known { Fate::Keep } else { Fate::End("realm_gone") }
    }

    fn judge_user(&self, identity: &Arc<Identity>, provider: &str, proof: [u8; 16]) -> Fate {
        let provider = self.providers.get(provider).filter(|(provider, _)| provider.realm == *identity.realm());
        let Some((provider, users)) = provider else {
            return Fate::End("provider_gone");
        };
        let Some(user) = users.get(identity.subject()) else {
            return Fate::End("user_gone");
        };
        if !user.keeps(&proof) {
            return Fate::End("password_changed");
        }
        // Opened before a second factor was asked for: the next login asks for it.
        if user.second_factor && identity.factor() == Factor::One {
            return Fate::End("factor_required");
        }
        let since = identity.auth_time().unwrap_or_default();
        let Ok((now, _)) = login::identity_of(provider, user, identity.factor(), since) else {
            return Fate::End("unfit");
        };
        // The same password, hashed anew: the session goes by the new hash from now on.
        if says_the_same(identity, &now) && user.proof() == proof {
            return Fate::Keep;
        }
        let IdentityParts { name, email, email_verified, roles, groups, .. } = now.to_parts();
        let parts = IdentityParts { name, email, email_verified, roles, groups, ..identity.to_parts() };
        changed(parts, now.source().cloned())
    }

    fn judge_creation(&self, identity: &Arc<Identity>, token: &str) -> Fate {
        let Some(token) = self.tokens.get(token).filter(|token| token.realm == *identity.realm()) else {
            return Fate::End("token_gone");
        };
        let mut parts = identity.to_parts();
        if token.grants.filter(&mut parts.roles, &mut parts.groups) == 0 {
            return Fate::Keep;
        }
        changed(parts, identity.source().cloned())
    }
}

fn says_the_same(one: &Identity, other: &Identity) -> bool {
    one.name() == other.name()
        && one.email() == other.email()
        && one.email_verified() == other.email_verified()
        && one.roles().eq(other.roles())
        && one.groups().eq(other.groups())
}

fn changed(parts: IdentityParts, source: Option<Source>) -> Fate {
    match Identity::new(parts) {
        Ok(identity) => Fate::Update(Arc::new(identity.with_source(source))),
        Err(_) => Fate::End("unfit"),
    }
}

/// Sessions looked at before others get their turn with the store.
const PAGE: usize = 4096;
