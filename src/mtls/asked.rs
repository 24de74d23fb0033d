//! Who is asked for a certificate in the handshake: by the name that the client asks for (R10).
//!
//! In: hosts, and the authorities that their routes name, or that any certificate will do. Out: for a server name, the
//! one set of TLS settings that it belongs to. A connection keeps the word for its settings; a request for a host of
//! other settings is refused on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Ca;
use crate::host::Host;

/// Who is asked. Without any host in it, nobody is, and it costs nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Asked {
    groups: Vec<Group>,
    /// Indexes into `groups`. Hosts that are addresses are all in one: clients name none of them in SNI.
    by_host: BTreeMap<Host, usize>,
    addresses: Option<usize>,
}

/// What a host asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// Certificates of these authorities, by their index.
    pub authorities: BTreeSet<usize>,
    /// Whatever certificate a client has, also one that it has signed itself: clients get no hints.
    pub any: bool,
}

/// Hosts with the same settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// The word for these settings: the authorities' names, and `*` where any certificate will do.
    pub word: Arc<str>,
    /// What clients are told to choose a certificate by: distinguished names, each the inside of a sequence.
    pub hints: Vec<Box<[u8]>>,
}

impl Wanted {
    fn is_nothing(&self) -> bool {
        self.authorities.is_empty() && !self.any
    }
}

impl Asked {
    /// Asks for certificates, by host. A host that wants none is not asked.
    pub fn new(hosts: impl IntoIterator<Item = (Host, Wanted)>, authorities: &[Arc<Ca>]) -> Self {
        let mut asked = Self::default();
        let mut of_addresses = Wanted::default();
        let (mut addresses, mut names) = (Vec::new(), Vec::new());
        for (host, wanted) in hosts {
            if host.is_address() {
                of_addresses.authorities.extend(wanted.authorities);
                of_addresses.any |= wanted.any;
                addresses.push(host);
            } else if !wanted.is_nothing() {
                names.push((host, wanted));
            }
        }
        if !of_addresses.is_nothing() {
            let group = asked.group(&of_addresses, authorities);
            asked.addresses = Some(group);
            asked.by_host.extend(addresses.into_iter().map(|host| (host, group)));
        }
        for (host, wanted) in names {
            let group = asked.group(&wanted, authorities);
            asked.by_host.insert(host, group);
        }
        asked
    }

    fn group(&mut self, wanted: &Wanted, authorities: &[Arc<Ca>]) -> usize {
        let of = || wanted.authorities.iter().filter_map(|index| authorities.get(*index));
        let any = wanted.any.then_some("*");
        let names: Vec<&str> = of().map(|authority| &**authority.name()).chain(any).collect();
        let word: Arc<str> = names.join(",").into();
        if let Some(known) = self.groups.iter().position(|group| group.word == word) {
            return known;
        }
        let hints = of().filter(|_| !wanted.any).flat_map(|authority| authority.hints());
        let hints: BTreeSet<Box<[u8]>> = hints.map(Into::into).collect();
        let hints = hints.into_iter().collect();
        self.groups.push(Group { word, hints });
        self.groups.len() - 1
    }

    /// Whether nobody is asked.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// All settings.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The settings of a connection, by the server name that its client asked for.
    pub fn on_connection(&self, server_name: Option<&str>) -> Option<&Group> {
        let index = match server_name {
            Some(name) => *self.by_host.get(name)?,
            None => self.addresses?,
        };
        self.groups.get(index)
    }

    /// The word for the settings of a host.
    pub fn of_host(&self, host: &Host) -> Option<&Arc<str>> {
        self.by_host.get(host).and_then(|index| self.groups.get(*index)).map(|group| &group.word)
    }
}
