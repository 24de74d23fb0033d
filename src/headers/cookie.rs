//! Our own cookies, cut out of what goes upstream and of what comes back (R14, R16; RFC 6265bis).
//!
//! In: header maps and the names of our cookies. Out: the same without them; every other byte stays as it was.

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use memchr::memchr;

use super::Lines;
use crate::session::cookie::{pairs, semicolon};

/// Adds `Cookie` without our own; several fields become one (RFC 9113 section 8.2.3), none is left if all were ours.
pub(super) fn put_others<'v>(values: impl IntoIterator<Item = &'v HeaderValue>, own: &[Box<str>], lines: &mut Lines) {
    // One look at its first byte tells most pairs of others.
    let beginnings = own.iter().filter_map(|name| name.as_bytes().first()).fold(0, |all, byte| all | mark(*byte));
    let is_ours = |pair: &[u8]| {
        let pair = pair.trim_ascii_start();
        pair.first().is_some_and(|byte| beginnings & mark(*byte) != 0) && has_one_of(pair, own)
    };
    lines.put_with(&COOKIE, |line| {
        let begin = line.len();
        for value in values {
            keep_others(value.as_bytes(), &is_ours, line, begin);
        }
    });
}

/// Drops every `Set-Cookie` that names one of ours, in whatever case and with whatever blanks.
pub(super) fn drop_set_cookies(headers: &mut HeaderMap, own: &[Box<str>]) {
    let is_ours = |value: &HeaderValue| {
        let pair = pairs(value.as_bytes()).next().unwrap_or_default();
        // A cookie without a name comes back as its value alone: `=name=value` would come back as ours.
        let pair = pair.trim_ascii_start();
        let nameless = pair.iter().position(|b| *b != b'=' && !b.is_ascii_whitespace()).unwrap_or(pair.len());
        let name = name_of(pair.get(nameless..).unwrap_or_default());
        own.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name))
    };
    if !headers.get_all(SET_COOKIE).iter().any(is_ours) {
        return;
    }
    let others: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().filter(|v| !is_ours(v)).cloned().collect();
    headers.remove(SET_COOKIE);
    for value in others {
        headers.append(SET_COOKIE, value);
    }
}

/// Appends every pair that is not ours, with the blanks that stood before it, to what begins at `begin`; pairs that
/// stand together go together.
fn keep_others(value: &[u8], is_ours: &impl Fn(&[u8]) -> bool, line: &mut Vec<u8>, begin: usize) {
    let mut keep = |kept: &[u8], is_first: bool| {
        if line.len() == begin {
            // Neither blanks nor nothing at all come first.
            let text = kept.iter().position(|byte| *byte != b';' && !byte.is_ascii_whitespace());
            line.extend_from_slice(kept.get(text.unwrap_or(kept.len())..).unwrap_or_default());
        } else if is_first {
            line.extend_from_slice(b"; ");
            line.extend_from_slice(kept.trim_ascii_start());
        } else {
            line.extend_from_slice(b";");
            line.extend_from_slice(kept);
        }
    };
    let mut is_first = true;
    // Where the pairs begin that are kept and not written yet.
    let mut pending = None;
    let mut start = 0;
    while start <= value.len() {
        let rest = value.get(start..).unwrap_or_default();
        let end = semicolon(rest).map_or(value.len(), |length| start + length);
        let ours = is_ours(value.get(start..end).unwrap_or_default());
        if !ours {
            pending.get_or_insert(start);
        } else if let Some(from) = pending.take() {
            keep(value.get(from..start - 1).unwrap_or_default(), is_first);
            is_first = false;
        }
        start = end + 1;
    }
    if let Some(from) = pending {
        keep(value.get(from..).unwrap_or_default(), is_first);
    }
}

/// A bit for a byte, which it shares with three others.
const fn mark(byte: u8) -> u64 {
    1 << (byte & 63)
}

/// Whether one of the names, blanks behind it aside, is all that stands before the pair's `=`.
fn has_one_of(pair: &[u8], names: &[Box<str>]) -> bool {
    names.iter().map(|name| name.as_bytes()).any(|name| {
        // Names that begin alike, as with `__Host-`, mostly differ in length: what ends one decides before its bytes.
        let ends = pair.get(name.len()).is_none_or(|byte| *byte == b'=' || byte.is_ascii_whitespace());
        let rest = if ends { pair.strip_prefix(name) } else { None };
        rest.is_some_and(|rest| matches!(rest.trim_ascii_start().first(), None | Some(b'=')))
    })
}

fn name_of(pair: &[u8]) -> &[u8] {
    let end = memchr(b'=', pair).unwrap_or(pair.len());
    pair.get(..end).unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own() -> Box<[Box<str>]> {
        Box::new(["__Host-p".into(), "old".into()])
    }

    fn left(values: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(COOKIE, value.parse().unwrap());
        }
        let mut lines = Lines::new();
        put_others(headers.get_all(COOKIE), &own(), &mut lines);
        lines.to_map().get_all(COOKIE).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn our_cookies_are_cut_and_the_others_stay_byte_for_byte() {
        for (given, expect) in [
            (&["__Host-p=1"][..], &[][..]),
            (&["a=1; __Host-p=2; b=\"x y\""], &["a=1; b=\"x y\""]),
            (&["__Host-p=2; a=1"], &["a=1"]),
            (&["a=1;__Host-p=2"], &["a=1"]),
            (&["a=1;  b=2;old=3;c"], &["a=1;  b=2;c"]),
            (&["a=1; __Host-p = 2"], &["a=1"]),
            (&["__Host-p"], &[]),
            (&["__Host-px=1; x__Host-p=2"], &["__Host-px=1; x__Host-p=2"]),
            (&["__host-p=1"], &["__host-p=1"]),
            (&["__Host-p=1", "old=2"], &[]),
            (&["a=1", "__Host-p=2; b=3", "c=4"], &["a=1; b=3; c=4"]),
            (&["a=1", "b=2"], &["a=1; b=2"]),
            (&[""], &[]),
        ] {
            assert_eq!(left(given), expect, "{given:?}");
        }
    }

    #[test]
    fn an_upstream_cannot_set_our_cookies() {
        for (value, kept) in [
            ("a=1; Path=/", true),
            ("__Host-p=evil; Path=/; Secure", false),
            (" __Host-p =evil", false),
            ("__HOST-P=evil", false),
            ("=__Host-p=evil", false),
            ("= = __Host-p=evil", false),
            ("__Host-p", false),
            ("__Host-p; Max-Age=0", false),
            ("__Host-p2=1", true),
            ("a=__Host-p", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(SET_COOKIE, "first=1".parse().unwrap());
            headers.append(SET_COOKIE, value.parse().unwrap());
            headers.append(SET_COOKIE, "last=1".parse().unwrap());

            drop_set_cookies(&mut headers, &own());

            let left: Vec<_> = headers.get_all(SET_COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
            let expect = if kept { vec!["first=1", value, "last=1"] } else { vec!["first=1", "last=1"] };
            assert_eq!(left, expect, "{value}");
        }
    }

    proptest! {
        #[test]
        fn pairs_that_go_together_go_as_one_by_one(
            values in prop::collection::vec("([ ;=]|__Host-p=1|old|x|=| ){0,10}", 0..4)
        ) {
            // One after the other, as the rule says it: the first without blanks, the others behind a semicolon.
            let mut line = String::new();
            for value in &values {
                let mut is_first = true;
                let is_ours = |pair: &&str| has_one_of(pair.as_bytes().trim_ascii_start(), &own());
                for pair in value.split(';').filter(|pair| !is_ours(pair)) {
                    match (line.is_empty(), is_first) {
                        (true, _) => line.push_str(pair.trim_start()),
                        (false, true) => line.push_str(&format!("; {}", pair.trim_start())),
                        (false, false) => line.push_str(&format!(";{pair}")),
                    }
                    is_first = false;
                }
            }
            let fields: Vec<HeaderValue> = values.iter().map(|value| value.parse().unwrap()).collect();
            let mut lines = Lines::new();
            put_others(&fields, &own(), &mut lines);

            let expect = if line.is_empty() { String::new() } else { format!("cookie: {line}\r\n") };
            prop_assert_eq!(std::str::from_utf8(lines.as_bytes()).unwrap(), expect);
        }

        #[test]
        fn cutting_keeps_exactly_the_others(
            pairs in prop::collection::vec(prop_oneof![
                Just("__Host-p=s3cret".to_owned()), Just("old=s3cret".to_owned()), "[a-z]{1,3}=[a-z0-9=]{0,4}"
            ], 0..8)
        ) {
            let others: Vec<&String> = pairs.iter().filter(|p| !p.contains("s3cret")).collect();
            let expect: Vec<String> = others.iter().map(ToString::to_string).collect();
            let read = left(&[&pairs.join("; ")]);

            prop_assert_eq!(read.concat(), expect.join("; "));
        }
    }
}
