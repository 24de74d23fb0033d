//! TLS as it is offered to clients (R20): 1.3, and 1.2 with ECDHE and AEAD only; no early data; HTTP by ALPN or
//! nothing.
//!
//! In: a certificate resolver and settings. Out: one `rustls` configuration, held in a slot that a reload can fill anew
//! without touching a socket: connections take the configuration that is there when they arrive (R37).
//! A session is resumed only under the server name it was made for (rustls checks the name sealed in the ticket, R10),
//! and where certificates are asked for only under the settings it was made under: each have ticket keys of their own.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
};

use super::tickets::{HandedTickets, Tickets};
use crate::{
    acme::Challenges,
    certificate::CertificateResolver,
    mtls::{Asked, Group as AskedGroup, Possession},
};

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// A key-exchange group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// `X25519MLKEM768`: hybrid, safe against a later quantum computer. TLS 1.3 only.
    X25519MlKem768,
    /// `SecP256r1MLKEM768`: the same with P-256. TLS 1.3 only.
    Secp256r1MlKem768,
    /// `x25519`.
    X25519,
    /// `secp256r1`.
    Secp256r1,
    /// `secp384r1`.
    Secp384r1,
}

impl Group {
    /// The groups in the order that is used when nothing is set.
    pub const DEFAULT: [Self; 4] = [Self::X25519MlKem768, Self::X25519, Self::Secp256r1, Self::Secp384r1];

    /// By its name in configuration, in lower case: `x25519mlkem768`, `secp256r1mlkem768`, `x25519`, `secp256r1`,
    /// `secp384r1`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::X25519MlKem768, Self::Secp256r1MlKem768, Self::X25519, Self::Secp256r1, Self::Secp384r1]
            .into_iter()
            .find(|group| group.name() == name)
    }

    /// Its name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X25519MlKem768 => "x25519mlkem768",
            Self::Secp256r1MlKem768 => "secp256r1mlkem768",
            Self::X25519 => "x25519",
            Self::Secp256r1 => "secp256r1",
            Self::Secp384r1 => "secp384r1",
        }
    }

    const fn implementation(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519MlKem768 => aws_lc_rs::kx_group::X25519MLKEM768,
            Self::Secp256r1MlKem768 => aws_lc_rs::kx_group::SECP256R1MLKEM768,
            Self::X25519 => aws_lc_rs::kx_group::X25519,
            Self::Secp256r1 => aws_lc_rs::kx_group::SECP256R1,
            Self::Secp384r1 => aws_lc_rs::kx_group::SECP384R1,
        }
    }
}

/// How TLS is spoken, with everybody and, by server name, with those who are asked for a certificate.
#[derive(Debug)]
pub struct Spoken {
    min_version: MinVersion,
    groups: Box<[Group]>,
    plain: Settled,
    asked: Arc<Asked>,
    /// In the order of `asked`'s groups.
    asking: Box<[(AskedGroup, Settled)]>,
}

/// One configuration, and the keys of its tickets.
#[derive(Clone, Debug)]
struct Settled {
    config: Arc<ServerConfig>,
    tickets: Arc<Tickets>,
}

impl Spoken {
    /// `groups` in order of preference; empty: [`Group::DEFAULT`]. Of `earlier`, what would be the same stays, and with
    /// it the keys of tickets: with new ones, every client's next handshake is a full one.
    ///
    /// # Errors
    /// When no group fits `min_version` or the ticket keys cannot be made.
    pub fn new(
        resolver: &Arc<dyn ResolvesServerCert>,
        min_version: MinVersion,
        groups: &[Group],
        asked: Arc<Asked>,
        earlier: Option<&Self>,
    ) -> Result<Self, rustls::Error> {
        let groups: Box<[Group]> = if groups.is_empty() { Group::DEFAULT.into() } else { groups.into() };
        let earlier = earlier.filter(|earlier| (earlier.min_version, &earlier.groups) == (min_version, &groups));
        let plain = match earlier {
            Some(earlier) => earlier.plain.clone(),
            None => server_config(Arc::clone(resolver), min_version, &groups, None)?,
        };
        let mut asking = Vec::new();
        for wanted in asked.groups() {
            let known = earlier.and_then(|earlier| earlier.asking.iter().find(|(group, _)| group == wanted));
            let settled = match known {
                Some((_, settled)) => settled.clone(),
                None => server_config(Arc::clone(resolver), min_version, &groups, Some(wanted))?,
            };
            asking.push((wanted.clone(), settled));
        }
        Ok(Self { min_version, groups, plain, asked, asking: asking.into() })
    }

    /// Who is asked for a certificate.
    pub const fn asked(&self) -> &Arc<Asked> {
        &self.asked
    }

    /// The keys of all tickets, for the process that follows this one.
    pub fn hand_over_tickets(&self) -> Vec<HandedTickets> {
        self.tickets().map(|(settings, tickets)| tickets.hand_over(settings)).collect()
    }

    /// Goes on with the keys of the process before, where its settings were the same (R10).
    pub fn take_over_tickets(&self, handed: &[HandedTickets]) {
        for (settings, tickets) in self.tickets() {
            if let Some(handed) = handed.iter().find(|handed| handed.settings == settings) {
                tickets.take_over(handed);
            }
        }
    }

    /// With the settings that they are for, spelled out.
    fn tickets(&self) -> impl Iterator<Item = (String, &Tickets)> {
        let spoken = format!("{:?} {:?}", self.min_version, self.groups);
        let plain = (spoken.clone(), &*self.plain.tickets);
        let asking = self.asking.iter().map(move |(group, one)| (format!("{spoken} {group:?}"), &*one.tickets));
        std::iter::once(plain).chain(asking)
    }

    /// The configuration for everybody, if nobody is asked for a certificate.
    pub(crate) fn for_everybody(&self) -> Option<&Arc<ServerConfig>> {
        self.asking.is_empty().then_some(&self.plain.config)
    }

    /// The configuration for who asks for this name, and the word for its settings if a certificate is asked for.
    pub(crate) fn by_name(&self, server_name: Option<&str>) -> (&Arc<ServerConfig>, Option<&Arc<str>>) {
        let wanted = self.asked.on_connection(server_name);
        let asking = wanted.and_then(|wanted| self.asking.iter().find(|(group, _)| group.word == wanted.word));
        asking.map_or((&self.plain.config, None), |(group, settled)| (&settled.config, Some(&group.word)))
    }
}

fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    min_version: MinVersion,
    groups: &[Group],
    asked: Option<&AskedGroup>,
) -> Result<Settled, rustls::Error> {
    let provider = CryptoProvider {
        kx_groups: groups.iter().map(|group| group.implementation()).collect(),
        ..aws_lc_rs::default_provider()
    };
    let versions: &[&SupportedProtocolVersion] = match min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let verifier = match asked {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(group) => Arc::new(Possession::new(&group.hints)),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    let tickets = Arc::new(Tickets::new()?);
    config.ticketer = Arc::clone(&tickets) as _;
    // Tickets carry the state; a cache beside them would be memory and a lock for nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Each ticket costs a sealing and 250 bytes at the end of every handshake; resumptions bring new ones.
    config.send_tls13_tickets = 1;
    Ok(Settled { config: Arc::new(config), tickets })
}

/// The protocol name of HTTP/2 in ALPN.
pub(crate) const H2: &[u8] = b"h2";

/// How TLS is spoken with new connections. A reload stores something else; connections that stand keep theirs.
#[derive(Debug)]
pub struct TlsSlot {
    spoken: ArcSwap<Spoken>,
    ordered: Option<Ordered>,
}

/// What there is of certificates that are ordered from an authority.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// Proofs that hosts are ours.
    pub challenges: Arc<Challenges>,
    /// Which hosts have no certificate yet.
    pub resolver: Arc<CertificateResolver>,
}

impl Ordered {
    /// Whether client hellos must be looked at before it is known how they are answered.
    pub(crate) fn concerns_hellos(&self) -> bool {
        self.challenges.any() || self.resolver.awaits_any()
    }
}

impl TlsSlot {
    /// With what is spoken first.
    pub fn new(spoken: Spoken) -> Self {
        Self { spoken: ArcSwap::from_pointee(spoken), ordered: None }
    }

    /// Beside it, what there is of certificates that are ordered.
    #[must_use]
    pub fn ordering(self, ordered: Ordered) -> Self {
        Self { ordered: Some(ordered), ..self }
    }

    pub(crate) const fn ordered(&self) -> Option<&Ordered> {
        self.ordered.as_ref()
    }

    /// How a connection that arrives now is spoken with.
    pub fn current(&self) -> Arc<Spoken> {
        self.spoken.load_full()
    }

    /// Replaces it for all connections to come.
    pub fn replace(&self, spoken: Spoken) {
        self.spoken.store(Arc::new(spoken));
    }
}
