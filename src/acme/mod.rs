//! Certificates that are ordered from an authority by ACME (RFC 8555), and renewed by themselves.
//!
//! ```text
//! Settings → Keeper (control thread) → order → challenge answered by the edge → certificate → disk → resolver
//! ```
//! In: [`Settings`], the database of `server.state_dir`, a clock. Out: certificates in a
//! [`CertificateResolver`](crate::certificate::CertificateResolver), and answers to [`Challenges`] while they are
//! asked. Invariants: only hosts of the configuration are ordered for (R10); what is served stays until something
//! better is there; nothing is ordered before it is on disk that it is being tried, so that no restart and no crash
//! makes us ask faster; account key and certificate keys are on disk sealed, and in no log. One order for each host: a
//! name that cannot be proved holds up no other.
//!
//! The protocol is instant-acme's; requests go through [`crate::fetch`], the one HTTPS client, and so past no
//! second TLS or HTTP stack. rustls-acme would have brought both.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use aws_lc_rs::digest;

use crate::{
    fetch::{self, Url},
    host::Host,
    secret::Secret,
};

mod challenge;
mod http;
mod keeper;
mod order;
mod record;
mod schedule;

pub use challenge::Challenges;
pub use keeper::Keeper;

/// `[tls.acme]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where orders go.
    pub directory: Directory,
    /// Whom the authority may write to: `mailto:` URLs.
    pub contact: Box<[Box<str>]>,
    /// For whom certificates are wanted, those of files aside; no addresses.
    pub hosts: Box<[Host]>,
    /// How hosts are proved, the preferred first; at least one. After a failure it is the next one's turn.
    pub challenges: Box<[ChallengeKind]>,
    /// Whom we believe to be the directory, and which way goes there.
    pub client: fetch::Client,
    /// An account elsewhere that ours is bound to (RFC 8555 section 7.3.4).
    pub external_account: Option<ExternalAccount>,
    /// Of certificates.
    pub key_type: KeyType,
    /// How long before its end a certificate is renewed; `None`: a third of its life.
    pub renew_before: Option<Duration>,
    /// The wait after the first failure in a row.
    pub retry: Duration,
}

impl Settings {
    /// [`Self::retry`] where none is written: the waits that grow from it stay below the five failures an hour that
    /// Let's Encrypt allows.
    pub const RETRY: Duration = Duration::from_secs(60);

    /// Tells settings apart that orders may fail under for different reasons: after a change an order is tried at once.
    fn fingerprint(&self) -> String {
        let Self { directory, contact, challenges, external_account, key_type, .. } = self;
        let external = external_account.as_ref().map(|account| &account.id);
        let text = format!("{directory} {contact:?} {challenges:?} {external:?} {key_type:?}");
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The authority's directory (RFC 8555 section 7.1.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Directory(Url);

impl Directory {
    /// Let's Encrypt.
    pub const LETS_ENCRYPT: &'static str = "letsencrypt";
    /// Its twin for trying things out, which browsers do not trust.
    pub const LETS_ENCRYPT_STAGING: &'static str = "letsencrypt-staging";

    /// By name or URL.
    ///
    /// # Errors
    /// When it is neither.
    pub fn new(text: &str) -> Result<Self, fetch::UrlError> {
        match text {
            Self::LETS_ENCRYPT => "https://acme-v02.api.letsencrypt.org/directory",
            Self::LETS_ENCRYPT_STAGING => "https://acme-staging-v02.api.letsencrypt.org/directory",
            url => url,
        }
        .parse()
        .map(Self)
    }

    /// Whether its certificates are for trying things out, as far as its name tells.
    pub fn is_staging(&self) -> bool {
        let url = self.to_string();
        ["staging", "localhost", "127.0.0.1", "[::1]"].iter().any(|word| url.contains(word))
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How it is proved that a host is ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChallengeKind {
    /// By a certificate on the TLS port (RFC 8737).
    TlsAlpn01,
    /// By a file on port 80 (RFC 8555 section 8.3).
    Http01,
}

impl ChallengeKind {
    /// Its name in the standards.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

/// The kind of key that certificates are ordered for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyType {
    /// ECDSA with P-256: what every client of today takes, and the cheapest handshake.
    #[default]
    EcdsaP256,
    /// ECDSA with P-384.
    EcdsaP384,
}

/// Who we are at the authority already.
#[derive(Clone, Debug)]
pub struct ExternalAccount {
    /// The key's id.
    pub id: Box<str>,
    /// The HMAC key.
    pub key: Secret<Vec<u8>>,
}

/// What became of orders, for metrics.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Outcome::ALL.len()]);

impl Counts {
    /// Every outcome's label with how often it came.
    pub fn by_result(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Outcome::ALL.iter().zip(&self.0).map(|(outcome, count)| (outcome.label(), count.load(Relaxed)))
    }

    fn count(&self, outcome: Outcome) {
        for (known, count) in Outcome::ALL.iter().zip(&self.0) {
            if *known == outcome {
                count.fetch_add(1, Relaxed);
            }
        }
    }
}

/// What became of an order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Issued,
    Failed(Why),
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Issued,
        Self::Failed(Why::Account),
        Self::Failed(Why::Away),
        Self::Failed(Why::NotProved),
        Self::Failed(Why::RateLimited),
        Self::Failed(Why::Refused),
        Self::Failed(Why::State),
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Failed(why) => why.label(),
        }
    }
}

/// Why there is no certificate, as far as waits and remedies differ.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Why {
    /// The account is not accepted: nothing can be ordered.
    Account,
    /// The directory cannot be reached, or does not answer as one.
    Away,
    /// The authority did not see the proof that the host is ours.
    NotProved,
    /// Too much was ordered.
    RateLimited,
    /// The order is not to its liking, or what it issued is not to ours.
    Refused,
    /// `server.state_dir` cannot be written.
    State,
}

impl Why {
    const fn label(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Away => "unreachable",
            Self::NotProved => "not_proved",
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
            Self::State => "state",
        }
    }

    /// What can be done about it.
    const fn mend(self) -> &'static str {
        match self {
            Self::Account => "see what the authority says of the account: its terms, tls.acme.external_account",
            Self::Away => {
                "is tls.acme.directory right, is there a way out (server.outbound_proxy), and is its \
                           certificate to be trusted (tls.acme.ca)?"
            }
            Self::NotProved => {
                "the host's name must lead here: http-01 to server.redirect_http on port 80, \
                                tls-alpn-01 to an https listener on port 443, past every other proxy"
            }
            Self::RateLimited => {
                "nothing: it is tried again when the authority allows; use letsencrypt-staging to \
                                  try things out"
            }
            Self::Refused => {
                "see what the authority says; a name that it does not issue for belongs in no \
                              tls.acme.hosts"
            }
            Self::State => "make room in server.state_dir, or make it writable: nothing is ordered that cannot be kept",
        }
    }

    /// Whether other hosts would fare no better.
    const fn is_for_all(self) -> bool {
        match self {
            Self::Account | Self::Away | Self::State => true,
            Self::NotProved | Self::RateLimited | Self::Refused => false,
        }
    }
}

/// Why there is no certificate.
#[derive(Debug)]
struct Failure {
    why: Why,
    /// In words, the authority's among them; no control characters, bounded.
    cause: String,
    /// What the authority asks us to wait.
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(why: Why, cause: impl fmt::Display) -> Self {
        let told = cause.to_string();
        let cause = told.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_CAUSE).collect();
        Self { why, cause, retry_after: None }
    }
}

const LONGEST_CAUSE: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_names_or_urls() {
        let shown = |text: &str| Directory::new(text).map(|directory| directory.to_string());

        assert_eq!(shown("letsencrypt").unwrap(), "https://acme-v02.api.letsencrypt.org/directory");
        assert_eq!(shown("https://acme.example/dir").unwrap(), "https://acme.example/dir");
        assert!(shown("http://acme.example/dir").is_err());
        assert!(shown("lets-encrypt").is_err());
        let staging = |text| Directory::new(text).unwrap().is_staging();
        assert!(staging("letsencrypt-staging") && staging("https://localhost:14000/dir"));
        assert!(!staging("letsencrypt"));
    }

    #[test]
    fn causes_are_one_bounded_line() {
        let failure = Failure::new(Why::Refused, format!("no\r\nway{}", "x".repeat(5000)));

        assert!(failure.cause.starts_with("no  wayx"));
        assert_eq!(failure.cause.len(), LONGEST_CAUSE);
    }
}
