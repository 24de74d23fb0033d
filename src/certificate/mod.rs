//! Certificates: read from PEM files, chosen by server name (SNI, RFC 6066 section 3), and made for a machine of
//! one's own by a local authority (R35).
//!
//! In: files and names. Out: certificates, and a resolver for rustls (`resolver`) that chooses among them.
//! Invariants: a certificate without its own key is never served; the local authority's key never leaves the function
//! that makes it, and the authority is constrained to the names it was made for (RFC 5280 section 4.2.1.10).

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::{InconsistentKeys, sign::CertifiedKey};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use zeroize::Zeroizing;

use self::der::{
    BOOLEAN, DNS_NAME, Der, EXTENSIONS, INTEGER, IP_ADDRESS, ISSUER_UNIQUE_ID, OBJECT_IDENTIFIER, OCTET_STRING,
    SEQUENCE, SUBJECT_ALTERNATIVE_NAME, SUBJECT_UNIQUE_ID, VERSION,
};
use crate::{clock::Timestamp, host::Host, secret};

pub(crate) mod der;
mod resolver;

pub use resolver::{CertificateResolver, Expiry};

/// A name that a certificate is good for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum CertificateName {
    /// A host name in lower case; `*.` at its beginning stands for one label.
    Dns(Box<str>),
    /// An address. Clients name none in SNI.
    Ip(IpAddr),
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

impl From<&Host> for CertificateName {
    fn from(host: &Host) -> Self {
        let text = host.as_str();
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        bare.parse().map_or_else(|_| Self::Dns(text.into()), Self::Ip)
    }
}

/// A certificate chain with its key, ready to serve.
#[derive(Clone, Debug)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    names: Arc<[CertificateName]>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// What is odd about a certificate that can be served all the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateWarning {
    /// Clients refuse it since then.
    Expired(Timestamp),
    /// Less than two weeks are left.
    ExpiresSoon(Timestamp),
    /// Every user of the machine can read the key.
    KeyReadableByAll,
    /// It names no host; today's clients want a subject alternative name.
    NoNames,
    /// Clients refuse it until then.
    NotYetValid(Timestamp),
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: &Timestamp| humantime::format_rfc3339_seconds(time.to_system_time());
        match self {
            Self::Expired(time) => write!(f, "the certificate expired at {}; renew it", date(time)),
            Self::ExpiresSoon(time) => write!(f, "the certificate expires at {}; renew it", date(time)),
            Self::KeyReadableByAll => f.write_str("every user of this machine can read the key; chmod 600 it"),
            Self::NoNames => f.write_str("the certificate has no subject alternative name; clients will refuse it"),
            Self::NotYetValid(time) => {
                write!(f, "the certificate is not valid before {}; is this machine's clock right?", date(time))
            }
        }
    }
}

/// Why there is no certificate. `Display` names the file and says how to mend it.
#[derive(Debug)]
pub enum CertificateError {
    /// The first certificate of the file cannot be read as X.509.
    BadCertificate(PathBuf),
    /// The PEM text is damaged.
    BadPem(PathBuf, String),
    /// The key is protected by a password.
    EncryptedKey(PathBuf),
    /// A file that the local authority would overwrite was not made by it.
    Foreign(PathBuf),
    /// The key belongs to another certificate.
    KeyMismatch {
        /// The chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The local authority cannot make a certificate for these names.
    Make(String),
    /// No certificate in the file.
    NoCertificate(PathBuf),
    /// No private key in the file.
    NoKey(PathBuf),
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// The kind of key is not served.
    UnsupportedKey(PathBuf, String),
    /// The file cannot be written.
    Write(PathBuf, io::Error),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCertificate(path) => write!(
                f,
                "{}: the first certificate is no X.509 certificate; write the server's own certificate first, in PEM",
                path.display()
            ),
            Self::BadPem(path, why) => {
                write!(f, "{}: damaged PEM ({why}); copy the whole file again", path.display())
            }
            Self::EncryptedKey(path) => write!(
                f,
                "{}: the key is protected by a password; take it off with `openssl pkey -in {} -out plain.key`",
                path.display(),
                path.display()
            ),
            Self::Foreign(path) => write!(
                f,
                "{}: not made by the local authority, and would be overwritten; move it away, or name it in \
                 tls.certificates instead of using tls.self_signed",
                path.display()
            ),
            Self::KeyMismatch { cert, key } => write!(
                f,
                "{}: this key does not belong to the first certificate in {}; the server's own certificate comes \
                 first, then its issuers",
                key.display(),
                cert.display()
            ),
            Self::Make(why) => write!(f, "cannot make a certificate: {why}"),
            Self::NoCertificate(path) => {
                write!(f, "{}: no certificate in it; it needs a section -----BEGIN CERTIFICATE-----", path.display())
            }
            Self::NoKey(path) => {
                write!(f, "{}: no private key in it; it needs a section -----BEGIN PRIVATE KEY-----", path.display())
            }
            Self::Read(path, error) => write!(f, "{}: cannot be read: {error}", path.display()),
            Self::UnsupportedKey(path, why) => write!(
                f,
                "{}: this kind of key cannot be used ({why}); use ECDSA P-256 or P-384, RSA of 2048 bits or more, or \
                 Ed25519",
                path.display()
            ),
            Self::Write(path, error) => write!(f, "{}: cannot be written: {error}", path.display()),
        }
    }
}

impl std::error::Error for CertificateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, error) | Self::Write(_, error) => Some(error),
            Self::BadCertificate(_)
            | Self::BadPem(..)
            | Self::EncryptedKey(_)
            | Self::Foreign(_)
            | Self::KeyMismatch { .. }
            | Self::Make(_)
            | Self::NoCertificate(_)
            | Self::NoKey(_)
            | Self::UnsupportedKey(..) => None,
        }
    }
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its key; tells what is odd about them.
    ///
    /// # Errors
    /// [`CertificateError`] when they cannot be served.
    pub fn load(cert: &Path, key: &Path, now: Timestamp) -> Result<(Self, Vec<CertificateWarning>), CertificateError> {
        let certificate = Self::of(read_chain(cert)?, read_key(key)?, cert, key)?;
        let mut warnings = certificate.warnings(now);
        if fs::metadata(key).is_ok_and(|metadata| metadata.mode() & 0o007 != 0) {
            warnings.push(CertificateWarning::KeyReadableByAll);
        }
        Ok((certificate, warnings))
    }

    /// From PEM texts that were not read from files, such as an authority's answer: a chain, leaf first, and its key.
    ///
    /// # Errors
    /// Why they cannot be served together. Nothing of the key is told.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let nowhere = Path::new("the authority's answer");
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| bad_pem(nowhere, &error))?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| bad_pem(nowhere, &error))?;
        Self::of(chain, private, nowhere, nowhere)
    }

    /// Whether it is good for this host.
    pub fn covers(&self, host: &Host) -> bool {
        self.names.contains(&CertificateName::from(host))
    }

    /// The names it is good for.
    pub fn names(&self) -> &[CertificateName] {
        &self.names
    }

    /// Valid from here.
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Valid until here.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Chain and key as rustls wants them.
    pub const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    fn of(
        chain: Vec<CertificateDer<'static>>,
        private: PrivateKeyDer<'static>,
        cert: &Path,
        key: &Path,
    ) -> Result<Self, CertificateError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, private, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                CertificateError::KeyMismatch { cert: cert.to_owned(), key: key.to_owned() }
            }
            rustls::Error::InvalidCertificate(_) => CertificateError::BadCertificate(cert.to_owned()),
            other => CertificateError::UnsupportedKey(key.to_owned(), other.to_string()),
        })?;
        let facts = certified.cert.first().and_then(|der| Facts::read(der));
        let facts = facts.ok_or_else(|| CertificateError::BadCertificate(cert.to_owned()))?;
        let Facts { not_before, not_after, .. } = facts;
        let names = facts.names.into();
        Ok(Self { certified: Arc::new(certified), names, not_before, not_after })
    }

    fn warnings(&self, now: Timestamp) -> Vec<CertificateWarning> {
        let mut warnings = Vec::new();
        if now > self.not_after {
            warnings.push(CertificateWarning::Expired(self.not_after));
        } else if now.plus(SOON) > self.not_after {
            warnings.push(CertificateWarning::ExpiresSoon(self.not_after));
        }
        if now < self.not_before {
            warnings.push(CertificateWarning::NotYetValid(self.not_before));
        }
        if self.names.is_empty() {
            warnings.push(CertificateWarning::NoNames);
        }
        warnings
    }
}

/// A certificate of the local authority, and where its parts are.
#[derive(Debug)]
pub struct LocalCertificate {
    /// To be served.
    pub certificate: Certificate,
    /// The authority's certificate: what a client has to trust.
    pub authority: PathBuf,
    /// Whether it was made just now.
    pub made: bool,
}

/// The certificate in `folder` for `names`, made by a local authority unless a good one is there already.
///
/// The authority is made for this one certificate, can sign for these names only, and its key is gone when this
/// returns; so trusting it lets nobody impersonate other hosts. Files: `local-ca.pem`, `localhost.pem`,
/// `localhost.key` (0600). They are kept while the names are the same and a week or more is left of their year.
///
/// # Errors
/// [`CertificateError`] when files cannot be written, would overwrite somebody else's, or there is no name.
pub fn local_authority(names: &[Host], folder: &Path, now: Timestamp) -> Result<LocalCertificate, CertificateError> {
    let names: BTreeSet<CertificateName> = names.iter().map(CertificateName::from).collect();
    if names.is_empty() {
        return Err(CertificateError::Make("no name was given".to_owned()));
    }
    let authority = folder.join("local-ca.pem");
    let (cert, key) = (folder.join("localhost.pem"), folder.join("localhost.key"));
    if is_usable(&authority, &cert, &names, now)?
        && let Ok((certificate, _)) = Certificate::load(&cert, &key, now)
    {
        return Ok(LocalCertificate { certificate, authority, made: false });
    }
    if key.exists() && !cert.exists() {
        return Err(CertificateError::Foreign(key));
    }
    let made = issue(&names, now).map_err(|error| CertificateError::Make(error.to_string()))?;
    fs::create_dir_all(folder).map_err(|error| CertificateError::Write(folder.to_owned(), error))?;
    write_whole(&cert, made.leaf.as_bytes(), 0o644)?;
    write_whole(&key, made.key.as_bytes(), 0o600)?;
    write_whole(&authority, made.authority.as_bytes(), 0o644)?;
    let (certificate, _) = Certificate::load(&cert, &key, now)?;
    Ok(LocalCertificate { certificate, authority, made: true })
}

/// Whether what lies there is for `names`, signed by the authority beside it, and valid for a while. Broken files
/// are simply not usable; certificates of others are an error.
fn is_usable(
    authority: &Path,
    cert: &Path,
    names: &BTreeSet<CertificateName>,
    now: Timestamp,
) -> Result<bool, CertificateError> {
    let first = |path: &Path| match read_chain(path) {
        Ok(chain) => Ok(chain.into_iter().next()),
        Err(CertificateError::Read(path, error)) if error.kind() != io::ErrorKind::NotFound => {
            Err(CertificateError::Read(path, error))
        }
        Err(_) => Ok(None),
    };
    let (issuer, leaf) = (first(authority)?, first(cert)?);
    let issuer = issuer.as_ref().map(|der| Facts::read(der).ok_or(authority));
    let leaf = leaf.as_ref().map(|der| Facts::read(der).ok_or(cert));
    for (facts, path) in [(&issuer, authority), (&leaf, cert)] {
        if let Some(Ok(facts)) = facts
            && !contains(facts.issuer, AUTHORITY_NAME.as_bytes())
        {
            return Err(CertificateError::Foreign(path.to_owned()));
        }
    }
    let (Some(Ok(issuer)), Some(Ok(leaf))) = (issuer, leaf) else {
        return Ok(false);
    };
    Ok(leaf.issuer == issuer.subject
        && leaf.names.iter().cloned().collect::<BTreeSet<_>>() == *names
        && leaf.not_before <= now
        && leaf.not_after >= now.plus(LEFT_AT_LEAST))
}

/// A certificate of the local authority, in PEM.
struct Made {
    authority: String,
    leaf: String,
    key: Zeroizing<String>,
}

fn issue(names: &BTreeSet<CertificateName>, now: Timestamp) -> Result<Made, rcgen::Error> {
    let issuer_params = authority_params(names, now);
    let issuer_key = KeyPair::generate()?;
    let authority = issuer_params.self_signed(&issuer_key)?.pem();
    let issuer = Issuer::new(issuer_params, issuer_key);

    let key = KeyPair::generate()?;
    let leaf = leaf_params(names, now)?.signed_by(&key, &issuer)?.pem();
    Ok(Made { authority, leaf, key: Zeroizing::new(key.serialize_pem()) })
}

fn authority_params(names: &BTreeSet<CertificateName>, now: Timestamp) -> CertificateParams {
    let mut params = base_params(now);
    // Several such authorities may be trusted at once; the random part tells them apart.
    let [a, b, c, d] = secret::random();
    params.distinguished_name.push(DnType::CommonName, format!("{AUTHORITY_NAME} {a:02x}{b:02x}{c:02x}{d:02x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(constraints(names));
    params
}

fn leaf_params(names: &BTreeSet<CertificateName>, now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base_params(now);
    for name in names {
        params.subject_alt_names.push(match name {
            CertificateName::Dns(name) => SanType::DnsName(name.to_string().try_into()?),
            CertificateName::Ip(address) => SanType::IpAddress(*address),
        });
    }
    if let Some(name) = names.first() {
        params.distinguished_name.push(DnType::CommonName, name.to_string());
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn base_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    // A client's clock may be behind ours.
    params.not_before = epoch + Duration::from_secs(now.minus(DAY).unix_seconds());
    params.not_after = epoch + Duration::from_secs(now.plus(VALID_FOR).unix_seconds());
    params
}

/// A kind of name that is not permitted anywhere would be free (RFC 5280 section 4.2.1.10), hence the exclusions.
fn constraints(names: &BTreeSet<CertificateName>) -> NameConstraints {
    let permitted_subtrees: Vec<_> = names
        .iter()
        .map(|name| match name {
            CertificateName::Dns(name) => GeneralSubtree::DnsName(name.to_string()),
            CertificateName::Ip(IpAddr::V4(address)) => {
                GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(address.octets(), 32))
            }
            CertificateName::Ip(IpAddr::V6(address)) => {
                GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(address.octets(), 128))
            }
        })
        .collect();
    let mut excluded_subtrees = Vec::new();
    if !names.iter().any(|name| matches!(name, CertificateName::Dns(_))) {
        excluded_subtrees.push(GeneralSubtree::DnsName(String::new()));
    }
    if !names.iter().any(|name| matches!(name, CertificateName::Ip(_))) {
        let everything_v4 = CidrSubnet::V4([0; 4], [0; 4]);
        let everything_v6 = CidrSubnet::V6([0; 16], [0; 16]);
        excluded_subtrees.push(GeneralSubtree::IpAddress(everything_v4));
        excluded_subtrees.push(GeneralSubtree::IpAddress(everything_v6));
    }
    NameConstraints { permitted_subtrees, excluded_subtrees }
}

/// Puts the whole text there at once: a reader sees the old file or the new one.
fn write_whole(path: &Path, text: &[u8], mode: u32) -> Result<(), CertificateError> {
    let number = u64::from_be_bytes(secret::random());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{number:016x}"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| {
        // Whatever was written is of no use; that it cannot be removed adds nothing to the error.
        let _ = fs::remove_file(&beside);
        CertificateError::Write(path.to_owned(), error)
    })
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let mut text = Zeroizing::new(Vec::with_capacity(16 << 10));
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut text));
    read.map_err(|error| CertificateError::Read(path.to_owned(), error))?;
    Ok(text)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = read_file(path)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| bad_pem(path, &error))?;
    if chain.is_empty() { Err(CertificateError::NoCertificate(path.to_owned())) } else { Ok(chain) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let text = read_file(path)?;
    let encrypted = contains(&text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(&text, b"4,ENCRYPTED");
    if encrypted {
        return Err(CertificateError::EncryptedKey(path.to_owned()));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey(path.to_owned()),
        other => bad_pem(path, &other),
    })
}

fn bad_pem(path: &Path, error: &pem::Error) -> CertificateError {
    // The library's texts quote lines of the file; of a key, no line may be told.
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a section without an end",
        pem::Error::IllegalSectionStart { .. } => "a section that begins wrongly",
        pem::Error::Base64Decode(_) => "text that is no base64",
        _ => "cannot be read",
    };
    CertificateError::BadPem(path.to_owned(), why.to_owned())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// What is read of an X.509 certificate (RFC 5280 section 4.1): enough to choose and to warn, no more. Whether it is
/// genuine is the clients' matter.
struct Facts<'a> {
    issuer: &'a [u8],
    subject: &'a [u8],
    not_before: Timestamp,
    not_after: Timestamp,
    names: Vec<CertificateName>,
}

impl<'a> Facts<'a> {
    fn read(certificate: &'a [u8]) -> Option<Self> {
        let mut certificate = Der(Der(certificate).take(SEQUENCE)?);
        let mut fields = Der(certificate.take(SEQUENCE)?);
        let _version = fields.take_if(VERSION);
        let _serial = fields.take(INTEGER)?;
        let _algorithm = fields.take(SEQUENCE)?;
        let issuer = fields.take(SEQUENCE)?;
        let mut validity = Der(fields.take(SEQUENCE)?);
        let not_before = validity.time()?;
        let not_after = validity.time()?;
        let subject = fields.take(SEQUENCE)?;
        let _key = fields.take(SEQUENCE)?;
        let _issuer_id = fields.take_if(ISSUER_UNIQUE_ID);
        let _subject_id = fields.take_if(SUBJECT_UNIQUE_ID);
        let names = match fields.take_if(EXTENSIONS) {
            Some(extensions) => alternative_names(extensions)?,
            None => Vec::new(),
        };
        Some(Self { issuer, subject, not_before, not_after, names })
    }
}

/// The subject alternative names (RFC 5280 section 4.2.1.6) that are hosts.
fn alternative_names(extensions: &[u8]) -> Option<Vec<CertificateName>> {
    let mut extensions = Der(Der(extensions).take(SEQUENCE)?);
    let mut names = Vec::new();
    while !extensions.is_empty() {
        let mut extension = Der(extensions.take(SEQUENCE)?);
        let id = extension.take(OBJECT_IDENTIFIER)?;
        let _critical = extension.take_if(BOOLEAN);
        let value = extension.take(OCTET_STRING)?;
        if id != SUBJECT_ALTERNATIVE_NAME {
            continue;
        }
        let mut general_names = Der(Der(value).take(SEQUENCE)?);
        while !general_names.is_empty() {
            match general_names.next()? {
                (DNS_NAME, name) => {
                    let name = std::str::from_utf8(name).ok()?;
                    names.push(CertificateName::Dns(name.to_ascii_lowercase().into()));
                }
                (IP_ADDRESS, bytes) => {
                    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
                    let v6 = || <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
                    names.push(CertificateName::Ip(v4.or_else(|_| v6()).ok()?));
                }
                // Mail addresses, URIs and others name no host.
                _ => {}
            }
        }
    }
    Some(names)
}

const AUTHORITY_NAME: &str = "Portcullis local CA";
const DAY: Duration = Duration::from_secs(86_400);
/// Under the 397 days that browsers accept.
const VALID_FOR: Duration = Duration::from_secs(365 * 86_400);
const LEFT_AT_LEAST: Duration = Duration::from_secs(7 * 86_400);
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// A chain has a few certificates of 2 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, client::WebPkiServerVerifier,
        client::danger::ServerCertVerifier, crypto::aws_lc_rs,
    };
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_900_000_000);

    fn hosts(names: &[&str]) -> Vec<Host> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn names(names: &[&str]) -> BTreeSet<CertificateName> {
        hosts(names).iter().map(CertificateName::from).collect()
    }

    /// A self-signed certificate with these names, and its key, as files.
    fn files(folder: &Path, stem: &str, dns: &[&str]) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(dns.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_after = rcgen::date_time_ymd(2055, 3, 4);
        let pair = KeyPair::generate().unwrap();
        let (cert, key) = (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
        fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
        write_whole(&key, pair.serialize_pem().as_bytes(), 0o600).unwrap();
        (cert, key)
    }

    fn load(folder: &Path, stem: &str, dns: &[&str]) -> Certificate {
        let (cert, key) = files(folder, stem, dns);
        Certificate::load(&cert, &key, NOW).unwrap().0
    }

    fn trusting(authority: &str) -> Arc<WebPkiServerVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(aws_lc_rs::default_provider()))
            .build()
            .unwrap()
    }

    fn accepts(authority: &str, leaf: &str, name: &str) -> bool {
        let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW.unix_seconds()));
        trusting(authority).verify_server_cert(&leaf, &[], &name, &[], now).is_ok()
    }

    #[test]
    fn a_certificate_is_read_with_its_names_and_dates() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = load(folder.path(), "site", &["Example.com", "*.example.com", "192.0.2.1", "2001:db8::1"]);

        let told: Vec<String> = certificate.names().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["example.com", "*.example.com", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(certificate.not_before(), Timestamp::from_unix_seconds(157_766_400));
        assert_eq!(certificate.not_after(), Timestamp::from_unix_seconds(2_687_731_200));
    }

    #[test]
    fn what_is_odd_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = files(folder.path(), "site", &[]);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let end = Timestamp::from_unix_seconds(2_687_731_200);
        let warnings = |now| Certificate::load(&cert, &key, now).unwrap().1;

        use CertificateWarning::{Expired, ExpiresSoon, KeyReadableByAll, NoNames, NotYetValid};
        assert_eq!(warnings(NOW), [NoNames, KeyReadableByAll]);
        assert_eq!(warnings(end.plus(DAY)), [Expired(end), NoNames, KeyReadableByAll]);
        assert_eq!(warnings(end.minus(DAY)), [ExpiresSoon(end), NoNames, KeyReadableByAll]);
        let start = Timestamp::from_unix_seconds(157_766_400);
        assert_eq!(warnings(start.minus(DAY)), [NotYetValid(start), NoNames, KeyReadableByAll]);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(warnings(NOW), [NoNames]);
    }

    #[test]
    fn every_error_names_the_file_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = files(folder.path(), "site", &["a.example"]);
        let (_, other_key) = files(folder.path(), "other", &["b.example"]);
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let empty = write("empty", "nothing\n");
        let damaged = write("damaged", "-----BEGIN CERTIFICATE-----\nTWFu\n");
        let no_x509 = write("no_x509", "-----BEGIN CERTIFICATE-----\nTWFu\n-----END CERTIFICATE-----\n");
        let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nTWFu\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let sealed = write("sealed", sealed);
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nTWFu\n-----END RSA PRIVATE KEY-----\n";
        let old_sealed = write("old_sealed", old);
        let missing = folder.path().join("missing");

        for (cert, key, file, text) in [
            (&cert, &other_key, "other.key", "does not belong to the first certificate in"),
            (&empty, &key, "empty", "no certificate in it"),
            (&cert, &empty, "empty", "no private key in it"),
            (&damaged, &key, "damaged", "damaged PEM"),
            (&no_x509, &key, "no_x509", "no X.509 certificate"),
            (&cert, &sealed, "sealed", "openssl pkey -in"),
            (&cert, &old_sealed, "old_sealed", "openssl pkey -in"),
            (&missing, &key, "missing", "cannot be read"),
        ] {
            let error = Certificate::load(cert, key, NOW).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_client_that_trusts_the_local_authority_gets_through() {
        let folder = tempfile::tempdir().unwrap();
        // rustls reads the machine's clock here.
        let now = crate::clock::Clock::system().now();
        let local = local_authority(&hosts(&["localhost", "127.0.0.1", "[::1]"]), folder.path(), now).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let resolver = Arc::new(CertificateResolver::new(vec![local.certificate]));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        let server = Arc::new(server);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&local.authority).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Arc::new(client);

        for (name, accepted) in [("localhost", true), ("127.0.0.1", true), ("::1", true), ("evil.example", false)] {
            let name = ServerName::try_from(name).unwrap();
            let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
            let mut client = ClientConnection::new(Arc::clone(&client), name).unwrap();
            assert_eq!(shake_hands(&mut client, &mut server), accepted);
        }
    }

    fn shake_hands(client: &mut ClientConnection, server: &mut ServerConnection) -> bool {
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            if server.process_new_packets().is_err() {
                return false;
            }
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
        true
    }

    #[test]
    fn the_local_authority_cannot_vouch_for_other_names() {
        for (own, foreign) in [
            (&["localhost", "127.0.0.1"][..], &["evil.example", "192.0.2.1"][..]),
            (&["localhost"], &["evil.example", "127.0.0.1", "::1"]),
            (&["127.0.0.1"], &["localhost", "127.0.0.2"]),
        ] {
            let params = authority_params(&names(own), NOW);
            let key = KeyPair::generate().unwrap();
            let authority = params.self_signed(&key).unwrap().pem();
            let issuer = Issuer::new(params, key);
            let sign = |name: &str| {
                let pair = KeyPair::generate().unwrap();
                let names = BTreeSet::from([match name.parse() {
                    Ok(address) => CertificateName::Ip(address),
                    Err(_) => CertificateName::Dns(name.into()),
                }]);
                leaf_params(&names, NOW).unwrap().signed_by(&pair, &issuer).unwrap().pem()
            };

            for name in own {
                assert!(accepts(&authority, &sign(name), name), "{own:?} {name}");
            }
            for name in foreign {
                assert!(!accepts(&authority, &sign(name), name), "{own:?} {name}");
            }
        }
    }

    #[test]
    fn the_local_authoritys_files_are_kept_while_they_are_good() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("certs");
        let make = |names: &[&str], now| local_authority(&hosts(names), &folder, now).unwrap();

        assert!(make(&["localhost", "127.0.0.1"], NOW).made);
        let kept = make(&["127.0.0.1", "localhost"], NOW.plus(300 * DAY));
        assert!(!kept.made);
        assert!(kept.certificate.not_after() <= NOW.plus(397 * DAY));
        assert!(make(&["127.0.0.1", "localhost"], NOW.plus(359 * DAY)).made, "too little is left");
        assert!(make(&["localhost"], NOW.plus(359 * DAY)).made, "other names");

        let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().mode() & 0o777;
        assert_eq!(mode("localhost.key"), 0o600);
        let mut files: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ["local-ca.pem", "localhost.key", "localhost.pem"], "the authority's key is nowhere");
    }

    #[test]
    fn damaged_or_mixed_files_are_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let make = || local_authority(&hosts(&["localhost"]), folder.path(), NOW).unwrap().made;
        assert!(make());

        fs::write(folder.path().join("localhost.key"), "gone").unwrap();
        assert!(make());
        let other = tempfile::tempdir().unwrap();
        local_authority(&hosts(&["localhost"]), other.path(), NOW).unwrap();
        fs::copy(other.path().join("local-ca.pem"), folder.path().join("local-ca.pem")).unwrap();
        assert!(make());
        assert!(!make());
    }

    #[test]
    fn somebody_elses_certificate_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, _) = files(folder.path(), "localhost", &["localhost"]);
        let before = fs::read(&cert).unwrap();

        let error = local_authority(&hosts(&["localhost"]), folder.path(), NOW).unwrap_err();

        assert!(matches!(error, CertificateError::Foreign(_)), "{error}");
        assert_eq!(fs::read(&cert).unwrap(), before);
    }

    proptest! {
        #[test]
        fn nonsense_is_no_certificate(bytes in any::<Vec<u8>>()) {
            let _ = Facts::read(&bytes);
            let _ = alternative_names(&bytes);
        }

        #[test]
        fn a_damaged_certificate_is_read_or_refused(place in 0usize..400, byte: u8) {
            let made = issue(&names(&["localhost", "127.0.0.1"]), NOW).unwrap();
            let mut der = CertificateDer::from_pem_slice(made.leaf.as_bytes()).unwrap().to_vec();
            if let Some(target) = der.get_mut(place) {
                *target = byte;
            }
            let _ = Facts::read(&der);
        }
    }
}
