//! The client certificate as an authenticator: from the one that the connection has shown to an identity (R2, R3).
//!
//! In: the certificate, the authorities that the route names, what was revoked. Out: one of the four answers. `mtls`
//! says what a certificate is worth and remembers it; here its holder is held against the revocations, on every use.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::Answer;
use crate::{
    clock::Timestamp,
    identity::Identity,
    mtls::{self, Ca, Certified, ClientCertificate, Verdict, Void},
    refusal::BadCredential,
    revocation::Revocations,
};

/// A certificate that counts.
#[derive(Debug)]
pub struct Vouched {
    /// Who holds it, by the first of the authorities that vouch for it.
    pub identity: Arc<Identity>,
    /// Those authorities; hardly ever more than one.
    pub by: SmallVec<[Certified; 1]>,
}

impl From<Void> for BadCredential {
    fn from(void: Void) -> Self {
        Self::Certificate(void.label())
    }
}

/// Judges the certificate of a connection under these authorities.
///
/// [`Answer::Unavailable`] without anything to wait for: a revocation list is too old to tell.
pub fn authenticate_certificate<'a>(
    certificate: Option<&Arc<ClientCertificate>>,
    authorities: impl Iterator<Item = &'a Arc<Ca>> + Clone,
    revocations: &Revocations,
    now: Timestamp,
) -> Answer<Vouched> {
    let Some(certificate) = certificate else {
        return Answer::Absent;
    };
    let holder = match mtls::judge(certificate, authorities.clone(), now) {
        Verdict::Valid(holder) => holder,
        Verdict::Void(why) => return Answer::Invalid(why.into()),
        Verdict::Unavailable => return Answer::Unavailable(None),
    };
    let identity = Arc::clone(&holder.identity);
    if revocations.is_holder_struck(identity.realm(), identity.subject(), holder.not_before) {
        return Answer::Invalid(Void::Struck.into());
    }
    let mut by: SmallVec<[Certified; 1]> = smallvec![];
    for authority in authorities {
        if matches!(certificate.verdict(authority, now), Verdict::Valid(_)) {
            by.push(Certified { certificate: Arc::clone(certificate), ca: Arc::clone(authority.name()) });
        }
    }
    Answer::Valid(Vouched { identity, by })
}
