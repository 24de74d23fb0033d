//! Step-up: somebody who is signed in proves anew who they are, because a route asks for a fresher login or for two
//! factors (RFC 9470).
//!
//! In: `prompt` of the login page, and the session that the request brings. Out: whether a login may replace it.
//! Invariant: it ends in the realm and subject that it began in, or nothing changes: whoever finds an unlocked screen
//! does not carry somebody's half-done work into an account of their own.

use crate::session::Session;

/// What the new login is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StepUp {
    /// `again`: the last one is too long ago.
    Again,
    /// `factor`: the last one took too few factors.
    Factor,
}

impl StepUp {
    pub(super) fn parse(prompt: &str) -> Option<Self> {
        match prompt {
            "again" => Some(Self::Again),
            "factor" => Some(Self::Factor),
            _ => None,
        }
    }

    /// As in `prompt`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Again => "again",
            Self::Factor => "factor",
        }
    }

    /// Whether this subject may take the place of the session's. (Without a session there is nobody to be the same as,
    /// and it is a login like any other.)
    pub(super) fn allows(session: &Session, realm: &str, subject: &str) -> bool {
        let before = session.identity();
        (&**before.realm(), before.subject()) == (realm, subject)
    }
}
