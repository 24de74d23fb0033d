//! Why an admin call failed: one exhaustive list with what each means in HTTP. The texts are for the operator's own
//! programs; they name fields, bounds and remedies, and never repeat a value that was sent.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::Scope;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Problem {
    /// An entry is not what it should be. Says which field and why.
    BadEntry(String),
    /// A query parameter is not what it should be. Says which and why.
    BadQuery(&'static str),
    /// The token is none of ours.
    BadToken,
    /// The body ended before its end.
    BrokenBody,
    /// Something sent it that only browsers send.
    CrossSite,
    /// More than 1 MiB, 16 MiB of lines with revocations, or 16 KiB for an API key.
    EntryTooLarge,
    /// The realm is not the token's.
    ForeignRealm,
    /// `limits.max_api_keys` were made.
    KeysFull,
    /// Everything of its subject was revoked while a key was made.
    KeyRevoked,
    /// The head is malformed.
    Malformed,
    /// Another method than those.
    MethodNotAllowed(&'static str),
    /// The token may not do this.
    MissingScope(Scope),
    /// No issuer has this name or `iss`.
    NoIssuer,
    /// No API key has this id.
    NoKey,
    /// No session has this key.
    NoSession,
    /// No token was sent, or more than one.
    NoToken,
    /// No such resource.
    NotFound,
    /// It could not be written to disk, and nothing has changed.
    NotWritten,
    /// `limits.max_revocations` are in force.
    RevocationsFull,
    /// The identity is larger than a session may be.
    SessionTooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// The disk does not take it.
    StateUnavailable,
    /// The gateway stops, and reloads no more.
    Stopping,
    /// Sessions are tied to keys that only their owners hold.
    SessionsBound,
    /// The store takes no more.
    StoreFull,
    /// Too many different names of old cookies.
    TooManyCookies,
    /// Neither JSON nor NDJSON.
    UnsupportedMediaType,
    /// A host under which this listener does not answer.
    WrongHost,
}

impl Problem {
    /// The word for programs and the audit log.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::BadEntry(_) => "bad_entry",
            Self::BadQuery(_) => "bad_query",
            Self::BadToken => "invalid_token",
            Self::BrokenBody => "broken_body",
            Self::CrossSite => "cross_site",
            Self::EntryTooLarge => "entry_too_large",
            Self::ForeignRealm => "foreign_realm",
            Self::KeyRevoked => "key_revoked",
            Self::KeysFull => "keys_full",
            Self::Malformed => "malformed",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::MissingScope(_) => "insufficient_scope",
            Self::NoIssuer => "no_issuer",
            Self::NoKey => "no_key",
            Self::NoSession => "no_session",
            Self::NoToken => "no_token",
            Self::NotFound => "not_found",
            Self::NotWritten => "not_written",
            Self::RevocationsFull => "revocations_full",
            Self::SessionTooLarge { .. } => "session_too_large",
            Self::SessionsBound => "sessions_bound",
            Self::StateUnavailable => "state_unavailable",
            Self::Stopping => "stopping",
            Self::StoreFull => "store_full",
            Self::TooManyCookies => "too_many_cookies",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::WrongHost => "unknown_host",
        }
    }

    /// What happened and what to do, for people.
    pub(super) fn message(&self) -> String {
        match self {
            Self::BadEntry(why) => why.clone(),
            Self::BadQuery(why) => (*why).to_owned(),
            Self::BadToken => "this is no token of an [[admin.token]]".to_owned(),
            Self::BrokenBody => "the body ended too early".to_owned(),
            Self::CrossSite => "browsers may not call this API; leave out Origin and Sec-Fetch-Site".to_owned(),
            Self::EntryTooLarge => "an entry has at most 1 MiB, and an API key's 16 KiB".to_owned(),
            Self::ForeignRealm => {
                "this token is for another realm; the realm of an [[admin.token]] is its `realm`, and only a token \
                 with allow = [\"all\"] reaches others"
                    .to_owned()
            }
            Self::KeyRevoked => "everything of this subject was revoked while its key was made".to_owned(),
            Self::KeysFull => "limits.max_api_keys keys were made; revoke some, or raise it".to_owned(),
            Self::Malformed => "the request is not well-formed HTTP".to_owned(),
            Self::MethodNotAllowed(allow) => format!("only {allow} here"),
            Self::MissingScope(scope) => format!("this token needs \"{}\" in its `allow`", scope.as_str()),
            Self::NoIssuer => "no [[jwt.issuer]] has this `name` or `issuer`".to_owned(),
            Self::NoKey => "no API key has this id".to_owned(),
            Self::NoSession => "no living session has this key".to_owned(),
            Self::NoToken => "send one header `Authorization: Bearer <token>`".to_owned(),
            Self::NotWritten => "it could not be written to server.state_dir; the log says why".to_owned(),
            Self::NotFound => "there are /api/v1/sessions, /api/v1/sessions/{key}, /api/v1/keys, \
                 /api/v1/keys/{id}, /api/v1/revocations, /api/v1/routes and /api/v1/reload"
                .to_owned(),
            Self::SessionTooLarge { bytes, limit } => {
                format!("the identity has {bytes} bytes, and session.max_session_bytes is {limit}")
            }
            Self::RevocationsFull => {
                "limits.max_revocations revocations are in force; raise it, or strike a whole subject or issuer"
                    .to_owned()
            }
            Self::StateUnavailable => {
                "the disk does not take it: it holds in this process and a restart would forget it; try again"
                    .to_owned()
            }
            Self::SessionsBound => {
                "session.bind ties sessions to the client certificate they are opened with: people log in themselves"
                    .to_owned()
            }
            Self::Stopping => "the gateway is about to stop".to_owned(),
            Self::StoreFull => "the store holds session.max_sessions sessions".to_owned(),
            Self::TooManyCookies => "too many different names in legacy.cookie".to_owned(),
            Self::UnsupportedMediaType => {
                "send Content-Type application/json for one entry, or application/x-ndjson for many".to_owned()
            }
            Self::WrongHost => "this listener does not answer to that host".to_owned(),
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::BadEntry(_) | Self::BadQuery(_) | Self::BrokenBody | Self::Malformed => StatusCode::BAD_REQUEST,
            Self::BadToken | Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::CrossSite | Self::ForeignRealm | Self::MissingScope(_) => StatusCode::FORBIDDEN,
            Self::KeyRevoked | Self::SessionsBound => StatusCode::CONFLICT,
            Self::EntryTooLarge | Self::SessionTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoIssuer | Self::NoKey | Self::NoSession | Self::NotFound => StatusCode::NOT_FOUND,
            Self::KeysFull
            | Self::NotWritten
            | Self::RevocationsFull
            | Self::StateUnavailable
            | Self::Stopping
            | Self::StoreFull
            | Self::TooManyCookies => StatusCode::SERVICE_UNAVAILABLE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::WrongHost => StatusCode::MISDIRECTED_REQUEST,
        }
    }

    /// The header that this status asks for (RFC 6750 section 3, RFC 9110 sections 10.2.1 and 10.2.3).
    fn header(&self) -> Option<(http::HeaderName, HeaderValue)> {
        let challenge = |text: &'static str| Some((header::WWW_AUTHENTICATE, HeaderValue::from_static(text)));
        match self {
            Self::BadToken => challenge("Bearer realm=\"portcullis-admin\", error=\"invalid_token\""),
            Self::MethodNotAllowed(allow) => Some((header::ALLOW, HeaderValue::from_static(allow))),
            Self::MissingScope(_) => challenge("Bearer realm=\"portcullis-admin\", error=\"insufficient_scope\""),
            Self::NoToken => challenge("Bearer realm=\"portcullis-admin\""),
            Self::NotWritten | Self::StateUnavailable => Some((header::RETRY_AFTER, HeaderValue::from_static("5"))),
            Self::KeysFull | Self::RevocationsFull | Self::StoreFull => {
                Some((header::RETRY_AFTER, HeaderValue::from_static("60")))
            }
            Self::BadEntry(_)
            | Self::BadQuery(_)
            | Self::BrokenBody
            | Self::CrossSite
            | Self::EntryTooLarge
            | Self::ForeignRealm
            | Self::KeyRevoked
            | Self::Malformed
            | Self::NoIssuer
            | Self::NoKey
            | Self::NoSession
            | Self::NotFound
            | Self::SessionTooLarge { .. }
            | Self::SessionsBound
            | Self::Stopping
            | Self::TooManyCookies
            | Self::UnsupportedMediaType
            | Self::WrongHost => None,
        }
    }

    /// As an answer of its own.
    pub(super) fn response(&self) -> Response<Bytes> {
        let body = json!({ "error": self.label(), "message": self.message() });
        let mut response = Response::new(Bytes::from(format!("{body}\n")));
        *response.status_mut() = self.status();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = self.header() {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
