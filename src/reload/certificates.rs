//! Certificates, loaded whole: a chain and its key change together or not at all.

use std::path::PathBuf;

use crate::{
    certificate::{self, Certificate, CertificateError},
    clock::Timestamp,
    config::TlsSource,
};

/// What is served, and what was odd about it.
#[derive(Debug)]
pub struct Certificates {
    /// In the order of the configuration.
    pub all: Vec<Certificate>,
    /// The certificate that clients have to trust, where one was made for this machine.
    pub authority: Option<PathBuf>,
    /// A line for each oddity.
    pub warnings: Vec<String>,
}

/// Loads every certificate of a configuration, or makes the local one. Reads files: not for workers.
///
/// # Errors
/// What cannot be served, and why.
pub fn load(source: &TlsSource, now: Timestamp) -> Result<Certificates, String> {
    match source {
        TlsSource::SelfSigned { names, folder } => {
            let made = certificate::local_authority(names, folder, now)
                .map_err(|error| format!("the local certificate cannot be made: {error}"))?;
            Ok(Certificates { all: vec![made.certificate], authority: Some(made.authority), warnings: Vec::new() })
        }
        TlsSource::Files(pairs) => {
            let (mut all, mut warnings) = (Vec::with_capacity(pairs.len()), Vec::new());
            for pair in pairs {
                let name = pair.cert.display();
                let refused = |error: CertificateError| format!("the certificate {name} cannot be served: {error}");
                let (certificate, odd) = Certificate::load(&pair.cert, &pair.key, now).map_err(refused)?;
                warnings.extend(odd.iter().map(|warning| format!("{name}: {warning}")));
                all.push(certificate);
            }
            Ok(Certificates { all, authority: None, warnings })
        }
    }
}
