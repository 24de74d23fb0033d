//! The only reader of `Cookie` and `Authorization`: which one credential does a request carry? (R2)
//!
//! In: the request's headers and the route's rule. Out: one [`Credential`], or [`Ambiguous`] when the headers have no
//! single reading. Only authenticators that the rule lists are looked at. `Authorization` and the header of an API key
//! come before the cookie, and what is there is the answer, good or bad: nothing falls through to the cookie. Values are slices
//! of the headers; nothing is allocated, and every byte is looked at once.
//!
//! RFC 6750 section 2.1 (bearer), RFC 9110 section 11.4 (credentials), RFC 6265 section 4.2 (cookies), RFC 9113
//! section 8.2.3 (split cookies).

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

use crate::{
    api_key,
    policy::AccessRule,
    refusal::BadCredential,
    session::{self, cookie::Presented},
};

/// What a request offers as proof.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Credential<'a> {
    /// Nothing that the route looks at. An `Authorization` of a scheme that is no authenticator of ours (`Basic`,
    /// `Negotiate`, …) is nothing to us; on a route with `jwt` it does not go upstream either.
    None,
    /// The token of `Authorization: Bearer`, by syntax a token68, unchecked beyond that.
    Bearer(&'a [u8]),
    /// What claims to be an API key: the value of its header, or a bearer token that begins as keys do.
    ApiKey(&'a [u8]),
    /// The value of the session cookie, byte for byte, quotes included; whether it has the form of one of our tokens
    /// is for `session` to say.
    Session(&'a [u8]),
}

/// Why no credential counts: the headers can be read in more than one way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ambiguous {
    /// A proof-of-possession scheme (`DPoP`, RFC 9449) that is not served. It is explicit, so it is not passed over.
    Dpop,
    /// More than one header for an API key.
    TwoApiKeys,
    /// More than one `Authorization`.
    TwoAuthorizations,
    /// An API key in its header beside a bearer token: two explicit ones, and only one can be meant (R2).
    TwoKinds,
    /// The session cookie occurs more than once, in one field or in several.
    TwoSessionCookies,
    /// `Authorization` does not begin with a scheme, or what follows `Bearer` is not one space and one token68.
    UnreadableAuthorization,
}

impl Ambiguous {
    /// The word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dpop => "dpop_not_served",
            Self::TwoApiKeys => "two_api_keys",
            Self::TwoKinds => "two_kinds",
            Self::TwoAuthorizations => "two_authorizations",
            Self::TwoSessionCookies => "two_session_cookies",
            Self::UnreadableAuthorization => "unreadable_authorization",
        }
    }
}

impl From<Ambiguous> for BadCredential {
    fn from(ambiguous: Ambiguous) -> Self {
        Self::Ambiguous(ambiguous.label())
    }
}

/// Finds the credential that counts on a route with this rule.
///
/// `secure` says whether the request came by https, as the client sees it (R20); otherwise session cookies are not
/// read.
///
/// # Errors
/// [`Ambiguous`] when the headers that the rule looks at have no single reading. Two session cookies are refused even
/// beside a bearer token.
pub fn find<'a>(
    headers: &'a HeaderMap,
    rule: &AccessRule,
    session_cookie: &str,
    secure: bool,
) -> Result<Credential<'a>, Ambiguous> {
    let explicit = match &rule.api_key {
        None if rule.issuers.is_empty() => None,
        None => bearer(headers)?.map(Credential::Bearer),
        Some(header) => with_api_keys(headers, rule, header)?,
    };
    let session = if rule.session && secure { cookie(headers, session_cookie)? } else { None };
    Ok(match (explicit, session) {
        (Some(explicit), _) => explicit,
        (None, Some(value)) => Credential::Session(value),
        (None, None) => Credential::None,
    })
}

/// What is explicit on a route where API keys count. No JWT begins as a key does, so a bearer token is one or the
/// other; where only keys count, another bearer token is nothing to us.
fn with_api_keys<'a>(
    headers: &'a HeaderMap,
    rule: &AccessRule,
    header: &HeaderName,
) -> Result<Option<Credential<'a>>, Ambiguous> {
    let mut fields = headers.get_all(header).iter();
    let in_header = fields.next().map(|value| Credential::ApiKey(value.as_bytes()));
    if fields.next().is_some() {
        return Err(Ambiguous::TwoApiKeys);
    }
    let token = bearer(headers)?;
    let in_bearer = match token {
        Some(token) if token.starts_with(api_key::PREFIX.as_bytes()) => Some(Credential::ApiKey(token)),
        Some(token) if !rule.issuers.is_empty() => Some(Credential::Bearer(token)),
        Some(_) | None => None,
    };
    match (in_header, in_bearer) {
        (Some(_), Some(_)) => Err(Ambiguous::TwoKinds),
        (found, None) | (None, found) => Ok(found),
    }
}

/// The value of one cookie of ours, byte for byte.
///
/// # Errors
/// [`Ambiguous::TwoSessionCookies`] when the name occurs more than once.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, Ambiguous> {
    match session::cookie::find(headers, name) {
        Presented::Absent => Ok(None),
        Presented::One(value) => Ok(Some(value)),
        Presented::Several => Err(Ambiguous::TwoSessionCookies),
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, Ambiguous> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(Ambiguous::TwoAuthorizations);
    }
    let field = field.as_bytes();
    let scheme_end = field.iter().position(|&byte| !is_tchar(byte)).unwrap_or(field.len());
    let (scheme, rest) = field.split_at(scheme_end);
    if scheme.is_empty() {
        return Err(Ambiguous::UnreadableAuthorization);
    }
    if scheme.eq_ignore_ascii_case(b"dpop") {
        return Err(Ambiguous::Dpop);
    }
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(None);
    }
    let token = rest.strip_prefix(b" ").filter(|token| is_token68(token));
    token.map(Some).ok_or(Ambiguous::UnreadableAuthorization)
}

/// RFC 9110 section 5.6.2.
const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// RFC 9110 section 11.2: at least one of the alphabet, then any number of `=`.
fn is_token68(token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|&&byte| byte == b'=').count();
    let (body, _) = token.split_at(token.len() - padding);
    // Sixteen bytes at a time and without a branch, which compilers turn into vectors: tokens are long.
    let (blocks, rest) = body.as_chunks::<16>();
    let mut sound = [1; 16];
    for block in blocks {
        for (sound, byte) in sound.iter_mut().zip(block) {
            *sound &= in_token68(*byte);
        }
    }
    let all = sound.iter().copied().chain(rest.iter().map(|byte| in_token68(*byte))).fold(1, |all, one| all & one);
    !body.is_empty() && all == 1
}

/// 1 for letters, digits and `-._~+/`. Branchless: `-`, `.`, `/` and the digits are neighbours, and `| 0x20` folds
/// the case of letters without making one of anything else.
fn in_token68(byte: u8) -> u8 {
    u8::from((byte | 0x20).wrapping_sub(b'a') < 26)
        | u8::from(byte.wrapping_sub(b'-') < 13)
        | u8::from(byte == b'_')
        | u8::from(byte == b'~')
        | u8::from(byte == b'+')
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Requirements;
    use http::header::COOKIE;

    const COOKIE_NAME: &str = "__Host-portcullis";

    fn rule(session: bool, jwt: bool) -> AccessRule {
        AccessRule {
            session,
            api_key: None,
            issuers: if jwt { [0].into() } else { [].into() },
            optional: false,
            require: Requirements::default(),
            forward_credential: false,
            touch: true,
        }
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn find_both(fields: &[(HeaderName, &str)]) -> Result<Credential<'static>, Ambiguous> {
        let headers = Box::leak(Box::new(headers(fields)));
        find(headers, &rule(true, true), COOKIE_NAME, true)
    }

    #[test]
    fn token68_is_its_alphabet_wherever_the_byte_stands() {
        for byte in 0..=u8::MAX {
            let listed = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            for length in [1, 15, 16, 17, 33] {
                for at in [0, length / 2, length - 1] {
                    let mut token = vec![b'a'; length];
                    token[at] = byte;
                    // The last byte may be padding, but not all of it.
                    let padding = byte == b'=' && at == length - 1 && length > 1;
                    assert_eq!(is_token68(&token), listed || padding, "{byte} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_bearer_is_one_scheme_one_space_one_token68() {
        let unreadable = Err(Ambiguous::UnreadableAuthorization);
        let rows: &[(&str, Result<Credential<'_>, Ambiguous>)] = &[
            ("Bearer a.b.c", Ok(Credential::Bearer(b"a.b.c"))),
            ("bearer a.b.c", Ok(Credential::Bearer(b"a.b.c"))),
            ("BEARER AZaz09-._~+/==", Ok(Credential::Bearer(b"AZaz09-._~+/=="))),
            ("Basic dXNlcjpwYXNz", Ok(Credential::None)),
            ("Negotiate abc", Ok(Credential::None)),
            ("Bearers a.b.c", Ok(Credential::None)),
            ("DPoP a.b.c", Err(Ambiguous::Dpop)),
            ("Bearer", unreadable),
            ("Bearer ", unreadable),
            ("Bearer  a.b.c", unreadable),
            ("Bearer\ta.b.c", unreadable),
            ("Bearer a.b.c ", unreadable),
            ("Bearer a.b.c d", unreadable),
            ("Bearer a.b.c, Bearer d", unreadable),
            ("Bearer \"a.b.c\"", unreadable),
            ("Bearer a=b", unreadable),
            ("Bearer ==", unreadable),
            ("Bearer token=\"a.b.c\"", unreadable),
            ("Bearer: a.b.c", unreadable),
            (" Bearer a.b.c", unreadable),
            (",Bearer a.b.c", unreadable),
            ("", unreadable),
        ];
        for (value, expect) in rows {
            assert_eq!(find_both(&[(AUTHORIZATION, value)]), *expect, "{value:?}");
        }
    }

    #[test]
    fn the_session_cookie_is_found_by_its_exact_name() {
        let rows: &[(&str, Result<Credential<'_>, Ambiguous>)] = &[
            ("__Host-portcullis=abc", Ok(Credential::Session(b"abc"))),
            ("a=1; __Host-portcullis=abc; b=2", Ok(Credential::Session(b"abc"))),
            ("a=1;__Host-portcullis=abc;b=2", Ok(Credential::Session(b"abc"))),
            (";; __Host-portcullis=a=b ;", Ok(Credential::Session(b"a=b"))),
            ("__Host-portcullis=", Ok(Credential::Session(b""))),
            ("__Host-portcullis=\"abc\"", Ok(Credential::Session(b"\"abc\""))),
            ("__host-portcullis=abc", Ok(Credential::None)),
            ("__Host-portcullis2=abc", Ok(Credential::None)),
            ("x__Host-portcullis=abc", Ok(Credential::None)),
            ("__Host-portcullis", Ok(Credential::None)),
            ("__Host-portcullis =abc", Ok(Credential::None)),
            ("a=__Host-portcullis=abc", Ok(Credential::None)),
            ("", Ok(Credential::None)),
            ("__Host-portcullis=a; __Host-portcullis=b", Err(Ambiguous::TwoSessionCookies)),
            ("__Host-portcullis=a; x=1; __Host-portcullis=a", Err(Ambiguous::TwoSessionCookies)),
            ("__Host-portcullis=a; __Host-portcullis=", Err(Ambiguous::TwoSessionCookies)),
        ];
        for (value, expect) in rows {
            assert_eq!(find_both(&[(COOKIE, value)]), *expect, "{value:?}");
        }
    }

    #[test]
    fn a_session_cookie_split_off_into_its_own_field_is_found() {
        let fields = [(COOKIE, "a=1"), (COOKIE, "__Host-portcullis=abc"), (COOKIE, "b=2")];

        assert_eq!(find_both(&fields), Ok(Credential::Session(b"abc")));
    }

    #[test]
    fn two_of_a_kind_are_refused() {
        let two_cookies = [(COOKIE, "__Host-portcullis=a"), (COOKIE, "b=2; __Host-portcullis=a")];
        let two_bearers = [(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer a")];
        let bearer_and_basic = [(AUTHORIZATION, "Basic a"), (AUTHORIZATION, "Bearer a")];
        let bearer_beside_two_cookies = [(AUTHORIZATION, "Bearer a"), two_cookies[0].clone(), two_cookies[1].clone()];

        assert_eq!(find_both(&two_cookies), Err(Ambiguous::TwoSessionCookies));
        assert_eq!(find_both(&two_bearers), Err(Ambiguous::TwoAuthorizations));
        assert_eq!(find_both(&bearer_and_basic), Err(Ambiguous::TwoAuthorizations));
        assert_eq!(find_both(&bearer_beside_two_cookies), Err(Ambiguous::TwoSessionCookies));
    }

    #[test]
    fn an_explicit_bearer_beats_the_cookie() {
        let cookie = (COOKIE, "__Host-portcullis=abc");

        let good = [cookie.clone(), (AUTHORIZATION, "Bearer a.b.c")];
        let bad = [cookie.clone(), (AUTHORIZATION, "Bearer a b")];
        let dpop = [cookie.clone(), (AUTHORIZATION, "dpop a")];
        let foreign = [cookie, (AUTHORIZATION, "Basic dXNlcjpwYXNz")];

        assert_eq!(find_both(&good), Ok(Credential::Bearer(b"a.b.c")));
        assert_eq!(find_both(&bad), Err(Ambiguous::UnreadableAuthorization));
        assert_eq!(find_both(&dpop), Err(Ambiguous::Dpop));
        assert_eq!(find_both(&foreign), Ok(Credential::Session(b"abc")));
    }

    #[test]
    fn what_the_route_does_not_list_is_not_looked_at() {
        let both = headers(&[(AUTHORIZATION, "Bearer a.b.c"), (COOKIE, "__Host-portcullis=abc")]);
        let doubled = headers(&[
            (AUTHORIZATION, "Bearer a"),
            (AUTHORIZATION, "Bearer b"),
            (COOKIE, "__Host-portcullis=a; __Host-portcullis=b"),
        ]);

        assert_eq!(find(&both, &rule(true, false), COOKIE_NAME, true), Ok(Credential::Session(b"abc")));
        assert_eq!(find(&both, &rule(false, true), COOKIE_NAME, true), Ok(Credential::Bearer(b"a.b.c")));
        assert_eq!(find(&both, &rule(false, false), COOKIE_NAME, true), Ok(Credential::None));
        assert_eq!(find(&doubled, &rule(false, false), COOKIE_NAME, true), Ok(Credential::None));
    }

    #[test]
    fn session_cookies_count_only_over_https() {
        let cookie = headers(&[(COOKIE, "__Host-portcullis=abc")]);
        let bearer = headers(&[(AUTHORIZATION, "Bearer a.b.c"), (COOKIE, "__Host-portcullis=abc")]);

        assert_eq!(find(&cookie, &rule(true, true), COOKIE_NAME, true), Ok(Credential::Session(b"abc")));
        assert_eq!(find(&cookie, &rule(true, true), COOKIE_NAME, false), Ok(Credential::None));
        assert_eq!(find(&bearer, &rule(true, true), COOKIE_NAME, false), Ok(Credential::Bearer(b"a.b.c")));
    }

    proptest! {
        #[test]
        fn a_bearer_that_is_found_is_a_token68(value in "[Bb]earer[ \t]{0,2}[a-z.=, \"]{0,12}") {
            let headers = headers(&[(AUTHORIZATION, &value)]);
            if let Ok(Credential::Bearer(token)) = find(&headers, &rule(true, true), COOKIE_NAME, true) {
                prop_assert!(is_token68(token));
                prop_assert_eq!(value.as_bytes().strip_suffix(token).map(<[u8]>::len), Some("Bearer ".len()));
            }
        }

        #[test]
        fn cookies_are_counted_as_a_naive_reader_counts_them(
            fields in proptest::collection::vec("([ ;=]|sid|x|\"){0,12}", 0..4),
        ) {
            let mut map = HeaderMap::new();
            for field in &fields {
                map.append(COOKIE, HeaderValue::from_str(field).unwrap());
            }
            let values: Vec<&str> = fields
                .iter()
                .flat_map(|field| field.split(';'))
                .filter_map(|pair| pair.trim().split_once('='))
                .filter_map(|(name, value)| (name == "sid").then_some(value))
                .collect();
            let expect = match values[..] {
                [] => Ok(Credential::None),
                [value] => Ok(Credential::Session(value.as_bytes())),
                _ => Err(Ambiguous::TwoSessionCookies),
            };
            prop_assert_eq!(find(&map, &rule(true, true), "sid", true), expect);
        }
    }
}
