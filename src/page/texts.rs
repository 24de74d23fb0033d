//! Every text that our pages show, by key, in the languages that the configuration adds to English.
//!
//! In: translations by key, and a request's `Accept-Language` (RFC 9110 section 12.5.4). Out: one [`Language`] for a
//! page (RFC 4647 section 3.4, lookup). A text that a translation lacks is English.
//! Invariants: a text holds no blank (`{name}`) but the one that its English form has; texts are escaped where they are
//! shown, whoever wrote them.

use http::HeaderValue;
use maud::{Markup, PreEscaped, html};

/// What is wrong with a translation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TextError {
    /// A blank that the text does not have; holds the one that it has.
    UnknownBlank(Option<&'static str>),
    /// Longer than [`Language::MAX_BYTES`].
    TooLong,
    /// A control character.
    Control,
}

/// One language's texts.
#[derive(Clone, Debug)]
pub struct Language {
    tag: Box<str>,
    /// By the order of [`Text::ALL`]; `None`: English.
    texts: Box<[Option<Box<str>>]>,
}

impl Language {
    /// Bytes of one text.
    pub const MAX_BYTES: usize = 2000;

    /// English.
    pub fn english() -> Self {
        Self::new("en")
    }

    /// A language without any translation yet. `tag` is a language tag (RFC 5646) of letters, digits and `-`.
    pub fn new(tag: &str) -> Self {
        Self { tag: tag.into(), texts: vec![None; Text::ALL.len()].into() }
    }

    /// Sets one text.
    ///
    /// # Errors
    /// [`TextError`]; then nothing is set.
    pub fn set(&mut self, text: Text, translation: &str) -> Result<(), TextError> {
        if translation.len() > Self::MAX_BYTES {
            return Err(TextError::TooLong);
        }
        if translation.contains(char::is_control) {
            return Err(TextError::Control);
        }
        let blank = text.blank();
        if blanks(translation).any(|found| Some(found) != blank) {
            return Err(TextError::UnknownBlank(blank));
        }
        if let Some(slot) = self.texts.get_mut(text as usize) {
            *slot = Some(translation.into());
        }
        Ok(())
    }

    /// The language tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// `rtl` for `dir`, if it is written from the right.
    pub fn direction(&self) -> Option<&'static str> {
        let primary = self.tag.split('-').next().unwrap_or_default();
        let rtl = ["ar", "dv", "fa", "he", "ku", "ps", "sd", "ug", "ur", "yi"];
        rtl.iter().any(|tag| tag.eq_ignore_ascii_case(primary)).then_some("rtl")
    }

    /// A text in this language, its blank as it is.
    pub fn say(&self, text: Text) -> &str {
        self.texts.get(text as usize).and_then(Option::as_deref).unwrap_or_else(|| text.english())
    }

    /// A text with its blank filled in.
    pub fn fill(&self, text: Text, value: &Markup) -> Markup {
        let said = self.say(text);
        let Some(blank) = text.blank() else {
            return html! { (said) };
        };
        html! {
            @for (i, part) in said.split(&format!("{{{blank}}}")).enumerate() {
                @if i > 0 { (PreEscaped(&value.0)) }
                (part)
            }
        }
    }
}

impl Text {
    /// The text of this key.
    pub fn by_key(key: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|text| text.key() == key)
    }

    /// The name of what is filled in, without its braces.
    pub fn blank(self) -> Option<&'static str> {
        blanks(self.english()).next()
    }
}

/// Which of these languages somebody wants to read; the first one if they say nothing that helps.
pub(super) fn choose<'a>(languages: &'a [Language], accept: Option<&HeaderValue>) -> Option<&'a Language> {
    let first = languages.first()?;
    let [_, _, ..] = languages else {
        return Some(first);
    };
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let ranges = accept.split(',').take(MAX_RANGES).filter_map(range);
    let mut wanted: Vec<(u16, &str)> = ranges.filter(|(quality, _)| *quality > 0).collect();
    wanted.sort_by_key(|(quality, _)| u16::MAX - quality);
    Some(wanted.into_iter().find_map(|(_, range)| lookup(languages, range)).unwrap_or(first))
}

/// A language range and its quality in thousandths.
fn range(item: &str) -> Option<(u16, &str)> {
    let mut parts = item.split(';').map(str::trim);
    let range = parts.next().filter(|range| !range.is_empty())?;
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let quality = quality.map_or(Some(1.0), |text| text.parse::<f32>().ok())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
    Some(((quality.clamp(0.0, 1.0) * 1000.0) as u16, range))
}

/// RFC 4647 section 3.4: a range is shortened from its end until a language fits.
fn lookup<'a>(languages: &'a [Language], mut range: &str) -> Option<&'a Language> {
    loop {
        if let Some(found) = languages.iter().find(|language| language.tag.eq_ignore_ascii_case(range)) {
            return Some(found);
        }
        (range, _) = range.rsplit_once('-')?;
    }
}

/// The names in braces; a lone brace is a brace.
fn blanks(text: &str) -> impl Iterator<Item = &str> {
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    text.split('{').skip(1).filter_map(|part| part.split_once('}').map(|(name, _)| name)).filter(is_name)
}

/// More than anybody reads.
const MAX_RANGES: usize = 32;

macro_rules! texts {
    ($($name:ident $key:literal $english:literal,)*) => {
        /// A text of ours.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Text { $(#[doc = concat!("`", $key, "`: ", $english)] $name,)* }

        impl Text {
            /// All of them, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The key in `[login.texts.…]`.
            pub const fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }

            /// As it is in English.
            pub const fn english(self) -> &'static str {
                match self { $(Self::$name => $english,)* }
            }
        }
    };
}

texts! {
    // Logging in.
    SignIn "sign_in" "Sign in",
    SignInTo "sign_in_to" "to {site}",
    Username "username" "User name or email",
    Password "password" "Password",
    RememberMe "remember_me" "Stay signed in on this device",
    ChooseAccount "choose_account" "Which account do you use?",
    SignInWith "sign_in_with" "Sign in with {provider}",
    OtherWay "other_way" "Sign in another way",
    Notice "notice" "",
    Problem "problem" "Problem",
    FormExpired "form_expired" "This page had expired. Please sign in again.",
    Failed "failed" "The user name or the password is wrong.",
    Throttled "throttled" "There were too many attempts. Please wait {seconds} seconds, then try again.",
    StillYou "still_you" "Is it still you?",
    AskedAgain "asked_again" "This page asks for a fresh sign-in.",
    AskedFactor "asked_factor" "This page asks for your second factor.",
    OtherUser "other_user" "That was somebody else. To go on, sign in as the same person, or use another account below.",
    SignedOutNow "signed_out_now" "You have signed out.",
    SignedIn "signed_in" "You are signed in",
    SignedInAs "signed_in_as" "as {name}",
    Continue "continue" "Continue",
    OtherAccount "other_account" "Use another account",
    // Forms that came too late.
    FormKept "form_kept" "Your session had ended. What you filled in is kept for 15 minutes: sign in, and you can send it.",
    FormNotSent "form_not_sent" "Your form was not sent. Sign in, go back to it, and send it again.",
    ResendQuestion "resend_question" "Send your form now?",
    ResendWhy "resend_why" "Your session had ended when you sent it to {path}. It has not been sent yet.",
    ResendNow "resend_now" "Send now",
    ResendNot "resend_not" "Do not send",
    ResendFields "resend_fields" "What you filled in",
    NothingToResend "nothing_to_resend" "Nothing to send",
    NothingToResendWhy "nothing_to_resend_why" "No form is waiting for you: it was sent already, or its 15 minutes are over, or somebody else filled it in.",
    // The second factor.
    CodeTitle "code_title" "Your second factor",
    CodeLead "code_lead" "Type the code that your authenticator app shows.",
    Code "code" "Code",
    WrongCodeNote "wrong_code_note" "That code is wrong, or was used before. Wait for the next one.",
    TooManyCodes "too_many_codes" "Too many wrong codes. Please sign in again.",
    WithoutPhone "without_phone" "Without your phone?",
    RecoveryCode "recovery_code" "Recovery code",
    StartAgain "start_again" "Start again",
    EnrolTitle "enrol_title" "Set up your second factor",
    InvitationLead "invitation_lead" "Your account needs a second factor. Type the enrolment code that your administrator gave you.",
    InvitationCode "invitation_code" "Enrolment code",
    WrongInvitation "wrong_invitation" "That is not the enrolment code, or it has expired.",
    EnrolLead "enrol_lead" "Scan this with an authenticator app, then type the code that the app shows.",
    EnrolKey "enrol_key" "Or type this key into the app:",
    EnrolWrong "enrol_wrong" "That code does not fit. Is the clock of your phone right?",
    EnrolButton "enrol_button" "Set up and sign in",
    QrCode "qr_code" "QR code",
    NoFactorTitle "no_factor_title" "No second factor",
    NoFactor "no_factor" "Your account needs a second factor, and none is set up. Please ask your administrator for an enrolment code, then sign in again.",
    NoFactorToShow "no_factor_to_show" "Your account has no second factor to show. Please ask your administrator for one.",
    SignInAgain "sign_in_again" "Sign in again",
    RecoveryTitle "recovery_title" "Keep these recovery codes",
    RecoveryLead "recovery_lead" "Your second factor for {site} is set up.",
    RecoveryHow "recovery_how" "If you lose your phone, each of these codes lets you sign in once. Print them or keep them where you keep passwords.",
    RecoveryOnce "recovery_once" "They are not shown again.",
    RecoveryKept "recovery_kept" "I have kept them",
    RecoveredLead "recovered_lead" "to {site}, with a recovery code",
    RecoveredLeft "recovered_left" "That code is used up. Codes left: {left}.",
    RecoveredFew "recovered_few" "Ask your administrator to let you set up your second factor anew.",
    // Logging out.
    SignOut "sign_out" "Sign out",
    SignOutQuestion "sign_out_question" "Sign out?",
    YouAreSignedInAs "you_are_signed_in_as" "You are signed in as {name}.",
    NotSignedIn "not_signed_in" "You are not signed in.",
    Cancel "cancel" "Cancel",
    // One's own sessions.
    YourSessions "your_sessions" "Your sessions",
    ThisOne "this_one" "This one",
    UnknownDevice "unknown_device" "Unknown device",
    SomeBrowserOn "some_browser_on" "A browser on {system}",
    OnSystem "on_system" "on {system}",
    NotUsedYet "not_used_yet" "Not used yet",
    FromAddress "from_address" "From {address}",
    Since "since" "Since {time}",
    LastSeen "last_seen" "Last seen {time}",
    RememberedUntil "remembered_until" "Stays signed in until {time}",
    SignOutElsewhere "sign_out_elsewhere" "Sign out everywhere else",
    SignOutEverywhere "sign_out_everywhere" "Sign out everywhere, here too",
    SignedOutThere "signed_out_there" "Signed out there.",
    EndedAlready "ended_already" "That session had ended already.",
    NothingDone "nothing_done" "This page had expired and nothing was done. Please try again.",
    NotYours "not_yours" "Something here is not yours? Sign out there, then change your password.",
    // Error pages: headings.
    NotFoundTitle "not_found_title" "Not found",
    NotAllowedTitle "not_allowed_title" "Not allowed",
    PleaseSignInTitle "please_sign_in_title" "Please sign in",
    PleaseWaitTitle "please_wait_title" "Please wait",
    TryAgainTitle "try_again_title" "Please try again",
    UnavailableTitle "unavailable_title" "The service is not available",
    CannotBeServedTitle "cannot_be_served_title" "This request cannot be served",
    // Error pages: what happened.
    SwitchAccount "switch_account" "Switch account",
    RequestNumber "request_number" "Request {id}",
    Malformed "malformed" "The request is not well-formed HTTP.",
    BadPath "bad_path" "The path can be read in more than one way and is not accepted.",
    BadHost "bad_host" "The request names no valid host.",
    UnknownHost "unknown_host" "This host is not served here.",
    WrongConnection "wrong_connection" "This host is served on a connection of its own. Please connect again.",
    NoRoute "no_route" "There is nothing at this address.",
    MethodNotAllowed "method_not_allowed" "This method is not allowed here.",
    BodyTooLarge "body_too_large" "The request body is too large.",
    BodyIncomplete "body_incomplete" "The request body did not arrive whole.",
    BadBody "bad_body" "The form could not be read.",
    UnsupportedMediaType "unsupported_media_type" "The body must be application/json or a form.",
    DemoOnly "demo_only" "The demo set-up answers only requests from this machine to localhost. Replace the generated secrets to use it elsewhere.",
    NotEncrypted "not_encrypted" "This needs https.",
    NoCredential "no_credential" "Please sign in, or send a token.",
    AmbiguousCredential "ambiguous_credential" "More than one credential was sent, or one that cannot be read.",
    InvalidToken "invalid_token" "The token is not valid.",
    InvalidCertificate "invalid_certificate" "The certificate of your browser or program is not valid here.",
    SessionEnded "session_ended" "The session has ended. Please sign in again.",
    LoginFailed "login_failed" "User name or password is wrong.",
    FactorRequired "factor_required" "A code of your second factor is needed, too.",
    FactorMissing "factor_missing" "Your account needs a second factor. Set it up on the login page.",
    WrongCode "wrong_code" "The code is wrong or was used before.",
    StaleLogin "stale_login" "Please sign in again to do this.",
    WeakLogin "weak_login" "Please sign in with your second factor to do this.",
    CertificateNeeded "certificate_needed" "A client certificate is needed here. Give one to your browser or program, and connect again.",
    NotAllowed "not_allowed" "You are not allowed to do this.",
    CrossSite "cross_site" "The request came from another site and was not carried out.",
    IdentityTooLarge "identity_too_large" "Your account has more roles or groups than can be passed on.",
    TooMany "too_many_requests" "Too many attempts. Please wait a little.",
    RateLimited "rate_limited" "Too many requests. Please wait a little.",
    Maintenance "maintenance" "This site is being worked on. Please come back later.",
    UpstreamBusy "upstream_busy" "The service behind this gateway has too much to do. Please try again in a moment.",
    UpstreamUnreachable "upstream_unreachable" "The service behind this gateway cannot be reached.",
    UpstreamInvalid "upstream_invalid" "The service behind this gateway gave no valid answer.",
    UpstreamTimeout "upstream_timeout" "The service behind this gateway did not answer in time.",
    NotWritten "not_written" "This could not be saved and has not happened. Please try again.",
    Unavailable "unavailable" "This cannot be checked at the moment. Please try again.",
    StoreFull "store_full" "No more sessions can be opened at the moment.",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn speaking(tags: &[&str]) -> Vec<Language> {
        tags.iter().map(|tag| Language::new(tag)).collect()
    }

    #[test]
    fn every_text_has_a_key_of_its_own_and_at_most_one_blank() {
        let keys: BTreeSet<&str> = Text::ALL.iter().map(|text| text.key()).collect();

        assert_eq!(keys.len(), Text::ALL.len());
        for text in Text::ALL {
            assert!(blanks(text.english()).count() <= 1, "{text:?}");
            assert_eq!(Text::by_key(text.key()), Some(*text));
        }
        assert_eq!(Text::by_key("sign-in"), None);
    }

    #[test]
    fn a_reader_gets_the_language_they_ask_for_or_the_first() {
        let languages = speaking(&["en", "de", "pt-BR", "zh-Hant"]);
        for (accept, expect) in [
            ("de", "de"),
            ("de-CH-1996", "de"),
            ("DE-ch", "de"),
            ("fr, de;q=0.5", "de"),
            ("fr;q=0.9, en;q=0.2, de;q=0.8", "de"),
            ("en, de;q=0.9", "en"),
            ("pt", "en"),
            ("pt-br", "pt-BR"),
            ("zh-Hant-TW", "zh-Hant"),
            ("de;q=0", "en"),
            ("*", "en"),
            ("", "en"),
            ("de;q=x", "en"),
            ("de;q=nan", "en"),
            (";;,,=", "en"),
            ("d", "en"),
        ] {
            let accept = HeaderValue::from_static(accept);
            assert_eq!(choose(&languages, Some(&accept)).unwrap().tag(), expect, "{accept:?}");
        }
        assert_eq!(choose(&speaking(&["de", "en"]), None).unwrap().tag(), "de");
    }

    #[test]
    fn a_translation_has_the_blank_of_its_text_or_none() {
        let mut german = Language::new("de");
        for (text, translation, expect) in [
            (Text::SignInTo, "bei {site}", Ok(())),
            (Text::SignInTo, "bei uns", Ok(())),
            (Text::SignIn, "Anmelden {}", Ok(())),
            (Text::SignInTo, "bei {seite}", Err(TextError::UnknownBlank(Some("site")))),
            (Text::SignIn, "Anmelden bei {site}", Err(TextError::UnknownBlank(None))),
            (Text::SignIn, "An\nmelden", Err(TextError::Control)),
            (Text::SignIn, &"x".repeat(2001), Err(TextError::TooLong)),
        ] {
            assert_eq!(german.set(text, translation), expect, "{translation}");
        }
        assert_eq!(german.say(Text::Password), "Password", "what is not translated is English");
    }

    #[test]
    fn texts_and_values_are_escaped() {
        let mut language = Language::new("x");
        language.set(Text::SignedInAs, "<b>als</b> {name} {").unwrap();

        let filled = language.fill(Text::SignedInAs, &html! { strong { ("<i>") } });

        assert_eq!(filled.0, "&lt;b&gt;als&lt;/b&gt; <strong>&lt;i&gt;</strong> {");
    }

    #[test]
    fn some_languages_are_written_from_the_right() {
        assert_eq!(
            ["he", "AR-EG", "de", "arn"].map(|tag| Language::new(tag).direction()),
            [Some("rtl"), Some("rtl"), None, None]
        );
    }
}
