//! The frame of every page and JSON answer of our own: one style, one Content-Security-Policy, one set of headers
//! (R33).
//!
//! In: a title and a body made with maud, which escapes; or a JSON value. Out: a complete response.
//! Invariants: no script, no outside resource, nothing that a cache may keep, no frame around it. `Date` is hyper's.

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

/// A page for people. `title` becomes the window's title; `content` is what the card in the middle holds.
pub fn page(status: StatusCode, title: &str, content: &Markup) -> Response<Bytes> {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex, nofollow";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (content) }
            }
        }
    };
    answer(status, HTML, PAGE_POLICY.clone(), document.into_string().into())
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

/// The gate above a page's heading.
pub fn emblem() -> Markup {
    html! {
        svg.emblem viewBox="0 0 32 32" aria-hidden="true" {
            path d="M4 30V14C4 7.4 9.4 2 16 2s12 5.4 12 12v16" {}
            path d="M10 6v22M16 3v27M22 6v22M4.500 12h23M4 19h24M4 26h24" {}
        }
    }
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

/// Allows one style, by its hash, and forms that post to us.
static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    // Base64 and our own text make a header value; without it the page would be unstyled, not unsafe.
    HeaderValue::try_from(policy).unwrap_or(DATA_POLICY)
});

const STYLE: &str = include_str!("page.css");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_no_script_and_no_outside_resource() {
        let response = page(StatusCode::OK, "A < B", &html! { p { "<script>alert(1)</script>" } });
        let text = std::str::from_utf8(response.body()).unwrap();

        assert!(text.contains("<title>A &lt; B</title>"));
        assert!(!text.contains("<script"));
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("url("));
    }

    #[test]
    fn the_style_that_is_sent_is_the_style_that_is_allowed() {
        let response = page(StatusCode::OK, "Title", &html! {});
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
            page(StatusCode::OK, "Title", &html! {}),
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
