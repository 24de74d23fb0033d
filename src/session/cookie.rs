//! The session cookie on the wire (RFC 6265bis): how it is set, cleared and found.
//!
//! In: `[session]` and a token, or a request's headers. Out: values for `Set-Cookie`, or the cookie's bytes.
//! Invariant: a cookie is cleared with the very attributes that it was set with, or browsers keep it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::{SameSite, SessionToken, Settings};
use crate::swar;

/// What a request's `Cookie` fields hold under one name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Presented<'a> {
    /// Nothing.
    Absent,
    /// One value, as sent.
    One(&'a [u8]),
    /// More than one. Which of them a browser meant is anybody's guess, so none counts (R2).
    Several,
}

/// `Set-Cookie` that gives a browser its session, for as long as its owner wants to be remembered, or else until the
/// browser ends. Marked sensitive: HTTP/2 does not index it.
pub fn set(settings: &Settings, token: &SessionToken, remembered: Option<Duration>) -> HeaderValue {
    let lifetime = remembered.map_or_else(String::new, |lifetime| format!("; Max-Age={}", lifetime.as_secs()));
    value(&settings.cookie, token.expose(), &lifetime, settings.same_site)
}

/// `Set-Cookie` that takes the session cookie away.
pub fn clear(settings: &Settings) -> HeaderValue {
    value(&settings.cookie, "", "; Max-Age=0", settings.same_site)
}

/// `Set-Cookie` for another cookie of ours. `value` holds cookie octets only; `lifetime` is a whole attribute with its
/// leading `; `, or empty for a cookie that ends with the browser.
pub fn value(name: &str, value: &str, lifetime: &str, same_site: SameSite) -> HeaderValue {
    value_at("/", name, value, lifetime, same_site)
}

/// As [`value`], for the requests below a path only; the name cannot begin with `__Host-` then.
pub fn value_at(path: &str, name: &str, value: &str, lifetime: &str, same_site: SameSite) -> HeaderValue {
    let text = format!("{name}={value}; Path={path}{lifetime}; Secure; HttpOnly; SameSite={}", same_site.as_str());
    // The name was checked with the configuration and the rest is ours, so the fallback is never taken; an empty
    // `Set-Cookie` is ignored by browsers.
    let mut header = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    header.set_sensitive(true);
    header
}

/// Looks for a cookie by its exact name in all `Cookie` fields; HTTP/2 clients may send several (RFC 9113 section
/// 8.2.3).
pub fn find<'a>(headers: &'a HeaderMap, name: &str) -> Presented<'a> {
    let name = name.as_bytes();
    let mut found = None;
    for field in headers.get_all(header::COOKIE) {
        let mut rest = field.as_bytes();
        loop {
            let end = semicolon(rest);
            let (pair, behind) = end.and_then(|end| rest.split_at_checked(end)).unwrap_or((rest, b""));
            if let Some(value) = value_of(pair, name)
                && found.replace(value).is_some()
            {
                return Presented::Several;
            }
            let Some((_, behind)) = behind.split_first() else { break };
            rest = behind;
        }
    }
    found.map_or(Presented::Absent, Presented::One)
}

/// The value of a pair that has this name, without the blanks around it.
#[inline]
fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let pair = pair.trim_ascii_start();
    // One byte tells most pairs apart: where the name has to end.
    if pair.get(name.len()) != Some(&b'=') {
        return None;
    }
    Some(pair.strip_prefix(name)?.get(1..)?.trim_ascii_end())
}

/// A `Cookie` field cut at its semicolons; quotes protect nothing (RFC 6265 section 5.4).
pub fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = semicolon(text) else {
            return rest.take();
        };
        rest = text.get(end + 1..);
        text.get(..end)
    })
}

/// Where the first semicolon stands.
pub fn semicolon(text: &[u8]) -> Option<usize> {
    swar::position(text, b';')
}

impl SameSite {
    /// As written in the attribute.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lax => "Lax",
            Self::None => "None",
            Self::Strict => "Strict",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::tests::settings, *};

    proptest! {
        #[test]
        fn a_semicolon_is_found_where_it_stands(
            text in prop::collection::vec(prop_oneof![Just(b';'), Just(b':'), Just(b'<'), any::<u8>()], 0..40),
        ) {
            prop_assert_eq!(semicolon(&text), text.iter().position(|byte| *byte == b';'));
            prop_assert_eq!(pairs(&text).collect::<Vec<_>>(), text.split(|byte| *byte == b';').collect::<Vec<_>>());
        }

        #[test]
        fn bytes_of_one_kind_hold_no_semicolon_unless_they_are(byte: u8, length in 0..40_usize) {
            let expect = (byte == b';' && length > 0).then_some(0);
            prop_assert_eq!(semicolon(&vec![byte; length]), expect);
        }
    }

    #[test]
    fn the_cookie_is_set_with_every_protection() {
        let token = SessionToken::generate();

        for (remembered, lifetime) in [(None, ""), (Some(Duration::from_secs(30 * 86_400)), "; Max-Age=2592000")] {
            let header = set(&settings(), &token, remembered);

            let value = token.expose();
            let expected = format!("__Host-portcullis={value}; Path=/{lifetime}; Secure; HttpOnly; SameSite=Lax");
            assert_eq!(header.to_str().unwrap(), expected);
            assert!(header.is_sensitive());
        }
    }

    #[test]
    fn the_cookie_is_cleared_with_the_attributes_it_was_set_with() {
        let header = clear(&settings());

        assert_eq!(header.to_str().unwrap(), "__Host-portcullis=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn a_cookie_is_found_by_its_exact_name() {
        for (fields, expect) in [
            (&[][..], Presented::Absent),
            (&["a=1"][..], Presented::One(b"1")),
            (&["b=2; a=1;c=3"][..], Presented::One(b"1")),
            (&["b=2", "a=1"][..], Presented::One(b"1")),
            (&["a=1; a=1"][..], Presented::Several),
            (&["a=1", "a=2"][..], Presented::Several),
            (&["A=1; aa=1; a"][..], Presented::Absent),
            (&["xa=1; b=a=1"][..], Presented::Absent),
            (&["a="][..], Presented::One(b"")),
            (&["a=b=c"][..], Presented::One(b"b=c")),
            (&["a =1"][..], Presented::Absent),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::COOKIE, HeaderValue::from_static(field));
            }

            assert_eq!(find(&headers, "a"), expect, "{fields:?}");
        }
    }
}
