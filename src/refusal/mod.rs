//! Every answer of our own that is not a success: one exhaustive enum, and what each variant means for the client.
//!
//! Status, label, blame, challenge and text are each one `match` without a wildcard, so "where does this 403 come
//! from" has one answer. Browsers that navigate get a page or the way to the login, everything else JSON (R30);
//! gRPC gets a trailers-only answer. Nothing that the client sent is reflected (R33), and the precise reason for a
//! bad credential goes to the log only.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};
use maud::html;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    id::RequestId,
    identity::Factor,
    inbound::Malformed,
    page::{self, Blank, Face, Text},
    policy::{Requirement, Requirements},
};

mod oauth;

pub use oauth::TokenError;

/// Why a request is not served. Each stage's error is converted into one of these; no other place makes a non-2xx.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    // The client sent nonsense.
    /// The head was framed in a way that is refused, not repaired (R18).
    Malformed(Malformed),
    /// The path has no single canonical reading (R7, R8). Carries the reason's label.
    BadPath(&'static str),
    /// `Host` is absent, doubled or no host (R10). Carries the reason's label.
    BadHost(&'static str),
    /// The host is none of ours (R10).
    UnknownHost,
    /// The host has other TLS settings than this connection, which another host's name has chosen (R10).
    WrongConnection,
    /// No route.
    NoRoute,
    /// A route's path, but not its method (R9, R11).
    MethodNotAllowed {
        /// What the path allows.
        allow: HeaderValue,
    },
    /// The request body is larger than allowed.
    BodyTooLarge,
    /// The request body broke off or came too slowly (R19).
    BodyIncomplete,
    /// A body of ours in a form or JSON that cannot be read. Carries what is wrong, in words of ours.
    BadBody(&'static str),
    /// A JSON endpoint was sent another content type (R33).
    UnsupportedMediaType,
    /// Shipped secrets are in use, and the request is not from this machine (R35).
    DemoOnly,
    /// Plain http where only https may carry a session (R20).
    NotEncrypted,

    /// The host serves nobody for a while, and was told so by whoever runs it.
    Maintenance {
        /// When to come again.
        retry_after: Duration,
    },

    // The client is not known.
    /// A credential is needed and none was sent.
    NoCredential,
    /// A client certificate is needed and none was given.
    CertificateNeeded {
        /// Whether somebody is known all the same, by something else.
        known: bool,
    },
    /// A credential was sent and is void.
    BadCredential(BadCredential),
    /// A person's form met a session that ran out a short while ago, and is kept for them.
    FormKept {
        /// `Set-Cookie` with the browser's secret.
        cookie: HeaderValue,
    },
    /// Wrong user name or password.
    LoginFailed,
    /// The password is right, and a code of the second factor is needed as well.
    FactorRequired,
    /// The password is right, and the user has to set up a second factor first.
    FactorMissing,
    /// The code of the second factor is wrong, or was used before.
    WrongCode,
    /// No token is given.
    Token(TokenError),
    /// The login is too long ago (RFC 9470).
    StaleLogin {
        /// `max_auth_age`.
        max_age: Duration,
    },
    /// The login took too few factors (RFC 9470).
    WeakLogin {
        /// `max_auth_age` of the same route.
        max_age: Option<Duration>,
    },

    // The client is known and may not.
    /// A requirement is not met.
    NotAllowed {
        /// The failed rule's kind, for the log.
        rule: &'static str,
        /// Whether more scope would help (RFC 6750 section 3.1).
        scope: bool,
    },
    /// A cross-site request with an ambient credential (R31).
    CrossSite,
    /// The identity's headers are larger than allowed (R13).
    IdentityTooLarge,

    // Too much.
    /// Too many attempts to log in.
    TooMany {
        /// When to try again.
        retry_after: Duration,
    },
    /// More requests than `rate_limit` or `max_concurrent` lets through.
    RateLimited {
        /// When to try again.
        retry_after: Duration,
        /// Which limit, for the log.
        reason: &'static str,
    },

    // The upstream failed.
    /// The upstream has as many requests as it may, and nobody could wait longer.
    UpstreamBusy,
    /// No connection to the upstream.
    UpstreamUnreachable,
    /// The upstream's answer is no valid answer (R16).
    UpstreamInvalid,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// No server of the upstream may be asked at present.
    UpstreamUnavailable,

    // We failed.
    /// A change could not be written to disk, and does not hold (R27).
    NotWritten,
    /// A store or key source cannot be asked at present (R3).
    Unavailable,
    /// As many DPoP proofs are remembered as may be; none that is good is forgotten for another.
    ProofsFull,
    /// The session store takes no more.
    StoreFull,
}

/// What was wrong with a credential. The caller learns at most the authenticator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadCredential {
    /// Of two credentials, neither counts (R2), and one that cannot be read is none. The challenge says
    /// `invalid_request`, for which RFC 6750 section 3.1 suggests 400; it is 401 all the same: a void bearer always is
    /// (R4), as is whoever is not known (R30), and people with two cookies need the way to the login, not an error.
    /// Carries which, for the log.
    Ambiguous(&'static str),
    /// A bearer token. Carries the precise reason's label, for the log.
    Bearer(&'static str),
    /// The connection's client certificate. Carries the precise reason's label, for the log.
    Certificate(&'static str),
    /// A token with DPoP, or one that counts only with it.
    Dpop {
        /// What is to be mended.
        fault: DpopFault,
        /// The precise reason's label, for the log.
        reason: &'static str,
    },
    /// A session cookie that names no living session.
    Session,
}

/// What is wrong with a request that uses DPoP (RFC 9449 section 7.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DpopFault {
    /// The proof needs a nonce of ours, or a newer one.
    Nonce,
    /// The proof.
    Proof,
    /// The token.
    Token,
}

impl DpopFault {
    /// `error` of a challenge.
    const fn error(self) -> &'static str {
        match self {
            Self::Nonce => "use_dpop_nonce",
            Self::Proof => "invalid_dpop_proof",
            Self::Token => "invalid_token",
        }
    }

    /// What the client is told.
    const fn description(self) -> &'static str {
        match self {
            Self::Nonce => "The DPoP proof needs the nonce of this answer",
            Self::Proof => "The DPoP proof is not valid for this request",
            Self::Token => "The token is not valid, or does not count like this",
        }
    }
}

/// Whose fault a refusal is: decides the level of its log line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// The client: its request, its credential or its rights.
    Client,
    /// The gateway or what it depends on.
    Gateway,
    /// The upstream.
    Upstream,
}

/// What a refusal is about: the one table that its blame and its scope are read from.
#[derive(Clone, Copy)]
enum Concern {
    /// What was asked for, whoever asks.
    Request,
    /// Who asks, and what they may.
    Caller,
    /// Who asks, which the gateway cannot say at present.
    CallerUnjudged,
    /// The gateway or what it depends on.
    Gateway,
    /// The upstream.
    Upstream,
}

/// Who is asking, and in what form an answer is of use to them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Audience {
    /// A gRPC client.
    Grpc,
    /// A person whose browser navigates; `reading` when the method is safe.
    Person {
        /// GET or HEAD: a redirect loses nothing.
        reading: bool,
    },
    /// A script or a program.
    Program,
}

/// What an answer needs to know of the request.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Who asks.
    pub audience: Audience,
    /// For the body, so that people can quote it.
    pub request_id: &'a RequestId,
    /// `login.prefix`; `None` where nobody can log in.
    pub login_prefix: Option<&'a str>,
    /// Path and query to come back to after the login.
    pub return_to: &'a str,
    /// Whether the route takes bearer tokens.
    pub bearer: bool,
    /// What the route requires of callers, if it asks who they are.
    pub require: Option<&'a Requirements>,
    /// Whether the route takes client certificates.
    pub certificate: bool,
    /// Whether the route or one of its issuers asks for DPoP.
    pub dpop: bool,
    /// With which algorithms its proofs may be signed, in the form of `algs`.
    pub dpop_algorithms: &'a str,
    /// Who is signed in with a session, for people.
    pub signed_in_as: Option<&'a str>,
    /// How pages look, in the reader's language.
    pub face: Face<'a>,
    /// Whether a token endpoint answers: to programs only, in the words of OAuth.
    pub token_endpoint: bool,
}

impl Refusal {
    /// Every status that people can get: [`Refusal::status`] has no other.
    pub const STATUSES: [StatusCode; 13] = [
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::MISDIRECTED_REQUEST,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];

    /// When to come again, of what is the gateway's own fault.
    pub const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

    /// The status of the answer.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(Malformed::HeadTooLarge | Malformed::TooManyHeaders) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Malformed(_) | Self::BadPath(_) | Self::BadHost(_) | Self::BadBody(_) | Self::BodyIncomplete => {
                StatusCode::BAD_REQUEST
            }
            Self::UnknownHost | Self::WrongConnection | Self::DemoOnly => StatusCode::MISDIRECTED_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::FormKept { .. }
            | Self::NoCredential
            | Self::CertificateNeeded { known: false }
            | Self::BadCredential(_)
            | Self::LoginFailed
            | Self::FactorRequired
            | Self::WrongCode
            | Self::StaleLogin { .. }
            | Self::WeakLogin { .. } => StatusCode::UNAUTHORIZED,
            Self::FactorMissing
            | Self::CertificateNeeded { known: true }
            | Self::NotAllowed { .. }
            | Self::CrossSite
            | Self::IdentityTooLarge
            | Self::NotEncrypted => StatusCode::FORBIDDEN,
            Self::Token(error) => error.status(),
            Self::TooMany { .. } | Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamUnreachable | Self::UpstreamInvalid => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Maintenance { .. }
            | Self::UpstreamBusy
            | Self::UpstreamUnavailable
            | Self::NotWritten
            | Self::Unavailable
            | Self::ProofsFull
            | Self::StoreFull => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The word for answers, logs and metrics: snake case, a closed set.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_request",
            Self::BadPath(_) => "bad_path",
            Self::BadHost(_) => "bad_host",
            Self::UnknownHost => "unknown_host",
            Self::WrongConnection => "wrong_connection",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyIncomplete => "body_incomplete",
            Self::BadBody(_) => "bad_body",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::DemoOnly => "demo_only",
            Self::NotEncrypted => "not_encrypted",
            Self::NoCredential => "no_credential",
            Self::CertificateNeeded { .. } => "certificate_needed",
            Self::BadCredential(BadCredential::Ambiguous(_)) => "ambiguous_credential",
            Self::BadCredential(BadCredential::Bearer(_)) => "invalid_token",
            Self::BadCredential(BadCredential::Certificate(_)) => "invalid_certificate",
            Self::BadCredential(BadCredential::Dpop { fault, .. }) => fault.error(),
            Self::BadCredential(BadCredential::Session) => "session_ended",
            Self::FormKept { .. } => "form_kept",
            Self::LoginFailed => "login_failed",
            Self::FactorRequired => "factor_required",
            Self::FactorMissing => "factor_missing",
            Self::WrongCode => "wrong_code",
            Self::Token(error) => error.label(),
            Self::StaleLogin { .. } => "stale_login",
            Self::WeakLogin { .. } => "weak_login",
            Self::NotAllowed { .. } => "not_allowed",
            Self::CrossSite => "cross_site",
            Self::IdentityTooLarge => "identity_too_large",
            Self::TooMany { .. } => "too_many_requests",
            Self::RateLimited { .. } => "rate_limited",
            Self::Maintenance { .. } => "maintenance",
            Self::UpstreamBusy => "upstream_busy",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::NotWritten => "not_written",
            Self::Unavailable => "unavailable",
            Self::ProofsFull => "proofs_full",
            Self::StoreFull => "store_full",
        }
    }

    /// The precise reason, for the log only; equal to the label where there is no more to say.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(malformed) => malformed.label(),
            Self::BadPath(reason)
            | Self::BadHost(reason)
            | Self::BadBody(reason)
            | Self::BadCredential(
                BadCredential::Ambiguous(reason)
                | BadCredential::Bearer(reason)
                | BadCredential::Certificate(reason)
                | BadCredential::Dpop { reason, .. },
            )
            | Self::NotAllowed { rule: reason, .. }
            | Self::RateLimited { reason, .. } => reason,
            Self::Token(error) => error.reason(),
            Self::UnknownHost
            | Self::WrongConnection
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::BodyTooLarge
            | Self::BodyIncomplete
            | Self::UnsupportedMediaType
            | Self::DemoOnly
            | Self::NotEncrypted
            | Self::NoCredential
            | Self::CertificateNeeded { .. }
            | Self::BadCredential(BadCredential::Session)
            | Self::FormKept { .. }
            | Self::LoginFailed
            | Self::FactorRequired
            | Self::FactorMissing
            | Self::WrongCode
            | Self::StaleLogin { .. }
            | Self::WeakLogin { .. }
            | Self::CrossSite
            | Self::IdentityTooLarge
            | Self::Maintenance { .. }
            | Self::TooMany { .. }
            | Self::UpstreamBusy
            | Self::UpstreamUnreachable
            | Self::UpstreamInvalid
            | Self::UpstreamTimeout
            | Self::UpstreamUnavailable
            | Self::NotWritten
            | Self::Unavailable
            | Self::ProofsFull
            | Self::StoreFull => self.label(),
        }
    }

    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self.concern() {
            Concern::Request | Concern::Caller => Blame::Client,
            Concern::CallerUnjudged | Concern::Gateway => Blame::Gateway,
            Concern::Upstream => Blame::Upstream,
        }
    }

    /// Whether it is about who the caller is and what they may do, and would be none if they were somebody else: what a
    /// route that only reports lets through.
    pub const fn is_about_the_caller(&self) -> bool {
        match self.concern() {
            Concern::Caller | Concern::CallerUnjudged => true,
            Concern::Request | Concern::Gateway | Concern::Upstream => false,
        }
    }

    const fn concern(&self) -> Concern {
        match self {
            Self::NoCredential
            | Self::CertificateNeeded { .. }
            | Self::BadCredential(_)
            | Self::NotAllowed { .. }
            | Self::CrossSite
            | Self::StaleLogin { .. }
            | Self::WeakLogin { .. } => Concern::Caller,
            Self::Unavailable | Self::ProofsFull => Concern::CallerUnjudged,
            Self::NotWritten | Self::StoreFull => Concern::Gateway,
            Self::UpstreamBusy
            | Self::UpstreamUnreachable
            | Self::UpstreamInvalid
            | Self::UpstreamTimeout
            | Self::UpstreamUnavailable => Concern::Upstream,
            Self::Malformed(_)
            | Self::BadPath(_)
            | Self::BadHost(_)
            | Self::UnknownHost
            | Self::WrongConnection
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::BodyTooLarge
            | Self::BodyIncomplete
            | Self::BadBody(_)
            | Self::UnsupportedMediaType
            | Self::DemoOnly
            | Self::NotEncrypted
            | Self::FormKept { .. }
            | Self::LoginFailed
            | Self::FactorRequired
            | Self::FactorMissing
            | Self::WrongCode
            | Self::Token(_)
            | Self::IdentityTooLarge
            | Self::Maintenance { .. }
            | Self::TooMany { .. }
            | Self::RateLimited { .. } => Concern::Request,
        }
    }

    /// What the client is told, in one sentence of ours, in English.
    pub const fn description(&self) -> &'static str {
        match self {
            Self::BadBody(what) => what,
            Self::Token(error) => error.description(),
            Self::BadCredential(BadCredential::Dpop { fault, .. }) => fault.description(),
            _ => self.text().english(),
        }
    }

    /// What people are told, in their language.
    const fn text(&self) -> Text {
        match self {
            Self::Malformed(_) => Text::Malformed,
            Self::BadPath(_) => Text::BadPath,
            Self::BadHost(_) => Text::BadHost,
            Self::UnknownHost => Text::UnknownHost,
            Self::WrongConnection => Text::WrongConnection,
            Self::NoRoute => Text::NoRoute,
            Self::MethodNotAllowed { .. } => Text::MethodNotAllowed,
            Self::BodyTooLarge => Text::BodyTooLarge,
            Self::BodyIncomplete => Text::BodyIncomplete,
            Self::BadBody(_) | Self::Token(_) => Text::BadBody,
            Self::UnsupportedMediaType => Text::UnsupportedMediaType,
            Self::DemoOnly => Text::DemoOnly,
            Self::NotEncrypted => Text::NotEncrypted,
            Self::NoCredential => Text::NoCredential,
            Self::CertificateNeeded { .. } => Text::CertificateNeeded,
            Self::BadCredential(BadCredential::Ambiguous(_)) => Text::AmbiguousCredential,
            Self::BadCredential(BadCredential::Certificate(_)) => Text::InvalidCertificate,
            Self::BadCredential(BadCredential::Bearer(_) | BadCredential::Dpop { .. }) => Text::InvalidToken,
            Self::BadCredential(BadCredential::Session) => Text::SessionEnded,
            Self::FormKept { .. } => Text::FormKept,
            Self::LoginFailed => Text::LoginFailed,
            Self::FactorRequired => Text::FactorRequired,
            Self::FactorMissing => Text::FactorMissing,
            Self::WrongCode => Text::WrongCode,
            Self::StaleLogin { .. } => Text::StaleLogin,
            Self::WeakLogin { .. } => Text::WeakLogin,
            Self::NotAllowed { .. } => Text::NotAllowed,
            Self::CrossSite => Text::CrossSite,
            Self::IdentityTooLarge => Text::IdentityTooLarge,
            Self::TooMany { .. } => Text::TooMany,
            Self::RateLimited { .. } => Text::RateLimited,
            Self::Maintenance { .. } => Text::Maintenance,
            Self::UpstreamBusy => Text::UpstreamBusy,
            Self::UpstreamUnreachable | Self::UpstreamUnavailable => Text::UpstreamUnreachable,
            Self::UpstreamInvalid => Text::UpstreamInvalid,
            Self::UpstreamTimeout => Text::UpstreamTimeout,
            Self::NotWritten => Text::NotWritten,
            Self::Unavailable | Self::ProofsFull => Text::Unavailable,
            Self::StoreFull => Text::StoreFull,
        }
    }

    /// What people are told where it is the gateway that cannot at present, and the same may work in a while.
    pub const fn passes(&self) -> Option<Text> {
        match self.blame() {
            Blame::Gateway => Some(self.text()),
            Blame::Client | Blame::Upstream => None,
        }
    }

    /// How the login is asked to prove anew who is signed in: `prompt` of the login page.
    const fn step_up(&self) -> Option<&'static str> {
        match self {
            Self::StaleLogin { .. } => Some("again"),
            Self::WeakLogin { .. } => Some("factor"),
            _ => None,
        }
    }

    /// Whether logging in would help.
    const fn asks_for_login(&self) -> bool {
        matches!(self, Self::NoCredential | Self::BadCredential(BadCredential::Session)) || self.step_up().is_some()
    }

    /// The whole answer. Every 401 carries a challenge, everything is `no-store`.
    pub fn answer(&self, asked: &Asked<'_>) -> Response<Bytes> {
        if asked.token_endpoint
            && let Some(answer) = self.token_answer(asked)
        {
            return answer;
        }
        let login_url = self.login_url(asked);
        let mut response = match (asked.audience, &login_url) {
            (Audience::Person { reading: true }, Some(url)) if self.asks_for_login() => redirect_to_login(url),
            (Audience::Person { .. }, _) => self.page(asked, login_url.as_deref()),
            (Audience::Program, _) => self.json(asked, login_url.as_deref()),
            (Audience::Grpc, _) => self.grpc(),
        };
        self.add_own_fields(response.headers_mut(), asked);
        response
    }

    /// The fields that belong to the status: challenge, `Allow`, `Retry-After`, `Connection`.
    fn add_own_fields(&self, headers: &mut HeaderMap, asked: &Asked<'_>) {
        let is_challenge =
            self.status() == StatusCode::UNAUTHORIZED || matches!(self, Self::NotAllowed { scope: true, .. });
        // The way to the login is no 401 and needs none.
        if is_challenge && !headers.contains_key(LOCATION) {
            for challenge in self.challenges(asked) {
                headers.append(WWW_AUTHENTICATE, challenge);
            }
        }
        match self {
            Self::MethodNotAllowed { allow } => {
                headers.insert(ALLOW, allow.clone());
            }
            Self::TooMany { retry_after }
            | Self::RateLimited { retry_after, .. }
            | Self::Maintenance { retry_after } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
            }
            Self::UpstreamBusy
            | Self::UpstreamUnavailable
            | Self::NotWritten
            | Self::Unavailable
            | Self::ProofsFull
            | Self::StoreFull => {
                headers.insert(RETRY_AFTER, Self::RETRY_AFTER);
            }
            Self::Malformed(_) => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
    }

    /// RFC 6750 section 3, RFC 9449 section 7.1, RFC 9470 section 3; schemes of our own where only sessions or
    /// certificates count, since RFC 9110 section 15.5.2 asks every 401 for a challenge and none is registered for
    /// either.
    fn challenges(&self, asked: &Asked<'_>) -> impl Iterator<Item = HeaderValue> {
        let bearer = asked.bearer.then(|| match self {
            Self::BadCredential(BadCredential::Bearer(_)) => HeaderValue::from_static(
                "Bearer realm=\"portcullis\", error=\"invalid_token\", error_description=\"The token is not valid\"",
            ),
            Self::BadCredential(BadCredential::Ambiguous(_)) => HeaderValue::from_static(
                "Bearer realm=\"portcullis\", error=\"invalid_request\", \
                 error_description=\"More than one credential was sent, or one that cannot be read\"",
            ),
            Self::NotAllowed { scope: true, .. } => insufficient_scope(asked.require),
            Self::StaleLogin { max_age } => insufficient("A more recent login is needed", None, Some(*max_age)),
            Self::WeakLogin { max_age } => {
                insufficient("A login with two factors is needed", Some(Factor::TWO_NAME), *max_age)
            }
            _ => HeaderValue::from_static("Bearer realm=\"portcullis\""),
        });
        let certificate = (asked.certificate && self.status() == StatusCode::UNAUTHORIZED)
            .then(|| HeaderValue::from_static("ClientCertificate realm=\"portcullis\""));
        let fault = match self {
            Self::BadCredential(BadCredential::Dpop { fault, .. }) => Some(*fault),
            _ => None,
        };
        let dpop = (asked.dpop || fault.is_some()).then(|| dpop_challenge(fault, asked.dpop_algorithms));
        let others = asked.bearer || dpop.is_some() || certificate.is_some();
        let session = (asked.login_prefix.is_some() && self.status() == StatusCode::UNAUTHORIZED || !others)
            .then(|| HeaderValue::from_static("Session realm=\"portcullis\""));
        // The scheme that the client used comes first.
        let (first, second) = if fault.is_some() { (dpop, bearer) } else { (bearer, dpop) };
        first.into_iter().chain(second).chain(certificate).chain(session)
    }

    /// Where to log in and come back from.
    fn login_url(&self, asked: &Asked<'_>) -> Option<String> {
        let prefix = asked.login_prefix.filter(|_| self.status() == StatusCode::UNAUTHORIZED)?;
        if let Self::FormKept { .. } = self {
            return Some(way_to_login(prefix, None, &format!("{prefix}/resend")));
        }
        let return_to = match asked.audience {
            Audience::Person { reading: true } => asked.return_to,
            _ => "",
        };
        Some(way_to_login(prefix, self.step_up(), return_to))
    }

    fn json(&self, asked: &Asked<'_>, login_url: Option<&str>) -> Response<Bytes> {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            error: &'a str,
            error_description: &'a str,
            request_id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            login_url: Option<&'a str>,
        }
        let body = Body {
            error: self.label(),
            error_description: self.description(),
            request_id: asked.request_id.as_str(),
            login_url,
        };
        page::json(self.status(), &serde_json::to_value(&body).unwrap_or_default())
    }

    /// The operator's own page instead of ours, if there is one for this status.
    fn own_page(&self, asked: &Asked<'_>, login_url: Option<&str>, switch: Option<&str>) -> Option<Response<Bytes>> {
        if self.is_step_of_login() {
            return None;
        }
        let status = self.status();
        let face = asked.face;
        let (template, language) = face.template(status)?;
        let value = |blank| match blank {
            Blank::Language => language.into(),
            Blank::LoginUrl => match (login_url.or(switch), asked.login_prefix) {
                (Some(url), _) => url.into(),
                (None, Some(prefix)) => way_to_login(prefix, None, "").into(),
                (None, None) => "/".into(),
            },
            Blank::Message => face.say(self.text()).into(),
            Blank::RequestId => asked.request_id.as_str().into(),
            Blank::Status => status.as_str().to_owned().into(),
            Blank::Title => face.say(self.title()).into(),
        };
        Some(template.answer(status, value))
    }

    /// Whether it is said in the middle of a login: there people need what only our own page does.
    const fn is_step_of_login(&self) -> bool {
        matches!(
            self,
            Self::FormKept { .. } | Self::LoginFailed | Self::FactorRequired | Self::FactorMissing | Self::WrongCode
        )
    }

    fn page(&self, asked: &Asked<'_>, login_url: Option<&str>) -> Response<Bytes> {
        let status = self.status();
        let switch = asked
            .login_prefix
            .filter(|_| matches!(self, Self::NotAllowed { .. }))
            .map(|prefix| way_to_login(prefix, Some("login"), asked.return_to));
        if let Some(page) = self.own_page(asked, login_url, switch.as_deref()) {
            return page;
        }
        let face = asked.face;
        let title = face.say(self.title());
        let content = html! {
            h1 { (title) }
            p { (face.say(self.text())) }
            @if asked.audience == (Audience::Person { reading: false }) && self.asks_for_login() {
                p.alert role="alert" { (face.say(Text::FormNotSent)) }
            }
            @if let Some(name) = asked.signed_in_as.filter(|_| switch.is_some()) {
                p.lead { (face.fill(Text::YouAreSignedInAs, &html! { strong { (name) } })) }
            }
            @if let Some(url) = login_url {
                p { a.button href=(url) { (face.say(Text::SignIn)) } }
            } @else if let Some(url) = &switch {
                p { a.button href=(url) { (face.say(Text::SwitchAccount)) } }
            }
            p.fine { (face.fill(Text::RequestNumber, &html! { code { (asked.request_id.as_str()) } })) }
        };
        face.page(status, title, &content)
    }

    /// The heading of the page.
    const fn title(&self) -> Text {
        match self.blame() {
            Blame::Upstream => Text::UnavailableTitle,
            Blame::Gateway => Text::TryAgainTitle,
            Blame::Client => match self {
                Self::FormKept { .. }
                | Self::NoCredential
                | Self::BadCredential(
                    BadCredential::Ambiguous(_) | BadCredential::Bearer(_) | BadCredential::Session,
                )
                | Self::LoginFailed
                | Self::FactorRequired
                | Self::WrongCode
                | Self::StaleLogin { .. }
                | Self::WeakLogin { .. } => Text::PleaseSignInTitle,
                Self::NoRoute | Self::UnknownHost => Text::NotFoundTitle,
                Self::FactorMissing
                | Self::BadCredential(BadCredential::Certificate(_))
                | Self::CertificateNeeded { .. }
                | Self::NotAllowed { .. }
                | Self::CrossSite
                | Self::IdentityTooLarge
                | Self::NotEncrypted => Text::NotAllowedTitle,
                Self::TooMany { .. } | Self::RateLimited { .. } => Text::PleaseWaitTitle,
                _ => Text::CannotBeServedTitle,
            },
        }
    }

    /// A trailers-only answer (gRPC over HTTP/2, "Responses"): status 200, the outcome in `grpc-status`.
    fn grpc(&self) -> Response<Bytes> {
        let code = match self.status() {
            StatusCode::BAD_REQUEST => "13",
            StatusCode::UNAUTHORIZED => "16",
            StatusCode::FORBIDDEN => "7",
            StatusCode::NOT_FOUND | StatusCode::MISDIRECTED_REQUEST | StatusCode::METHOD_NOT_ALLOWED => "12",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => "8",
            _ => "14",
        };
        let mut response = page::empty(StatusCode::OK);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(code));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(self.label()));
        response
    }
}

impl Malformed {
    /// The word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RequestLine => "request_line",
            Self::BareLineEnd => "bare_line_end",
            Self::HeaderName => "header_name",
            Self::HeaderValue => "header_value",
            Self::ObsFold => "obs_fold",
            Self::LengthWithCoding => "length_with_coding",
            Self::ContentLength => "content_length",
            Self::TransferCoding => "transfer_coding",
            Self::Chunk => "chunk",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
        }
    }
}

impl Audience {
    /// Reads it off a request (R30): `Sec-Fetch-*` where the browser sends it, else `Accept`.
    pub fn of(head: &Parts) -> Self {
        let (mut kind, mut mode, mut dest, mut accept, mut by_script) = (None, None, None, None, false);
        // One look at all names is cheaper than five look-ups; of several fields the first counts.
        for (name, value) in &head.headers {
            let field = match name.as_str() {
                "content-type" => &mut kind,
                "sec-fetch-mode" => &mut mode,
                "sec-fetch-dest" => &mut dest,
                "accept" => &mut accept,
                "x-requested-with" => {
                    by_script = true;
                    continue;
                }
                _ => continue,
            };
            field.get_or_insert(value);
        }
        if kind.map(HeaderValue::as_bytes).is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            return Self::Grpc;
        }
        let navigates = match mode.map(HeaderValue::as_bytes) {
            Some(mode) => mode == b"navigate" && matches!(dest.map(HeaderValue::as_bytes), Some(b"document") | None),
            None => {
                !by_script
                    && accept
                        .map(HeaderValue::as_bytes)
                        .is_some_and(|accept| accept.windows(9).any(|part| part == b"text/html"))
            }
        };
        if navigates {
            Self::Person { reading: head.method == Method::GET || head.method == Method::HEAD }
        } else {
            Self::Program
        }
    }
}

fn redirect_to_login(url: &str) -> Response<Bytes> {
    let mut response = page::empty(StatusCode::FOUND);
    let location = HeaderValue::try_from(url).unwrap_or_else(|_| HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The challenge of RFC 6750 section 3.1, with the scopes that are asked for: those that all must be there, and the
/// only one that would do. Where one of several would do the list could not say so, and is left out.
fn insufficient_scope(require: Option<&Requirements>) -> HeaderValue {
    let bare = HeaderValue::from_static("Bearer realm=\"portcullis\", error=\"insufficient_scope\"");
    let Some(require) = require else { return bare };
    let only = if let [only] = &*require.any { Some(only) } else { None };
    let scopes: Vec<&str> = require
        .all
        .iter()
        .chain(only)
        .filter_map(|requirement| match requirement {
            Requirement::Scope(scope) => Some(&**scope),
            Requirement::Claim { .. }
            | Requirement::Email(_)
            | Requirement::Group(_)
            | Requirement::Ip(_)
            | Requirement::Mtls { .. }
            | Requirement::PathEquals { .. }
            | Requirement::Role(_)
            | Requirement::User(_) => None,
        })
        .collect();
    // RFC 6749 section 3.3: others could not stand between the quotes.
    let is_scope = |scope: &&str| scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if scopes.is_empty() || !scopes.iter().all(is_scope) {
        return bare;
    }
    let text = format!("Bearer realm=\"portcullis\", error=\"insufficient_scope\", scope=\"{}\"", scopes.join(" "));
    HeaderValue::try_from(text).unwrap_or(bare)
}

/// The challenge of RFC 9449 section 7.1.
fn dpop_challenge(fault: Option<DpopFault>, algorithms: &str) -> HeaderValue {
    let mut text = String::from("DPoP realm=\"portcullis\"");
    if let Some(fault) = fault {
        text.push_str(&format!(", error=\"{}\", error_description=\"{}\"", fault.error(), fault.description()));
    }
    text.push_str(&format!(", algs=\"{algorithms}\""));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("DPoP realm=\"portcullis\""))
}

/// The challenge of RFC 9470 section 3.
fn insufficient(description: &str, acr: Option<&str>, max_age: Option<Duration>) -> HeaderValue {
    let mut text = format!(
        "Bearer realm=\"portcullis\", error=\"insufficient_user_authentication\", error_description=\"{description}\""
    );
    if let Some(acr) = acr {
        text.push_str(&format!(", acr_values=\"{acr}\""));
    }
    if let Some(max_age) = max_age {
        text.push_str(&format!(", max_age=\"{}\"", max_age.as_secs()));
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer realm=\"portcullis\""))
}

/// Where to log in. `prompt`: also for somebody who is signed in: as anybody (`login`), or as the same person, whose
/// login is too old (`again`) or took too few factors (`factor`). Without it the page would send them back where they
/// were refused.
fn way_to_login(prefix: &str, prompt: Option<&str>, return_to: &str) -> String {
    let mut url = format!("{prefix}/login");
    let mut separator = '?';
    if let Some(prompt) = prompt {
        url.push_str("?prompt=");
        url.push_str(prompt);
        separator = '&';
    }
    if !matches!(return_to, "" | "/") {
        url.push(separator);
        url.push_str("return_to=");
        url.extend(utf8_percent_encode(return_to, IN_QUERY));
    }
    url
}

/// What stays as it is inside a query value: RFC 3986 unreserved characters and `/`.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

#[cfg(test)]
mod tests {
    use super::*;

    static LOOK: std::sync::LazyLock<page::Look> = std::sync::LazyLock::new(page::Look::default);

    fn asked(id: &RequestId, audience: Audience) -> Asked<'_> {
        Asked {
            face: LOOK.face(None),
            audience,
            request_id: id,
            login_prefix: Some("/_auth"),
            return_to: "/app?x=1&y=2",
            bearer: true,
            require: None,
            certificate: false,
            dpop: false,
            dpop_algorithms: "ES256 EdDSA",
            signed_in_as: None,
            token_endpoint: false,
        }
    }

    fn head(method: &str, fields: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().method(method).uri("/");
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_top_level_navigations_are_people() {
        let reading = Audience::Person { reading: true };
        for (method, fields, expect) in [
            ("GET", &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")][..], reading),
            ("GET", &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], Audience::Program),
            ("GET", &[("sec-fetch-mode", "cors"), ("accept", "text/html")], Audience::Program),
            ("GET", &[("accept", "text/html,application/xhtml+xml")], reading),
            ("GET", &[("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")], Audience::Program),
            ("GET", &[("accept", "*/*")], Audience::Program),
            ("GET", &[], Audience::Program),
            ("POST", &[("accept", "text/html")], Audience::Person { reading: false }),
            ("POST", &[("content-type", "application/grpc+proto")], Audience::Grpc),
        ] {
            assert_eq!(Audience::of(&head(method, fields)), expect, "{method} {fields:?}");
        }
    }

    #[test]
    fn people_who_read_are_sent_to_the_login_and_all_others_get_401() {
        let id = RequestId::generate();

        let person = Refusal::NoCredential.answer(&asked(&id, Audience::Person { reading: true }));
        let form = Refusal::NoCredential.answer(&asked(&id, Audience::Person { reading: false }));
        let program = Refusal::NoCredential.answer(&asked(&id, Audience::Program));

        assert_eq!(person.status(), StatusCode::FOUND);
        assert_eq!(person.headers()[LOCATION], "/_auth/login?return_to=/app%3Fx%3D1%26y%3D2");
        assert_eq!(form.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(program.status(), StatusCode::UNAUTHORIZED);
        assert!(String::from_utf8_lossy(program.body()).contains("\"login_url\":\"/_auth/login\""));
    }

    #[test]
    fn every_401_has_a_challenge_and_nothing_is_stored() {
        let id = RequestId::generate();
        let refusals = [
            Refusal::NoCredential,
            Refusal::BadCredential(BadCredential::Ambiguous("two_cookies")),
            Refusal::BadCredential(BadCredential::Bearer("expired")),
            Refusal::BadCredential(BadCredential::Dpop { fault: DpopFault::Proof, reason: "proof_target" }),
            Refusal::BadCredential(BadCredential::Session),
            Refusal::LoginFailed,
            Refusal::StaleLogin { max_age: Duration::from_secs(60) },
            Refusal::WeakLogin { max_age: None },
        ];
        for refusal in refusals {
            for bearer in [true, false] {
                for audience in [Audience::Program, Audience::Person { reading: false }] {
                    let answer = refusal.answer(&Asked { bearer, ..asked(&id, audience) });

                    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                    assert!(answer.headers().contains_key(WWW_AUTHENTICATE), "{refusal:?}");
                    assert_eq!(answer.headers()[http::header::CACHE_CONTROL], "no-store");
                }
            }
        }
    }

    #[test]
    fn the_precise_reason_is_not_told_to_the_caller() {
        let id = RequestId::generate();
        let refusal = Refusal::BadCredential(BadCredential::Bearer("wrong_signature"));

        let answer = refusal.answer(&asked(&id, Audience::Program));

        assert_eq!(refusal.reason(), "wrong_signature");
        assert!(!String::from_utf8_lossy(answer.body()).contains("wrong_signature"));
        assert!(answer.headers()[WWW_AUTHENTICATE].to_str().unwrap().contains("error=\"invalid_token\""));
    }

    #[test]
    fn both_schemes_are_challenged_where_both_count_and_the_one_that_was_used_says_what_is_wrong() {
        let id = RequestId::generate();
        let challenges = |refusal: Refusal, bearer: bool, dpop: bool| -> Vec<String> {
            let answer = refusal.answer(&Asked { bearer, dpop, login_prefix: None, ..asked(&id, Audience::Program) });
            let all = answer.headers().get_all(WWW_AUTHENTICATE);
            all.iter().map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        let dpop = |fault| Refusal::BadCredential(BadCredential::Dpop { fault, reason: "x" });
        let (plain, plain_dpop) = ("Bearer realm=\"portcullis\"", "DPoP realm=\"portcullis\", algs=\"ES256 EdDSA\"");

        assert_eq!(challenges(Refusal::NoCredential, true, true), [plain, plain_dpop]);
        assert_eq!(challenges(Refusal::NoCredential, false, true), [plain_dpop]);
        assert_eq!(challenges(Refusal::NoCredential, true, false), [plain]);
        for (fault, error) in [
            (DpopFault::Nonce, "use_dpop_nonce"),
            (DpopFault::Proof, "invalid_dpop_proof"),
            (DpopFault::Token, "invalid_token"),
        ] {
            for announced in [true, false] {
                let challenges = challenges(dpop(fault), true, announced);
                assert!(challenges[0].starts_with("DPoP ") && challenges[0].contains(&format!("error=\"{error}\"")));
                assert!(challenges[0].ends_with("algs=\"ES256 EdDSA\"") && challenges[1] == plain, "{challenges:?}");
            }
        }
    }

    #[test]
    fn the_statuses_that_can_have_a_page_are_those_that_refusals_have() {
        let source = include_str!("mod.rs");
        let named = |from: &str, to: &str| -> std::collections::BTreeSet<&str> {
            let text = source.split_once(from).unwrap().1.split_once(to).unwrap().0;
            let names = text.split("StatusCode::").skip(1);
            names.map(|rest| rest.split(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap()).collect()
        };

        let listed = named("pub const STATUSES: [StatusCode; 13] = [", "];");
        assert_eq!(listed, named("pub const fn status(&self) -> StatusCode {", "/// The word"));
        assert_eq!(listed.len(), Refusal::STATUSES.len());
    }

    /// RFC 9470 section 3.
    #[test]
    fn a_program_is_told_which_login_would_do() {
        let id = RequestId::generate();
        let minute = Duration::from_secs(60);
        for (refusal, expect) in [
            (Refusal::StaleLogin { max_age: minute }, ", max_age=\"60\""),
            (Refusal::WeakLogin { max_age: None }, ", acr_values=\"mfa\""),
            (Refusal::WeakLogin { max_age: Some(minute) }, ", acr_values=\"mfa\", max_age=\"60\""),
        ] {
            let answer = refusal.answer(&asked(&id, Audience::Program));
            let challenge = answer.headers()[WWW_AUTHENTICATE].to_str().unwrap();

            assert!(challenge.contains("error=\"insufficient_user_authentication\""), "{challenge}");
            assert!(challenge.ends_with(expect), "{challenge}");
        }
    }

    #[test]
    fn a_person_is_asked_to_prove_anew_who_they_are() {
        let id = RequestId::generate();
        let way = |refusal: Refusal| {
            let answer = refusal.answer(&asked(&id, Audience::Person { reading: true }));
            answer.headers()[LOCATION].to_str().unwrap().to_owned()
        };

        let stale = way(Refusal::StaleLogin { max_age: Duration::from_secs(60) });
        assert_eq!(stale, "/_auth/login?prompt=again&return_to=/app%3Fx%3D1%26y%3D2");
        let weak = way(Refusal::WeakLogin { max_age: None });
        assert_eq!(weak, "/_auth/login?prompt=factor&return_to=/app%3Fx%3D1%26y%3D2");
    }

    #[test]
    fn a_grpc_client_is_told_in_grpc_status() {
        let id = RequestId::generate();

        let answer = Refusal::NoCredential.answer(&asked(&id, Audience::Grpc));

        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["grpc-status"], "16");
    }
}
