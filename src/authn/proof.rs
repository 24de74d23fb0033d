//! What a caller's identity rests on, for whatever lasts longer than the moment of its decision: a tunnel, an event
//! stream, a long poll, a download (R28).
//!
//! In: the session, token, key or certificate that was accepted. Out, asked again and again: a [`Standing`]. Pure: the
//! time and the settings are handed in.

use std::sync::Arc;

use super::{introspection, jwt::VerifiedToken};
use crate::{
    api_key::{ApiKey, Condition, Known},
    clock::Timestamp,
    mtls::{Ca, Certified, Verdict, Void},
    revocation::Revocations,
    session::{self, Bind, Session},
};

/// The credential that was accepted.
#[derive(Clone, Debug)]
pub enum Proof {
    /// An API key.
    ApiKey(Arc<ApiKey>),
    /// A client certificate.
    Certificate(Certified),
    /// Several, each of which has to hold: a session or token, and the certificates that its route asks for besides.
    Each(Box<[Self]>),
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

/// What has become of a [`Proof`], the better before the worse.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    /// It is as good as when it was accepted.
    Holds,
    /// Its time is over.
    Expired,
    /// Somebody ended it.
    Revoked,
}

/// What proofs are held against.
#[derive(Clone, Copy)]
pub struct Present<'a> {
    /// `[session]`.
    pub sessions: &'a session::Settings,
    /// `[[api_key]]`.
    pub api_keys: Known<'a>,
    /// `[[mtls.ca]]`.
    pub authorities: &'a [Arc<Ca>],
    /// What was revoked.
    pub revocations: &'a Revocations,
    /// Now.
    pub now: Timestamp,
}

impl Proof {
    /// Of a token that was accepted at `now`.
    pub fn of_token(token: Arc<VerifiedToken>, now: Timestamp) -> Self {
        let exp = token.expires_at();
        let ends = if now < exp { exp } else { token.accepted_until() };
        Self::Token { token, ends }
    }

    /// Of several, or of the only one.
    pub fn each(proofs: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut proofs: Vec<Self> = proofs.into_iter().collect();
        match proofs.len() {
            0 | 1 => proofs.pop(),
            _ => Some(Self::Each(proofs.into())),
        }
    }

    /// The session, if it is one, or one of several.
    pub fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Self::Session(session) => Some(session),
            Self::Each(proofs) => proofs.iter().find_map(Self::session),
            Self::ApiKey(_) | Self::Certificate(_) | Self::Token { .. } => None,
        }
    }

    /// What has become of it; of several, of the one that fares worst, which is told as well.
    pub fn standing(&self, present: &Present<'_>) -> (Standing, &Self) {
        let Present { sessions, api_keys, authorities, revocations, now } = *present;
        let standing = match self {
            Self::ApiKey(key) => key.condition(api_keys, revocations, now).into(),
            Self::Certificate(certified) => of_certificate(certified, authorities, revocations, now),
            Self::Each(proofs) => {
                let worst = proofs.iter().map(|proof| proof.standing(present)).max_by_key(|(standing, _)| *standing);
                return worst.unwrap_or((Standing::Revoked, self));
            }
            Self::Session(session) if now >= session.expires(sessions) => Standing::Expired,
            Self::Session(session) if session.is_ended() => Standing::Revoked,
            Self::Session(session) if session.is_expired(sessions, now) => Standing::Expired,
            // Its connection shows what it showed; only the settings may have come to ask for more.
            Self::Session(session) if session.bound_to().is_none() && sessions.bind != Bind::None => Standing::Revoked,
            Self::Token { ends, .. } if now >= *ends => Standing::Expired,
            Self::Token { token, .. } if !token.key_stands() => Standing::Revoked,
            Self::Token { token, .. } if token.is_revoked(revocations) => Standing::Revoked,
            Self::Token { token, .. } => {
                match token.child().map(|child| child.condition(sessions, api_keys, revocations, now)) {
                    // One that somebody else vouches for is asked about again.
                    None => introspection::standing(token, now),
                    Some(condition) => condition.into(),
                }
            }
            Self::Session(_) => Standing::Holds,
        };
        (standing, self)
    }
}

impl From<Condition> for Standing {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Lives => Self::Holds,
            Condition::Expired => Self::Expired,
            Condition::Ended => Self::Revoked,
        }
    }
}

/// A certificate that nobody can vouch for any more, as its authority's list is too old, is as good as revoked.
fn of_certificate(
    certified: &Certified,
    authorities: &[Arc<Ca>],
    revocations: &Revocations,
    now: Timestamp,
) -> Standing {
    match certified.verdict(authorities, now) {
        Verdict::Valid(holder) => {
            let identity = &holder.identity;
            let struck = revocations.is_holder_struck(identity.realm(), identity.subject(), holder.not_before);
            if struck { Standing::Revoked } else { Standing::Holds }
        }
        Verdict::Void(Void::Expired) => Standing::Expired,
        Verdict::Void(_) | Verdict::Unavailable => Standing::Revoked,
    }
}
