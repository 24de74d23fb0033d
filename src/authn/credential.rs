//! The only reader of `Cookie`, `Authorization` and the other headers of credentials: which one does a request carry?
//! (R2)
//!
//! In: the request's headers and the route's rule. Out: one [`Credential`], or [`Ambiguous`] when the headers have no
//! single reading. Only authenticators that the rule lists are looked at. What is explicit (`Authorization`, the header
//! of an API key, the header of a token) comes before cookies, the cookie of a token before that of a session, and what
//! is there is the answer, good or bad: nothing falls through to the next. Two explicit ones are refused. Values are
//! slices of the headers; nothing is allocated. A query is never looked at: URLs end in logs (RFC 6750 section 2.3).
//!
//! RFC 6750 section 2.1 (bearer), RFC 9110 section 11.4 (credentials), RFC 6265 section 4.2 (cookies), RFC 9113
//! section 8.2.3 (split cookies).

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use crate::{
    api_key,
    inbound::{self, Doubled},
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
    /// What stands where a token belongs; a bearer's, but for [`Carrier::Dpop`].
    Bearer {
        /// Its bytes, which nobody has looked at yet.
        token: Unread<'a>,
        /// Where it was found.
        carrier: Carrier,
    },
    /// What claims to be an API key: the value of its header, or a bearer token that begins as keys do.
    ApiKey(&'a [u8]),
    /// The value of the session cookie, byte for byte, quotes included; whether it has the form of one of our tokens
    /// is for `session` to say.
    Session(&'a [u8]),
}

/// What stands where a token belongs. Whether it is one, by syntax a token68, is looked at once: bytes that equal a
/// token's that was verified before are one, and need no second look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unread<'a> {
    text: &'a [u8],
    /// What it is if it is no token68.
    otherwise: Ambiguous,
}

/// Where a request carries its bearer token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carrier {
    /// `Authorization: Bearer`.
    Authorization,
    /// The cookie of [`TokenPlaces`].
    Cookie,
    /// `Authorization: DPoP`: with a proof of possession in another header (RFC 9449 section 7.1).
    Dpop,
    /// The header of [`TokenPlaces`].
    Header,
}

impl<'a> Unread<'a> {
    /// What was found at a carrier.
    pub const fn new(text: &'a [u8], carrier: Carrier) -> Self {
        let otherwise = match carrier {
            Carrier::Authorization | Carrier::Dpop => Ambiguous::UnreadableAuthorization,
            Carrier::Cookie | Carrier::Header => Ambiguous::UnreadableToken,
        };
        Self { text, otherwise }
    }

    /// The token: quotes, blanks and lists are none.
    ///
    /// # Errors
    /// [`Ambiguous::UnreadableAuthorization`] or [`Ambiguous::UnreadableToken`], by where it was found.
    pub fn read(self) -> Result<&'a [u8], Ambiguous> {
        if is_token68(self.text) { Ok(self.text) } else { Err(self.otherwise) }
    }

    /// The bytes, whatever they are: to be compared with a token's, or hashed.
    pub(super) const fn text(self) -> &'a [u8] {
        self.text
    }
}

impl Carrier {
    /// Whether browsers add it by themselves, so that only requests from our own pages count (R31).
    pub const fn is_ambient(self) -> bool {
        match self {
            Self::Cookie => true,
            Self::Authorization | Self::Dpop | Self::Header => false,
        }
    }
}

/// Where bearer tokens are looked for besides `Authorization`, on every route that takes them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TokenPlaces {
    /// `jwt.cookie`: read over https only, and cut out of `Cookie` on every route.
    pub cookie: Option<Box<str>>,
    /// `jwt.header`: holds the token alone, and is removed on every route.
    pub header: Option<HeaderName>,
}

/// Why no credential counts: the headers can be read in more than one way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ambiguous {
    /// `Authorization: DPoP` (RFC 9449) where no issuer's tokens count. It is explicit, so it is not passed over.
    Dpop,
    /// More than one header for an API key.
    TwoApiKeys,
    /// More than one `Authorization`.
    TwoAuthorizations,
    /// Two explicit credentials in different headers, and only one can be meant (R2).
    TwoKinds,
    /// The session cookie occurs more than once, in one field or in several.
    TwoSessionCookies,
    /// The cookie of a token occurs more than once, in one field or in several.
    TwoTokenCookies,
    /// More than one header for a token.
    TwoTokenHeaders,
    /// `Authorization` does not begin with a scheme, or what follows `Bearer` is not one space and one token68.
    UnreadableAuthorization,
    /// The cookie or the header of a token holds something else than one token68.
    UnreadableToken,
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
            Self::TwoTokenCookies => "two_token_cookies",
            Self::TwoTokenHeaders => "two_token_headers",
            Self::UnreadableAuthorization => "unreadable_authorization",
            Self::UnreadableToken => "unreadable_token",
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
/// `secure` says whether the request came by https, as the client sees it (R20); otherwise cookies are not read.
///
/// # Errors
/// [`Ambiguous`] when the headers that the rule looks at have no single reading. Two cookies of a kind are refused even
/// beside an explicit credential.
pub fn find<'a>(
    headers: &'a HeaderMap,
    rule: &AccessRule,
    session_cookie: &str,
    tokens: &TokenPlaces,
    secure: bool,
) -> Result<Credential<'a>, Ambiguous> {
    let explicit = explicit(headers, rule, tokens)?;
    let in_cookie = match &tokens.cookie {
        Some(name) if secure && !rule.issuers.is_empty() => only_cookie(headers, name, Ambiguous::TwoTokenCookies)?,
        Some(_) | None => None,
    };
    let session = if rule.session && secure { cookie(headers, session_cookie)? } else { None };
    Ok(match (explicit, in_cookie, session) {
        (Some(explicit), _, _) => explicit,
        (None, Some(value), _) => token_credential((value, Carrier::Cookie)),
        (None, None, Some(value)) => Credential::Session(value),
        (None, None, None) => Credential::None,
    })
}

/// What goes upstream as `Authorization` of a token that was verified, where a route forwards it: the field itself, or
/// the token of another header or a cookie as RFC 6750 section 2.1 writes it, so that backends have one place to look.
pub fn as_authorization(headers: &HeaderMap, token: Unread<'_>, carrier: Carrier) -> Option<HeaderValue> {
    let mut value = match carrier {
        Carrier::Authorization | Carrier::Dpop => headers.get(AUTHORIZATION)?.clone(),
        Carrier::Cookie | Carrier::Header => HeaderValue::from_bytes(&[b"Bearer ", token.text()].concat()).ok()?,
    };
    value.set_sensitive(true);
    Some(value)
}

/// The one credential that somebody has put in on purpose: `Authorization`, the header of an API key, that of a token.
fn explicit<'a>(
    headers: &'a HeaderMap,
    rule: &AccessRule,
    tokens: &TokenPlaces,
) -> Result<Option<Credential<'a>>, Ambiguous> {
    let takes_tokens = !rule.issuers.is_empty();
    let of_authorization = match &rule.api_key {
        None if !takes_tokens => return Ok(None),
        None => of_authorization(headers)?.map(token_credential),
        Some(header) => with_api_keys(headers, rule, header)?,
    };
    let of_header = match &tokens.header {
        Some(name) if takes_tokens => only(headers, name, Ambiguous::TwoTokenHeaders)?,
        Some(_) | None => None,
    };
    match (of_authorization, of_header) {
        (Some(_), Some(_)) => Err(Ambiguous::TwoKinds),
        (None, Some(value)) => Ok(Some(token_credential((value, Carrier::Header)))),
        (found, None) => Ok(found),
    }
}

/// What is explicit on a route where API keys count. No JWT begins as a key does, so a bearer token is one or the
/// other; where only keys count, another bearer token is nothing to us.
fn with_api_keys<'a>(
    headers: &'a HeaderMap,
    rule: &AccessRule,
    header: &HeaderName,
) -> Result<Option<Credential<'a>>, Ambiguous> {
    let in_header = only(headers, header, Ambiguous::TwoApiKeys)?.map(Credential::ApiKey);
    let in_bearer = match of_authorization(headers)? {
        Some((token, Carrier::Authorization)) if token.starts_with(api_key::PREFIX.as_bytes()) => {
            Some(Credential::ApiKey(Unread::new(token, Carrier::Authorization).read()?))
        }
        Some(token) if !rule.issuers.is_empty() => Some(token_credential(token)),
        Some((token, carrier)) => {
            Unread::new(token, carrier).read()?;
            if carrier == Carrier::Dpop {
                return Err(Ambiguous::Dpop);
            }
            None
        }
        None => None,
    };
    match (in_header, in_bearer) {
        (Some(_), Some(_)) => Err(Ambiguous::TwoKinds),
        (found, None) | (None, found) => Ok(found),
    }
}

const fn token_credential<'a>((text, carrier): (&'a [u8], Carrier)) -> Credential<'a> {
    Credential::Bearer { token: Unread::new(text, carrier), carrier }
}

/// The value of a header that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName, doubled: Ambiguous) -> Result<Option<&'a [u8]>, Ambiguous> {
    inbound::only(headers, name).map(|field| field.map(HeaderValue::as_bytes)).map_err(|Doubled| doubled)
}

/// The value of the session cookie, or of another that opens sessions, byte for byte.
///
/// # Errors
/// [`Ambiguous::TwoSessionCookies`] when the name occurs more than once.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, Ambiguous> {
    only_cookie(headers, name, Ambiguous::TwoSessionCookies)
}

fn only_cookie<'a>(headers: &'a HeaderMap, name: &str, doubled: Ambiguous) -> Result<Option<&'a [u8]>, Ambiguous> {
    match session::cookie::find(headers, name) {
        Presented::Absent => Ok(None),
        Presented::One(value) => Ok(Some(value)),
        Presented::Several => Err(doubled),
    }
}

/// What follows `Authorization: Bearer` or `DPoP` and one space.
fn of_authorization(headers: &HeaderMap) -> Result<Option<(&[u8], Carrier)>, Ambiguous> {
    let Some(field) = only(headers, &AUTHORIZATION, Ambiguous::TwoAuthorizations)? else {
        return Ok(None);
    };
    if let Some((scheme, token)) = field.split_first_chunk::<7>()
        && scheme.eq_ignore_ascii_case(b"bearer ")
    {
        return Ok(Some((token, Carrier::Authorization)));
    }
    let scheme_end = field.iter().position(|&byte| !is_tchar(byte)).unwrap_or(field.len());
    let (scheme, rest) = field.split_at(scheme_end);
    if scheme.is_empty() {
        return Err(Ambiguous::UnreadableAuthorization);
    }
    let carrier = if scheme.eq_ignore_ascii_case(b"bearer") {
        Carrier::Authorization
    } else if scheme.eq_ignore_ascii_case(b"dpop") {
        Carrier::Dpop
    } else {
        return Ok(None);
    };
    let token = rest.strip_prefix(b" ").ok_or(Ambiguous::UnreadableAuthorization)?;
    Ok(Some((token, carrier)))
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
    use http::header::COOKIE;

    const COOKIE_NAME: &str = "__Host-portcullis";
    const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");
    const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-token");

    fn rule(session: bool, jwt: bool) -> AccessRule {
        AccessRule { session, issuers: if jwt { [0].into() } else { [].into() }, ..AccessRule::default() }
    }

    const fn bearer_credential(token: &[u8]) -> Credential<'_> {
        token_credential((token, Carrier::Authorization))
    }

    const fn dpop_credential(token: &[u8]) -> Credential<'_> {
        token_credential((token, Carrier::Dpop))
    }

    /// As [`super::find`], and whoever finds a token reads it.
    fn find<'a>(
        headers: &'a HeaderMap,
        rule: &AccessRule,
        session_cookie: &str,
        tokens: &TokenPlaces,
        secure: bool,
    ) -> Result<Credential<'a>, Ambiguous> {
        let found = super::find(headers, rule, session_cookie, tokens, secure)?;
        if let Credential::Bearer { token, .. } = found {
            token.read()?;
        }
        Ok(found)
    }

    fn nowhere() -> TokenPlaces {
        TokenPlaces::default()
    }

    fn token_places() -> TokenPlaces {
        TokenPlaces { cookie: Some("token".into()), header: Some(TOKEN_HEADER) }
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
        find(headers, &rule(true, true), COOKIE_NAME, &nowhere(), true)
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
            ("Bearer a.b.c", Ok(bearer_credential(b"a.b.c"))),
            ("bearer a.b.c", Ok(bearer_credential(b"a.b.c"))),
            ("BEARER AZaz09-._~+/==", Ok(bearer_credential(b"AZaz09-._~+/=="))),
            ("Basic dXNlcjpwYXNz", Ok(Credential::None)),
            ("Negotiate abc", Ok(Credential::None)),
            ("Bearers a.b.c", Ok(Credential::None)),
            ("DPoP a.b.c", Ok(dpop_credential(b"a.b.c"))),
            ("dpop a.b.c", Ok(dpop_credential(b"a.b.c"))),
            ("DPoP", unreadable),
            ("DPoP  a.b.c", unreadable),
            ("DPoP a.b.c, DPoP d", unreadable),
            ("DPoP a.b.c d", unreadable),
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

        assert_eq!(find_both(&good), Ok(bearer_credential(b"a.b.c")));
        assert_eq!(find_both(&bad), Err(Ambiguous::UnreadableAuthorization));
        assert_eq!(find_both(&dpop), Ok(dpop_credential(b"a")));
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

        assert_eq!(find(&both, &rule(true, false), COOKIE_NAME, &nowhere(), true), Ok(Credential::Session(b"abc")));
        assert_eq!(find(&both, &rule(false, true), COOKIE_NAME, &nowhere(), true), Ok(bearer_credential(b"a.b.c")));
        assert_eq!(find(&both, &rule(false, false), COOKIE_NAME, &nowhere(), true), Ok(Credential::None));
        assert_eq!(find(&doubled, &rule(false, false), COOKIE_NAME, &nowhere(), true), Ok(Credential::None));
    }

    #[test]
    fn session_cookies_count_only_over_https() {
        let cookie = headers(&[(COOKIE, "__Host-portcullis=abc")]);
        let bearer = headers(&[(AUTHORIZATION, "Bearer a.b.c"), (COOKIE, "__Host-portcullis=abc")]);

        assert_eq!(find(&cookie, &rule(true, true), COOKIE_NAME, &nowhere(), true), Ok(Credential::Session(b"abc")));
        assert_eq!(find(&cookie, &rule(true, true), COOKIE_NAME, &nowhere(), false), Ok(Credential::None));
        assert_eq!(find(&bearer, &rule(true, true), COOKIE_NAME, &nowhere(), false), Ok(bearer_credential(b"a.b.c")));
    }

    #[test]
    fn a_token_is_found_in_its_header_and_in_its_cookie_and_explicit_beats_ambient() {
        let authorization = (AUTHORIZATION, "Bearer a.b.c");
        let header = (TOKEN_HEADER, "d.e.f");
        let cookie = (COOKIE, "token=g.h.i");
        let session = (COOKIE, "__Host-portcullis=abc");
        let key = (KEY_HEADER, "ptc_1");
        let in_header = Ok(token_credential((b"d.e.f", Carrier::Header)));
        let in_cookie = Ok(token_credential((b"g.h.i", Carrier::Cookie)));
        let rule = AccessRule { api_key: Some(KEY_HEADER), ..rule(true, true) };
        type Row<'a> = (&'a [&'a (HeaderName, &'a str)], Result<Credential<'a>, Ambiguous>);
        let rows: &[Row<'_>] = &[
            (&[&header], in_header),
            (&[&cookie], in_cookie),
            (&[&cookie, &session], in_cookie),
            (&[&session, &cookie], in_cookie),
            (&[&cookie, &session, &header], in_header),
            (&[&cookie, &session, &authorization], Ok(bearer_credential(b"a.b.c"))),
            (&[&cookie, &session, &key], Ok(Credential::ApiKey(b"ptc_1"))),
            (&[&(AUTHORIZATION, "Basic YTpi"), &cookie], in_cookie),
            (&[&(AUTHORIZATION, "Basic YTpi"), &header], in_header),
            (&[&authorization, &header], Err(Ambiguous::TwoKinds)),
            (&[&(AUTHORIZATION, "Bearer ptc_1"), &header], Err(Ambiguous::TwoKinds)),
            (&[&key, &header], Err(Ambiguous::TwoKinds)),
            (&[&(AUTHORIZATION, "Bearer"), &cookie], Err(Ambiguous::UnreadableAuthorization)),
            (&[&header, &header], Err(Ambiguous::TwoTokenHeaders)),
            (&[&cookie, &cookie], Err(Ambiguous::TwoTokenCookies)),
            (&[&(COOKIE, "token=a; token=a")], Err(Ambiguous::TwoTokenCookies)),
            (&[&(COOKIE, "token=a; token=a"), &authorization], Err(Ambiguous::TwoTokenCookies)),
            (&[&cookie, &session, &session], Err(Ambiguous::TwoSessionCookies)),
            (&[&(TOKEN_HEADER, ""), &cookie], Err(Ambiguous::UnreadableToken)),
            (&[&(TOKEN_HEADER, "Bearer d.e.f")], Err(Ambiguous::UnreadableToken)),
            (&[&(TOKEN_HEADER, "d.e.f, d.e.f")], Err(Ambiguous::UnreadableToken)),
            (&[&(COOKIE, "token="), &session], Err(Ambiguous::UnreadableToken)),
            (&[&(COOKIE, "token=\"a.b.c\"")], Err(Ambiguous::UnreadableToken)),
            (&[&(COOKIE, "Token=a.b.c")], Ok(Credential::None)),
        ];
        for (fields, expect) in rows {
            let fields: Vec<_> = fields.iter().map(|field| (*field).clone()).collect();
            assert_eq!(find(&headers(&fields), &rule, COOKIE_NAME, &token_places(), true), *expect, "{fields:?}");
        }
    }

    #[test]
    fn the_places_of_tokens_are_looked_at_where_tokens_count_and_cookies_over_https() {
        let both = headers(&[(TOKEN_HEADER, "d.e.f"), (TOKEN_HEADER, "d.e.f"), (COOKIE, "token=a; token=a")]);
        let cookie = headers(&[(COOKIE, "token=a.b.c")]);
        let keys_only = AccessRule { api_key: Some(KEY_HEADER), ..rule(false, false) };
        let ask = |headers: &HeaderMap, rule: &AccessRule, secure| {
            matches!(find(headers, rule, COOKIE_NAME, &token_places(), secure), Ok(Credential::None))
        };

        assert!(ask(&both, &rule(true, false), true) && ask(&both, &keys_only, true));
        assert!(ask(&cookie, &rule(true, true), false) && !ask(&cookie, &rule(true, true), true));
        assert!(!ask(&both, &rule(false, true), false));
        assert_eq!(find(&both, &rule(true, true), COOKIE_NAME, &nowhere(), true), Ok(Credential::None));
    }

    #[test]
    fn a_token_goes_on_in_the_one_form_of_authorization() {
        let fields = headers(&[(AUTHORIZATION, "bearer a.b.c")]);
        let basic = headers(&[(AUTHORIZATION, "Basic YTpi"), (COOKIE, "token=a.b.c")]);

        let token = |carrier| Unread::new(b"a.b.c", carrier);
        let as_sent = as_authorization(&fields, token(Carrier::Authorization), Carrier::Authorization).unwrap();
        assert_eq!(as_sent, "bearer a.b.c");
        for carrier in [Carrier::Cookie, Carrier::Header] {
            let made = as_authorization(&basic, token(carrier), carrier).unwrap();
            assert_eq!(made, "Bearer a.b.c");
            assert!(made.is_sensitive());
        }
    }

    proptest! {
        #[test]
        fn a_bearer_that_is_found_is_a_token68(value in "[Bb]earer[ \t]{0,2}[a-z.=, \"]{0,12}") {
            let headers = headers(&[(AUTHORIZATION, &value)]);
            if let Ok(Credential::Bearer { token, .. }) = find(&headers, &rule(true, true), COOKIE_NAME, &nowhere(), true) {
                let token = token.read().unwrap();
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
            prop_assert_eq!(find(&map, &rule(true, true), "sid", &nowhere(), true), expect);
        }
    }
}
