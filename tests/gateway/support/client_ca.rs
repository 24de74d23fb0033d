//! Authorities for client certificates, what they sign, and what they take back.

use std::time::Duration;

use portcullis::clock::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// rcgen's type of dates is of a crate that is not ours to name.
macro_rules! date {
    ($at:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($at.unix_seconds())
    };
}

/// An authority whose certificates a gateway may be told to believe.
pub(crate) struct ClientCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Those between it and its root, its own first; empty for a root.
    above: Vec<CertificateDer<'static>>,
}

/// What a client shows, and the key it holds.
pub(crate) struct ClientId {
    /// Its own certificate first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) serial: u64,
}

impl Clone for ClientId {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), serial: self.serial }
    }
}

/// A certificate that is being put together: for clients, valid, with a key that may sign.
pub(crate) struct Leaf {
    params: CertificateParams,
    serial: u64,
    key: Option<KeyPair>,
}

impl ClientCa {
    pub(crate) fn new(name: &str) -> Self {
        let params = authority(name);
        let key = KeyPair::generate().expect("a key can be made");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority can be made"), above: Vec::new() }
    }

    /// An authority below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let issuer =
            CertifiedIssuer::signed_by(authority(name), key, &self.issuer).expect("an authority signs another");
        let above = [&[issuer.der().clone()], &self.above[..]].concat();
        Self { issuer, above }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for this host, as [`SubjectFrom::Dns`] wants it.
    pub(crate) fn issue(&self, host: &str) -> ClientId {
        self.sign(Leaf::new().dns(host))
    }

    pub(crate) fn sign(&self, leaf: Leaf) -> ClientId {
        let key = leaf.key.unwrap_or_else(|| KeyPair::generate().expect("a key can be made"));
        let certificate = leaf.params.signed_by(&key, &self.issuer).expect("the authority signs");
        ClientId {
            chain: [&[certificate.der().clone()], &self.above[..]].concat(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            serial: leaf.serial,
        }
    }

    /// A revocation list in PEM with these certificates on it, made at `from` and good until `until`.
    pub(crate) fn list(&self, revoked: &[&ClientId], from: Timestamp, until: Timestamp) -> String {
        let revoked = revoked.iter().map(|id| RevokedCertParams {
            serial_number: SerialNumber::from(id.serial),
            revocation_time: date!(from),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date!(from),
            next_update: date!(until),
            crl_number: SerialNumber::from(from.unix_seconds()),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("the list is signed").pem().expect("the list in PEM")
    }
}

impl Leaf {
    pub(crate) fn new() -> Self {
        let serial = u64::from_be_bytes(portcullis::secret::random()) >> 1;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Self { params, serial, key: None }
    }

    pub(crate) fn dns(mut self, name: &str) -> Self {
        self.params.subject_alt_names.push(SanType::DnsName(name.try_into().expect("a name")));
        self
    }

    pub(crate) fn email(mut self, name: &str) -> Self {
        self.params.subject_alt_names.push(SanType::Rfc822Name(name.try_into().expect("a name")));
        self
    }

    pub(crate) fn uri(mut self, name: &str) -> Self {
        self.params.subject_alt_names.push(SanType::URI(name.try_into().expect("a name")));
        self
    }

    pub(crate) fn cn(self, name: &str) -> Self {
        self.attribute(DnType::CommonName, name)
    }

    pub(crate) fn attribute(mut self, kind: DnType, name: &str) -> Self {
        self.params.distinguished_name.push(kind, DnValue::Utf8String(name.to_owned()));
        self
    }

    pub(crate) fn valid(mut self, from: Timestamp, until: Timestamp) -> Self {
        (self.params.not_before, self.params.not_after) = (date!(from), date!(until));
        self
    }

    pub(crate) fn usage(mut self, usage: &[ExtendedKeyUsagePurpose]) -> Self {
        self.params.extended_key_usages = usage.to_vec();
        self
    }

    pub(crate) fn key_usage(mut self, usage: &[KeyUsagePurpose]) -> Self {
        self.params.key_usages = usage.to_vec();
        self
    }

    /// With another extension of so many bytes.
    pub(crate) fn weight(mut self, bytes: usize) -> Self {
        let content =
            [&[0x04, 0x82][..], &u16::try_from(bytes).expect("a length").to_be_bytes(), &vec![0; bytes]].concat();
        self.params
            .custom_extensions
            .push(rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], content));
        self
    }

    pub(crate) fn key(mut self, key: &KeyPair) -> Self {
        self.key = Some(KeyPair::from_pem(&key.serialize_pem()).expect("the key"));
        self
    }

    /// Signed by its own key and nobody else.
    pub(crate) fn self_signed(self) -> ClientId {
        let key = self.key.unwrap_or_else(|| KeyPair::generate().expect("a key can be made"));
        let certificate = self.params.self_signed(&key).expect("it signs itself");
        ClientId {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            serial: self.serial,
        }
    }
}

impl ClientId {
    /// `x5t#S256` (RFC 8705 section 3.1).
    pub(crate) fn thumbprint(&self) -> String {
        use base64::Engine as _;
        let certificate = portcullis::mtls::ClientCertificate::new(&self.chain).expect("a certificate");
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(certificate.thumbprint())
    }

    /// The certificate, then those above it, in PEM.
    pub(crate) fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    pub(crate) fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.key.secret_der())
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
