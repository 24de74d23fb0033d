//! `[[mtls.ca]]`: authorities for client certificates, and which hosts ask for one. A host asks if one of its routes
//! takes certificates, requires one or takes what is bound to one, or if `hosts` says so; all its routes share that, as
//! the handshake comes before the path (R10).

use std::{collections::BTreeMap, sync::Arc};

use super::{Build, source::realm_of};
use crate::{
    authn::jwt::Issuer,
    config::{
        decode::At,
        file::{self, File},
        place::Place,
        scalar::NonEmpty,
    },
    host::Host,
    mtls::{Asked, Ca, CaError, Description, Wanted},
    policy::{Access, ProofRule},
    route::Route,
    session::Bind,
};

impl Build<'_> {
    /// Every authority, in the order of the file.
    pub(super) fn authorities(&mut self, file: &File) -> Option<Vec<Arc<Ca>>> {
        let written = &file.mtls.0.as_ref()?.ca.0;
        self.unique("CA", written.iter().map(|at| (&*at.value.name.value.0, &at.value.name.place)));
        let binds = file.session.0.as_ref().and_then(|session| session.table.bind.as_ref());
        let binds = binds.filter(|at| at.value == Bind::Mtls).map(|at| &at.place);
        for place in written.first().map(|first| &first.place).into_iter().chain(binds) {
            self.wants_https(file, place);
        }
        let built: Vec<Option<Arc<Ca>>> = written.iter().map(|at| self.authority(&at.value)).collect();
        built.into_iter().collect()
    }

    /// Notes a problem where there is no connection on which a client could show a certificate.
    fn wants_https(&mut self, file: &File, place: &Place) {
        let listens = file.server.0.iter().flat_map(|server| &server.listen.value.0);
        if file.server.0.is_some() && !listens.into_iter().any(|listener| listener.value.is_encrypted()) {
            self.findings
                .problem(place, "client certificates without an https listener", "\"https://…\" in server.listen")
                .help("a proxy that takes the TLS off keeps the certificate; what it says of it is not believed")
                .depends(&["server"]);
        }
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

/// Which hosts ask for certificates, and of which authorities. Where tokens or sessions may be bound to a certificate,
/// any will do: the binding alone says whose it is, whoever has signed it (RFC 8705 section 2.2).
pub(super) fn asked(
    file: &File,
    routes: &[Arc<Route>],
    known_hosts: &[Host],
    authorities: &[Arc<Ca>],
    issuers: &[Issuer],
    bind: Bind,
) -> Arc<Asked> {
    let mut wanted: BTreeMap<Host, Wanted> = known_hosts.iter().map(|host| (host.clone(), Wanted::default())).collect();
    for (index, ca) in file.mtls.0.iter().flat_map(|mtls| &mtls.ca.0).enumerate() {
        for host in &ca.value.hosts {
            wanted.entry(host.value.clone()).or_default().authorities.insert(index);
        }
    }
    for route in routes {
        let Access::Authenticated(rule) = &route.access else { continue };
        let named = || rule.mtls.iter().chain(&rule.certificates).copied();
        let mut proofs = rule.issuers.iter().filter_map(|index| issuers.get(*index)).map(|issuer| issuer.proof);
        let any = rule.proof.takes_certificates()
            || proofs.any(ProofRule::takes_certificates)
            || (rule.session && bind == Bind::Mtls);
        let hosts = if route.hosts.is_empty() { known_hosts } else { &route.hosts };
        for host in hosts {
            let wanted = wanted.entry(host.clone()).or_default();
            wanted.authorities.extend(named());
            wanted.any |= any;
        }
    }
    Arc::new(Asked::new(wanted, authorities))
}
