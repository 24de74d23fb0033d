//! What people see: the choice of providers, the login form, who is signed in, and the question before logging out.
//!
//! In: checked values only, and the face of our pages, which has every word. Out: markup, escaped by maud. Nothing that
//! a client sent is shown but the path to return to, in links and hidden fields (R33): not even the name that was
//! typed.
//!
//! For all readers: labels, headings and landmarks are real ones; a problem is an alert, part of the window's title and
//! the description of the field that has the focus; nothing needs a script.

use maud::{Markup, html};

use super::{Provider, form::REMEMBER, return_to::ReturnTo, stash::Shown, step_up::StepUp};
use crate::page::{Face, Text};

/// The login form of one provider.
pub(super) struct SignIn<'a> {
    pub(super) face: Face<'a>,
    pub(super) prefix: &'a str,
    pub(super) host: &'a str,
    pub(super) provider: &'a Provider,
    /// Whether there are other providers.
    pub(super) choice: bool,
    pub(super) token: &'a str,
    pub(super) return_to: &'a ReturnTo,
    /// Why somebody who is signed in has to prove it anew, and who that is.
    pub(super) step_up: Option<(StepUp, &'a str)>,
    /// Whether the box was ticked already.
    pub(super) remember: bool,
    pub(super) note: Option<Note>,
}

/// Where people choose how to log in.
pub(super) struct Choice<'a> {
    pub(super) face: Face<'a>,
    pub(super) prefix: &'a str,
    pub(super) host: &'a str,
    pub(super) providers: &'a [Provider],
    pub(super) return_to: &'a ReturnTo,
    /// As for [`SignIn`].
    pub(super) step_up: Option<(StepUp, &'a str)>,
    pub(super) note: Option<Note>,
}

/// What is said above the form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Note {
    /// The form's token has expired, or is not of this browser.
    Expired,
    /// Wrong user name or password.
    Failed,
    /// Not whoever is signed in.
    OtherUser,
    /// Whoever is asked for a second factor has none.
    NoFactor,
    /// Logged out a moment ago.
    SignedOut,
    /// Too many wrong codes: the password is asked for again.
    TooManyCodes,
    /// Too many attempts; try again in so many seconds.
    Throttled(u64),
    /// It cannot be done at present, says the text; nothing has changed.
    Unavailable(Text),
}

impl SignIn<'_> {
    /// The window's title: a problem first, so that a screen reader says it before anything else.
    pub(super) fn title(&self) -> String {
        let title = self.face.say(Text::SignIn);
        match self.problem() {
            Some(_) => format!("{}: {title}", self.face.say(Text::Problem)),
            None => title.to_owned(),
        }
    }

    pub(super) fn render(&self) -> Markup {
        let face = self.face;
        let provider = if self.choice { format!("/{}", self.provider.name) } else { String::new() };
        html! {
            (heading(face, self.host, self.step_up))
            (notice(face, self.note))
            form method="post" action={ (self.prefix) "/login" (provider) } {
                input type="hidden" name="token" value=(self.token);
                input type="hidden" name="return_to" value=(self.return_to.as_str());
                @if let Some((why, _)) = self.step_up {
                    input type="hidden" name="prompt" value=(why.as_str());
                }
                @if self.choice { p.lead { strong { (self.provider.shown()) } } }
                label for="username" { (face.say(Text::Username)) }
                input #username name="username" type="text" required autofocus maxlength="320"
                    autocomplete="username" autocapitalize="none" autocorrect="off" spellcheck="false" dir="ltr"
                    aria-invalid=[self.invalid()] aria-describedby=[self.problem()];
                label for="password" { (face.say(Text::Password)) }
                input #password name="password" type="password" required autocomplete="current-password" dir="ltr"
                    aria-invalid=[self.invalid()] aria-describedby=[self.problem()];
                // A step-up keeps what was chosen before.
                @if self.provider.remember_me.is_some() && self.step_up.is_none() {
                    label.tick for="remember" {
                        input #remember name="remember" type="checkbox" value=(REMEMBER) checked[self.remember];
                        (face.say(Text::RememberMe))
                    }
                }
                button type="submit" { (face.say(Text::SignIn)) }
            }
            @if self.step_up.is_some() {
                (other_account(face, self.prefix, self.return_to))
            }
            @if self.choice {
                p.fine { a href=(way(self.prefix, "", self.step_up, self.return_to)) { (face.say(Text::OtherWay)) } }
            }
        }
    }

    fn problem(&self) -> Option<&'static str> {
        match self.note {
            Some(
                Note::Expired
                | Note::Failed
                | Note::NoFactor
                | Note::OtherUser
                | Note::Throttled(_)
                | Note::TooManyCodes
                | Note::Unavailable(_),
            ) => Some("problem"),
            Some(Note::SignedOut) | None => None,
        }
    }

    fn invalid(&self) -> Option<&'static str> {
        (self.note == Some(Note::Failed)).then_some("true")
    }
}

impl Choice<'_> {
    /// Links and no buttons: a provider elsewhere will be a way, not a form of ours.
    pub(super) fn render(&self) -> Markup {
        let face = self.face;
        html! {
            (heading(face, self.host, self.step_up))
            (notice(face, self.note))
            h2 #choice { (face.say(Text::ChooseAccount)) }
            ul.choice aria-labelledby="choice" {
                @for provider in self.providers {
                    li {
                        a.button.quiet
                            href=(way(self.prefix, &format!("/{}", provider.name), self.step_up, self.return_to))
                        {
                            (face.fill(Text::SignInWith, &html! { (provider.shown()) }))
                        }
                    }
                }
            }
            @if self.step_up.is_some() {
                (other_account(face, self.prefix, self.return_to))
            }
        }
    }
}

fn heading(face: Face<'_>, host: &str, step_up: Option<(StepUp, &str)>) -> Markup {
    html! {
        @match step_up {
            Some((why, who)) => {
                h1 { (face.say(Text::StillYou)) }
                p.lead {
                    (face.fill(Text::YouAreSignedInAs, &html! { strong { (who) } })) " "
                    (face.say(match why {
                        StepUp::Again => Text::AskedAgain,
                        StepUp::Factor => Text::AskedFactor,
                    }))
                }
            }
            None => {
                h1 { (face.say(Text::SignIn)) }
                p.lead { (face.fill(Text::SignInTo, &html! { (face.site(host)) })) }
            }
        }
    }
}

fn notice(face: Face<'_>, note: Option<Note>) -> Markup {
    let alert = |text: &Markup| html! { p.alert #problem role="alert" { (text) } };
    match note {
        Some(Note::Expired) => alert(&html! { (face.say(Text::FormExpired)) }),
        Some(Note::Failed) => alert(&html! { (face.say(Text::Failed)) }),
        Some(Note::OtherUser) => alert(&html! { (face.say(Text::OtherUser)) }),
        Some(Note::NoFactor) => alert(&html! { (face.say(Text::NoFactorToShow)) }),
        Some(Note::TooManyCodes) => alert(&html! { (face.say(Text::TooManyCodes)) }),
        Some(Note::Throttled(seconds)) => alert(&face.fill(Text::Throttled, &html! { (seconds) })),
        Some(Note::Unavailable(text)) => alert(&html! { (face.say(text)) }),
        Some(Note::SignedOut) => html! { p.note role="status" { (face.say(Text::SignedOutNow)) } },
        None => html! {},
    }
}

fn other_account(face: Face<'_>, prefix: &str, return_to: &ReturnTo) -> Markup {
    html! { a.button.quiet href=(way(prefix, "", None, return_to)) { (face.say(Text::OtherAccount)) } }
}

/// A way to a login page that asks whoever is signed in, too.
fn way(prefix: &str, provider: &str, step_up: Option<(StepUp, &str)>, return_to: &ReturnTo) -> String {
    let prompt = step_up.map_or("login", |(why, _)| why.as_str());
    format!("{prefix}/login{provider}?prompt={prompt}&return_to={}", return_to.encoded())
}

/// For somebody who is signed in already.
pub(super) fn signed_in(face: Face<'_>, prefix: &str, who: &str, return_to: &ReturnTo) -> Markup {
    html! {
        h1 { (face.say(Text::SignedIn)) }
        p.lead { (face.fill(Text::SignedInAs, &html! { strong { (who) } })) }
        a.button href=(return_to.as_str()) { (face.say(Text::Continue)) }
        (other_account(face, prefix, return_to))
        p.fine { a href={ (prefix) "/logout" } { (face.say(Text::SignOut)) } }
    }
}

/// The question before a form is sent that came too late. The person sees what they filled in; what is long is cut
/// there, never in what is sent.
pub(super) fn resend(face: Face<'_>, prefix: &str, shown: &Shown, return_to: &ReturnTo) -> Markup {
    let fields = shown.fields();
    html! {
        h1 { (face.say(Text::ResendQuestion)) }
        p { (face.fill(Text::ResendWhy, &html! { code { (shown.target.as_str()) } })) }
        form method="post" action={ (prefix) "/resend" } {
            @for (name, value) in &fields {
                input type="hidden" name=(name) value=(value);
            }
            button type="submit" { (face.say(Text::ResendNow)) }
        }
        form method="post" action={ (prefix) "/resend?discard&return_to=" (return_to.encoded()) } {
            button.quiet type="submit" { (face.say(Text::ResendNot)) }
        }
        @if !fields.is_empty() {
            h2 { (face.say(Text::ResendFields)) }
            dl {
                @for (name, value) in fields.iter().take(SHOWN_FIELDS) {
                    dt { (cut(name)) }
                    dd { (cut(value)) }
                }
            }
            @if fields.len() > SHOWN_FIELDS { p { "\u{2026}" } }
        }
    }
}

/// For whoever comes to send a form that is not there.
pub(super) fn nothing_to_resend(face: Face<'_>, return_to: &ReturnTo) -> Markup {
    html! {
        h1 { (face.say(Text::NothingToResend)) }
        p { (face.say(Text::NothingToResendWhy)) }
        a.button href=(return_to.as_str()) { (face.say(Text::Continue)) }
    }
}

fn cut(text: &str) -> String {
    if text.chars().nth(SHOWN_CHARS).is_none() {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS).chain(['\u{2026}']).collect()
}

/// How much of a form is shown.
const SHOWN_FIELDS: usize = 40;
const SHOWN_CHARS: usize = 200;

/// The question before logging out: a link alone, which any page can make a browser follow, logs nobody out.
pub(super) fn sign_out(face: Face<'_>, prefix: &str, who: Option<&str>, return_to: Option<&ReturnTo>) -> Markup {
    html! {
        h1 { (face.say(Text::SignOutQuestion)) }
        @match who {
            Some(who) => p.lead { (face.fill(Text::YouAreSignedInAs, &html! { strong { (who) } })) },
            None => p.lead { (face.say(Text::NotSignedIn)) },
        }
        form method="post" action={ (prefix) "/logout" } {
            @if let Some(return_to) = return_to {
                input type="hidden" name="return_to" value=(return_to.as_str());
            }
            button type="submit" { (face.say(Text::SignOut)) }
        }
        a.button.quiet href=(return_to.unwrap_or(&ReturnTo::ROOT).as_str()) { (face.say(Text::Cancel)) }
    }
}
