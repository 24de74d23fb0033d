//! Proofs that hosts are ours, while an authority looks for them: TLS-ALPN-01 (RFC 8737), HTTP-01 (RFC 8555 section
//! 8.3).
//!
//! In: what an order asks to be shown. Out: a TLS configuration for a server name, or a text for a host and token.
//! Invariants: a proof is there from when an order puts it up until its [`Posted`] is dropped, and for its own host
//! only; the certificate of a TLS proof is offered with `acme-tls/1` and never with HTTP, and leaves no ticket.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Method, header};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::PrivateKeyDer;

use super::ChallengeKind;
use crate::{
    host::{Authority, Host},
    inbound::Inbound,
};

/// The proofs that are up now.
#[derive(Default)]
pub struct Challenges {
    /// Whether there is one: all that connections ask while there is none.
    any: AtomicBool,
    pending: Mutex<Pending>,
    shown: [AtomicU64; 2],
}

#[derive(Default)]
struct Pending {
    tls: HashMap<Host, Arc<ServerConfig>>,
    http: HashMap<Host, (Box<str>, Arc<str>)>,
}

/// A proof that is up; dropping this takes it down.
pub(super) struct Posted {
    challenges: Arc<Challenges>,
    host: Host,
    kind: ChallengeKind,
}

impl Drop for Posted {
    fn drop(&mut self) {
        let mut pending = self.challenges.pending();
        match self.kind {
            ChallengeKind::Http01 => drop(pending.http.remove(&self.host)),
            ChallengeKind::TlsAlpn01 => drop(pending.tls.remove(&self.host)),
        }
        self.challenges.any.store(!pending.tls.is_empty() || !pending.http.is_empty(), Relaxed);
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").field("any", &self.any).finish_non_exhaustive()
    }
}

impl Challenges {
    /// Whether some proof is up.
    pub fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// With what TLS is spoken with whoever looks for a proof of the name it asks for: only while that proof is up.
    pub fn tls(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        if !self.any() {
            return None;
        }
        self.tls_for(hello.server_name()?, hello.alpn())
    }

    /// What proves its host to whoever sent this request; only to one without TLS, and only while that proof is up.
    pub fn file(&self, inbound: &Inbound) -> Option<Bytes> {
        let head = &inbound.head;
        if inbound.connection.tls.is_some() || !self.any() || inbound.malformed.is_some() {
            return None;
        }
        let is_read = head.method == Method::GET || head.method == Method::HEAD;
        if !is_read || head.uri.query().is_some() {
            return None;
        }
        let parse = |text: &str| text.parse::<Authority>().ok();
        let mut written = head.headers.get_all(header::HOST).iter();
        let (Some(host), None) = (written.next(), written.next()) else { return None };
        let host = parse(host.to_str().ok()?)?;
        let agrees = head.uri.authority().is_none_or(|other| parse(other.as_str()).as_ref() == Some(&host));
        let text = if agrees { self.http(&host.host, head.uri.path()) } else { None };
        text.map(|text| Bytes::copy_from_slice(text.as_bytes()))
    }

    /// As [`Self::tls`]: for one that offers `acme-tls/1` and nothing else (RFC 8737 section 3).
    fn tls_for<'a>(
        &self,
        server_name: &str,
        protocols: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> Option<Arc<ServerConfig>> {
        let mut protocols = protocols?;
        if protocols.next() != Some(ACME_TLS) || protocols.next().is_some() || !self.any() {
            return None;
        }
        let config = self.pending().tls.get(&server_name.parse::<Host>().ok()?).cloned();
        config.inspect(|_| self.count(ChallengeKind::TlsAlpn01))
    }

    /// The text that proves this host to whoever asks for this path; `None`: not a proof that is up.
    fn http(&self, host: &Host, path: &str) -> Option<Arc<str>> {
        let token = path.strip_prefix(WELL_KNOWN)?;
        let pending = self.pending();
        let (known, text) = pending.http.get(host)?;
        let text = (**known == *token).then(|| Arc::clone(text));
        text.inspect(|_| self.count(ChallengeKind::Http01))
    }

    /// How often proofs were shown, by kind.
    pub fn shown(&self) -> [(&'static str, u64); 2] {
        [ChallengeKind::TlsAlpn01, ChallengeKind::Http01].map(|kind| (kind.name(), self.counter(kind).load(Relaxed)))
    }

    pub(super) fn post_http(self: &Arc<Self>, host: &Host, token: &str, text: &str) -> Posted {
        self.pending().http.insert(host.clone(), (token.into(), text.into()));
        self.posted(host, ChallengeKind::Http01)
    }

    pub(super) fn post_tls(self: &Arc<Self>, host: &Host, digest: &[u8]) -> Result<Posted, String> {
        let config = proof(host, digest)?;
        self.pending().tls.insert(host.clone(), Arc::new(config));
        Ok(self.posted(host, ChallengeKind::TlsAlpn01))
    }

    fn posted(self: &Arc<Self>, host: &Host, kind: ChallengeKind) -> Posted {
        self.any.store(true, Relaxed);
        Posted { challenges: Arc::clone(self), host: host.clone(), kind }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, kind: ChallengeKind) {
        self.counter(kind).fetch_add(1, Relaxed);
    }

    const fn counter(&self, kind: ChallengeKind) -> &AtomicU64 {
        match kind {
            ChallengeKind::TlsAlpn01 => &self.shown[0],
            ChallengeKind::Http01 => &self.shown[1],
        }
    }
}

/// A self-signed certificate for the host with the digest in `acmeIdentifier` (RFC 8737 section 3), and how it is
/// shown.
fn proof(host: &Host, digest: &[u8]) -> Result<ServerConfig, String> {
    let told = |error: rcgen::Error| format!("the certificate that proves the host cannot be made: {error}");
    if digest.len() != DIGEST_LEN {
        return Err("the digest that proves the host has another length".to_owned());
    }
    let mut params = CertificateParams::new(vec![host.as_str().to_owned()]).map_err(told)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
    let pair = KeyPair::generate().map_err(told)?;
    let certificate = params.self_signed(&pair).map_err(told)?;
    let shown = |error: rustls::Error| format!("the certificate that proves the host cannot be shown: {error}");
    let key = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(shown)?;
    // Put together without rustls's own check, which refuses critical extensions that it does not know, as this one.
    let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(shown)?;
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    let mut config = config.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

const ACME_TLS: &[u8] = b"acme-tls/1";
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";
/// Of SHA-256, which is the only one that the extension has.
const DIGEST_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        name.parse().unwrap()
    }

    #[test]
    fn a_file_is_there_for_its_host_and_token_and_as_long_as_it_is_asked_for() {
        let challenges = Arc::new(Challenges::default());
        assert!(!challenges.any());
        let posted = challenges.post_http(&host("a.example"), "token", "token.thumb");
        let answer = |name, path| challenges.http(&host(name), path);

        assert!(challenges.any());
        assert_eq!(answer("a.example", "/.well-known/acme-challenge/token").as_deref(), Some("token.thumb"));
        for (name, path) in [
            ("b.example", "/.well-known/acme-challenge/token"),
            ("a.example", "/.well-known/acme-challenge/other"),
            ("a.example", "/.well-known/acme-challenge/token/"),
            ("a.example", "/.well-known/acme-challenge/"),
            ("a.example", "/x/.well-known/acme-challenge/token"),
            ("a.example", "/token"),
        ] {
            assert_eq!(answer(name, path), None, "{name} {path}");
        }
        drop(posted);
        assert!(!challenges.any());
        assert_eq!(answer("a.example", "/.well-known/acme-challenge/token"), None);
    }

    #[test]
    fn a_certificate_is_shown_to_who_offers_acme_tls_alone_and_asks_for_its_host() {
        let challenges = Arc::new(Challenges::default());
        let offers = |name: &str, protocols: &[&'static [u8]]| {
            let protocols: Vec<&[u8]> = protocols.to_vec();
            challenges.tls_for(name, Some(protocols.into_iter())).is_some()
        };
        assert!(!offers("a.example", &[b"acme-tls/1"]), "nothing is up");
        let posted = challenges.post_tls(&host("a.example"), &[7; 32]).unwrap();

        assert!(offers("a.example", &[b"acme-tls/1"]) && offers("A.example", &[b"acme-tls/1"]));
        assert!(!offers("b.example", &[b"acme-tls/1"]));
        assert!(!offers("a.example", &[b"acme-tls/1", b"h2"]) && !offers("a.example", &[b"h2", b"acme-tls/1"]));
        assert!(!offers("a.example", &[b"h2"]) && !offers("a.example", &[]));
        assert!(challenges.tls_for("a.example", None::<std::iter::Empty<&[u8]>>).is_none());
        assert_eq!(challenges.shown(), [("tls-alpn-01", 2), ("http-01", 0)]);
        drop(posted);
        assert!(!offers("a.example", &[b"acme-tls/1"]));
        assert!(challenges.post_tls(&host("a.example"), b"short").is_err());
        assert!(!challenges.any());
    }
}
