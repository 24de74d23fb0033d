//! What each inbound header is to us, told by its name in a few comparisons.
//!
//! In: a header name in lower case. Out: its [`Kind`]. One table for all concerns, so that a request's names are
//! looked at once. Invariant: every name that any identity profile sets is [`Kind::Identity`] or
//! [`Kind::Forwarding`], which are removed on every route (R12, R15).

use http::{
    HeaderName,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE,
        HOST, REFERER, USER_AGENT,
    },
};
use smallvec::SmallVec;

use super::Settings;

/// What is done with a header of the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Goes upstream only where the route says so (R14).
    Authorization,
    /// Names further hop-by-hop fields (RFC 9110 section 7.6.1).
    Connection,
    /// Loses our own cookies (R14).
    Cookie,
    /// Asks for `100 Continue`, which is settled where the body is sent.
    Expect,
    /// Tells of the client or of another target; never believed here, always removed (R11, R15).
    Forwarding,
    /// Says how long the body is; only in its own spelling.
    Framing,
    /// Concerns one connection; removed.
    Hop,
    /// Written afresh.
    Host,
    /// An identity header; removed, then set by us (R12).
    Identity,
    /// Removed on routes with `methods` (R11).
    MethodOverride,
    /// Passes untouched.
    Ordinary,
    /// Proves whose a token is, and goes where that goes (RFC 9449).
    Proof,
    /// Written afresh.
    RequestId,
    /// Which codings and trailers the client takes; removed, but for what is said to the next hop again.
    Te,
    /// Kept if well-formed.
    Traceparent,
    /// Kept beside a `traceparent` that is kept.
    Tracestate,
    /// Removed; a permitted WebSocket asks for its own upgrade (R17).
    Upgrade,
    /// Written afresh for a permitted WebSocket over HTTP/1.1 (R17).
    WebSocketKey,
}

/// The kind of a name; `None`: to be dropped because the name has characters outside `[a-z0-9-]` (R12).
///
/// A name that passes by `keep_odd_names` is judged as a CGI-like backend would read it, `_` and `.` as `-`; if that
/// is a name of any concern to us, the odd spelling is dropped all the same.
#[inline]
pub(super) fn kind(name: &HeaderName, settings: &Settings) -> Option<Kind> {
    match usual(name) {
        Some(Kind::Ordinary) if is_extra(name.as_str().as_bytes(), settings) => Some(Kind::Identity),
        Some(kind) => Some(kind),
        None => kind_of_unusual(name.as_str().as_bytes(), settings),
    }
}

fn kind_of_unusual(text: &[u8], settings: &Settings) -> Option<Kind> {
    // Without a branch for each byte: names are short, and nearly all are plain.
    if text.iter().fold(true, |plain, byte| plain & IS_PLAIN[usize::from(*byte)]) {
        let kind = known(text);
        return Some(if kind == Kind::Ordinary && is_extra(text, settings) { Kind::Identity } else { kind });
    }
    if !settings.keep_odd_names {
        return None;
    }
    let folded: SmallVec<[u8; 64]> = text.iter().copied().map(fold).collect();
    (known(&folded) == Kind::Ordinary && !is_extra(&folded, settings)).then_some(Kind::Ordinary)
}

/// Whether the name is one of those that are treated in a way of their own, whatever the settings.
pub(super) fn has_meaning(name: &HeaderName) -> bool {
    known(name.as_str().as_bytes()) != Kind::Ordinary
}

/// Whether a field may come as a trailer: one that only informs, with a name that all read alike.
pub(super) fn may_come_late(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.bytes().all(|byte| IS_PLAIN[usize::from(byte)])
        && known(text.as_bytes()) == Kind::Ordinary
        && !NEVER_LATE.contains(&text)
        && !NEVER_LATE_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// Whether a name, however spelled, is one of these.
pub(super) fn is_among(name: &HeaderName, names: &[HeaderName]) -> bool {
    names.iter().any(|known| {
        let (known, name) = (known.as_str().as_bytes(), name.as_str().as_bytes());
        known.len() == name.len() && known.iter().zip(name).all(|(a, b)| fold(*a) == fold(*b))
    })
}

/// How a CGI-like backend reads a byte of a name.
const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Whether a CGI-like backend could take one name for the other.
pub(super) fn is_read_as(name: &HeaderName, other: &HeaderName) -> bool {
    let (name, other) = (name.as_str().as_bytes(), other.as_str().as_bytes());
    name.len() == other.len() && name.iter().zip(other).all(|(a, b)| fold(*a) == fold(*b))
}

/// Whether a header of this name could be sent besides all that we do with the names of others.
pub(super) fn is_free(name: &HeaderName) -> bool {
    matches!(known(name.as_str().as_bytes()), Kind::Identity | Kind::Ordinary)
}

#[inline]
fn is_extra(folded: &[u8], settings: &Settings) -> bool {
    // Nearly always there are none, and this is asked of every field.
    (!settings.extra.is_empty() || !settings.removed.is_empty()) && is_one_of_extra(folded, settings)
}

fn is_one_of_extra(folded: &[u8], settings: &Settings) -> bool {
    settings.extra.iter().map(|(extra, _)| extra).chain(&settings.removed).any(|extra| {
        let extra = extra.as_str().as_bytes();
        extra.len() == folded.len() && extra.iter().zip(folded).all(|(a, b)| fold(*a) == *b)
    })
}

/// The kind of a name that nearly every client sends.
#[inline]
fn usual(name: &HeaderName) -> Option<Kind> {
    // Names that HTTP itself knows are numbers: all these comparisons become one look at a table.
    if [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_TYPE, REFERER, USER_AGENT].contains(name) {
        return Some(Kind::Ordinary);
    }
    if *name == HOST {
        Some(Kind::Host)
    } else if *name == COOKIE {
        Some(Kind::Cookie)
    } else if *name == AUTHORIZATION {
        Some(Kind::Authorization)
    } else if *name == CONNECTION {
        Some(Kind::Connection)
    } else if *name == CONTENT_LENGTH {
        Some(Kind::Framing)
    } else {
        usual_text(name.as_str().as_bytes())
    }
}

/// The same of those that HTTP itself may not know, told by one comparison.
fn usual_text(name: &[u8]) -> Option<Kind> {
    let (usual, kind) = USUAL_BY_PLACE[place(name)?];
    (usual.as_bytes() == name).then_some(kind)
}

/// Where in [`USUAL_BY_PLACE`] a name stands, if it is one of [`USUAL`], whose places all differ.
const fn place(name: &[u8]) -> Option<usize> {
    if name.len() < 4 {
        return None;
    }
    let (end, middle) = (name[name.len() - 4] as usize, name[name.len() / 2] as usize);
    Some((name.len() * 14 + end * 33 + middle * 23) % PLACES)
}

fn known(name: &[u8]) -> Kind {
    let Some(first) = name.first() else {
        return Kind::Ordinary;
    };
    // Most names end here: none of ours has this length and this first letter.
    if let Some(of_length) = BY_LENGTH.get(name.len())
        && of_length.initials & initial(*first) != 0
        && let Some(names) = KNOWN.get(of_length.start..of_length.end)
    {
        for (known, kind) in names {
            if known.as_bytes() == name {
                return *kind;
            }
        }
    }
    if *first == b'x' {
        for (prefix, kind) in PREFIXES {
            if name.starts_with(prefix.as_bytes()) {
                return *kind;
            }
        }
    }
    Kind::Ordinary
}

/// What [`known`] says of the names that are usual.
const USUAL: &[(&str, Kind)] = &[
    ("accept", Kind::Ordinary),
    ("accept-charset", Kind::Ordinary),
    ("accept-encoding", Kind::Ordinary),
    ("accept-language", Kind::Ordinary),
    ("authorization", Kind::Authorization),
    ("cache-control", Kind::Ordinary),
    ("connection", Kind::Connection),
    ("content-length", Kind::Framing),
    ("content-type", Kind::Ordinary),
    ("cookie", Kind::Cookie),
    ("host", Kind::Host),
    ("if-modified-since", Kind::Ordinary),
    ("if-none-match", Kind::Ordinary),
    ("origin", Kind::Ordinary),
    ("pragma", Kind::Ordinary),
    ("priority", Kind::Ordinary),
    ("range", Kind::Ordinary),
    ("referer", Kind::Ordinary),
    ("sec-ch-ua", Kind::Ordinary),
    ("sec-ch-ua-mobile", Kind::Ordinary),
    ("sec-ch-ua-platform", Kind::Ordinary),
    ("sec-fetch-dest", Kind::Ordinary),
    ("sec-fetch-mode", Kind::Ordinary),
    ("sec-fetch-site", Kind::Ordinary),
    ("sec-fetch-user", Kind::Ordinary),
    ("traceparent", Kind::Traceparent),
    ("upgrade-insecure-requests", Kind::Ordinary),
    ("user-agent", Kind::Ordinary),
    ("x-forwarded-for", Kind::Forwarding),
    ("x-forwarded-host", Kind::Forwarding),
    ("x-forwarded-port", Kind::Forwarding),
    ("x-forwarded-proto", Kind::Forwarding),
    ("x-real-ip", Kind::Forwarding),
    ("x-request-id", Kind::RequestId),
    ("x-requested-with", Kind::Ordinary),
];

/// What controls, conditions, authenticates or describes a message, besides what is treated in a way of its own
/// (RFC 9110 section 6.5.1).
const NEVER_LATE: &[&str] = &[
    "age",
    "authentication-info",
    "cache-control",
    "clear-site-data",
    "date",
    "expires",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authentication-info",
    "range",
    "refresh",
    "retry-after",
    "service-worker-allowed",
    "set-cookie",
    "strict-transport-security",
    "vary",
    "warning",
    "www-authenticate",
];

const NEVER_LATE_PREFIXES: &[&str] = &["access-control-", "content-", "cross-origin-", "if-", "sec-"];

const PLACES: usize = 128;

/// [`USUAL`], each at its place; two at one place do not compile.
static USUAL_BY_PLACE: [(&str, Kind); PLACES] = {
    let mut table = [("", Kind::Ordinary); PLACES];
    let mut index = 0;
    while index < USUAL.len() {
        let Some(at) = place(USUAL[index].0.as_bytes()) else { panic!("too short") };
        assert!(table[at].0.is_empty(), "another factor in `place`");
        table[at] = USUAL[index];
        index += 1;
    }
    table
};

const PREFIXES: &[(&str, Kind)] = &[
    ("x-user-", Kind::Identity),
    ("x-forwarded-", Kind::Forwarding),
    ("x-auth-request-", Kind::Identity),
    ("x-original-", Kind::Forwarding),
    // What proxies tell of client certificates: only what we set may be believed.
    ("x-client-cert", Kind::Identity),
    ("x-ssl-", Kind::Identity),
    ("x-tls-client-", Kind::Identity),
    ("x-amzn-mtls-", Kind::Identity),
];

/// Ordered by length, or it does not compile.
const KNOWN: &[(&str, Kind)] = &[
    ("te", Kind::Te),
    ("dpop", Kind::Proof),
    ("host", Kind::Host),
    // CGI hands it to the script as HTTP_PROXY, which libraries obey (CVE-2016-5385).
    ("proxy", Kind::Forwarding),
    ("cookie", Kind::Cookie),
    ("expect", Kind::Expect),
    ("x-host", Kind::Forwarding),
    ("trailer", Kind::Hop),
    ("upgrade", Kind::Upgrade),
    ("x-scheme", Kind::Forwarding),
    ("client-ip", Kind::Forwarding),
    ("forwarded", Kind::Forwarding),
    ("x-real-ip", Kind::Forwarding),
    ("connection", Kind::Connection),
    ("keep-alive", Kind::Hop),
    ("tracestate", Kind::Tracestate),
    ("remote-name", Kind::Identity),
    ("remote-user", Kind::Identity),
    ("traceparent", Kind::Traceparent),
    // RFC 9440.
    ("client-cert", Kind::Identity),
    ("x-client-ip", Kind::Forwarding),
    ("x-forwarded", Kind::Forwarding),
    ("x-remote-ip", Kind::Forwarding),
    ("remote-email", Kind::Identity),
    ("x-request-id", Kind::RequestId),
    ("x-url-scheme", Kind::Forwarding),
    ("authorization", Kind::Authorization),
    ("remote-groups", Kind::Identity),
    ("x-http-method", Kind::MethodOverride),
    ("x-remote-addr", Kind::Forwarding),
    ("x-rewrite-url", Kind::Forwarding),
    ("forwarded-for", Kind::Forwarding),
    ("content-length", Kind::Framing),
    ("http2-settings", Kind::Hop),
    ("true-client-ip", Kind::Forwarding),
    ("x-proxyuser-ip", Kind::Forwarding),
    ("front-end-https", Kind::Forwarding),
    ("ssl-client-cert", Kind::Identity),
    ("cf-connecting-ip", Kind::Forwarding),
    ("fastly-client-ip", Kind::Forwarding),
    ("proxy-connection", Kind::Hop),
    ("x-arr-clientcert", Kind::Identity),
    ("x-azure-clientip", Kind::Forwarding),
    ("x-azure-socketip", Kind::Forwarding),
    ("x-originating-ip", Kind::Forwarding),
    ("sec-websocket-key", Kind::WebSocketKey),
    ("transfer-encoding", Kind::Hop),
    ("client-cert-chain", Kind::Identity),
    ("ssl-client-serial", Kind::Identity),
    ("ssl-client-verify", Kind::Identity),
    ("x-method-override", Kind::MethodOverride),
    ("cf-connecting-ipv6", Kind::Forwarding),
    ("proxy-authenticate", Kind::Hop),
    ("x-cluster-client-ip", Kind::Forwarding),
    ("x-appengine-user-ip", Kind::Forwarding),
    ("proxy-authorization", Kind::Hop),
    ("ssl-client-issuer-dn", Kind::Identity),
    ("wl-proxy-client-cert", Kind::Identity),
    ("ssl-client-subject-dn", Kind::Identity),
    ("x-http-method-override", Kind::MethodOverride),
    ("x-envoy-external-address", Kind::Forwarding),
];

/// The names of one length.
#[derive(Clone, Copy, Debug)]
struct OfLength {
    /// Where in [`KNOWN`] they stand.
    start: usize,
    end: usize,
    /// A bit for each first letter.
    initials: u32,
}

const BY_LENGTH: [OfLength; 32] = {
    let mut table = [OfLength { start: 0, end: 0, initials: 0 }; 32];
    let mut length = 0;
    while length < table.len() {
        let mut start = 0;
        while start < KNOWN.len() && KNOWN[start].0.len() < length {
            start += 1;
        }
        let mut end = start;
        let mut initials = 0;
        while end < KNOWN.len() && KNOWN[end].0.len() == length {
            initials |= initial(KNOWN[end].0.as_bytes()[0]);
            end += 1;
        }
        let mut after = end;
        while after < KNOWN.len() {
            assert!(KNOWN[after].0.len() > length, "the table is ordered by length");
            after += 1;
        }
        table[length] = OfLength { start, end, initials };
        length += 1;
    }
    table
};

/// A bit for a letter; digits and `-` share the letters' bits, which costs a comparison at most.
const fn initial(byte: u8) -> u32 {
    1 << (byte & 31)
}

/// `[A-Za-z0-9-]` (R12).
const IS_PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'-';
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{Profile, tests::settings};

    #[test]
    fn the_table_finds_each_of_its_names() {
        for (name, kind) in KNOWN {
            assert_eq!(known(name.as_bytes()), *kind, "{name}");
        }
        for name in ["accept", "x-userid", "x-forward", "hosts", "cooki", "content-type", "sec-fetch-site", ""] {
            assert_eq!(known(name.as_bytes()), Kind::Ordinary, "{name}");
        }
    }

    #[test]
    fn the_short_cut_says_what_the_table_says() {
        for (name, kind) in USUAL {
            assert_eq!(usual_text(name.as_bytes()), Some(*kind), "{name}");
            assert_eq!(usual(&HeaderName::from_static(name)), Some(*kind), "{name}");
            assert_eq!(known(name.as_bytes()), *kind, "{name}");
            assert!(name.bytes().all(|byte| IS_PLAIN[usize::from(byte)]), "{name}");
        }
        for name in ["", "x", "x-user-id", "x_request_id", "hose", "remote-user", "x-forwarded-user", "sec-fetch-mods"]
        {
            assert_eq!(usual_text(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn every_name_of_every_profile_is_managed_whichever_is_in_use() {
        for profile in [Profile::RemoteUser, Profile::XAuthRequest, Profile::XForwardedUser, Profile::XUser] {
            for (name, _) in &*profile.fields() {
                let kind = known(name.as_str().as_bytes());
                assert!(matches!(kind, Kind::Identity | Kind::Forwarding), "{name}");
            }
        }
    }

    #[test]
    fn odd_spellings_are_dropped_or_read_as_a_backend_would() {
        let mut settings = settings();
        settings.extra = Box::new([("x-department".parse().unwrap(), crate::policy::ClaimPath::dotted("department"))]);
        for (name, strict, lenient) in [
            ("x_user_id", None, None),
            ("x-user.id", None, None),
            ("x_forwarded_for", None, None),
            ("transfer_encoding", None, None),
            ("content_length", None, None),
            ("x_department", None, None),
            ("x-department", Some(Kind::Identity), Some(Kind::Identity)),
            ("x-user-whatever", Some(Kind::Identity), Some(Kind::Identity)),
            ("my_header", None, Some(Kind::Ordinary)),
            ("my-header", Some(Kind::Ordinary), Some(Kind::Ordinary)),
        ] {
            let name: HeaderName = name.parse().unwrap();
            settings.keep_odd_names = false;
            assert_eq!(kind(&name, &settings), strict, "{name}");
            settings.keep_odd_names = true;
            assert_eq!(kind(&name, &settings), lenient, "{name}");
        }
    }
}
