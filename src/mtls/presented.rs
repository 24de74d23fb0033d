//! The certificate of one connection, whose key its client holds, and what is remembered of it.
//!
//! In: the chain as the handshake gave it. Out: a [`Verdict`] under an authority, judged once and remembered with the
//! span of time in which it cannot turn into another: between two neighbouring dates of the chain, the authority and
//! its revocation lists. Another generation of the authority, a date that has come, or a clock that stepped back:
//! judged anew.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rustls_pki_types::CertificateDer;
use smallvec::SmallVec;

use super::{Ca, Leaf, Verdict, sha256};
use crate::clock::Timestamp;

/// A client's certificate with the chain that came along, and proof that it holds the key.
pub struct ClientCertificate {
    chain: Box<[CertificateDer<'static>]>,
    thumbprint: [u8; 32],
    key: Option<[u8; 32]>,
    /// Locked for a comparison, or for one verification: by the requests of one connection, all on one thread.
    memory: Mutex<SmallVec<[Remembered; 1]>>,
}

struct Remembered {
    generation: u64,
    /// In Unix seconds: from, and before.
    span: (u64, u64),
    verdict: Verdict,
}

impl ClientCertificate {
    /// Of a chain, the client's own certificate first; `None` for an empty one.
    pub fn new(chain: &[CertificateDer<'static>]) -> Option<Arc<Self>> {
        let first = chain.first()?;
        Some(Arc::new(Self {
            thumbprint: sha256(first),
            key: Leaf::read(first).map(|leaf| sha256(leaf.key)),
            chain: chain.into(),
            memory: Mutex::default(),
        }))
    }

    /// SHA-256 of the certificate: `x5t#S256` (RFC 8705 section 3.1).
    pub const fn thumbprint(&self) -> &[u8; 32] {
        &self.thumbprint
    }

    /// The beginning of the thumbprint, for logs.
    pub const fn short_thumbprint(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.thumbprint;
        [a, b, c, d, e, f, g, h]
    }

    /// SHA-256 of its key with the key's kind (`SubjectPublicKeyInfo`): the same for every certificate of one key.
    /// `None` if the certificate cannot be read.
    pub const fn key(&self) -> Option<&[u8; 32]> {
        self.key.as_ref()
    }

    /// The chain in DER, the client's own certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// What it is worth under an authority at `now`.
    pub fn verdict(&self, authority: &Ca, now: Timestamp) -> Verdict {
        let second = now.unix_seconds();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let known = memory.iter().find(|known| known.generation == authority.generation);
        if let Some(known) = known.filter(|known| (known.span.0..known.span.1).contains(&second)) {
            return known.verdict.clone();
        }
        let verdict = authority.judge(&self.chain, &hex(&self.thumbprint), now);
        let span = authority.turns(&self.chain).fold((0, u64::MAX), |(from, before), turn| {
            if turn <= second { (from.max(turn), before) } else { (from, before.min(turn)) }
        });
        memory.retain(|known| known.generation != authority.generation);
        if memory.len() >= MOST_REMEMBERED {
            // The oldest, of an authority that a reload has replaced, or of a great many.
            memory.remove(0);
        }
        memory.push(Remembered { generation: authority.generation, span, verdict: verdict.clone() });
        verdict
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("thumbprint", &hex(&self.thumbprint)).finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const MOST_REMEMBERED: usize = 4;
