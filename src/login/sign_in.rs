//! `{prefix}/login`: the page, a login by form, a login by JSON.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE},
    request::Parts,
};
use http_body::Body;
use serde_json::Value;

use super::{
    Answer, Context, Event, FORM_COOKIE, Provider,
    device::{Device, set_cookie},
    form::{self, Continuation, Credentials, Kind},
    identity_of, query, require_encryption,
    resend::next,
    return_to::ReturnTo,
    second::{self, Known, Outcome, Proved},
    see_other, shown_name,
    step_up::StepUp,
    throttle::Who,
    user_agent,
    views::{self, Choice, Note, SignIn},
    who::describe,
};
use crate::{
    accounts::User,
    page::{self, Text},
    refusal::Refusal,
    secret,
    session::{Bind, OpenError, OpenedFrom, Opening, SameSite, Session, SessionToken, cookie},
    telemetry::audit::What,
};

/// `{prefix}/login` and `{prefix}/login/{provider}`: the page (GET), or a login by form or JSON (POST).
///
/// # Errors
/// [`Refusal`]s for bodies, too many attempts, a full store, and [`Refusal::LoginFailed`] for programs.
pub async fn sign_in<B: Body<Data = Bytes>>(head: &Parts, body: B, context: Context<'_>) -> Result<Answer, Refusal> {
    require_encryption(context.view)?;
    key_to_bind(context)?;
    let asked_for = provider_in_path(context)?;
    match head.method {
        Method::GET | Method::HEAD => Ok(sign_in_page(head, asked_for, context)),
        Method::POST => {
            let kind = form::kind(&head.headers)?;
            let body = form::read(body).await?;
            if kind == Kind::Form
                && let Some(sent) = form::continuation(&body)?
            {
                return go_on_by_form(&head.headers, sent, context).await;
            }
            let credentials = form::credentials(kind, &body)?;
            let provider = match asked_for {
                Some(provider) => provider,
                None => context
                    .login
                    .provider(credentials.provider.as_deref())
                    .ok_or(Refusal::BadBody("no such provider"))?,
            };
            match kind {
                Kind::Form => sign_in_by_form(&head.headers, credentials, provider, context).await,
                Kind::Json => sign_in_by_json(credentials, provider, context).await,
            }
        }
        _ => Err(Refusal::MethodNotAllowed { allow: HeaderValue::from_static("GET, HEAD, POST") }),
    }
}

/// The provider that the path names; `None` where it names none.
fn provider_in_path(context: Context<'_>) -> Result<Option<&Provider>, Refusal> {
    let below = context.path.strip_prefix(&*context.login.prefix).and_then(|rest| rest.strip_prefix("/login/"));
    match below {
        Some(name) => context.login.provider(Some(name)).map(Some).ok_or(Refusal::NoRoute),
        None if context.login.is_open() => Ok(None),
        None => Err(Refusal::NoRoute),
    }
}

fn sign_in_page(head: &Parts, asked_for: Option<&Provider>, context: Context<'_>) -> Answer {
    let return_to = ReturnTo::or_root(query(head, "return_to").as_deref());
    let prompt = query(head, "prompt");
    let step_up = prompt.as_deref().and_then(StepUp::parse);
    let asks_anew = step_up.is_some() || prompt.as_deref() == Some("login");
    let face = context.face;
    if let Some(session) = context.session.filter(|_| !asks_anew) {
        let content = views::signed_in(face, &context.login.prefix, shown_name(session.identity()), &return_to);
        return Answer::told(face.page(StatusCode::OK, face.say(Text::SignedIn), &content));
    }
    let hopeless = step_up == Some(StepUp::Factor) && context.session.is_some_and(|one| !can_show_factor(one, context));
    let note = match hopeless {
        true => Some(Note::NoFactor),
        false => query(head, "signed_out").map(|_| Note::SignedOut),
    };
    match (asked_for, &*context.login.providers) {
        (None, providers @ [_, _, ..]) => {
            let choice = Choice {
                face,
                prefix: &context.login.prefix,
                host: context.view.authority.host.as_str(),
                providers,
                return_to: &return_to,
                step_up: known(step_up, context),
                note,
            };
            Answer::told(face.page(StatusCode::OK, face.say(Text::SignIn), &choice.render()))
        }
        (Some(provider), _) | (None, [provider]) => {
            let (headers, return_to) = (&head.headers, &return_to);
            let form = FormPage { headers, provider, return_to, step_up, remember: false, context };
            Answer::told(form.answer(StatusCode::OK, note))
        }
        // Ruled out before: without a provider there is no page.
        (None, []) => Answer::told(page::empty(StatusCode::NOT_FOUND)),
    }
}

async fn sign_in_by_form(
    headers: &HeaderMap,
    credentials: Credentials,
    provider: &Provider,
    context: Context<'_>,
) -> Result<Answer, Refusal> {
    let return_to = ReturnTo::or_root(credentials.return_to.as_deref());
    let Credentials { step_up, remember, .. } = credentials;
    let again = FormPage { headers, provider, return_to: &return_to, step_up, remember, context };
    let (response, event) = if let Some(browser) = browser_of_own_form(headers, credentials.token.as_deref()) {
        match log_in(&credentials, provider, context).await {
            Ok(Attempted::LoggedIn(signed_in)) => {
                let mut response = see_other(&next(headers, &signed_in.session, &return_to, context));
                signed_in.add_cookies(&mut response, context);
                // The form's cookie stays: another tab may hold the form, too.
                (response, Event::LoggedIn)
            }
            Ok(Attempted::Failed) => {
                let mut response = again.answer(StatusCode::UNAUTHORIZED, Some(Note::Failed));
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge(context));
                (response, Event::LoginFailed)
            }
            Ok(Attempted::Incomplete(known, missing)) => {
                return second::ask(headers, &known, &missing, &browser, step_up, &return_to, context);
            }
            Ok(Attempted::OtherUser) => {
                (again.answer(StatusCode::FORBIDDEN, Some(Note::OtherUser)), Event::LoginFailed)
            }
            Err(Refusal::TooMany { retry_after }) => {
                let seconds = whole_seconds(retry_after);
                let mut response = again.answer(StatusCode::TOO_MANY_REQUESTS, Some(Note::Throttled(seconds)));
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                (response, Event::Throttled)
            }
            Err(refusal) => return again.unavailable(refusal),
        }
    } else {
        context.tell_form_refused();
        (again.answer(StatusCode::FORBIDDEN, Some(Note::Expired)), Event::FormRefused)
    };
    Ok(Answer { response, event })
}

async fn go_on_by_form(headers: &HeaderMap, sent: Continuation, context: Context<'_>) -> Result<Answer, Refusal> {
    let return_to = ReturnTo::or_root(sent.return_to.as_deref());
    match browser_of_own_form(headers, sent.token.as_deref()) {
        Some(browser) => {
            let form = second::Form { headers, browser: &browser, return_to: &return_to, context };
            second::go_on(form, &sent).await
        }
        None => {
            context.tell_form_refused();
            restart(headers, &return_to, None, None, Note::Expired, context)
        }
    }
}

/// The login page again, for a login that cannot go on where it was.
pub(super) fn restart(
    headers: &HeaderMap,
    return_to: &ReturnTo,
    provider: Option<&Provider>,
    step_up: Option<StepUp>,
    note: Note,
    context: Context<'_>,
) -> Result<Answer, Refusal> {
    let provider = provider.or_else(|| context.login.provider(None)).ok_or(Refusal::NoRoute)?;
    let page = FormPage { headers, provider, return_to, step_up, remember: false, context };
    let event = match note {
        Note::Expired | Note::SignedOut => Event::FormRefused,
        Note::Throttled(_) => Event::Throttled,
        Note::Failed | Note::NoFactor | Note::OtherUser | Note::TooManyCodes => Event::LoginFailed,
        Note::Unavailable(_) => Event::Told,
    };
    Ok(Answer { response: page.answer(StatusCode::FORBIDDEN, Some(note)), event })
}

/// The login page again, where it is the gateway that cannot open a session at present; else the refusal itself.
pub(super) fn again_later(
    headers: &HeaderMap,
    return_to: &ReturnTo,
    provider: &Provider,
    step_up: Option<StepUp>,
    refusal: Refusal,
    context: Context<'_>,
) -> Result<Answer, Refusal> {
    FormPage { headers, provider, return_to, step_up, remember: false, context }.unavailable(refusal)
}

/// Whether a login here could show two factors of whoever is signed in.
fn can_show_factor(session: &Session, context: Context<'_>) -> bool {
    let identity = session.identity();
    let providers = context.login.providers.iter().filter(|provider| provider.realm == *identity.realm());
    providers
        .flat_map(|provider| provider.accounts.iter())
        .any(|user| &*user.id == identity.subject() && user.second_factor)
}

async fn sign_in_by_json(
    credentials: Credentials,
    provider: &Provider,
    context: Context<'_>,
) -> Result<Answer, Refusal> {
    let return_to = ReturnTo::or_root(credentials.return_to.as_deref());
    match log_in(&credentials, provider, context).await? {
        Attempted::LoggedIn(signed_in) => {
            let mut body = describe(signed_in.session.identity(), Some(&signed_in.session), context);
            body.insert("return_to".into(), return_to.as_str().into());
            let mut response = page::json(StatusCode::OK, &Value::Object(body));
            signed_in.add_cookies(&mut response, context);
            Ok(Answer { response, event: Event::LoggedIn })
        }
        Attempted::Failed | Attempted::OtherUser => Err(Refusal::LoginFailed),
        Attempted::Incomplete(_, missing) => Err(incomplete(&missing)),
    }
}

/// What a program is told that is missing.
pub(super) const fn incomplete(missing: &Outcome<'_>) -> Refusal {
    match missing {
        // A proof is no longer incomplete.
        Outcome::CodeNeeded | Outcome::Proved(_) => Refusal::FactorRequired,
        Outcome::EnrolmentNeeded | Outcome::Missing => Refusal::FactorMissing,
        Outcome::WrongCode => Refusal::WrongCode,
    }
}

/// How an attempt went.
pub(super) enum Attempted<'a> {
    LoggedIn(SignedIn),
    Failed,
    /// The password was right, and something else is missing.
    Incomplete(Known<'a>, Outcome<'a>),
    OtherUser,
}

/// What became of a proof.
pub(super) enum Opened {
    Session(SignedIn),
    OtherUser,
}

/// Somebody who is signed in now.
pub(super) struct SignedIn {
    token: SessionToken,
    pub(super) session: Arc<Session>,
    /// How long the browser keeps the session's cookie; `None`: until it ends.
    remembered: Option<Duration>,
    /// The cookie by which this browser is known again.
    device: HeaderValue,
}

impl SignedIn {
    /// Gives the browser its session, and the cookie by which it is known again.
    pub(super) fn add_cookies(self, response: &mut Response<Bytes>, context: Context<'_>) {
        response.headers_mut().append(SET_COOKIE, cookie::set(context.sessions, &self.token, self.remembered));
        response.headers_mut().append(SET_COOKIE, self.device);
    }
}

pub(super) async fn log_in<'a>(
    credentials: &'a Credentials,
    provider: &'a Provider,
    context: Context<'a>,
) -> Result<Attempted<'a>, Refusal> {
    let claimed = || provider.accounts.find(&credentials.username).map(AsRef::as_ref);
    let kept_out = |what, why| context.tell_kept_out(what, why, provider, claimed());
    let device = Device::of(context.headers);
    let begun = context.throttle.begin(who(device.as_ref(), &credentials.username, provider, context), context.now);
    let attempt = begun.map_err(|retry_after| {
        kept_out(What::LoginThrottled, "too_many");
        Refusal::TooMany { retry_after }
    })?;
    let candidate = provider.accounts.candidate(&credentials.username);
    let Ok(checked) = context.hasher.check(candidate, credentials.password.clone()).await else {
        context.throttle.abandoned(attempt);
        kept_out(What::LoginFailed, "busy");
        return Err(Refusal::Unavailable);
    };
    let Some(user) = checked else {
        kept_out(What::LoginFailed, if claimed().is_some() { "wrong_password" } else { "unknown_user" });
        return Ok(Attempted::Failed);
    };
    if !is_allowed(provider, &user, credentials.step_up, context) {
        context.throttle.succeeded(attempt);
        return Ok(Attempted::OtherUser);
    }
    let Credentials { username, remember, .. } = credentials;
    let known = Known { provider, user, login: username, remember: *remember, attempt };
    let code = credentials.code.as_ref().map(|code| code.expose().as_str());
    match second::after_password(&known, code, context).await? {
        Outcome::Proved(proved) => Ok(match open(proved, credentials.step_up, *remember, context).await? {
            Opened::Session(signed_in) => Attempted::LoggedIn(signed_in),
            Opened::OtherUser => Attempted::OtherUser,
        }),
        missing => Ok(Attempted::Incomplete(known, missing)),
    }
}

/// Whether whoever has to prove anew who they are would be the same; told to the audit log if not.
pub(super) fn is_allowed(provider: &Provider, user: &User, step_up: Option<StepUp>, context: Context<'_>) -> bool {
    let session = context.session.filter(|_| step_up.is_some());
    let allowed = session.is_none_or(|session| StepUp::allows(session, &provider.realm, &user.id));
    if !allowed {
        context.tell_kept_out(What::LoginFailed, "other_user", provider, Some(user));
    }
    allowed
}

/// Opens a session for somebody who has proved everything that is asked of them, and ends the one that they brought.
/// `remember`: what they asked for; a step-up keeps what the session before was asked for.
pub(super) async fn open(
    proved: Proved<'_>,
    step_up: Option<StepUp>,
    remember: bool,
    context: Context<'_>,
) -> Result<Opened, Refusal> {
    let (provider, user) = (proved.provider(), proved.user());
    if !is_allowed(provider, user, step_up, context) {
        return Ok(Opened::OtherUser);
    }
    let kept_out = |what, why| context.tell_kept_out(what, why, provider, Some(user));
    let (identity, dropped_grants) =
        identity_of(provider, user, proved.factor(), context.now).map_err(|_| Refusal::IdentityTooLarge)?;
    let key = key_to_bind(context)?;
    let from = OpenedFrom { device: user_agent::device(context.headers), address: context.view.address, key };
    let remember = match context.session.filter(|_| step_up.is_some()) {
        Some(before) => before.is_remembered(),
        None => remember,
    };
    let remembered = provider.remember_me.filter(|_| remember);
    let opening = Opening { identity: Arc::new(identity), from: Some(from), remembered };
    // Whoever cannot get a new session keeps the old one.
    let replaced = context.session.map(|session| session.key());
    let opened = context.store.open(opening, replaced, context.sessions, context.now).await;
    let (token, session) = opened.map_err(|error| match error {
        OpenError::Full | OpenError::TooManyCookies => {
            kept_out(What::LoginFailed, "store_full");
            Refusal::StoreFull
        }
        OpenError::TooLarge { .. } => {
            kept_out(What::LoginFailed, "identity_too_large");
            Refusal::IdentityTooLarge
        }
        OpenError::Unavailable => {
            kept_out(What::LoginFailed, "not_written");
            Refusal::NotWritten
        }
    })?;
    context.tell_login(provider, &session, dropped_grants);
    let device = context.devices.remember(Device::of(context.headers), &provider.realm, &user.id, context.now);
    let device = set_cookie(&context.login.prefix, &device);
    Ok(Opened::Session(SignedIn { token, session, remembered, device }))
}

/// The key that a session which is opened here is tied to, if sessions are.
///
/// # Errors
/// [`Refusal::CertificateNeeded`]: there is none. Asked before any password is.
pub(super) fn key_to_bind(context: Context<'_>) -> Result<Option<Box<[u8; 32]>>, Refusal> {
    match context.sessions.bind {
        Bind::None => Ok(None),
        Bind::Mtls => {
            let key = context.certificate.and_then(|certificate| certificate.key());
            key.map(|key| Some(Box::new(*key))).ok_or(Refusal::CertificateNeeded { known: false })
        }
    }
}

/// Who tries: names that nobody has take the same work.
pub(super) fn who<'a>(
    device: Option<&'a Device>,
    login: &'a str,
    provider: &'a Provider,
    context: Context<'_>,
) -> Who<'a> {
    let known = |device: &&Device| {
        let user = provider.accounts.find(login);
        let subject = user.map_or(login, |user| &user.id);
        context.devices.knows(device, &provider.realm, subject, context.now) && user.is_some()
    };
    Who {
        address: context.view.address,
        provider: &provider.name,
        login,
        device: device.filter(known).map(|device| &device.id()[..]),
    }
}

/// A provider's login page, with the cookie that makes its form count in this browser. A browser keeps its cookie from
/// page to page, so that several tabs can be open. What the form carries is a hash of it.
struct FormPage<'a> {
    headers: &'a HeaderMap,
    provider: &'a Provider,
    return_to: &'a ReturnTo,
    step_up: Option<StepUp>,
    /// Whether the box was ticked already.
    remember: bool,
    context: Context<'a>,
}

impl FormPage<'_> {
    fn answer(&self, status: StatusCode, note: Option<Note>) -> Response<Bytes> {
        let context = self.context;
        let browser = form_cookie(self.headers).unwrap_or_else(SessionToken::generate);
        let sign_in = SignIn {
            face: context.face,
            prefix: &context.login.prefix,
            host: context.view.authority.host.as_str(),
            provider: self.provider,
            choice: context.login.providers.len() > 1,
            token: &browser.key().to_string(),
            return_to: self.return_to,
            step_up: known(self.step_up, context),
            remember: self.remember,
            note,
        };
        let mut response = context.face.page_leading_on(status, &sign_in.title(), &sign_in.render());
        response.headers_mut().append(SET_COOKIE, form_cookie_value(&browser));
        response
    }

    /// The page again, to try once more, where it is the gateway that cannot at present; else the refusal itself.
    fn unavailable(&self, refusal: Refusal) -> Result<Answer, Refusal> {
        let Some(text) = refusal.passes() else { return Err(refusal) };
        let mut response = self.answer(refusal.status(), Some(Note::Unavailable(text)));
        response.headers_mut().insert(RETRY_AFTER, Refusal::RETRY_AFTER);
        Ok(Answer { response, event: Event::Unavailable(refusal) })
    }
}

/// Why somebody who is signed in has to prove it anew, and who that is.
fn known(step_up: Option<StepUp>, context: Context<'_>) -> Option<(StepUp, &str)> {
    step_up.zip(context.session).map(|(step_up, session)| (step_up, shown_name(session.identity())))
}

/// For `Retry-After` and people: no less than it takes.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The browser that a form was given to; `None`: it came from elsewhere.
fn browser_of_own_form(headers: &HeaderMap, token: Option<&str>) -> Option<SessionToken> {
    let (browser, token) = (form_cookie(headers)?, token?);
    secret::constant_time_eq(browser.key().to_string().as_bytes(), token.as_bytes()).then_some(browser)
}

/// Whether a form has the token that this browser was given.
pub(super) fn is_own_form(headers: &HeaderMap, token: Option<&str>) -> bool {
    browser_of_own_form(headers, token).is_some()
}

/// `Set-Cookie` with what ties forms to this browser.
pub(super) fn form_cookie_value(browser: &SessionToken) -> HeaderValue {
    cookie::value(FORM_COOKIE, browser.expose(), "; Max-Age=3600", SameSite::Lax)
}

/// What ties forms to this browser.
pub(super) fn form_cookie(headers: &HeaderMap) -> Option<SessionToken> {
    match cookie::find(headers, FORM_COOKIE) {
        cookie::Presented::One(value) => SessionToken::parse(value),
        cookie::Presented::Absent | cookie::Presented::Several => None,
    }
}

/// HTTP asks for a challenge with every 401 (RFC 9110 section 15.5.2), and has no registered scheme for a form. This is
/// the one that was proposed for it (draft-broyer-http-cookie-auth); browsers show the page and ignore it.
pub(super) fn challenge(context: Context<'_>) -> HeaderValue {
    let (prefix, name) = (&context.login.prefix, &context.sessions.cookie);
    let text = format!("Cookie form-action=\"{prefix}/login\", cookie-name=\"{name}\"");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Cookie"))
}
