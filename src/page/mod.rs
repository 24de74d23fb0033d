//! The frame of every page and JSON answer of our own: one style, one Content-Security-Policy, one set of headers
//! (R33).
//!
//! In: a title and a body made with maud, which escapes; or a JSON value. Out: a complete response. `texts` holds every
//! word that we say to people, `theme` what can be changed about the look, `template` error pages of the operator's
//! own. Invariants: no script, no outside resource, nothing that a cache may keep, no frame around it. `Date` is
//! hyper's.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

mod markup;
mod template;
mod texts;
mod theme;

pub use template::{Blank, Parsed, Position, Scope, Template, TemplateError, Templates};
pub use texts::{Language, Text, TextError};
pub use theme::{Color, Colors, Logo, LogoError, PoorContrast};

/// How our pages look and what they say, in every language: `[login]`'s title, logo, colours and texts.
#[derive(Clone, Debug)]
pub struct Look {
    title: Option<Box<str>>,
    logo: Option<Logo>,
    style: Box<str>,
    policy: HeaderValue,
    /// Of pages whose forms lead on to an application.
    leading_on: HeaderValue,
    /// The default first; never empty.
    languages: Box<[Language]>,
    templates: Templates,
}

/// What a [`Look`] is made of.
#[derive(Clone, Debug, Default)]
pub struct LookParts {
    /// What people know the place by; default: the host.
    pub title: Option<Box<str>>,
    /// Shown in the place of our emblem.
    pub logo: Option<Logo>,
    /// Colours in light.
    pub colors: Colors,
    /// Colours in dark; `None`: those that suit the light ones.
    pub dark_colors: Option<Colors>,
    /// The default first; English is added if it is missing.
    pub languages: Vec<Language>,
    /// Error pages that are not ours.
    pub templates: Templates,
}

/// A look as one reader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Face<'a> {
    look: &'a Look,
    language: &'a Language,
}

impl Look {
    /// Ready for use.
    pub fn new(parts: LookParts) -> Self {
        let LookParts { title, logo, colors, dark_colors, mut languages, templates } = parts;
        if !languages.iter().any(|language| language.tag().eq_ignore_ascii_case("en")) {
            languages.push(Language::english());
        }
        let style = format!("{STYLE}{}", theme::overrides(&colors, dark_colors.as_ref()));
        let policy = policy(&[&style], logo.is_some(), STAY);
        let leading_on = self::policy(&[&style], logo.is_some(), LEAD_ON);
        Self { title, logo, style: style.into(), policy, leading_on, languages: languages.into(), templates }
    }

    /// Whether `Accept-Language` makes a difference.
    pub fn is_multilingual(&self) -> bool {
        self.languages.len() > 1
    }

    /// As somebody wants to read it who sent this `Accept-Language`.
    pub fn face(&self, accept_language: Option<&HeaderValue>) -> Face<'_> {
        // There is always a first language; English stands in for the impossible.
        let language = texts::choose(&self.languages, accept_language).unwrap_or(&ENGLISH);
        Face { look: self, language }
    }
}

impl Default for Look {
    fn default() -> Self {
        Self::new(LookParts::default())
    }
}

impl<'a> Face<'a> {
    /// A text in the reader's language, its blank as it is.
    pub fn say(&self, text: Text) -> &'a str {
        self.language.say(text)
    }

    /// A text with its blank filled in.
    pub fn fill(&self, text: Text, value: &Markup) -> Markup {
        self.language.fill(text, value)
    }

    /// What people know the place by: the title, or else this host.
    pub fn site<'s>(&self, host: &'s str) -> &'s str
    where
        'a: 's,
    {
        self.look.title.as_deref().unwrap_or(host)
    }

    /// The page of the operator's own that an answer with this status has, and the language that it is filled in with.
    pub fn template(&self, status: StatusCode) -> Option<(&'a Template, &'a str)> {
        Some((self.look.templates.of(status)?, self.language.tag()))
    }

    /// A page for people. `title` becomes the window's title; `content` is what the card in the middle holds.
    pub fn page(&self, status: StatusCode, title: &str, content: &Markup) -> Response<Bytes> {
        let notice = self.say(Text::Notice);
        let document = html! {
            (DOCTYPE)
            html lang=(self.language.tag()) dir=[self.language.direction()] {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex, nofollow";
                    title { (title) @if let Some(site) = &self.look.title { " · " (site) } }
                    style { (PreEscaped(&self.look.style)) }
                }
                body {
                    main { (self.emblem()) (content) }
                    @if !notice.is_empty() { footer { (notice) } }
                }
            }
        };
        answer(status, HTML, self.look.policy.clone(), document.into_string().into())
    }

    /// As [`Self::page`], for a page whose form leads on to an application. Chromium holds every redirect after a form
    /// against the policy of the form's page, so an application that answers with a way to another host would leave
    /// people with a button that does nothing. Where the form itself goes to is ours alone to say: there is no script,
    /// no base, and no markup that a client sent.
    pub fn page_leading_on(&self, status: StatusCode, title: &str, content: &Markup) -> Response<Bytes> {
        let mut response = self.page(status, title, content);
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, self.look.leading_on.clone());
        response
    }

    /// The logo, or our gate, above a page's heading.
    fn emblem(&self) -> Markup {
        match &self.look.logo {
            Some(logo) => html! {
                img.logo src=(logo.url()) alt=(self.look.title.as_deref().unwrap_or_default());
            },
            None => html! {
                svg.emblem viewBox="0 0 32 32" aria-hidden="true" {
                    path d="M4 30V14C4 7.4 9.4 2 16 2s12 5.4 12 12v16" {}
                    path d="M10 6v22M16 3v27M22 6v22M4.500 12h23M4 19h24M4 26h24" {}
                }
            },
        }
    }
}

/// A JSON answer for programs.
pub fn json(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut text = body.to_string();
    text.push('\n');
    answer(status, JSON, DATA_POLICY, text.into())
}

/// An answer without a body, with the headers of all our answers.
pub fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    protect(response.headers_mut(), DATA_POLICY);
    response
}

fn answer(status: StatusCode, kind: HeaderValue, policy: HeaderValue, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    protect(headers, policy);
    response
}

fn protect(headers: &mut HeaderMap, policy: HeaderValue) {
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    for (name, value) in PROTECTION {
        headers.insert(name, value);
    }
}

/// `same-origin` and not `no-referrer`: under the latter browsers send `Origin: null` with our own forms, and a
/// browser without `Sec-Fetch-Site` could not log in (R31).
const PROTECTION: [(HeaderName, HeaderValue); 4] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
];

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

const DATA_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'");

/// Forms go to us and stay with us.
const STAY: &str = "'self'";
/// Forms go to us, and from there wherever pages are.
const LEAD_ON: &str = "https: http:";

/// Allows these styles, by their hashes, forms that lead to such places, and images within the page.
fn policy(styles: &[&str], images: bool, forms: &str) -> HeaderValue {
    let hash = |style: &&str| STANDARD.encode(digest::digest(&digest::SHA256, style.as_bytes()));
    let styles: Vec<String> = styles.iter().map(|style| format!(" 'sha256-{}'", hash(style))).collect();
    let styles = if styles.is_empty() { String::from(" 'none'") } else { styles.concat() };
    let images = if images { " img-src data:;" } else { "" };
    let policy = format!(
        "default-src 'none'; style-src{styles};{images} form-action {forms}; frame-ancestors 'none'; base-uri 'none'"
    );
    // Base64 and our own text make a header value; without it the page would be unstyled, not unsafe.
    HeaderValue::try_from(policy).unwrap_or(DATA_POLICY)
}

static ENGLISH: LazyLock<Language> = LazyLock::new(Language::english);

const STYLE: &str = include_str!("style.css");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_no_script_and_no_outside_resource() {
        let response =
            Look::default().face(None).page(StatusCode::OK, "A < B", &html! { p { "<script>alert(1)</script>" } });
        let text = std::str::from_utf8(response.body()).unwrap();

        assert!(text.contains("<title>A &lt; B</title>"));
        assert!(!text.contains("<script"));
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("url("));
    }

    #[test]
    fn the_style_that_is_sent_is_the_style_that_is_allowed() {
        let response = Look::default().face(None).page(StatusCode::OK, "Title", &html! {});
        let text = std::str::from_utf8(response.body()).unwrap();
        let style = text.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
        let hash = STANDARD.encode(digest::digest(&digest::SHA256, style.as_bytes()));

        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains(&format!("style-src 'sha256-{hash}'")), "{policy}");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
        assert_eq!(text.matches("<style").count(), 1);
        assert!(!text.contains("style="));
    }

    #[test]
    fn every_answer_is_protected() {
        let answers = [
            Look::default().face(None).page(StatusCode::OK, "Title", &html! {}),
            json(StatusCode::OK, &Value::Null),
            empty(StatusCode::SEE_OTHER),
        ];
        for answer in answers {
            assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
            assert_eq!(answer.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(answer.headers()[REFERRER_POLICY], "same-origin");
            let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        }
    }
}
