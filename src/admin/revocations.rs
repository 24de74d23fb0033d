//! Revocations as administrators ask for them.
//!
//! In: JSON objects, each with a `kind`. Out: what was struck and until when. A token of one realm strikes what belongs
//! to that realm only (R5). What is pasted (a JWT, a session's cookie) is in the body, and in no answer and no log.
//!
//! ```text
//! { "kind": "subject", "subject": "alice", "realm": "staff" }   log out everywhere: sessions; JWTs and certificates issued so far; API keys
//! { "kind": "token",   "token": "eyJ…" }                        one JWT, opaque token, API key, refresh token, or a cookie's session
//! { "kind": "jti",     "issuer": "keycloak", "jti": "…" }       one JWT by its id
//! { "kind": "api_key", "id": "…" }                              one API key by its id, for good
//! { "kind": "issuer",  "issuer": "keycloak" }                   every JWT that an issuer has signed so far
//! ```

use serde::Deserialize;
use serde_json::{Map, Value, error::Category, json};
use smallvec::SmallVec;

use super::{AdminToken, Context, Issuer, MAX_ENTRY_BYTES, Scope, problem::Problem};
use crate::{
    api_key::{KeyId, KeyText},
    clock::Timestamp,
    durable::{Commit, Unavailable},
    refresh::{Delivery, RefreshToken},
    revocation::{FOREVER, Full, Keep, PastedToken, Struck, Target},
    session::{SessionKey, SessionToken},
    telemetry::audit::{Event, Value as Field, What},
};

/// How many are in force.
pub(super) fn count(context: &Context<'_>) -> Value {
    json!({
        "entries": context.revocations.len(),
        "limit": context.max_revocations,
        "durable": context.revocations.is_durable(),
    })
}

/// Carries out one entry; it holds in this process at once, and is on disk when this returns.
pub(super) async fn revoke(context: &Context<'_>, token: &AdminToken, entry: &[u8]) -> Result<Value, Problem> {
    let done = carry_out(context, token, entry).await?;
    done.written().await.map(Value::Object)
}

/// Carries out one entry a line and answers with a line for each, in order.
pub(super) async fn revoke_lines(context: &Context<'_>, token: &AdminToken, text: &[u8]) -> Vec<u8> {
    let mut answers = Vec::with_capacity(text.len());
    let mut waiting = Vec::with_capacity(LINES_AT_ONCE);
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            let done = if line.len() > MAX_ENTRY_BYTES {
                Err(Problem::EntryTooLarge)
            } else {
                carry_out(context, token, line).await
            };
            waiting.push((index + 1, done));
        }
        if waiting.len() == LINES_AT_ONCE {
            settle(&mut waiting, &mut answers).await;
            // Others on this thread have their turn.
            tokio::task::yield_now().await;
        }
    }
    settle(&mut waiting, &mut answers).await;
    answers
}

async fn settle(waiting: &mut Vec<(usize, Result<Done, Problem>)>, answers: &mut Vec<u8>) {
    for (number, done) in waiting.drain(..) {
        let done = match done {
            Ok(done) => done.written().await,
            Err(problem) => Err(problem),
        };
        let mut members = done.unwrap_or_else(|problem| {
            Map::from_iter([
                ("error".to_owned(), problem.label().into()),
                ("message".to_owned(), problem.message().into()),
            ])
        });
        members.insert("line".to_owned(), number.into());
        answers.extend_from_slice(Value::Object(members).to_string().as_bytes());
        answers.push(b'\n');
    }
}

/// What was done, and what of it is still on its way to the disk.
struct Done {
    answer: Map<String, Value>,
    commits: SmallVec<[Commit<()>; 1]>,
}

impl Done {
    async fn written(self) -> Result<Map<String, Value>, Problem> {
        for commit in self.commits {
            commit.await.map_err(|Unavailable| Problem::StateUnavailable)?;
        }
        Ok(self.answer)
    }
}

/// The members as sent; `null` is an absent member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: Option<Kind>,
    realm: Option<Box<str>>,
    subject: Option<Box<str>>,
    issuer: Option<Box<str>>,
    jti: Option<Box<str>>,
    token: Option<Box<str>>,
    id: Option<Box<str>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    ApiKey,
    Issuer,
    Jti,
    Subject,
    Token,
}

async fn carry_out(context: &Context<'_>, token: &AdminToken, text: &[u8]) -> Result<Done, Problem> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("an entry is a JSON object"));
    }
    let entry: Entry = serde_json::from_slice(text).map_err(|error| describe(&error))?;
    let Entry { kind, realm, subject, issuer, jti, token: pasted, id } = entry;
    let kind =
        kind.ok_or_else(|| bad("`kind` is missing: \"subject\", \"token\", \"jti\", \"api_key\" or \"issuer\""))?;
    if matches!(kind, Kind::ApiKey) != id.is_some() {
        return Err(bad("`id` is needed of an \"api_key\", and of nothing else"));
    }
    match (kind, realm, subject, issuer, jti, pasted) {
        (Kind::ApiKey, None, None, None, None, None) => {
            strike_key(context, token, KeyId::parse(&id.unwrap_or_default()).ok_or(Problem::NoKey)?)
        }
        (Kind::ApiKey, ..) => Err(bad("of an API key, only `id` is needed")),
        (Kind::Subject, realm, Some(subject), None, None, None) => {
            strike_subject(context, token, realm.unwrap_or_else(|| (*token.realm).into()), subject).await
        }
        (Kind::Subject, ..) => Err(bad("of a subject, `subject` is needed and `realm` is possible")),
        (Kind::Token, None, None, None, None, Some(pasted)) => strike_pasted(context, token, pasted.trim()).await,
        (Kind::Token, ..) => Err(bad("of a token, only `token` is needed: its whole text")),
        (Kind::Jti, None, None, Some(issuer), Some(jti), None) => {
            if jti.is_empty() {
                return Err(bad("`jti` is empty"));
            }
            let issuer = find_issuer(context, token, &issuer)?;
            let target = Target::Jti { issuer: (*issuer.issuer).into(), jti };
            strike(context, token, target, Keep::For(issuer.keep))
        }
        (Kind::Jti, ..) => Err(bad("of a jti, `issuer` and `jti` are needed")),
        (Kind::Issuer, None, None, Some(issuer), None, None) => {
            let issuer = find_issuer(context, token, &issuer)?;
            strike(context, token, Target::Issuer { issuer: (*issuer.issuer).into() }, Keep::For(issuer.keep))
        }
        (Kind::Issuer, ..) => Err(bad("of an issuer, only `issuer` is needed: its `name` or `issuer`")),
    }
}

/// Strikes first and ends sessions then, so that nothing of the subject is good after either.
async fn strike_subject(
    context: &Context<'_>,
    token: &AdminToken,
    realm: Box<str>,
    subject: Box<str>,
) -> Result<Done, Problem> {
    if !token.reaches(&realm) {
        return Err(Problem::ForeignRealm);
    }
    if subject.is_empty() || subject.len() > 255 {
        return Err(bad("`subject` has 1 to 255 bytes"));
    }
    let keep = context.issuers.iter().filter(|issuer| *issuer.realm == *realm).map(|issuer| issuer.keep).max();
    // A certificate may be good for years, and nothing says for how many.
    let keep = match context.certified_realms.iter().any(|certified| **certified == *realm) {
        true => Keep::Forever,
        false => Keep::For(keep.unwrap_or_default()),
    };
    let target = Target::Subject { realm: realm.clone(), subject: subject.clone() };
    let mut done = strike(context, token, target, keep)?;
    let (mut keys, commits) = context.api_keys.made.revoke_subject(&realm, &subject);
    done.commits.extend(commits);
    for id in context.api_keys.fixed_of(&realm, &subject) {
        done.commits.extend(strike_fixed_key(context, token, id)?.commits);
        keys += 1;
    }
    done.answer.insert("api_keys_revoked".to_owned(), keys.into());
    let ended = context.store.end_subject(&realm, &subject).await.map_err(|Unavailable| Problem::StateUnavailable)?;
    done.answer.insert("sessions_ended".to_owned(), ended.into());
    Ok(done)
}

/// Ends one API key, of either kind; it is on disk when this returns.
pub(super) async fn revoke_key(context: &Context<'_>, token: &AdminToken, id: KeyId) -> Result<Value, Problem> {
    strike_key(context, token, id)?.written().await.map(Value::Object)
}

fn strike_key(context: &Context<'_>, token: &AdminToken, id: KeyId) -> Result<Done, Problem> {
    // A key of another realm is no more visible than one that is not there.
    let key = context.api_keys.of_id(&id).filter(|key| token.reaches(key.identity().realm()));
    let key = key.ok_or(Problem::NoKey)?;
    if key.made().is_none() {
        return strike_fixed_key(context, token, id);
    }
    let commit = context.api_keys.made.revoke(&key);
    let target = Target::ApiKey { id: id.as_str().into() };
    // Its record goes, and with it all that there was to revoke.
    let struck = Struck { target, at: 0, until: FOREVER };
    tell(context, token, &struck);
    let mut answer = describe_struck(context, &struck);
    answer.insert("durable".to_owned(), context.api_keys.made.is_durable().into());
    Ok(Done { answer, commits: commit.into_iter().collect() })
}

/// A key of gateway.toml is there until somebody takes it out: it stays struck for good.
fn strike_fixed_key(context: &Context<'_>, token: &AdminToken, id: KeyId) -> Result<Done, Problem> {
    strike(context, token, Target::ApiKey { id: id.as_str().into() }, Keep::Forever)
}

async fn strike_pasted(context: &Context<'_>, token: &AdminToken, pasted: &str) -> Result<Done, Problem> {
    if let Some(session) = SessionToken::parse(pasted.as_bytes()) {
        return end_session(context, token, &session.key()).await;
    }
    if let Some(key) = KeyText::parse(pasted.as_bytes()) {
        // With another's id and a made-up secret, nobody talks an administrator into revoking another's key.
        let known = context.api_keys.of_text(&key).is_some();
        return if known { strike_key(context, token, key.id()) } else { Err(Problem::NoKey) };
    }
    if let Some(refresh_token) = RefreshToken::parse(pasted.as_bytes()) {
        return end_family(context, token, &refresh_token).await;
    }
    let opaque = || context.issuers.iter().filter(|issuer| issuer.opaque);
    if let Some(signing_input) = PastedToken::opaque(pasted)
        && let Some(keep) = opaque().map(|issuer| issuer.keep).max()
    {
        // It does not say whose it is: any of them could be meant.
        if !opaque().all(|issuer| token.reaches(&issuer.realm)) {
            return Err(Problem::ForeignRealm);
        }
        return strike(context, token, Target::Token { signing_input }, Keep::For(keep));
    }
    let pasted = PastedToken::read(pasted).map_err(|_| {
        bad("`token` is neither a JWT that could ever count (no `Bearer `, no padding) nor the value of a session cookie")
    })?;
    let issuer = named_issuer(context, &pasted.issuer)?;
    let realm = if issuer.is_self { pasted.realm.as_deref().unwrap_or_default() } else { &*issuer.realm };
    if !token.reaches(realm) {
        return Err(Problem::ForeignRealm);
    }
    let keep = Keep::Until(pasted.expires.plus(LONGEST_LEEWAY));
    strike(context, token, Target::Token { signing_input: pasted.signing_input }, keep)
}

async fn end_session(context: &Context<'_>, token: &AdminToken, key: &SessionKey) -> Result<Done, Problem> {
    let session = context.store.find(key).filter(|session| token.reaches(session.identity().realm()));
    let session = session.ok_or(Problem::NoSession)?;
    if !context.store.end(key).await.map_err(|Unavailable| Problem::NotWritten)? {
        return Err(Problem::NoSession);
    }
    let (identity, key) = (session.identity(), key.to_string());
    context.audit.record(&Event {
        admin: Some(&token.name),
        realm: Some(identity.realm()),
        subject: Some(identity.subject()),
        session: Some(&key),
        more: &[("kind", Field::from("session"))],
        ..Event::new(What::Revoked, context.origin())
    });
    let answer = json!({ "kind": "session", "session": key, "subject": identity.subject(), "sessions_ended": 1 });
    Ok(Done { answer: object(answer), commits: SmallVec::new() })
}

/// As its owner would: the family ends, and the session where nobody else could use it.
async fn end_family(context: &Context<'_>, token: &AdminToken, pasted: &RefreshToken) -> Result<Done, Problem> {
    let family = context.families.of_token(pasted).ok_or(Problem::NoSession)?;
    let session = context.store.find(family.session()).filter(|session| token.reaches(session.identity().realm()));
    let session = session.ok_or(Problem::NoSession)?;
    if family.delivery() == Delivery::Body {
        return end_session(context, token, session.key()).await;
    }
    context.families.end(&family).await.map_err(|Unavailable| Problem::NotWritten)?;
    let (identity, key) = (session.identity(), session.key().to_string());
    context.audit.record(&Event {
        admin: Some(&token.name),
        realm: Some(identity.realm()),
        subject: Some(identity.subject()),
        session: Some(&key),
        more: &[("kind", Field::from("refresh_token")), ("client_id", Field::from(family.client()))],
        ..Event::new(What::Revoked, context.origin())
    });
    let answer = json!({ "kind": "refresh_token", "subject": identity.subject(), "client_id": family.client() });
    Ok(Done { answer: object(answer), commits: SmallVec::new() })
}

fn strike(context: &Context<'_>, token: &AdminToken, target: Target, keep: Keep) -> Result<Done, Problem> {
    let struck = context.revocations.strike(target, context.clock.now(), keep, context.max_revocations);
    let (struck, commit) = struck.map_err(|Full| Problem::RevocationsFull)?;
    let answer = describe_struck(context, &struck);
    tell(context, token, &struck);
    Ok(Done { answer, commits: commit.into_iter().collect() })
}

fn describe_struck(context: &Context<'_>, struck: &Struck) -> Map<String, Value> {
    let mut answer = object(match &struck.target {
        Target::ApiKey { id } => json!({ "kind": "api_key", "id": id }),
        Target::Issuer { issuer } => {
            json!({ "kind": "issuer", "issuer": issuer, "issued_until": time(struck.moment()) })
        }
        Target::Jti { issuer, jti } => json!({ "kind": "jti", "issuer": issuer, "jti": jti }),
        Target::Subject { realm, subject } => json!({
            "kind": "subject", "realm": realm, "subject": subject, "issued_until": time(struck.moment()),
        }),
        Target::Token { signing_input } => json!({ "kind": "token", "sha256": hex(signing_input) }),
    });
    answer.insert("until".to_owned(), struck.ends().map_or(Value::Null, time));
    answer.insert("durable".to_owned(), context.revocations.is_durable().into());
    answer
}

fn tell(context: &Context<'_>, token: &AdminToken, struck: &Struck) {
    let (kind, realm, subject, name, value) = match &struck.target {
        Target::ApiKey { id } => ("api_key", None, None, "id", id.to_string()),
        Target::Issuer { issuer } => ("issuer", None, None, "issuer", issuer.to_string()),
        Target::Jti { issuer, jti } => ("jti", None, None, "jti", format!("{jti} of {issuer}")),
        Target::Subject { realm, subject } => ("subject", Some(&**realm), Some(&**subject), "", String::new()),
        Target::Token { signing_input } => ("token", None, None, "sha256", hex(signing_input)),
    };
    let more = [("kind", Field::from(kind)), (name, Field::from(&*value))];
    context.audit.record(&Event {
        admin: Some(&token.name),
        realm,
        subject,
        more: if name.is_empty() { &more[..1] } else { &more },
        ..Event::new(What::Revoked, context.origin())
    });
}

/// The issuer of this name or `iss`, if its realm is the token's. Ourselves make tokens of all realms.
fn find_issuer<'a>(context: &Context<'a>, token: &AdminToken, name: &str) -> Result<&'a Issuer, Problem> {
    let issuer = named_issuer(context, name)?;
    let reaches = if issuer.is_self { token.allow.contains(&Scope::All) } else { token.reaches(&issuer.realm) };
    if reaches { Ok(issuer) } else { Err(Problem::ForeignRealm) }
}

fn named_issuer<'a>(context: &Context<'a>, name: &str) -> Result<&'a Issuer, Problem> {
    let named = context.issuers.iter().find(|issuer| *issuer.name == *name || *issuer.issuer == *name);
    named.ok_or(Problem::NoIssuer)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

fn time(time: Timestamp) -> Value {
    humantime::format_rfc3339_seconds(time.to_system_time()).to_string().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bad(why: &str) -> Problem {
    Problem::BadEntry(why.to_owned())
}

/// The library's own texts quote what was sent, which may be a token: only what kind of error it is is told.
fn describe(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    bad(&match error.classify() {
        Category::Data => format!(
            "a member is unknown, repeated, no text, or `kind` is none of \"subject\", \"token\", \"jti\", \"api_key\", \"issuer\" \
             (line {line}, column {column})"
        ),
        Category::Eof | Category::Io | Category::Syntax => format!("this is no JSON (line {line}, column {column})"),
    })
}

/// Entries struck before their commits are waited for together.
const LINES_AT_ONCE: usize = 256;

/// More than any issuer's `leeway` may be.
const LONGEST_LEEWAY: std::time::Duration = std::time::Duration::from_secs(600);
