//! Error pages of the operator's own (`[pages]`): HTML with blanks, read at the start and filled in for each answer.
//!
//! In: a file's text. Out: a [`Template`], or where and why it cannot be one; and what browsers will not do with it.
//! Invariants: a blank stands only where an escaped value stays text: between tags, or in a quoted attribute that runs
//! nothing; within an address, what is no address is percent-encoded. The policy is that of all our
//! pages: no script, nothing from outside; a `<style>` is allowed by the hash of what is in the file.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    HTML, STAY, answer,
    markup::{Markup, Piece, Spot},
    policy,
};

/// All pages of the operator's own, each for the answers that it replaces.
#[derive(Clone, Debug, Default)]
pub struct Templates(Vec<(Scope, Arc<Template>)>);

impl Templates {
    /// Which page an answer has, if it is not ours: an exact status counts before its class.
    pub fn of(&self, status: StatusCode) -> Option<&Template> {
        let find = |wanted: Scope| self.0.iter().find(|(scope, _)| *scope == wanted).map(|(_, page)| &**page);
        find(Scope::Status(status)).or_else(|| match status.as_u16() {
            400..=499 => find(Scope::ClientErrors),
            500..=599 => find(Scope::ServerErrors),
            _ => None,
        })
    }

    /// Adds a page.
    pub fn add(&mut self, scope: Scope, template: Template) {
        self.0.push((scope, Arc::new(template)));
    }
}

/// Which answers a page replaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Every 4xx that has no page of its own.
    ClientErrors,
    /// Every 5xx that has no page of its own.
    ServerErrors,
    /// One status.
    Status(StatusCode),
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "4xx" => Ok(Self::ClientErrors),
            "5xx" => Ok(Self::ServerErrors),
            _ => StatusCode::from_str(text).map(Self::Status).map_err(|_| ()),
        }
    }
}

/// What is filled in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blank {
    /// The language of title and message, as in `lang="de"`.
    Language,
    /// Where one logs in, and comes back from if that helps; `/` where nobody can.
    LoginUrl,
    /// What happened, in a sentence and in the reader's language.
    Message,
    /// The request's number, as it is in the log.
    RequestId,
    /// `404`.
    Status,
    /// The heading that our own page has, in the reader's language.
    Title,
}

impl Blank {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Language, Self::LoginUrl, Self::Message, Self::RequestId, Self::Status, Self::Title];

    /// What stands between the braces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Language => "language",
            Self::LoginUrl => "login_url",
            Self::Message => "message",
            Self::RequestId => "request_id",
            Self::Status => "status",
            Self::Title => "title",
        }
    }
}

/// A page with blanks.
#[derive(Debug)]
pub struct Template {
    parts: Box<[Part]>,
    policy: HeaderValue,
}

#[derive(Debug)]
enum Part {
    /// Within an address: nothing but [`Blank::LoginUrl`] is one by itself, the rest must not become one.
    Address(Blank),
    Blank(Blank),
    Text(Box<str>),
}

/// Line and column in the file, from 1.
pub type Position = (u32, u32);

/// Why a file is no page. `Display` says what was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TemplateError {
    /// Braces that nothing closes.
    Unclosed,
    /// No blank has this name.
    Unknown(String),
    /// A known blank in a place where its value could be more than text. Carries which and where.
    Misplaced(Blank, &'static str),
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed => f.write_str("`{{` without `}}`"),
            Self::Unknown(name) => write!(f, "the unknown blank `{{{{{name}}}}}`"),
            Self::Misplaced(blank, spot) => write!(f, "`{{{{{}}}}}` {spot}", blank.name()),
        }
    }
}

/// A page that can be used, and what of it a browser will block: where, and what.
#[derive(Debug)]
pub struct Parsed {
    /// The page.
    pub template: Template,
    /// What will not work.
    pub blocked: Vec<(Position, String)>,
}

impl Template {
    /// Bytes of a file.
    pub const MAX_BYTES: usize = 256 << 10;

    /// Reads a file's text.
    ///
    /// # Errors
    /// Every blank that cannot be filled in, and where it stands.
    pub fn parse(text: &str) -> Result<Parsed, Vec<(Position, TemplateError)>> {
        // As browsers do (HTML, "Preprocessing the input stream"): hashes of styles are of what they see.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let markup = Markup::read(&text);
        let (mut parts, mut errors, mut written) = (Vec::new(), Vec::new(), 0);
        for Piece { start, end, spot } in &markup.pieces {
            let inside = text.get(start + 2..end.saturating_sub(2)).unwrap_or_default();
            let name = inside.trim();
            let known = Blank::ALL.into_iter().find(|blank| blank.name() == name);
            let error = match (known, spot) {
                (None, Spot::Code(_)) => continue,
                (_, Spot::Unclosed) => TemplateError::Unclosed,
                (None, Spot::Address | Spot::Forbidden(_) | Spot::Text) => TemplateError::Unknown(name.to_owned()),
                (Some(blank), Spot::Code(spot) | Spot::Forbidden(spot)) => TemplateError::Misplaced(blank, spot),
                (Some(blank), Spot::Address | Spot::Text) => {
                    parts.push(Part::Text(text.get(written..*start).unwrap_or_default().into()));
                    let in_address = matches!(spot, Spot::Address) && blank != Blank::LoginUrl;
                    parts.push(if in_address { Part::Address(blank) } else { Part::Blank(blank) });
                    written = *end;
                    continue;
                }
            };
            if errors.len() >= MAX_ERRORS {
                break;
            }
            errors.push((position(&text, *start), error));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        parts.push(Part::Text(text.get(written..).unwrap_or_default().into()));
        let blocked = markup.blocked.into_iter().map(|(at, what)| (position(&text, at), what)).collect();
        let template = Self { parts: parts.into(), policy: policy(&markup.styles, true, STAY) };
        Ok(Parsed { template, blocked })
    }

    /// The answer, with these values. They are escaped here; that of [`Blank::LoginUrl`] must be a path of ours.
    pub fn answer<'v>(&self, status: StatusCode, value: impl Fn(Blank) -> Cow<'v, str>) -> Response<Bytes> {
        answer(status, HTML, self.policy.clone(), self.fill(value).into())
    }

    /// The page with these values, escaped.
    pub fn fill<'v>(&self, value: impl Fn(Blank) -> Cow<'v, str>) -> String {
        let mut page = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => page.push_str(text),
                Part::Address(blank) => page.extend(utf8_percent_encode(&value(*blank), IN_ADDRESS)),
                Part::Blank(blank) => escape(&value(*blank), &mut page),
            }
        }
        page
    }
}

/// For text and for attributes in either kind of quotes.
fn escape(value: &str, page: &mut String) {
    for character in value.chars() {
        match character {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            _ => page.push(character),
        }
    }
}

fn position(text: &str, at: usize) -> Position {
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// RFC 3986 section 2.3: all but what never means anything in an address.
const IN_ADDRESS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Of one file; then it is clear.
const MAX_ERRORS: usize = 20;

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest;
    use base64::{Engine, engine::general_purpose::STANDARD};
    use http::header::CONTENT_SECURITY_POLICY;
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Parsed {
        Template::parse(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
    }

    fn fill(text: &str, value: &str) -> String {
        parse(text).template.fill(|_| value.to_owned().into())
    }

    fn blocked(text: &str) -> Vec<String> {
        parse(text).blocked.into_iter().map(|((line, column), what)| format!("{line}:{column} {what}")).collect()
    }

    #[test]
    fn blanks_are_filled_in_escaped() {
        let page =
            "<html lang=\"{{language}}\"><title>{{ title }}</title><p title='{{message}}'>{{message}}{{status}}</p>";
        let value = |blank: Blank| match blank {
            Blank::Message => "<b>\"it's\" & {{status}}".into(),
            other => other.name().into(),
        };

        assert_eq!(
            parse(page).template.fill(value),
            "<html lang=\"language\"><title>title</title><p title='&lt;b&gt;&quot;it&#39;s&quot; &amp; {{status}}'>\
             &lt;b&gt;&quot;it&#39;s&quot; &amp; {{status}}status</p>"
        );
        assert_eq!(fill("no blank { { }} ", "x"), "no blank { { }} ");
    }

    #[test]
    fn within_an_address_nothing_becomes_one_but_the_way_to_the_login() {
        let page = "<a href=\"{{login_url}}\">1</a><a href=\"{{request_id}}\">2</a><a href='mailto:a@b?subject={{title}}'>3</a>";
        let value = |blank: Blank| match blank {
            Blank::LoginUrl => "/_auth/login?prompt=login&return_to=/a%3Fb".into(),
            Blank::RequestId => "//evil.example".into(),
            _ => "javascript:alert(1)".into(),
        };

        assert_eq!(
            parse(page).template.fill(value),
            "<a href=\"/_auth/login?prompt=login&amp;return_to=/a%3Fb\">1</a><a href=\"%2F%2Fevil.example\">2</a>\
             <a href='mailto:a@b?subject=javascript%3Aalert%281%29'>3</a>"
        );
    }

    #[test]
    fn a_blank_where_its_value_would_not_stay_text_is_refused() {
        for (page, spot) in [
            ("<p {{title}}>", "within a tag"),
            ("<p{{title}}>", "within a tag"),
            ("<p class=a{{title}}>", "without quotes"),
            ("<p class={{title}}>", "without quotes"),
            ("<{{title}}>", "behind a `<`"),
            ("</{{title}}>", "in a declaration"),
            ("<!{{title}}>", "in a declaration"),
            ("<!-- {{title}}> -->", "in a comment"),
            ("<!-- --{{title}}> -->", "in a comment"),
            ("<style>p { color: {{title}} }</style>", "in a style"),
            ("<STYLE>{{title}}</STYLE>", "in a style"),
            ("<script>'{{title}}'</script>", "in a script"),
            ("<script></scripty>{{title}}</script>", "in a script"),
            ("<p onclick=\"f('{{title}}')\">", "that is code"),
            ("<p STYLE = '{{title}}'>", "that is code"),
            ("<iframe srcdoc=\"{{title}}\">", "that is code"),
            ("<title></{{title}}</title>", "behind a `<`"),
            ("<textarea></texta{{title}}</textarea>", "behind a `<`"),
            ("<svg><title><a b={{title}}></title>", "behind a `<`"),
            ("<noscript>{{title}}</noscript>", "do not read"),
            ("<plaintext></plaintext>{{title}}", "do not read"),
        ] {
            let errors = Template::parse(page).map(drop).unwrap_err();
            assert_eq!(errors.len(), 1, "{page}: {errors:?}");
            assert!(errors[0].1.to_string().contains(spot), "{page}: {}", errors[0].1);
        }
        for page in [
            "<!---->{{title}}",
            "<!-->{{title}}",
            "<!-- a --!>{{title}}",
            "<p a='>'>{{title}}</p>",
            "<p a=\"'\" b='{{title}}'>",
            "<style></style >{{title}}",
            "<script></script/>{{title}}",
            "1 < 2 {{title}}",
            "<!DOCTYPE html>{{title}}",
            "<p/a='b'/>{{title}}",
        ] {
            assert!(fill(page, "filled").contains("filled"), "{page}");
        }
    }

    #[test]
    fn an_unknown_blank_is_told_with_its_place() {
        let errors =
            Template::parse("<p>\n  é {{titel}}</p>\r\n{{status}} {{nothing\n<p {{what}}>").map(drop).unwrap_err();

        assert_eq!(
            errors,
            [
                ((2, 5), TemplateError::Unknown("titel".to_owned())),
                ((3, 12), TemplateError::Unclosed),
                ((4, 4), TemplateError::Unknown("what".to_owned())),
            ]
        );
        // Not ours: nothing is filled in there.
        assert!(Template::parse("<style>@media print{{a}}</style><!-- {{ todo -->").is_ok());
    }

    /// HTML, "Preprocessing the input stream": browsers hash what they read, and they read no carriage return.
    #[test]
    fn the_styles_of_the_file_are_allowed_by_their_hashes_and_nothing_else_is() {
        let hash = |style: &str| STANDARD.encode(digest::digest(&digest::SHA256, style.as_bytes()));
        let answer = |page: &str| parse(page).template.answer(StatusCode::NOT_FOUND, |_| "".into());

        let page = "<style>a{}\r\nb{}</style><Style media=print>c{}</sTYLE><title><style>d{}</style></title>";
        let policy = answer(page).headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert_eq!(
            policy,
            format!(
                "default-src 'none'; style-src 'sha256-{}' 'sha256-{}'; img-src data:; form-action 'self'; \
                 frame-ancestors 'none'; base-uri 'none'",
                hash("a{}\nb{}"),
                hash("c{}")
            )
        );
        let plain = answer("<p>");
        assert!(plain.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("style-src 'none'"));
        assert_eq!(plain.headers()[http::header::CACHE_CONTROL], "no-store");
        assert_eq!(plain.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn what_browsers_will_block_is_told() {
        for (page, expect) in [
            ("\n <script src=\"x.js\"></script>", "2:3 `<script>`"),
            ("<p OnClick='f()'>", "1:4 the handler `onclick`"),
            ("<p style=\"color:red\">", "1:4 the attribute `style` (a `<style>` is allowed)"),
            ("<img src=/logo.png>", "1:6 what `src` loads (an image can be a data: URL)"),
            ("<link rel=stylesheet href=\"https://cdn.example/a.css\">", "1:22 what `href` loads"),
            ("<style>@import 'a'</style>", "1:8 `@import`"),
            ("<style>a { background: url( 'https://a/b' ) }</style>", "1:24 what `url(…)` loads"),
            ("<a href=\" JavaScript:f()\">", "1:4 an address that is a script"),
            ("<form action=//else.example>", "1:7 a form that is sent to another site"),
            ("<base href='/a'>", "1:2 `<base>`"),
        ] {
            let found = blocked(page);
            assert!(found.len() == 1 && found[0].starts_with(expect), "{page}: {found:?}");
        }
        let fine = "<img src='data:image/png;base64,AA=='><a href=https://help.example>?</a><form action='/find'>\
            <style>a { background: url(data:image/png;base64,AA==) }</style><p>onclick=, style= and url(x)</p>\
            <link rel=icon href=\"data:image/png;base64,AA==\"><svg><use href='#a'/></svg>";
        assert!(blocked(fine).is_empty(), "{:?}", blocked(fine));
    }

    #[test]
    fn an_exact_status_counts_before_its_class() {
        let mut pages = Templates::default();
        for (scope, text) in [("4xx", "class"), ("404", "exact")] {
            pages.add(scope.parse().unwrap(), parse(text).template);
        }
        let shown = |status: u16| pages.of(StatusCode::from_u16(status).unwrap()).map(|page| page.fill(|_| "".into()));

        assert_eq!(shown(404).as_deref(), Some("exact"));
        assert_eq!(shown(403).as_deref(), Some("class"));
        assert_eq!(shown(503), None);
    }

    /// Every spot where a blank may stand.
    const EVERY_SPOT: &str = "<!DOCTYPE html><title>{{title}}</title><style>a{}</style><p title=\"{{message}}\" \
        class='{{status}}'>{{message}}<a href=\"{{request_id}}\" data-a='{{title}}'>{{language}}</a>\
        <textarea>{{message}}</textarea><img alt=\"{{title}}\" src='data:image/png,{{status}}'>&{{title}};";

    proptest! {
        #[test]
        fn no_value_breaks_out_of_its_place(value in "\\PC*|[<>\"'&;=/ !a-z{}\n-]*") {
            let (harmless, filled) = (fill(EVERY_SPOT, "x"), fill(EVERY_SPOT, &value));

            for mark in ['<', '>', '"', '\''] {
                prop_assert_eq!(filled.matches(mark).count(), harmless.matches(mark).count(), "{}", filled);
            }
            let (harmless, found) = (Markup::read(&harmless), Markup::read(&filled));
            prop_assert_eq!(&harmless.styles, &found.styles);
            let what = |markup: &Markup<'_>| -> Vec<String> {
                markup.blocked.iter().map(|(_, what)| what.clone()).collect()
            };
            prop_assert_eq!(what(&harmless), what(&found));
        }

        #[test]
        fn any_text_is_a_page_or_a_list_of_what_is_wrong(text in "(<|</|<!--|-->|>|\"|'|=|\\{\\{|\\}\\}|title|style|script| |é|\n){0,40}") {
            match Template::parse(&text) {
                Ok(Parsed { template, .. }) => {
                    let count = |filled: &str, mark| filled.matches(mark).count();
                    let (harmless, hostile) = (template.fill(|_| "x".into()), template.fill(|_| "<'\"> a=b".into()));
                    for mark in ['<', '>', '"', '\''] {
                        prop_assert_eq!(count(&harmless, mark), count(&hostile, mark));
                    }
                }
                Err(errors) => prop_assert!(!errors.is_empty()),
            }
        }
    }
}
