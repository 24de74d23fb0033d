//! What a caller's identity rests on, for whatever lasts longer than the moment of its decision: a tunnel, an event
//! stream, a long poll, a download (R28).
//!
//! In: the session or the token that was accepted. Out, asked again and again: a [`Standing`]. Pure: the time and the
//! settings are handed in.

use std::sync::Arc;

use super::jwt::VerifiedToken;
use crate::{
    api_key::{ApiKey, Known},
    clock::Timestamp,
    revocation::Revocations,
    session::{self, Session},
};

/// The credential that was accepted.
#[derive(Clone, Debug)]
pub enum Proof {
    /// An API key.
    ApiKey(Arc<ApiKey>),
    /// A session.
    Session(Arc<Session>),
    /// A bearer token.
    Token {
        /// The token.
        token: Arc<VerifiedToken>,
        /// When it ends: at `exp`, or, accepted after that by grace of the issuer's leeway, when that is over.
        ends: Timestamp,
    },
}

/// What has become of a [`Proof`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It is as good as when it was accepted.
    Holds,
    /// Its time is over.
    Expired,
    /// Somebody ended it.
    Revoked,
}

impl Proof {
    /// Of a token that was accepted at `now`.
    pub fn of_token(token: Arc<VerifiedToken>, now: Timestamp) -> Self {
        let exp = token.expires_at();
        let ends = if now < exp { exp } else { token.accepted_until() };
        Self::Token { token, ends }
    }

    /// What has become of it.
    pub fn standing(
        &self,
        sessions: &session::Settings,
        keys: Known<'_>,
        revocations: &Revocations,
        now: Timestamp,
    ) -> Standing {
        match self {
            Self::ApiKey(key) if key.is_expired(now) => Standing::Expired,
            Self::ApiKey(key) if key.is_orphan() || key.is_revoked(revocations) => Standing::Revoked,
            // A reload that takes a key away, or gives its name to another one, ends what it had opened.
            Self::ApiKey(key) if !key.is_among(keys) => Standing::Revoked,
            Self::Session(session) if now >= session.expires(sessions) => Standing::Expired,
            Self::Session(session) if session.is_ended() => Standing::Revoked,
            Self::Session(session) if session.is_expired(sessions, now) => Standing::Expired,
            Self::Token { ends, .. } if now >= *ends => Standing::Expired,
            Self::Token { token, .. } if !token.key_stands() => Standing::Revoked,
            Self::Token { token, .. } if token.is_revoked(revocations) => Standing::Revoked,
            Self::ApiKey(_) | Self::Session(_) | Self::Token { .. } => Standing::Holds,
        }
    }
}
