//! What the handshake asks of a client's certificate: that it can be read, is of bearable size, and that the client
//! holds its key.
//!
//! Who has signed it is not looked at here: a client that is refused in the handshake learns nothing, and what holds
//! now may not hold for the connection's next request. RFC 8446 section 4.4.2 and 4.4.3, RFC 5246 section 7.4.8.

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::Leaf;

/// Asks for a certificate, takes none for an answer, and takes any whose key the client holds.
#[derive(Debug)]
pub struct Possession {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Possession {
    /// Tells clients the names of these authorities, to choose a certificate by.
    pub fn new(hints: &[Box<[u8]>]) -> Self {
        let hints = hints.iter().map(|name| DistinguishedName::in_sequence(name)).collect();
        Self { hints, algorithms: aws_lc_rs::default_provider().signature_verification_algorithms }
    }
}

impl ClientCertVerifier for Possession {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = intermediates.iter().fold(end_entity.len(), |bytes, one| bytes.saturating_add(one.len()));
        if intermediates.len() >= MAX_CERTIFICATES || bytes > MAX_CHAIN_BYTES || Leaf::read(end_entity).is_none() {
            return Err(CertificateError::BadEncoding.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Certificates of one chain, the client's own included.
pub const MAX_CERTIFICATES: usize = 10;

/// Of all certificates of one chain. A ticket carries them too.
pub const MAX_CHAIN_BYTES: usize = 16 * 1024;
