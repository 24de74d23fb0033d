//! What people see: the login form, who is signed in, and the question before logging out.
//!
//! In: checked values only. Out: markup for [`crate::page`], escaped by maud. Nothing that a client sent is shown but
//! the path to return to, in links and hidden fields (R33): not even the name that was typed.

use maud::{Markup, html};

use super::{Provider, return_to::ReturnTo, step_up::StepUp};
use crate::page::emblem;

/// The login form.
pub(super) struct SignIn<'a> {
    pub(super) prefix: &'a str,
    pub(super) host: &'a str,
    pub(super) providers: &'a [Provider],
    pub(super) token: &'a str,
    pub(super) return_to: &'a ReturnTo,
    /// Why somebody who is signed in has to prove it anew, and who that is.
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
    /// Logged out a moment ago.
    SignedOut,
}

impl SignIn<'_> {
    pub(super) fn render(&self) -> Markup {
        html! {
            (emblem())
            @match self.step_up {
                Some((why, who)) => {
                    h1 { "Is it still you?" }
                    p.lead { "You are signed in as " strong { (who) } ". " (reason(why)) }
                }
                None => {
                    h1 { "Sign in" }
                    p.lead { "to " (self.host) }
                }
            }
            @match self.note {
                Some(Note::Expired) => p.alert role="alert" { "This page had expired. Please sign in again." }
                Some(Note::Failed) => p.alert #problem role="alert" { "The user name or the password is wrong." }
                Some(Note::OtherUser) => p.alert #problem role="alert" {
                    "That was somebody else. To go on, sign in as the same person, or use another account below."
                }
                Some(Note::SignedOut) => p.note role="status" { "You have signed out." }
                None => {}
            }
            form method="post" action={ (self.prefix) "/login" } {
                input type="hidden" name="token" value=(self.token);
                input type="hidden" name="return_to" value=(self.return_to.as_str());
                @if let Some((why, _)) = self.step_up {
                    input type="hidden" name="prompt" value=(why.as_str());
                }
                @if self.providers.len() > 1 {
                    label for="provider" { "Account of" }
                    select #provider name="provider" {
                        @for provider in self.providers {
                            option value=(provider.name) { (provider.name) }
                        }
                    }
                }
                label for="username" { "User name or email" }
                input #username name="username" type="text" required autofocus maxlength="320"
                    autocomplete="username" autocapitalize="none" autocorrect="off" spellcheck="false"
                    aria-describedby=[self.problem()];
                label for="password" { "Password" }
                input #password name="password" type="password" required autocomplete="current-password"
                    aria-describedby=[self.problem()];
                button type="submit" { "Sign in" }
            }
            @if self.step_up.is_some() {
                (other_account(self.prefix, self.return_to))
            }
        }
    }

    fn problem(&self) -> Option<&'static str> {
        matches!(self.note, Some(Note::Failed | Note::OtherUser)).then_some("problem")
    }
}

fn reason(step_up: StepUp) -> &'static str {
    match step_up {
        StepUp::Again => "This page asks for a fresh sign-in.",
        StepUp::Factor => "This page asks for your second factor.",
    }
}

fn other_account(prefix: &str, return_to: &ReturnTo) -> Markup {
    html! {
        a.button.quiet href={ (prefix) "/login?prompt=login&return_to=" (return_to.encoded()) } {
            "Use another account"
        }
    }
}

/// For somebody who is signed in already.
pub(super) fn signed_in(prefix: &str, who: &str, return_to: &ReturnTo) -> Markup {
    html! {
        (emblem())
        h1 { "You are signed in" }
        p.lead { "as " strong { (who) } }
        a.button href=(return_to.as_str()) { "Continue" }
        (other_account(prefix, return_to))
        p.fine { a href={ (prefix) "/logout" } { "Sign out" } }
    }
}

/// The question before logging out: a link alone, which any page can make a browser follow, logs nobody out.
pub(super) fn sign_out(prefix: &str, who: Option<&str>, return_to: Option<&ReturnTo>) -> Markup {
    html! {
        (emblem())
        h1 { "Sign out?" }
        @match who {
            Some(who) => p.lead { "You are signed in as " strong { (who) } "." },
            None => p.lead { "You are not signed in." },
        }
        form method="post" action={ (prefix) "/logout" } {
            @if let Some(return_to) = return_to {
                input type="hidden" name="return_to" value=(return_to.as_str());
            }
            button type="submit" { "Sign out" }
        }
        a.button.quiet href=(return_to.unwrap_or(&ReturnTo::ROOT).as_str()) { "Cancel" }
    }
}
