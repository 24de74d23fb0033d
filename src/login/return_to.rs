//! Where a browser goes after logging in or out: a path of this very host, or nowhere (R33).
//!
//! In: `return_to` as a client sent it. Out: a checked path and query, safe in `Location` and in a page.
//! Invariant: no reader of URLs, strict or lax, takes it for another origin: it begins with one `/` and holds no `//`
//! or dot segment in its path, no backslash, no fragment, no control or non-ASCII byte, and only whole percent signs
//! (RFC 3986 section 3).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// A checked path with query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReturnTo(Cow<'static, str>);

impl ReturnTo {
    /// `/`.
    pub const ROOT: Self = Self(Cow::Borrowed("/"));

    /// Bytes of the longest path and query.
    pub const MAX_BYTES: usize = 2048;

    /// Checks what a client sent.
    pub fn parse(text: &str) -> Option<Self> {
        is_local(text).then(|| Self(Cow::Owned(text.to_owned())))
    }

    /// What a client sent, or `/` if that is unfit.
    pub fn or_root(text: Option<&str>) -> Self {
        text.and_then(Self::parse).unwrap_or(Self::ROOT)
    }

    /// The path and query.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For use as the value of a query parameter.
    pub fn encoded(&self) -> String {
        const KEPT: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        utf8_percent_encode(&self.0, &KEPT).to_string()
    }
}

/// The one value of a parameter in a query or form, decoded; `None` if it is absent, repeated or no UTF-8.
pub fn parameter<'a>(pairs: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut values = pairs.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decode(key).is_some_and(|key| key == name).then_some(value)
    });
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    decode(value)
}

/// Undoes `application/x-www-form-urlencoded` (WHATWG URL section 5.1) for one name or value.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['+', '%']) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(&spaced).collect();
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn is_local(text: &str) -> bool {
    let path = text.split_once('?').map_or(text, |(path, _)| path);
    text.len() <= ReturnTo::MAX_BYTES
        && path.starts_with('/')
        && !path.contains("//")
        && !path.split('/').any(is_dot_segment)
        && has_plain_bytes(text)
}

fn is_dot_segment(segment: &str) -> bool {
    let bare = segment.replace("%2e", ".").replace("%2E", ".");
    bare == "." || bare == ".."
}

/// `pchar`, `/`, `?` (RFC 3986 sections 3.3 and 3.4), percent signs with their two digits; in the path, neither an
/// encoded slash nor an encoded backslash nor an encoded control byte.
fn has_plain_bytes(text: &str) -> bool {
    let mut rest = text.as_bytes();
    let mut in_path = true;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {}
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' => {}
            b'=' | b':' | b'@' | b'/' => {}
            b'?' => in_path = false,
            b'%' => {
                let Some((digits, after)) = rest.split_at_checked(2) else { return false };
                let text = std::str::from_utf8(digits).unwrap_or_default();
                let digits_fit = digits.iter().all(u8::is_ascii_hexdigit);
                let Some(value) = u8::from_str_radix(text, 16).ok().filter(|_| digits_fit) else { return false };
                if in_path && (matches!(value, b'/' | b'\\' | b'%') || value.is_ascii_control()) {
                    return false;
                }
                rest = after;
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_paths_of_this_host_are_returned_to() {
        for (given, fits) in [
            ("/", true),
            ("/orders?page=2&sort=name", true),
            ("/a/b/", true),
            ("/caf%C3%A9", true),
            ("/search?q=a%2Fb%5C%20c&next=https://example.com//x", true),
            ("/@user/~x/a:b;c=1,2", true),
            ("", false),
            ("orders", false),
            ("//evil.example", false),
            ("///evil.example", false),
            ("/\\evil.example", false),
            ("/a\\b", false),
            ("/a//b", false),
            ("/.//evil.example", false),
            ("/a/../b", false),
            ("/a/..", false),
            ("/%2e%2E/b", false),
            ("/%2f/evil.example", false),
            ("/%5cevil.example", false),
            ("/%09/evil.example", false),
            ("/%00", false),
            ("/%", false),
            ("/%2", false),
            ("/%zz", false),
            ("/%+1", false),
            ("/\t/evil.example", false),
            ("/a\r\nSet-Cookie: x=y", false),
            ("/a b", false),
            ("/a#b", false),
            ("/<script>", false),
            ("/a\"b", false),
            ("/é", false),
            ("https://evil.example/", false),
            ("javascript:alert(1)", false),
            (" /a", false),
        ] {
            assert_eq!(ReturnTo::parse(given).is_some(), fits, "{given:?}");
        }
        let longest = format!("/{}", "a".repeat(ReturnTo::MAX_BYTES - 1));
        assert!(ReturnTo::parse(&longest).is_some());
        assert!(ReturnTo::parse(&format!("{longest}a")).is_none());
    }

    #[test]
    fn a_parameter_counts_once() {
        for (given, expect) in [
            ("return_to=%2Fa%3Fb%3D1", Some("/a?b=1")),
            ("x=1&return_to=/a+b&y", Some("/a b")),
            ("return_to", Some("")),
            ("return_to=/a&return_to=/b", None),
            ("Return_to=/a", None),
            ("", None),
            ("return_to=%ff", None),
        ] {
            assert_eq!(parameter(given, "return_to").as_deref(), expect, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stays_on_this_host(text in "[/\\\\.%25cfCF0?#@:a \t-]{0,24}") {
            if let Some(to) = ReturnTo::parse(&text) {
                let uri: http::Uri = to.as_str().parse().unwrap();
                prop_assert!(uri.authority().is_none() && uri.scheme().is_none());
                prop_assert!(!to.as_str().starts_with("//") && !to.as_str().contains('\\'));
                prop_assert!(http::HeaderValue::try_from(to.as_str()).is_ok());
                let query = format!("return_to={}", to.encoded());
                let decoded = parameter(&query, "return_to").unwrap();
                prop_assert_eq!(decoded.as_ref(), to.as_str());
            }
        }
    }
}
