//! `[tls.acme]`: certificates that are ordered from an authority, for hosts that the configuration names anyway (R10).
//!
//! In: the decoded table and the known hosts. Out: [`Settings`]. What cannot work is refused here: no listener that a
//! proof could be looked for on, no place to keep an account, a host that is not served, terms that were not agreed to.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::Build;
use crate::{
    acme::{ChallengeKind, Directory, ExternalAccount, Settings},
    config::{
        decode::At,
        file::{self, File},
        place::Place,
        report::did_you_mean,
    },
    host::Host,
    listener::Listener,
    secret::Secret,
};

impl Build<'_> {
    /// `[tls.acme]`; `Some(None)`: not written.
    pub(super) fn acme(&mut self, file: &File, known_hosts: &[Host]) -> Option<Option<Settings>> {
        let Some(At { value: acme, place }) = file.tls.0.as_ref()?.as_ref().and_then(|tls| tls.value.acme.as_ref())
        else {
            return Some(None);
        };
        let directory = acme.directory.as_ref().map(|at| at.value.clone());
        let directory = directory.or_else(|| Directory::new(Directory::LETS_ENCRYPT).ok())?;
        if directory.is_staging() {
            let place = acme.directory.as_ref().map_or(place, |at| &at.place);
            self.findings
                .unfit_for_production(place, "certificates of a directory for trying things out: browsers refuse them");
        }
        let challenges = self.challenges(file, acme, place);
        let server = file.server.0.as_ref()?;
        if server.table.state_dir.is_none() {
            self.findings
                .problem(place, "`acme` without `server.state_dir`", "where account and certificates are kept")
                .help("an authority issues a few certificates a week for a name: they must survive a restart");
            return None;
        }
        let agreed = match &acme.terms_agreed {
            Some(At { value: true, .. }) => true,
            Some(At { value: false, place }) => {
                self.not_agreed(place, &directory);
                false
            }
            None => {
                self.not_agreed(place, &directory);
                false
            }
        };
        let hosts = self.certified_hosts(acme, place, known_hosts);
        let contact = self.contact(acme);
        let external = self.external_account(acme);
        let proxy = self.outbound_proxy(file);
        let client = self.client_of(acme.ca.as_ref(), place, proxy.as_ref());
        let settings = Settings {
            directory,
            contact: contact?,
            hosts: hosts?,
            challenges: challenges?,
            client: client?,
            external_account: external?,
            key_type: acme.key_type.unwrap_or_default(),
            renew_before: acme.renew_before.as_ref().map(|at| at.value.0),
            retry: acme.retry.as_ref().map_or(Settings::RETRY, |at| at.value.0),
        };
        agreed.then_some(Some(settings))
    }

    fn not_agreed(&mut self, place: &Place, directory: &Directory) {
        self.findings
            .problem(place, "no agreement to the authority's terms", "terms_agreed = true")
            .help(format!("they are named in {directory}, under `termsOfService`"));
    }

    fn challenges(&mut self, file: &File, acme: &file::Acme, place: &Place) -> Option<Box<[ChallengeKind]>> {
        let server = &file.server.0.as_ref()?.table;
        let has = |wanted: fn(&Listener) -> bool| server.listen.value.0.iter().any(|listener| wanted(&listener.value));
        let has_tls = has(Listener::is_encrypted);
        let has_plain = server.redirect_http.is_some() || has(|listener| !listener.is_encrypted());
        let Some(written) = &acme.challenge else {
            if !has_tls {
                self.findings.problem(place, "`acme` without an https listener", "\"https://…\" in server.listen");
                return None;
            }
            return Some([ChallengeKind::TlsAlpn01].into());
        };
        let mut challenges = Vec::new();
        for At { value, place } in &written.0 {
            let (can, expected) = match value {
                ChallengeKind::TlsAlpn01 => (has_tls, "\"https://…\" in server.listen"),
                ChallengeKind::Http01 => (has_plain, "`server.redirect_http`, or a listener without TLS"),
            };
            if !can {
                self.findings.problem(place, format!("{} without its listener", value.name()), expected);
                return None;
            }
            if !challenges.contains(value) {
                challenges.push(*value);
            }
        }
        if challenges.is_empty() {
            self.findings.problem(place, "no challenge", "\"tls-alpn-01\", \"http-01\" or both");
            return None;
        }
        Some(challenges.into())
    }

    /// Those that are written, each of them served; or all that are served and can have one.
    fn certified_hosts(&mut self, acme: &file::Acme, place: &Place, known_hosts: &[Host]) -> Option<Box<[Host]>> {
        let Some(written) = &acme.hosts else {
            let fit = |host: &&Host| !host.is_address() && !host.is_loopback();
            let hosts: Box<[Host]> = known_hosts.iter().filter(fit).cloned().collect();
            if hosts.is_empty() && !known_hosts.is_empty() {
                let found = "no host that an authority could know";
                self.findings
                    .problem(place, found, "names in `server.hosts` or in routes")
                    .depends(&["server", "route"]);
                return None;
            }
            return Some(hosts);
        };
        let mut hosts = Vec::new();
        for At { value: host, place } in &written.value {
            if host.is_address() || host.is_loopback() {
                self.findings.problem(place, format!("`{}`", host.as_str()), "a name that the authority finds by DNS");
            } else if !known_hosts.contains(host) {
                let help = match did_you_mean(host.as_str(), known_hosts.iter().map(Host::as_str)) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => {
                        "a certificate adds no host (R10): write it into `server.hosts`, or into a route".to_owned()
                    }
                };
                self.findings
                    .problem(place, format!("the host `{}`, which is not served", host.as_str()), "a host that is")
                    .help(help)
                    .depends(&["server", "route"]);
            } else if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        if written.value.is_empty() {
            self.findings.problem(&written.place, "an empty list", "hosts, or no such key for all that are served");
        }
        Some(hosts.into())
    }

    fn contact(&mut self, acme: &file::Acme) -> Option<Box<[Box<str>]>> {
        let mut contact = Vec::new();
        for At { value, place } in &acme.contact {
            match value.0.strip_prefix("mailto:").unwrap_or(&value.0).split_once('@') {
                Some((local, domain)) if !local.is_empty() && domain.contains('.') => {
                    contact.push(format!("mailto:{local}@{domain}").into());
                }
                Some(_) | None => {
                    self.findings.problem(place, format!("`{}`", value.0), "an email address");
                    return None;
                }
            }
        }
        Some(contact.into())
    }

    fn external_account(&mut self, acme: &file::Acme) -> Option<Option<ExternalAccount>> {
        let Some(At { value: written, .. }) = &acme.external_account else {
            return Some(None);
        };
        let At { value: secret, place } = &written.key;
        if secret.0.generate.is_some() {
            let expected = "the key that the authority has given, as { file = \"…\" } or { env = \"…\" }";
            self.findings.problem(place, "a key that the authority does not know", expected);
            return None;
        }
        let text = self.secret(&secret.0, place)?.value;
        let bytes = text.expose();
        let bare = bytes.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
        match URL_SAFE_NO_PAD.decode(bytes.get(..bare).unwrap_or_default()) {
            Ok(key) if !key.is_empty() => {
                Some(Some(ExternalAccount { id: written.id.0.as_str().into(), key: Secret::new(key) }))
            }
            Ok(_) | Err(_) => {
                self.findings.problem(
                    place,
                    "a key that is no base64url (not repeated here)",
                    "the key as the authority shows it",
                );
                None
            }
        }
    }
}
