//! The second factor: what is asked for between the password and the session.
//!
//! [`after_password`] is the one way from a right password to a [`Proved`], and a session or token asks for one;
//! nothing else makes one. In: a user whose password was right, and a code if there is one. Out: the proof, or what is
//! missing. Programs send password and code together; people are asked on a page of their own, or enrol there.
//! Invariants: until both are right there is no session and the password's success is not told to the throttle; what a
//! user is asked for is decided after the password only, so that a wrong one is answered alike for everybody; a user
//! whose secret is missing is refused and enrols with an invitation only.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{RETRY_AFTER, WWW_AUTHENTICATE},
};

use self::{
    pending::{Pending, Stage, Waiting},
    views::Page,
};
use super::{
    Answer, Context, Event, Provider,
    device::Device,
    form::Continuation,
    resend::next,
    return_to::ReturnTo,
    see_other,
    sign_in::{self, Opened, SignedIn},
    step_up::StepUp,
    throttle::Attempt,
    views::Note,
};
use crate::{
    accounts::User,
    factor::{
        Accepted, Account, CheckError, EnrolError, Factors, Standing,
        totp::{Key, Match},
    },
    identity::Factor,
    refusal::Refusal,
    session::SessionToken,
    telemetry::audit::What,
};

pub(super) mod pending;
mod views;

/// What second factors need that outlives every snapshot.
#[derive(Debug)]
pub struct Second {
    /// Everybody's.
    pub factors: Factors,
    /// Logins between the password and the code.
    pub pending: Pending,
}

impl Second {
    /// With nobody waiting.
    pub fn new(factors: Factors) -> Self {
        Self { factors, pending: Pending::default() }
    }
}

/// Proof that somebody may have a session or a token: password, and code where the user has a second factor.
pub(super) struct Proved<'a> {
    provider: &'a Provider,
    user: Arc<User>,
    factor: Factor,
}

impl<'a> Proved<'a> {
    pub(super) const fn provider(&self) -> &'a Provider {
        self.provider
    }

    pub(super) fn user(&self) -> &User {
        &self.user
    }

    pub(super) const fn factor(&self) -> Factor {
        self.factor
    }
}

/// Somebody whose password was right.
pub(super) struct Known<'a> {
    pub(super) provider: &'a Provider,
    pub(super) user: Arc<User>,
    /// What was typed as a name.
    pub(super) login: &'a str,
    /// Whether they want to be remembered.
    pub(super) remember: bool,
    /// Booked as a failure until it is told otherwise.
    pub(super) attempt: Attempt,
}

/// What comes after the password.
pub(super) enum Outcome<'a> {
    /// Nothing more.
    Proved(Proved<'a>),
    /// A code of the app.
    CodeNeeded,
    /// The code of an invitation, and then an app.
    EnrolmentNeeded,
    /// The user has to have a factor, has none, and nobody invited them.
    Missing,
    /// A code that was sent along, and is wrong or used.
    WrongCode,
}

/// From the password to a proof. `code`: what a program sent along.
pub(super) async fn after_password<'a>(
    known: &Known<'a>,
    code: Option<&str>,
    context: Context<'_>,
) -> Result<Outcome<'a>, Refusal> {
    let Known { provider, user, attempt, .. } = known;
    let proved = |factor| Outcome::Proved(Proved { provider, user: Arc::clone(user), factor });
    if !user.second_factor {
        context.throttle.succeeded(*attempt);
        return Ok(proved(Factor::One));
    }
    let account = account(provider, user);
    let standing = standing(provider, user, &account, context).await.inspect_err(|_| {
        context.throttle.abandoned(*attempt);
    })?;
    let missing = match standing {
        Standing::Enrolled => match code {
            Some(code) => {
                let judged = judge(&account, code, *attempt, provider, user, context).await?;
                return Ok(judged.map_or(Outcome::WrongCode, |_| proved(Factor::Two)));
            }
            None => Outcome::CodeNeeded,
        },
        Standing::Invited(_) => Outcome::EnrolmentNeeded,
        Standing::Missing => {
            context.tell_kept_out(What::LoginFailed, "factor_missing", provider, Some(user));
            Outcome::Missing
        }
    };
    // Neither a failure nor, without the code, a success.
    context.throttle.abandoned(*attempt);
    Ok(missing)
}

/// The page that asks for what [`after_password`] misses.
pub(super) fn ask(
    headers: &HeaderMap,
    known: &Known<'_>,
    missing: &Outcome<'_>,
    browser: &SessionToken,
    step_up: Option<StepUp>,
    return_to: &ReturnTo,
    context: Context<'_>,
) -> Result<Answer, Refusal> {
    let stage = match missing {
        Outcome::EnrolmentNeeded => Stage::Invitation,
        Outcome::Missing => {
            let response = views::missing(context, return_to);
            return Ok(Answer { response, event: Event::LoginFailed });
        }
        Outcome::CodeNeeded | Outcome::Proved(_) | Outcome::WrongCode => Stage::Code,
    };
    let waiting = Waiting::new(known, step_up, stage, browser.key());
    let form = Form { headers, browser, return_to, context };
    form.wait(waiting).map(Answer::told)
}

/// Goes on with a login that waits, by the form of its page.
pub(super) async fn go_on(form: Form<'_>, sent: &Continuation) -> Result<Answer, Refusal> {
    let Form { browser, return_to, context, .. } = form;
    let id = SessionToken::parse(sent.pending.as_bytes());
    let taken = id.as_ref().and_then(|id| context.second.pending.take(id, &browser.key(), context.now));
    let (Some(id), Some(waiting)) = (id, taken) else {
        return form.restart(None, None, Note::Expired);
    };
    let (step_up, remember) = (waiting.step_up, waiting.remember);
    // A reload may have changed or removed the user, or the password that was right (R29).
    let provider = context.login.provider(Some(&waiting.provider));
    let unchanged = |user: &&Arc<User>| user.id == waiting.user.id && user.keeps(&waiting.user.proof());
    let user = provider.and_then(|provider| provider.accounts.find(&waiting.user.name).filter(unchanged));
    let (Some(provider), Some(user)) = (provider, user) else {
        return form.restart(None, step_up, Note::Expired);
    };
    let restart = |note| form.restart(Some(provider), step_up, note);
    let device = Device::of(context.headers);
    let who = sign_in::who(device.as_ref(), &waiting.login, provider, context);
    let attempt = match context.throttle.begin(who, context.now) {
        Ok(attempt) => attempt,
        Err(retry_after) => {
            context.tell_kept_out(What::LoginThrottled, "too_many", provider, Some(user));
            return Ok(form.later(&id, waiting, retry_after));
        }
    };
    let code = sent.code.expose();
    let account = account(provider, user);
    let proved = || Proved { provider, user: Arc::clone(user), factor: Factor::Two };
    let wrong = |waiting: Waiting| match form.wrong(&id, waiting) {
        Some(response) => Ok(Answer { response, event: Event::LoginFailed }),
        None => restart(Note::TooManyCodes),
    };
    match &waiting.stage {
        Stage::Code => {
            let judged = judge(&account, code, attempt, provider, user, context).await;
            let accepted = match judged {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return wrong(waiting),
                Err(Refusal::TooMany { retry_after }) => return Ok(form.later(&id, waiting, retry_after)),
                Err(refusal) => return form.unavailable(&id, waiting, refusal),
            };
            let left = match accepted {
                Accepted::Totp => None,
                Accepted::Recovery { left } => Some(left),
            };
            match sign_in::open(proved(), step_up, remember, context).await {
                // The code is used up, so one begins with the password again.
                Err(refusal) => form.cannot_open(provider, step_up, refusal),
                Ok(Opened::OtherUser) => restart(Note::OtherUser),
                Ok(Opened::Session(signed_in)) => {
                    let onward = form.onward(&signed_in);
                    let response = match left {
                        None => see_other(onward.as_str()),
                        Some(left) => views::recovered(context, left, &onward),
                    };
                    Ok(form.signed_in(response, signed_in))
                }
            }
        }
        Stage::Invitation => {
            context.throttle.abandoned(attempt);
            match standing(provider, user, &account, context).await {
                Ok(Standing::Invited(invitation)) if invitation.admits(&account, code) => {
                    let stage = Stage::Enrolment { key: Key::generate(), invited: invitation.issued };
                    form.wait(waiting.at(stage)).map(Answer::told)
                }
                Ok(Standing::Invited(_) | Standing::Missing) => {
                    context.tell_kept_out(What::LoginFailed, "wrong_invitation", provider, Some(user));
                    wrong(waiting)
                }
                // Enrolled in another window meanwhile.
                Ok(Standing::Enrolled) => restart(Note::Expired),
                Err(refusal) => form.unavailable(&id, waiting, refusal),
            }
        }
        Stage::Enrolment { key, invited } => {
            context.throttle.abandoned(attempt);
            let Match::Fresh(first) = key.check(&digits(code), None, context.now) else {
                return wrong(waiting);
            };
            if !sign_in::is_allowed(provider, user, step_up, context) {
                return restart(Note::OtherUser);
            }
            // No earlier than the invitation, which is used up by it.
            let since = context.now.max(*invited);
            let codes = match context.second.factors.enrol(&account, key.clone(), first, since).await {
                Ok(codes) => codes,
                Err(EnrolError::AlreadyEnrolled) => return restart(Note::Expired),
                Err(EnrolError::Unavailable) => return form.unavailable(&id, waiting, Refusal::NotWritten),
            };
            context.tell_factor(What::FactorEnrolled, provider, user, &[]);
            match sign_in::open(proved(), step_up, remember, context).await {
                Ok(Opened::Session(signed_in)) => {
                    let page = views::recovery_codes(context, &codes, &form.onward(&signed_in));
                    Ok(form.signed_in(page, signed_in))
                }
                // The codes are shown all the same: they are not shown again.
                Ok(Opened::OtherUser) | Err(_) => Ok(Answer::told(views::recovery_codes(context, &codes, return_to))),
            }
        }
    }
}

/// Judges a code, and tells throttle and audit log. `None`: it is wrong or used.
async fn judge(
    account: &Account,
    code: &str,
    attempt: Attempt,
    provider: &Provider,
    user: &User,
    context: Context<'_>,
) -> Result<Option<Accepted>, Refusal> {
    let kept_out = |what, why| context.tell_kept_out(what, why, provider, Some(user));
    match context.second.factors.check(account, code, context.now).await {
        Ok(accepted) => {
            context.throttle.succeeded(attempt);
            if let Accepted::Recovery { left } = accepted {
                context.tell_factor(What::RecoveryCodeUsed, provider, user, &[("left", left.into())]);
            }
            Ok(Some(accepted))
        }
        Err(CheckError::Wrong | CheckError::NotEnrolled) => {
            kept_out(What::LoginFailed, "wrong_code");
            Ok(None)
        }
        Err(CheckError::Used) => {
            kept_out(What::LoginFailed, "used_code");
            Ok(None)
        }
        Err(CheckError::TooMany { retry_after }) => {
            context.throttle.abandoned(attempt);
            kept_out(What::LoginThrottled, "too_many_codes");
            Err(Refusal::TooMany { retry_after })
        }
        Err(CheckError::Unavailable) => {
            context.throttle.abandoned(attempt);
            kept_out(What::LoginFailed, "not_written");
            Err(Refusal::NotWritten)
        }
    }
}

async fn standing(
    provider: &Provider,
    user: &User,
    account: &Account,
    context: Context<'_>,
) -> Result<Standing, Refusal> {
    let (standing, reset) =
        context.second.factors.standing(account, context.now).await.map_err(|_| Refusal::NotWritten)?;
    if reset {
        context.tell_factor(What::FactorReset, provider, user, &[]);
    }
    Ok(standing)
}

fn account(provider: &Provider, user: &User) -> Account {
    Account::new(&provider.realm, &user.id)
}

fn digits(typed: &str) -> String {
    typed.chars().filter(|letter| !letter.is_whitespace()).take(16).collect()
}

/// What every page on the way has in common.
#[derive(Clone, Copy)]
pub(super) struct Form<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) browser: &'a SessionToken,
    pub(super) return_to: &'a ReturnTo,
    pub(super) context: Context<'a>,
}

impl Form<'_> {
    /// Lets a login wait, and asks for what it waits for.
    fn wait(&self, waiting: Waiting) -> Result<Response<Bytes>, Refusal> {
        let page = self.page(&waiting);
        let id = self.context.second.pending.begin(waiting, self.context.now).ok_or(Refusal::StoreFull)?;
        Ok(page.render(self, &id, None, StatusCode::OK))
    }

    /// The same page again, after a wrong code; `None` after the last try.
    fn wrong(&self, id: &SessionToken, waiting: Waiting) -> Option<Response<Bytes>> {
        let page = self.page(&waiting);
        self.context.second.pending.put_back_wrong(id, waiting)?;
        let mut response = page.render(self, id, Some(views::Note::Wrong), StatusCode::UNAUTHORIZED);
        response.headers_mut().insert(WWW_AUTHENTICATE, sign_in::challenge(self.context));
        Some(response)
    }

    /// The same page again, for later: the code was not looked at.
    fn later(&self, id: &SessionToken, waiting: Waiting, retry_after: Duration) -> Answer {
        let page = self.page(&waiting);
        self.context.second.pending.put_back(id, waiting);
        let seconds = sign_in::whole_seconds(retry_after);
        let status = StatusCode::TOO_MANY_REQUESTS;
        let mut response = page.render(self, id, Some(views::Note::Throttled(seconds)), status);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        Answer { response, event: Event::Throttled }
    }

    /// The same page again, where it is the gateway that cannot at present; else the refusal itself.
    fn unavailable(&self, id: &SessionToken, waiting: Waiting, refusal: Refusal) -> Result<Answer, Refusal> {
        let page = self.page(&waiting);
        self.context.second.pending.put_back(id, waiting);
        let Some(text) = refusal.passes() else { return Err(refusal) };
        let mut response = page.render(self, id, Some(views::Note::Unavailable(text)), refusal.status());
        response.headers_mut().insert(RETRY_AFTER, Refusal::RETRY_AFTER);
        Ok(Answer { response, event: Event::Unavailable(refusal) })
    }

    /// The login page again, where it is the gateway that cannot at present; else the refusal itself.
    fn cannot_open(&self, provider: &Provider, step_up: Option<StepUp>, refusal: Refusal) -> Result<Answer, Refusal> {
        sign_in::again_later(self.headers, self.return_to, provider, step_up, refusal, self.context)
    }

    /// The login page again.
    fn restart(&self, provider: Option<&Provider>, step_up: Option<StepUp>, note: Note) -> Result<Answer, Refusal> {
        sign_in::restart(self.headers, self.return_to, provider, step_up, note, self.context)
    }

    /// Where it goes on from here: to a form that came too late, if one waits.
    fn onward(&self, signed_in: &SignedIn) -> ReturnTo {
        ReturnTo::or_root(Some(&next(self.headers, &signed_in.session, self.return_to, self.context)))
    }

    /// Adds the new session's cookie, and the one by which the browser is known again.
    fn signed_in(&self, mut response: Response<Bytes>, signed_in: SignedIn) -> Answer {
        signed_in.add_cookies(&mut response, self.context);
        Answer { response, event: Event::LoggedIn }
    }

    fn page(&self, waiting: &Waiting) -> Page {
        Page::of(waiting, self.context.face.site(self.context.view.authority.host.as_str()))
    }
}
