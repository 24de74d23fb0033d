//! What a client's certificate says of its holder (RFC 5280 section 4.1 and 4.2.1), and when a revocation list ends
//! (section 5.1.2.5).
//!
//! In: DER of anybody. Out: slices and texts of it, or `None` where it cannot be read with certainty. Read strictly: a
//! name that two readers could read differently is nobody's. Whether any of it is true is `webpki`'s matter.

use crate::{
    certificate::der::{
        BOOLEAN, DNS_NAME, Der, EXTENSIONS, INTEGER, ISSUER_UNIQUE_ID, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE,
        SUBJECT_ALTERNATIVE_NAME, SUBJECT_UNIQUE_ID, VERSION,
    },
    clock::Timestamp,
    host::Host,
};

/// One certificate.
#[derive(Debug)]
pub struct Leaf<'a> {
    /// The first second that counts.
    pub not_before: Timestamp,
    /// The last second that counts.
    pub not_after: Timestamp,
    /// The whole `SubjectPublicKeyInfo`.
    pub key: &'a [u8],
    /// Whether its key may sign, as the handshake asks of it (RFC 8446 section 4.4.2.2): `digitalSignature`, or no word
    /// of what it may do.
    pub may_sign: bool,
    serial: &'a [u8],
    subject: &'a [u8],
    alternatives: &'a [u8],
}

/// The names in a certificate, by kind.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Subjects {
    /// `CN`.
    pub common_names: Vec<String>,
    /// `O`.
    pub organizations: Vec<String>,
    /// `OU`.
    pub units: Vec<String>,
    /// Alternative names that are hosts, in their canonical form.
    pub hosts: Vec<String>,
    /// Alternative names that are email addresses.
    pub emails: Vec<String>,
    /// Alternative names that are URIs.
    pub uris: Vec<String>,
}

impl<'a> Leaf<'a> {
    /// Reads the DER of one; what stands behind it is not looked at. `None`: it cannot be read with certainty.
    pub fn read(certificate: &'a [u8]) -> Option<Self> {
        let mut certificate = Der(Der(certificate).take(SEQUENCE)?);
        let mut fields = Der(certificate.take(SEQUENCE)?);
        let _version = fields.take_if(VERSION);
        let serial = fields.take(INTEGER)?;
        let _algorithm = fields.take(SEQUENCE)?;
        let _issuer = fields.take(SEQUENCE)?;
        let mut validity = Der(fields.take(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject = fields.take(SEQUENCE)?;
        let before_key = fields.0;
        fields.take(SEQUENCE)?;
        let key = before_key.get(..before_key.len() - fields.0.len())?;
        let _issuer_id = fields.take_if(ISSUER_UNIQUE_ID);
        let _subject_id = fields.take_if(SUBJECT_UNIQUE_ID);
        let mut leaf = Self { not_before, not_after, key, may_sign: true, serial, subject, alternatives: &[] };
        if let Some(extensions) = fields.take_if(EXTENSIONS) {
            leaf.read_extensions(extensions)?;
        }
        Some(leaf)
    }

    fn read_extensions(&mut self, extensions: &'a [u8]) -> Option<()> {
        let mut extensions = Der(Der(extensions).take(SEQUENCE)?);
        while !extensions.is_empty() {
            let mut extension = Der(extensions.take(SEQUENCE)?);
            let id = extension.take(OBJECT_IDENTIFIER)?;
            let _critical = extension.take_if(BOOLEAN);
            let value = extension.take(OCTET_STRING)?;
            if id == SUBJECT_ALTERNATIVE_NAME {
                self.alternatives = Der(value).take(SEQUENCE)?;
            } else if id == KEY_USAGE {
                let (_unused, bits) = Der(value).take(BIT_STRING)?.split_first()?;
                self.may_sign = bits.first().is_some_and(|first| first & DIGITAL_SIGNATURE != 0);
            }
        }
        Some(())
    }

    /// Every name of a kind that can be a subject; `None` if one of them cannot be read with certainty.
    pub fn subjects(&self) -> Option<Subjects> {
        let mut subjects = Subjects::default();
        let mut sets = Der(self.subject);
        while !sets.is_empty() {
            let mut set = Der(sets.take(SET)?);
            while !set.is_empty() {
                let mut attribute = Der(set.take(SEQUENCE)?);
                let names = match attribute.take(OBJECT_IDENTIFIER)? {
                    COMMON_NAME => &mut subjects.common_names,
                    ORGANIZATION => &mut subjects.organizations,
                    UNIT => &mut subjects.units,
                    _ => continue,
                };
                names.push(directory_string(attribute.next()?)?);
            }
        }
        let mut names = Der(self.alternatives);
        while !names.is_empty() {
            match names.next()? {
                // A wildcard is no name of anybody, nor is what is no host.
                (DNS_NAME, name) => subjects.hosts.push(visible(name)?.parse::<Host>().ok()?.as_str().to_owned()),
                (EMAIL, name) => {
                    let email = visible(name)?;
                    let (local, domain) = email.rsplit_once('@')?;
                    if local.is_empty() || domain.is_empty() || local.contains('@') {
                        return None;
                    }
                    subjects.emails.push(email.to_owned());
                }
                (URI, name) => subjects.uris.push(visible(name).filter(|uri| uri.contains(':'))?.to_owned()),
                // Addresses, directory names and others name no subject here.
                _ => {}
            }
        }
        Some(subjects)
    }

    /// The serial number in hexadecimal digits, as `openssl x509 -serial` tells it, in lower case.
    pub fn serial_text(&self) -> String {
        let digits = self.serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(self.serial);
        digits.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// `nextUpdate` of a revocation list.
pub fn next_update(list: &[u8]) -> Option<Timestamp> {
    let mut fields = Der(Der(Der(list).take(SEQUENCE)?).take(SEQUENCE)?);
    let _version = fields.take_if(INTEGER);
    let _algorithm = fields.take(SEQUENCE)?;
    let _issuer = fields.take(SEQUENCE)?;
    let _this_update = fields.time()?;
    fields.time()
}

/// The kinds of strings that are one text to every reader (RFC 5280 section 4.1.2.4).
fn directory_string((tag, bytes): (u8, &[u8])) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    match tag {
        UTF8_STRING => Some(text.to_owned()),
        PRINTABLE_STRING | IA5_STRING | TELETEX_STRING => text.is_ascii().then(|| text.to_owned()),
        _ => None,
    }
}

/// Visible ASCII without blanks.
fn visible(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
}

const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const SET: u8 = 0x31;
const EMAIL: u8 = 0x81;
const URI: u8 = 0x86;
/// 2.5.29.15
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// The first bit.
const DIGITAL_SIGNATURE: u8 = 0x80;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.4.10
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
/// 2.5.4.11
const UNIT: &[u8] = &[0x55, 0x04, 0x0b];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyPair, KeyUsagePurpose,
        SanType,
    };

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn named(kind: DnType, value: DnValue) -> Option<Subjects> {
        let der = certificate(|params| params.distinguished_name.push(kind, value));
        Leaf::read(&der).unwrap().subjects()
    }

    fn alternative(name: SanType) -> Option<Subjects> {
        let der = certificate(|params| params.subject_alt_names.push(name));
        Leaf::read(&der).unwrap().subjects()
    }

    #[test]
    fn every_kind_of_name_is_found_in_its_place() {
        let der = certificate(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CommonName, "Robot Ä");
            name.push(DnType::OrganizationName, DnValue::PrintableString("Org".try_into().unwrap()));
            name.push(DnType::OrganizationalUnitName, DnValue::Ia5String("unit".try_into().unwrap()));
            name.push(DnType::CountryName, "DE");
            params.subject_alt_names = vec![
                SanType::DnsName("A.example".try_into().unwrap()),
                SanType::Rfc822Name("a@example.com".try_into().unwrap()),
                SanType::URI("spiffe://example/a".try_into().unwrap()),
                SanType::IpAddress("192.0.2.1".parse().unwrap()),
            ];
        });

        assert_eq!(
            Leaf::read(&der).unwrap().subjects(),
            Some(Subjects {
                common_names: vec!["Robot Ä".into()],
                organizations: vec!["Org".into()],
                units: vec!["unit".into()],
                hosts: vec!["a.example".into()],
                emails: vec!["a@example.com".into()],
                uris: vec!["spiffe://example/a".into()],
            })
        );
    }

    #[test]
    fn a_name_that_two_readers_could_read_differently_makes_no_subject() {
        let text = |text: &str| text.to_owned();
        assert!(named(DnType::CommonName, DnValue::Utf8String(text("a"))).is_some());
        let utf16 = DnValue::BmpString(rcgen::string::BmpString::try_from("a").unwrap());
        assert_eq!(named(DnType::CommonName, utf16), None);
        assert!(alternative(SanType::Rfc822Name("a@example.com".try_into().unwrap())).is_some());
        for email in ["a", "@example.com", "a@", "a@b@example.com", "a b@example.com", ""] {
            assert_eq!(alternative(SanType::Rfc822Name(email.try_into().unwrap())), None, "{email:?}");
        }
        for uri in ["no-scheme", "", "a: b"] {
            assert_eq!(alternative(SanType::URI(uri.try_into().unwrap())), None, "{uri:?}");
        }
        for host in ["*.example", "a b", ""] {
            assert_eq!(alternative(SanType::DnsName(host.try_into().unwrap())), None, "{host:?}");
        }
    }

    #[test]
    fn only_a_key_that_may_sign_may() {
        for (usages, expect) in [
            (vec![], true),
            (vec![KeyUsagePurpose::DigitalSignature], true),
            (vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement], true),
            (vec![KeyUsagePurpose::KeyAgreement], false),
            (vec![KeyUsagePurpose::KeyEncipherment], false),
        ] {
            let der = certificate(|params| params.key_usages.clone_from(&usages));
            assert_eq!(Leaf::read(&der).unwrap().may_sign, expect, "{usages:?}");
        }
    }

    #[test]
    fn dates_key_and_serial_are_those_of_the_certificate() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2060, 1, 1);
        params.serial_number = Some(vec![0xff, 0x01].into());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().to_vec();

        let leaf = Leaf::read(&der).unwrap();

        assert_eq!(leaf.not_before, Timestamp::from_unix_seconds(1_709_164_800));
        assert_eq!(leaf.not_after, Timestamp::from_unix_seconds(2_840_140_800));
        assert_eq!(leaf.serial_text(), "ff01");
        assert_eq!(leaf.key, rcgen::PublicKeyData::subject_public_key_info(&key));
    }

    proptest! {
        /// What is read of bytes that were tampered with is read without harm, and is a part of them.
        #[test]
        fn whatever_bytes_come_are_read_or_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
            keep_length: bool,
        ) {
            let mut der = certificate(|params| {
                params.distinguished_name.push(DnType::CommonName, "a");
                params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())];
            });
            for (place, byte) in changes {
                let place = place.index(der.len());
                der[place] = byte;
            }
            if !keep_length {
                der.truncate(cut.index(der.len()));
            }
            if let Some(leaf) = Leaf::read(&der) {
                let _ = leaf.subjects();
                prop_assert!(der.windows(leaf.key.len()).any(|window| window == leaf.key));
            }
            let _ = next_update(&der);
        }
    }
}
