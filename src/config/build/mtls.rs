//! `[[mtls.ca]]`: authorities for client certificates, and which hosts ask for one. A host asks if one of its routes
//! takes certificates or requires one, or if `hosts` says so; all its routes share that, as the handshake comes before the path (R10).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Build, source::realm_of};
use crate::{
    config::{
        decode::At,
        file::{self, File},
        place::Place,
        scalar::NonEmpty,
    },
    host::Host,
    mtls::{Asked, Ca, CaError, Description},
    policy::Access,
    route::Route,
};

impl Build<'_> {
    /// Every authority, in the order of the file.
    pub(super) fn authorities(&mut self, file: &File) -> Option<Vec<Arc<Ca>>> {
        let written = &file.mtls.0.as_ref()?.ca.0;
        self.unique("CA", written.iter().map(|at| (&*at.value.name.value.0, &at.value.name.place)));
        let listens = file.server.0.iter().flat_map(|server| &server.listen.value.0);
        if let Some(first) = written.first()
            && file.server.0.is_some()
            && !listens.into_iter().any(|listener| listener.value.is_encrypted())
        {
            self.findings
                .problem(
                    &first.place,
                    "client certificates without an https listener",
                    "\"https://…\" in server.listen",
                )
                .help("a proxy that takes the TLS off keeps the certificate; what it says of it is not believed")
                .depends(&["server"]);
        }
        let built: Vec<Option<Arc<Ca>>> = written.iter().map(|at| self.authority(&at.value)).collect();
        built.into_iter().collect()
    }

    fn authority(&mut self, ca: &file::MtlsCa) -> Option<Arc<Ca>> {
        let At { value: path, place } = &ca.file;
        let anchors = self.file(&place.resolve(&path.0), place, "certificate authorities in PEM");
        let lists: Vec<(&Place, Option<Vec<u8>>)> = ca
            .crl
            .iter()
            .flat_map(|lists| &lists.0)
            .map(|At { value, place }| {
                (place, self.file(&place.resolve(&value.0), place, "a revocation list in PEM or DER"))
            })
            .collect();
        let places: Vec<&Place> = lists.iter().map(|(place, _)| *place).collect();
        let texts = |texts: &[NonEmpty]| texts.iter().map(|text| text.0.clone()).collect();
        let description = Description {
            name: ca.name.value.0.as_str().into(),
            realm: realm_of(&ca.name.value, ca.realm.as_ref()),
            anchors: anchors?,
            revoked: lists.into_iter().map(|(_, list)| list).collect::<Option<_>>()?,
            subject: ca.subject,
            roles: texts(&ca.roles),
            groups: texts(&ca.groups),
            scopes: texts(&ca.scopes),
            trust_email: ca.trust_email.unwrap_or(false),
        };
        Ca::new(description)
            .map_err(|error| {
                let (place, expected) = match error {
                    CaError::BadCertificate | CaError::NoCertificate => (place, "certificate authorities in PEM"),
                    CaError::BadList(number) => {
                        (places.get(number).copied().unwrap_or(place), "a revocation list in PEM or DER")
                    }
                };
                self.findings.problem(place, error.to_string(), expected);
            })
            .ok()
            .map(Arc::new)
    }
}

/// Which hosts ask for certificates of which authorities.
pub(super) fn asked(file: &File, routes: &[Arc<Route>], known_hosts: &[Host], authorities: &[Arc<Ca>]) -> Arc<Asked> {
    if authorities.is_empty() {
        return Arc::default();
    }
    let mut wanted: BTreeMap<Host, BTreeSet<usize>> =
        known_hosts.iter().map(|host| (host.clone(), BTreeSet::new())).collect();
    for (index, ca) in file.mtls.0.iter().flat_map(|mtls| &mtls.ca.0).enumerate() {
        for host in &ca.value.hosts {
            wanted.entry(host.value.clone()).or_default().insert(index);
        }
    }
    for route in routes {
        let Access::Authenticated(rule) = &route.access else { continue };
        let named = || rule.mtls.iter().chain(&rule.certificates).copied();
        let hosts = if route.hosts.is_empty() { known_hosts } else { &route.hosts };
        for host in hosts {
            wanted.entry(host.clone()).or_default().extend(named());
        }
    }
    Arc::new(Asked::new(wanted, authorities))
}
