//! What the token endpoints answer with instead of success: errors in the words of OAuth.
//!
//! In: a [`Refusal`] of whichever stage. Out: an answer as RFC 6749 section 5.2 wants it, or none, where that has no
//! word for it (another site, too much, our own failures) and the refusal speaks for itself, in the same form.
//! Invariant: which of several reasons a grant is void for is told where a person can do something about it only.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::WWW_AUTHENTICATE};
use serde_json::json;

use super::{Asked, BadCredential, DpopFault, Refusal};
use crate::page;

/// Why no token is given. (RFC 6749 section 5.2)
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenError {
    /// No client of this id is listed.
    InvalidClient,
    /// What was shown opens nothing. Carries the precise reason, for the log.
    InvalidGrant(&'static str),
    /// The client may not ask in this way.
    UnauthorizedClient,
    /// There is no such way to ask.
    UnsupportedGrantType,
}

impl TokenError {
    /// The status of the answer.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::InvalidClient => StatusCode::UNAUTHORIZED,
            Self::InvalidGrant(_) | Self::UnauthorizedClient | Self::UnsupportedGrantType => StatusCode::BAD_REQUEST,
        }
    }

    /// The registered word.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant(_) => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
        }
    }

    /// The precise reason, for the log only.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::InvalidGrant(why) => why,
            Self::InvalidClient | Self::UnauthorizedClient | Self::UnsupportedGrantType => self.label(),
        }
    }

    /// One sentence of ours.
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::InvalidClient => "no such client",
            Self::InvalidGrant(_) => "what was sent is not valid any more, or never was",
            Self::UnauthorizedClient => "the client may not ask in this way",
            Self::UnsupportedGrantType => "no such grant_type",
        }
    }
}

impl Refusal {
    /// The answer of a token endpoint, where OAuth has a word for it.
    pub(super) fn token_answer(&self, asked: &Asked<'_>) -> Option<Response<Bytes>> {
        let (status, error) = match self {
            Self::BadBody(_) | Self::BodyIncomplete => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::BodyTooLarge | Self::UnsupportedMediaType => (self.status(), "invalid_request"),
            Self::LoginFailed | Self::FactorRequired | Self::FactorMissing | Self::WrongCode => {
                (StatusCode::BAD_REQUEST, "invalid_grant")
            }
            Self::BadCredential(
                BadCredential::Ambiguous(_)
                | BadCredential::Bearer(_)
                | BadCredential::Certificate(_)
                | BadCredential::Dpop { fault: DpopFault::Token, .. },
            ) => (StatusCode::UNAUTHORIZED, "invalid_client"),
            // RFC 9449 sections 5 and 8.
            Self::BadCredential(BadCredential::Dpop {
                fault: fault @ (DpopFault::Nonce | DpopFault::Proof), ..
            }) => (StatusCode::BAD_REQUEST, fault.error()),
            Self::Token(error) => (error.status(), error.label()),
            // Where there is no session the way to the login helps more.
            Self::BadCredential(BadCredential::Session) | Self::NoCredential => return None,
            Self::Malformed(_)
            | Self::BadPath(_)
            | Self::BadHost(_)
            | Self::UnknownHost
            | Self::WrongConnection
            | Self::CertificateNeeded { .. }
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::DemoOnly
            | Self::NotEncrypted
            | Self::FormKept { .. }
            | Self::StaleLogin { .. }
            | Self::WeakLogin { .. }
            | Self::NotAllowed { .. }
            | Self::CrossSite
            | Self::IdentityTooLarge
            | Self::TooMany { .. }
            | Self::RateLimited { .. }
            | Self::Maintenance { .. }
            | Self::UpstreamBusy
            | Self::UpstreamUnreachable
            | Self::UpstreamInvalid
            | Self::UpstreamTimeout
            | Self::UpstreamUnavailable
            | Self::NotWritten
            | Self::Unavailable
            | Self::ProofsFull
            | Self::StoreFull => return None,
        };
        let mut body = json!({
            "error": error,
            "error_description": self.description(),
            "request_id": asked.request_id.as_str(),
        });
        // A program has to know that it should ask for a code.
        if matches!(self, Self::FactorRequired | Self::FactorMissing | Self::WrongCode) {
            body["reason"] = self.label().into();
        }
        let mut response = page::json(status, &body);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portcullis\""));
        }
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::RequestId, refusal::Audience};

    static LOOK: std::sync::LazyLock<page::Look> = std::sync::LazyLock::new(page::Look::default);

    fn answer(refusal: &Refusal, token_endpoint: bool) -> (u16, String) {
        let id = RequestId::generate();
        let response = refusal.answer(&Asked {
            audience: Audience::Program,
            request_id: &id,
            login_prefix: Some("/_auth"),
            return_to: "/",
            bearer: false,
            require: None,
            certificate: false,
            signed_in_as: None,
            face: LOOK.face(None),
            dpop: false,
            dpop_algorithms: "",
            token_endpoint,
        });
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(response.headers()[http::header::CACHE_CONTROL], "no-store");
        assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), response.status() == 401, "{refusal:?}");
        (response.status().as_u16(), body["error"].as_str().unwrap().to_owned())
    }

    #[test]
    fn a_token_endpoint_speaks_oauth() {
        for (refusal, status, error) in [
            (Refusal::Token(TokenError::InvalidGrant("reused")), 400, "invalid_grant"),
            (Refusal::Token(TokenError::InvalidClient), 401, "invalid_client"),
            (Refusal::Token(TokenError::UnauthorizedClient), 400, "unauthorized_client"),
            (Refusal::Token(TokenError::UnsupportedGrantType), 400, "unsupported_grant_type"),
            (Refusal::BadBody("x"), 400, "invalid_request"),
            (Refusal::UnsupportedMediaType, 415, "invalid_request"),
            (Refusal::LoginFailed, 400, "invalid_grant"),
            (Refusal::FactorRequired, 400, "invalid_grant"),
            (Refusal::BadCredential(BadCredential::Bearer("api_key_unknown")), 401, "invalid_client"),
            (Refusal::NoCredential, 401, "no_credential"),
            (Refusal::CrossSite, 403, "cross_site"),
            (Refusal::NotWritten, 503, "not_written"),
        ] {
            assert_eq!(answer(&refusal, true), (status, error.to_owned()), "{refusal:?}");
        }
        assert_eq!(answer(&Refusal::LoginFailed, false), (401, "login_failed".to_owned()), "and nobody else does");
    }
}
