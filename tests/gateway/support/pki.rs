//! A certificate authority of the test's own, and what it signs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;

/// An authority whose certificates clients of the test trust.
pub(crate) struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// Where a certificate and its key were written, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key can be made");
        Self { authority: CertifiedIssuer::self_signed(params, key).expect("an authority can be made") }
    }

    /// Writes a certificate for these DNS names or addresses to `folder`, named after the first.
    pub(crate) fn issue(&self, folder: &Path, names: &[&str]) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let file = names.first().expect("at least one name").replace('*', "any");
        let params = CertificateParams::new(names).expect("the names are valid");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.authority).expect("the authority signs");
        let files =
            CertificateFiles { cert: folder.join(format!("{file}.pem")), key: folder.join(format!("{file}.key")) };
        fs::write(&files.cert, certificate.pem()).expect("a certificate can be written");
        fs::write(&files.key, key.serialize_pem()).expect("a key can be written");
        files
    }

    /// The authority, for a client.
    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("the authority is a certificate");
        Arc::new(roots)
    }

    /// The authority as PEM, for programs.
    pub(crate) fn authority_pem(&self) -> String {
        self.authority.pem()
    }
}
