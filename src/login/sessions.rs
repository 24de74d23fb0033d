//! `{prefix}/sessions`: where somebody is signed in, and how they end that: here, there, elsewhere, everywhere.
//!
//! GET shows a page, or JSON; POST ends, by the page's form or by JSON. Invariants: whoever asks sees and ends sessions
//! of their own realm and subject only, whatever id they send; an id is the beginning of a session's key and opens
//! nothing; to end all of them one has to have proved who one is a moment ago, so that a stolen cookie cannot lock its
//! owner out; the form counts only in the browser that it was given to (R31).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header::SET_COOKIE, request::Parts};
use http_body::Body;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Answer, Context, Event,
    form::{self, Kind},
    query, require_encryption,
    return_to::ReturnTo,
    see_other, shown_name,
    sign_in::{form_cookie, form_cookie_value, is_own_form},
    sign_out::wants_json,
    user_agent::Device,
};
use crate::{
    clock::Timestamp,
    page::{self, Face, Text},
    refusal::{Audience, Refusal},
    session::{Session, SessionKey, SessionToken, Settings, cookie},
};

/// What should end.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Which {
    All,
    /// All but the one that asks.
    Others,
    /// The one with this id.
    One(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRequest {
    end: String,
}

/// `{prefix}/sessions`.
///
/// # Errors
/// [`Refusal::StaleLogin`] for programs that would end all sessions too long after the login, [`Refusal::NoRoute`] for
/// programs that name no session of theirs, and [`Refusal`]s for bodies and methods.
pub async fn own_sessions<B: Body<Data = Bytes>>(
    head: &Parts,
    body: B,
    context: Context<'_>,
) -> Result<Answer, Refusal> {
    require_encryption(context.view)?;
    let current = context.session.ok_or(Refusal::NoCredential)?;
    match head.method {
        Method::GET | Method::HEAD if wants_page(head) => Ok(Answer::told(page_of(head, current, context))),
        Method::GET | Method::HEAD => Ok(Answer::told(page::json(StatusCode::OK, &list(current, context)))),
        Method::POST => {
            let kind = form::kind(&head.headers)?;
            let body = form::read(body).await?;
            match kind {
                Kind::Form => end_by_form(head, &body, current, context).await,
                Kind::Json => end_by_json(&body, current, context).await,
            }
        }
        _ => Err(Refusal::MethodNotAllowed { allow: HeaderValue::from_static("GET, HEAD, POST") }),
    }
}

async fn end_by_form(
    head: &Parts,
    body: &[u8],
    current: &Arc<Session>,
    context: Context<'_>,
) -> Result<Answer, Refusal> {
    let prefix = &context.login.prefix;
    let text = form::text(body)?;
    if !is_own_form(&head.headers, form::field(text, "token")?.as_deref()) {
        let response = see_other(&format!("{prefix}/sessions?expired"));
        context.tell_form_refused();
        return Ok(Answer { response, event: Event::FormRefused });
    }
    let wanted = form::field(text, "end")?.ok_or(Refusal::BadBody("which session should end?"))?;
    let ended = match end(&Which::of(&wanted), current, context).await {
        Err(Refusal::StaleLogin { .. }) => {
            let return_to = ReturnTo::or_root(Some(&format!("{prefix}/sessions")));
            let login = format!("{prefix}/login?prompt=again&return_to={}", return_to.encoded());
            return Ok(Answer::told(see_other(&login)));
        }
        other => other?,
    };
    if ended.current {
        let mut response = see_other(&format!("{prefix}/login?signed_out"));
        response.headers_mut().append(SET_COOKIE, cookie::clear(context.sessions));
        return Ok(Answer { response, event: Event::LoggedOut });
    }
    let note = if ended.count > 0 { "done" } else { "gone" };
    Ok(Answer::told(see_other(&format!("{prefix}/sessions?{note}"))))
}

async fn end_by_json(body: &[u8], current: &Arc<Session>, context: Context<'_>) -> Result<Answer, Refusal> {
    let request: JsonRequest = serde_json::from_slice(body)
        .map_err(|_| Refusal::BadBody("not a JSON object with end: the id of a session, \"others\" or \"all\""))?;
    let which = Which::of(&request.end);
    let ended = end(&which, current, context).await?;
    if ended.count == 0 && matches!(which, Which::One(_)) {
        return Err(Refusal::NoRoute);
    }
    let mut response = page::json(StatusCode::OK, &json!({ "ended": ended.count, "authenticated": !ended.current }));
    if ended.current {
        response.headers_mut().append(SET_COOKIE, cookie::clear(context.sessions));
    }
    let event = if ended.current { Event::LoggedOut } else { Event::Told };
    Ok(Answer { response, event })
}

/// What has ended.
struct Ended {
    count: usize,
    /// Whether the one that asked is among them.
    current: bool,
}

async fn end(which: &Which, current: &Arc<Session>, context: Context<'_>) -> Result<Ended, Refusal> {
    if *which == Which::All {
        let fresh = current.identity().auth_time().is_some_and(|at| context.now.since(at) <= FRESH);
        if !fresh {
            return Err(Refusal::StaleLogin { max_age: FRESH });
        }
    }
    let identity = current.identity();
    // Not only the living: whoever signs out everywhere means what waits for an old cookie as well.
    let own = context.store.of_subject(identity.realm(), identity.subject());
    let fits = |session: &Session| match which {
        Which::All => true,
        Which::Others => session.key() != current.key(),
        Which::One(id) => session.key().handle() == *id,
    };
    let keys: Vec<SessionKey> = own.iter().filter(|session| fits(session)).map(|session| *session.key()).collect();
    let count = context.store.end_all(&keys).await.map_err(|_| Refusal::NotWritten)?;
    if count > 0 {
        context.tell_own_sessions_ended(current, count);
    }
    Ok(Ended { count, current: keys.contains(current.key()) })
}

impl Which {
    fn of(text: &str) -> Self {
        match text {
            "all" => Self::All,
            "others" => Self::Others,
            id => Self::One(id.to_owned()),
        }
    }
}

/// People get the page whatever else their browser would take.
fn wants_page(head: &Parts) -> bool {
    matches!(Audience::of(head), Audience::Person { .. }) && !wants_json(&head.headers)
}

/// The living sessions of whoever asks, the one that asks first, the others by when they were last seen.
fn living(current: &Arc<Session>, context: Context<'_>) -> Vec<Arc<Session>> {
    let identity = current.identity();
    let mut own = context.store.of_subject(identity.realm(), identity.subject());
    own.retain(|session| !session.is_expired(context.sessions, context.now));
    own.sort_by_key(|session| (session.key() != current.key(), std::cmp::Reverse(session.last_seen())));
    own
}

fn list(current: &Arc<Session>, context: Context<'_>) -> Value {
    let describe = |session: &Arc<Session>| {
        let seconds = |time: Timestamp| time.unix_seconds();
        json!({
            "id": session.key().handle(),
            "current": session.key() == current.key(),
            "device": session.opened_from().map(|from| &*from.device),
            "address": session.opened_from().map(|from| from.address.to_string()),
            "created_at": seconds(session.created()),
            "last_seen_at": seconds(session.last_seen()),
            "expires_at": seconds(session.expires(context.sessions)),
            "idle_expires_at": seconds(session.idle_expires(context.sessions)),
            "remembered": session.is_remembered(),
        })
    };
    json!({ "sessions": living(current, context).iter().map(describe).collect::<Vec<_>>() })
}

fn page_of(head: &Parts, current: &Arc<Session>, context: Context<'_>) -> Response<Bytes> {
    let browser = form_cookie(&head.headers).unwrap_or_else(SessionToken::generate);
    let view = View {
        face: context.face,
        prefix: &context.login.prefix,
        token: &browser.key().to_string(),
        sessions: &living(current, context),
        current,
        settings: context.sessions,
        note: NOTES.iter().find(|(name, _)| query(head, name).is_some()).map(|(_, note)| *note),
    };
    let mut response = context.face.page(StatusCode::OK, context.face.say(Text::YourSessions), &view.render());
    response.headers_mut().append(SET_COOKIE, form_cookie_value(&browser));
    response
}

/// What the page shows.
struct View<'a> {
    face: Face<'a>,
    prefix: &'a str,
    token: &'a str,
    sessions: &'a [Arc<Session>],
    current: &'a Session,
    settings: &'a Settings,
    note: Option<Text>,
}

impl View<'_> {
    /// One form with a button for each session: it works without a script, and one token serves all of it.
    fn render(&self) -> Markup {
        let face = self.face;
        let who = html! { strong { (shown_name(self.current.identity())) } };
        html! {
            h1 { (face.say(Text::YourSessions)) }
            p.lead { (face.fill(Text::YouAreSignedInAs, &who)) }
            @match self.note {
                Some(Text::NothingDone) => p.alert role="alert" { (face.say(Text::NothingDone)) },
                Some(text) => p.note role="status" { (face.say(text)) },
                None => {}
            }
            form method="post" action={ (self.prefix) "/sessions" } {
                input type="hidden" name="token" value=(self.token);
                ul.entries {
                    @for (number, session) in self.sessions.iter().enumerate() {
                        (self.entry(number, session))
                    }
                }
                @if self.sessions.len() > 1 {
                    button type="submit" name="end" value="others" { (face.say(Text::SignOutElsewhere)) }
                    button.quiet type="submit" name="end" value="all" { (face.say(Text::SignOutEverywhere)) }
                }
            }
            p.fine { (face.say(Text::NotYours)) }
        }
    }

    fn entry(&self, number: usize, session: &Session) -> Markup {
        let face = self.face;
        let is_current = session.key() == self.current.key();
        let from = session.opened_from();
        let device = match from {
            Some(from) => match Device::of(&from.device) {
                Device::BrowserOn(browser, system) => {
                    html! { (browser) " " (face.fill(Text::OnSystem, &html! { (system) })) }
                }
                Device::Named(name) => html! { (name) },
                Device::SomeBrowserOn(system) => face.fill(Text::SomeBrowserOn, &html! { (system) }),
                Device::Unknown => html! { (face.say(Text::UnknownDevice)) },
            },
            None if session.is_waiting() => html! { (face.say(Text::NotUsedYet)) },
            None => html! { (face.say(Text::UnknownDevice)) },
        };
        // Read out together: "Firefox on Windows, Sign out".
        let names = format!("device-{number} end-{number}");
        html! {
            li {
                div {
                    strong id={ "device-" (number) } { (device) }
                    @if is_current { " " span.badge { (face.say(Text::ThisOne)) } }
                    @if let Some(from) = from {
                        p.detail { (face.fill(Text::FromAddress, &html! { (from.address) })) }
                    }
                    p.detail { (face.fill(Text::Since, &moment(session.created()))) }
                    @if !is_current && !session.is_waiting() {
                        p.detail { (face.fill(Text::LastSeen, &moment(session.last_seen()))) }
                    }
                    @if session.is_remembered() {
                        p.detail { (face.fill(Text::RememberedUntil, &moment(session.expires(self.settings)))) }
                    }
                }
                button.small.quiet id={ "end-" (number) } type="submit" name="end" value=(session.key().handle())
                    aria-labelledby=(names) {
                    (face.say(Text::SignOut))
                }
            }
        }
    }
}

fn moment(time: Timestamp) -> Markup {
    let text = humantime::format_rfc3339_seconds(time.to_system_time()).to_string();
    // `2026-11-21T14:42:02Z`: to the minute, as people write it.
    let shown = format!("{} {} UTC", text.get(..10).unwrap_or_default(), text.get(11..16).unwrap_or_default());
    html! { time datetime=(text) { (shown) } }
}

/// What may be said above the list, by the parameter of the query that asks for it.
const NOTES: [(&str, Text); 3] =
    [("done", Text::SignedOutThere), ("expired", Text::NothingDone), ("gone", Text::EndedAlready)];

/// How long after a login all sessions may be ended without another one.
const FRESH: Duration = Duration::from_secs(5 * 60);
