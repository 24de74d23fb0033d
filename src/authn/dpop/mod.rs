//! DPoP (RFC 9449): a token that is bound to a key counts with a proof that its sender holds that key, made for this
//! very request.
//!
//! In: a request that came with `Authorization: DPoP`, and the thumbprint and subject of its token, which holds
//! already. Out: the proof is good and was never used before, or why not. `proof` reads and checks what it says,
//! `nonce` makes and knows the server's nonces, `replay` remembers which proofs were used. Invariants: nothing but a
//! good proof is remembered, and nothing that is still good is forgotten, however many come; what a restart forgets
//! counts no more.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use http::{HeaderName, HeaderValue, request::Parts};

use self::{
    nonce::Nonces,
    proof::{Made, Proof},
    replay::{Refused, Replays, Use},
};
pub use self::{
    proof::{MAX_AGE, ProofError},
    replay::Statistics,
};
use super::{
    keys::Algorithm,
    possession::{Thumbprint, Unproven},
};
use crate::{
    client::{ClientView, network},
    clock::Timestamp,
    identity::Identity,
    route::path::{CanonicalPath, Quirks},
};

mod nonce;
mod proof;
mod replay;

/// `[dpop]` and `limits.max_proofs`, ready to use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `nonce`.
    pub nonce: NonceRule,
    /// `algorithms`: with which proofs may be signed; none of them is an HMAC.
    pub algorithms: Box<[Algorithm]>,
    /// The same as `algs` of a challenge (RFC 9449 section 7.1).
    pub algorithm_names: Box<str>,
    /// `limits.max_proofs`: how many are remembered at once.
    pub max_proofs: usize,
}

/// `dpop.nonce`: whether proofs hold a nonce of ours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum NonceRule {
    /// None is given out, and none is looked at.
    Off,
    /// One is given out, and is checked where a proof has it.
    #[default]
    Optional,
    /// A proof without one does not count.
    Required,
}

/// What outlives settings: the key of the nonces, and which proofs were used. Shared by all workers.
#[derive(Debug)]
pub struct Proofs {
    nonces: Nonces,
    replays: Replays,
    /// Milliseconds since the epoch.
    started: AtomicU64,
    /// Whether another process judges proofs now.
    closed: AtomicBool,
}

/// A request that offers a proof.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Its head.
    pub head: &'a Parts,
    /// Scheme, host and port, as the client sees them.
    pub view: &'a ClientView,
    /// Its path.
    pub path: &'a CanonicalPath,
    /// What paths may hold (R8): the request's was read with these.
    pub tolerated: Quirks,
    /// `[dpop]`.
    pub settings: &'a Settings,
    /// What is known of earlier ones.
    pub proofs: &'a Proofs,
}

/// The token that a proof is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    /// As it was sent.
    pub(super) text: &'a [u8],
    /// `cnf.jkt`.
    pub(super) key: &'a Thumbprint,
    /// Whose it is.
    pub(super) identity: &'a Identity,
}

/// To whom used proofs are counted.
#[derive(Clone, Copy)]
struct Caller<'a> {
    realm: &'a str,
    subject: &'a str,
}

impl Settings {
    /// Of what is written.
    pub fn new(nonce: NonceRule, algorithms: &[Algorithm], max_proofs: usize) -> Self {
        let names: Vec<&str> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
        Self { nonce, algorithms: algorithms.into(), algorithm_names: names.join(" ").into(), max_proofs }
    }
}

impl Proofs {
    /// None was used yet, of those made since `now`. For about `capacity` proofs; each request says how many may be
    /// remembered.
    pub fn new(now: Timestamp, capacity: usize) -> Self {
        Self {
            nonces: Nonces::new(),
            replays: Replays::new(capacity),
            started: AtomicU64::new(now.unix_millis()),
            closed: AtomicBool::new(false),
        }
    }

    /// From now on no proof counts here: another process judges them, and nobody knows there which were used here, or
    /// here which are used there. Whoever comes is told to come again.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Undoes [`Self::close`]: nobody judges them elsewhere.
    pub fn open(&self) {
        self.closed.store(false, SeqCst);
    }

    /// As if it had begun at `moment`: another process has judged proofs until then.
    pub fn begin_again(&self, moment: Timestamp) {
        self.started.store(moment.unix_millis(), SeqCst);
    }

    fn started(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.started.load(SeqCst))
    }

    /// The nonce that the next proof may hold, for `DPoP-Nonce` (RFC 9449 section 8.2); `None` where none is given out.
    pub fn nonce(&self, rule: NonceRule, now: Timestamp) -> Option<HeaderValue> {
        match rule {
            NonceRule::Off => None,
            NonceRule::Optional | NonceRule::Required => HeaderValue::from_str(&self.nonces.at(now)).ok(),
        }
    }

    /// How many are remembered, and what became of others.
    pub fn statistics(&self, now: Timestamp) -> Statistics {
        self.replays.statistics(now)
    }

    /// What a proof says of when it was made, held against what we know ourselves.
    fn check_made(&self, made: &Made, rule: NonceRule, now: Timestamp) -> Result<(), Unproven> {
        match (rule, &made.nonce) {
            // Whatever was used before the start was issued at most its whole life after it. A nonce of ours tells the
            // new ones; without, all that can be told is that this one was not made before.
            (NonceRule::Off, _) if made.issued_at.unix_seconds() < self.started().unix_seconds() => {
                Err(Unproven::Proof(ProofError::BeforeStart))
            }
            (NonceRule::Off, _) => Ok(()),
            (NonceRule::Optional | NonceRule::Required, Some(nonce)) if self.nonces.is_good(nonce, now) => Ok(()),
            (NonceRule::Optional | NonceRule::Required, Some(_)) | (NonceRule::Required, None) => Err(Unproven::Nonce),
            (NonceRule::Optional, None) if made.issued_at < self.started().plus(MAX_AGE) => Err(Unproven::Nonce),
            (NonceRule::Optional, None) => Ok(()),
        }
    }
}

impl Offer<'_> {
    /// Checks the proof of a request, and uses it up if it is good. To be asked last, once all else holds of the token.
    /// `wait` is asked before the signature is checked: for how long none of this client's is to be looked at.
    pub(super) fn check(
        &self,
        token: Token<'_>,
        now: Timestamp,
        wait: impl FnOnce() -> Option<Duration>,
    ) -> Result<(), Unproven> {
        let caller = Caller { realm: token.identity.realm(), subject: token.identity.subject() };
        self.check_for(Some(&token), caller, now, wait).map(|_| ())
    }

    /// Checks the proof of a request that asks for a token, and uses it up; the answer is the key that it proves
    /// (RFC 9449 section 5). Who asks is not known yet, so that used proofs are counted to the client's network.
    pub(super) fn check_key(
        &self,
        now: Timestamp,
        wait: impl FnOnce() -> Option<Duration>,
    ) -> Result<Thumbprint, Unproven> {
        let network = network(self.view.address).to_string();
        self.check_for(None, Caller { realm: "", subject: &network }, now, wait)
    }

    /// Whether there is a proof at all.
    pub fn is_made(&self) -> bool {
        self.head.headers.contains_key(&DPOP)
    }

    fn check_for(
        &self,
        token: Option<&Token<'_>>,
        caller: Caller<'_>,
        now: Timestamp,
        wait: impl FnOnce() -> Option<Duration>,
    ) -> Result<Thumbprint, Unproven> {
        let field = self.field().map_err(Unproven::Proof)?;
        if self.proofs.closed.load(SeqCst) {
            return Err(Unproven::Full);
        }
        let proof = Proof::read(field, &self.settings.algorithms).map_err(Unproven::Proof)?;
        let made = proof.check_request(self, token, now).map_err(Unproven::Proof)?;
        self.proofs.check_made(&made, self.settings.nonce, now)?;
        if let Some(wait) = wait() {
            return Err(Unproven::TooMany(wait));
        }
        proof.check_signature().map_err(Unproven::Proof)?;
        let used = Use {
            key: proof.key(),
            id: &made.id,
            realm: caller.realm,
            subject: caller.subject,
            until: made.issued_at.plus(MAX_AGE),
        };
        self.proofs.replays.remember(&used, now, self.settings.max_proofs).map_err(|refused| match refused {
            Refused::Full => Unproven::Full,
            Refused::Known => Unproven::Proof(ProofError::Replayed),
            Refused::Share => Unproven::TooMany(SHARE_WAIT),
            Refused::Stale => Unproven::Proof(ProofError::TooOld),
        })?;
        Ok(*proof.key())
    }

    /// The one proof (RFC 9449 section 4.3, step 1).
    fn field(&self) -> Result<&[u8], ProofError> {
        let mut fields = self.head.headers.get_all(&DPOP).iter();
        let field = fields.next().ok_or(ProofError::Missing)?;
        match fields.next() {
            None => Ok(field.as_bytes()),
            Some(_) => Err(ProofError::Several),
        }
    }
}

/// When to come back with more proofs than one's share: some of those that were used have ended then.
const SHARE_WAIT: Duration = Duration::from_secs(5);

/// The header of proofs.
pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The header of nonces.
pub const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

#[cfg(test)]
mod tests;
