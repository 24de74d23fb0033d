//! Whom an HTTPS client believes: the system's certificate authorities, or those of a file.

use std::{fmt, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Certificate authorities, ready for use. Cheap to clone; equal when they are the same authorities.
#[derive(Clone)]
pub struct Trust {
    /// In the order in which they were read; a server's certificate must lead to one of them.
    authorities: Arc<[CertificateDer<'static>]>,
    config: Arc<ClientConfig>,
}

/// Why there is nobody to believe. `Display` says it in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustError(String);

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TrustError {}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.authorities == other.authorities
    }
}

impl Trust {
    /// The authorities that this system believes. Reads files: not for workers.
    ///
    /// # Errors
    /// When there is none.
    pub fn system() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why = found.errors.first().map_or_else(|| "none is installed".into(), ToString::to_string);
            return Err(TrustError(format!("no certificate authority of this system can be read: {why}")));
        }
        Self::new(found.certs)
    }

    /// The authorities in a PEM file, and no others.
    ///
    /// # Errors
    /// When a block is malformed or there is no certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TrustError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|why| TrustError(format!("not certificates in PEM: {why}")))?;
        if certificates.is_empty() {
            return Err(TrustError("no certificate in it".into()));
        }
        Self::new(certificates)
    }

    fn new(authorities: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        // Single certificates that rustls cannot use must not make all others unusable.
        roots.add_parsable_certificates(authorities.iter().cloned());
        if roots.is_empty() {
            return Err(TrustError("no usable certificate authority in it".into()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| TrustError(format!("no usable TLS version: {why}")))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { authorities: authorities.into(), config: Arc::new(config) })
    }

    pub(super) const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_nobody_to_believe() {
        assert!(Trust::from_pem(b"").is_err());
        assert!(Trust::from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }
}
