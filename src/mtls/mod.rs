//! Client certificates (mTLS): who is asked for one, and what the one that came is worth.
//!
//! The handshake proves that the client holds the key of its certificate, and nothing more ([`Possession`]). Whether
//! the certificate counts is judged later, for each request that wants to know, under the [`Ca`] that its route names:
//! chain, times, key usage and revocation lists (RFC 5280), then the subject. So a request gets an answer that says
//! what to do, and a list or an authority that a reload brings counts on open connections too. A verdict is remembered
//! beside the certificate for as long as nothing that it rests on can have changed. Four answers (R3): a certificate
//! that is void is never the same as none, and a revocation list that is too old is no verdict.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime, pem::PemObject};
use serde_json::{Map, Value, json};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::{
    clock::Timestamp,
    identity::{Factor, Identity, IdentityParts, Via},
};

mod asked;
pub mod leaf;
mod possession;
mod presented;

pub use asked::{Asked, Group, Wanted};
use leaf::{Leaf, Subjects};
pub use possession::{MAX_CERTIFICATES, MAX_CHAIN_BYTES, Possession};
pub use presented::ClientCertificate;

/// Which name of a certificate is its holder's. There must be exactly one of the kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SubjectFrom {
    /// The common name of the subject.
    CommonName,
    /// The subject alternative name that is a host, in lower case; no wildcard.
    Dns,
    /// The subject alternative name that is an email address.
    Email,
    /// The subject alternative name that is a URI, as SPIFFE identities are.
    Uri,
}

/// An authority for client certificates, as it is written down: `[[mtls.ca]]`.
#[derive(Clone, Debug)]
pub struct Description {
    /// In `mtls:<name>`, logs and metrics.
    pub name: Arc<str>,
    /// What subjects mean something in (R5).
    pub realm: Arc<str>,
    /// The certificates to believe, in PEM.
    pub anchors: Vec<u8>,
    /// Revocation lists, in PEM or DER; with any, every certificate of a chain must be on one's issuer's.
    pub revoked: Vec<Vec<u8>>,
    /// Whose name counts.
    pub subject: SubjectFrom,
    /// What every holder gets.
    pub roles: Vec<String>,
    /// What every holder gets.
    pub groups: Vec<String>,
    /// What every holder gets.
    pub scopes: Vec<String>,
    /// Whether email addresses in certificates count as verified (R6).
    pub trust_email: bool,
}

/// `[[mtls.ca]]`, ready to use.
#[derive(Debug, Default)]
pub struct Settings {
    /// The authorities, in the order of the configuration.
    pub authorities: Vec<Arc<Ca>>,
    /// Who is asked for a certificate, by host.
    pub asked: Arc<Asked>,
}

/// An authority for client certificates, ready to judge. Immutable; a reload makes another one, of another generation,
/// unless nothing of it has changed.
pub struct Ca {
    description: Description,
    anchors: Vec<Anchor>,
    lists: Vec<CertRevocationList<'static>>,
    list_ends: Vec<Timestamp>,
    digest: [u8; 32],
    generation: u64,
    counts: Arc<Counts>,
}

struct Anchor {
    anchor: TrustAnchor<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// What came of the certificates that were looked at, once for each connection and authority.
#[derive(Debug, Default)]
pub struct Counts {
    /// It counted.
    pub valid: AtomicU64,
    /// It was void.
    pub void: AtomicU64,
    /// A revocation list was too old to tell.
    pub unavailable: AtomicU64,
}

/// What a certificate is worth under one authority.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It counts, and this is its holder.
    Valid(Arc<Holder>),
    /// It does not.
    Void(Void),
    /// It cannot be told: a revocation list is too old or not its issuer's own.
    Unavailable,
}

/// Who holds a certificate.
#[derive(Debug)]
pub struct Holder {
    /// The identity, its headers prepared.
    pub identity: Arc<Identity>,
    /// When the certificate says that it was issued: what a revoked subject's moment is compared with.
    pub not_before: Timestamp,
}

/// Why a certificate counts for nothing. For logs and metrics only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Void {
    /// No authority here has signed it, nor one that they vouch for.
    Authority,
    /// A chain that must not be: too long, or of an authority that may not sign this.
    Chain,
    /// Past its end, or an authority's of its chain is.
    Expired,
    /// Its key may not sign (RFC 5280 section 4.2.1.3).
    KeyUsage,
    /// Not readable as X.509.
    Malformed,
    /// It has no name of the kind that counts here.
    NoSubject,
    /// Not yet valid, or an authority's of its chain is not.
    NotYetValid,
    /// Its serial number is on its issuer's list.
    Revoked,
    /// There are lists, and none is its issuer's.
    RevocationUnknown,
    /// Its holder was revoked after it was issued.
    Struck,
    /// Its name is no fit subject (R13).
    Subject,
    /// It has several names of the kind that counts here, and only one can be meant.
    TwoSubjects,
    /// It is not for clients (RFC 5280 section 4.2.1.12).
    Usage,
}

impl Void {
    /// The word for logs and metrics: a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Authority => "certificate_authority",
            Self::Chain => "certificate_chain",
            Self::Expired => "certificate_expired",
            Self::KeyUsage => "certificate_key_usage",
            Self::Malformed => "certificate_malformed",
            Self::NoSubject => "certificate_no_subject",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Revoked => "certificate_revoked",
            Self::RevocationUnknown => "certificate_revocation_unknown",
            Self::Struck => "certificate_struck",
            Self::Subject => "certificate_subject",
            Self::TwoSubjects => "certificate_two_subjects",
            Self::Usage => "certificate_usage",
        }
    }
}

/// Why an authority cannot be used. `Display` says how to mend it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CaError {
    /// A section that is no certificate.
    BadCertificate,
    /// A section or file that is no revocation list, or of a kind that is not served. Carries the number of the file.
    BadList(usize),
    /// Nothing in PEM.
    NoCertificate,
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadCertificate => "a certificate that cannot be read",
            Self::BadList(_) => "no revocation list that can be used: delta and indirect lists are not served",
            Self::NoCertificate => "no certificate: it needs a section -----BEGIN CERTIFICATE-----",
        })
    }
}

impl Ca {
    /// An authority that is to be used.
    ///
    /// # Errors
    /// [`CaError`] when its files cannot be read.
    pub fn new(description: Description) -> Result<Self, CaError> {
        let mut anchors = Vec::new();
        for der in CertificateDer::pem_slice_iter(&description.anchors) {
            let der = der.map_err(|_| CaError::BadCertificate)?;
            let leaf = Leaf::read(&der).ok_or(CaError::BadCertificate)?;
            let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|_| CaError::BadCertificate)?.to_owned();
            anchors.push(Anchor { anchor, not_before: leaf.not_before, not_after: leaf.not_after });
        }
        if anchors.is_empty() {
            return Err(CaError::NoCertificate);
        }
        let mut lists = Vec::new();
        for (file, bytes) in description.revoked.iter().enumerate() {
            for der in list_sections(bytes).ok_or(CaError::BadList(file))? {
                let ends = leaf::next_update(&der).ok_or(CaError::BadList(file))?;
                let list = OwnedCertRevocationList::from_der(&der).map_err(|_| CaError::BadList(file))?;
                lists.push((ends, CertRevocationList::from(list)));
            }
        }
        // Of an old list and its successor, both there for a while, the successor counts.
        lists.sort_by_key(|(ends, _)| std::cmp::Reverse(*ends));
        let (list_ends, lists) = lists.into_iter().unzip();
        let digest = description.digest();
        let generation = NEXT_GENERATION.fetch_add(1, Relaxed);
        Ok(Self { description, anchors, lists, list_ends, digest, generation, counts: Arc::default() })
    }

    /// What it is called.
    pub const fn name(&self) -> &Arc<str> {
        &self.description.name
    }

    /// What its subjects mean something in (R5).
    pub const fn realm(&self) -> &Arc<str> {
        &self.description.realm
    }

    /// The distinguished names of its certificates, each the inside of a sequence: what clients choose theirs by.
    pub fn hints(&self) -> impl Iterator<Item = &[u8]> {
        self.anchors.iter().map(|anchor| &*anchor.anchor.subject)
    }

    /// When its revocation lists end, the last one first; empty: there are none.
    pub fn list_ends(&self) -> &[Timestamp] {
        &self.list_ends
    }

    /// When the last of its certificates ends.
    pub fn ends(&self) -> Timestamp {
        self.anchors.iter().map(|anchor| anchor.not_after).max().unwrap_or(Timestamp::from_unix_seconds(0))
    }

    /// What came of the certificates that were judged.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Goes on counting where another one of this name has; `true` if it is the same to the byte, and can stay.
    pub fn carry_over(&mut self, earlier: &Self) -> bool {
        self.counts = Arc::clone(&earlier.counts);
        self.digest == earlier.digest
    }

    /// What a chain, the client's own certificate first, is worth at `now`.
    fn judge(&self, chain: &[CertificateDer<'static>], fingerprint: &str, now: Timestamp) -> Verdict {
        let verdict = match self.verify(chain, fingerprint, now) {
            Ok(holder) => Verdict::Valid(Arc::new(holder)),
            Err(Some(void)) => Verdict::Void(void),
            Err(None) => Verdict::Unavailable,
        };
        let counter = match verdict {
            Verdict::Valid(_) => &self.counts.valid,
            Verdict::Void(_) => &self.counts.void,
            Verdict::Unavailable => &self.counts.unavailable,
        };
        counter.fetch_add(1, Relaxed);
        verdict
    }

    /// `Err(None)`: it cannot be told.
    fn verify(
        &self,
        chain: &[CertificateDer<'static>],
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Holder, Option<Void>> {
        let (first, intermediates) = chain.split_first().ok_or(Void::Malformed)?;
        let leaf = Leaf::read(first).ok_or(Void::Malformed)?;
        let end_entity = EndEntityCert::try_from(first).map_err(|_| Void::Malformed)?;
        // Of trust anchors, `webpki` does not look at the dates.
        let in_time = |anchor: &&Anchor| anchor.not_before <= now && now <= anchor.not_after;
        let anchors: Vec<_> = self.anchors.iter().filter(in_time).map(|anchor| anchor.anchor.clone()).collect();
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let algorithms = crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_seconds()));
        end_entity
            .verify_for_usage(algorithms, &anchors, intermediates, time, KeyUsage::client_auth(), revocation, None)
            .map_err(|error| why(&error))?;
        if !leaf.may_sign {
            return Err(Some(Void::KeyUsage));
        }
        let identity = self.identity(&leaf, fingerprint)?;
        Ok(Holder { identity: Arc::new(identity), not_before: leaf.not_before })
    }

    fn identity(&self, leaf: &Leaf<'_>, fingerprint: &str) -> Result<Identity, Void> {
        let Subjects { common_names, organizations, units, hosts, emails, uris } =
            leaf.subjects().ok_or(Void::Subject)?;
        let candidates = match self.description.subject {
            SubjectFrom::CommonName => &common_names,
            SubjectFrom::Dns => &hosts,
            SubjectFrom::Email => &emails,
            SubjectFrom::Uri => &uris,
        };
        let subject = match &candidates[..] {
            [] => return Err(Void::NoSubject),
            [one] => one.clone(),
            [_, _, ..] => return Err(Void::TwoSubjects),
        };
        // What is there once can be compared with a text; what is there several times equals none (R6).
        let single = |names: &[String]| if let [one] = names { Some(one.clone()) } else { None };
        let mut told = Map::new();
        for (key, names) in [
            ("cn", &common_names),
            ("o", &organizations),
            ("ou", &units),
            ("dns", &hosts),
            ("email", &emails),
            ("uri", &uris),
        ] {
            if let Some(name) = single(names) {
                told.insert(key.to_owned(), name.into());
            }
        }
        told.insert("ca".to_owned(), Value::from(&**self.name()));
        told.insert("serial".to_owned(), leaf.serial_text().into());
        told.insert("fingerprint".to_owned(), fingerprint.into());
        let description = &self.description;
        Identity::new(IdentityParts {
            realm: Arc::clone(&description.realm),
            subject,
            name: single(&common_names),
            email: single(&emails),
            email_verified: description.trust_email,
            roles: description.roles.clone(),
            groups: description.groups.clone(),
            scopes: description.scopes.clone(),
            claims: Map::from_iter([("certificate".to_owned(), json!(told))]),
            // A certificate does not say when a person last proved anything.
            auth_time: None,
            factor: Factor::One,
            via: Via::Mtls,
        })
        .map_err(|_| Void::Subject)
    }

    /// Every second at which a verdict may turn into another, for this chain.
    fn turns(&self, chain: &[CertificateDer<'static>]) -> impl Iterator<Item = u64> {
        let sent = chain.iter().filter_map(|der| Leaf::read(der)).map(|leaf| (leaf.not_before, leaf.not_after));
        let own = self.anchors.iter().map(|anchor| (anchor.not_before, anchor.not_after));
        let spans = sent.chain(own).flat_map(|(from, until)| [from.unix_seconds(), until.unix_seconds() + 1]);
        // Whether a list counts in the second of its end is not ours to say.
        let lists = self.list_ends.iter().flat_map(|end| [end.unix_seconds(), end.unix_seconds() + 1]);
        spans.chain(lists).collect::<Vec<_>>().into_iter()
    }
}

impl Description {
    /// Of everything that a verdict rests on.
    fn digest(&self) -> [u8; 32] {
        let texts = json!([
            *self.name,
            *self.realm,
            format!("{:?}", self.subject),
            self.roles,
            self.groups,
            self.scopes,
            self.trust_email,
            self.anchors.len(),
            self.revoked.iter().map(Vec::len).collect::<Vec<_>>(),
        ]);
        let parts = [texts.to_string().as_bytes(), &self.anchors, &self.revoked.concat()].concat();
        sha256(&parts)
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("name", self.name()).field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Settings {
    /// What is odd about the authorities now, or will be soon; a line each.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let date = |time: Timestamp| humantime::format_rfc3339_seconds(time.to_system_time()).to_string();
        let mut warnings = Vec::new();
        for authority in &self.authorities {
            let name = authority.name();
            match authority.ends() {
                end if now > end => warnings.push(format!(
                    "[[mtls.ca]] {name}: its certificates expired at {}; no client certificate counts",
                    date(end)
                )),
                end if now.plus(CA_SOON) > end => {
                    warnings
                        .push(format!("[[mtls.ca]] {name}: its last certificate expires at {}; renew it", date(end)));
                }
                _ => {}
            }
            // The newest of the lists of one issuer counts, and which is whose is not said here.
            if let Some(end) = authority.list_ends().last().filter(|end| now.plus(LIST_SOON) > **end) {
                warnings.push(format!(
                    "[[mtls.ca]] {name}: a revocation list ends at {}; from then on its issuer's certificates are \
                     answered with 503 until there is a newer one",
                    date(*end)
                ));
            }
        }
        warnings
    }

    /// Keeps what a reload leaves as it was, so that verdicts hold and counts go on.
    pub fn carry_over(&mut self, earlier: &Self) {
        for authority in &mut self.authorities {
            let Some(known) = earlier.authorities.iter().find(|known| known.name() == authority.name()) else {
                continue;
            };
            if Arc::get_mut(authority).is_some_and(|authority| authority.carry_over(known)) {
                *authority = Arc::clone(known);
            }
        }
    }
}

/// A certificate that an authority here vouches for.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub certificate: Arc<ClientCertificate>,
    /// The authority's name, which outlives its files.
    pub ca: Arc<str>,
}

impl Certified {
    /// What the certificate is worth now, under the authority of that name as it is now.
    pub fn verdict(&self, authorities: &[Arc<Ca>], now: Timestamp) -> Verdict {
        let authority = authorities.iter().find(|authority| *authority.name() == self.ca);
        authority.map_or(Verdict::Void(Void::Authority), |authority| self.certificate.verdict(authority, now))
    }
}

/// Judges a certificate under those of the authorities that count; the first that vouches for it says who it is. If
/// none does, the answer is that of the one that knows most about it.
pub fn judge<'a>(
    certificate: &ClientCertificate,
    authorities: impl IntoIterator<Item = &'a Arc<Ca>>,
    now: Timestamp,
) -> Verdict {
    let mut best = Verdict::Void(Void::Authority);
    for authority in authorities {
        let verdict = certificate.verdict(authority, now);
        match (&verdict, &best) {
            (Verdict::Valid(_), _) => return verdict,
            (Verdict::Void(Void::Authority), _) => {}
            (Verdict::Unavailable | Verdict::Void(_), Verdict::Void(Void::Authority)) => best = verdict,
            (Verdict::Unavailable | Verdict::Void(_), Verdict::Valid(_) | Verdict::Void(_) | Verdict::Unavailable) => {}
        }
    }
    best
}

/// `None`: it cannot be told.
fn why(error: &webpki::Error) -> Option<Void> {
    match error {
        webpki::Error::CertExpired { .. } => Some(Void::Expired),
        webpki::Error::CertNotValidYet { .. } => Some(Void::NotYetValid),
        webpki::Error::CertRevoked => Some(Void::Revoked),
        // A wrong signature: it is of another authority of the same name.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Some(Void::Authority),
        webpki::Error::UnknownRevocationStatus => Some(Void::RevocationUnknown),
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => Some(Void::Usage),
        webpki::Error::CrlExpired { .. }
        | webpki::Error::InvalidCrlSignatureForPublicKey
        | webpki::Error::IssuerNotCrlSigner => None,
        // A list that is open: its later members are no better.
        _ => Some(Void::Chain),
    }
}

/// The lists in a file: one in DER, or any number in PEM.
fn list_sections(file: &[u8]) -> Option<Vec<Vec<u8>>> {
    if file.first() == Some(&crate::certificate::der::SEQUENCE) {
        return Some(vec![file.to_vec()]);
    }
    let sections = CertificateRevocationListDer::pem_slice_iter(file);
    let lists: Vec<_> = sections.map(|list| list.map(|list| list.to_vec())).collect::<Result<_, _>>().ok()?;
    (!lists.is_empty()).then_some(lists)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Before its end, a reminder of an authority's.
const CA_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Before its end, a reminder of a list's: many are made anew every day.
const LIST_SOON: Duration = Duration::from_secs(3600);

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);
