//! A client's certificate, told to the upstream (RFC 9440).
//!
//! In: a certificate that an authority vouched for, for this request. Out: `Client-Cert`, and `Client-Cert-Chain` with
//! what the client sent along, both as byte sequences (RFC 8941 section 3.3.5). Whatever clients send under these names
//! was left out before (R12).

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{ClientCertificates, Lines};
use crate::mtls::ClientCertificate;

/// Adds the lines.
pub(super) fn put(lines: &mut Lines, certificate: &ClientCertificate, told: ClientCertificates) {
    let with_chain = match told {
        ClientCertificates::None => return,
        ClientCertificates::Own => false,
        ClientCertificates::Chain => true,
    };
    let Some((own, chain)) = certificate.chain().split_first() else { return };
    lines.put_bytes(CLIENT_CERT, sequence(own).as_bytes());
    if with_chain && !chain.is_empty() {
        let chain: Vec<String> = chain.iter().map(|der| sequence(der)).collect();
        lines.put_bytes(CLIENT_CERT_CHAIN, chain.join(", ").as_bytes());
    }
}

fn sequence(der: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(der))
}

const CLIENT_CERT: &str = "client-cert";
const CLIENT_CERT_CHAIN: &str = "client-cert-chain";
