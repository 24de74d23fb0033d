//! What people see of their second factor: the page that asks for a code, enrolment with its QR code, recovery codes.
//!
//! In: checked values only. Out: whole answers. A QR code is one SVG path that is drawn here: no script, no style
//! attribute, nothing from elsewhere. Nothing that was typed is shown (R33).

use bytes::Bytes;
use http::{Response, StatusCode};
use maud::{Markup, html};
use qrcodegen::{QrCode, QrCodeEcc};
use zeroize::Zeroizing;

use super::{
    super::{Context, return_to::ReturnTo},
    Form,
    pending::{Stage, Waiting},
};
use crate::{
    factor::RecoveryCodes,
    page::{Face, Text},
    session::SessionToken,
};

/// What is said above the form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Note {
    /// Nothing was looked at; try again in so many seconds.
    Throttled(u64),
    /// It cannot be done at present, says the text; the code was not used up.
    Unavailable(Text),
    /// The code was wrong, or used before.
    Wrong,
}

/// A page that asks for a code.
pub(super) enum Page {
    /// Of the app.
    Code,
    /// Of an invitation.
    Invitation,
    /// The first one of a new key.
    Enrolment {
        /// As people type it.
        key: Zeroizing<String>,
        /// As apps read it.
        address: Zeroizing<String>,
    },
}

impl Page {
    /// `site`: what the app calls us.
    pub(super) fn of(waiting: &Waiting, site: &str) -> Self {
        match &waiting.stage {
            Stage::Code => Self::Code,
            Stage::Invitation => Self::Invitation,
            Stage::Enrolment { key, .. } => {
                Self::Enrolment { key: key.text(), address: key.address(site, &waiting.user.name) }
            }
        }
    }

    pub(super) fn render(
        &self,
        form: &Form<'_>,
        id: &SessionToken,
        note: Option<Note>,
        status: StatusCode,
    ) -> Response<Bytes> {
        let Form { browser, return_to, context, .. } = form;
        let face = context.face;
        let prefix = &context.login.prefix;
        let (title, lead, button) = match self {
            Self::Code => (Text::CodeTitle, Text::CodeLead, Text::SignIn),
            Self::Invitation => (Text::EnrolTitle, Text::InvitationLead, Text::Continue),
            Self::Enrolment { .. } => (Text::EnrolTitle, Text::EnrolLead, Text::EnrolButton),
        };
        let content = html! {
            h1 { (face.say(title)) }
            p.lead { (face.say(lead)) }
            @if let Some(note) = note { (self.alert(face, note)) }
            @if let Self::Enrolment { key, address } = self {
                @if let Some(drawn) = qr_code(face, address) { (drawn) }
                p.fine.key { (face.say(Text::EnrolKey)) br; code dir="ltr" { (**key) } }
            }
            form method="post" action={ (prefix) "/login" } {
                input type="hidden" name="token" value=(browser.key());
                input type="hidden" name="pending" value=(id.expose());
                input type="hidden" name="return_to" value=(return_to.as_str());
                (self.field(face, note))
                button type="submit" { (face.say(button)) }
            }
            p.fine { a href={ (prefix) "/login?prompt=login&return_to=" (return_to.encoded()) } { (face.say(Text::StartAgain)) } }
        };
        let problem = note.map(|_| format!("{}: ", face.say(Text::Problem))).unwrap_or_default();
        face.page_leading_on(status, &format!("{problem}{}", face.say(title)), &content)
    }

    fn alert(&self, face: Face<'_>, note: Note) -> Markup {
        let text = match (note, self) {
            (Note::Throttled(seconds), _) => face.fill(Text::Throttled, &html! { (seconds) }),
            (Note::Unavailable(text), _) => html! { (face.say(text)) },
            (Note::Wrong, Self::Code) => html! { (face.say(Text::WrongCodeNote)) },
            (Note::Wrong, Self::Invitation) => html! { (face.say(Text::WrongInvitation)) },
            (Note::Wrong, Self::Enrolment { .. }) => html! { (face.say(Text::EnrolWrong)) },
        };
        html! { p.alert #problem role="alert" { (text) } }
    }

    fn field(&self, face: Face<'_>, note: Option<Note>) -> Markup {
        let problem = note.map(|_| "problem");
        let invalid = (note == Some(Note::Wrong)).then_some("true");
        html! {
            @match self {
                Self::Code | Self::Enrolment { .. } => {
                    label for="code" { (face.say(Text::Code)) }
                    input.code #code name="code" type="text" inputmode="numeric" maxlength="16" autofocus
                        autocomplete="one-time-code" placeholder="123 456" dir="ltr"
                        required[matches!(self, Self::Enrolment { .. })]
                        aria-invalid=[invalid] aria-describedby=[problem];
                }
                Self::Invitation => {
                    label for="code" { (face.say(Text::InvitationCode)) }
                    input.code #code name="code" type="text" maxlength="32" required autofocus autocomplete="off"
                        autocapitalize="characters" autocorrect="off" spellcheck="false"
                        placeholder="XXXX-XXXX-XXXX-XXXX" dir="ltr" aria-invalid=[invalid] aria-describedby=[problem];
                }
            }
            @if let Self::Code = self {
                details {
                    summary { (face.say(Text::WithoutPhone)) }
                    label for="recovery" { (face.say(Text::RecoveryCode)) }
                    input.code #recovery name="recovery" type="text" maxlength="32" autocomplete="off"
                        autocapitalize="characters" autocorrect="off" spellcheck="false"
                        placeholder="XXXX-XXXX-XXXX-XXXX" dir="ltr";
                }
            }
        }
    }
}

/// For somebody whom nobody has invited to enrol.
pub(super) fn missing(context: Context<'_>, return_to: &ReturnTo) -> Response<Bytes> {
    let (face, prefix) = (context.face, &context.login.prefix);
    let content = html! {
        h1 { (face.say(Text::NoFactorTitle)) }
        p { (face.say(Text::NoFactor)) }
        a.button href={ (prefix) "/login?prompt=login&return_to=" (return_to.encoded()) } { (face.say(Text::SignInAgain)) }
    };
    face.page(StatusCode::FORBIDDEN, face.say(Text::NoFactorTitle), &content)
}

/// The recovery codes, the only time that they are shown.
pub(super) fn recovery_codes(context: Context<'_>, codes: &RecoveryCodes, return_to: &ReturnTo) -> Response<Bytes> {
    let face = context.face;
    let content = html! {
        h1 { (face.say(Text::RecoveryTitle)) }
        p.lead { (face.fill(Text::RecoveryLead, &site(context))) }
        p { (face.say(Text::RecoveryHow)) " " strong { (face.say(Text::RecoveryOnce)) } }
        ol.codes dir="ltr" { @for code in codes { li { code { (*code.text()) } } } }
        a.button href=(return_to.as_str()) { (face.say(Text::RecoveryKept)) }
    };
    face.page(StatusCode::OK, face.say(Text::RecoveryTitle), &content)
}

/// After a recovery code: how many are left.
pub(super) fn recovered(context: Context<'_>, left: usize, return_to: &ReturnTo) -> Response<Bytes> {
    let face = context.face;
    let content = html! {
        h1 { (face.say(Text::SignedIn)) }
        p.lead { (face.fill(Text::RecoveredLead, &site(context))) }
        p.note role="status" {
            (face.fill(Text::RecoveredLeft, &html! { strong { (left) } }))
            @if left <= FEW { " " (face.say(Text::RecoveredFew)) }
        }
        a.button href=(return_to.as_str()) { (face.say(Text::Continue)) }
    };
    face.page(StatusCode::OK, face.say(Text::SignedIn), &content)
}

fn site(context: Context<'_>) -> Markup {
    html! { (context.face.site(context.view.authority.host.as_str())) }
}

/// A QR code as one path, dark on light whatever the page's colours are: phones read no others well. `None`: too long.
fn qr_code(face: Face<'_>, text: &str) -> Option<Markup> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let size = code.size();
    let mut path = String::new();
    for y in 0..size {
        for x in (0..size).filter(|x| code.get_module(*x, y)) {
            path.push_str(&format!("M{} {}h1v1h-1z", x + QUIET, y + QUIET));
        }
    }
    let whole = size + 2 * QUIET;
    Some(html! {
        svg.qr viewBox={ "0 0 " (whole) " " (whole) } role="img" aria-label=(face.say(Text::QrCode)) shape-rendering="crispEdges" {
            path fill="#fff" d={ "M0 0h" (whole) "v" (whole) "H0z" } {}
            path fill="#000" d=(path) {}
        }
    })
}

/// Light modules around a QR code (ISO/IEC 18004 section 9.1).
const QUIET: i32 = 4;

/// Recovery codes that are few.
const FEW: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Look;

    /// A scanner sees exactly what is drawn: read back from the path.
    #[test]
    fn a_qr_code_is_drawn_module_by_module() {
        let text = "otpauth://totp/app%2Etest:alice?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        let drawn = qr_code(Look::default().face(None), text).unwrap().into_string();
        let code = QrCode::encode_text(text, QrCodeEcc::Medium).unwrap();

        let dark = drawn.split("fill=\"#000\" d=\"").nth(1).unwrap();
        for y in 0..code.size() {
            for x in 0..code.size() {
                let there = dark.contains(&format!("M{} {}h1v1h-1z", x + QUIET, y + QUIET));
                assert_eq!(there, code.get_module(x, y), "{x} {y}");
            }
        }
        assert!(!drawn.contains("style") && !drawn.contains("http") && !drawn.contains("alice"), "{drawn}");
    }
}
