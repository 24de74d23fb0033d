//! How TLS is spoken to the servers of one upstream: whom we believe, who we are, which name they must have.
//!
//! In: what files hold. Out: a client configuration for all of its connections. A server's certificate is always
//! verified (RFC 9525): there is no way to write that it is not. Two of these are equal if they were made of the same
//! bytes, so that connections outlive a reload that changes nothing about them.

use std::{fmt, path::Path, sync::Arc};

use aws_lc_rs::digest;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use super::connect::TrustError;
use crate::{host::Host, secret::Secret};

/// `tls` of an upstream, ready to use.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    /// Of all that it was made of.
    digest: [u8; 32],
}

/// What [`ServerTls`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// The certificate authorities that are believed, in PEM; `None`: the system's.
    pub authorities: Option<Vec<u8>>,
    /// A certificate chain in PEM, and its key.
    pub identity: Option<(Vec<u8>, Secret<Vec<u8>>)>,
    /// The name that certificates must have, and that is asked for; `None`: that of the server's URL.
    pub server_name: Option<Host>,
}

/// Why TLS cannot be spoken in this way.
#[derive(Debug)]
pub enum TlsError {
    /// No certificate authority can be used.
    Authorities(String),
    /// The certificate cannot be read.
    Certificate,
    /// The key cannot be read, or is not the certificate's.
    Key(String),
    /// The name is none.
    Name,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorities(why) => f.write_str(why),
            Self::Certificate => f.write_str("no certificate in it that can be used"),
            Self::Key(why) => write!(f, "a key that cannot be used with the certificate ({why})"),
            Self::Name => f.write_str("no name that a certificate can have"),
        }
    }
}

impl std::error::Error for TlsError {}

impl ServerTls {
    /// Reads the system's authorities if no others are given: not for workers.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(parts: &Parts) -> Result<Self, TlsError> {
        let roots = match &parts.authorities {
            Some(pem) => own_roots(pem)?,
            None => system_roots().map_err(|why| TlsError::Authorities(why.to_string()))?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| TlsError::Authorities(why.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &parts.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(chain).collect();
                let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(TlsError::Certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key.expose())
                    .map_err(|_| TlsError::Key("no private key in PEM".into()))?;
                builder.with_client_auth_cert(chain, key).map_err(|why| TlsError::Key(why.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let server_name = match &parts.server_name {
            None => None,
            Some(host) => {
                let name = host.as_str().trim_start_matches('[').trim_end_matches(']').to_owned();
                Some(ServerName::try_from(name).map_err(|_| TlsError::Name)?)
            }
        };
        Ok(Self { config: Arc::new(config), server_name, digest: parts.digest() })
    }

    /// What connections are made with.
    pub(super) const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The name that certificates must have, if it is not that of the server's URL.
    pub(super) const fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for ServerTls {
    /// Nothing of keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Parts {
    fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut part = |bytes: Option<&[u8]>| {
            // What is absent is not the same as what is empty.
            context.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
            context.update(bytes.unwrap_or_default());
        };
        part(self.authorities.as_deref());
        part(self.identity.as_ref().map(|(chain, _)| &**chain));
        part(self.identity.as_ref().map(|(_, key)| &**key.expose()));
        part(self.server_name.as_ref().map(|name| name.as_str().as_bytes()));
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

fn own_roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let none = |why: &str| TlsError::Authorities(why.to_owned());
    let certificates: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|_| none("a certificate in it is malformed"))?;
    if certificates.is_empty() {
        return Err(none("no certificate in it"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|why| none(&format!("a certificate in it is no authority ({why})")))?;
    }
    Ok(roots)
}

/// The certificate authorities that this system believes.
pub(super) fn system_roots() -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(Path::new(SYSTEM_BUNDLE)).map_err(TrustError::Bundle)?;
    // Single certificates that rustls cannot use must not make all others unusable.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() { Err(TrustError::Empty) } else { Ok(roots) }
}

pub(super) const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
