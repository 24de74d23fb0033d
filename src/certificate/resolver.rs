//! Which certificate a connection is served with, by its server name (SNI, RFC 6066 section 3).
//!
//! In: certificates of files, certificates that are ordered for single hosts, and the hosts that such orders are made
//! for. Out: the one for a client hello; or that a name still waits for its first. Everything can be replaced while
//! connections come in. Invariants: a file's certificate wins over an ordered one for the same name, and an ordered one
//! counts for the host it was ordered for and for no other name in it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{Certificate, CertificateName, SOON};
use crate::{clock::Timestamp, host::Host};

/// Chooses the certificate for a connection: exact name, then wildcard, then the first of all. Of several for a name
/// the first counts whose key suits the client.
#[derive(Debug)]
pub struct CertificateResolver {
    table: ArcSwap<Table>,
    /// What the table was made of; whoever changes a part of it makes it anew.
    parts: Mutex<Parts>,
}

/// When a certificate ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expiry {
    /// Its first name, or the host that it was ordered for.
    pub name: String,
    /// Whether it was ordered, and is renewed by itself.
    pub ordered: bool,
    /// The end.
    pub until: Timestamp,
}

#[derive(Clone, Debug, Default)]
struct Parts {
    files: Vec<Certificate>,
    wanted: Vec<Host>,
    ordered: BTreeMap<Host, Certificate>,
}

#[derive(Debug)]
struct Table {
    /// Those of files, then ordered ones.
    all: Vec<Certificate>,
    /// Indexes into `all`, in its order.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Vec<usize>>,
    /// Hosts that wait for their first certificate.
    awaited: HashSet<Box<str>>,
    expiries: Vec<(Expiry, Timestamp)>,
}

impl CertificateResolver {
    /// Serves `certificates`; the first is for clients that name no host, or one that no certificate has. Without any
    /// certificate every handshake fails.
    pub fn new(certificates: Vec<Certificate>) -> Self {
        let parts = Parts { files: certificates, ..Parts::default() };
        Self { table: ArcSwap::from_pointee(Table::new(&parts)), parts: Mutex::new(parts) }
    }

    /// Serves other certificates of files from now on; connections that stand keep theirs.
    pub fn replace(&self, certificates: Vec<Certificate>) {
        self.change(|parts| parts.files = certificates);
    }

    /// For these hosts certificates are ordered. Ordered ones of other hosts are served no more.
    pub fn want(&self, hosts: &[Host]) {
        if self.parts().wanted == hosts {
            return;
        }
        self.change(|parts| {
            parts.wanted = hosts.to_vec();
            parts.ordered.retain(|host, _| hosts.contains(host));
        });
    }

    /// Serves this for `host` from now on, if it is wanted.
    pub fn put(&self, host: &Host, certificate: Certificate) {
        self.change(|parts| {
            if parts.wanted.contains(host) {
                parts.ordered.insert(host.clone(), certificate);
            }
        });
    }

    /// Those of `hosts` that no certificate of a file is good for.
    pub fn without_file(&self, hosts: &[Host]) -> Vec<Host> {
        let files = Table::new(&Parts { files: self.parts().files.clone(), ..Parts::default() });
        hosts.iter().filter(|host| files.find(host.as_str()).is_none()).cloned().collect()
    }

    /// Whether some host waits for its first certificate.
    pub fn awaits_any(&self) -> bool {
        !self.table.load().awaited.is_empty()
    }

    /// Whether this host waits for its first certificate, so that there is nothing to serve it with.
    pub fn awaits(&self, host: &str) -> bool {
        self.table.load().awaited.contains(host)
    }

    /// The end of each certificate, for a metric; of those with the same name the earliest.
    pub fn expiries(&self) -> Vec<Expiry> {
        let mut earliest = BTreeMap::<(String, bool), Expiry>::new();
        for (expiry, _) in &self.table.load().expiries {
            let known = earliest.entry((expiry.name.clone(), expiry.ordered)).or_insert_with(|| Expiry::clone(expiry));
            known.until = known.until.min(expiry.until);
        }
        earliest.into_values().collect()
    }

    /// Those that end soon, for a reminder: with less than two weeks left; of ordered ones, with less than a sixth of
    /// their life left if that is less, for they were to be renewed long before.
    pub fn ending_soon(&self, now: Timestamp) -> Vec<Expiry> {
        let is_soon = |(expiry, from): &&(Expiry, Timestamp)| {
            let soon = if expiry.ordered { SOON.min(expiry.until.since(*from) / 6) } else { SOON };
            now.plus(soon) > expiry.until
        };
        self.table.load().expiries.iter().filter(is_soon).map(|(expiry, _)| Expiry::clone(expiry)).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts();
        change(&mut parts);
        // Under the lock, so that of two changes the later one is in the table.
        self.table.store(Arc::new(Table::new(&parts)));
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose(&self, server_name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let suits = |c: &&Certificate| c.certified.key.choose_scheme(schemes).is_some();
        let named = server_name.and_then(|name| table.find(&name.to_ascii_lowercase())).unwrap_or_default();
        let named = || named.iter().filter_map(|index| table.all.get(*index));
        // A key that does not suit the client is better than another host's: the handshake then says what is wrong.
        let chosen = named().find(suits).or_else(|| named().next());
        let chosen = chosen.or_else(|| table.all.iter().find(suits)).or_else(|| table.all.first());
        chosen.map(|certificate| Arc::clone(&certificate.certified))
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

impl Table {
    fn new(parts: &Parts) -> Self {
        let mut exact = HashMap::<Box<str>, Vec<usize>>::new();
        let mut wildcards = HashMap::<Box<str>, Vec<usize>>::new();
        let mut all = parts.files.clone();
        let mut expiries = Vec::new();
        for (index, certificate) in all.iter().enumerate() {
            let name = certificate.names.first().map_or_else(String::new, ToString::to_string);
            expiries.push((Expiry { name, ordered: false, until: certificate.not_after }, certificate.not_before));
            for name in &*certificate.names {
                let CertificateName::Dns(name) = name else { continue };
                match name.strip_prefix("*.") {
                    Some(parent) => wildcards.entry(parent.into()).or_default().push(index),
                    None => exact.entry(name.clone()).or_default().push(index),
                }
            }
        }
        for (host, certificate) in &parts.ordered {
            let name = host.as_str().to_owned();
            expiries.push((Expiry { name, ordered: true, until: certificate.not_after }, certificate.not_before));
            exact.entry(host.as_str().into()).or_default().push(all.len());
            all.push(certificate.clone());
        }
        let mut table = Self { all, exact, wildcards, awaited: HashSet::new(), expiries };
        let without = parts.wanted.iter().map(Host::as_str).filter(|host| table.find(host).is_none());
        table.awaited = without.map(Into::into).collect();
        table
    }

    fn find(&self, name: &str) -> Option<&[usize]> {
        // A wildcard stands for exactly one label (RFC 6125 section 6.4.3).
        let wildcard = || self.wildcards.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_900_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    /// With its own key, valid for `days` from now.
    fn made(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm, days: u32) -> Certificate {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(NOW.unix_seconds());
        params.not_after = epoch + Duration::from_secs(NOW.plus(DAY * days).unix_seconds());
        let pair = KeyPair::generate_for(algorithm).unwrap();
        Certificate::from_pem(&params.self_signed(&pair).unwrap().pem(), &pair.serialize_pem()).unwrap()
    }

    fn ecdsa(names: &[&str]) -> Certificate {
        made(names, &rcgen::PKCS_ECDSA_P256_SHA256, 90)
    }

    fn hosts(names: &[&str]) -> Vec<Host> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn serves(resolver: &CertificateResolver, name: &str, expected: &Certificate) -> bool {
        let chosen = resolver.choose(Some(name), &[SignatureScheme::ECDSA_NISTP256_SHA256]);
        chosen.is_some_and(|chosen| Arc::ptr_eq(&chosen, &expected.certified))
    }

    #[test]
    fn the_exact_name_wins_over_the_wildcard_and_the_first_serves_the_rest() {
        let certificates =
            vec![ecdsa(&["default.example"]), ecdsa(&["*.example.com"]), ecdsa(&["www.example.com", "example.com"])];
        let expected: Vec<_> = certificates.iter().map(|c| Arc::clone(c.certified())).collect();
        let resolver = CertificateResolver::new(certificates);

        for (name, expect) in [
            (None, 0),
            (Some("default.example"), 0),
            (Some("WWW.example.com"), 2),
            (Some("example.com"), 2),
            (Some("api.example.com"), 1),
            (Some("a.b.example.com"), 0),
            (Some("elsewhere.example"), 0),
        ] {
            let chosen = resolver.choose(name, &[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
            assert!(Arc::ptr_eq(&chosen, &expected[expect]), "{name:?}");
        }
    }

    #[test]
    fn of_two_certificates_for_a_name_the_clients_key_type_decides() {
        let (ecdsa, ed25519) = (ecdsa(&["a.example"]), made(&["a.example"], &rcgen::PKCS_ED25519, 90));
        let resolver = CertificateResolver::new(vec![ecdsa.clone(), ed25519.clone()]);
        let choose = |schemes| resolver.choose(Some("a.example"), schemes).unwrap();

        assert!(Arc::ptr_eq(&choose(&[SignatureScheme::ED25519]), ed25519.certified()));
        assert!(Arc::ptr_eq(&choose(&[SignatureScheme::ECDSA_NISTP256_SHA256]), ecdsa.certified()));
        assert!(Arc::ptr_eq(&choose(&[SignatureScheme::RSA_PSS_SHA256]), ecdsa.certified()));
    }

    #[test]
    fn certificates_can_be_replaced() {
        let resolver = CertificateResolver::new(Vec::new());
        assert!(resolver.choose(None, &[]).is_none());

        let certificate = ecdsa(&["new.example"]);
        resolver.replace(vec![certificate.clone()]);

        assert!(serves(&resolver, "new.example", &certificate));
        let until = certificate.not_after();
        assert_eq!(resolver.expiries(), [Expiry { name: "new.example".to_owned(), ordered: false, until }]);
    }

    #[test]
    fn a_files_certificate_wins_over_an_ordered_one_for_the_same_name_only() {
        let (file, wild) = (ecdsa(&["a.example"]), ecdsa(&["*.example.com"]));
        let resolver = CertificateResolver::new(vec![file.clone(), wild.clone()]);
        resolver.want(&hosts(&["a.example", "b.example", "www.example.com"]));
        let ordered = ecdsa(&["a.example", "b.example", "www.example.com", "api.example.com"]);
        hosts(&["a.example", "b.example", "www.example.com"])
            .iter()
            .for_each(|host| resolver.put(host, ordered.clone()));

        assert!(serves(&resolver, "a.example", &file));
        assert!(serves(&resolver, "b.example", &ordered));
        assert!(serves(&resolver, "www.example.com", &ordered), "an exact name before a wildcard");
        assert!(serves(&resolver, "api.example.com", &wild), "it was not ordered for that name");
    }

    #[test]
    fn a_host_waits_until_it_has_a_certificate_and_reloads_of_files_keep_it() {
        let resolver = CertificateResolver::new(vec![ecdsa(&["*.example.com"])]);
        resolver.want(&hosts(&["a.example", "b.example", "www.example.com"]));
        assert!(resolver.awaits_any());
        let awaited = |name| resolver.awaits(name);
        assert_eq!(["a.example", "b.example", "www.example.com", "c.example"].map(awaited), [true, true, false, false]);

        let ordered = ecdsa(&["a.example"]);
        resolver.put(&hosts(&["a.example"])[0], ordered.clone());
        resolver.put(&hosts(&["c.example"])[0], ecdsa(&["c.example"]));
        resolver.replace(vec![ecdsa(&["b.example"])]);

        assert!(!resolver.awaits("a.example") && !resolver.awaits("b.example"));
        assert!(resolver.awaits("www.example.com"));
        assert!(serves(&resolver, "a.example", &ordered));
        assert!(!resolver.expiries().iter().any(|expiry| expiry.name == "c.example"), "nobody wanted it");
        resolver.want(&[]);
        assert!(!resolver.awaits_any());
        assert!(!serves(&resolver, "a.example", &ordered));
    }

    #[test]
    fn each_name_has_one_end_and_ordered_ones_are_reminded_of_after_their_renewal_only() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let resolver = CertificateResolver::new(vec![
            made(&["a.example"], p256, 90),
            made(&["a.example"], &rcgen::PKCS_ED25519, 10),
        ]);
        resolver.want(&hosts(&["b.example", "c.example"]));
        resolver.put(&hosts(&["b.example"])[0], made(&["b.example"], p256, 6));
        resolver.put(&hosts(&["c.example"])[0], made(&["c.example"], p256, 90));
        let named = |all: Vec<Expiry>| all.into_iter().map(|expiry| expiry.name).collect::<Vec<_>>();

        let ends: Vec<_> = resolver.expiries().into_iter().map(|expiry| expiry.until).collect();
        assert_eq!(ends, [10, 6, 90].map(|days| NOW.plus(DAY * days)));
        assert_eq!(named(resolver.ending_soon(NOW.plus(DAY / 2))), ["a.example"]);
        assert_eq!(named(resolver.ending_soon(NOW.plus(DAY * 5 + DAY / 2))), ["a.example", "b.example"]);
        assert_eq!(
            named(resolver.ending_soon(NOW.plus(DAY * 77))),
            ["a.example", "a.example", "b.example", "c.example"]
        );
    }
}
